"""Which grades are relevant: the rule on every scale, and figures that follow the collection's own."""

import json

import pytest
from small_worlds import asked, collection_folder, model_folder
from tiny_collections import write_folder

from tl_crossenc.cli import main
from tl_crossenc.cli.reproduce import QUANTITIES as OFFERED
from tl_crossenc.experiments.attention import run_attention
from tl_crossenc.experiments.matching import QUANTITY, matching_heads, query_means
from tl_crossenc.experiments.paper import PaperOptions
from tl_crossenc.instruments.attention_flow import QUANTITIES
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.grades import parse_grades, relevant_grades, scale_sentence
from tl_crossenc.pools.pool import Pool, PoolSpec
from tl_crossenc.report.captions import caption
from tl_crossenc.report.page import shown_files
from tl_crossenc.report.run_record import Run
from tl_crossenc.reproduce import Settings, reproduce
from tl_crossenc.results.kept_pools import frozen_pool
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

FOLDS = {"head_ablation_folds"}
"""Needs more queries than there are here."""


@pytest.mark.parametrize("highest", range(12))
def test_relevant_is_the_upper_half_of_the_scale(highest):
    assert relevant_grades(highest) == tuple(g for g in range(1, highest + 1) if 2 * g >= highest + 1)


def test_the_papers_scale_has_the_papers_grades():
    assert relevant_grades(3) == (2, 3)


def test_text_forms():
    assert parse_grades("1,2,3") == (1, 2, 3)
    assert parse_grades("-1") == parse_grades("easy") == (-1,)
    assert parse_grades("easy, 0") == (-1, 0)
    for text in ("", "2,", "1.5", "-2", "relevant", "²"):
        with pytest.raises(ValueError, match="expected grades such as 2,3"):
            parse_grades(text)
    assert scale_sentence([3, 3], (2, 3)) == "grade 2 or 3, the upper half of the scale 0..3"
    assert scale_sentence([4], (1, 2)) == "grade 1 or 2, as asked, of the scale 0..4"


def test_the_command_line_offers_what_is_measured():
    assert set(OFFERED) == set(QUANTITIES)
    assert OFFERED[0] == QUANTITY == PaperOptions().quantity


@pytest.fixture
def undrawn(monkeypatch):
    """Jobs draw nothing: their numbers are what is looked at."""
    monkeypatch.setattr("tl_crossenc.reproduce.draw_figures", lambda folder: {})
    monkeypatch.setattr("tl_crossenc.reproduce.write_report", lambda folder: folder / "report.html")

    def undrawn_files(missing):
        return [name for name in shown_files(missing) if not name.endswith((".svg", ".pdf", ".html"))]

    monkeypatch.setattr("tl_crossenc.reproduce.shown_files", undrawn_files)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model") / "m")


def judged(folder, grades, n_queries=4, extra=()):
    """A collection of `n_queries` with a passage of each of `grades`, and unjudged ones."""
    docs = {
        f"d{q}-{i}": f"egg {grade} flea {q} lay the {i}" for q in range(n_queries) for i, grade in enumerate(grades)
    }
    docs |= {f"x{i}": f"bread quilt {i}" for i in range(60)}
    qrels = [(f"q{q}", f"d{q}-{i}", grade) for q in range(n_queries) for i, grade in enumerate(grades)]
    return write_folder(folder, docs, {f"q{q}": f"how do flea egg {q}" for q in range(n_queries)}, [*qrels, *extra])


def job(model, collections, out, **changes):
    options = PaperOptions(**{"counts": (1,), "n_draws": 1, "directions": (), **changes.pop("options", {})})
    pool = changes.pop("pool", PoolSpec(10, 2, 0))
    return Settings(str(model), tuple(map(str, collections)), out, device="cpu", pool=pool, options=options, **changes)


@pytest.mark.parametrize(
    ("grades", "relevant"), [((0, 1), [1]), ((0, 1, 2), [2]), ((0, 1, 3, 4, 4), [3, 4]), ((1,), [1])]
)
def test_every_scale_gives_the_figures_and_says_how(model, tmp_path, undrawn, grades, relevant):
    folder = judged(tmp_path / "c", [*grades, *grades])
    settings = job(model, [folder], tmp_path / "out", options={"directions": (Direction.parse("DOC->QUERY"),)})
    found = reproduce(settings)
    assert not {"figure1b", "figure1c", "matches", "head_ablation"} & found.unavailable.keys()
    about = json.loads((tmp_path / "out" / "machinery" / "summaries" / "figure1b.json").read_text())
    assert (about["relevant_grades"], about["against"], about["quantity"]) == (relevant, [-1], "excess")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["relevance"]["relevant_grades"] == relevant
    assert record["relevance"]["highest_grades"] == {"c": max(grades)}
    said = f"grade {' or '.join(map(str, relevant))}, the upper half of the scale 0..{max(grades)}"
    assert said in record["relevance"]["words"]
    assert said in caption(tmp_path / "out", "figure1b", Run.read(tmp_path / "out"))
    groups = json.loads((tmp_path / "out" / "machinery" / "summaries" / "figure1c.json").read_text())["groups"]
    assert groups["relevant"] == relevant
    assert ("hard" in groups) == (0 in grades)


