"""Figure 1a, six directions removed in layers 0..l for every l, against the plain loop over conditions.

python benchmarks/figure1a.py --collection FOLDER --tl39-env CACHE/tl39 --shape minilm base
"""

from __future__ import annotations

from collections.abc import Sequence

import jobs

from tl_crossenc.experiments.layers import FIGURE_1A, sweep_conditions


def main(argv: Sequence[str] | None = None) -> None:
    jobs.run(
        argv,
        __doc__,
        pairs=32,
        name="Figure 1a",
        chosen_of=lambda n_layers: [
            (direction, range(layer + 1), condition)
            for (direction, layer), condition in sweep_conditions(FIGURE_1A, n_layers).items()
        ],
        doc_of_conditions="6 directions x layers 0..l for every l, and none",
        targets=(2.0, 8.0),
    )


if __name__ == "__main__":
    main()
