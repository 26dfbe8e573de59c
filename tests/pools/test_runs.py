"""Pools made from runs: what is ranked, and measured as ir_measures measures the run with all judgments."""

import gzip
import json
import logging

import ir_measures
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from small_worlds import tiny_model
from tiny_collections import FakeDocs, FakeQrels, FakeQueries, FakeScoredDocs, register, write_folder

from tl_crossenc.experiments.ranking import one_ideal, rank_under
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.files import pack_qrels, unpack_qrels
from tl_crossenc.pools.pool import Pool, PoolSpec, build_pool
from tl_crossenc.pools.runs import read_run
from tl_crossenc.report.tables import caption, measure_text
from tl_crossenc.statistics.evaluation import per_query_ndcg
from tl_crossenc.store.cells import Store

RNG = np.random.default_rng(11)
QRELS = [(f"q{q}", f"d{d}", int(g)) for q in range(5) for d, g in enumerate(RNG.integers(0, 4, 9))]
QRELS += [("q5", "d0", 0), ("q5", "d1", 0), ("q6", "d2", 2), ("q1", "d30", -2)]
RUN = {
    f"q{q}": {f"d{d}": float(s) for d, s in zip(RNG.permutation(31)[:14], RNG.normal(size=14), strict=True)}
    for q in (0, 1, 2, 3, 4, 5, 9)  # q6 is judged and missing; q9 has no judgments
}
RUN["q1"]["d30"] = 9.0


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    docs = {f"d{d}": f"flea egg {d} {'bread ' * (d % 4)}" for d in range(31)}
    return load_collection(
        write_folder(tmp_path_factory.mktemp("c") / "tiny", docs, {f"q{q}": f"egg {q}" for q in range(10)}, QRELS)
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("m"), seed=5)


def by_ir_measures(run, cutoff=10):
    qrels = [ir_measures.Qrel(*row) for row in QRELS]
    scored = [ir_measures.ScoredDoc(q, d, s) for q, own in run.items() for d, s in own.items()]
    return {m.query_id: m.value for m in ir_measures.iter_calc([ir_measures.nDCG @ cutoff], qrels, scored)}


@pytest.mark.parametrize("depth", [1, 4, 100])
def test_the_runs_own_order_is_worth_what_ir_measures_says(collection, depth):
    pool = Pool.from_run(collection, RUN, depth=depth)
    place = {index: -rank for own in pool.by_query().values() for rank, index in enumerate(own)}
    ids = [p.query_id for p in pool.pairs], [p.doc_id for p in pool.pairs]
    frame = per_query_ndcg(
        *ids, [p.grade for p in pool.pairs], [place[i] for i in range(len(pool))], qrels=pool.judgments
    )
    cut = {q: dict(sorted(own.items(), key=lambda item: -item[1])[:depth]) for q, own in RUN.items()}
    expected = by_ir_measures(cut)
    assert set(expected) == {f"q{q}" for q in range(7)}
    assert frame["ndcg"].to_dict() == pytest.approx(expected, abs=1e-12)
    assert expected["q6"] == expected["q5"] == 0.0


def test_reranked_it_is_too_and_unjudged_passages_are_ranked(collection, model, tmp_path):
    pool = Pool.from_run(collection, RUN, depth=6)
    assert pool.ranked.pairs == pool.pairs
    assert pool.provenance["unjudged"] > 5
    ranked = rank_under(model, [pool], Store(tmp_path / "s"), [UNABLATED])
    assert ranked.ideal == "qrels"
    scores = model.score([p.query for p in pool.pairs], [p.text for p in pool.pairs]).tolist()
    reranked = {}
    for pair, score in zip(pool.pairs, scores, strict=True):
        reranked.setdefault(pair.query_id, {})[pair.doc_id] = score
    assert not ranked.values["tie_rate"].to_numpy().any()
    assert ranked.ndcg.loc["tiny", "none"].to_dict() == pytest.approx(by_ir_measures(reranked), abs=1e-12)
    sampled = build_pool(collection, PoolSpec(2, 0, 0))
    assert (sampled.ideal, sampled.judgments) == ("pool", None)
    with pytest.raises(ValueError, match="pools of one kind"):
        one_ideal([pool, sampled])


def test_what_was_met_is_counted_and_said(collection, caplog):
    with caplog.at_level(logging.WARNING):
        pool = Pool.from_run(collection, RUN, depth=3)
    assert pool.provenance["queries_not_in_the_run"] == ["q6"]
    assert pool.provenance["queries_without_judgments"] == 1
    assert "1 judged queries are not in the run and count 0 (q6)" in caplog.text
    assert "1 queries of the run have no judgments and are left out (q9)" in caplog.text
    (junk,) = [p for p in pool.pairs if p.query_id == "q1" and p.doc_id == "d30"]
    assert junk.grade == 0  # judged -2: ranked, gains nothing, and is no easy negative
    assert len(pool.negatives) == 0


