"""Ablation beyond zero: nDCG with heads, MLPs and directions set to zero, to their mean, or to another pair's activations.

Zero takes an activation where the model never was; the mean keeps what does not depend on the pair, and resampling keeps the
distribution too. A target whose zero costs much and whose mean costs nothing carries a constant, not information. Means and
drawn pairs come from the pool's own ranked passages.

A cell is what `scoring` says, with the targets, the kind of values, and for resampling the seed and the number of pairs drawn
from, in place of the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from tl_crossenc.console.reprs import short_repr
from tl_crossenc.experiments.ranking import evaluate_pool, one_ideal
from tl_crossenc.experiments.scoring import SHARD, Progress, score_pool
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.interventions.targets import Target, TargetLike, as_targets, check_apart, check_targets, format_targets
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.model.identity import model_identity
from tl_crossenc.patching.replacement import MAX_DONORS, ZERO, ReplacementMeans, ReplacementSamples, Values, replacing
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

KINDS = ("zero", "mean", "resample")
NONE = str(UNABLATED)
METHOD = 1
"""Counts up with every change of how values are taken, batched or stored that changes a cell's numbers."""
TOGETHER = 64
"""Targets whose activations are kept at a time for resampling, which bounds the memory."""

TargetSet = TargetLike | Iterable[TargetLike]


@dataclass(frozen=True)
class ReplacementAblation:
    """nDCG with targets replaced.

    Attributes:
        comparison: a row a (set of targets, kind of values): `targets`, `values`, the columns of `significance.compare`
            against the model as it is, Holm over all rows, and `tie_rate`.
        per_query: `[query x label]` nDCG, indexed by (collection, query_id); a label is `mean(3.7+mlp.2)`, or `none`.
        scores: a row a pair: collection, query_id, doc_id, grade, and a column of scores for each label.
        unchanged: (mean, low, high) nDCG of the model as it is, a 95 % t-interval over queries.
        random: mean expected nDCG of a random ranking.
        seed: of the draws.
        max_donors: pairs of a pool that are drawn from.
        layers_run: layers that the model ran for this, a layer of one pair counting 1; 0 when everything was stored.
    """

    comparison: pd.DataFrame
    per_query: pd.DataFrame
    scores: pd.DataFrame
    unchanged: tuple[float, float, float]
    random: float
    seed: int
    max_donors: int
    layers_run: int

    __repr__ = short_repr


@dataclass(frozen=True)
class _Plan:
    """What one pool is scored under."""

    pool: Pool
    store: Store
    identity: Mapping[str, str]
    active: str
    seed: int
    max_donors: int
    token_budget: int

    def key(self, targets: tuple[Target, ...], kind: str, shard: int) -> CellKey:
        drawn = kind == "resample"
        return CellKey.of(
            "replaced_scores",
            **self.identity,
            method=METHOD,
            pool=self.pool.digest,
            condition=self.active,
            targets=format_targets(targets),
            values=kind,
            seed=self.seed if drawn else None,
            max_donors=self.max_donors if drawn else None,
            shard=shard,
            shard_size=SHARD,
            token_budget=self.token_budget,
        )

    @property
    def shards(self) -> list[range]:
        return [range(start, min(start + SHARD, len(self.pool))) for start in range(0, len(self.pool), SHARD)]

    def missing(self, targets: tuple[Target, ...], kind: str) -> list[int]:
        keys = [self.key(targets, kind, i) for i in range(len(self.shards))]
        absent = set(self.store.missing(keys))
        return [i for i, key in enumerate(keys) if key in absent]


