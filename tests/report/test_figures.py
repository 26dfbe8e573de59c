"""Figures: what the artists hold is what the frames hold; marks are where they should be; files are the same every time."""

import gc
import io
import subprocess
import sys
from itertools import combinations, pairwise
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
import saved_results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.patches import Polygon, Rectangle
from scipy import stats

from tl_crossenc.report import drawing, figures
from tl_crossenc.report.drawing import DRAWERS, draw_figures
from tl_crossenc.report.figures.ablation import BESIDE
from tl_crossenc.report.figures.distributions import densities
from tl_crossenc.report.figures.matching import map_extent
from tl_crossenc.report.figures.sinks import zhan_points
from tl_crossenc.report.figures.style import STYLE, centred, difference_extent, hover, hover_each, signed
from tl_crossenc.report.figures.svg import PageStyles, finish, inline, to_pdf, to_svg
from tl_crossenc.results.artefacts import ARTEFACTS, DRAWN, NOT_ASKED, NOT_COMPUTED, drawn_kinds, load_unavailable
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.published import ZHAN_2020_SEP_MASS

SVG = "{http://www.w3.org/2000/svg}"
UNABLATED = (0.8, 0.75, 0.85)


@pytest.fixture(scope="module")
def given():
    return saved_results.results(n_layers=3, n_heads=5)


