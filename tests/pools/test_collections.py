"""Loading: folders, ir_datasets ids, the names of the TREC years, and every malformed line."""

import hashlib

import ir_datasets
import pytest
import requests
from tiny_collections import FakeDocs, FakeQrels, FakeQueries, register, write_folder

from tl_crossenc.pools.collections import load_collection

DOCS = {"d1": "Fleas jump.", "d2": "Dogs bark.", "d3": "Rain falls."}
QUERIES = {"q2": "why do dogs bark", "q1": "how do fleas move"}
QRELS = [("q1", "d1", 3), ("q1", "d2", 0), ("q2", "d2", 2)]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pets", DOCS, QUERIES, QRELS)


def test_folder(folder):
    collection = load_collection(str(folder))
    assert collection.name == "pets"
    assert list(collection.queries.items()) == list(QUERIES.items())
    assert collection.qrels == {"q1": {"d1": 3, "d2": 0}, "q2": {"d2": 2}}
    assert list(collection.qrels) == ["q2", "q1"]  # in the order of the queries
    assert collection.docs.get_many(["d3", "d1", "d9"]) == {"d1": "Fleas jump.", "d3": "Rain falls."}
    assert collection.provenance["sha256"] == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("queries.tsv", "qrels.txt")
    }
    assert str(folder) not in str(collection.provenance)


def test_folder_with_windows_line_ends_bom_blank_lines_and_tabs(folder):
    (folder / "docs.tsv").write_bytes("\ufeffd1\tFleas\u0085jump.\r\n\r\nd2\tDogs bark.".encode())
    (folder / "queries.tsv").write_bytes("\ufeffq1\thow do fleas move\r\n\n".encode())
    (folder / "qrels.txt").write_bytes(b"\nq1\t0\td1  3\r\n  q1 Q0 d2 0")
    collection = load_collection(folder)
    assert collection.queries == {"q1": "how do fleas move"}
    assert collection.qrels == {"q1": {"d1": 3, "d2": 0}}
    assert collection.docs.get_many(["d1", "d2"]) == {"d1": "Fleas\u0085jump.", "d2": "Dogs bark."}
    assert collection.docs.count() == 2


def test_demo():
    collection = load_collection("demo")
    assert collection.name == "demo"
    judged = {doc_id for grades in collection.qrels.values() for doc_id in grades}
    assert collection.docs.get_many(judged).keys() == judged
    assert {grade for grades in collection.qrels.values() for grade in grades.values()} == {0, 1, 2, 3}
    assert collection.qrels.keys() == collection.queries.keys()


def test_an_edited_folder_is_read_anew(folder):
    assert load_collection(folder).docs.get_many(["d1"]) == {"d1": "Fleas jump."}
    write_folder(folder, {**DOCS, "d1": "Fleas leap."}, QUERIES, QRELS)
    assert load_collection(folder).docs.get_many(["d1"]) == {"d1": "Fleas leap."}
    assert sorted(path.name for path in folder.iterdir()) == ["docs.tsv", "qrels.txt", "queries.tsv"]


@pytest.mark.parametrize(
    ("name", "content", "line", "shown"),
    [
        ("qrels.txt", "q1 0 d1 3\nq1 0 d2\n", 2, "four columns"),
        ("qrels.txt", "q1 0 d1 3\n\nq1 0 d2 1 extra\n", 3, "found 5"),
        ("qrels.txt", "q1 0 d1 high\n", 1, "'high'"),
        ("qrels.txt", "q1 0 d1 2.5\n", 1, "whole number"),
        ("qrels.txt", "q1 0 d1 1_0\n", 1, "whole number"),
        ("qrels.txt", "q1 0 d1 3\nq2 0 d2 1\nq1 0 d1 2\n", 3, "2 after 3 on line 1"),
        ("queries.tsv", "q1\thow\nq2 dogs\n", 2, "query_id TAB text"),
        ("queries.tsv", "q1\thow\nq1\twhy\n", 2, "'q1' again"),
        ("queries.tsv", "q1\t  \n", 1, "a query with text"),
        ("queries.tsv", "\thow\n", 1, "an id without white space"),
        ("queries.tsv", "q 1\thow\n", 1, "an id without white space"),
    ],
)
def test_malformed_lines_name_file_line_and_what_was_expected(folder, name, content, line, shown):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}, line {line}: expected") as error:
        load_collection(folder)
    assert shown in str(error.value)
    assert content.splitlines()[line - 1].split()[-1] in str(error.value)  # the line itself
    assert "\n" not in str(error.value)


def test_a_line_that_is_not_utf8(folder):
    (folder / "queries.tsv").write_bytes(b"q1\tplain\nq2\tcaf\xe9\n")
    with pytest.raises(ValueError, match=r"queries.tsv, line 2: expected UTF-8.*xe9"):
        load_collection(folder)


def test_grades_repeated_negative_and_above_three(folder):
    (folder / "qrels.txt").write_text("q1 0 d1 5\nq1 0 d2 -2\nq1 0 d1 5\nq2 0 d2 +1\n")
    collection = load_collection(folder)
    assert collection.qrels == {"q1": {"d1": 5, "d2": 0}, "q2": {"d2": 1}}
    counts = {
        "judgments": 3,
        "highest_grade": 5,
        "negative_grades_read_as_0": 1,
        "repeated_judgments": 1,
    }
    assert collection.provenance.items() >= counts.items()


