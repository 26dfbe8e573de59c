"""Semantic BM25: how well the score is predicted, idf in the token embeddings, and where the heads' query tokens attend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from tl_crossenc.report.figures.style import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PART_COLOURS,
    VERMILION,
    hover,
    legend_row,
    panels,
    percent,
    styled,
)
from tl_crossenc.report.tables import interval_text
from tl_crossenc.statistics.published import LU_2025_SEMANTIC_BM25, LU_2025_TUNED_BM25

NORM = "norm"
PARTS = ("DOC", "SEP2", "SEP1", "CLS")
MOST_HEADS = 13
BY_QUERY, BY_PAIR = "query", "pair"
LINES: dict[tuple[str, str], dict[str, Any]] = {
    ("model", "all"): {"color": BLUE, "marker": "o", "ms": 3},
    ("model", "passages'"): {"color": BLUE, "lw": 0.9, "ls": (0, (3, 2))},
    ("base", "all"): {"color": VERMILION, "marker": "s", "ms": 3},
    ("base", "passages'"): {"color": VERMILION, "lw": 0.9, "ls": (0, (3, 2))},
}
"""By (weights, rows decomposed)."""


@styled
def semantic_bm25(
    correlations: pd.DataFrame, heads: pd.DataFrame, embeddings: pd.DataFrame, *, narrow: bool = False
) -> Figure:
    """Left: r of every system's held-out predictions with the score. Middle: R² of idf by directions. Right: attention of heads.

    Left: filled by query with its interval over queries, small dots its folds, hollow by pair; dashed the published values.

    Args:
        correlations, heads, embeddings: of `SemanticBM25`.
        narrow: one column instead of three.
    """
    figure, axes = panels(3, columns=3, narrow_columns=1, height=2.5, narrow=narrow, sharex=False, sharey=False)
    _predicted(axes[0], correlations)
    _idf(axes[1], embeddings)
    _attention(axes[2], heads)
    styles: dict[str, dict[str, Any]] = {
        "folds by query": {"color": INK, "marker": "o", "ms": 4.5, "ls": ""},
        "folds by pair (leak)": {"color": INK, "marker": "D", "ms": 3.8, "ls": "", "mfc": "white"},
        "published": {"color": MUTED, "lw": 0.9, "ls": (0, (5, 3))},
    }
    styles |= {f"to {part}": {"color": PART_COLOURS[part], "lw": 4} for part in PARTS}
    legend_row(figure, [Line2D([], [], **style) for style in styles.values()], list(styles), columns=2 if narrow else 7)
    return figure


def _predicted(axis: Axes, correlations: pd.DataFrame) -> None:
    """A line a system, the first at the top."""
    systems = list(dict.fromkeys(correlations["system"]))
    for name, value in (("semantic BM25", LU_2025_SEMANTIC_BM25), ("tuned BM25", LU_2025_TUNED_BM25)):
        level = axis.axvline(value, color=MUTED, lw=0.9, ls=(0, (5, 3)))
        hover(level, f"published, by pair: r {value:.3f} of {name}")
    for place, system in enumerate(systems):
        own, y = correlations[correlations["system"] == system], len(systems) - 1 - place
        colour = BLUE if system.startswith("semantic") else INK
        of_folds = own[(own["split"] == BY_QUERY) & (own["fold"] != "all")]
        axis.plot(
            of_folds["r"], np.full(len(of_folds), y - 0.16), ls="", marker="o", ms=2, mew=0, color=colour, alpha=0.5
        )
        for split, marker, size, shift in ((BY_QUERY, "o", 4.5, 0.0), (BY_PAIR, "D", 3.8, 0.2)):
            (row,) = own[(own["split"] == split) & (own["fold"] == "all")].to_dict("records")
            if np.isfinite(row["r_low"]):
                axis.plot([row["r_low"], row["r_high"]], [y + shift] * 2, color=colour, lw=0.9, alpha=0.6)
            face = colour if split == BY_QUERY else "white"
            (dot,) = axis.plot(
                [row["r"]], [y + shift], ls="", marker=marker, ms=size, mec=colour, mew=0.9, mfc=face, gid=split
            )
            bounds = interval_text(row["r_low"], row["r_high"])
            also = f"within queries {row['r_within']:.3f}, R² {row['r2']:.3f}"
            hover(dot, f"{system}, folds by {split}: r {row['r']:.3f}{bounds}, {also}")
    axis.set_yticks(range(len(systems)), [system.replace(", ", ",\n") for system in reversed(systems)])
    axis.set_ylim(-0.6, len(systems) - 0.4)
    axis.set_xlabel("r with the score, pairs held out")
    axis.set_title("the score, predicted")


def _idf(axis: Axes, embeddings: pd.DataFrame) -> None:
    """A line a (weights, rows decomposed) over k; dotted: the length of the row alone."""
    axis.set_title("idf in token embeddings")
    axis.set_xlabel("first directions, k")
    axis.set_ylabel("R² on held-out pieces")
    if embeddings.empty:
        axis.annotate("not measured", (0.5, 0.5), xycoords="axes fraction", ha="center", color=MUTED)
        return
    for (weights, rows), style in LINES.items():
        own = embeddings[(embeddings["weights"] == weights) & (embeddings["rows"] == rows)]
        of_sizes = own[own["feature"] != NORM]
        if own.empty:
            continue
        sizes = of_sizes["feature"].astype(int)
        axis.plot(sizes, of_sizes["r2"], gid=f"{weights}, {rows}", zorder=3, **style)
        if rows == "all":
            axis.fill_between(sizes, of_sizes["low"], of_sizes["high"], color=style["color"], alpha=0.15, lw=0)
            level = float(own.loc[own["feature"] == NORM, "r2"].iloc[0])
            axis.axhline(level, color=style["color"], lw=0.9, ls=(0, (1, 2)), gid=f"{weights}, {NORM}")
            text = "row length" if weights == "model" else f"{weights}'s row length"
            axis.annotate(text, (1.0, level), xycoords=("axes fraction", "data"), xytext=(-1, 2), textcoords="offset points",
                          ha="right", fontsize=7, color=style["color"])  # fmt: skip
            if (embeddings["weights"] == weights).all():
                continue  # one model alone needs no name
            axis.annotate(weights, (sizes.iloc[-1], of_sizes["r2"].iloc[-1]), xytext=(0, 4), textcoords="offset points",
                          ha="right", fontsize=7, color=style["color"])  # fmt: skip
    every = sorted(set(embeddings.loc[embeddings["feature"] != NORM, "feature"].astype(int)))
    axis.set_xscale("log")
    shown = every[::2] if len(every) > 6 else every
    axis.xaxis.set_major_locator(FixedLocator(shown))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(shown, [str(size) for size in shown])
    axis.set_ylim(min(0.0, axis.get_ylim()[0]), max(axis.get_ylim()[1], 0.05))


def _attention(axis: Axes, heads: pd.DataFrame) -> None:
    """A bar a chosen head, those first that most folds chose and that go best with the score."""
    order = (
        heads[heads["chosen"] > 0]
        .assign(size=heads["r_within"].abs())
        .sort_values(["chosen", "size"], ascending=False, kind="stable")
    )
    shown = order.head(MOST_HEADS).to_dict("records")
    for place, row in enumerate(shown):
        y, left = len(shown) - 1 - place, 0.0
        for part in PARTS:
            (bar,) = axis.barh([y], [row[part]], left=left, height=0.72, color=PART_COLOURS[part], lw=0, gid=part)
            hover(
                bar,
                f"head {row['layer']}.{row['head']}: {row[part]:.1%} to {part}; r within queries {row['r_within']:.3f}",
            )
            left += row[part]
        axis.barh([y], [max(1 - left, 0.0)], left=left, height=0.72, color=FAINT, lw=0)
    axis.set_yticks(range(len(shown)), [f"{row['layer']}.{row['head']}" for row in reversed(shown)])
    axis.set_xlim(0, 1)
    axis.set_ylim(-0.6, len(shown) - 0.4)
    axis.xaxis.set_major_formatter(percent)
    axis.set_xlabel("attention of a query token")
    axis.set_title("chosen heads")
    axis.grid(visible=False)
