"""The smallest set of (direction, layer, head) that keeps what the model's ranking is worth over a random one: its circuit.

A unit is a direction between two parts in one head of one layer. With R(K) the mean nDCG when all units but K are removed (`zero`
or `mask`), a circuit for the share t is a small K with

    R(K) >= random + t (unablated - random).

**Found** greedily, on one half of the queries. Units are ordered by importance: the mean over queries of the standard deviation,
over a query's passages, of the estimated change of the score by the unit's removal (`patching.direction_effects`; what changes all
passages alike changes no order). The shortest beginning of that order that suffices is looked for by bisection; then ever smaller
blocks of it, least important first, are left out wherever the rest still suffices. Every step is a real ablation of everything
else. Where the last pass tried each unit alone, the circuit is `minimal`: none of its units can be left out by itself. Smaller ones
may exist. Shares are searched from the largest on: what keeps a larger one keeps a smaller one, whose search begins from that set
where it is the smaller.

**Measured** on the other half, and the same with the halves exchanged: nDCG with all but the circuit removed (faithfulness), with
the circuit removed (completeness: near random, if nothing outside does the same work), with all but as many random units removed.

    faithfulness = (R(K) - random) / (unablated - random),    completeness = 1 - (R(not K) - random) / (unablated - random)

as ratios of means over the queries. Their intervals are percentile bootstrap intervals over queries (1,000 resamples). Wang et al.
2023 (arXiv:2211.00593) and Conmy et al. 2023 (arXiv:2304.14997) find circuits of decoders.

**Multiply-adds.** A unit needs 2 d_head for each of its cells (rows of the attender x columns of the attended that the layer has):
the score and the sum of values. The share is of what the score itself needs: in the last layer only the rows that the head reads.
Projections, MLPs and what batching costs are not counted.

**Limits.** Removal is far from training. The order is that of a first-order change, and the search is greedy: the set is small, not
the smallest. With a dozen queries a half, a share of .99 is within the noise; the other half says how well it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.circuit_search import Found, Lab, search
from tl_crossenc.experiments.circuit_units import Unit, costs_of, importance_of, keep_only, units_of, without
from tl_crossenc.experiments.query_folds import of_queries, two_folds
from tl_crossenc.interventions.conditions import UNABLATED, Mode
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool, require_distinct
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

SHARES = (0.9, 0.95, 0.99)
MOST_RUNS = 256
"""Ablations that the search for one circuit takes at most."""
N_DRAWS = 5
"""Random sets of as many units that a circuit is compared with."""
RESAMPLES = 1000
ROUNDING = 1e-9


@dataclass(frozen=True)
class Circuits(Framed):
    """The circuits of a model.

    Attributes:
        circuits: a row a (fold, share): `n_units` of `n_all`, `minimal`, `runs` (ablations taken to find it), `multiply_adds` (the
            share needed), `chosen` (nDCG on the queries that it was found on), and on the others `unablated`, `random`, `kept` (all
            else removed), `removed` (itself removed), `drawn` (the mean of random sets), `faithfulness` and `completeness` with
            `_low` and `_high`, `n_queries`.
        units: a row a (fold, share, unit in the circuit): `layer`, `head`, `direction`, `importance`, `rank` in the order, from 1.
        curve: a row a (fold, k): `k` units kept, first in the order, `multiply_adds`, `kept` and `removed`, the mean nDCG on the
            other half with all else and with these removed, and their `faithfulness` and `completeness`.
        per_query: nDCG on the queries that a circuit was not found on, a row a (fold, share, collection, query_id): `unablated`,
            `random`, `kept`, `removed`, `drawn`.
        mode: of the removal.
        seed: of the halves, the random sets and the bootstrap.
        most_runs: ablations that the search for one circuit could take.
    """

    circuits: pd.DataFrame
    units: pd.DataFrame
    curve: pd.DataFrame
    per_query: pd.DataFrame
    mode: Mode
    seed: int
    most_runs: int = MOST_RUNS

    __repr__ = short_repr

    @property
    def scalars(self) -> dict[str, Any]:
        """What is no table."""
        return {"mode": self.mode, "seed": self.seed, "n_draws": N_DRAWS, "most_runs": self.most_runs}


@recorded
def run_circuits(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    shares: Sequence[float] = SHARES,
    mode: Mode = "zero",
    seed: int = 0,
    cutoff: int = 10,
    gain: str = "linear",
    most_runs: int = MOST_RUNS,
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> Circuits:
    """Find circuits on each half of the queries, and measure them on the other.

    Args:
        model: the model, with nothing ablated.
        pools: of distinct collections; graded passages are ranked.
        store: of cells.
        shares: of the unablated nDCG over random that a circuit keeps, each above 0 and at most 1; one given twice counts once.
        mode: of the removal.
        seed: of halves, random sets and bootstrap.
        cutoff, gain: of nDCG.
        most_runs: ablations that the search for one circuit takes.
        token_budget: padded tokens a batch.
        executor: who computes.
        progress: as in `Executor.run`, by ablations.

    Raises:
        Unavailable: fewer than four queries, or an unablated ranking that is no better than a random one.
        ValueError: no pools, or two of one name; shares, a seed or a number of ablations out of range; or an active ablation.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"expected shares above 0 and at most 1, got {list(shares)}")
    if not pools or most_runs < 1 or seed < 0:
        raise ValueError(
            "expected at least one pool, at least one ablation a search and a seed of at least 0, got "
            f"{len(pools)}, {most_runs} and {seed}"
        )
    shares = tuple(dict.fromkeys(shares))
    if model.active_condition != UNABLATED:
        raise ValueError(f"expected a model with nothing ablated, got one under {model.active_condition}")
    require_distinct([pool.collection for pool in pools])
    ranked = [pool.ranked for pool in pools]
    halves = _halves(ranked, seed)
    lab = Lab(model, store, mode, cutoff, gain, token_budget, executor, progress, len(shares) * most_runs * 2)
    units = units_of(model)
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in ("circuits", "units", "curve", "per_query")}
    for fold, (here, there) in enumerate((halves, halves[::-1])):
        importance = importance_of(model, here, units, store, token_budget, executor)
        order = [units[i] for i in np.argsort(-importance, kind="stable")]
        values = dict(zip(units, importance, strict=True))
        ends = lab.values(here, [UNABLATED]).mean()
        whole, random = float(ends["ndcg", "none"]), float(ends["random", "none"])
        _require_better(whole, random)
        costs = costs_of(model, there, units)
        circuits: dict[float, Found] = {}
        known: Sequence[Unit] = ()
        for share in sorted(shares, reverse=True):
            circuits[share] = search(lab, here, order, random + share * (whole - random), most_runs, known)
            known = circuits[share].units
        for share in shares:
            found = circuits[share]
            row, per_query = _measure(lab, there, found.units, units, seed)
            about = {"fold": fold, "share": share}
            row = about | {
                "n_units": len(found.units), "n_all": len(units), "minimal": found.minimal, "runs": found.runs,
                "multiply_adds": sum(costs[unit] for unit in found.units), "chosen": found.ndcg, **row,
            }  # fmt: skip
            frames["circuits"].append(pd.DataFrame([row]))
            frames["units"].append(_unit_frame(about, found.units, order, values))
            frames["per_query"].append(per_query.assign(**about))
        frames["curve"].append(_curve(lab, there, order, costs).assign(fold=fold))
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    if progress is not None:
        progress(lab.done, lab.done)  # a search may end early
    return Circuits(**joined, mode=mode, seed=seed, most_runs=most_runs)


