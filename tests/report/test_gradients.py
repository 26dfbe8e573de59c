"""The figures of gradients by part and of pruned neurons hold what their frames hold, and their captions say what was done."""

import json
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import saved_results
from matplotlib.colors import to_rgba

from tl_crossenc.report.captions import caption
from tl_crossenc.report.drawing import draw_figures
from tl_crossenc.report.figures.neuron_pruning import neuron_pruning
from tl_crossenc.report.figures.part_gradients import COLOURS, part_gradients, published_points
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.artefacts import summary
from tl_crossenc.statistics.published import ZHAN_2020_GRADIENTS

PARTS = ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "SEP", "STOPS", "ALL")
BASELINES = ("query:pad", "both:mask")
LAYERS = range(4)


@pytest.fixture(scope="module")
def gradients():
    rng = np.random.default_rng(3)
    parts = pd.DataFrame(list(product(BASELINES, LAYERS, PARTS)), columns=["baseline", "layer", "part"])
    parts["mean"] = np.where(parts["part"] == "ALL", 2.5, rng.uniform(-1, 2, len(parts)))
    parts["low"], parts["high"] = parts["mean"] - 0.3, parts["mean"] + 0.4
    parts["share"], parts["published"], parts["n_queries"] = parts["mean"] / 2.5, np.nan, 7
    parts["share_low"], parts["share_high"] = parts["share"] - 0.07, parts["share"] + 0.11
    parts.loc[parts["baseline"] == "both:mask", ["share_low", "share_high"]] = np.nan
    errors = pd.DataFrame(list(product(BASELINES, LAYERS)), columns=["baseline", "layer"])
    errors["difference"] = np.where(errors["baseline"] == "query:pad", 2.75, -0.5)
    errors = errors.assign(median=1e-4, largest=0.1, missed=[2, 0, 1, 0] * 2, same=1, n_pairs=13)
    scalars = {"n_queries": 7, "n_pairs": 13, "n_layers": 3, "nodes": 48, "sampled": {"queries": 7, "passages": None}}
    return SimpleNamespace(parts=parts, errors=errors, per_query=errors, scalars=scalars)


@pytest.fixture(scope="module")
def pruning():
    rng = np.random.default_rng(4)
    kinds, counts = ("zero", "mean"), (3, 11)
    places = list(product(kinds, counts, ("conductance", "activity", "random")))
    rankings = pd.DataFrame(places, columns=["values", "k", "choice"])
    rankings["mean"] = rng.uniform(0.5, 0.8, len(rankings))
    drawn = rankings["choice"] == "random"
    rankings["lowest_draw"] = rankings["mean"].where(drawn) - 0.03
    rankings["highest_draw"] = rankings["mean"].where(drawn) + 0.02
    contrasts = pd.DataFrame(list(product(kinds, counts, ("unpruned", "random"))), columns=["values", "k", "against"])
    contrasts["p_holm"] = [0.2, 0.01, 0.01, 0.2] * 2
    scalars = {
        **{"n_queries": 7, "unpruned": 0.81, "random_ranking": 0.47, "n_neurons": 318, "n_draws": 21, "n_pairs": 13},
        **{"baseline": "both:pad", "missed": 0.021, "shared": {"3": 2, "11": 9}},
    }
    return SimpleNamespace(
        rankings=rankings, contrasts=contrasts, draws=rankings, neurons=rankings, per_query=contrasts, scalars=scalars
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory, gradients, pruning):
    given = {"part_gradients": gradients, "neuron_pruning": pruning}
    return saved_results.save_run(tmp_path_factory.mktemp("run"), given)


def coloured(axis, colour):
    return [line for line in axis.lines if to_rgba(line.get_color()) == to_rgba(colour) and not published(line)]


def published(line):
    return "Zhan" in (line.get_gid() or "")