def test_files_are_what_matplotlib_saves_and_cost_one_draw_each(given, monkeypatch):
    """`savefig` is the reference: it draws a figure that has a layout a first time for its layout alone."""

    def drawn():
        figure = figures.figure1a(given["figure1a"].curve, unablated=UNABLATED, random=0.47)
        return figure, figure.canvas, figure.dpi

    figure, *_ = drawn()
    svg, pdf = io.StringIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "one"}):
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        figure.set_layout_engine("none")
        figure.savefig(pdf, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
    figure, *before = drawn()
    patches = []
    draw = Rectangle.draw
    monkeypatch.setattr(Rectangle, "draw", lambda self, renderer: (patches.append(self), draw(self, renderer)))
    assert to_svg(figure, "one") == finish(svg.getvalue())
    figure.set_layout_engine("none")
    assert to_pdf(figure) == pdf.getvalue()
    assert patches.count(figure.patch) == 2
    assert [figure.canvas, figure.dpi] == before


def test_the_collector_of_cycles_is_left_as_it_was(tmp_path):
    saved_results.save_run(tmp_path)
    (tmp_path / "tables" / "sinks.csv").write_text("layer,attender,sink\n")
    assert gc.isenabled()
    with pytest.raises((KeyError, ValueError)):
        drawing._write(tmp_path, "sinks", DRAWERS["sinks"](tmp_path))
    assert gc.isenabled()


def axis_titled(figure, title):
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left") == title]
    return axis


def lines(axis, marked=None):
    """The lines of more than one point that are no reference lines."""
    found = [line for line in axis.lines if len(line.get_xdata()) > 2]
    return found if marked is None else [line for line in found if line.get_gid() == marked]


def test_figure1a_draws_each_direction_s_means_between_its_bounds(given):
    curve = given["figure1a"].curve.sample(frac=1, random_state=2)  # in no order
    figure = figures.figure1a(curve, unablated=UNABLATED, random=0.47)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [
        d.replace("->", "→") for d in curve["direction"].unique()
    ]
    for direction in curve["direction"].unique():
        axis = axis_titled(figure, direction.replace("->", "→"))
        rows = curve[curve["direction"] == direction].sort_values("layer")
        (line,) = lines(axis, "mean")
        assert line.get_xdata().tolist() == [0, 1, 2]
        assert line.get_ydata().tolist() == rows["mean"].tolist()
        corners = axis.collections[0].get_paths()[0].vertices
        for bound in ("diff_low", "diff_high"):  # of the paired difference, from the unablated mean
            assert {tuple(corner) for corner in corners} >= {*zip(rows["layer"], 0.8 + rows[bound], strict=True)}
        levels = {
            line.get_gid(): line.get_ydata()[0] for line in axis.lines if line.get_gid() in ("unablated", "random")
        }
        assert levels == {"unablated": 0.8, "random": 0.47}
        filled = [line for line in axis.lines if line.get_marker() == "o" and line.get_markerfacecolor() != "white"]
        shown = {x for line in filled if line.get_linestyle() == "None" for x in line.get_xdata()}
        assert shown == set(rows.loc[rows["decrease_holm"], "layer"])


def test_figure1a_of_one_query_has_points_and_no_bands(given):
    nothing = dict.fromkeys(("mean_low", "mean_high", "diff_low", "diff_high", "p_holm"), np.nan)
    curve = given["figure1a"].curve.assign(**nothing, decrease_holm=False)
    figure = figures.figure1a(curve, unablated=(0.8, np.nan, np.nan), random=0.47)
    assert lines(figure.axes[0], "mean")[0].get_ydata().tolist() == curve["mean"].tolist()[:3]
    assert not any(len(band.get_paths()) for axis in figure.axes for band in axis.collections)
    assert to_svg(figure, "one").startswith("<?xml")


def test_figure1b_maps_hold_every_difference_and_outline_the_heads_that_pass(given):
    frame = given["figure1b"].sample(frac=1, random_state=2)
    figure = figures.figure1b(frame)
    largest = frame["difference"].abs().max()
    for direction, title in (("QUERY->DOC", "QUERY attends to DOC"), ("DOC->QUERY", "DOC attends to QUERY")):
        axis, rows = axis_titled(figure, title), frame[frame["direction"] == direction]
        (mesh,) = [c for c in axis.collections if isinstance(c, QuadMesh)]
        expected = rows.pivot(index="layer", columns="head", values="difference").to_numpy()
        np.testing.assert_array_equal(np.asarray(mesh.get_array()).reshape(3, 5), expected)
        assert (mesh.norm.vmin, mesh.norm.vcenter, mesh.norm.vmax) == (-largest, 0, largest)
        outlined = {
            (round(p.get_y() + p.get_height() / 2), round(p.get_x() + p.get_width() / 2))
            for p in axis.patches
            if isinstance(p, Rectangle)
        }
        passing = rows[rows["passes"]]
        assert outlined == set(zip(passing["layer"], passing["head"], strict=True))
        barred = {(line.get_ydata()[0], np.mean(line.get_xdata())) for line in axis.lines if line.get_gid() == "less"}
        less = rows[rows["less"]]
        assert len(less) > 0
        assert barred == set(zip(less["layer"], less["head"], strict=True))
        assert axis.get_ylim() == (2.5, -0.5)  # layer 0 on top


def test_a_difference_of_nothing_is_white_and_an_absent_head_is_blank():
    scale = centred(2.0)
    assert (scale(0.0), scale(-2.0), scale(1.0)) == (0.5, 0.0, 0.75)
    frame = saved_results.figure1b(np.random.default_rng(0), 2, 3)
    frame = frame[(frame["layer"] != 1) | (frame["head"] != 2)]
    (mesh,) = [c for c in figures.figure1b(frame).axes[0].collections if isinstance(c, QuadMesh)]
    assert np.argwhere(np.ma.getmaskarray(np.ma.masked_invalid(mesh.get_array())).reshape(2, 3)).tolist() == [[1, 2]]


def test_colours_of_a_map_in_which_nothing_passes_stay_pale():
    """By SciPy: the difference that would be significant of 7 queries and 6 cells, where the standard error is largest."""
    frame = saved_results.figure1b(np.random.default_rng(0), 1, 3)
    frame = frame.assign(standard_error=[0.1, 0.2, 0.3, 0.1, 0.2, 0.3], passes=False, less=False)
    frame["difference"] = frame["standard_error"] * [1, -3, 2, 0, 1, -1]
    least = stats.t.ppf(1 - 0.05 / (2 * 6), 6) * 0.3
    assert map_extent(frame) == pytest.approx(2 * least)
    (mesh,) = [c for c in figures.figure1b(frame).axes[0].collections if isinstance(c, QuadMesh)]
    assert mesh.norm.vmax == pytest.approx(2 * least)
    assert np.abs(mesh.norm(frame["difference"]) - 0.5).max() < 0.25  # less than half of a side's colours
    frame.loc[1, "less"] = True
    assert map_extent(frame) == pytest.approx(0.6)  # |-3 * 0.2| and 2 * 0.3: something is significant
    twin = frame.assign(difference=[0.0, 0.0, 0.7, 0.0, 0.0, 0.0], passes=False, less=False)
    assert map_extent(frame, twin) == pytest.approx(0.7)  # one scale for both
    assert map_extent(twin.assign(difference=0.0, standard_error=0.0)) > 0


def test_colours_without_a_test_stay_pale():
    assert difference_extent([0.2, np.nan, -0.3], [np.nan] * 3, 1, [False] * 3) == pytest.approx(0.6)


def test_model_and_twin_are_drawn_on_one_scale(tmp_path):
    saved_results.save_run(tmp_path)
    extents = set()
    for key in ("figure1b", "figure1b_control"):
        (mesh,) = [c for c in DRAWERS[key](tmp_path)(False).axes[0].collections if isinstance(c, QuadMesh)]
        extents.add(mesh.norm.vmax)
    given = saved_results.results()
    largest = max(given[key]["difference"].abs().max() for key in ("figure1b", "figure1b_control"))
    assert len(extents) == 1
    assert extents.pop() == pytest.approx(largest)


def test_densities_are_shares_per_decade():
    rows = pd.DataFrame(
        {"bin_low": [0, 1e-2, 10**-1.5, 0.1], "bin_high": [1e-2, 10**-1.5, 0.1, 1.0], "count": [0, 3, 1, 0]}
    )
    rows["bin_high"] = 10.0 ** np.array([-2, -1.5, -1, -0.5])
    centres, density = densities(rows.sample(frac=1, random_state=1))
    assert centres.tolist() == pytest.approx([-2.25, -1.75, -1.25, -0.75])
    assert density.tolist() == pytest.approx([0, 1.5, 0.5, 0])  # 3/4 and 1/4 of the weights over half a decade each
    assert np.isnan(densities(rows.assign(count=0))[1]).all()


def test_figure1c_ridges_have_the_histograms_shape_and_the_distances_beside(given):
    found = given["figure1c"]
    figure = figures.figure1c(found.histogram, found.distance, found.token_pairs)
    axis = axis_titled(figure, "DOC→QUERY: no lexical match")
    h = found.histogram
    rows = h[(h["direction"] == "DOC->QUERY") & (h["kind"] == "other") & (h["layer"] == 2)]
    for group, line in zip(("relevant", "easy"), lines(axis)[-2:], strict=True):
        centres, density = densities(rows[rows["group"] == group])
        xs, heights = line.get_xdata(), 2 - line.get_ydata()
        inside = np.isin(centres, xs)
        np.testing.assert_allclose(heights / heights.max(), density[inside] / density.max(), atol=1e-12)
        assert density[~inside].sum() == 0
    assert sum(isinstance(patch, Polygon) for patch in axis.patches) == 3  # one filled ridge a layer
    d = found.distance
    beside = d[(d["comparison"] == "relevant - easy") & (d["direction"] == "DOC->QUERY") & (d["kind"] == "other")]
    notes = [note for note in axis.texts if note.get_text() != "W₁"]
    assert [note.get_text() for note in notes] == [f"{value:.2f}" for value in beside["distance"]]
    assert [note.get_fontweight() == "bold" for note in notes] == (beside["p_max"] <= 0.05).tolist()


def test_kinds_with_few_token_pairs_in_any_group_are_not_drawn(given):
    token_pairs = given["figure1c"].token_pairs
    assert drawn_kinds(token_pairs) == ["same_piece", "other"]
    token_pairs = token_pairs.assign(count=[50, 50, 49, 99, 50, 99, 99, 50, 99])
    assert drawn_kinds(token_pairs) == ["same_piece", "same_word"]


def test_matches_draw_masses_and_shares_by_layer_and_group(given):
    mass = given["figure1c"].mass
    figure = figures.matches(mass)
    rows = mass[(mass["head"] == "all") & (mass["direction"] == "DOC->QUERY")]
    for axis, kind, quantity in ((1, "same_piece", "mass"), (3, "other", "mass"), (5, "same_piece", "share")):
        drawn = [line.get_ydata().tolist() for line in lines(figure.axes[axis])]
        for group in ("relevant", "hard", "easy"):
            part = rows[(rows["kind"] == kind) & (rows["group"] == group)]
            assert part[quantity].tolist() in drawn
            assert (part["pair_share"].tolist() in drawn) == (quantity == "share")


def test_sinks_draw_every_attender_and_zhan_s_numbers_at_their_depth(given):
    by_layer = given["sinks"].by_layer
    figure = figures.sinks(by_layer)
    axis = axis_titled(figure, "SEP1 and SEP2")
    drawn = {
        line.get_label(): line.get_ydata().tolist() for line in lines(axis) if line.get_label() in saved_results.SIDES
    }
    rows = by_layer[by_layer["sink"] == "SEP"]
    assert drawn == {name: part["mass"].tolist() for name, part in rows.groupby("attender")}
    layers, masses, exact = zhan_points("SEP", last=5)
    assert (layers[0], layers[-1], exact) == (0, 5, 12)
    assert layers[1] == pytest.approx(5 / 11)
    assert masses.tolist() == list(ZHAN_2020_SEP_MASS)
    assert zhan_points("CLS", last=5)[1][3:5].tolist() == [0.13, 0.03]
    dots = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 12]
    np.testing.assert_array_equal(dots[0].get_ydata(), ZHAN_2020_SEP_MASS)


