"""The figure of semantic BM25 holds what its frames hold, and its caption says what was done."""

from types import SimpleNamespace

import pytest
import saved_results

from tl_crossenc.report.captions import caption
from tl_crossenc.report.figures.semantic_bm25 import semantic_bm25
from tl_crossenc.report.run_record import Run


@pytest.fixture(scope="module")
def given():
    return saved_results.results(n_layers=3, n_heads=5)["semantic_bm25"]


@pytest.fixture(scope="module")
def axes(given):
    return {
        axis.get_title(loc="left"): axis
        for axis in semantic_bm25(given.correlations, given.heads, given.embeddings).axes
    }


def test_every_system_is_a_line_of_both_splits_with_the_published_values(given, axes):
    axis, rows = axes["the score, predicted"], given.correlations
    whole = rows[rows["fold"] == "all"]
    for split, face in (("query", False), ("pair", True)):
        dots = [line for line in axis.lines if line.get_gid() and f"folds by {split}" in line.get_gid()]
        own = whole[whole["split"] == split]
        assert [dot.get_xdata()[0] for dot in dots] == own["r"].tolist()
        assert [round(dot.get_ydata()[0]) for dot in dots] == [4, 3, 2, 1, 0]
        assert {dot.get_markerfacecolor() == "white" for dot in dots} == {face}
    of_folds = [line.get_xdata().tolist() for line in axis.lines if line.get_markersize() == 2]
    by_query = rows[(rows["fold"] != "all") & (rows["split"] == "query")]
    assert of_folds == [own["r"].tolist() for _, own in by_query.groupby("system", sort=False)]
    assert [line.get_xdata()[0] for line in axis.lines if "published" in str(line.get_gid())] == [0.8157, 0.42]
    assert [tick.get_text().replace("\n", " ") for tick in axis.get_yticklabels()] == list(whole["system"])[4::-1]


def test_idf_is_a_line_over_directions_with_the_length_of_rows_beside_it(given, axes):
    axis = axes["idf in token embeddings"]
    for (weights, rows), own in given.embeddings.groupby(["weights", "rows"]):
        (line,) = [line for line in axis.lines if line.get_gid() == f"{weights}, {rows}"]
        of_sizes = own[own["feature"] != "norm"]
        assert line.get_xdata().tolist() == [1, 2, 4, 8, 11]
        assert line.get_ydata().tolist() == of_sizes["r2"].tolist()
        if rows == "all":
            (level,) = [line for line in axis.lines if line.get_gid() == f"{weights}, norm"]
            assert level.get_ydata()[0] == own.loc[own["feature"] == "norm", "r2"].item()


def test_bars_are_of_the_heads_that_most_folds_chose(given, axes):
    axis = axes["chosen heads"]
    order = sorted(
        (row for row in given.heads.to_dict("records") if row["chosen"]),
        key=lambda row: (-row["chosen"], -abs(row["r_within"])),
    )[:13]
    labels = [tick.get_text() for tick in axis.get_yticklabels()][::-1]
    assert labels == [f"{row['layer']}.{row['head']}" for row in order]
    widths = [bar.get_width() for bar in axis.patches if "to SEP2" in str(bar.get_gid())]
    assert widths == pytest.approx([row["SEP2"] for row in order])


def test_a_head_that_no_fold_chose_is_no_chosen_head(tmp_path, given):
    heads = given.heads.assign(chosen=[3, 0, 1] + [0] * (len(given.heads) - 3))
    figure = semantic_bm25(given.correlations, heads, given.embeddings)
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left") == "chosen heads"]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["0.2", "0.0"]
    saved_results.save_run(tmp_path, {"semantic_bm25": SimpleNamespace(**{**vars(given), "heads": heads})})
    assert "in the 2 heads that any of the folds chose" in caption(tmp_path, "semantic_bm25", Run.read(tmp_path))


def test_without_embeddings_it_is_said(given):
    figure = semantic_bm25(given.correlations, given.heads, given.embeddings.iloc[:0], narrow=True)
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left") == "idf in token embeddings"]
    assert [text.get_text() for text in axis.texts] == ["not measured"]


def test_the_caption_names_sample_folds_seed_collection_leak_and_what_is_left_out(tmp_path, given):
    said = caption(saved_results.save_run(tmp_path), "semantic_bm25", Run.read(tmp_path))
    leak = given.comparisons[(given.comparisons["system"] == "semantic BM25") & (given.comparisons["split"] == "pair")][
        "difference"
    ].item()
    for words in (
        *(
            "7 of 11 queries",
            "1,301 graded passages",
            "3 folds, seed 29",
            "0.816 against 0.420",
            "1,709 distinct passages",
        ),
        *(
            "89 pieces",
            "the 24 that no passage has",
            "[unused] ones in",
            "−0.714",
            "Nothing is tested",
            "Red: the base",
        ),
        f"changes by {leak:+.3f}".replace("-", "−"),
    ):
        assert words in said, words
