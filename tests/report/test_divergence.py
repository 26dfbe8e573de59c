"""The figure of two models' layers: what is drawn is what the frame has, and it goes where there is none."""

import numpy as np
import pandas as pd

from tl_crossenc.report.drawing import draw_divergence
from tl_crossenc.report.figures.divergence import divergence

ROWS = [
    (part, layer, i + layer / 7, 0.9 - layer * i / 3) for i, part in enumerate(("CLS", "DOC")) for layer in range(3)
]
LAYERS = pd.DataFrame(ROWS, columns=["part", "layer", "distance", "cka"])
LAYERS["low"], LAYERS["high"] = LAYERS["distance"] - 0.1, LAYERS["distance"] + 0.2


def test_a_line_a_part_in_both_panels():
    axes = divergence(LAYERS).axes
    for axis, value in zip(axes, ("distance", "cka"), strict=True):
        drawn = [line.get_ydata().tolist() for line in axis.lines if len(line.get_xdata()) == 3]
        assert drawn == [LAYERS.loc[LAYERS["part"] == part, value].tolist() for part in ("CLS", "DOC")]
        assert axis.get_ylim()[0] <= min(0, LAYERS["cka"].min())
    assert len(axes[0].collections) == 2
    assert not axes[1].collections
    one = LAYERS.assign(low=np.nan, high=np.nan)  # a single query has no interval
    assert not divergence(one).axes[0].collections


def test_the_files_are_written_and_removed(tmp_path):
    files = draw_divergence(tmp_path, LAYERS)
    assert files == ["figures/compare_models.svg", "figures/compare_models-narrow.svg", "figures/compare_models.pdf"]
    assert all((tmp_path / name).stat().st_size > 1000 for name in files)
    assert draw_divergence(tmp_path, None) == []
    assert not any((tmp_path / name).exists() for name in files)
