"""The pool: views, digest, file; and drawn from folders and datasets end to end."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_collections import FakeDocs, FakeQrels, FakeQueries, register, write_folder

from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec, build_pool

PAIRS = (
    PoolPair("q2", "why rain?", "d1", "It falls.", 3),
    PoolPair("q2", "why rain?", "d9", "Tab\tand\nline, “quotes”, 雨", 0),
    PoolPair("q1", "fleas", "d1", "It falls.", 0),
    PoolPair("q1", "fleas", "d2", "", 2),
    PoolPair("q1", "fleas", "d7", "Far away", -1),
)
POOL = Pool("tiny", PoolSpec(2, 1, 7), PAIRS, {"source": "test", "counts": {"3": 1}})


def folder(path, n=31):
    docs = {f"d{i:02}": f"passage number {i}" for i in range(n)}
    qrels = [(q, f"d{i:02}", (i * k) % 4) for k, q in enumerate(["q1", "q2"], 1) for i in range(23)]
    return write_folder(path, docs, {"q2": "second", "q1": "first", "q3": "idle"}, qrels)


def test_views():
    assert len(POOL) == 5
    assert POOL.ranked.pairs == PAIRS[:4]
    assert POOL.negatives.pairs == PAIRS[4:]
    assert POOL.by_query() == {"q2": [0, 1], "q1": [2, 3, 4]}
    assert POOL.ranked.by_query() == {"q2": [0, 1], "q1": [2, 3]}
    assert POOL.select(["q1"]).pairs == PAIRS[2:]
    assert POOL.select({"q1", "q2"}) == POOL
    assert POOL.negatives.ranked.pairs == ()
    assert (POOL.ranked.collection, POOL.ranked.spec, POOL.ranked.provenance) == (
        POOL.collection,
        POOL.spec,
        POOL.provenance,
    )


def test_describe():
    assert POOL.describe() == "2 queries, 4 passages (3: 1, 2: 1, 0: 2), 1 easy negatives"
    many = Pool("many", PoolSpec(), tuple(PoolPair("q", "?", str(i), "", i % 2) for i in range(2503)))
    assert many.describe() == "1 queries, 2,503 passages (1: 1,251, 0: 1,252), 0 easy negatives"
    assert POOL.negatives.describe() == "1 queries, 0 passages, 1 easy negatives"


@pytest.mark.parametrize("wanted", [["q1", "q9"], []])
def test_select_nothing_or_what_is_not_there(wanted):
    with pytest.raises(ValueError, match="expected query ids of the pool of tiny"):
        POOL.select(wanted)


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (PAIRS[0], "'d1' is in the pool of query 'q2' twice"),
        (PoolPair("q1", "other", "d4", "text", 1), "query 'q1' has two texts"),
        (PoolPair("q1", "fleas", "d4", "text", -2), "grade -2"),
    ],
)
def test_impossible_pools(pair, sentence):
    with pytest.raises(ValueError, match=sentence):
        Pool("tiny", PoolSpec(), (*PAIRS, pair))


def test_digest_is_of_the_pairs_in_order_and_of_nothing_else():
    lines = "".join(json.dumps([p.query_id, p.query, p.doc_id, p.text, p.grade]) + "\n" for p in PAIRS)
    assert POOL.digest == hashlib.sha256(lines.encode()).hexdigest()
    assert Pool("other", PoolSpec(), PAIRS).digest == POOL.digest
    first, *rest = PAIRS[2:]
    for change in ({"query_id": "q3"}, {"doc_id": "x"}, {"text": "x"}, {"grade": 1}):
        assert Pool("t", PoolSpec(), (first._replace(**change), *rest)).digest != POOL.select(["q1"]).digest
    assert Pool("tiny", PoolSpec(), PAIRS[::-1]).digest != POOL.digest


def test_file_round_trip(tmp_path):
    POOL.save(tmp_path / "new" / "pool.parquet")
    loaded = Pool.load(tmp_path / "new" / "pool.parquet")
    assert loaded == POOL
    assert loaded.provenance == POOL.provenance
    assert loaded.digest == POOL.digest
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["pool.parquet"]
    table = pq.read_table(tmp_path / "new" / "pool.parquet")  # readable by others
    assert table.column("doc_id").to_pylist() == ["d1", "d9", "d1", "d2", "d7"]
    about = json.loads(table.schema.metadata[b"tl_crossenc.pool"])
    assert about["format_version"] == 2
    assert about["spec"] == {"per_grade": 2, "easy_negatives": 1, "seed": 7, "match_length": True, "match_grades": None}


def test_equal_pools_give_equal_bytes(tmp_path):
    Pool.load(_saved(POOL, tmp_path / "a")).save(tmp_path / "b")
    shuffled = Pool("tiny", POOL.spec, PAIRS, dict(reversed(POOL.provenance.items())))
    shuffled.save(tmp_path / "c")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    POOL.ranked.save(tmp_path / "d")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "d").read_bytes()


def _saved(pool, path):
    pool.save(path)
    return path


def test_an_empty_view_round_trips(tmp_path):
    empty = POOL.negatives.ranked
    assert Pool.load(_saved(empty, tmp_path / "empty")) == empty


def test_a_failed_save_harms_nothing(tmp_path, monkeypatch):
    path = _saved(POOL, tmp_path / "pool.parquet")
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        POOL.ranked.save(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        POOL.save(tmp_path / "file" / "pool.parquet")
    assert (tmp_path / "file").read_text() == "mine"


def _rewritten(path, columns=None, **changes):
    """The pool's file with other columns or metadata, written by plain pyarrow."""
    table = pq.read_table(_saved(POOL, path))
    about = json.loads(table.schema.metadata[b"tl_crossenc.pool"]) | changes
    data = table.to_pydict() | (columns or {})
    schema = table.schema.with_metadata({b"tl_crossenc.pool": json.dumps(about).encode()})
    pq.write_table(pa.table(data, schema=schema), path)
    return path


