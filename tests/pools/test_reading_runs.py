"""What is kept of a run's file, whatever its order, against every line sorted; and what is refused though it is not kept."""

import gzip
import hashlib
import logging
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_collections import FakeDocs, FakeQrels, FakeQueries, FakeScoredDocs, register, write_folder

from tl_crossenc.pools import runs
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.first_stage import FirstStage, RunPairs
from tl_crossenc.pools.pool import Pool
from tl_crossenc.pools.runs import read_run

LAW = settings(max_examples=30, deadline=None, derandomize=True)
SCORES = [-1.5, 0.0, -0.0, 2.0, 1e300]


def drawn_rows(seed, count):
    """Lines of 3 queries with up to 41 passages each, in any order, of scores that mostly tie."""
    draw = random.Random(seed)
    every = [(q, d) for q in range(3) for d in range(41)]
    return [(q, d, draw.choice(SCORES)) for q, d in draw.sample(every, count)]


ROWS = st.builds(drawn_rows, st.integers(0, 10**6), st.sampled_from([1, 7, 61, 109, 123]))
QUERIES = {f"q{q}": f"flea {q}" for q in range(3)}
QRELS = [("q0", "é3", 1), ("q2", "é5", 2)]
DOCS = {f"é{d}": f"egg {d}" for d in range(41) if d % 5}


def slow_first(rows, query, depth):
    """(doc_id, score) of the first of all lines: before a passage come those of a higher score, or of its score and a higher id."""
    own = [(float(score), doc_id) for query_id, doc_id, score in rows if query_id == query]
    places = {(s, d): sum(t > s or (t == s and e > d) for t, e in own) for s, d in own}
    return [(d, s) for s, d in sorted(places, key=places.get)][:depth]


def write(path, rows):
    path.write_text("".join(f"{q} Q0 {d} 1 {s!r} tag\n" for q, d, s in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def collection(folder):
    return load_collection(write_folder(folder / "tiny", DOCS, QUERIES, QRELS))


@LAW
@given(rows=ROWS, depth=st.integers(1, 13))
def test_the_first_of_each_query_and_one_more_are_kept_of_lines_in_any_order(folder, rows, depth):
    rows = [(f"q{q}", f"é{d}", s) for q, d, s in rows]
    path = write(folder / "a.run", rows)
    every = {q: {d: s for r, d, s in rows if r == q} for q, _, _ in rows}
    found, checksum = read_run(path, depth)
    assert list(found) == list(every)
    assert found == {q: dict(slow_first(rows, q, depth + 1)) for q in every}
    assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_run(path) == (every, checksum)
    assert read_run(path, depth, {"q1"})[0] == {q: found[q] if q == "q1" else {} for q in every}


@LAW
@given(rows=ROWS, depth=st.integers(1, 13))
def test_pools_and_first_stages_take_the_same_of_a_file(folder, collection, rows, depth):
    """Those of all lines sorted; a tie is cut where the first passage left has the score of the last one taken."""
    rows = [(f"q{q}", f"é{d}", s) for q, d, s in rows]
    path = write(folder / "b.run", [*rows, ("q8", "é1", 1.0), ("q7", "é1", 1.0)])
    stage = FirstStage.of(collection, path, depth)
    expected = {q: slow_first(rows, q, depth) for q in QUERIES if slow_first(rows, q, 1)}
    assert {q: list(zip(ids, s.tolist(), strict=True)) for q, (ids, s) in stage.top.items()} == expected
    following = {q: slow_first(rows, q, depth + 1)[depth:] for q in expected}
    assert stage.cut_ties == tuple(q for q, left in following.items() if left and left[0][1] == expected[q][-1][1])
    assert stage.unknown_queries == ("q8", "q7")
    judged = [(q, d) for q in ("q0", "q2") for d, _ in expected.get(q, [])]
    kept = [
        (q, d, DOCS[d], dict(zip(("q0é3", "q2é5"), (1, 2), strict=True)).get(q + d, 0)) for q, d in judged if d in DOCS
    ]
    if not kept:
        return
    pool = Pool.from_run(collection, path, depth=depth)
    assert [(p.query_id, p.doc_id, p.text, p.grade) for p in pool.pairs] == kept
    missing = [d for _, d in judged if d not in DOCS]
    assert (pool.provenance["missing_texts"], pool.provenance["missing_examples"]) == (len(missing), missing[:5])
    assert pool.provenance["queries_not_in_the_run"] == [q for q in ("q0", "q2") if q not in expected]
    assert pool.provenance["queries_without_judgments"] == 2 + ("q1" in expected)
    assert pool.provenance["run_sha256"] == stage.sha256


@LAW
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 16), st.sampled_from([-1.0, 0.0, 2.0])), min_size=1, max_size=97
    ),
    depth=st.integers(1, 5),
)
def test_of_scoreddocs_a_passage_again_counts_with_its_higher_score_at_any_depth(rows, depth):
    kept = runs.FirstPassages(depth, None)
    best = {}
    for q, d, s in rows:
        kept.add(f"q{q}", f"d{d}", s)
        best[f"q{q}", f"d{d}"] = max(s, best.get((f"q{q}", f"d{d}"), s))
    whole = [(q, d, s) for (q, d), s in best.items()]
    assert kept.run() == {q: dict(slow_first(whole, q, depth + 1)) for q in {q for q, _, _ in whole}}


