"""Folders in every layout: what they hold is what the plain one holds, and bad lines are named."""

import gzip
import hashlib
import json
import logging

import pytest
from ir_datasets.datasets.beir import BeirTitleDoc
from tiny_collections import write_folder

from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.results.kept_pools import frozen_pool

DOCS = {f"d{i}": f"fleas jump {i} " + "é" * (i % 3) for i in range(600)}
QUERIES = {"q2": "why do dogs bark", "q1": "how do fleas move"}
QRELS = [("q1", "d1", 3), ("q1", "d599", 0), ("q2", "d2", 2), ("q2", "d300", 1)]


def beir(folder):
    """BEIR's three files, the text of a document cut in two where it has two words and more."""
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for name, text in DOCS.items():
            title, _, rest = text.partition(" ")
            file.write(json.dumps({"_id": name, "title": title, "text": rest, "metadata": {}}) + "\n")
    lines = [json.dumps({"_id": name, "text": text}) for name, text in QUERIES.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n")
    rows = "".join(f"{q}\t{d}\t{g}\n" for q, d, g in QRELS)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def plain(folder):
    return write_folder(folder, DOCS, QUERIES, QRELS)


def headed(folder):
    plain(folder)
    for name, header in (
        ("docs.tsv", "docno\ttext"),
        ("queries.tsv", "qid\tquery"),
        ("qrels.txt", "query_id iteration doc_id grade"),
    ):
        (folder / name).write_text(f"{header}\n{(folder / name).read_text(encoding='utf-8')}", encoding="utf-8")
    return folder


def lines(folder):
    """Documents as JSON lines of another form beside queries as TSV."""
    plain(folder)
    (folder / "docs.tsv").unlink()
    with (folder / "docs.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": name, "contents": text}) + "\n\n" for name, text in DOCS.items())
    return folder


def zipped(write):
    def make(folder):
        for path in [path for path in write(folder).rglob("*") if path.is_file()]:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        return folder

    return make