def test_figure2_points_are_the_heads_coloured_by_figure1b(given):
    heads, matching = given["figure2"].heads, given["figure1b"]
    figure = figures.figure2(heads, matching.sample(frac=1, random_state=3))
    wanted = (
        ("QUERY->DOC", "trace", "contrast"),
        ("QUERY->DOC", "alignment", "contrast_relative"),
        ("DOC->QUERY", "trace", "other_contrast"),
        ("DOC->QUERY", "alignment", "other_contrast_relative"),
    )
    for axis, (direction, x, y) in zip(figure.axes, wanted, strict=False):
        (dots,) = [c for c in axis.collections if isinstance(c, PathCollection)]
        difference = matching[matching["direction"] == direction].sort_values(["layer", "head"])["difference"]
        expected = {*zip(heads[x], heads[y], difference, strict=True)}
        offsets = np.asarray(dots.get_offsets())
        assert {*zip(*offsets.T.tolist(), np.asarray(dots.get_array()).tolist(), strict=True)} == expected
        named = {note.get_text() for note in axis.texts}
        top = matching[matching["passes"] & (matching["direction"] == direction)].nlargest(6, "difference")
        assert named == {f"{row.layer}.{row.head}" for row in top.itertuples()}


def test_figure2_without_figure1b_is_grey_and_names_nothing(given):
    figure = figures.figure2(given["figure2"].heads, None)
    assert len(figure.axes) == 4  # no scale
    for axis in figure.axes:
        assert not axis.texts
        (dots,) = axis.collections
        assert len(dots.get_offsets()) == 15
        assert {tuple(colour) for colour in dots.get_facecolors()} == {to_rgba("#BDBDBD")}