def test_the_rewriting_helper_alone_changes_nothing(tmp_path):
    assert Pool.load(_rewritten(tmp_path / "same")) == POOL


def test_foreign_and_damaged_files(tmp_path):
    good = _saved(POOL, tmp_path / "good").read_bytes()
    cases = {
        "text": (b"q1 0 d1 3\n", "is not a readable pool file"),
        "empty": (b"", "is not a readable pool file"),
        "truncated": (good[: len(good) // 2], "is not a readable pool file"),
        "tail": (good[:-4], "is not a readable pool file"),
    }
    for name, (content, sentence) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=sentence) as error:
            Pool.load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)
    pq.write_table(pa.table({"query_id": ["q1"], "score": [0.5]}), tmp_path / "scores")
    with pytest.raises(ValueError, match="is a Parquet file but not a pool"):
        Pool.load(tmp_path / "scores")
    pq.write_table(pa.Table.from_pandas(POOL.to_frame()), tmp_path / "frame")
    with pytest.raises(ValueError, match="is a Parquet file but not a pool"):
        Pool.load(tmp_path / "frame")
    with pytest.raises(FileNotFoundError, match="there is no pool file at"):
        Pool.load(tmp_path / "nowhere")


def test_changed_content_and_another_format(tmp_path):
    texts = [p.text for p in PAIRS]
    with pytest.raises(ValueError, match="do not match its checksum"):
        Pool.load(_rewritten(tmp_path / "edited", {"text": [*texts[:-1], "Far  away"]}))
    with pytest.raises(ValueError, match="has pool format 3, this version reads 2"):
        Pool.load(_rewritten(tmp_path / "later", format_version=3))


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_byte_never_passes_as_another_pool(tmp_path, seed):
    good = bytearray(_saved(POOL, tmp_path / "good").read_bytes())
    for place in range(4 + seed, len(good), 8):
        damaged = good.copy()
        damaged[place] ^= 0x55
        (tmp_path / "damaged").write_bytes(damaged)
        try:
            loaded = Pool.load(tmp_path / "damaged")
        except ValueError:
            continue
        assert loaded.pairs == PAIRS


