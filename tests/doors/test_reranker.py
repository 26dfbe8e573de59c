"""The model in PyTerrier's pipelines: scores are the model's own, ranks PyTerrier's."""

import sys

import numpy as np
import pandas as pd
import pytest

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.doors import reranker

pt = pytest.importorskip("pyterrier")

ROWS = pd.DataFrame(
    [
        ("q1", "tune a guitar", "d1", "old piano", 3.0, 0, "x"),
        ("q1", "tune a guitar", "d2", "a guitar garden", 2.0, 1, "y"),
        ("q2", "bake bread", "d1", "old piano", 9.0, 0, "z"),
        ("q2", "bake bread", "d3", "bread", 8.0, 1, "w"),
        ("q1", "tune a guitar", "d3", "bread", 1.0, 2, "v"),
    ],
    columns=["qid", "query", "docno", "text", "score", "rank", "note"],
)


@pytest.fixture(scope="module")
def model():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


def by_hand(model, rows):
    """(scores, ranks from 0 within a query: how many rows of it score more, or as much and come before)."""
    scores = [float(model.score(row.query, [row.text])[0]) for row in rows.itertuples()]
    qids = rows["qid"].tolist()
    ranks = [
        sum(
            qids[j] == qids[i] and (scores[j] > scores[i] or (scores[j] == scores[i] and j < i))
            for j in range(len(qids))
        )
        for i in range(len(qids))
    ]
    return scores, ranks


@pytest.mark.parametrize("condition", [None, "DOC->QUERY", "zero(DOC->QUERY; layers=0)"])
def test_scores_are_the_models_and_ranks_pyterriers(model, condition):
    given = ROWS.copy()
    found = model.as_pyterrier(condition).transform(given)
    pd.testing.assert_frame_equal(given, ROWS)
    assert list(found.columns) == ["qid", "query", "docno", "text", "note", "score", "rank"]
    with model.ablating(condition or "none"):
        scores, ranks = by_hand(model, ROWS)
    found = found.sort_index()
    np.testing.assert_allclose(found["score"], scores, atol=1e-5)
    assert found["rank"].tolist() == ranks
    for column in ("qid", "query", "docno", "text", "note"):
        assert found[column].tolist() == ROWS[column].tolist()
    assert str(model.active_condition) == "none"


def test_a_shorter_limit_is_passed_on(model):
    long = ROWS.assign(text=[f"{'old ' * (5 + i)}a guitar garden" for i in range(len(ROWS))])
    found = model.as_pyterrier(max_length=11, token_budget=13)(long).sort_index()["score"]
    expected = [float(model.score(row.query, [row.text], max_length=11)[0]) for row in long.itertuples()]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - model.as_pyterrier()(long).sort_index()["score"]).max() > 1


def test_activated_scores_and_another_column(model):
    renamed = ROWS.rename(columns={"text": "body"})
    found = model.as_pyterrier(text_field="body", activated=True)(renamed).sort_index()
    np.testing.assert_allclose(
        found["score"], [1 / (1 + np.exp(-score)) for score in by_hand(model, ROWS)[0]], atol=1e-6
    )


def test_it_composes(model):
    retrieved = pt.Transformer.from_df(ROWS.drop(columns="note"))
    queries = ROWS[["qid", "query"]].drop_duplicates()
    best = (retrieved >> model.as_pyterrier() % 1)(queries)
    scores, ranks = by_hand(model, ROWS)
    assert set(zip(best["qid"], best["docno"], strict=True)) == {
        (row.qid, row.docno) for row, rank in zip(ROWS.itertuples(), ranks, strict=True) if rank == 0
    }
    ablated = retrieved >> model.as_pyterrier("DOC->QUERY")
    fused = ((retrieved >> model.as_pyterrier()) + ablated)(queries).set_index(["qid", "docno"])["score"]
    with model.ablating("DOC->QUERY"):
        other, _ = by_hand(model, ROWS)
    for row, one, two in zip(ROWS.itertuples(), scores, other, strict=True):
        assert fused[row.qid, row.docno] == pytest.approx(one + two, abs=1e-5)


def test_it_can_be_inspected_and_takes_empty_frames(model):
    reranker = model.as_pyterrier("DOC->QUERY", text_field="body")
    assert pt.inspect.transformer_inputs(reranker) == [["qid", "query", "docno", "body"]]
    columns = ["qid", "query", "docno", "body", "score", "rank", "note"]
    expected = ["qid", "query", "docno", "body", "note", "score", "rank"]
    assert pt.inspect.transformer_outputs(reranker, columns) == expected
    empty = reranker(pd.DataFrame(columns=columns))
    assert (list(empty.columns), len(empty)) == (expected, 0)
    assert "zero(DOC->QUERY)" in repr(reranker)


def test_what_is_missing_is_said(model):
    with pytest.raises(pt.validate.InputValidationError, match="text"):
        model.as_pyterrier()(ROWS.drop(columns="text"))
    with pytest.raises(
        ValueError, match=r"in the column text of every row, but 1 of 5 have none, the first of docno 'd2'"
    ):
        model.as_pyterrier()(ROWS.assign(text=ROWS["text"].where(ROWS["docno"] != "d2")))
    with pytest.raises(ValueError, match="layer"):
        model.as_pyterrier("zero(DOC->QUERY; layers=9)")


def test_without_pyterrier_it_says_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyterrier", None)
    reranker._reranker.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'tl-crossenc\[pyterrier\]'"):
        model.as_pyterrier()
