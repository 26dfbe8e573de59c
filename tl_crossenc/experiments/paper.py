"""All of the paper's artefacts beyond Table 1, and the head ablation that it lacks, one after another.

What cannot be made on a pool (no easy negatives, one query only, a grade that is missing) is its `Unavailable`; the rest is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.executors.task import CellsFailed, Waiting
from tl_crossenc.experiments.attention import Attention, run_attention
from tl_crossenc.experiments.beyond import METHODS, Bench, check_methods, usual_methods
from tl_crossenc.experiments.head_ablation import LEAST_DRAWS, HeadAblation, run_head_ablation
from tl_crossenc.experiments.head_folds import run_head_folds
from tl_crossenc.experiments.layers import FIGURE_1A, Span, run_layer_sweep
from tl_crossenc.experiments.match_distributions import match_groups, run_match_distributions
from tl_crossenc.experiments.matching import QUANTITY, matching_heads, ranked_heads
from tl_crossenc.experiments.matching_counts import matching_counts
from tl_crossenc.experiments.qk_alignment import run_qk_alignment
from tl_crossenc.experiments.sinks import measure_sinks
from tl_crossenc.interventions.conditions import Mode
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.untrained import untrained_twin
from tl_crossenc.pools.grades import check_sides
from tl_crossenc.pools.pool import Pool
from tl_crossenc.pools.spec import EASY_NEGATIVE
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

ProgressFactory = Callable[[str], AbstractContextManager[Progress]]
LayerHead = tuple[int, int]
ONE_BY_ONE = 144
"""Heads up to which the distributions of attention weights are kept head by head; of larger models, the best-ranked ones."""
BEST = 24
DRAWN_COUNTS = 2
"""Of the counts of heads removed, those that are compared with random draws: the largest ones, where there is most to see."""
TRAINED, UNTRAINED = "model", "untrained"
"""The model and its untrained twin in the table of counts."""


@dataclass(frozen=True)
class PaperOptions:
    """What of the paper's experiments can be chosen.

    Attributes:
        directions: of Figure 1a.
        span: of Figure 1a: "up_to" each layer (the paper's), "from" each layer on, or each layer "only".
        heads: to be ablated, best first; None for those that Figure 1b ranks highest.
        counts: how many of them.
        relevant_grades: of the passages that Figures 1b and 1c call relevant; None for the upper half of the collections' scale.
        against: grades that Figure 1b compares them with: -1 easy negatives, 0 hard ones.
        quantity: of Figure 1b, "mass", "density" or "excess".
        control: measure Figure 1b in the model's untrained twin as well: attention once more over the pools.
        n_draws: random sets of heads, for the two largest counts.
        draw_queries: queries that those are scored on, drawn at random; None for all.
        seed: of those draws, of the twin's weights, of permutations and of samples.
        methods: beyond the paper, by key (`beyond.METHODS`); None for those that a plain run takes.
        sampled: let those methods take samples, as suits a run of minutes; else all passages.

    Raises:
        ValueError: no grades on a side of Figure 1b, or a grade on both; or no such method.
    """

    directions: tuple[Direction, ...] = FIGURE_1A
    span: Span = "up_to"
    heads: tuple[LayerHead, ...] | None = None
    counts: tuple[int, ...] = (1, 2, 4, 8)
    relevant_grades: tuple[int, ...] | None = None
    against: tuple[int, ...] = (EASY_NEGATIVE,)
    quantity: str = QUANTITY
    control: bool = True
    n_draws: int = LEAST_DRAWS
    draw_queries: int | None = 12
    seed: int = 0
    methods: tuple[str, ...] | None = None
    sampled: bool = True

    def __post_init__(self) -> None:
        check_methods(self.methods or ())
        if self.relevant_grades is not None:
            check_sides(self.relevant_grades, self.against)


def no_progress(what: str) -> AbstractContextManager[Progress]:
    """Progress that nobody watches."""
    return nullcontext(lambda done, total: None)


def run_paper(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    options: PaperOptions | None = None,
    mode: Mode = "zero",
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: ProgressFactory = no_progress,
) -> dict[str, Any]:
    """Results, or the `Unavailable` that stands for one, under the keys of `artefacts.ARTEFACTS`.

    Cells that cannot be computed (`CellsFailed`), or that other processes compute (`Waiting`), keep no other experiment from being
    run, but for those that need what they are of.
    """
    chosen = options or PaperOptions()
    results: dict[str, Any] = {}
    measuring: dict[str, Any] = {"token_budget": token_budget, "executor": executor}
    ranking: dict[str, Any] = {"mode": mode, "cutoff": cutoff, "gain": gain, **measuring}
    measured: dict[str, Attention] = {}

    def attempt(key: str, title: str, run: Callable[[Progress], Any]) -> Any:
        try:
            with progress(title) as advance:
                results[key] = run(advance)
        except Unavailable as reason:
            results[key] = reason
        return results[key]

    def sweep(advance: Progress) -> Any:
        return run_layer_sweep(
            model, pools, store, directions=chosen.directions, span=chosen.span, progress=advance, **ranking
        )

    def flow(advance: Progress) -> Any:
        measured[TRAINED] = run_attention(model, pools, store, progress=advance, **measuring)
        return measured[TRAINED]

    def trained() -> Attention:
        if TRAINED not in measured:
            raise results["attention"]
        return measured[TRAINED]

    def matching(attention: Attention) -> Any:
        return matching_heads(
            attention, relevant_grades=chosen.relevant_grades, against=chosen.against, quantity=chosen.quantity
        )

    def control(advance: Progress) -> Any:
        if not chosen.control:
            raise Unavailable("the untrained twin was left out (--no-control).")
        twin = untrained_twin(model, chosen.seed)
        measured[UNTRAINED] = run_attention(twin, pools, store, control=True, progress=advance, **measuring)
        return matching(measured[UNTRAINED])

    def counts(advance: Progress) -> Any:
        trained()
        return matching_counts(measured, relevant_grades=chosen.relevant_grades)

    attempt("figure1a", "Figure 1a", sweep)
    attempt("attention", "Attention", flow)
    attempt("figure1b", "Figure 1b", lambda advance: matching(trained()))
    attempt("figure1b_control", "Untrained twin", control)
    attempt("figure1b_counts", "Counts", counts)
    attempt("sinks", "Sinks", lambda advance: measure_sinks(trained()))
    ranked = chosen.heads or ranked_heads(results["figure1b"])

    def best() -> tuple[LayerHead, ...]:
        if not ranked and isinstance(results["figure1b"], CellsFailed | Waiting):
            raise results["figure1b"]
        return ranked

    def distributions(advance: Progress) -> Any:
        every = model.cfg.n_layers * model.cfg.n_heads <= ONE_BY_ONE
        heads = None if every else best()[:BEST]
        groups = match_groups(pools, chosen.relevant_grades, only_present=True)
        return run_match_distributions(
            model,
            pools,
            store,
            heads=heads,
            groups=groups,
            seed=chosen.seed,
            progress=advance,
            **measuring,
        )

    def alignment(advance: Progress) -> Any:
        return run_qk_alignment(model, pools, store, seed=chosen.seed, progress=advance, **measuring)

    def ablation(advance: Progress) -> Any:
        if not best():
            raise Unavailable(f"no ranking of heads to ablate (--heads names some): {results['figure1b']}")
        return run_head_ablation(
            model,
            pools,
            store,
            ranked,
            counts=chosen.counts,
            n_draws=chosen.n_draws,
            drawn_counts=DRAWN_COUNTS,
            draw_queries=chosen.draw_queries,
            seed=chosen.seed,
            progress=advance,
            **ranking,
        )

    def halves(advance: Progress) -> Any:
        if chosen.heads:
            raise Unavailable("the heads to ablate were named (--heads), so that no queries of this run chose them.")
        whole = results["head_ablation"]
        if not isinstance(whole, HeadAblation):
            raise whole
        return run_head_folds(
            model,
            pools,
            store,
            trained(),
            whole,
            relevant_grades=chosen.relevant_grades,
            against=chosen.against,
            quantity=chosen.quantity,
            seed=chosen.seed,
            progress=advance,
            **ranking,
        )

    attempt("figure1c", "Figure 1c", distributions)
    attempt("figure2", "Figure 2", alignment)
    attempt("head_ablation", "Head ablation", ablation)
    attempt("head_ablation_folds", "Head ablation, halves", halves)
    bench = Bench(
        model=model,
        pools=tuple(pools),
        store=store,
        executor=executor,
        sampled=chosen.sampled,
        relevant_grades=chosen.relevant_grades,
        heads=tuple(ranked),
        mode=mode,
        cutoff=cutoff,
        gain=gain,
        token_budget=token_budget,
        seed=chosen.seed,
        results=results,
    )
    asked = usual_methods() if chosen.methods is None else chosen.methods
    for method in METHODS:
        if method.key in asked:
            attempt(method.key, method.title, partial(method.run, bench))
    return results
