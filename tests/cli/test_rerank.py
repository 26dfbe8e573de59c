"""`tl-crossenc rerank`: its files, what it prints, a rerun, shards, and bad input as one sentence with nothing harmed."""

import gzip

import ir_measures
import pandas as pd
import pytest
from small_worlds import collection_folder, forbid_model_work, identities, model_folder, snapshot

from tl_crossenc.experiments import scoring
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
