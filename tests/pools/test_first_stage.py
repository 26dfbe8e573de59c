"""What is read of a run: the first passages of each query, by id, and their texts a few at a time."""

import gzip
import re

import numpy as np
import pytest
from tiny_collections import FakeDocs, FakeQrels, FakeQueries, FakeScoredDocs, register, write_folder

from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.documents import FolderDocuments
from tl_crossenc.pools.first_stage import FirstStage, RunPairs
from tl_crossenc.pools.pool import Pool

DOCS = {f"d{d}": f"egg {d} {'bread ' * (d % 4)}" for d in range(13)} | {"d13": " "}
QUERIES = {f"q{q}": f"flea {q}" for q in range(5)}
QRELS = [("q3", "d1", 3), ("q1", "d2", 1), ("q1", "d3", 0), ("q1", "d12", 2), ("q4", "d0", 1)]
RUN = {
    "q1": {"d2": 4.0, "d5": 9.0, "d3": 4.0, "d11": -1.0, "nowhere": 5.0},
    "q0": {"d7": 1.0, "d8": 2.0},  # not judged
    "q3": {"d13": 3.0, "d1": 2.0, "d9": 1.0},  # d13 has no text
    "q9": {"d1": 1.0},  # not in the collection
}


def whole(pairs):
    return np.array([[len(pair.query), len(pair.text)] for pair in pairs])


@pytest.fixture
def collection(tmp_path):
    return load_collection(write_folder(tmp_path / "tiny", DOCS, QUERIES, QRELS))


def test_the_first_of_each_query_as_trec_eval_ranks_them(collection):
    stage = FirstStage.of(collection, RUN, 3)
    assert {query: (ids, scores.tolist()) for query, (ids, scores) in stage.top.items()} == {
        "q0": (("d8", "d7"), [2, 1]),
        "q1": (("d5", "nowhere", "d3"), [9, 5, 4]),
        "q3": (("d13", "d1", "d9"), [3, 2, 1]),
    }
    assert stage.unknown_queries == ("q9",)
    assert stage.unjudged_queries == ("q0",)
    assert stage.absent_queries == ("q4",)
    assert stage.cut_ties == ("q1",)  # d3 and d2 have 4.0
    assert FirstStage.of(collection, RUN, 4).cut_ties == ()
    assert sorted(stage.judged) == ["q1", "q3", "q4"]
    assert len(stage) == 8


def test_pairs_know_their_texts_only_when_they_are_asked(collection, monkeypatch):
    asked = []
    real = FolderDocuments.get_many
    monkeypatch.setattr(FolderDocuments, "get_many", lambda self, ids: asked.append(sorted(ids)) or real(self, ids))
    monkeypatch.setattr("tl_crossenc.pools.first_stage.BLOCK", 3)
    scans = []
    scan = FolderDocuments._scan
    monkeypatch.setattr(FolderDocuments, "_scan", lambda self: scans.append(1) or scan(self))
    pairs = RunPairs.of(FirstStage.of(collection, RUN, 4), whole)
    assert max(map(len, asked)) == 3
    assert len(scans) == 1  # the file is read once, however many blocks
    assert pairs.queries == ("q0", "q1", "q3")
    assert pairs.doc_ids == ("d8", "d7", "d5", "d3", "d2", "d1", "d9")
    assert pairs.grades.tolist() == [0, 0, 0, 0, 1, 3, 0]
    assert pairs.offsets.tolist() == [0, 2, 5, 7]
    assert (pairs.missing, pairs.missing_pairs) == (("nowhere", "d13"), 2)
    assert pairs.numbers.tolist() == [[6, len(DOCS[doc])] for doc in pairs.doc_ids]
    assert pairs.characters.tolist() == [6 + len(DOCS[doc]) for doc in pairs.doc_ids]
    assert [tuple(pair) for pair in pairs.read([4, 0])] == [
        ("q1", "flea 1", "d2", DOCS["d2"], 1),
        ("q0", "flea 0", "d8", DOCS["d8"], 0),
    ]
    assert pairs.of_query("q1") == slice(2, 5)
    assert pairs.of_query("q4") == slice(0, 0)


def test_the_digest_is_that_of_the_pool_of_the_same_pairs(collection):
    judged = {query: own for query, own in RUN.items() if query != "q0"}
    pairs = RunPairs.of(FirstStage.of(collection, judged, 4), whole)
    pool = Pool.from_run(collection, judged, depth=4)
    assert pairs.digest == pool.digest
    assert pairs.read(range(len(pairs))) == pool.pairs


def test_a_file_gzipped_or_not_and_the_scoreddocs_of_a_collection_say_the_same(collection, tmp_path, monkeypatch):
    lines = "".join(f"{q} Q0 {d} 1 {s} t\n" for q, own in RUN.items() for d, s in own.items())
    (tmp_path / "a.run").write_text(lines)
    (tmp_path / "b.run.gz").write_bytes(gzip.compress(lines.encode()))
    parts = FakeDocs(DOCS), FakeQueries(QUERIES), FakeQrels(QRELS)
    rows = [(q, d, s) for q, own in RUN.items() for d, s in own.items()]
    register(monkeypatch, "fleas/scored", *parts, FakeScoredDocs(rows))
    given = [RUN, tmp_path / "a.run", str(tmp_path / "b.run.gz")]
    stages = [FirstStage.of(collection, run, 3) for run in given]
    stages.append(FirstStage.of(load_collection("fleas/scored"), "scoreddocs", 3))
    for stage in stages:
        assert [(q, ids, s.tolist()) for q, (ids, s) in stage.top.items()] == [
            (q, ids, s.tolist()) for q, (ids, s) in stages[0].top.items()
        ]
        assert RunPairs.of(stage, whole).digest == RunPairs.of(stages[0], whole).digest
    assert [len(stage.sha256) for stage in stages] == [0, 64, 64, 64]


@pytest.mark.parametrize(
    ("run", "depth", "said"),
    [
        (RUN, 0, "depth is a whole number from 1 to 1,000,000, not 0"),
        (RUN, True, "not True"),
        ({}, 3, "the run has no query of collection 'tiny' (its queries: none)"),
        ({"q9": {"d1": 1.0}}, 3, "the run has no query of collection 'tiny' (its queries: q9)"),
        ({"q1": {"d1": float("nan")}}, 3, "a score of query 'q1' that is no finite number"),
        ({"q1": {"x": 1.0, "y": 2.0}, "q3": {"x": 1.0}}, 3, "none of the 2 passages of the run has a text"),
    ],
)
def test_a_run_that_cannot_be_used(collection, run, depth, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        RunPairs.of(FirstStage.of(collection, run, depth), whole)


def test_a_passage_that_goes_meanwhile_is_an_error(collection, monkeypatch):
    pairs = RunPairs.of(FirstStage.of(collection, RUN, 3), whole)
    monkeypatch.setattr(FolderDocuments, "get_many", lambda self, ids: {})
    with pytest.raises(ValueError, match="the passage 'd8' of collection 'tiny' is gone"):
        pairs.read([0])
