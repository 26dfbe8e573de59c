"""Which heads carry one more query term: activation patching over diagnostic pairs, and how well gradients foretell it.

python analyses/patching.py --model demo --collection demo --axiom TFC1 --pairs 64
python analyses/patching.py --site resid_pre --by part
python analyses/patching.py --receiver 4.3.v

Writes `tables/patching_<site>.csv` (every pair under every patch) and `tables/patching_<site>_summary.csv` (means, bootstrap
intervals, paired tests with Holm's correction), and prints the strongest patches, the layers run, the time, and the correlation
of attribution patching with exact patching. With `--receiver`, the direct paths from every head to that input of a head (or to
"score").
"""

import argparse
import time
from collections.abc import Iterator, Sequence

from common import run, write_table
from rich.console import Console

from tl_crossenc.cli.patch import of_the_patch, patch_options
from tl_crossenc.experiments.patch_pairs import PatchedPairs, PatchSettings, gradient_agreement, patch_pairs
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.counterfactuals import AlignedPairs
from tl_crossenc.patching.diagnostics import AXIOMS, FORMS, diagnose
from tl_crossenc.pools.pool import Pool
from tl_crossenc.report.terminal import progress_bar
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--axiom", choices=AXIOMS, default="TFC1")
    options.add_argument("--form", choices=FORMS, default="append")
    options.add_argument("--pairs", type=int, default=64)
    patch_options(options)


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    console = Console()
    settings = PatchSettings(**of_the_patch(given))
    ranked = [pool.ranked for pool in pools]
    pairs = AlignedPairs.concatenate(list(diagnosed(model, ranked, given.axiom, given.form, given.pairs)))
    start = time.perf_counter()
    with progress_bar(console, "patching") as progress:
        patched = patch_pairs(model, pairs, settings, progress=progress)
    seconds, found = time.perf_counter() - start, patched.result
    write_table(given, f"{patched.name}.csv", found.to_frame(), index=False)
    write_table(given, f"{patched.name}_summary.csv", patched.summary, index=False)
    console.print(patched.strongest.round(3).to_string(index=False))
    share = found.layers_run / found.layers_plain
    console.print(
        f"{found}: {seconds:.1f} s, {found.layers_run:,.0f} of {found.layers_plain:,.0f} layers ({share:.0%})",
        soft_wrap=True,
    )
    if settings.method == "exact" and not given.receiver and not given.direction:
        compare_with_gradients(console, model, patched)


def diagnosed(
    model: HookedCrossEncoder, pools: Sequence[Pool], axiom: str, form: str, count: int
) -> Iterator[AlignedPairs]:
    """Diagnostic pairs from the first passages of the pools that allow one.

    Raises:
        ValueError: none does.
    """
    found, refused = 0, ""
    for pool in pools:
        for pair in pool.pairs:
            try:
                pairs = diagnose(model, axiom, pair.query, pair.text, form=form, idf=pool if axiom == "TDC" else None)
            except ValueError as error:
                refused = str(error)
                continue
            yield pairs
            found += 1
            if found == count:
                return
    if not found:
        names = ", ".join(pool.collection for pool in pools)
        raise ValueError(f"expected a passage of {names} that makes a pair of {axiom}, found none: {refused}")


def compare_with_gradients(console: Console, model: HookedCrossEncoder, patched: PatchedPairs) -> None:
    """Print how well attribution patching follows exact patching."""
    start = time.perf_counter()
    fit = gradient_agreement(model, patched)
    console.print(
        f"attribution patching: {time.perf_counter() - start:.1f} s, Pearson r {fit.pearson:.3f}, Spearman rho "
        f"{fit.spearman:.3f} over {fit.n:,} patches",
        soft_wrap=True,
    )


if __name__ == "__main__":
    run(main, __doc__, add_options)