LAYOUTS = {"beir": beir, "headed": headed, "lines": lines} | {
    f"{write.__name__}.gz": zipped(write) for write in (plain, beir, headed, lines)
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same(layout, tmp_path):
    collection = load_collection(LAYOUTS[layout](tmp_path / "other" / "pets"))
    expected = load_collection(plain(tmp_path / "plain" / "pets"))
    assert (collection.name, collection.queries, collection.qrels) == ("pets", expected.queries, expected.qrels)
    assert list(collection.queries) == list(expected.queries)
    assert collection.docs.count() == 600
    assert collection.docs.get_many(["d1", "d599", "d7", "text", "docno"]) == {d: DOCS[d] for d in ("d1", "d7", "d599")}
    everything = dict(enumerate(DOCS.items()))
    assert collection.docs.at([0, 599, 255, 256, 257, 3]) == {i: everything[i] for i in (0, 3, 255, 256, 257, 599)}
    assert build_pool(collection, PoolSpec(2, 5, 3)).pairs == build_pool(expected, PoolSpec(2, 5, 3)).pairs


def test_a_title_is_joined_as_ir_datasets_joins_it(tmp_path):
    beir(tmp_path / "c")
    expected = BeirTitleDoc("d4", text="4 é", title="fleas jump").default_text()
    records = [{"_id": "d4", "title": "fleas jump", "text": "4 é"}, {"_id": "d1", "title": "", "text": "alone"}]
    (tmp_path / "c" / "corpus.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert load_collection(tmp_path / "c").docs.get_many(["d4", "d1"]) == {"d4": expected, "d1": "alone"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_digests_are_those_of_the_files_and_a_change_is_noticed(layout, tmp_path):
    folder = LAYOUTS[layout](tmp_path / "pets")
    pool = frozen_pool(str(folder), PoolSpec(2, 2, 0), tmp_path / "pools")
    about = pool.provenance["collection"]
    digests = {**about["sha256"], about["docs"].get("file", "docs.tsv"): about["docs"]["sha256"]}
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    assert digests == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    assert frozen_pool(str(folder), PoolSpec(2, 2, 0), tmp_path / "pools") == pool
    for name, path in files.items():
        before = path.read_bytes()
        path.write_bytes(before + b"\n")
        with pytest.raises(ValueError, match=rf"{name} changed since"):
            frozen_pool(str(folder), PoolSpec(2, 2, 0), tmp_path / "pools")
        path.write_bytes(before)


def test_headers_are_passed_over_with_a_message(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="tl_crossenc"):
        load_collection(headed(tmp_path / "c")).docs.count()
    for name in ("docs.tsv", "queries.tsv", "qrels.txt"):
        assert f"{name}, line 1 names the columns" in caplog.text


def test_a_judged_passage_is_no_header(tmp_path):
    write_folder(tmp_path / "c", {"id": "text", "d2": "more"}, QUERIES, [("q1", "id", 1), ("q1", "d2", 0)])
    collection = load_collection(tmp_path / "c")
    assert collection.docs.count() == 2
    assert collection.docs.get_many(["id"]) == {"id": "text"}


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "x"}\n{"_id": "d2"\n',
            "corpus.jsonl, line 2: expected a JSON object, found none",
        ),
        ("corpus.jsonl", '["d1"]\n', "corpus.jsonl, line 1: expected a JSON object, found list"),
        ("corpus.jsonl", '{"text": "x"}\n', "line 1: expected an id without white space under one of _id"),
        ("corpus.jsonl", '{"_id": "d 1", "text": "x"}\n', "line 1: expected an id without white space"),
        ("corpus.jsonl", '{"_id": "d1", "text": null}\n', "line 1: expected a text under text or contents, found None"),
        (
            "corpus.jsonl",
            '{"_id": "d1", "text": "x"}\n{"_id": "d1", "text": "x"}\n',
            "line 2: expected each document id once",
        ),
        ("queries.jsonl", '{"_id": "q1", "text": "  "}\n', "queries.jsonl, line 1: expected a query with text"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\n", "test.tsv, line 2: expected three columns"),
        ("qrels/test.tsv", "q1\td1\t0.5\n", "test.tsv, line 1: expected a whole number as the grade, found '0.5'"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nquery-id\tcorpus-id\tscore\n",
            "line 2: expected a whole number",
        ),
    ],
)
def test_bad_lines_are_one_sentence_with_file_and_line(tmp_path, file, content, said):
    (beir(tmp_path / "c") / file).write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        load_collection(tmp_path / "c").docs.get_many(["d1"])
    assert "\n" not in str(error.value)


def test_two_files_of_one_part_and_none_are_refused(tmp_path):
    beir(plain(tmp_path / "c"))
    with pytest.raises(
        ValueError, match=r"docs.tsv and corpus.jsonl, each of which may be its documents; remove all but one"
    ):
        load_collection(tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "corpus.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"lacks queries.tsv, qrels.txt"):
        load_collection(tmp_path / "d")


def test_another_split_where_it_is_the_only_one(tmp_path):
    folder = beir(tmp_path / "c")
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    assert load_collection(folder).qrels["q1"] == {"d1": 3, "d599": 0}
    (folder / "qrels" / "train.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(ValueError, match=r"dev.tsv and qrels/train.tsv, each of which may be its qrels"):
        load_collection(folder)


DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "plain": lambda data: b"plain text",
    "changed": lambda data: data[:60] + b"xx" + data[62:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_one_sentence(tmp_path, damage):
    folder = zipped(plain)(tmp_path / "c")
    path = folder / "docs.tsv.gz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"docs.tsv.gz(, line \d+: expected| is not a whole file of gzip's)"):
        load_collection(folder).docs.count()


def test_negative_grades_gain_nothing_and_are_no_easy_negatives(tmp_path, caplog):
    write_folder(tmp_path / "c", DOCS, QUERIES, [("q1", "d1", 2), ("q1", "d2", -1), ("q1", "d3", -2)])
    with caplog.at_level(logging.INFO, logger="tl_crossenc"):
        pool = build_pool(load_collection(tmp_path / "c"), PoolSpec(5, 2, 0))
    assert "2 judgments have a negative grade" in caplog.text
    assert {p.doc_id: p.grade for p in pool.ranked.pairs} == {"d1": 2, "d2": 0, "d3": 0}
    assert not {"d2", "d3"} & {p.doc_id for p in pool.negatives.pairs}