def _require_better(whole: float, random: float) -> None:
    if not whole > random + ROUNDING:
        raise Unavailable(
            f"a circuit keeps what a ranking is worth over a random one, and unablated nDCG {whole:.3f} is not above that of a "
            f"random ranking, {random:.3f}"
        )


def _measure(
    lab: Lab, pools: Sequence[Pool], kept: Sequence[Unit], every: Sequence[Unit], seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """What a circuit does on other queries than it was found on."""
    rng = np.random.default_rng([seed, len(kept)])
    draws = [[every[i] for i in rng.permutation(len(every))[: len(kept)]] for _ in range(N_DRAWS)]
    conditions = [UNABLATED, keep_only(kept, every, lab.mode), without(kept, lab.mode)]
    conditions += [keep_only(drawn, every, lab.mode) for drawn in draws]
    values = lab.values(pools, list(dict.fromkeys(conditions)))
    ndcg = values["ndcg"]
    columns = [ndcg[str(condition)] for condition in conditions]
    frame = pd.DataFrame(
        {
            "unablated": columns[0],
            "random": values["random", "none"],
            "kept": columns[1],
            "removed": columns[2],
            "drawn": np.mean(columns[3:], axis=0),
        }
    )
    row: dict[str, Any] = {name: float(frame[name].mean()) for name in frame} | {"n_queries": len(frame)}
    for name, column in (("faithfulness", "kept"), ("completeness", "removed")):
        row[name], row[f"{name}_low"], row[f"{name}_high"] = _share(frame, column, name == "completeness", seed)
    return row, frame.reset_index()


def _share(frame: pd.DataFrame, column: str, less: bool, seed: int) -> tuple[float, float, float]:
    """The ratio of means over queries, and its bootstrap interval; NaN where unablated is no better than random."""
    data = frame[["unablated", "random", column]].to_numpy()

    def ratio(rows: Float64[np.ndarray, "query value"]) -> float:
        whole, random, value = rows.mean(0)
        kept = (value - random) / (whole - random) if whole > random else np.nan
        return float(1 - kept if less else kept)

    rng = np.random.default_rng(seed)
    drawn = [ratio(data[rng.integers(0, len(data), len(data))]) for _ in range(RESAMPLES)]
    finite = np.array([value for value in drawn if np.isfinite(value)])
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) and len(data) > 1 else (np.nan, np.nan)
    return ratio(data), float(low), float(high)