def run_replacement(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    targets: Sequence[TargetSet],
    *,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
    max_donors: int = MAX_DONORS,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> ReplacementAblation:
    """Rank the pools' graded passages with each set of targets replaced by each kind of values.

    Args:
        model: the model, with whatever it ablates at the moment.
        pools: easy negatives are left out.
        store: of the scores.
        targets: sets of targets, each replaced together: "3.7", "3.7+3.8", `["mlp.2", "DOC->QUERY@3.7"]`.
        kinds: of "zero", "mean" and "resample".
        seed: of the draws.
        max_donors: the most pairs of a pool to draw from.
        cutoff, gain: of nDCG.
        token_budget: padded tokens a batch.
        progress: called with (layer runs done, layer runs in all).

    Raises:
        ValueError: no pools, pools of one name or without passages, no targets, targets that the model does not have or that
            share something, or another kind.
    """
    sets = _check(model, pools, targets, kinds)
    labels = {f"{kind}({format_targets(chosen)})": (chosen, kind) for chosen in sets for kind in kinds}
    identity, active = model_identity(model), str(model.active_condition)
    plans = [_Plan(pool.ranked, store, identity, active, seed, max_donors, token_budget) for pool in pools]
    done, total = 0, sum(_cost(model, plan, sets, kinds) for plan in plans)

    def advance(layer_runs: int) -> None:
        nonlocal done
        done += layer_runs
        if progress is not None:
            progress(done, total)

    values, scores, alone = [], [], 0
    for plan in plans:
        base = score_pool(model, plan.pool, [UNABLATED], store, token_budget=token_budget)
        alone += base.layers_run
        for kind in kinds:
            _score_kind(model, plan, sets, kind, advance)
        columns = {NONE: base.values[0], **{label: _read(plan, *labels[label]) for label in labels}}
        scores.append(_score_frame(plan.pool, columns))
        values.append(evaluate_pool(model, plan.pool, columns, cutoff=cutoff, gain=gain))
    frame = pd.concat(values)
    ndcg = frame["ndcg"]
    comparison = compare(ndcg[NONE], {label: ndcg[label] for label in labels})
    comparison.insert(0, "targets", [format_targets(chosen) for chosen, _ in labels.values()])
    comparison.insert(1, "values", [kind for _, kind in labels.values()])
    comparison["tie_rate"] = [float(frame["tie_rate"][label].mean()) for label in labels]
    interval = mean_interval(ndcg[NONE])
    return ReplacementAblation(
        comparison=comparison,
        per_query=ndcg,
        scores=pd.concat(scores, ignore_index=True),
        unchanged=(float(ndcg[NONE].mean()), interval.low, interval.high),
        random=float(frame["random"][NONE].mean()),
        seed=seed,
        max_donors=max_donors,
        layers_run=done + alone,
    )


def _check(
    model: HookedCrossEncoder, pools: Sequence[Pool], targets: Sequence[TargetSet], kinds: Sequence[str]
) -> list[tuple[Target, ...]]:
    sets = list(dict.fromkeys(as_targets(chosen) for chosen in ([targets] if isinstance(targets, str) else targets)))
    for chosen in sets:
        check_targets(chosen, model.cfg.n_layers, model.cfg.n_heads)
        check_apart(chosen)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds or not sets:
        raise ValueError(
            f"expected at least one set of targets, and kinds among {', '.join(KINDS)}; got {len(sets)} sets and {list(kinds)}"
        )
    names = [pool.collection for pool in pools]
    if not pools or len(set(names)) < len(names) or any(len(pool.ranked) == 0 for pool in pools):
        raise ValueError(f"expected pools of different names with passages to rank, got {names}")
    one_ideal(pools)
    return sets


def _chunks(plan: _Plan, sets: Sequence[tuple[Target, ...]], kind: str) -> list[list[tuple[Target, ...]]]:
    """The sets that miss a cell, in groups whose values are fitted at once."""
    groups: list[list[tuple[Target, ...]]] = []
    for chosen in sets:
        if plan.missing(chosen, kind):
            held = len({target for other in groups[-1] for target in other} | {*chosen}) if groups else 0
            if not groups or (kind == "resample" and held > TOGETHER):
                groups.append([])
            groups[-1].append(chosen)
    return groups


def _cost(model: HookedCrossEncoder, plan: _Plan, sets: Sequence[tuple[Target, ...]], kinds: Sequence[str]) -> int:
    pairs = 0
    for kind in kinds:
        groups = _chunks(plan, sets, kind)
        fit = {"zero": 0, "mean": len(plan.pool), "resample": min(len(plan.pool), plan.max_donors)}[kind]
        pairs += fit * len(groups)
        pairs += sum(len(plan.shards[i]) for group in groups for chosen in group for i in plan.missing(chosen, kind))
    return pairs * model.cfg.n_layers


def _score_kind(
    model: HookedCrossEncoder,
    plan: _Plan,
    sets: Sequence[tuple[Target, ...]],
    kind: str,
    advance: Callable[[int], None],
) -> None:
    """Compute and store what is missing of one kind."""
    n_layers = model.cfg.n_layers
    for group in _chunks(plan, sets, kind):
        values = _fit(model, plan, group, kind, lambda pairs: advance(pairs * n_layers))
        for chosen in group:
            for i in plan.missing(chosen, kind):
                encoded = _encode(model, plan.pool, plan.shards[i])
                with replacing(model, chosen, values):
                    found = run_conditions(
                        model, encoded, [UNABLATED], token_budget=plan.token_budget, progress=advance
                    )
                _write(plan, plan.key(chosen, kind, i), plan.shards[i], found.values[0])


def _fit(
    model: HookedCrossEncoder, plan: _Plan, group: Sequence[tuple[Target, ...]], kind: str, ran: Callable[[int], None]
) -> Values:
    if kind == "zero":
        return ZERO
    wanted = dict.fromkeys(target for chosen in group for target in chosen)
    reference = _encode(model, plan.pool, range(len(plan.pool)))
    if kind == "mean":
        return ReplacementMeans.fit(model, reference, wanted, token_budget=plan.token_budget, progress=ran)
    return ReplacementSamples.fit(
        model,
        reference,
        wanted,
        seed=plan.seed,
        max_donors=plan.max_donors,
        token_budget=plan.token_budget,
        progress=ran,
    )


def _encode(model: HookedCrossEncoder, pool: Pool, indices: range) -> EncodedPairs:
    pairs = [pool.pairs[i] for i in indices]
    return model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])


def _ids(pool: Pool) -> dict[str, list]:
    """Columns that say which pair a row is."""
    pairs = pool.pairs
    return {name: [getattr(pair, name) for pair in pairs] for name in ("query_id", "doc_id", "grade")}


def _write(plan: _Plan, key: CellKey, shard: range, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(
            f"expected finite scores, but some are NaN or infinite under {key.fields['targets']}: use dtype float32"
        )
    ids = {name: column[shard.start : shard.stop] for name, column in _ids(plan.pool).items()}
    plan.store.write(key, pa.table({**ids, "score": values}), {"collection": plan.pool.collection})


def _read(plan: _Plan, targets: tuple[Target, ...], kind: str) -> np.ndarray:
    cells = [plan.store.read(plan.key(targets, kind, i))["score"].to_numpy() for i in range(len(plan.shards))]
    return np.concatenate(cells)


def _score_frame(pool: Pool, columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    return pd.DataFrame({"collection": pool.collection, **_ids(pool), **columns})
