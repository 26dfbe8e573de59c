"""The figure of heads as rankers holds what its frames hold, and its caption says what was done."""

import pytest
import saved_results

from tl_crossenc.report import figures
from tl_crossenc.report.captions import caption
from tl_crossenc.report.figures.ablation import BESIDE
from tl_crossenc.report.figures.head_rankers import APART, head_rankers
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.unavailable import Unavailable


@pytest.fixture(scope="module")
def given():
    return saved_results.results(n_layers=3, n_heads=5)["head_rankers"]


@pytest.fixture(scope="module")
def axes(given):
    figure = head_rankers(given.heads, given.rankings, given.comparisons, given.references)
    return {axis.get_title(loc="left"): axis for axis in figure.axes}


def test_every_head_alone_is_a_dot_in_its_layer(given, axes):
    own = given.heads[given.heads["direction"] == "DOC->QUERY"]
    dots = [line for line in axes["DOC→QUERY: every head alone"].lines if line.get_markersize() == 2.8]
    assert [dot.get_ydata()[0] for dot in dots] == own["ndcg"].tolist()
    assert [round(dot.get_xdata()[0]) for dot in dots] == own["layer"].tolist()


def test_the_best_heads_are_lines_and_the_half_that_chose_them_is_dashed(given, axes):
    axis = axes["QUERY→DOC: the k best together"]
    rows = given.rankings[(given.rankings["direction"] == "QUERY->DOC") & (given.rankings["fold"] == "both")]
    for half, style in (("other half", "-"), ("same half", "--")):
        lines = [line for line in axis.lines if line.get_gid() == half]
        for i, (line, criterion) in enumerate(zip(lines, ("core_0.001", "qr", "ndcg"), strict=True)):
            own = rows[(rows["criterion"] == criterion) & (rows["chosen_on"] == half)]
            assert line.get_ydata().tolist() == own["mean"].tolist()
            assert line.get_xdata().tolist() == pytest.approx([k * APART ** (i - 1) for k in (1, 2, 4)])
            assert line.get_linestyle() == style
    (square,) = [line for line in axis.lines if line.get_marker() == "s"]
    whole = rows[rows["criterion"] == "all heads"]
    assert (square.get_xdata()[0], square.get_ydata()[0]) == (15, whole["mean"].item())
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2", "4", "all"]


def test_filled_is_what_is_better_than_chance_by_the_corrected_test(given, axes):
    axis = axes["DOC→QUERY: the k best together"]
    tests = given.comparisons[
        (given.comparisons["direction"] == "DOC->QUERY") & (given.comparisons["against"] == "random")
    ]
    better = (tests["p_holm"] <= 0.05) & (tests["difference"] > 0)
    points = [line for line in axis.lines if line.get_marker() in ("o", "s") and line.get_markersize() == 3.6]
    assert [point.get_markerfacecolor() != "white" for point in points] == better.tolist()
    assert 0 < better.sum() < len(better)


def test_the_caption_names_sample_seed_tests_and_what_is_left_out(tmp_path, given):
    said = caption(saved_results.save_run(tmp_path), "head_rankers", Run.read(tmp_path))
    for words in ("7 of 11 queries", "4 and 3, seed 13", "“N/A”", "5 queries have both", "grade 2 or 3"):
        assert words in said
    assert f"correction over {2 * 3 * 3 + 2} rankings" in said
    assert "CoRe score, t = 0.1 is left out: no query of one half has hard negatives." in said
    leak = given.comparisons[given.comparisons["against"] == "same half"]["difference"].min()
    assert f"up to {-leak:.3f} better" in said
    best = given.rankings[(given.rankings["fold"] == "both") & (given.rankings["chosen_on"] != "same half")][
        "mean"
    ].max()
    assert f"{best:.3f}" in said.partition("The best of these 20")[2]


def test_the_ablation_shows_halves_and_the_caption_says_how_they_fare(tmp_path):
    given = saved_results.results(n_layers=3, n_heads=5)
    curve, draws, folds = given["head_ablation"].curve, given["head_ablation"].draws, given["head_ablation_folds"].folds
    figure = figures.head_ablation(curve, draws, folds, n_drawn=4)
    for axis, scope in zip(figure.axes, ("QUERY<->DOC", "whole head"), strict=True):
        for fold, marker in (("both", "s"), ("0", "^"), ("1", "v")):
            rows = folds[(folds["scope"] == scope) & (folds["fold"] == fold)]
            marks = [line for line in axis.lines if line.get_marker() == marker]
            assert [mark.get_ydata()[0] for mark in marks] == rows["difference"].tolist()
            assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([k / BESIDE for k in rows["k"]])
    folder = saved_results.save_run(tmp_path / "halves")
    said = caption(folder, "head_ablation", Run.read(folder))
    assert "(4 and 3, drawn with seed 11; triangles: each half)" in said
    four = folds[(folds["k"] == 4) & (folds["fold"] == "both")]
    for name in ("difference", "all_difference"):
        for value in four[name]:
            assert f"−{-value:.3f}" in said.partition("With k = 4")[2]
    given["head_ablation_folds"] = Unavailable("heads were named.")
    folder = saved_results.save_run(tmp_path / "named", given)
    assert "On queries that did not rank them: heads were named." in caption(folder, "head_ablation", Run.read(folder))
