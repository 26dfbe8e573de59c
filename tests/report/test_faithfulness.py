"""The figures of faithfulness hold what their frames hold, and their captions say what was done."""

import numpy as np
import pytest
import saved_methods
import saved_results
from matplotlib.colors import to_rgba

from tl_crossenc.report.captions import caption
from tl_crossenc.report.drawing import draw_figures
from tl_crossenc.report.figures.faithfulness import COLOURS, ORDERS, faithfulness, faithfulness_rankings
from tl_crossenc.report.run_record import Run


@pytest.fixture(scope="module")
def given():
    found = saved_methods.faithfulness(np.random.default_rng(5))
    areas = found.measures["measure"] == "area"
    found.measures.loc[areas & (found.measures["attribution"] == "direct"), ["p_holm", "difference"]] = 0.01, 0.4
    found.measures.loc[areas & (found.measures["attribution"] == "leave-one-out"), ["p_holm", "difference"]] = (
        0.01,
        -0.4,
    )
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory, given):
    return saved_results.save_run(tmp_path_factory.mktemp("run"), {"faithfulness": given})


@pytest.mark.parametrize("narrow", [False, True])
def test_lines_are_the_curves_and_points_the_rankings(given, narrow):
    figure = faithfulness(given.curves.sample(frac=1, random_state=2), given.measures, narrow=narrow)
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes}
    assert set(panels) == {"direct", "leave-one-out", "random"}
    for name, axis in panels.items():
        for order, (colour, _) in ORDERS.items():
            (line,) = [line for line in axis.lines if to_rgba(line.get_color()) == to_rgba(colour)]
            own = given.curves.set_index(["attribution", "order"]).loc[(name, order)].sort_values("fraction")
            np.testing.assert_array_equal(line.get_xydata(), own[["fraction", "mean"]])
        area = given.measures.set_index(["attribution", "measure"]).loc[(name, "area"), "mean"]
        assert f"area {area:.2f}" in "".join(text.get_text() for text in axis.texts)
    (axis,) = faithfulness_rankings(given.rankings, random=0.47, narrow=narrow).axes
    for _, row in given.rankings.iterrows():
        colour = to_rgba(COLOURS[row["attribution"]])
        (dot,) = [
            line
            for line in axis.lines
            if line.get_marker() == "o"
            and to_rgba(line.get_color()) == colour
            and line.get_xdata()[0] == row["fraction"]
        ]
        assert line_height(dot) == row["mean"]
        assert (to_rgba(dot.get_markerfacecolor()) == colour) == (row["p_holm"] <= 0.05)


def line_height(line):
    return line.get_ydata()[0]


def test_captions_say_what_was_done_and_what_is_better_than_random(folder):
    run = Run.read(folder)
    said = caption(folder, "faithfulness", run)
    for part in (
        "tokens of its passage are deleted",
        "without all of them. Of small <b>model</b> on tiny-2: 7 queries, drawn at random with seed 5, all 31 graded passages",
        "26 pairs whose score falls by at least 0.37",
        "A larger area than random tokens have: direct (paired t-test over queries, Holm over 6 tests",
        "Left out: bottleneck, since there is one query.",
        "mean of 2 orders",
    ):
        assert part in said
    ranked = caption(folder, "faithfulness_rankings", run)
    assert "after the most important tokens of every passage are deleted" in ranked
    assert "all passages of a query are the same input" in ranked
    assert "random ranking 0.470" in ranked


def test_both_figures_are_drawn(folder):
    draw_figures(folder)
    for key in ("faithfulness", "faithfulness_rankings"):
        assert any((folder / "figures").glob(f"{key}*.svg"))
