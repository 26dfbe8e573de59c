"""Which heads carry one more query term: activation patching over diagnostic pairs, and how well gradients foretell it.

python analyses/patching.py --model demo --collection demo --axiom TFC1 --pairs 64 --out results
python analyses/patching.py --site resid_pre --by part
python analyses/patching.py --receiver 4.3.v

Writes `patching_<site>.csv` (every pair under every patch) and `patching_<site>_summary.csv` (means, bootstrap intervals, paired
tests with Holm's correction), and prints the strongest patches, the layers run, the time, and the correlation of attribution
patching with exact patching. With `--receiver`, the direct paths from every head to that input of a head (or to "score").
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from tl_crossenc.attribution import agreement, attribution_patch
from tl_crossenc.collections import load_collection
from tl_crossenc.counterfactuals import AlignedPairs
from tl_crossenc.cross_encoder import HookedCrossEncoder
from tl_crossenc.diagnostics import AXIOMS, FORMS, diagnose
from tl_crossenc.outputs import write_frame
from tl_crossenc.patching import PatchResult, activation_patch
from tl_crossenc.patching_result import MEASURES
from tl_crossenc.path_patching import path_patch
from tl_crossenc.pools import Pool, build_pool
from tl_crossenc.terminal import progress_bar


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--collection", default="demo")
    parser.add_argument("--axiom", choices=AXIOMS, default="TFC1")
    parser.add_argument("--form", choices=FORMS, default="append")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--site", default="z")
    parser.add_argument("--by")
    parser.add_argument("--direction")
    parser.add_argument("--mode", default="denoise")
    parser.add_argument("--receiver")
    parser.add_argument("--measure", choices=MEASURES, default="difference")
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    console = Console()
    model = HookedCrossEncoder.from_pretrained(arguments.model, device=arguments.device)
    pool = build_pool(load_collection(arguments.collection)).ranked
    pairs = AlignedPairs.concatenate(list(diagnosed(model, pool, arguments.axiom, arguments.form, arguments.pairs)))
    start = time.perf_counter()
    with progress_bar(console, "patching") as progress:
        settings = {"mode": arguments.mode, "progress": progress}
        if arguments.receiver:
            found = path_patch(model, pairs.clean, pairs.corrupted, arguments.receiver, **settings)
        else:
            settings |= {"by": arguments.by, "direction": arguments.direction}
            found = activation_patch(model, pairs.clean, pairs.corrupted, arguments.site, **settings)
    seconds = time.perf_counter() - start
    summary = found.summary(arguments.measure)
    name = "patching_" + found.site.replace(" -> ", "_to_")
    write_frame(arguments.out / f"{name}.csv", found.to_frame(), index=False)
    write_frame(arguments.out / f"{name}_summary.csv", summary, index=False)
    strongest = summary.reindex(summary["mean"].abs().sort_values(ascending=False, kind="stable").index).head(10)
    console.print(strongest.round(3).to_string(index=False))
    share = found.layers_run / found.layers_plain
    console.print(
        f"{found}: {seconds:.1f} s, {found.layers_run:,.0f} of {found.layers_plain:,.0f} layers ({share:.0%})"
    )
    if not arguments.receiver and not arguments.direction:
        compare_with_gradients(console, model, pairs, found)


def diagnosed(model: HookedCrossEncoder, pool: Pool, axiom: str, form: str, count: int) -> Iterator[AlignedPairs]:
    """Diagnostic pairs from the first passages of the pool that allow one."""
    found, refused = 0, ""
    for pair in pool.pairs:
        try:
            pairs = diagnose(model, axiom, pair.query, pair.text, form=form, idf=pool if axiom == "TDC" else None)
        except ValueError as error:
            refused = str(error)
            continue
        found += 1
        yield pairs
        if found == count:
            return
    if not found:
        raise SystemExit(f"no passage of {pool.collection} makes a pair of {axiom}: {refused}")


def compare_with_gradients(
    console: Console, model: HookedCrossEncoder, pairs: AlignedPairs, found: PatchResult
) -> None:
    """Print how well attribution patching follows exact patching."""
    start = time.perf_counter()
    sites = {found.site: found.by}
    estimated = attribution_patch(model, pairs.clean, pairs.corrupted, sites, mode=found.mode)[found.site]
    fit = agreement(estimated, found)
    console.print(
        f"attribution patching: {time.perf_counter() - start:.1f} s, Pearson r {fit.pearson:.3f}, Spearman rho "
        f"{fit.spearman:.3f} over {fit.n:,} patches"
    )


if __name__ == "__main__":
    main()