def test_frame_round_trip():
    frame = POOL.to_frame()
    assert list(frame.columns) == ["query_id", "query", "doc_id", "text", "grade"]
    assert frame["grade"].tolist() == [3, 0, 0, 2, -1]
    assert json.loads(json.dumps(frame.attrs)) == frame.attrs
    assert (frame.attrs["collection"], frame.attrs["digest"]) == (POOL.collection, POOL.digest)
    assert frame.attrs["spec"]["seed"] == POOL.spec.seed
    again = Pool.from_frame(frame.assign(note=1), "mine")
    assert (again.collection, again.pairs) == ("mine", PAIRS)
    numbers = pd.DataFrame({"query_id": [7], "query": ["?"], "doc_id": [11], "text": ["t"], "grade": [2.0]})
    assert Pool.from_frame(numbers, "n").pairs == (PoolPair("7", "?", "11", "t", 2),)
    assert type(Pool.from_frame(numbers, "n").pairs[0].grade) is int


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: f.drop(columns=["text", "grade"]), "frame 'mine' lacks text, grade; expected query_id"),
        (lambda f: f.iloc[:0], "has no row"),
        (lambda f: f.assign(text=None), "has empty cells"),
        (lambda f: f.assign(grade=1.5), "not a whole number"),
        (lambda f: f.assign(grade=float("inf")), "not a whole number"),
        (lambda f: f.assign(grade="high"), "not a whole number"),
        (lambda f: pd.concat([f, f]), "in the pool of query 'q2' twice"),
    ],
)
def test_unusable_frames(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Pool.from_frame(change(POOL.to_frame()), "mine")


def test_build_from_a_folder(tmp_path):
    pool = build_pool(load_collection(folder(tmp_path / "made")), PoolSpec(3, 2, seed=1))
    # q1: grades i % 4 for i < 23, so at least 5 of each grade; q2: 2i % 4, so grades 0 and 2 alone
    assert pool.describe() == "2 queries, 18 passages (3: 3, 2: 6, 1: 3, 0: 6), 4 easy negatives"
    assert pool.collection == "made"
    assert list(pool.by_query()) == ["q2", "q1"]
    assert {p.doc_id for p in pool.negatives.pairs} <= {f"d{i:02}" for i in range(23, 31)}
    assert pool.provenance["passages_by_grade"] == {"3": 3, "2": 6, "1": 3, "0": 6, "-1": 4}
    assert pool.provenance["easy_negatives"] == 4
    assert pool.provenance["queries_unjudged"] == 1
    docs = (tmp_path / "made" / "docs.tsv").read_bytes()
    assert pool.provenance["collection"]["docs"] == {
        "documents": 31,
        "sha256": hashlib.sha256(docs).hexdigest(),
    }


def test_a_folder_and_a_dataset_of_the_same_content_give_the_same_pool(tmp_path, monkeypatch):
    path = folder(tmp_path / "same")
    tables = [
        dict(line.split("\t") for line in (path / f).read_text().splitlines()) for f in ("docs.tsv", "queries.tsv")
    ]
    qrels = [(q, d, int(g)) for q, _, d, g in map(str.split, (path / "qrels.txt").read_text().splitlines())]
    register(monkeypatch, "fake/same", FakeDocs(tables[0]), FakeQueries(tables[1]), FakeQrels(qrels))
    here, there = (build_pool(load_collection(name), PoolSpec(4, 3, 2)) for name in (path, "fake/same"))
    assert here.pairs == there.pairs
    assert there.provenance["collection"]["id"] == "fake/same"


def test_no_easy_negatives_asked_for(tmp_path):
    pool = build_pool(load_collection(folder(tmp_path / "made")), PoolSpec(3, 0))
    assert pool.negatives.pairs == ()
    assert pool.provenance["easy_negatives"] == "none asked for"


def test_the_file_is_the_same_from_another_process_and_place(tmp_path):
    build_pool(load_collection(folder(tmp_path / "a" / "tiny"))).save(tmp_path / "here.parquet")
    folder(tmp_path / "b" / "tiny")
    script = (
        "import sys; from tl_crossenc.pools.collections import load_collection; from tl_crossenc.pools.pool import build_pool\n"
        "build_pool(load_collection(sys.argv[1])).save(sys.argv[2])\n"
        "sys.exit('torch' in sys.modules)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "b" / "tiny"), str(tmp_path / "there.parquet")]
    subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": "12345"})
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "there.parquet").read_bytes()


def test_a_pool_of_before_lengths_were_matched_is_read_as_the_random_draw_that_it_is(tmp_path):
    POOL.save(tmp_path / "pool.parquet")
    table = pq.read_table(tmp_path / "pool.parquet")
    about = json.loads(table.schema.metadata[b"tl_crossenc.pool"])
    del about["spec"]["match_length"], about["spec"]["match_grades"]
    pq.write_table(table.replace_schema_metadata({b"tl_crossenc.pool": json.dumps(about)}), tmp_path / "old.parquet")
    assert Pool.load(tmp_path / "old.parquet").spec.match_length is False
    assert Pool.load(tmp_path / "pool.parquet").spec.match_length is True


def test_the_grades_that_lengths_were_matched_to_are_kept(tmp_path):
    spec = PoolSpec(2, 1, 7, match_grades=(1, 2, 3))
    Pool("tiny", spec, PAIRS).save(tmp_path / "pool.parquet")
    assert Pool.load(tmp_path / "pool.parquet").spec == spec
