"""The page: every figure is there, its numbers are the frames', it asks the network for nothing, and gaps say why."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import saved_results
from scipy import stats

from tl_crossenc.experiments.beyond import every_method
from tl_crossenc.report.captions import caption
from tl_crossenc.report.head_table import head_table
from tl_crossenc.report.page import REPORT, SHOWN, remove_others, table1_cells, table1_extent, write_report
from tl_crossenc.report.run_record import Run
from tl_crossenc.results.artefacts import ARTEFACTS, NOT_COMPUTED, load_scalars, load_table, load_unavailable
from tl_crossenc.results.saving import save_all
from tl_crossenc.results.unavailable import Unavailable

VOID = {"meta", "path", "use", "rect", "br", "link", "img", "input", "stop"}
REASON = 'the pool has no easy negatives, and "these" are <needed>.'


class Page(HTMLParser):
    """Tags with their attributes, the text of figures, ids, tables, and whether every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.open, self.texts, self.tables = [], [], [], {}, {}
        self.figure = self.table = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        if tag == "figure":
            self.figure = given["id"]
        if tag == "table":
            self.table = self.tables.setdefault(given.get("id", given.get("class")), [])
        if tag == "tr" and self.table is not None:
            self.table.append([])
        if tag in ("td", "th") and self.table is not None:
            self.table[-1].append(["", given])
        if tag not in VOID or tag == "rect":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [dict(attrs)["id"]] if "id" in dict(attrs) else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "figure":
            self.figure = None
        if tag == "table":
            self.table = None

    def handle_data(self, data):
        if self.figure is not None:
            self.texts[self.figure] = self.texts.get(self.figure, "") + data
        if self.table and self.table[-1] and self.open[-1] in ("td", "th", "b", "sup", "button"):
            self.table[-1][-1][0] += data

    def all(self, tag):
        return [given for name, given in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = saved_results.save_run(tmp_path_factory.mktemp("results"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tl_crossenc.report.drawing.to_pdf", lambda figure: b"")  # not on the page
        assert write_report(path) == path / REPORT
    return path


@pytest.fixture(scope="module")
def text(folder):
    return (folder / REPORT).read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_artefact_is_a_figure_with_a_caption_and_a_name_for_screen_readers(page):
    assert [figure["id"] for figure in page.all("figure")] == list(SHOWN)
    assert {figure["class"] for figure in page.all("figure")} == {"drawn"}
    assert len(page.all("figcaption")) == len(SHOWN)
    drawings = page.all("svg")
    assert len(drawings) == 2 * sum(ARTEFACTS[key].drawn for key in SHOWN)
    assert len(drawings) == 2 * (len(SHOWN) - 2)  # Table 1 and the counts are tables
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert len(drawing["aria-label"]) > 100
    assert page.all("html")[0]["lang"] == "en"
    assert [name for name, _ in page.tags if re.fullmatch(r"h\d", name)][:2] == ["h1", "h2"]
    assert not page.open  # everything is closed


def test_no_caption_holds_a_name_in_place_of_what_it_stands_for(page):
    assert set(page.texts) == set(SHOWN)
    assert not {key: own for key, own in page.texts.items() if re.search(r"[{}]", own)}


def test_no_id_is_there_twice_and_every_reference_leads_somewhere(page, text):
    assert len(page.ids) == len(set(page.ids))
    linked = [given["href"] for _, given in page.tags if "href" in given]
    assert linked
    assert {link[1:] for link in linked} <= set(page.ids)
    assert all(link.startswith("#") for link in linked)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    labelled = [given["aria-labelledby"] for _, given in page.tags if "aria-labelledby" in given]
    assert set(labelled) <= set(page.ids)


def test_the_page_asks_for_nothing(page, text):
    for _, given in page.tags:
        assert not {"src", "srcset", "xlink:href", "data", "action", "poster"} & set(given)
    assert not {"link", "img", "image", "iframe", "object", "embed", "audio", "video"} & {name for name, _ in page.tags}
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_the_page_is_small(folder):
    assert (folder / REPORT).stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("methods", "most"), [(False, 3_000_000), (True, 4_200_000)], ids=["paper", "every method"])
def test_the_page_is_small_enough_for_24_layers_of_16_heads(methods, most, tmp_path):
    given = saved_results.results(n_layers=24, n_heads=16)
    beyond = {artefact.result for artefact in ARTEFACTS.values() if artefact.beyond}
    kept = given if methods else {key: result for key, result in given.items() if key not in beyond}
    saved_results.save_run(tmp_path, kept)
    assert write_report(tmp_path).stat().st_size < most


def test_captions_say_what_was_measured_and_on_what(page):
    for key in set(SHOWN) - {"spectrum"}:
        assert "small <b>model</b> on tiny-2" in page.texts[key], key
    assert "nDCG@10" in page.texts["figure1a"]
    assert "7 queries, 30 graded passages" in page.texts["figure1a"]  # 13 + 17: easy negatives are not ranked
    assert "0.800 [0.750, 0.850]" in page.texts["figure1a"]
    assert "Holm's correction over all 9 points" in page.texts["figure1a"]
    assert "grade 2 or 3" in page.texts["figure1b"]
    assert "easy negatives" in page.texts["figure1b"]
    assert "200 permutations" in page.texts["figure1c"]
    assert "equal words" in page.texts["figure1c"].partition("Too few token pairs to draw: ")[2]
    assert "31 pairs (seed 3)" in page.texts["decomposition"]
    assert "outside of −0.5 to 1.5" in page.texts["decomposition"]
    assert "5 draws" in page.texts["head_ablation"]
    assert "p = 0.167" in page.texts["head_ablation"]
    assert "on 4 of the queries, drawn at random" in page.texts["head_ablation"]
    assert "5 draws can show nothing at .05" in page.texts["head_ablation"]
    assert "paired difference from the unablated model" in page.texts["figure1a"]
    assert "less that in easy negatives" in page.texts["figure1b"]
    assert "untrained model" in page.texts["figure1b_control"]


def test_table1_shows_the_comparison(page, folder):
    comparison = load_table(folder, "table1", "comparison").set_index("direction")
    unablated = load_table(folder, "table1", "per_query")["none"].mean()
    header, *rows = page.tables["grid"]
    assert [cell[0] for cell in header][1:] == list(saved_results.SIDES)
    for side, row in zip(saved_results.SIDES, rows, strict=True):
        assert row[0][0] == side
        for attended, (shown, given) in zip(saved_results.SIDES, row[1:], strict=True):
            wanted = comparison.loc[f"{side}->{attended}"]
            marks = ("*" if wanted["decrease_paper"] else "") + ("†" if wanted["decrease_holm"] else "")
            assert shown == f"{wanted['mean']:.3f}{marks}"
            assert f"{abs(wanted['difference']):.3f}" in given["title"]
    cells = [cell for row in table1_cells(folder) for cell in row]
    assert [cell["bold"] for cell in cells] == (comparison["mean"].round(3) < round(unablated, 3)).tolist()


def test_the_shade_of_table1_is_blue_for_less_and_red_for_more(folder, tmp_path):
    comparison = load_table(folder, "table1", "comparison").set_index("direction")
    comparison["difference"] = 0.0
    comparison.loc["DOC->DOC", "difference"], comparison.loc["CLS->CLS", "difference"] = -0.2, 0.2
    (tmp_path / "tables").mkdir()
    comparison.to_csv(tmp_path / "tables" / "table1.csv")
    (tmp_path / "tables" / "per_query.csv").write_text("collection,query_id,random,none\ntiny,q,0.4,0.8\n", "utf-8")
    cells = table1_cells(tmp_path)
    colour = {
        name: [int(cells[i][i]["shade"][j : j + 2], 16) for j in (1, 3, 5)]
        for name, i in (("more", 0), ("less", 3), ("same", 4))
    }
    assert colour["more"][0] > colour["more"][2] + 30
    assert colour["less"][2] > colour["less"][0] + 30
    assert max(colour["same"]) - min(colour["same"]) < 6


def test_the_table_of_heads_equals_the_frames(page, folder):
    header, *rows = page.tables["head-table"]
    names = [cell[0] for cell in header]
    table = {row[0][0]: dict(zip(names, row, strict=True)) for row in rows}
    assert list(table) == [f"{layer}.{head}" for layer in range(3) for head in range(5)]
    matching = load_table(folder, "figure1b", "heads")
    for row in matching.itertuples():
        cells, direction = table[f"{row.layer}.{row.head}"], row.direction.replace("->", "→")
        assert float(cells[f"difference {direction}"][1]["data-v"]) == pytest.approx(row.difference, rel=1e-5)
        assert float(cells[f"difference {direction}"][0].replace("−", "-")) == pytest.approx(row.difference, abs=5e-4)
        assert float(cells[f"Holm p {direction}"][1]["data-v"]) == pytest.approx(row.p_holm, rel=1e-5)
    passing = {f"{row.layer}.{row.head}" for row in matching[matching["passes"]].itertuples()}
    assert {name for name, cells in table.items() if cells["passes"][0] == "yes"} == passing
    less = {f"{row.layer}.{row.head}" for row in matching[matching["less"]].itertuples()}
    assert less
    assert {name for name, cells in table.items() if cells["less"][0] == "yes"} == less
    circuits = load_table(folder, "figure2", "heads")
    for row in circuits.itertuples():
        for column, name in (("trace", "trace"), ("alignment", "alignment"), ("contrast_relative", "contrast")):
            shown = table[f"{row.layer}.{row.head}"][name][1]["data-v"]
            assert float(shown) == pytest.approx(getattr(row, column), rel=1e-5)
    by_head = load_table(folder, "sinks", "by_head")
    mass = by_head[(by_head["attender"] == "ALL") & (by_head["sink"] == "SEP") & (by_head["layer"] == 2)]
    assert [float(table[f"2.{head}"]["on SEP"][1]["data-v"]) for head in range(5)] == pytest.approx(
        mass["mass"].tolist(), rel=1e-5
    )
    chosen = "group == 'relevant' and kind == 'same_piece' and direction == 'QUERY->DOC'"
    share = load_table(folder, "matches", "mass").query(chosen)
    own = share[share["head"] == "4"].sort_values("layer")["share"]
    assert [float(table[f"{layer}.4"]["equal pieces"][1]["data-v"]) for layer in range(3)] == pytest.approx(
        own.tolist(), rel=1e-5
    )


def test_hover_titles_name_every_head_of_the_maps(text, folder):
    matching = load_table(folder, "figure1b", "heads")
    titles = re.findall(r"<title>(head \d+\.\d+, \w+→\w+: [^<]*standard error[^<]*)</title>", text)
    assert len(titles) == 2 * 2 * len(matching)  # of the model and of its twin, wide and narrow
    row = matching.iloc[7]
    said = (
        f"head {row['layer']}.{row['head']}, {row['direction'].replace('->', '→')}: {row['difference']:+.3f}".replace(
            "-", "−"
        )
    )
    assert sum(title.startswith(said) for title in titles) == 2


def test_the_counts_stand_side_by_side_and_the_headline_is_marked(page, folder):
    counts = load_table(folder, "figure1b_counts", "counts").set_index(["model", "against", "quantity"])
    _, _, *rows = page.tables["counts"]
    assert [(row[0][0], row[1][0]) for row in rows] == [
        (f"{against} negatives", quantity)
        for against in ("easy", "hard")
        for quantity in ("excess", "mass", "density", "all three")
    ]
    for row in rows:
        key = row[0][0].split()[0], "each" if row[1][0] == "all three" else row[1][0]
        expected = []
        for model in ("model", "untrained"):
            own = counts.loc[(model, *key)]
            expected += [f"{own['heads']} of 15", str(own["more"]), str(own["less"])]
        assert [cell[0] for cell in row[2:]] == expected
    marked = [given.get("class") for tag, given in page.tags if tag == "tr" and "class" in given]
    assert marked.count("headline") == 1  # the fixture's figure: mass against easy negatives


def test_the_caption_tells_the_balance_of_lengths(folder, tmp_path):
    saved_results.save_run(tmp_path)
    path = tmp_path / "run.json"
    run = json.loads(path.read_text("utf-8"))
    balance = {"unit": "characters", "queries": 7, "relevant": 248.34, "easy_negatives": 251.9, "queries_near": 6}
    run["pools"][0]["provenance"]["easy_negatives_lengths"] = balance | {"standardized_difference": -0.034}
    for matched, said in ((True, "matched in length to each query's relevant passages"), (False, "drawn at random")):
        run["settings"]["pool"] = {"match_length": matched}
        path.write_text(json.dumps(run), "utf-8")
        told = f"({said}: 252 characters on average, relevant passages 248; standardized difference −0.03; within 10 % in 6 of 7"
        for key in ("figure1b", "figure1b_counts"):
            assert told in caption(tmp_path, key, Run.read(tmp_path))


def test_shades_of_a_table_in_which_nothing_is_significant_stay_pale(folder, tmp_path):
    comparison = load_table(folder, "table1", "comparison").set_index("direction")
    comparison = comparison.assign(p_holm=1.0, difference=0.01, diff_low=-0.04, diff_high=0.06, n_queries=7)
    comparison.loc["DOC->DOC", ["difference", "diff_low", "diff_high"]] = [-0.09, -0.19, 0.01]
    standard_error = 0.1 / stats.t.ppf(0.975, 6)
    assert table1_extent(comparison) == pytest.approx(2 * standard_error * stats.t.ppf(1 - 0.05 / 72, 6))
    comparison["p_holm"] = 0.04
    assert table1_extent(comparison) == pytest.approx(0.09)


def test_names_from_outside_are_text_not_markup(text):
    assert "<b>model</b>" not in text
    assert "small &lt;b&gt;model&lt;/b&gt;" in text


def test_provenance_is_printed(text):
    for said in ("provenance.passages_by_grade.-1", "ab12", "numpy", "r1"):
        assert f">{said}<" in text


@pytest.mark.usefixtures("blank_drawings")
def test_what_is_unavailable_says_why_and_the_rest_is_there(tmp_path):
    given = saved_results.results() | {"figure1b": Unavailable(REASON), "figure1c": Unavailable("one query only.")}
    del given["sinks"]
    saved_results.save_run(tmp_path, given)
    given["figure1b_control"] = given["figure1b_counts"] = given["figure1b"]
    saved_results.save_run(tmp_path, given)
    page = Page(write_report(tmp_path).read_text("utf-8"))
    state = {figure["id"]: figure["class"] for figure in page.all("figure")}
    gone = {"figure1b", "figure1b_control", "figure1b_counts", "figure1c", "matches", "sinks"}
    assert {key for key, value in state.items() if value == "unavailable"} == gone
    assert REASON in page.texts["figure1b"]
    assert "one query only." in page.texts["matches"]
    assert NOT_COMPUTED in page.texts["sinks"]
    assert not any(name.startswith(("difference", "on ", "equal")) for name in head_table(tmp_path).columns)
    assert {"trace", "ε ratio"} <= set(head_table(tmp_path).columns)


def test_methods_left_out_are_a_line_each_with_the_name_that_computes_them(tmp_path, text):
    assert "left-out" not in re.findall(r'id="([^"]+)"', text)  # of a run of everything
    saved_results.save_run(tmp_path, {})
    own = write_report(tmp_path).read_text("utf-8")
    (listed,) = re.findall(r'<ul class="left-out">(.*?)</ul>', own, re.DOTALL)
    lines = [re.split(r"<[^>]+>", line) for line in re.findall(r"<li>(.*?)</li>", listed)]
    found = {name: titles for name, *titles in ([text for text in line if text] for line in lines)}
    assert {name.removeprefix("--method ") for name in found} == set(every_method())
    assert found["--method circuits"] == ["Circuits: the fewest directions of heads that suffice"]
    titles = ["Probes: from which layer on relevance can be read", "Probes: what of classical retrieval can be read"]
    assert found["--method probes"] == titles
    assert not {"circuits", "probes", "probe_features"} & {figure["id"] for figure in Page(own).all("figure")}
    assert '<a href="#left-out">' in own


def test_an_empty_run_is_a_page_of_reasons_and_an_empty_folder_an_error(tmp_path):
    with pytest.raises(ValueError, match="expected a folder of results"):
        write_report(tmp_path / "nothing")
    (tmp_path / "run.json").write_text("{}", "utf-8")
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert {figure["class"] for figure in page.all("figure")} == {"unavailable"}
    assert not page.all("svg")


def test_a_missing_file_is_a_result_not_computed(folder, tmp_path):
    saved_results.save_run(tmp_path, {})
    assert set(load_unavailable(tmp_path)) == set(ARTEFACTS) - {"table1"}
    (tmp_path / "tables" / "table1.csv").unlink()
    assert load_unavailable(tmp_path)["table1"] == NOT_COMPUTED
    assert not set(load_unavailable(folder))


def test_what_the_run_does_not_list_is_not_shown(tmp_path):
    """Files that an earlier run left: with `run.json` saying nothing of them they are no result."""
    saved_results.save_run(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    listed = ["tables/table1.csv", "tables/per_query.csv", *ARTEFACTS["figure1a"].tables.values()]
    (tmp_path / "run.json").write_text(json.dumps(record | {"files": listed}), "utf-8")
    assert set(load_unavailable(tmp_path)) == set(ARTEFACTS) - {"table1", "figure1a"}
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert {figure["id"] for figure in page.all("figure") if figure["class"] == "drawn"} == {"table1", "figure1a"}
    assert "head-table" not in page.tables


def test_another_run_takes_away_what_is_shown_and_the_same_run_nothing(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "run.json").read_text("utf-8"))
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "kept").write_text("")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    remove_others(tmp_path, record | {"files": ["other"]})
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    remove_others(tmp_path, record | {"settings": {"cutoff": 10, "mode": "zero", "only_table1": True}})
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {tmp_path / "cells" / "kept"}


def test_saving_without_a_result_removes_its_files(tmp_path):
    saved_results.save_run(tmp_path)
    given = saved_results.results() | {"figure1b": Unavailable(REASON)}
    save_all(tmp_path, given)
    assert not (tmp_path / "tables" / "figure1b.csv").exists()
    assert not (tmp_path / "machinery" / "summaries" / "figure1b.json").exists()
    assert (tmp_path / "tables" / "figure1a.csv").exists()


def test_saving_keeps_every_frame_and_scalar(folder):
    given = saved_results.results()
    for key, name, wanted in (
        ("figure1a", "curve", given["figure1a"].curve),
        ("figure1b", "heads", given["figure1b"]),
        ("figure1c", "histogram", given["figure1c"].histogram),
        ("figure1c", "distance", given["figure1c"].distance),
        ("sinks", "by_layer", given["sinks"].by_layer),
        ("spectrum", "spectrum", given["figure2"].spectrum),
        ("decomposition", "decomposition", given["figure2"].decomposition),
        ("head_ablation", "curve", given["head_ablation"].curve),
    ):
        pd.testing.assert_frame_equal(load_table(folder, key, name), wanted, check_dtype=False)
    assert load_scalars(folder, "figure1a")["unablated"] == {"mean": 0.8, "low": 0.75, "high": 0.85}
    assert load_scalars(folder, "figure1c")["groups"] == {"relevant": [2, 3], "hard": [0], "easy": [-1]}
    assert (load_scalars(folder, "figure2")["sampled"], load_scalars(folder, "head_ablation")["seed"]) == (31, 11)


def test_saving_writes_json_that_others_read_and_refuses_unknown_results(tmp_path):
    given = saved_results.results()["figure1a"]
    given.unablated = (0.8, np.nan, np.nan)
    save_all(tmp_path, {"figure1a": given}, {"figure1a": {"note": (1, np.float64(0.5))}})

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    saved = json.loads(
        (tmp_path / "machinery" / "summaries" / "figure1a.json").read_text("utf-8"), parse_constant=refuse
    )
    assert saved["unablated"] == {"mean": 0.8, "low": None, "high": None}
    assert saved["note"] == [1, 0.5]
    with pytest.raises(ValueError, match="got figure7"):
        save_all(tmp_path, {"figure7": given})