def test_a_run_file_is_read_as_trec_eval_ranks_it(collection, tmp_path):
    lines = "q0 Q0 d3 7 1.5 tag\nq0 Q0 d20 1 1.5 tag\n\nq0\tQ0\td1\t9\t2e0\ttag\n"
    (tmp_path / "a.run").write_text(lines)
    with gzip.open(tmp_path / "a.run.gz", "wt") as file:
        file.write(lines)
    for name in ("a.run", "a.run.gz"):
        assert read_run(tmp_path / name)[0] == {"q0": {"d3": 1.5, "d20": 1.5, "d1": 2.0}}
        pool = Pool.from_run(collection, tmp_path / name)
        assert [p.doc_id for p in pool.pairs] == ["d1", "d3", "d20"]  # equal scores: by id, descending
    assert len(pool.provenance["run_sha256"]) == 64


def test_the_ranking_that_comes_with_an_ir_datasets_collection_is_a_run(collection, tmp_path, monkeypatch):
    """The same pairs in the same order as of a file that says the same; repeated, the higher score counts."""
    queries = {f"q{q}": f"egg {q}" for q in range(10)}
    docs = {f"d{d}": f"flea egg {d} {'bread ' * (d % 4)}" for d in range(31)}
    rows = [(q, d, s) for q, own in RUN.items() for d, s in own.items()]
    parts = FakeDocs(docs), FakeQueries(queries), FakeQrels(QRELS)
    register(monkeypatch, "fleas/scored", *parts, FakeScoredDocs([*rows, ("q1", "d30", -9.0)]))
    register(monkeypatch, "fleas/bare", *parts)
    register(monkeypatch, "fleas/none", *parts, FakeScoredDocs([]))
    register(monkeypatch, "fleas/nan", *parts, FakeScoredDocs([*rows[:3], ("q2", "d1", float("nan"))]))
    scored = load_collection("fleas/scored")
    pool = Pool.from_run(scored, "scoreddocs", depth=5)
    assert pool.pairs == Pool.from_run(collection, RUN, depth=5).pairs
    assert (pool.provenance["run"], len(pool.provenance["run_sha256"])) == ("scoreddocs", 64)
    register(monkeypatch, "fleas/other", *parts, FakeScoredDocs([*rows[:-1], (*rows[-1][:2], rows[-1][2] + 1e-9)]))
    other = Pool.from_run(load_collection("fleas/other"), "scoreddocs", depth=5)
    assert other.provenance["run_sha256"] != pool.provenance["run_sha256"]
    for given, said in (
        (load_collection("fleas/bare"), "'fleas/bare' has no scoreddocs: name the file of a TREC run"),
        (load_collection("fleas/none"), "of 'fleas/none' are empty"),
        (load_collection("fleas/nan"), "passage 'd1' of query 'q2' with nan, which is no finite number"),
        (collection, "expected a collection of ir_datasets for its scoreddocs, got the folder of 'tiny'"),
    ):
        with pytest.raises(ValueError, match=said):
            Pool.from_run(given, "scoreddocs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q0 Q0 d3 7 1.5\n", "line 1: expected six columns, query_id Q0 doc_id rank score tag, found 5"),
        ("q0 Q0 d1 1 2 t\nq0 Q0 d3 7 nan t\n", "line 2: expected a finite number as the score, found 'nan'"),
        ("q0 Q0 d1 1 2 t\nq0 Q0 d1 2 1 t\n", "line 2: expected each passage of a query once, found 'd1' again"),
        ("\n", "has no line"),
        ("x Q0 d1 1 2 t\n", "no query that collection 'tiny' judges"),
        ("q0 Q0 nowhere 1 2 t\n", "none of the 1 passages of the run has a text"),
    ],
)
def test_bad_runs_are_one_sentence(collection, tmp_path, text, said):
    (tmp_path / "bad.run").write_text(text)
    with pytest.raises(ValueError, match=said):
        Pool.from_run(collection, tmp_path / "bad.run")
    with pytest.raises(FileNotFoundError, match="there is no run at"):
        Pool.from_run(collection, tmp_path / "none.run")
    with pytest.raises(ValueError, match="depth is a whole number from 1 on, not 0"):
        Pool.from_run(collection, RUN, depth=0)


def test_pools_keep_their_qrels_in_their_one_file(collection, tmp_path):
    for pool in (Pool.from_run(collection, RUN, depth=4), build_pool(collection, PoolSpec(2, 1, 0))):
        pool.save(tmp_path / "p.parquet")
        loaded = Pool.load(tmp_path / "p.parquet")
        assert loaded == pool
        assert (loaded.ideal, loaded.qrels, list(loaded.qrels)) == (pool.ideal, pool.qrels, list(pool.qrels))
        assert all(loaded.qrels[q] == collection.qrels[q] for q in loaded.qrels)
        assert loaded.select(["q0"]).qrels == {"q0": collection.qrels["q0"]}
        loaded.save(tmp_path / "again.parquet")
        assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "p.parquet").read_bytes()
    good = (tmp_path / "p.parquet").read_bytes()
    for place in range(4, len(good), 97):
        damaged = bytearray(good)
        damaged[place] ^= 0x55
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            loaded = Pool.load(tmp_path / "damaged")
        except ValueError:
            continue
        assert (loaded.pairs, loaded.qrels) == (pool.pairs, pool.qrels)


