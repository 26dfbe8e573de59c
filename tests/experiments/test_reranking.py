"""A run reranked: scores of Hugging Face, files that trec_eval reads as the tables say, and memory for a shard of texts alone."""

import math
import pickle
import re

import ir_measures
import numpy as np
import pytest
import torch
from scipy import stats
from small_worlds import forbid_model_work, model_folder, snapshot
from tiny_collections import write_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tl_crossenc.executors.sharded import Shard
from tl_crossenc.executors.task import CellsFailed, Waiting
from tl_crossenc.experiments import run_tasks, scoring
from tl_crossenc.experiments.rankings import FIRST, Rankings
from tl_crossenc.experiments.reranking import rerank
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.documents import FolderDocuments
from tl_crossenc.pools.first_stage import FirstStage, RunPairs
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.trec_run import trec_run_lines
from tl_crossenc.store.cells import Store

RNG = np.random.default_rng(3)
WORDS = ("flea", "egg", "bread", "sponge", "lay", "the", "rise", "how", "do", "quilt")
DOCS = {f"d{d}": " ".join(RNG.choice(WORDS, 1 + d % 29)) for d in range(47)}
DOCS["d7"] = "the flea " * 60  # longer than the model takes
QUERIES = {f"q{q}": f"how do {WORDS[q]} rise" for q in range(7)}
QRELS = [(f"q{q}", f"d{d}", int(g)) for q in range(6) for d, g in enumerate(RNG.integers(0, 4, 23))]
QRELS.append(("q0", "gone", 3))  # relevant, first in the run, and not in the collection
RUN = {
    f"q{q}": {f"d{d}": float(s) for d, s in zip(RNG.permutation(47)[:31], RNG.normal(size=31), strict=True)}
    for q in (0, 1, 2, 3, 6)
}
RUN["q0"] |= {"d7": 50.0, "gone": 49.0}
DEPTH = 17
ABLATED = "zero(DOC->QUERY)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("m") / "tiny", seed=5)


@pytest.fixture(scope="module")
def model(folder):
    return HookedCrossEncoder.from_pretrained(str(folder), dtype="float64", device="cpu")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return load_collection(write_folder(tmp_path_factory.mktemp("c") / "fleas", DOCS, QUERIES, QRELS))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def _small_cells(monkeypatch):
    monkeypatch.setattr(scoring, "SHARD", 19)
    monkeypatch.setattr(scoring, "FEWEST", 19)