def test_spectrum_draws_quantiles_and_the_named_heads(given):
    frame = given["figure2"].spectrum
    figure = figures.spectrum(frame, [(2, 1)])
    own = frame[(frame["layer"] == 2) & (frame["head"] == 1)]
    median, named = lines(figure.axes[1])
    assert median.get_ydata().tolist() == pytest.approx(
        [np.median(frame.loc[frame["k"] == k, "cumulative_alignment"]) for k in range(1, 6)]
    )
    assert named.get_ydata().tolist() == own["cumulative_alignment"].tolist()
    assert lines(figure.axes[0])[1].get_ydata().tolist() == pytest.approx(
        (own["sigma"] / own["sigma"].iloc[0]).tolist()
    )


def test_decomposition_keeps_outliers_on_the_edge(given):
    frame = given["figure2"].decomposition.copy()
    frame.loc[frame.index[4], "share_constant"] = 7.0
    figure = figures.decomposition(frame)
    assert len(figure.axes) == 8
    ys = np.asarray(figure.axes[0].collections[0].get_offsets())[:, 1]
    rows = frame[frame["direction"] == "QUERY->DOC"]
    np.testing.assert_allclose(ys, rows["share_constant"].clip(-0.5, 1.5))
    assert ys[4] == 1.5
    assert lines(figure.axes[1])[0].get_ydata().tolist() == rows.groupby("layer")["share_interaction"].median().tolist()


def test_head_ablation_draws_ranked_and_random_heads_by_scope(given):
    """Ranked heads: a line in the band of their paired interval, diamonds on the draws' queries. Random ones: a dot a draw."""
    curve, draws = given["head_ablation"].curve, given["head_ablation"].draws
    figure = figures.head_ablation(curve, draws, n_drawn=4)
    axis = axis_titled(figure, "whole head")
    rows = curve[(curve["scope"] == "whole head") & (curve["kind"] == "ranked")]
    (line,) = lines(axis, "ranked")
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([1, 2, 4], rows["difference"].tolist())
    (band,) = axis.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
    for bound in ("diff_low", "diff_high"):
        assert corners >= {*zip(rows["k"], rows[bound], strict=True)}
    own = draws[draws["scope"] == "whole head"]
    random = own[own["kind"] == "random"]
    dots = [line for line in axis.lines if line.get_marker() == "o" and line.get_markersize() == 2.6]
    assert sorted((dot.get_xdata()[0], dot.get_ydata()[0]) for dot in dots) == sorted(
        zip(random["k"] * BESIDE, random["difference"], strict=True)
    )
    diamonds = [line for line in axis.lines if line.get_marker() == "D"]
    ranked = own[own["kind"] == "ranked"]
    assert [mark.get_ydata()[0] for mark in diamonds] == ranked["difference"].tolist()
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [name for name in named if "95 %" in name and "random" not in name]
    assert "one draw of random heads" in named
    alone = figures.head_ablation(curve[curve["kind"] == "ranked"], draws[draws["kind"] == "ranked"])
    assert len(lines(alone.axes[0])) == 1
    assert not [line for line in alone.axes[0].lines if line.get_marker() == "D"]