def test_scoreddocs_are_checked_whole_and_cut(monkeypatch):
    rows = [("q0", f"é{d}", float(-d)) for d in range(31)]
    parts = FakeDocs(DOCS), FakeQueries(QUERIES), FakeQrels(QRELS)
    shas = []
    for name, own in (("fleas/a", rows), ("fleas/b", [*rows[:-1], ("q0", "é30", -31.0)])):
        register(monkeypatch, name, *parts, FakeScoredDocs(own))
        stage = FirstStage.of(load_collection(name), "scoreddocs", 3)
        assert stage.top["q0"][0] == ("é0", "é1", "é2")
        shas.append(stage.sha256)
    text = "".join(f"q0\té{d}\t{float(-d)!r}\n" for d in range(31))
    assert (
        shas[0] == hashlib.sha256(text.encode()).hexdigest() != shas[1]
    )  # the last passages count, though none is taken
    register(monkeypatch, "fleas/c", *parts, FakeScoredDocs([*rows, ("q9", "é1", float("inf"))]))
    with pytest.raises(ValueError, match="passage 'é1' of query 'q9' with inf, which is no finite number"):
        FirstStage.of(load_collection("fleas/c"), "scoreddocs", 3)


FAR = [("q0", f"é{d}", float(-d)) for d in range(37)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["q0 Q0 é35 1 -99 t"], "line 38: expected each passage of a query once, found 'é35' again"),
        (["q0 Q0 é36 1 -36.0 t"], "line 38: expected each passage of a query once, found 'é36' again"),
        (["q0 Q0 é0 1 -99 t"], "line 38: expected each passage of a query once, found 'é0' again"),
        (["q0 Q0 é36 1 99 t"], "line 38: expected each passage of a query once, found 'é36' again"),
        (["q9 Q0 é0 1 1 t", "q9 Q0 é0 1 1 t"], "line 39: expected each passage of a query once, found 'é0' again"),
        (["q0 Q0 é35 1 -99 t", "q0"], "line 38: expected each passage of a query once, found 'é35' again"),
        (["q0 Q0 é40 1 high t", "q0 Q0 é35 1 -99 t"], "line 38: expected a finite number as the score, found 'high'"),
        (["q0 Q0 é40 1 -99 t x"], "line 38: expected six columns, query_id Q0 doc_id rank score tag, found 7"),
        (["q0 Q0 é40 1 -inf t"], "line 38: expected a finite number as the score, found '-inf'"),
    ],
)
@pytest.mark.parametrize("depth", [1, 5, None])
def test_faults_beyond_the_depth_are_found_and_the_first_one_is_told(tmp_path, more, said, depth):
    path = write(tmp_path / "a.run", FAR)
    (tmp_path / "b.run.gz").write_bytes(gzip.compress(path.read_bytes() + "\n".join(more).encode()))
    with pytest.raises(ValueError, match=said):
        read_run(tmp_path / "b.run.gz", depth, {"q0"})


def test_passages_of_one_hash_are_told_apart(tmp_path, monkeypatch):
    path = write(tmp_path / "a.run", FAR)
    expected = read_run(path, 3)
    monkeypatch.setattr(runs, "hash", lambda pair: 7 if pair[1] > "é2" else -7, raising=False)
    assert read_run(path, 3) == expected
    write(path, [*FAR, ("q0", "é20", -99.0)])
    with pytest.raises(ValueError, match="line 38: expected each passage of a query once, found 'é20' again"):
        read_run(path, 3)


def test_what_is_held_is_what_is_kept_and_eight_bytes_a_line(tmp_path):
    """Arithmetic: of 31 × 211 lines 31 × 4 are kept, in any order of the file; a passage held costs 300 bytes at most."""
    rows = [(f"q{q}", f"d{d * 7919}", 600 - d / 7) for q in range(31) for d in range(211)]
    path = write(tmp_path / "a.run", random.Random(3).sample(rows, len(rows)))
    tracemalloc.start()
    found, _ = read_run(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(map(len, found.values())) == 31 * 4
    assert peak < 10 * len(rows) + 300 * 31 * (4 + 10) + 100_000  # all of them take 740,000


def test_the_sentence_of_nothing_in_common_counts_a_passage_once_and_names_three(collection, caplog):
    run = {q: {"x": 2.0, "y": 1.0} for q in ("q0", "q2")}
    said = "none of the 2 passages of the run has a text in collection 'tiny' \\(for example x, y\\)"
    with pytest.raises(ValueError, match=said):
        Pool.from_run(collection, run)
    with pytest.raises(ValueError, match=said):
        RunPairs.of(FirstStage.of(collection, run, 3), lambda pairs: np.zeros((len(pairs), 1)))
    other = {f"z{q}": {"x": 1.0} for q in range(5)}
    for asked, which in (
        (lambda: FirstStage.of(collection, other, 3), "of collection 'tiny'"),
        (lambda: Pool.from_run(collection, other), "that collection 'tiny' judges"),
    ):
        with pytest.raises(ValueError, match=f"no query {which} \\(its queries: z0, z1, z2 and 2 more\\); check"):
            asked()
    with caplog.at_level(logging.WARNING):
        Pool.from_run(collection, {q: {"é0": 2.0, "é1": 1.0} for q in ("q0", "q2")})
    assert "2 passages of the run have no text and are not ranked (é0, é0)" in caplog.text
