"""The figures of probes hold what their frames hold, and their captions say what was done."""

import numpy as np
import pytest
import saved_results

from tl_crossenc.report.captions import caption
from tl_crossenc.report.figures.probes import SET_NAMES, probe_features, probes
from tl_crossenc.report.run_record import Run
from tl_crossenc.statistics.published import ZHAN_2020_PROBES


@pytest.fixture(scope="module")
def given():
    return saved_results.results(n_layers=3, n_heads=5)["probes"]


def titled(figure):
    return {axis.get_title(loc="left"): axis for axis in figure.axes}


def test_every_set_has_its_probe_and_its_controls(given):
    axes = titled(probes(given.relevance.sample(frac=1, random_state=2)))  # in no order
    for name in given.relevance["set"].unique():
        title = SET_NAMES[name]
        own = given.relevance[given.relevance["set"] == name]
        rows = own[own["source"] == "model"].sort_values("layer")
        (line,) = [line for line in axes[title].lines if line.get_marker() == "o"]
        assert line.get_ydata().tolist() == rows["ndcg"].tolist()
        assert line.get_xdata().tolist() == [0, 1, 2, 3]
        (band,) = axes[title].collections
        drawn = band.get_paths()[0].vertices[:, 1]
        assert {*rows["ndcg_low"], *rows["ndcg_high"]} <= {*drawn}
        for source in ("shuffled", "untrained", "lens"):
            found = [line for line in axes[title].lines if line.get_gid() and source_of(line) == source]
            values = own[own["source"] == source].sort_values("layer")["ndcg"].tolist()
            assert [line.get_ydata().tolist() for line in found] == ([values] if values else [])
        floor = [line for line in axes[title].lines if len(set(np.asarray(line.get_ydata()).tolist())) == 1]
        assert [line.get_ydata()[0] for line in floor] == [0.53 if name == "MATCHED" else pytest.approx(0.47)]


def source_of(line):
    said = {"untrained twin": "untrained", "shuffled labels": "shuffled", "the head itself": "lens"}
    return said.get(line.get_gid().removeprefix("hover:").partition(",")[0])


def test_the_published_curves_stand_at_their_relative_depth(given):
    axis = titled(probes(given.relevance))["Zhan et al.: MRR@10"]
    found = {tuple(line.get_ydata()): line.get_xdata() for line in axis.lines if len(line.get_ydata()) > 2}
    assert set(found) == {ZHAN_2020_PROBES[name] for name in given.relevance["set"]}
    assert found[ZHAN_2020_PROBES["CLS"]][[0, 12]].tolist() == [0, 3]
    assert found[ZHAN_2020_PROBES["DOC"]][11] == pytest.approx(3 * 11 / 12)


def test_sets_that_were_asked_for_have_panels_and_published_curves_too(given):
    """One that is not among the usual five is not dropped."""
    named = {"SEP": "STOPS", "DOC": "STOP_WORDS"}
    relevance, features = (frame.assign(set=frame["set"].replace(named)) for frame in (given.relevance, given.features))
    axes = titled(probes(relevance))
    assert {"full stops of passage", "stop words of passage"} < set(axes)
    assert not {"separators", "passage"} & set(axes)
    drawn = {tuple(line.get_ydata()) for line in axes["Zhan et al.: MRR@10"].lines}
    assert {ZHAN_2020_PROBES["STOPS"], ZHAN_2020_PROBES["STOP_WORDS"]} < drawn
    assert {"full stops of passage", "stop words of passage"} < set(titled(probe_features(features)))
    colours = {axes[SET_NAMES[name]].lines[-2].get_color() for name in relevance["set"].unique()}
    assert len(colours) == 5


@pytest.mark.parametrize("narrow", [False, True])
def test_each_features_r2_within_queries_is_a_line(given, narrow):
    axes = titled(probe_features(given.features, narrow=narrow))
    rows = given.features[(given.features["source"] == "model") & (given.features["set"] == "SEP")]
    lines = [line for line in axes["separators"].lines if len(line.get_ydata()) > 2]
    assert [line.get_ydata().tolist() for line in lines] == [
        rows[rows["feature"] == feature]["within"].tolist()
        for feature in ("bm25", "tf_idf", "covered", "covered_ratio", "exact_matches", "passage_words")
    ]


def test_the_captions_name_sample_folds_floor_and_what_is_left_out(tmp_path, given):
    folder = saved_results.save_run(tmp_path)
    said = caption(folder, "probes", Run.read(folder))
    for words in (
        "7 of 11 queries, drawn at random, 30 graded passages",
        "ridge regression that reads the mean state",
        "grade 2 or 3",
        "5 folds, seed 17",
        "mean of 3",
        "Pairs without such tokens are left out: matched in passage (5).",
        "not what the model uses",
    ):
        assert words in said
    best = given.relevance[given.relevance["source"] == "model"]["ndcg"].max()
    assert f"layers, {best:.3f}" in said
    said = caption(folder, "probe_features", Run.read(folder))
    for words in ("k1 = 0.9, b = 0.4", "1,234 passages of 41 words on average", "No R² of query_words"):
        assert words in said
