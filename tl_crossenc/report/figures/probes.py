"""Probes by layer: how well states of some tokens rank, a panel a set of tokens; and what of classical retrieval they tell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tl_crossenc.report.figures.style import (
    AMBER,
    BLUE,
    BROWN,
    GREEN,
    INK,
    MUTED,
    PURPLE,
    SKY,
    VERMILION,
    hover,
    layer_axis,
    left_column,
    lowest,
    panels,
    styled,
)
from tl_crossenc.statistics.published import ZHAN_2020_PROBE_FLOOR, ZHAN_2020_PROBES

SET_COLOURS = {
    "CLS": PURPLE,
    "QUERY": BLUE,
    "SEP": SKY,
    "DOC": VERMILION,
    "MATCHED": GREEN,
    "STOPS": AMBER,
    "STOP_WORDS": BROWN,
}
SET_NAMES = {
    "CLS": "CLS",
    "QUERY": "query",
    "SEP": "separators",
    "DOC": "passage",
    "MATCHED": "matched in passage",
    "STOPS": "full stops of passage",
    "STOP_WORDS": "stop words of passage",
}
LENS, UNTRAINED, SHUFFLED = "lens", "untrained", "shuffled"
CONTROLS: dict[str, tuple[str, Any, str]] = {
    LENS: (INK, (0, (4, 1, 1, 1)), "the head itself"),
    UNTRAINED: (MUTED, (0, (4, 2)), "untrained twin"),
    SHUFFLED: (MUTED, (0, (1, 1.5)), "shuffled labels"),
}
"""Source -> colour, dashes, and what it is called."""
FEATURE_STYLES: dict[str, tuple[str, str]] = {
    "bm25": (VERMILION, "BM25"),
    "tf_idf": (AMBER, "tf-idf"),
    "covered": (BLUE, "covered words"),
    "covered_ratio": (SKY, "covered share"),
    "exact_matches": (GREEN, "exact matches"),
    "passage_words": (MUTED, "passage's words"),
}
"""Feature -> colour and name; a query's length has no R² within its query."""
LOWEST_R2 = -0.25


@styled
def probes(relevance: pd.DataFrame, *, cutoff: int = 10, narrow: bool = False) -> Figure:
    """A panel a set, nDCG by layers run with the controls; in the last panel Zhan et al.'s MRR@10 of the same sets.

    Args:
        relevance: of `run_probes`.
        cutoff: the k of nDCG@k.
        narrow: one column instead of two.
    """
    shown = [name for name in SET_COLOURS if ((relevance["set"] == name) & (relevance["source"] == "model")).any()]
    figure, axes = panels(
        len(shown) + 2, columns=4, narrow_columns=2, height=1.75, narrow=narrow, sharey=False, sharex=False
    )
    last = int(relevance["layer"].max())
    own, published, key = axes[:-2], axes[-2], axes[-1]
    low, high = _limits(relevance)
    for axis, name in zip(own, shown, strict=True):
        for source in reversed([*CONTROLS]):
            colour, dashes, said = CONTROLS[source]
            rows = _rows(relevance, source, name)
            if len(rows):
                (line,) = axis.plot(rows["layer"], rows["ndcg"], color=colour, ls=dashes, lw=1.1, gid=source, zorder=3)
                hover(line, f"{said}, {SET_NAMES[name]}")
        rows = _rows(relevance, "model", name)
        axis.fill_between(rows["layer"], rows["ndcg_low"], rows["ndcg_high"], color=SET_COLOURS[name], alpha=0.15, lw=0)
        (line,) = axis.plot(rows["layer"], rows["ndcg"], color=SET_COLOURS[name], lw=1.8, marker="o", ms=2.6, zorder=4)
        hover(line, f"probe of {SET_NAMES[name]}")
        axis.axhline(float(rows["random_ndcg"].mean()), color=MUTED, lw=0.7, zorder=1)
        axis.set_title(SET_NAMES[name])
        axis.set_ylim(low, high)
    _zhan(published, shown, last)
    for axis in (*own, published):
        layer_axis(axis, range(last + 1), "")
    for axis in lowest(axes[:-1]):
        axis.set_xlabel("layers run")
    for axis in left_column(own):
        axis.set_ylabel(f"nDCG@{cutoff}")
    _key(key)
    return figure