def test_many_judgments_are_small():
    qrels = {f"q{q}": {f"msmarco_passage_{q:02d}_{i * 7919}": (i * i) % 4 for i in range(2000)} for q in range(20)}
    packed = pack_qrels(qrels)
    assert unpack_qrels(packed) == qrels
    assert len(packed) < 12 * 40_000


def test_a_pool_of_the_first_format_is_read_and_says_that_it_has_no_qrels(collection, tmp_path, caplog):
    pool = build_pool(collection, PoolSpec(2, 1, 0))
    pool.save(tmp_path / "new.parquet")
    table = pq.read_table(tmp_path / "new.parquet")
    about = json.loads(table.schema.metadata[b"tl_crossenc.pool"]) | {"format_version": 1}
    del about["ideal"], about["qrels_sha256"]
    pq.write_table(table.replace_schema_metadata({b"tl_crossenc.pool": json.dumps(about)}), tmp_path / "old.parquet")
    with caplog.at_level(logging.INFO, logger="tl_crossenc"):
        old = Pool.load(tmp_path / "old.parquet")
    assert old == pool
    assert (old.qrels, old.ideal, old.digest, old.highest_grade) == (None, "pool", pool.digest, 3)
    assert "written before pools kept the collection's qrels" in caplog.text


def test_a_scaled_classifier_ranks_and_ties_alike(collection, tmp_path):
    """CLS reads nothing: all scores are one up to noise, at every size of the logits; elsewhere the ranking is the same."""
    pool = build_pool(collection, PoolSpec(3, 0, 0)).select(["q0", "q1", "q2", "q3"])
    conditions = [UNABLATED, Condition.ablate("CLS->ALL"), Condition.ablate("DOC->QUERY")]
    found = {}
    for factor in (1.0, 1e-6, 1e6):
        scaled = tiny_model(tmp_path / f"m{factor}", dtype="float32", seed=5)
        with torch.no_grad():
            scaled.classifier.weight *= factor
            scaled.classifier.bias *= factor
        size = 0.0  # of two labels: norms of their weights, sizes of their biases
        for row, bias in zip(scaled.classifier.weight.tolist(), scaled.classifier.bias.tolist(), strict=True):
            size += sum(w * w for w in row) ** 0.5 + abs(bias)
        assert scaled.score_scale == pytest.approx(size, rel=1e-6)
        found[factor] = rank_under(scaled, [pool], Store(tmp_path / f"s{factor}"), conditions).values
    expected = found[1.0]
    assert expected["tie_rate", "zero(CLS->ALL)"].eq(1).all()
    assert expected["ndcg", "zero(CLS->ALL)"].equals(expected["random", "none"].rename(("ndcg", "zero(CLS->ALL)")))
    assert expected["tie_rate", "none"].mean() < 0.1
    for factor in (1e-6, 1e6):
        for value in ("ndcg", "tie_rate", "random"):
            pd.testing.assert_frame_equal(found[factor][value], expected[value], rtol=1e-12)


def test_queries_that_cannot_be_ranked_wrongly_are_counted_and_said(model, tmp_path, caplog):
    docs = {f"d{d}": f"flea egg {d}" for d in range(8)}
    qrels = [("q0", "d0", 1), ("q0", "d1", 1), ("q1", "d2", 1), ("q1", "d3", 0), ("q2", "d4", 0), ("q2", "d5", -1)]
    pool = build_pool(
        load_collection(write_folder(tmp_path / "c", docs, {f"q{i}": f"egg {i}" for i in range(3)}, qrels))
    )
    assert rank_under(model, [pool], Store(tmp_path / "s"), [UNABLATED]).one_gain == 2
    assert "2 of 3 queries cannot be ranked wrongly" in caplog.text
    alone = rank_under(model, [pool.select(["q0"])], Store(tmp_path / "s"), [UNABLATED])
    assert (alone.one_gain, alone.ndcg["none"].item(), alone.values["random", "none"].item()) == (1, 1.0, 1.0)
    assert "tell no ranking from another" in caplog.text
    text = caption("m", "c", 3, (1.0, 1.0, 1.0), 1.0, "zero", measure=measure_text(10, "pool"), one_gain=3)
    assert text.startswith("nDCG@10 over the pool (ideal: its passages) of m on c (3 queries)")
    assert "3 of 3 queries cannot be ranked wrongly: their passages all have one gain. So these numbers tell no" in text
    assert measure_text(5, "qrels", "exponential") == "nDCG@5 with exponential gains (ideal: all judgments)"
