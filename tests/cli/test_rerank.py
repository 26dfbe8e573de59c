"""`tl-crossenc rerank`: its files, what it prints, a rerun, shards, and bad input as one sentence with nothing harmed."""

import gzip
import re
import shutil

import ir_measures
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_worlds import collection_folder, forbid_model_work, identities, model_folder, snapshot

from tl_crossenc.experiments import scoring
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, a collection, and a run of it with a passage and a query that it lacks."""
    folder = tmp_path_factory.mktemp("world")
    model_folder(folder / "model")
    collection = load_collection(collection_folder(folder / "fleas", n_queries=4))
    lines = []
    for q, (query_id, judged) in enumerate(collection.qrels.items()):
        if q == 3:
            continue  # judged, and not in the run
        ids = [*list(judged)[q::2], *(f"x{i}" for i in range(3 + q))]
        lines += [f"{query_id} Q0 {doc_id} {rank} {20.5 - rank} bm25\n" for rank, doc_id in enumerate(ids)]
    lines += ["q0 Q0 gone 9 99.0 bm25\n", "q77 Q0 x1 1 1.0 bm25\n"]
    (folder / "bm25.run").write_text("".join(lines))
    (folder / "bm25.run.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return folder


def given(world, out, *more, file="bm25.run"):
    asked = ("rerank", world / "model", "--run", world / file, "--collection", world / "fleas", "--out", out)
    return (*asked, "--device", "cpu", "--depth", "6", *more)


FIRST = "first stage"
MEASURES = ("--measure", "nDCG@5", "--measure", "AP(rel=2)")
ABLATED = ("--ablate", "DOC->QUERY")


def test_the_files_and_what_is_printed(run, world, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(*given(world, tmp_path / "out", *MEASURES, *ABLATED))
    assert status == 0
    table = pd.read_csv(tmp_path / "out" / "tables" / "rerank.csv")
    assert table["ranking"].tolist() == ["first stage", "none", "zero(DOC->QUERY)"] * 2
    assert table["ties"].tolist() == ["expected"] * 3 + ["by doc_id"] * 3
    qrels = [
        ir_measures.Qrel(q, d, g) for q, own in load_collection(world / "fleas").qrels.items() for d, g in own.items()
    ]
    measures = [ir_measures.parse_measure("nDCG@5"), ir_measures.parse_measure("AP(rel=2)")]
    for ranking, file in (("first stage", "first_stage"), ("none", "none")):
        path = tmp_path / "out" / "runs" / "fleas" / f"{file}.run"
        lines = [line.split() for line in path.read_text().splitlines()]
        assert {line[5] for line in lines} == {file}
        for query_id in {line[0] for line in lines}:
            own = [line for line in lines if line[0] == query_id]
            assert [int(line[3]) for line in own] == list(range(1, len(own) + 1))
            order = [(float(line[4]), line[2]) for line in own]
            assert order == sorted(order, reverse=True)
        found = ir_measures.calc_aggregate(measures, qrels, ir_measures.read_trec_run(str(path)))
        for measure in measures:
            (mean,) = table.loc[(table["ranking"] == ranking) & (table["measure"] == str(measure)), "mean"]
            assert mean == pytest.approx(found[measure], abs=1e-9)
            assert f"{mean:.3f}" in out
    assert max(map(len, out.split("\np: ")[0].splitlines())) <= 80
    for said in (
        "p: paired t-tests over queries",
        "AP(rel=2): ties broken by doc_id",
        "Recall: the first 6 passages",
        "Cut: none of",
    ):
        assert said in out
    assert "1 document of the run, not in the collection or without text: left out (gone)." in caplog.text
    assert "1 query of the run, not in the collection: left out (q77)." in caplog.text
    assert "1 query judged and not in the run: 0 under every measure (q3)." in caplog.text
    pool = pd.read_csv(tmp_path / "out" / "tables" / "rerank_pool.csv")
    assert pool["missing"].tolist() == [1, 0, 0]
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "rerank_per_query.csv")) == 3 * 4
    text = (tmp_path / "out" / "tables" / "rerank.md").read_text()
    assert "left out (gone)" in text
    assert "| none |" in text


def by_scipy(values, base):
    """Ranking -> (difference, Holm's p) as they are printed, of paired t-tests by scipy."""
    p = {name: stats.ttest_rel(own, values[base]).pvalue for name, own in values.items() if name not in (base, FIRST)}
    found, least = {}, 0.0
    for i, name in enumerate(sorted(p, key=p.get)):
        least = max(least, min(1, (len(p) - i) * p[name]))
        shown = "<.001" if least < 0.001 else f"{least:.3f}".removeprefix("0")
        found[name] = [f"{np.mean(values[name] - values[base]):+.3f}", shown]
    return found


def test_every_cell_note_and_score_by_hand(run, world, tmp_path):
    """Of a collection whose x1 is too long, and relevant to q0; one of q0's passages, which nobody judged, is gone."""
    world = shutil.copytree(world, tmp_path / "world")
    docs, qrels = world / "fleas" / "docs.tsv", world / "fleas" / "qrels.txt"
    docs.write_text(re.sub(r"^x1\t.*", "x1\t" + "flea " * 90, docs.read_text(), flags=re.MULTILINE))
    qrels.write_text(qrels.read_text() + "q0 0 x1 2\n")
    names = [FIRST, "none", "zero(DOC->QUERY)", "zero(CLS->QUERY)"]
    out = tmp_path / "out"
    asked = ("--measure", "AP", "--measure", "nDCG@3", *ABLATED, "--ablate", "CLS->QUERY", "--depth", "9")
    status, said, _ = run(*given(world, out, *asked))
    assert status == 0
    said = " ".join(said.split())
    per_query = pd.read_csv(out / "tables" / "rerank_per_query.csv")
    tables = (out / "tables" / "rerank.md").read_text().split("| ranking |")[1:]
    assert len(tables) == 2
    for measure, table in zip(("AP", "nDCG@3"), tables, strict=True):
        values = {name: per_query.loc[per_query["ranking"] == name, measure].to_numpy() for name in names}
        none, first = by_scipy(values, "none"), by_scipy(values, FIRST)
        rows = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")
        ]
        assert len(rows) == len(names)
        for name, row in zip(names, rows, strict=True):
            own = values[name]
            low, high = stats.t.interval(0.95, 3, own.mean(), stats.sem(own))
            assert row[0].replace("\\", "") == name
            assert [row[1], row[2].replace("\\", "")] == [f"{own.mean():.3f}", f"[{low:.3f}, {high:.3f}]"]
            assert [cell.replace("\\", "") for cell in row[3:]] == [
                *none.get(name, ["", ""]),
                *first.get(name, ["", ""]),
            ]
    collection, model = (
        load_collection(world / "fleas"),
        HookedCrossEncoder.from_pretrained(world / "model", device="cpu"),
    )
    runs = {name: list(ir_measures.read_trec_run(str(next((out / "runs" / "fleas").glob(file))))) for name, file in zip(
        names, ("first_stage.run", "none.run", "zero_DOC-QUERY.run", "zero_CLS-QUERY.run"), strict=True)}  # fmt: skip
    texts = dict(line.split("\t") for line in docs.read_text().splitlines())
    for name in names[1:]:
        assert {(d.query_id, d.doc_id) for d in runs[name]} == {
            (d.query_id, d.doc_id) for d in runs[FIRST] if d.doc_id != "gone"
        }
        for query_id in ("q0", "q1", "q2"):
            own = [line for line in runs[name] if line.query_id == query_id]
            with model.ablating(name):
                expected = model.score(collection.queries[query_id], [texts[line.doc_id] for line in own])
            np.testing.assert_allclose([line.score for line in own], expected, atol=1e-5)
    judged = collection.qrels
    held = sum(judged[d.query_id].get(d.doc_id, 0) > 0 for d in runs["none"])
    relevant = sum(grade > 0 for own in judged.values() for grade in own.values())
    assert f"hold {held} of {relevant} relevant ones ({held / relevant:.1%}; grade 1 and more)" in said
    unjudged = [sum(d.doc_id not in judged[d.query_id] for d in runs[name]) / 4 for name in names[:2]]  # nine a query
    assert f"{unjudged[0]:.1f}" != f"{unjudged[1]:.1f}"
    assert f"first ten passages, {unjudged[0]:.1f} (first stage) and {unjudged[1]:.1f} (none) in the mean" in said
    lost = [
        max(0, len(model.tokenizer(collection.queries[d.query_id], texts[d.doc_id]).input_ids) - 61)
        for d in runs["none"]
    ]
    cut = sum(n > 0 for n in lost)
    assert cut > 0
    assert f"Cut: {cut} of {len(lost)} pairs, which lose {sum(lost)} tokens of their passages." in said
    shown = pd.read_csv(out / "tables" / "rerank.csv").set_index(["measure", "ranking"]).loc["AP"]
    for name in names:
        rows = per_query[per_query["ranking"] == name]
        assert shown.loc[name, ["tied", "unjudged"]].tolist() == pytest.approx(
            [rows["tied"].mean(), rows["unjudged"].mean()]
        )


