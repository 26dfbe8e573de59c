"""From a results folder to its figures: `figures/<key>.svg` and `.pdf`, two columns wide, and `<key>-narrow.svg`, one column."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from tl_crossenc.report import beyond, figures
from tl_crossenc.report.figures.alignment import top_heads
from tl_crossenc.report.figures.divergence import divergence
from tl_crossenc.report.figures.matching import map_extent
from tl_crossenc.report.figures.svg import to_pdf, to_svg
from tl_crossenc.results.artefacts import DRAWN, load_scalars, load_table, load_unavailable
from tl_crossenc.results.layout import FIGURES, RUN
from tl_crossenc.results.outputs import read_json
from tl_crossenc.store.files import write_atomic

SPECTRUM_HEADS = 5
DIVERGENCE = "compare_models"
"""The figure of two models' layers."""

Draw = Callable[[bool], Figure]


def figure_files(key: str) -> list[str]:
    """The files of a figure, in the results folder."""
    return [f"{FIGURES}/{key}{end}" for end in (".svg", "-narrow.svg", ".pdf")]


def draw_figures(folder: Path) -> dict[str, str]:
    """Draw every figure whose numbers are there; remove those of an earlier run whose numbers are not.

    Returns:
        What is unavailable: key -> reason.
    """
    folder = Path(folder)
    missing = load_unavailable(folder)
    for key in DRAWN:
        _write(folder, key, None if key in missing else DRAWERS[key](folder))
    return {key: reason for key, reason in missing.items() if key in DRAWN}


def draw_divergence(folder: Path, layers: pd.DataFrame | None) -> list[str]:
    """Draw the layers of a comparison of two models (`ModelComparison.layers`); where there are none, remove an earlier drawing.

    Returns:
        The files that are there, in the results folder.
    """
    draw: Draw | None = None if layers is None else lambda narrow: divergence(layers, narrow=narrow)
    _write(folder, DIVERGENCE, draw)
    return [] if draw is None else figure_files(DIVERGENCE)


def _write(folder: Path, key: str, draw: Draw | None) -> None:
    """Write a figure's files; without one, remove them."""
    wide_svg, narrow_svg, pdf = (folder / name for name in figure_files(key))
    if draw is None:
        for path in (wide_svg, narrow_svg, pdf):
            path.unlink(missing_ok=True)
        return
    with _uncollected():
        wide, narrow = draw(False), draw(True)
        write_atomic(wide_svg, to_svg(wide, key))
        wide.set_layout_engine("none")  # laid out already
        write_atomic(narrow_svg, to_svg(narrow, f"{key}-narrow"))
        write_atomic(pdf, to_pdf(wide))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which a figure's many small objects would send through all that the job holds, in vain."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def matching_frame(folder: Path) -> pd.DataFrame | None:
    """Figure 1b's frame, where there is one."""
    return None if "figure1b" in load_unavailable(folder) else load_table(folder, "figure1b", "heads")


def named_heads(folder: Path) -> list[tuple[int, int]]:
    """The heads of the largest passing differences in any direction, for figures that show some heads only."""
    frame = matching_frame(folder)
    if frame is None:
        return []
    found = [
        head for direction in dict.fromkeys(frame["direction"]) for head in top_heads(frame, direction, len(frame))
    ]
    largest = frame.groupby(["layer", "head"])["difference"].max()
    return sorted(dict.fromkeys(found), key=lambda head: -largest[head])[:SPECTRUM_HEADS]


def _cutoff(folder: Path) -> int:
    record = read_json(folder / RUN) if (folder / RUN).exists() else {}
    return int(record.get("settings", {}).get("cutoff", 10))


def _figure1a(folder: Path) -> Draw:
    curve, scalars = load_table(folder, "figure1a", "curve"), load_scalars(folder, "figure1a")
    unablated = _interval(scalars)
    cutoff = _cutoff(folder)
    return lambda narrow: figures.figure1a(
        curve,
        unablated=unablated,
        random=scalars["random"],
        span=scalars.get("span", "up_to"),
        cutoff=cutoff,
        narrow=narrow,
    )


def figure1b_extent(folder: Path) -> float:
    """Where the colours of Figure 1b end: the same for the model and its untrained twin, and in Figure 2."""
    missing = load_unavailable(folder)
    return map_extent(
        *(load_table(folder, key, "heads") for key in ("figure1b", "figure1b_control") if key not in missing)
    )


def _map(key: str) -> Callable[[Path], Draw]:
    def prepare(folder: Path) -> Draw:
        frame, scalars, extent = load_table(folder, key, "heads"), load_scalars(folder, key), figure1b_extent(folder)
        return lambda narrow: figures.figure1b(
            frame, quantity=scalars.get("quantity", "mass"), extent=extent, narrow=narrow
        )

    return prepare


def _figure1c(folder: Path) -> Draw:
    tables = [load_table(folder, "figure1c", name) for name in ("histogram", "distance", "token_pairs")]
    return lambda narrow: figures.figure1c(*tables, narrow=narrow)


def _matches(folder: Path) -> Draw:
    mass = load_table(folder, "matches", "mass")
    return lambda narrow: figures.matches(mass, narrow=narrow)


def _sinks(folder: Path) -> Draw:
    by_layer = load_table(folder, "sinks", "by_layer")
    return lambda narrow: figures.sinks(by_layer, narrow=narrow)


def _figure2(folder: Path) -> Draw:
    heads, matching = load_table(folder, "figure2", "heads"), matching_frame(folder)
    return lambda narrow: figures.figure2(heads, matching, narrow=narrow)


def _spectrum(folder: Path) -> Draw:
    frame, heads = load_table(folder, "spectrum", "spectrum"), named_heads(folder)
    return lambda narrow: figures.spectrum(frame, heads, narrow=narrow)


def _decomposition(folder: Path) -> Draw:
    frame = load_table(folder, "decomposition", "decomposition")
    return lambda narrow: figures.decomposition(frame, narrow=narrow)


def _head_ablation(folder: Path) -> Draw:
    curve, draws = (load_table(folder, "head_ablation", name) for name in ("curve", "draws"))
    if "difference" not in curve:
        raise ValueError(
            f"expected in {folder} a head ablation of this version, got an earlier one's: run `tl-crossenc reproduce` again"
        )
    key = "head_ablation_folds"
    folds = None if key in load_unavailable(folder) else load_table(folder, key, "folds")
    n_drawn, cutoff = len(load_scalars(folder, "head_ablation").get("drawn_queries", ())), _cutoff(folder)
    return lambda narrow: figures.head_ablation(
        curve, draws, folds, n_drawn=n_drawn or None, cutoff=cutoff, narrow=narrow
    )


def _interval(scalars: dict) -> tuple[float, float, float]:
    bounds = [scalars["unablated"][name] for name in ("mean", "low", "high")]
    mean, low, high = (float("nan") if bound is None else float(bound) for bound in bounds)
    return mean, low, high


DRAWERS: dict[str, Callable[[Path], Draw]] = {
    "figure1a": _figure1a,
    "figure1b": _map("figure1b"),
    "figure1b_control": _map("figure1b_control"),
    "figure1c": _figure1c,
    "matches": _matches,
    "sinks": _sinks,
    "figure2": _figure2,
    "spectrum": _spectrum,
    "decomposition": _decomposition,
    "head_ablation": _head_ablation,
    **beyond.DRAWERS,
}
"""Reads a figure's numbers and returns how to draw it, narrow or not."""