def test_judgments_of_unknown_queries_are_left_out_with_a_warning(folder, caplog):
    (folder / "qrels.txt").write_text("q1 0 d1 3\nq7 0 d1 3\nq8 0 d1 3\n")
    collection = load_collection(folder)
    assert collection.qrels == {"q1": {"d1": 3}}
    assert collection.provenance["judgments_of_unknown_queries"] == 2
    assert "pets: 2 judgments" in caplog.text


@pytest.mark.parametrize("qrels", ["", "q7 0 d1 3\n"])
def test_no_judgment_of_any_query(folder, qrels):
    (folder / "qrels.txt").write_text(qrels)
    with pytest.raises(ValueError, match="no judgment of collection 'pets' belongs to one of its 2 queries"):
        load_collection(folder)


def test_no_query(folder):
    (folder / "queries.tsv").write_text("\n")
    with pytest.raises(ValueError, match=r"queries\.tsv has no query"):
        load_collection(folder)


def test_incomplete_folder(folder):
    (folder / "qrels.txt").unlink()
    with pytest.raises(ValueError, match=r"pets lacks qrels\.txt; a collection is 'demo'"):
        load_collection(folder)


@pytest.mark.parametrize("name", ["", "./nothing", "/nothing/here", "~/nothing-here", "no-such-collection"])
def test_unknown_names_are_told_the_valid_forms(name):
    with pytest.raises(ValueError, match=r"'demo', one of trec-dl-2019.*ir_datasets id"):
        load_collection(name)


def test_a_file_or_an_empty_folder_is_no_collection(tmp_path):
    with pytest.raises(ValueError, match=r"has none of docs\.tsv, queries\.tsv, qrels\.txt"):
        load_collection(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is not a folder"):
        load_collection(tmp_path / "file")


def test_a_misspelt_id_gets_a_suggestion():
    with pytest.raises(ValueError, match="did you mean vaswani"):
        load_collection("vaswanni")


def test_a_dataset_without_qrels():
    with pytest.raises(ValueError, match="'msmarco-passage' has no queries and no qrels"):
        load_collection("msmarco-passage")


@pytest.mark.parametrize(
    ("name", "dataset_id"),
    [
        ("trec-dl-2019", "msmarco-passage/trec-dl-2019/judged"),
        ("trec-dl-2020", "msmarco-passage/trec-dl-2020/judged"),
        ("trec-dl-2021", "msmarco-passage-v2/trec-dl-2021/judged"),
        ("trec-dl-2022", "msmarco-passage-v2/trec-dl-2022/judged"),
    ],
)
def test_trec_years(monkeypatch, name, dataset_id):
    assert dataset_id in ir_datasets.registry
    register(monkeypatch, dataset_id, FakeDocs(DOCS), FakeQueries(QUERIES), FakeQrels(QRELS))
    collection = load_collection(name)
    assert collection.name == name
    assert collection.provenance["id"] == dataset_id
    assert collection.provenance["ir_datasets"] == ir_datasets.__version__
    assert collection.qrels == {"q1": {"d1": 3, "d2": 0}, "q2": {"d2": 2}}


def test_ir_datasets_queries_use_default_text_and_the_higher_of_two_grades(monkeypatch):
    qrels = [("q1", "d1", 1), ("q1", "d2", -1), ("q1", "d1", 3), ("q1", "d1", 2), ("q9", "d1", 1)]
    register(monkeypatch, "fake/pets", FakeDocs(DOCS), FakeQueries(QUERIES), FakeQrels(qrels))
    collection = load_collection("fake/pets")
    assert collection.queries == QUERIES
    assert collection.qrels == {"q1": {"d1": 3, "d2": 0}}
    assert collection.provenance["repeated_judgments"] == 2


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("All download sources failed", [("mirror", OSError("gone"))]),
        requests.exceptions.ConnectionError("name or service not known"),
        FileNotFoundError(2, "No such file or directory"),
        EOFError("EOF when reading a line"),
    ],
)
@pytest.mark.parametrize(
    ("name", "dataset_id", "size"),
    [
        ("trec-dl-2020", "msmarco-passage/trec-dl-2020/judged", "download of 1.06 GB, with 14.4 GB"),
        ("trec-dl-2022", "msmarco-passage-v2/trec-dl-2022/judged", "download of 21.8 GB, with 60.9 GB"),
        ("fake/offline", "fake/offline", None),
    ],
)
def test_a_failed_download_is_one_sentence(monkeypatch, failure, name, dataset_id, size):
    class Unreachable(FakeQrels):
        def qrels_iter(self):
            raise failure

    register(monkeypatch, dataset_id, FakeDocs(DOCS), FakeQueries(QUERIES), Unreachable([]))
    with pytest.raises(OSError, match="could not be read through ir_datasets") as error:
        load_collection(name)
    message = str(error.value)
    assert dataset_id in message
    assert "IR_DATASETS_HOME" in message
    assert "folder with docs.tsv" in message
    assert (size in message) if size else ("GB" not in message)
    assert "\n" not in message