@pytest.fixture(scope="module")
def reranked(model, collection, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SHARD", 19)
        patch.setattr(scoring, "FEWEST", 19)
        store = Store(tmp_path_factory.mktemp("s") / "store")
        return rerank(
            model,
            collection,
            RUN,
            store,
            ["DOC->QUERY", "none"],
            depth=DEPTH,
            measures=["nDCG@10", "RR@10", "AP(rel=2)", "R@5"],
        )


def top(query_id):
    own = sorted(((score, doc_id) for doc_id, score in RUN[query_id].items()), reverse=True)
    return [doc_id for _, doc_id in own[:DEPTH]]


def test_scores_are_those_of_hugging_face(reranked, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    seen = 0
    for query_id, doc_ids, scores in reranked.rankings.by_query("none"):
        assert list(doc_ids) == [doc_id for doc_id in top(query_id) if doc_id != "gone"]
        for doc_id, score in zip(doc_ids, scores, strict=True):
            given = tokenizer(
                QUERIES[query_id], DOCS[doc_id], truncation="only_second", max_length=61, return_tensors="pt"
            )
            with torch.no_grad():
                logits = theirs(**given).logits[0]
            assert score == pytest.approx(float(logits[1] - logits[0]), abs=1e-10)
            seen += 1
    assert seen == 5 * DEPTH - 1


def test_scores_under_a_condition_are_those_of_the_ablated_model(reranked, model):
    assert reranked.rankings.conditions == ("none", ABLATED)
    for query_id, doc_ids, scores in reranked.rankings.by_query(ABLATED):
        with model.ablating("DOC->QUERY"):
            expected = model.score(QUERIES[query_id], [DOCS[doc_id] for doc_id in doc_ids])
        np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=1e-10)


def test_the_files_evaluated_by_ir_measures_are_the_table(reranked):
    """No scores tie here; queries that are judged and not in the run count 0."""
    qrels = [ir_measures.Qrel(*row) for row in QRELS]
    for ranking in (FIRST, "none", ABLATED):
        lines = [
            line
            for query_id, ids, scores in reranked.rankings.by_query(ranking)
            for line in trec_run_lines(query_id, ids, scores, "tag")
        ]
        measures = [ir_measures.parse_measure(text) for text in reranked.measures]
        run = list(ir_measures.read_trec_run("\n".join(lines)))
        found = ir_measures.iter_calc(measures, qrels, run)
        values = {(m.query_id, str(m.measure)): m.value for m in found if m.query_id != "q6"}
        frame = reranked.per_query.loc[ranking]
        assert list(frame.index) == [f"q{q}" for q in range(6)]
        for query_id in frame.index:
            for name in reranked.measures:
                expected = values.get((query_id, name), 0.0)
                assert frame.loc[query_id, name] == pytest.approx(expected, abs=1e-9), (ranking, query_id, name)
        assert (frame["tied"] == 0).all()
        assert frame.loc[["q4", "q5"], list(reranked.measures)].eq(0).all(axis=None)


def test_means_intervals_and_tests_are_scipys(reranked):
    values = {r: reranked.per_query.loc[r]["nDCG@10"].to_numpy() for r in (FIRST, "none", ABLATED)}
    table = reranked.table.set_index(["measure", "ranking"]).loc["nDCG@10"]
    assert list(table.index) == [FIRST, "none", ABLATED]
    for ranking, own in values.items():
        low, high = stats.t.interval(0.95, 5, own.mean(), stats.sem(own))
        assert table.loc[ranking, ["mean", "mean_low", "mean_high"]].tolist() == pytest.approx([own.mean(), low, high])
    p = stats.ttest_rel(values[ABLATED], values["none"]).pvalue
    assert table.loc[ABLATED, ["p_paired", "p_holm"]].tolist() == pytest.approx([p, p])
    first = [stats.ttest_rel(values[name], values[FIRST]).pvalue for name in ("none", ABLATED)]
    assert table["first_p_paired"].tolist()[1:] == pytest.approx(first)
    holm = [min(1, 2 * p) if p == min(first) else max(p, min(1, 2 * min(first))) for p in first]
    assert table["first_p_holm"].tolist()[1:] == pytest.approx(holm)
    assert math.isnan(table.loc[FIRST, "difference"])
    assert math.isnan(table.loc["none", "difference"])
    assert reranked.table["ties"].unique().tolist() == ["expected", "by doc_id"]
    assert reranked.to_frame().attrs["depth"] == DEPTH
    assert reranked.to_frame().attrs["conditions"] == ["none", ABLATED]


def test_every_row_of_the_table_is_a_mean_over_the_judged_queries(reranked):
    judged = {q: {d for query, d, _ in QRELS if query == q} for q in QUERIES if q != "q6"}
    table = reranked.table.set_index(["measure", "ranking"])
    assert list(table.index) == [(name, r) for name in reranked.measures for r in (FIRST, "none", ABLATED)]
    for ranking in (FIRST, "none", ABLATED):
        unjudged = 0
        for query_id, doc_ids, scores in reranked.rankings.by_query(ranking):
            best = [doc_id for _, doc_id in sorted(zip(scores, doc_ids, strict=True), reverse=True)[:10]]
            unjudged += sum(doc_id not in judged[query_id] for doc_id in best) if query_id in judged else 0
        for name in reranked.measures:
            row, own = table.loc[(name, ranking)], reranked.per_query.loc[ranking]
            assert (row["n_queries"], len(own)) == (6, 6)
            assert row["mean"] == pytest.approx(sum(own[name]) / 6, abs=1e-12)
            assert row["unjudged"] == pytest.approx(unjudged / 6)
    assert table.loc["R@5", "mean"].nunique() > 1


def test_under_an_ablation_the_cells_are_others_and_the_attrs_say_so(model, collection, store):
    run = {query_id: RUN[query_id] for query_id in ("q1", "q2")}
    plain = rerank(model, collection, run, store, depth=3)
    with model.ablating("DOC->QUERY"):
        found = rerank(model, collection, run, store, depth=3)
        for query_id, doc_ids, scores in found.rankings.by_query("none"):
            expected = model.score(QUERIES[query_id], [DOCS[doc_id] for doc_id in doc_ids])
            np.testing.assert_allclose(scores, expected.numpy(), rtol=0, atol=1e-10)
    assert np.abs(found.rankings.scores("none") - plain.rankings.scores("none")).max() > 1e-6
    attrs = found.to_frame().attrs
    assert (attrs["condition"], attrs["dtype"], attrs["collection"], attrs["measures"]) == (
        *(ABLATED, "float64", "fleas"),
        ["nDCG@10", "RR@10"],
    )
    assert plain.to_frame().attrs["condition"] == "none"


def test_what_the_first_stage_holds_by_hand(reranked, folder):
    judged = {q: {d: g for query, d, g in QRELS if query == q} for q in QUERIES}
    rows = reranked.pool.set_index("query_id")
    held = relevant = 0
    for query_id in RUN:
        wanted = {d for d, g in judged[query_id].items() if g > 0}
        found = wanted & set(top(query_id)) & DOCS.keys()
        assert rows.loc[query_id, ["passages", "relevant", "relevant_in_pool"]].tolist() == [
            DEPTH,
            len(wanted),
            len(found),
        ]
        assert rows.loc[query_id, "recall"] == pytest.approx(
            len(found) / len(wanted) if wanted else math.nan, nan_ok=True
        )
        assert rows.loc[query_id, "judged"] == len(set(top(query_id)) & judged[query_id].keys())
        held += len(found)
    relevant = sum(
        g > 0 for own in judged.values() for g in own.values()
    )  # q4 and q5 too, of which the run has nothing
    assert reranked.recall == pytest.approx(held / relevant)
    assert rows["missing"].to_dict() == {"q0": 1, "q1": 0, "q2": 0, "q3": 0, "q6": 0}
    assert math.isnan(rows.loc["q6", "recall"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lost = {q: [max(0, len(tokenizer(QUERIES[q], DOCS[d]).input_ids) - 61) for d in top(q) if d in DOCS] for q in RUN}
    assert rows["cut_passages"].to_dict() == {q: sum(n > 0 for n in own) for q, own in lost.items()}
    assert rows["cut_tokens"].to_dict() == {q: sum(own) for q, own in lost.items()}
    assert rows["cut_tokens"].max() > 50
    unjudged = sum(d not in judged["q0"] for d in top("q0")[:10])
    assert reranked.per_query.loc[(FIRST, "q0"), "unjudged"] == unjudged


def test_what_ties_is_a_matter_of_the_files_numbers_and_of_the_models_arithmetic(
    collection, folder, store, monkeypatch
):
    """A millionth apart: two places of the run, one to a float32 model, where the RR of the second is 1 or 1/2, each as likely."""
    model = HookedCrossEncoder.from_pretrained(str(folder), device="cpu")
    monkeypatch.setattr(Rankings, "scores", lambda self, condition: np.array([1 + 1e-6, 1.0]))
    one, other = (next(d for q, d, g in QRELS if (q, g) == ("q1", grade)) for grade in (0, 3))
    found = rerank(model, collection, {"q1": {one: 1 + 1e-6, other: 1.0}}, store, measures=["RR"])
    rows = found.per_query.xs("q1", level="query_id")
    assert rows["tied"].to_dict() == {FIRST: 0.0, "none": 1.0}
    assert rows["RR"].to_dict() == {FIRST: 0.5, "none": 0.75}
    assert found.table.set_index("ranking")["tied"].to_dict() == pytest.approx(
        {FIRST: 0, "none": 1 / 6}
    )  # of six queries


def test_what_was_met_is_said_with_names(model, collection, store, caplog):
    run = {**RUN, "q88": {"d1": 1.0}, "q6": {"d1": 1.0, "d2": 1.0}}
    with caplog.at_level("WARNING"):
        rerank(model, collection, run, store, depth=1)
    for said in (
        "fleas: 1 query of the run, not in the collection: left out (q88).",
        "fleas: 1 query of the run without judgments: reranked, and not evaluated (q6).",
        "fleas: 2 queries judged and not in the run: 0 under every measure (q4, q5).",
        "fleas: 1 query with a tie at depth 1: doc_ids decide which passages are taken (q6).",
    ):
        assert said in caplog.text
    caplog.clear()
    many = {"q0": {"d1": 1.0, **{f"gone{i}": 9.0 - i for i in range(5)}}}
    with caplog.at_level("WARNING"):
        rerank(model, collection, many, store)
    said = "5 documents of the run, not in the collection or without text: left out (gone0, gone1, gone2 and 2 more)."
    assert said in caplog.text


def test_a_run_without_a_judged_query_is_reranked_and_not_evaluated(model, collection, store):
    found = rerank(model, collection, {"q6": RUN["q6"]}, store, [ABLATED], depth=5)
    assert len(found.table) == len(found.per_query) == 0
    assert math.isnan(found.recall)
    ((query_id, ids, scores),) = found.rankings.by_query(ABLATED)
    assert (query_id, len(ids), len(scores)) == ("q6", 5, 5)


def test_the_cells_are_those_of_the_pool_of_the_same_run(model, collection, store, monkeypatch):
    run = {query_id: RUN[query_id] for query_id in ("q0", "q1", "q2", "q3")}
    pool = Pool.from_run(collection, run, depth=DEPTH)
    scores = score_pool(model, pool, [UNABLATED, Condition.ablate("DOC->QUERY")], store)
    before = snapshot(store.root)
    forbid_model_work(monkeypatch)
    found = rerank(model, collection, run, store, ["DOC->QUERY"], depth=DEPTH)
    assert snapshot(store.root) == before
    np.testing.assert_array_equal(found.rankings.scores("none"), scores.values[0])
    np.testing.assert_array_equal(found.rankings.scores(ABLATED), scores.values[1])


def test_texts_are_looked_up_a_shard_at_a_time_and_go_with_a_task(model, collection, store, monkeypatch):
    pairs = run_tasks.survey(model, FirstStage.of(collection, RUN, DEPTH))
    tasks = run_tasks.run_tasks(model, pairs, [UNABLATED], scoring.IN_PROCESS)
    assert [len(task.pairs) for task in tasks] == [19, 19, 19, 19, 8]
    sent = pickle.loads(pickle.dumps(tasks[1]))
    assert sent.pairs == tuple(tasks[1].pairs)
    monkeypatch.setattr(FolderDocuments, "get_many", None)
    assert next(sent.cells(model, lambda _: None)).table.num_rows == 19  # has no need of the collection


def test_the_work_is_told_in_tokens(model, collection, store):
    pairs = run_tasks.survey(model, FirstStage.of(collection, RUN, DEPTH))
    lengths = [len(model.to_str_tokens(pair.query, pair.text)) for pair in pairs.read(range(len(pairs)))]
    assert pairs.numbers[:, run_tasks.TOKENS].tolist() == lengths
    calls = []
    rerank(
        model,
        collection,
        RUN,
        store,
        ["DOC->QUERY"],
        depth=DEPTH,
        token_budget=70,
        progress=lambda *call: calls.append(call),
    )
    runs = 4  # two layers of either
    assert calls[-1] == (runs * sum(lengths), runs * sum(lengths))
    steps = np.diff([0, *(done for done, _ in calls)])
    assert (steps > 0).all()
    assert steps.max() <= runs * 70


def test_shards_do_it_between_them_and_leave_the_same_bytes(model, collection, tmp_path):
    whole = Store(tmp_path / "whole")
    expected = rerank(model, collection, RUN, whole, ["DOC->QUERY"], depth=DEPTH)
    shared = Store(tmp_path / "shared")
    with pytest.raises(Waiting):
        rerank(model, collection, RUN, shared, ["DOC->QUERY"], depth=DEPTH, executor=Shard(1, 2))
    assert 0 < len(shared.keys("scores")) < len(whole.keys("scores"))
    found = rerank(model, collection, RUN, shared, ["DOC->QUERY"], depth=DEPTH, executor=Shard(2, 2))
    assert snapshot(shared.root) == snapshot(whole.root)
    assert found.table.equals(expected.table)


def test_a_job_cut_short_goes_on_where_it_was(model, collection, tmp_path, monkeypatch):
    whole = Store(tmp_path / "whole")
    rerank(model, collection, RUN, whole, depth=DEPTH)
    cut, read = Store(tmp_path / "cut"), RunPairs.read
    reads = []

    def dies(self, indices):
        reads.append(1)
        if len(reads) == 3:
            raise KeyboardInterrupt
        return read(self, indices)

    monkeypatch.setattr(RunPairs, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        rerank(model, collection, RUN, cut, depth=DEPTH)
    monkeypatch.setattr(RunPairs, "read", read)
    assert len(cut.keys("scores")) == 2
    calls = []
    rerank(model, collection, RUN, cut, depth=DEPTH, progress=lambda done, total: calls.append(total))
    pairs = run_tasks.survey(model, FirstStage.of(collection, RUN, DEPTH))
    left = np.concatenate(scoring.shards_of(pairs.characters)[2:])
    assert set(calls) == {2 * int(pairs.numbers[left, run_tasks.TOKENS].sum())}
    assert snapshot(cut.root) == snapshot(whole.root)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"depth": 0}, "depth is a whole number from 1"),
        ({"measures": ["nope"]}, "expected a measure as ir_measures names it"),
        ({"measures": []}, "expected at least one measure"),
        ({"conditions": ["DOC->NOWHERE"]}, "NOWHERE"),
        ({"conditions": ["zero(DOC->QUERY; layers=5)"]}, "5"),
        ({"run": {"q1": {"x": 1.0}}}, "none of the 1 passages of the run has a text"),
        ({"run": {}}, "no query of collection 'fleas'"),
    ],
)
def test_what_cannot_be_reranked_is_refused_before_anything_is_stored(
    model, collection, store, monkeypatch, changes, said
):
    before = snapshot(store.root)
    forbid_model_work(monkeypatch)
    given = {"run": RUN, "conditions": (), **changes}
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        rerank(model, collection, given.pop("run"), store, given.pop("conditions"), **given)
    assert "\n" not in str(caught.value)
    assert snapshot(store.root) == before


def test_scores_that_are_no_numbers_fail_their_cells_alone(collection, folder, store):
    broken = HookedCrossEncoder.from_pretrained(str(folder), dtype="float64", device="cpu")
    with torch.no_grad():
        broken.classifier.W.fill_(float("nan")) if hasattr(broken.classifier, "W") else broken.classifier.weight.fill_(
            float("nan")
        )
    with pytest.raises(CellsFailed, match="expected finite scores"):
        rerank(broken, collection, RUN, store, depth=3)
    assert store.keys("scores") == []