@styled
def probe_features(features: pd.DataFrame, *, narrow: bool = False) -> Figure:
    """A panel a set, R² within queries of each feature by layers run; below the axis what is worse than the query's mean.

    Args:
        features: of `run_probes`.
        narrow: one column instead of two.
    """
    rows = features[features["source"] == "model"]
    shown = [name for name in SET_COLOURS if (rows["set"] == name).any()]
    figure, axes = panels(len(shown) + 1, columns=3, narrow_columns=2, height=1.75, narrow=narrow)
    for axis, name in zip(axes[:-1], shown, strict=True):
        for feature, (colour, said) in FEATURE_STYLES.items():
            own = rows[(rows["set"] == name) & (rows["feature"] == feature)].sort_values("layer")
            (line,) = axis.plot(own["layer"], own["within"], color=colour, lw=1.4, marker="o", ms=2.2, gid=feature)
            hover(line, f"{said}, {SET_NAMES[name]}")
        axis.axhline(0, color=MUTED, lw=0.7, zorder=1)
        axis.set_title(SET_NAMES[name])
        layer_axis(axis, rows["layer"], "")
        axis.set_ylim(LOWEST_R2, 1)
    for axis in lowest(axes[:-1]):
        axis.set_xlabel("layers run")
    for axis in left_column(axes[:-1]):
        axis.set_ylabel("R² within queries")
    _names(axes[-1], [(said, colour, {}) for colour, said in FEATURE_STYLES.values()])
    return figure


def _rows(relevance: pd.DataFrame, source: str, name: str) -> pd.DataFrame:
    return relevance[(relevance["source"] == source) & (relevance["set"] == name)].sort_values("layer")


def _limits(relevance: pd.DataFrame) -> tuple[float, float]:
    """The same for all panels: whatever is drawn, and a little more."""
    bounds = relevance.loc[relevance["source"] == "model", ["ndcg_low", "ndcg_high"]]
    values = np.concatenate([bounds.to_numpy().ravel(), relevance[["ndcg", "random_ndcg"]].to_numpy().ravel()])
    known = values[np.isfinite(values)]
    return max(0.0, float(known.min()) - 0.03), min(1.0, float(known.max()) + 0.03)


def zhan_layers(name: str, last: int) -> np.ndarray:
    """The published layers of a set at the same relative depth of a model of `last` layers; theirs has twelve."""
    return np.arange(len(ZHAN_2020_PROBES[name])) * last / 12


def _zhan(axis: Axes, shown: list[str], last: int) -> None:
    for name in shown:
        (line,) = axis.plot(
            zhan_layers(name, last), ZHAN_2020_PROBES[name], color=SET_COLOURS[name], lw=1.2, gid="zhan"
        )
        hover(line, f"Zhan et al. 2020, BERT-base: {SET_NAMES[name]}")
    axis.axhline(ZHAN_2020_PROBE_FLOOR, color=MUTED, lw=0.7, zorder=1)
    axis.set_ylim(0, 0.35)
    axis.set_title("Zhan et al.: MRR@10")


def _key(axis: Axes) -> None:
    entries = [("probe, 95 % interval", BLUE, {"lw": 1.8, "marker": "o", "ms": 2.6})]
    entries += [(said, colour, {"ls": dashes, "lw": 1.1}) for colour, dashes, said in CONTROLS.values()]
    _names(axis, [*entries, ("random ranking", MUTED, {"lw": 0.7})])


def _names(axis: Axes, entries: list[tuple[str, str, dict[str, Any]]]) -> None:
    """What the lines are, in the place of a last panel."""
    axis.set_axis_off()
    axis.set_title("key", color=INK)
    for i, (text, colour, style) in enumerate(entries):
        y = 0.92 - 0.14 * i
        given: dict[str, Any] = {"lw": 1.4, "markevery": [1]} | style
        axis.add_artist(Line2D([0.0, 0.08, 0.16], [y] * 3, color=colour, transform=axis.transAxes, **given))
        note = axis.text(0.2, y, text, transform=axis.transAxes, color=colour, fontsize=7.5, va="center")
        note.set_in_layout(False)
