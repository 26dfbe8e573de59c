"""The masks of three papers on one model and collection: Vast et al. 2025, Zhan et al. 2020 and MICE (2026), each in both modes.

The papers disagree on which way of reading between query and passage matters, and they differ in model, collection, measure, in
what a mask cuts and in whether the rest is renormalized. Here every mask (`presets`) ranks the same pools by the same model, with
`zero` (after the softmax) and with `mask` (before it). Published numbers stand beside the mode that the paper used; they are of
other models and, for Zhan et al., of another measure, so their order can be compared and their size cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tl_crossenc.console.framed import Framed
from tl_crossenc.console.reprs import short_repr
from tl_crossenc.executors.executor import IN_PROCESS, Executor, Progress
from tl_crossenc.experiments.existing_cells import existing_cells
from tl_crossenc.experiments.ranking import rank_under
from tl_crossenc.interventions.conditions import MODES, UNABLATED, Condition, Mode
from tl_crossenc.interventions.presets import COMPARED, Preset, parse_preset
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.published import (
    MICE_2026,
    MICE_2026_NDCG,
    MICE_2026_UNABLATED,
    VAST_2025,
    VAST_2025_TABLE_1,
    VAST_2025_UNABLATED,
    ZHAN_2020,
    ZHAN_2020_CUT_LAYERS,
    ZHAN_2020_MRR,
)
from tl_crossenc.statistics.significance import compare, mean_interval
from tl_crossenc.store.cells import Store

ZHAN_LAYERS = 12
_ZHAN = {"zhan-q2d": "query-to-document", "zhan-d2q": "document-to-query", "zhan-both": "both"}
PUBLISHED_COLUMNS = ("published", "published_unablated", "published_measure", "published_source")


@dataclass(frozen=True)
class MaskComparison(Framed):
    """What each mask costs in each mode.

    Attributes:
        table: a row a preset and mode: `preset`, `mode`, `source`, `description`, `own_mode` (whether the paper removes attention
            in this way), `condition` (its canonical text), `tie_rate`, all of `significance.compare` (Holm over all rows), and
            `published`, `published_unablated`, `published_measure` and `published_source` where the paper has a number.
        unablated: (mean, low, high) of the unablated model's nDCG, a 95 % t-interval over queries.
        random: mean expected nDCG of a random ranking.
        per_query: `[query x condition]` nDCG, indexed by (collection, query_id).
        cutoff: the k of nDCG@k.
        gain: "linear" or "exponential".
        layers_run, layers_alone: what it cost, see `ranking.Ranked`.
        existing_cells: of a model with windows, `preset`, `layer` and `share` by row: how many of the cells that the preset removes
            exist there (NaN where it removes none); `table` has that of all layers as `existing_cells`.
    """

    table: pd.DataFrame
    unablated: tuple[float, float, float]
    random: float
    per_query: pd.DataFrame
    cutoff: int
    gain: str
    layers_run: int
    layers_alone: int
    ideal: str = "pool"
    one_gain: int = 0
    existing_cells: pd.DataFrame | None = None

    __repr__ = short_repr


def mask_conditions(
    presets: Sequence[str], n_layers: int, modes: Sequence[Mode] = MODES
) -> dict[tuple[str, Mode], Condition]:
    """(preset's text, mode) → condition.

    Raises:
        ValueError: no preset, one that is unknown or named twice, or one that removes nothing.
    """
    texts = [text.strip().removeprefix("@").lower() for text in presets]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice or not texts or not modes:
        came = f"{', '.join(twice)} more than once" if twice else "none"
        raise ValueError(f"expected each preset and mode once, and at least one of each, got {came}")
    chosen = {}
    for text in texts:
        preset, first = parse_preset(text)
        if first == 0:
            raise ValueError(f"expected at least one layer for @{preset.name}, got 0, which is the unablated model")
        chosen.update({(text, mode): preset.condition(n_layers, first, mode) for mode in dict.fromkeys(modes)})
    return chosen


@recorded
def run_compare_masks(
    model: HookedCrossEncoder,
    pools: Sequence[Pool],
    store: Store,
    *,
    presets: Sequence[str] = COMPARED,
    modes: Sequence[Mode] = MODES,
    cutoff: int = 10,
    gain: str = "linear",
    token_budget: int | None = None,
    executor: Executor = IN_PROCESS,
    progress: Progress | None = None,
) -> MaskComparison:
    """Rank the pools' graded passages under every preset in every mode, and compare with the unablated model.

    Args:
        presets: names, `name:n` for the first n layers.
        modes: "zero", "mask" or both.

    Raises:
        ValueError: what `mask_conditions` refuses, no pool, or a pool without passages to rank.
    """
    n_layers = model.cfg.n_layers
    chosen = mask_conditions(presets, n_layers, modes)
    conditions = [UNABLATED, *dict.fromkeys(chosen.values())]
    ranked = rank_under(
        model,
        pools,
        store,
        conditions,
        cutoff=cutoff,
        gain=gain,
        token_budget=token_budget,
        executor=executor,
        progress=progress,
    )
    ndcg, tie_rate = ranked.ndcg, ranked.values["tie_rate"]
    baseline = ndcg[str(UNABLATED)]
    comparison = compare(baseline, {" ".join(key): ndcg[str(condition)] for key, condition in chosen.items()})
    rows = []
    for (text, mode), condition in chosen.items():
        preset, first = parse_preset(text)
        own = mode == preset.mode
        rows.append(
            {
                "preset": text,
                "mode": mode,
                "source": preset.source,
                "description": preset.description,
                "own_mode": own,
                "condition": str(condition),
                "tie_rate": float(tie_rate[str(condition)].mean()),
                **comparison.loc[f"{text} {mode}"],
                **(published_number(preset, first, n_layers) if own else dict.fromkeys(PUBLISHED_COLUMNS)),
            }
        )
    table = pd.DataFrame(rows)
    numbers = ["published", "published_unablated"]
    table[numbers] = table[numbers].astype(float)
    cells, by_layer = existing_cells(model, pools), None
    if cells is not None:
        table["existing_cells"] = [cells.share(condition) for condition in chosen.values()]
        shares = {text: cells.by_layer(condition) for (text, _), condition in chosen.items()}
        lines = [(text, layer, share) for text, found in shares.items() for layer, share in enumerate(found)]
        by_layer = pd.DataFrame(lines, columns=["preset", "layer", "share"])
    interval = mean_interval(baseline)
    return MaskComparison(
        table=table,
        unablated=(float(baseline.mean()), interval.low, interval.high),
        random=float(ranked.values["random", str(UNABLATED)].mean()),
        per_query=ndcg,
        cutoff=cutoff,
        gain=gain,
        layers_run=ranked.layers_run,
        layers_alone=ranked.layers_alone,
        ideal=ranked.ideal,
        one_gain=ranked.one_gain,
        existing_cells=by_layer,
    )


def published_number(preset: Preset, first: int | None, n_layers: int) -> dict[str, float | str | None]:
    """What the paper reports for a preset in the first `first` of `n_layers` layers, and for nothing removed; None where nothing.

    Vast et al. and MICE cut every layer of their models. Zhan et al. cut the first n of 12, up to 11; as the cut of the last layer
    cannot move a score, 11 stands for all of them. A number for some of the layers is given only to a model of as many layers.
    """
    whole = first in (None, n_layers)
    value, unablated, measure, source = None, None, None, None
    if preset.name in _ZHAN:
        cut = ZHAN_2020_CUT_LAYERS[-1] if whole else first if n_layers == ZHAN_LAYERS else None
        if cut in ZHAN_2020_CUT_LAYERS:
            numbers = ZHAN_2020_MRR[_ZHAN[preset.name]]
            value, unablated = numbers[ZHAN_2020_CUT_LAYERS.index(cut)], numbers[0]
            measure, source = f"MRR@10, first {cut} of {ZHAN_LAYERS} layers", ZHAN_2020
    elif whole and preset.name.removeprefix("mice-") in MICE_2026_NDCG:
        value, unablated = MICE_2026_NDCG[preset.name.removeprefix("mice-")], MICE_2026_UNABLATED
        measure, source = "nDCG@10", MICE_2026
    elif whole and len(preset.directions) == 1 and str(preset.directions[0]) in VAST_2025_TABLE_1:
        value, unablated = VAST_2025_TABLE_1[str(preset.directions[0])], VAST_2025_UNABLATED
        measure, source = "nDCG@10", VAST_2025
    return dict(zip(PUBLISHED_COLUMNS, (value, unablated, measure, source), strict=True))