def test_the_scale_is_the_qrels_not_the_draw(model, tmp_path):
    """The one passage of grade 4 has no text: relevant is 3 all the same, and not 2 and 3."""
    folder = judged(tmp_path / "c", [0, 2, 3], extra=[("q0", "gone", 4)])
    pool = frozen_pool(str(folder), PoolSpec(10, 2, 0), tmp_path / "pools")
    assert {pair.grade for pair in pool.pairs} == {-1, 0, 2, 3}
    assert pool.highest_grade == pool.ranked.highest_grade == pool.select(["q1"]).highest_grade == 4
    assert Pool.from_frame(pool.to_frame(), "mine").highest_grade == 3
    attention = run_attention(
        HookedCrossEncoder.from_pretrained(str(model), device="cpu"), [pool], Store(tmp_path / "out")
    )
    assert matching_heads(attention).attrs["relevant_grades"] == [3, 4]
    alone = query_means(attention, "QUERY->DOC", relevant_grades=[3]).relevant
    assert query_means(attention, "QUERY->DOC").relevant == pytest.approx(alone)


def test_collections_of_two_scales_are_told_apart(model, tmp_path):
    pools = [
        frozen_pool(str(judged(tmp_path / name, grades)), PoolSpec(10, 2, 0), tmp_path / "pools")
        for name, grades in (("graded", (0, 1, 2, 3)), ("binary", (0, 1)))
    ]
    attention = run_attention(
        HookedCrossEncoder.from_pretrained(str(model), device="cpu"), pools, Store(tmp_path / "out")
    )
    with pytest.raises(Unavailable, match=r"the scales 0\.\.1 and 0\.\.3, .*--relevant-grades"):
        matching_heads(attention)
    assert matching_heads(attention, relevant_grades=(1, 2, 3))["n_queries"].eq(8).all()


@pytest.mark.usefixtures("unchecked")
def test_advice_names_options_that_work(model, tmp_path, undrawn):
    """Follow each piece of advice, on the command line, with the option as it is written there."""
    folder = judged(tmp_path / "c", [0, 0, 1, 1, 3], n_queries=3)
    places = [
        "reproduce",
        "--model",
        str(model),
        "--collection",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--draws",
        "1",
    ]
    places += ["--direction", "CLS->DOC", "--device", "cpu"]
    assert main([*places, "--easy-negatives", "0"]) == 0
    reason = json.loads((tmp_path / "out" / "machinery" / "summaries" / "unavailable.json").read_text())["figure1b"]
    assert "--easy-negatives 10, or compare with hard negatives by --against 0 " in reason
    assert main([*places, "--easy-negatives", "0", "--against", "0"]) == 0
    assert (
        asked(json.loads((tmp_path / "out" / "machinery" / "summaries" / "unavailable.json").read_text())).keys()
        <= FOLDS
    )
    assert json.loads((tmp_path / "out" / "machinery" / "summaries" / "figure1b.json").read_text())["against"] == [0]
    assert main([*places, "--relevant-grades", "2"]) == 0
    reason = json.loads((tmp_path / "out" / "machinery" / "summaries" / "unavailable.json").read_text())["figure1b"]
    assert "--relevant-grades 1,3 " in reason
    assert main([*places, "--relevant-grades", "1,3", "--against", "-1", "--quantity", "density"]) == 0
    about = json.loads((tmp_path / "out" / "machinery" / "summaries" / "figure1b.json").read_text())
    assert (about["relevant_grades"], about["against"], about["quantity"]) == ([1, 3], [-1], "density")
    options = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["options"]
    assert (options["relevant_grades"], options["against"], options["quantity"]) == ("(1, 3)", "(-1,)", "density")
    assert "as asked, of the scale 0..3" in caption(tmp_path / "out", "figure1b", Run.read(tmp_path / "out"))


@pytest.mark.parametrize("arguments", [["--relevant-grades", "0,1", "--against", "0"], ["--against", "3"]])
def test_a_grade_on_both_sides_is_refused_before_any_work(model, tmp_path, arguments, capsys, monkeypatch):
    monkeypatch.setattr("tl_crossenc.experiments.main_job.run_table1", None)
    folder = collection_folder(tmp_path / "c", n_queries=2)
    places = ["reproduce", "--model", str(model), "--collection", str(folder), "--out", str(tmp_path / "out")]
    assert main([*places, *arguments]) == 2
    assert "expected grades on both sides and none on both" in capsys.readouterr().err


def test_judgments_without_a_relevant_passage_say_so(model, tmp_path):
    pool = frozen_pool(str(judged(tmp_path / "c", [0, 0])), PoolSpec(10, 2, 0), tmp_path / "pools")
    attention = run_attention(
        HookedCrossEncoder.from_pretrained(str(model), device="cpu"), [pool], Store(tmp_path / "out")
    )
    with pytest.raises(Unavailable, match="no grade above 0, so none of its passages is relevant"):
        matching_heads(attention)
