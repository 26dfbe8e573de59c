"""The methods beyond the paper, as `reproduce` runs them: which there are, which a plain run takes, and what they are given.

A method's result is a frozen dataclass with its frames under the names of its artefact's tables (`results.beyond`), and `scalars`,
what is no table: seeds, counts, settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tl_crossenc.console.shown import quoted
from tl_crossenc.executors.executor import Executor, Progress
from tl_crossenc.interventions.conditions import Mode
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.store.cells import Store


@dataclass(frozen=True)
class Bench:
    """What a method works on.

    Attributes:
        model, pools, store, executor: of the run.
        sampled: whether the method is to take a sample that suits a run of minutes, which its caption names; else all.
        relevant_grades: of the passages called relevant; None for the upper half of the collections' scale.
        heads: every head, those that Figure 1b ranks highest first; none where it is unavailable.
        mode: of ablations.
        cutoff, gain: of nDCG.
        token_budget: padded tokens a batch.
        seed: of all that is drawn.
        results: of the experiments and methods before this one, by key.
    """

    model: HookedCrossEncoder
    pools: tuple[Pool, ...]
    store: Store
    executor: Executor
    sampled: bool
    relevant_grades: tuple[int, ...] | None
    heads: tuple[tuple[int, int], ...]
    mode: Mode
    cutoff: int
    gain: str
    token_budget: int | None
    seed: int
    results: Mapping[str, Any]

    @property
    def place(self) -> dict[str, Any]:
        """What every experiment is given: on what it works, and how."""
        names = ("model", "pools", "store", "executor", "token_budget")
        return {name: getattr(self, name) for name in names}

    @property
    def ranking(self) -> dict[str, Any]:
        """The same with how rankings are measured."""
        return self.place | {"cutoff": self.cutoff, "gain": self.gain}


@dataclass(frozen=True)
class Method:
    """A method beyond the paper.

    Attributes:
        key: of its result, and of its artefact in `results.beyond`.
        title: for the progress bar.
        run: computes the result; raises `Unavailable` where the model or the pools do not allow it.
        usual: whether a plain run takes it, on a sample.
    """

    key: str
    title: str
    run: Callable[[Bench, Progress], Any]
    usual: bool = False


def _adapter_updates(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.adapter_updates import run_adapter_updates

    return run_adapter_updates(**bench.ranking, progress=advance)


def _head_rankers(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.head_rankers import SAMPLED_QUERIES, run_head_rankers

    queries = SAMPLED_QUERIES if bench.sampled else None
    chosen: dict[str, Any] = {"relevant_grades": bench.relevant_grades, "queries": queries, "seed": bench.seed}
    return run_head_rankers(**bench.ranking, **chosen, progress=advance)


def _circuits(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.circuits import run_circuits

    return run_circuits(**bench.ranking, mode=bench.mode, seed=bench.seed, progress=advance)


def _part_gradients(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.part_gradients import run_part_gradients

    few: dict[str, Any] = {"queries": 6, "passages": 1, "nodes": 32} if bench.sampled else {}
    given = bench.place | few | {"relevant_grades": bench.relevant_grades, "seed": bench.seed}
    return run_part_gradients(**given, progress=advance)


def _neuron_pruning(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.neuron_pruning import run_neuron_pruning

    few: dict[str, Any] = {"queries": 12, "passages": 1, "kinds": ("zero",)} if bench.sampled else {}
    given = bench.ranking | few | {"relevant_grades": bench.relevant_grades, "seed": bench.seed}
    return run_neuron_pruning(**given, progress=advance)


def _bottleneck(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.bottleneck import PER_QUERY, run_bottleneck

    chosen: dict[str, Any] = (
        {"n_queries": 6, "per_query": 1} if bench.sampled else {"n_queries": None, "per_query": PER_QUERY}
    )
    return run_bottleneck(**bench.place, **chosen, seed=bench.seed, progress=advance)


def _probes(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.probes import MOST_PAIRS, SAMPLED_PAIRS, run_probes

    pairs = SAMPLED_PAIRS if bench.sampled else MOST_PAIRS
    chosen: dict[str, Any] = {"relevant_grades": bench.relevant_grades, "max_pairs": pairs, "seed": bench.seed}
    return run_probes(**bench.ranking, **chosen, progress=advance)


def _semantic_bm25(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.semantic_bm25 import SAMPLED_QUERIES, run_semantic_bm25

    queries = SAMPLED_QUERIES if bench.sampled else None
    return run_semantic_bm25(**bench.place, queries=queries, seed=bench.seed, progress=advance)


def _faithfulness(bench: Bench, advance: Progress) -> Any:
    from tl_crossenc.experiments.faithfulness import QUERIES, run_faithfulness

    few: dict[str, Any] = {"queries": 4, "draws": 2, "sets": 16} if bench.sampled else {"queries": QUERIES}
    return run_faithfulness(**bench.ranking, **few, seed=bench.seed, progress=advance)


METHODS: tuple[Method, ...] = (
    Method("bottleneck", "Bottlenecks", _bottleneck, usual=True),
    Method("part_gradients", "Integrated gradients by part", _part_gradients, usual=True),
    Method("neuron_pruning", "Neurons pruned by conductance", _neuron_pruning),
    Method("adapter_updates", "Adapter updates", _adapter_updates),
    Method("head_rankers", "Heads as rankers", _head_rankers, usual=True),
    Method("circuits", "Circuits", _circuits),
    Method("probes", "Probes", _probes, usual=True),
    Method("semantic_bm25", "Semantic BM25", _semantic_bm25),
    Method("faithfulness", "Faithfulness of attributions", _faithfulness),
)
"""In the order in which they run."""


def usual_methods() -> tuple[str, ...]:
    """The keys of the methods that a plain run takes."""
    return tuple(method.key for method in METHODS if method.usual)


def every_method() -> tuple[str, ...]:
    """The keys of all methods."""
    return tuple(method.key for method in METHODS)


def check_methods(keys: Iterable[str]) -> tuple[str, ...]:
    """The keys in the order in which the methods run, each once.

    Raises:
        ValueError: a key that is no method's.
    """
    given, known = set(keys), every_method()
    unknown = sorted(given - set(known))
    if unknown:
        raise ValueError(f"expected methods among {', '.join(known)}, got {', '.join(map(quoted, unknown))}")
    return tuple(key for key in known if key in given)
