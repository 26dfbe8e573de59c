"""What each idea buys: the same work with one idea turned off.

python benchmarks/ideas.py --collection FOLDER
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from common import batches, in_order, interleave, parse, parser, print_timings, replaced, sample, subjects

from tl_crossenc.experiments.layers import FIGURE_1A, sweep_conditions
from tl_crossenc.experiments.table1 import table1_conditions
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model import attention, attention_layer, fused_attention
from tl_crossenc.model.block import BertBlock
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.model.hooked_encoder import HookedEncoder

BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)


@contextmanager
def every_row_in_the_last_layer() -> Iterator[None]:
    """The last layer is run whole."""
    with replaced(BertBlock, "reads_only_first_row", lambda self: False):
        yield


@contextmanager
def keys_and_values_in_the_last_layer() -> Iterator[None]:
    """CLS alone in the last layer, but keys and values of all positions."""
    with replaced(attention_layer, "has_hooks", lambda module, but=(): not but):
        yield


@contextmanager
def rows_attend_again() -> Iterator[None]:
    """Edited rows attend once more, however many they are."""
    with replaced(fused_attention, "MOST_ROWS", 2.0):
        yield


@contextmanager
def no_rerun_of_edited_rows() -> Iterator[None]:
    """A first edit runs all of its layer's rows."""
    shared = HookedEncoder.run_branches

    def run(self, *args, from_unedited=False, **kwargs):
        return shared(self, *args, from_unedited=False, **kwargs)

    with replaced(HookedEncoder, "run_branches", run):
        yield


@contextmanager
def no_shared_projections() -> Iterator[None]:
    """Every branch projects queries, keys and values itself (and so runs all rows)."""

    def run(self, layer, resid, given, branches, *, only_cls=False, from_unedited=False):
        for edits in branches:
            yield self.run_layer(layer, resid, given, edits, only_cls=only_cls)

    with replaced(HookedEncoder, "run_branches", run):
        yield


@contextmanager
def patterns_built() -> Iterator[None]:
    """No fused attention: scores and pattern are computed in the open."""

    def openly(q, k, v, given, edits=None, first_row=0, **terms):
        if first_row:
            raise RuntimeError("turn the rerun of edited rows off as well")
        pattern = attention.explicit_pattern(attention.explicit_scores(q, k, given, edits, **terms), given, edits)
        return (pattern @ v.transpose(1, 2)).transpose(1, 2)

    with replaced(attention_layer, "fused_attention", openly):
        yield


def without(*ideas: Callable[[], object], work: Callable[[], object]) -> Callable[[], None]:
    """`work` with some ideas turned off."""

    def run() -> None:
        with ExitStack() as stack:
            for idea in ideas:
                stack.enter_context(idea())
            work()

    return run


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=192)
    options.add_argument("--one-pass", action="store_true", help="leave the whole jobs out")
    given = parse(options, argv)
    for tested, pairs in subjects(given):
        one_forward(tested.shape, tested.model, pairs, given)
        if not given.one_pass:
            whole_jobs(tested.shape, tested.model, sample(pairs, max(given.pairs // 12, 4)), given)


def one_forward(shape: str, model, pairs, given) -> None:
    sorted_batches, unsorted = batches(pairs, given.token_budget), in_order(pairs)

    def forward(over=sorted_batches) -> None:
        for batch in over:
            model(batch)

    def ablated() -> None:
        with model.ablating("DOC->QUERY"):
            forward()

    jobs = {
        "all ideas": forward,
        "keys and values of all in the last layer": without(keys_and_values_in_the_last_layer, work=forward),
        "last layer whole": without(every_row_in_the_last_layer, work=forward),
        "batches of 32 in the order given": lambda: forward(unsorted),
        "patterns built": without(patterns_built, work=forward),
        "DOC->QUERY removed, all ideas": ablated,
        "DOC->QUERY removed, rows attend again": without(rows_attend_again, work=ablated),
        "DOC->QUERY removed, patterns built": without(patterns_built, work=ablated),
    }
    print_timings(f"{shape}, {len(pairs)} pairs, one pass", interleave(jobs, given.rounds), "all ideas")

    def at(budget: int) -> Callable[[], None]:
        over = batches(pairs, budget)
        return lambda: forward(over)

    chosen = BUDGETS[:2] if given.smoke else BUDGETS
    timings = interleave({f"budget {budget}": at(budget) for budget in chosen}, given.rounds)
    print_timings(
        f"{shape}, {len(pairs)} pairs, one pass, by token budget",
        timings,
        f"budget {2048 if 2048 in chosen else chosen[0]}",
    )


def whole_jobs(shape: str, model, pairs, given) -> None:
    sweep = [UNABLATED, *sweep_conditions(FIGURE_1A, model.cfg.n_layers).values()]
    table = [UNABLATED, *table1_conditions().values()]
    for name, conditions in (("Figure 1a", sweep), ("Table 1", table)):

        def tree(conditions: Sequence[Condition] = conditions) -> np.ndarray:
            return run_conditions(model, pairs, conditions, token_budget=given.token_budget).values

        def loop(conditions: Sequence[Condition] = conditions) -> np.ndarray:
            return np.concatenate([tree([condition]) for condition in conditions])

        jobs = {
            "all ideas": without(work=tree),
            "edited rows not alone": without(no_rerun_of_edited_rows, work=tree),
            "nor shared projections": without(no_shared_projections, work=tree),
            "nor shared prefixes": without(no_shared_projections, work=loop),
            "nor CLS alone in the last layer": without(no_shared_projections, every_row_in_the_last_layer, work=loop),
            "nor fused attention": without(
                no_shared_projections, every_row_in_the_last_layer, patterns_built, work=loop
            ),
        }
        timings = interleave(jobs, given.rounds)
        title = (
            f"{shape}, {name}: {len(conditions)} conditions x {len(pairs)} pairs, ideas taken away one after another"
        )
        print_timings(title, timings, "all ideas")
        with no_shared_projections(), every_row_in_the_last_layer(), patterns_built():
            slow = loop()
        print(f"\nlargest difference of scores, all ideas against none: {np.abs(tree() - slow).max():.1e}")


if __name__ == "__main__":
    main()