def _curve(lab: Lab, pools: Sequence[Pool], order: Sequence[Unit], costs: Mapping[Unit, float]) -> pd.DataFrame:
    """What the first k units of the order do on other queries than it was made on."""
    counts = sorted({*(2**i for i in range(len(order).bit_length())), len(order)})
    kept = {k: keep_only(order[:k], order, lab.mode) for k in counts}
    gone = {k: without(order[:k], lab.mode) for k in counts}
    values = lab.values(pools, list(dict.fromkeys([UNABLATED, *kept.values(), *gone.values()]))).mean()
    ndcg, random = values["ndcg"], float(values["random", "none"])
    over = float(ndcg["none"]) - random
    rows = []
    for k in counts:
        here, there = float(ndcg[str(kept[k])]), float(ndcg[str(gone[k])])
        shares = (
            {"faithfulness": (here - random) / over, "completeness": 1 - (there - random) / over} if over > 0 else {}
        )
        rows.append(
            {"k": k, "multiply_adds": sum(costs[unit] for unit in order[:k]), "kept": here, "removed": there} | shares
        )
    return pd.DataFrame(rows)


def _halves(pools: Sequence[Pool], seed: int) -> tuple[list[Pool], ...]:
    """The pools cut down to either half of the queries."""
    queries = [(pool.collection, query_id) for pool in pools for query_id in pool.by_query()]
    if len(queries) < 4:
        raise Unavailable(
            "a circuit is found on one half of the queries and measured on the other, and fewer than 4 queries have no halves that "
            "tell anything: take more queries"
        )
    return tuple(of_queries(pools, half) for half in two_folds(queries, seed))


def _unit_frame(
    about: Mapping[str, Any], kept: Sequence[Unit], order: Sequence[Unit], importance: Mapping[Unit, float]
) -> pd.DataFrame:
    rank = {unit: place for place, unit in enumerate(order, 1)}
    rows = [
        {**about}
        | {"layer": unit.layer, "head": unit.head, "direction": str(unit.direction)}
        | {"importance": float(importance[unit]), "rank": rank[unit]}
        for unit in sorted(kept, key=rank.__getitem__)
    ]
    return pd.DataFrame(rows, columns=[*about, "layer", "head", "direction", "importance", "rank"])