def test_every_figure_has_words_on_its_axes_in_both_widths(tmp_path):
    saved_results.save_run(tmp_path)
    missing = load_unavailable(tmp_path)
    assert {key for key in missing if not ARTEFACTS[key].beyond} == set()
    for key, prepare in DRAWERS.items():
        if key in missing:  # a method with tests of its own figure
            continue
        for narrow in (False, True):
            figure = prepare(tmp_path)(narrow)
            assert figure.get_size_inches()[0] == (3.6 if narrow else 7.2)
            assert any(axis.get_ylabel() for axis in figure.axes), key
            assert any(axis.get_xlabel() for axis in figure.axes) or figure.get_supxlabel(), key


def test_hover_becomes_titles_and_ids_do_not_clash(given):
    figure = figures.figure2(given["figure2"].heads, None)
    (dots,) = figure.axes[0].collections
    texts = [f"point {i} <&>" for i in range(15)]
    hover_each(dots, texts)
    figure.axes[0].set_xlabel("x")
    hover(figure.axes[0].xaxis.label, 'said "so"')
    root = ElementTree.fromstring(to_svg(figure, "one"))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert [title for title in titles if title.startswith("point")] == texts
    assert 'said "so"' in titles
    styles = PageStyles()
    pages = [inline(to_svg(figure, salt), "a <label>", salt, styles) for salt in ("one", "two")]
    ids = [
        {
            element.get("id")
            for element in ElementTree.fromstring(page.replace("<svg ", "<svg ", 1)).iter()
            if element.get("id")
        }
        for page in pages
    ]
    assert ids[0]
    assert not ids[0] & ids[1]
    for page, own in zip(pages, ids, strict=True):
        assert {piece.split(")")[0] for piece in page.split("url(#")[1:]} <= own
        assert {piece.split('"')[0] for piece in page.split('href="#')[1:]} <= own
        assert "style=" not in page
        assert "http" not in page


@pytest.mark.slow
def test_drawing_twice_writes_the_same_bytes_and_nothing_raster(tmp_path):
    results = saved_results.results()
    given = {key: results[key] for key in ("figure1b", "sinks")}
    for folder in ("a", "b"):
        saved_results.save_run(tmp_path / folder, given)
        draw_figures(tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a" / "figures").iterdir())
    assert len(names) == 3 * 2
    for name in names:
        content = (tmp_path / "a" / "figures" / name).read_bytes()
        assert content == (tmp_path / "b" / "figures" / name).read_bytes()
        assert b"<image" not in content
        assert b"/Subtype /Image" not in content


@pytest.mark.slow
def test_what_is_unavailable_is_not_drawn_and_an_earlier_drawing_of_it_goes(tmp_path):
    results = saved_results.results()
    saved_results.save_run(tmp_path, {"figure2": results["figure2"]})
    missing = draw_figures(tmp_path)
    gone = {"figure1a", "figure1b", "figure1b_control", "figure1c", "matches", "sinks", "head_ablation"}
    assert set(missing) == gone | {key for key in DRAWN if ARTEFACTS[key].beyond}
    assert (tmp_path / "figures" / "decomposition.svg").is_file()
    without = {"sinks": results["sinks"], "figure2": Unavailable("there are no pairs.")}
    saved_results.save_run(tmp_path, without)
    missing = draw_figures(tmp_path)
    for key in ("figure2", "spectrum", "decomposition"):
        assert missing.pop(key) == "there are no pairs."
    assert set(missing.values()) == {NOT_COMPUTED, NOT_ASKED}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"sinks.svg", "sinks-narrow.svg", "sinks.pdf"}