@pytest.mark.parametrize("narrow", [False, True])
def test_lines_are_the_shares_and_dots_the_published_ones_at_the_same_depth(gradients, narrow):
    figure = part_gradients(gradients.parts.sample(frac=1, random_state=2), narrow=narrow)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert set(titles) == {"to an empty query", "to both:mask"}
    for axis, title in zip(figure.axes, titles, strict=True):
        baseline = "query:pad" if title == "to an empty query" else "both:mask"
        own = gradients.parts[gradients.parts["baseline"] == baseline]
        for part, colour in COLOURS.items():
            rows = own[own["part"] == part].sort_values("layer")
            (line,) = coloured(axis, colour)
            assert list(line.get_xdata()) == list(LAYERS)
            np.testing.assert_allclose(line.get_ydata(), rows["share"])
            bands = [band for band in axis.collections if to_rgba(band.get_facecolor()[0])[:3] == to_rgba(colour)[:3]]
            drawn = [path for band in bands for path in band.get_paths()]
            assert len(drawn) == (baseline == "query:pad")
            for path in drawn:
                assert path.vertices[:, 1].max() == pytest.approx(rows["share"].max() + 0.11)
                assert path.vertices[:, 1].min() == pytest.approx(rows["share"].min() - 0.07)
        dots = [line for line in axis.lines if published(line)]
        assert len(dots) == (4 if baseline == "query:pad" else 0)


def test_tables_of_former_versions_are_drawn_without_bands(gradients):
    figure = part_gradients(gradients.parts.drop(columns=["share_low", "share_high"]))
    assert [len(axis.collections) for axis in figure.axes] == [0, 0]
    assert all(len(coloured(axis, COLOURS["QUERY"])) == 1 for axis in figure.axes)


def test_published_points_are_shares_of_their_sum():
    depth, share = published_points("passage:pad", "DOC", 6)
    assert depth.tolist() == [i / 2 for i in range(12)]
    total = sum(ZHAN_2020_GRADIENTS["passage:pad"][part][11] for part in ("CLS", "SEP", "QUERY", "DOC"))
    assert share[11] == pytest.approx(0.227 / total)
    assert published_points("both:pad", "DOC", 6) is None


@pytest.mark.parametrize("narrow", [False, True])
def test_points_are_the_rankings_and_filled_where_random_neurons_do_otherwise(pruning, narrow):
    given = {"unpruned": 0.81, "random": 0.47, "cutoff": 5, "narrow": narrow}
    figure = neuron_pruning(pruning.rankings, pruning.contrasts, **given)
    for axis, kind in zip(figure.axes, ("zero", "mean"), strict=True):
        rows = pruning.rankings[pruning.rankings["values"] == kind]
        dots = {
            (round(line.get_xdata()[0]), line.get_ydata()[0]): line for line in axis.lines if len(line.get_xdata()) == 1
        }
        for row in rows.itertuples():
            dot = dots[(3, 11).index(row.k), row.mean]
            assert (dot.get_markerfacecolor() != "white") == (row.choice == "conductance" and row.k == 3)
        (band,) = axis.collections
        random = rows[rows["choice"] == "random"]
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == (random["lowest_draw"].min(), random["highest_draw"].max())
    assert figure.axes[0].get_ylabel() == "nDCG@5"


def test_captions_name_sample_sums_errors_and_tests(folder):
    run = Run.read(folder)
    said = caption(folder, "part_gradients", run)
    for text in (
        "13 relevant pairs of 7 queries drawn at random",
        "s − s′, in the mean to an empty query 2.75; to both:mask -0.50",
        "48 Gauss–Legendre nodes; 6 of 104 sums miss s − s′ by more than 5 %; 2 pairs are their own baseline",
        "Zhan et al. 2020, BERT-base",
        "Bands: 95 % intervals of these ratios of means over queries (Fieller); none to both:mask, where s − s′ is not",
    ):
        assert text in said
    said = caption(folder, "neuron_pruning", run)
    for text in (
        "of 318:",
        "on 13 relevant pairs from the baseline both:pad",
        "21 random draws",
        "2 of 3; 9 of 11",
        "over 8 tests",
        "2.1%",
    ):
        assert text in said


def test_pruning_of_a_sample_is_said_to_be_of_one(folder):
    """In place of the passages of the whole run."""
    drawn = {"n_all_queries": 19, "n_ranked": 31, "seed": 8}
    path = folder / summary("neuron_pruning")
    before = path.read_text("utf-8")
    assert "(7 queries, " in caption(folder, "neuron_pruning", Run.read(folder))
    path.write_text(json.dumps(json.loads(before) | drawn), "utf-8")
    said = caption(folder, "neuron_pruning", Run.read(folder))
    assert "(7 of 19 queries, drawn at random with seed 8, 31 graded passages) with MLP neurons" in said
    path.write_text(before, "utf-8")


def test_both_are_drawn_from_saved_files(folder):
    missing = draw_figures(folder)
    assert not {"part_gradients", "neuron_pruning"} & set(missing)
    for key in ("part_gradients", "neuron_pruning"):
        assert (folder / "figures" / f"{key}-narrow.svg").stat().st_size > 1000
