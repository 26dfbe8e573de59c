"""Table 1, 36 directions removed everywhere and the unablated model, against the plain loop over conditions.

python benchmarks/table1.py --collection FOLDER --tl39-env CACHE/tl39
"""

from __future__ import annotations

from collections.abc import Sequence

import jobs

from tl_crossenc.experiments.table1 import table1_conditions


def main(argv: Sequence[str] | None = None) -> None:
    jobs.run(
        argv,
        __doc__,
        pairs=32,
        name="Table 1",
        chosen_of=lambda n_layers: [
            (direction, None, condition) for direction, condition in table1_conditions().items()
        ],
        doc_of_conditions="36 directions and none",
        targets=(None, None),
    )


if __name__ == "__main__":
    main()