def test_numbers_are_signed_with_a_minus_and_zero_has_no_sign():
    assert [signed(value) for value in (0.0414, -0.2, -0.0001, 0.0, np.nan)] == [
        "+0.041",
        "−0.200",
        "0.000",
        "0.000",
        "–",
    ]


def test_drawing_leaves_the_user_s_style_alone(given):
    before = dict(matplotlib.rcParams)
    figures.sinks(given["sinks"].by_layer)
    assert dict(matplotlib.rcParams) == before


def test_neither_torch_nor_a_window_is_needed_to_draw_and_report():
    code = "import sys, tl_crossenc.report.page; print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("unablated", "random"), [(0.8, 0.47), (0.71, 0.7), (0.7, 0.7), (0.61, 0.75)])
def test_figure1a_names_its_levels_without_one_name_on_another(given, unablated, random, narrow):
    figure = figures.figure1a(given["figure1a"].curve, unablated=(unablated, 0.6, 0.9), random=random, narrow=narrow)
    FigureCanvasAgg(figure).draw()
    for axis in figure.axes:
        named = {text.get_text(): text.get_window_extent() for text in axis.texts}
        if axis.get_subplotspec().is_last_col():
            assert set(named) == {"unablated", "random"}
            assert not named["unablated"].overlaps(named["random"])
            higher = named["unablated"].y0 > named["random"].y0
            assert unablated == random or higher == (unablated > random)
        else:
            assert not named


@pytest.mark.parametrize("n_layers", [2, 6, 12, 24, 48])
@pytest.mark.parametrize("narrow", [False, True])
def test_figure1c_fits_a_page_with_its_numbers_apart(n_layers, narrow):
    found = saved_results.figure1c(np.random.default_rng(3), n_layers, 2)
    figure = figures.figure1c(found.histogram, found.distance, found.token_pairs, narrow=narrow)
    assert figure.get_figheight() <= 9.1
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for axis in figure.axes:
        names = [text.get_text() for text in axis.get_yticklabels()]
        layers = [int(name) for name in names if name]
        if layers:
            assert layers[0] == 0
            assert layers[-1] == n_layers - 1
            assert layers == sorted(set(layers))
            assert (axis.get_ylabel() == "layer") == (len(layers) == n_layers)
        boxes = [text.get_window_extent() for text in axis.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        ticks = [text.get_window_extent() for text in axis.get_yticklabels()]
        assert not any(a.overlaps(b) for a, b in pairwise(ticks))


def test_figure1c_draws_each_layer_where_its_name_is(given):
    found = saved_results.figure1c(np.random.default_rng(3), 48, 2)
    figure = figures.figure1c(found.histogram, found.distance, found.token_pairs, narrow=True)
    (axis,) = [axis for axis in figure.axes if axis.get_title(loc="left") == "DOC→QUERY: no lexical match"]
    rows = found.distance
    rows = rows[(rows["direction"] == "DOC->QUERY") & (rows["kind"] == "other")]
    rows = rows[rows["comparison"] == "relevant - easy"].set_index("layer")["distance"]
    names = dict(zip(axis.get_yticks(), [text.get_text() for text in axis.get_yticklabels()], strict=True))
    beside = {text.xy[1]: text.get_text() for text in axis.texts if text.get_text() != "W₁"}
    assert {int(names[at]): text for at, text in beside.items()} == {
        int(name): f"{rows[int(name)]:.2f}" for name in names.values()
    }


@pytest.mark.parametrize("extent", [1.0, 0.0312, 0.00047, 23.0])
@pytest.mark.parametrize("narrow", [False, True])
def test_the_ticks_of_a_difference_bar_do_not_touch(given, extent, narrow):
    frame = given["figure1b"].assign(difference=lambda rows: rows["difference"] * extent)
    figure = figures.figure1b(frame, narrow=narrow)
    FigureCanvasAgg(figure).draw()
    bar = figure.axes[-1]
    boxes = [text.get_window_extent() for text in bar.get_xticklabels() if text.get_text() and text.get_visible()]
    assert len(boxes) >= 3
    assert all(b.x0 - a.x1 >= 2 for a, b in pairwise(boxes))
    label = bar.xaxis.label.get_window_extent()
    assert label.x0 >= 0
    assert label.x1 <= figure.bbox.x1


def test_no_two_panels_have_one_title(given):
    found = given["figure2"]
    for narrow in (False, True):
        figure = figures.figure2(found.heads, given["figure1b"], narrow=narrow)
        titles = [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]
        assert len(titles) == 4
        assert len(set(titles)) == 4
