"""Figure 1c of Vast et al. 2025: distributions of the attention weights between QUERY and DOC tokens, by group and kind of match.

`token_matches.py` defines weights, kinds and histograms, `match_distances.py` the distance between groups and its null,
`match_masses.py` the mass on exact matches, `match_cells.py` what the store keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.match_cells import Heads, MatchCells
from tl_crossenc.experiments.match_distances import against_null, permuted_labels
from tl_crossenc.experiments.match_masses import (
    ALL_HEADS,
    DIRECTION_NAMES,
    QueryMasses,
    depth_frame,
    mass_frame,
    per_query_frame,
    query_masses,
)
from tl_crossenc.experiments.matching import relevant_by_scale
from tl_crossenc.instruments.token_matches import EDGES, KINDS, TOKEN_BUDGET, Tally
from tl_crossenc.interventions.heads import check_heads, format_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.grades import listed
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.pools.spec import EASY_NEGATIVE
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

MOST_PERMUTATIONS = 100_000
NEGATIVES: dict[str, tuple[int, ...]] = {"hard": (0,), "easy": (EASY_NEGATIVE,)}
"""Name -> grades of the groups that relevant passages are compared with."""


@dataclass(frozen=True)
class MatchDistributions(Framed):
    """Figure 1c as data. `head` is a number as text, or "all" for a layer's heads together.

    Attributes:
        histogram: a row a (layer, head, direction, group, kind, bin): bin_low and bin_high (weights), count (token pairs x heads).
        mass: see `match_masses.mass_frame`.
        per_query: see `match_masses.per_query_frame`; heads together, and the heads that were named.
        exact_by_layer: a row a (layer, direction, group): share, lift, lift_pooled and pair_share of same-piece matches.
        depth: see `match_masses.depth_frame`.
        distance: a row a (comparison, layer, head, direction, kind): see `match_distances.against_null`; n_queries, n_pairs.
        token_pairs: a row a (group, kind): count, share.
        groups: name -> grades.
        heads: those measured one by one.
        collections: of the pools.
        pairs: passages measured, of any grade.
        pairs_run: of these, passages that the model ran for this.
        n_permutations, seed: of the null; the seed is also that of the sample of queries.
    """

    histogram: pd.DataFrame
    mass: pd.DataFrame
    per_query: pd.DataFrame
    exact_by_layer: pd.DataFrame
    depth: pd.DataFrame
    distance: pd.DataFrame
    token_pairs: pd.DataFrame
    groups: dict[str, tuple[int, ...]]
    heads: Heads
    collections: tuple[str, ...]
    pairs: int
    pairs_run: int
    n_permutations: int
    seed: int

    __repr__ = short_repr


@recorded
def run_match_distributions(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    heads: Sequence[tuple[int, int]] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    n_permutations: int = 200,
    seed: int = 0,
    max_pairs: int | None = None,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> MatchDistributions:
    """Measure the weights between QUERY and DOC over all pools together, computing only missing cells.

    Args:
        model: the model, with nothing ablated.
        pools: of distinct collections.
        store: for the cells.
        heads: (layer, head) to be shown and tested one by one; None for all.
        groups: name -> grades, at least two, the first compared with the others; by default `match_groups` of all three.
            Grades of no group are measured and not shown.
        n_permutations: of the null.
        seed: of the permutations and of the sample.
        max_pairs: measure whole queries, drawn at random, while their passages are at most so many; None for all.
        token_budget: padded tokens a batch; `TOKEN_BUDGET` by default.
        executor: of what is missing.
        progress: as in `scoring.py`.

    Raises:
        Unavailable: no passage of a group (with both query and passage tokens), or no query with passages of both groups compared.
        ValueError: groups that share a grade or are fewer than two, heads that the model does not have, numbers out of range, an
            active ablation, a model without a tokenizer, attention that is no finite number.
    """
    chosen_groups = _checked_groups(match_groups(pools) if groups is None else groups)
    cfg = model.cfg
    every = tuple((layer, head) for layer in range(cfg.n_layers) for head in range(cfg.n_heads))
    chosen = every if heads is None else tuple((layer, head) for layer, head in heads)
    check_heads(chosen, cfg.n_layers, cfg.n_heads)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"expected each head once, got {format_heads(chosen)}: name each only once")
    require_distinct([pool.collection for pool in pools])
    if not 1 <= n_permutations <= MOST_PERMUTATIONS or (max_pairs is not None and max_pairs < 1):
        raise ValueError(
            f"expected n_permutations from 1 to {MOST_PERMUTATIONS:,} and positive max_pairs, got {n_permutations} and {max_pairs}"
        )
    drawn = _sample(pools, max_pairs, seed)
    _require_groups(chosen_groups, {pair.grade for pool in drawn for pair in pool.pairs})

    budget = TOKEN_BUDGET if token_budget is None else token_budget
    cells = MatchCells(model, drawn, store, chosen, budget, executor)
    pairs_run = cells.fill(progress)
    values = query_masses(cells.sums(), chosen_groups)
    _require_groups(chosen_groups, {grade for n in values.groups for grade in chosen_groups[n.group]})
    mass = mass_frame(values, chosen)
    exact = mass[(mass["head"] == ALL_HEADS) & (mass["kind"] == KINDS[0])]
    about = ["layer", "direction", "group", *(c for c in mass.columns if c.startswith(("share", "lift", "pair_share")))]
    return MatchDistributions(
        histogram=_histogram_frame(cells.histograms(), chosen_groups, chosen),
        mass=mass,
        per_query=per_query_frame(values, () if heads is None else chosen),
        exact_by_layer=exact[[*about, "n_queries"]].reset_index(drop=True),
        depth=depth_frame(values),
        distance=_distance_frame(cells, chosen_groups, n_permutations, seed),
        token_pairs=_token_pair_frame(values, chosen_groups),
        groups=chosen_groups,
        heads=chosen,
        collections=tuple(pool.collection for pool in drawn),
        pairs=sum(len(pool) for pool in drawn),
        pairs_run=pairs_run,
        n_permutations=n_permutations,
        seed=seed,
    )


def match_groups(
    pools: Sequence[Pool], relevant_grades: Iterable[int] | None = None, *, only_present: bool = False
) -> dict[str, tuple[int, ...]]:
    """Relevant passages (of these grades, or of the upper half of the collections' scale: `grades.py`) and their negatives.

    Args:
        pools: of the collections.
        relevant_grades: the grades of relevant passages.
        only_present: leave out a kind of negatives that the pools lack, while there is another.

    Raises:
        Unavailable: see `matching.relevant_by_scale`.
    """
    chosen = relevant_by_scale(pool.highest_grade for pool in pools) if relevant_grades is None else relevant_grades
    relevant = tuple(sorted(set(chosen)))
    present = {pair.grade for pool in pools for pair in pool.pairs}
    negatives = {name: grades for name, grades in NEGATIVES.items() if not set(grades) & set(relevant)}
    there = {name: grades for name, grades in negatives.items() if present & set(grades)}
    return {"relevant": relevant} | (there if only_present and there else negatives)


def _checked_groups(groups: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    checked = {name: tuple(sorted(set(grades))) for name, grades in groups.items()}
    listed = [grade for grades in checked.values() for grade in grades]
    if len(checked) < 2 or not all(checked.values()) or len(set(listed)) < len(listed):
        raise ValueError(f"expected at least two groups of grades, none empty and no grade in two, got {checked}")
    return checked


def _require_groups(groups: Mapping[str, tuple[int, ...]], grades: set[int]) -> None:
    for name, wanted in groups.items():
        if not grades & set(wanted):
            raise Unavailable(
                f"the attention distributions need {name} passages (grade {listed(wanted)}) with query and passage "
                f"tokens, and there are none among grades {sorted(grades)}: draw more with --per-grade and --easy-negatives, or "
                "choose relevant ones with --relevant-grades (groups in Python)"
            )


def _sample(pools: Sequence[Pool], max_pairs: int | None, seed: int) -> list[Pool]:
    """Whole queries in a random order, until the next one would exceed `max_pairs`; at least one."""
    if max_pairs is None:
        return [pool for pool in pools if len(pool)]
    sizes = [(i, query, len(rows)) for i, pool in enumerate(pools) for query, rows in pool.by_query().items()]
    taken: dict[int, list[str]] = {}
    total = 0
    for position in np.random.default_rng(seed).permutation(len(sizes)):
        i, query, size = sizes[position]
        if total and total + size > max_pairs:
            break
        total += size
        taken.setdefault(i, []).append(query)
    return [pools[i].select(queries) for i, queries in sorted(taken.items())]


def _histogram_frame(histograms: Tally, groups: Mapping[str, tuple[int, ...]], heads: Heads) -> pd.DataFrame:
    group_of = {grade: name for name, grades in groups.items() for grade in grades}
    merged = histograms.regroup(lambda grade: group_of.get(cast(int, grade)))
    order = [merged.groups.index(name) for name in groups]
    counts = merged.totals["counts"][order]  # [group, direction, layer, head, kind, bin]
    n_layers = counts.shape[2]
    layers, numbers = (np.array([head[axis] for head in heads], dtype=int) for axis in (0, 1))
    shown = np.concatenate([counts.sum(3), counts[:, :, layers, numbers]], axis=2)
    places = [(layer, ALL_HEADS) for layer in range(n_layers)] + [(layer, str(head)) for layer, head in heads]
    group, direction, place, kind, slot = np.indices(shown.shape).reshape(5, -1)
    return pd.DataFrame(
        {
            "layer": np.array([layer for layer, _ in places])[place],
            "head": np.array([head for _, head in places])[place],
            "direction": np.array(DIRECTION_NAMES)[direction],
            "group": np.array(list(groups))[group],
            "kind": np.array(KINDS)[kind],
            "bin_low": EDGES[slot],
            "bin_high": EDGES[slot + 1],
            "count": shown.reshape(-1),
        }
    )


def _token_pair_frame(values: QueryMasses, groups: Mapping[str, tuple[int, ...]]) -> pd.DataFrame:
    rows = []
    for group in groups:
        counts = sum(n for name, n in zip(values.groups, values.token_pairs, strict=True) if name.group == group)
        rows += [(group, kind, int(n), n / np.sum(counts)) for kind, n in zip(KINDS, counts, strict=True)]
    return pd.DataFrame(rows, columns=["group", "kind", "count", "share"])


def _distance_frame(
    cells: MatchCells, groups: Mapping[str, tuple[int, ...]], n_permutations: int, seed: int
) -> pd.DataFrame:
    first, *others = groups
    passages, queries = cells.passages, [(pool.collection, pair.query_id) for pool, pair in cells.passages]
    labels = {}
    for other in others:
        side = dict.fromkeys(groups[first], True) | dict.fromkeys(groups[other], False)
        given = [side.get(pair.grade) for _, pair in passages]
        labels[other] = permuted_labels(queries, given, n_permutations=n_permutations, seed=seed)
        if not labels[other].n_queries:
            raise Unavailable(
                f"the distance between {first} and {other} passages needs a query that has both, and there is none: "
                "draw a larger pool, or choose other groups"
            )
    relevant: dict[str, np.ndarray] = {}
    total: dict[str, np.ndarray] = {}
    for start, counts in cells.pair_histograms():
        shard = slice(start, start + len(counts))
        for other, label in labels.items():
            flat = counts.reshape(len(counts), -1)
            one = label.relevant[:, shard].astype(np.float64) @ flat
            relevant[other] = relevant.get(other, 0) + one
            total[other] = total.get(other, 0) + label.used[shard].astype(np.float64) @ flat
    frames = []
    for other, label in labels.items():
        places, found = cells.rows(relevant[other])
        frame = against_null(found, cells.rows(total[other])[1], [(p.head == ALL_HEADS, p.kind) for p in places])
        about = pd.DataFrame(places)
        about.insert(0, "comparison", f"{first} - {other}")
        frame["n_queries"], frame["n_pairs"] = label.n_queries, int(label.used.sum())
        frames.append(pd.concat([about, frame], axis=1))
    return pd.concat(frames, ignore_index=True)
