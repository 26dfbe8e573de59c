"""Figures and captions of the methods beyond the paper, a module a method, by the keys of `results.beyond`.

A module has `DRAWERS` (folder → how to draw, narrow or not) and `CAPTIONS` ((folder, summary, run) → text), as `report.drawing` and
`report.captions` have of the paper's artefacts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from tl_crossenc.report.beyond import (
    adapter_updates,
    bottleneck,
    circuits,
    faithfulness,
    head_rankers,
    neuron_pruning,
    part_gradients,
    probes,
    semantic_bm25,
)
from tl_crossenc.report.run_record import Run

MODULES: tuple[ModuleType, ...] = (
    bottleneck,
    part_gradients,
    neuron_pruning,
    adapter_updates,
    circuits,
    head_rankers,
    probes,
    semantic_bm25,
    faithfulness,
)

DRAWERS: dict[str, Callable[[Path], Callable[[bool], Figure]]] = {
    key: draw for module in MODULES for key, draw in module.DRAWERS.items()
}
CAPTIONS: dict[str, Callable[[Path, dict[str, Any], Run], str]] = {
    key: say for module in MODULES for key, say in module.CAPTIONS.items()
}