def test_a_rerun_is_free_and_leaves_every_byte_and_other_conditions_add_their_own(run, world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert run(*given(world, out, *ABLATED))[0] == 0
    before = snapshot(out)
    cells = identities(out / "machinery" / "cells")
    with monkeypatch.context() as patch:
        forbid_model_work(patch)
        assert run(*given(world, out, *ABLATED, file="bm25.run.gz"))[0] == 2  # another file
        assert snapshot(out) == before
        assert run(*given(world, out, *ABLATED))[0] == 0
        assert snapshot(out) == before
        assert run(*given(world, out, *MEASURES))[0] == 0
    assert identities(out / "machinery" / "cells") == cells
    assert sorted(path.name for path in (out / "runs" / "fleas").iterdir()) == ["first_stage.run", "none.run"]
    assert set(pd.read_csv(out / "tables" / "rerank.csv")["measure"]) == {"nDCG@5", "AP(rel=2)"}
    assert run(*given(world, out, *ABLATED))[0] == 0
    assert snapshot(out) == before
    status, said, _ = run("status", out)
    assert (status, "Everything is done" in said) == (0, True)


def test_shards_then_a_run_that_draws(run, world, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "SHARD", 5)
    monkeypatch.setattr(scoring, "FEWEST", 5)
    assert run(*given(world, tmp_path / "whole", *ABLATED))[0] == 0
    for shard in ("1/2", "2/2"):
        status, out, _ = run(*given(world, tmp_path / "out", *ABLATED, "--shard", shard))
        assert (status, f"Shard {shard}: " in out) == (0, True)
        assert not (tmp_path / "out" / "tables").exists()
    assert "Every cell is there: run without --shard to draw." in out
    forbid_model_work(monkeypatch)
    assert run(*given(world, tmp_path / "out", *ABLATED))[0] == 0
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--depth", "0"), "expected a whole number from 1 to 1000000, got '0'"),
        (("--measure", "nope"), "expected a measure as ir_measures names it, such as nDCG@10"),
        (("--ablate", "DOC->WHERE"), "WHERE"),
        (("--run", "nowhere.run"), "there is no run at nowhere.run"),
        (("--run", "scoreddocs"), "expected a collection of ir_datasets for its scoreddocs"),
        (("--run", "empty.run"), "empty.run has no line"),
        (("--run", "words.run"), "words.run, line 2: expected a finite number as the score, found 'high'"),
        (
            ("--run", "unknown.run"),
            "none of the 2 passages of the run has a text in collection 'fleas' (for example y, x)",
        ),
        (("--run", "queries.run"), "the run has no query of collection 'fleas' (its queries: z9)"),
    ],
)
def test_bad_input_is_one_sentence(run, world, tmp_path, monkeypatch, more, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.run").write_text("\n")
    (tmp_path / "words.run").write_text("q0 Q0 x1 1 2.0 t\nq0 Q0 x2 1 high t\n")
    (tmp_path / "unknown.run").write_text("q0 Q0 x 1 2.0 t\nq0 Q0 y 1 3.0 t\n")
    (tmp_path / "queries.run").write_text("z9 Q0 x1 1 2.0 t\n")
    status, out, err = run(*given(world, tmp_path / "out", *more))
    assert (status, out) == (2, "")
    assert said in err
    assert err.count("tl-crossenc") >= 1
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_job_is_left_as_it_is(run, world, tmp_path):
    out = tmp_path / "out"
    assert run(*given(world, out))[0] == 0
    before = snapshot(out)
    status, _, err = run(*given(world, out, "--depth", "5"))
    assert status == 2
    assert "the number of passages a query (--depth) there is 6, here 5" in err
    status, _, err = run("compare-masks", "--model", world / "model", "--collection", world / "fleas", "--out", out)
    assert status == 2
    assert "there it is 'rerank', here 'compare-masks'" in err
    assert snapshot(out) == before
