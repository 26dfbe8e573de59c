"""The figure of bottlenecks holds what its frames hold, and its caption says what was measured."""

import numpy as np
import pytest
import saved_results

from tl_crossenc.report.captions import caption
from tl_crossenc.report.figures.bottleneck import bottleneck
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.layout import SUMMARIES
from tl_crossenc.results.outputs import write_json


@pytest.fixture(scope="module")
def given():
    return saved_results.results(n_layers=6)["bottleneck"]


@pytest.fixture(scope="module")
def axes(given):
    figure = bottleneck(given.by_layer, given.matches, given.positions)
    return {axis.get_title(loc="left"): axis for axis in figure.axes}


def lines(axis, length):
    return [
        line.get_ydata().tolist()
        for line in axis.lines
        if len(line.get_xdata()) == length and line.get_marker() == "None"
    ]


def test_lines_are_the_frames(given, axes):
    for title, quantity in (("all tokens of a part", "bits"), ("share of the bits", "share")):
        parts = [given.by_layer[given.by_layer["part"] == part][quantity].tolist() for part in ("CLS", "QUERY", "DOC")]
        assert lines(axes[title], 6) == parts
    doc = given.matches[given.matches["part"] == "DOC"]
    kinds = [doc[doc["kind"] == kind]["per_token"].tolist() for kind in saved_results.KINDS]
    assert lines(axes["tokens of the passage"], 6) == kinds
    places = [given.positions[given.positions["layer"] == layer]["per_token"].tolist() for layer in (0, 2, 3, 5)]
    assert lines(axes["along the passage"], 10) == places
    names = [text.get_text() for text in axes["along the passage"].get_legend().get_texts()]
    assert names == [f"after layer {layer}" for layer in (0, 2, 3, 5)]


def test_bands_are_the_intervals(given, axes):
    (band, *_) = axes["share of the bits"].collections
    cls = given.by_layer[given.by_layer["part"] == "CLS"]
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((cls["share_low"].min(), cls["share_high"].max()))


def test_one_query_has_no_bands(given):
    blank = given.by_layer.assign(**{f"{name}_{end}": np.nan for name in ("bits", "share") for end in ("low", "high")})
    figure = bottleneck(blank, given.matches, given.positions, narrow=True)
    assert not [path for band in figure.axes[0].collections for path in band.get_paths() if len(path.vertices)]


@pytest.mark.parametrize(
    ("half", "said"),
    [(5, "has only after the last ("), (2, "has first after layer 2 ("), (None, "has after no layer (")],
)
def test_the_caption_says_when_cls_has_half_and_how_far_scores_are_off(tmp_path, given, half, said):
    folder = saved_results.save_run(tmp_path, n_layers=6)
    write_json(folder / SUMMARIES / "bottleneck.json", given.scalars | {"first_half": half})
    text = caption(folder, "bottleneck", Run.read(folder))
    first, last = (given.by_layer.query("part == 'CLS' and layer == @layer")["share"].item() for layer in (0, 5))
    for words in (
        said,
        "13 passages of 7 queries",
        "seed 23",
        "beta 10, 9 steps",
        f"{first:.0%} after layer 0, {last:.0%} after layer 5",
    ):
        assert words in text
    table = given.by_layer.pivot(index="layer", columns="part", values="share")
    most = max(table["SEP1"][layer] + table["SEP2"][layer] for layer in range(6))
    assert f"the separators, not drawn, have up to {most:.0%}." in text
    errors = given.scores["error"]
    assert f"{errors.min():.2f} to {errors.max():.2f} standard deviations" in text
