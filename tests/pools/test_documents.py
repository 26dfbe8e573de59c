"""Access to passages: by id and by position, from a folder and from ir_datasets, against the plain list."""

import ir_datasets
import pytest
from tiny_collections import FakeDocs, IndexedPages, SlicedPages

from tl_crossenc.pools.documents import FolderDocuments
from tl_crossenc.pools.ir_documents import IrDatasetsDocuments

TEXTS = {f"d{i}": f"passage {i} " + "é" * (i % 7) for i in range(601)}  # two strides of 256 and a part


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "docs.tsv"
    lines = [f"{doc_id}\t{text}\n" + "\n" * (i % 5 == 0) for i, (doc_id, text) in enumerate(TEXTS.items())]
    path.write_text("\n" + "".join(lines), encoding="utf-8")
    return path


def test_folder_by_id(path):
    docs = FolderDocuments(path, frozenset({"d3", "d599", "d1000"}))
    assert docs.get_many(["d599", "d3", "d1000"]) == {"d3": TEXTS["d3"], "d599": TEXTS["d599"]}
    assert docs.get_many(["d17", "d3"]) == {"d17": TEXTS["d17"], "d3": TEXTS["d3"]}  # d17 was not announced
    assert docs.get_many([]) == {}


def test_folder_by_position(path):
    docs = FolderDocuments(path, frozenset())
    assert docs.count() == 601
    positions = [600, 0, 255, 256, 257, 511, 512, 1, 255]
    expected = list(TEXTS.items())
    assert docs.at(positions) == {position: expected[position] for position in positions}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("d1\tone\nd2 two\n", r"line 2: expected two columns, doc_id TAB text, found 1 in 'd2 two'"),
        ("d1\tone\ttitle\n", r"line 1: expected two columns, doc_id TAB text, found 3"),
        ("d1\tone\nd2\ttwo\n\nd1\tone\n", r"line 4: expected each document id once, found 'd1' again"),
        ("d 1\tone\n", r"line 1: expected an id without white space, found 'd 1'"),
    ],
)
def test_malformed_documents(tmp_path, content, expected):
    (tmp_path / "docs.tsv").write_text(content)
    with pytest.raises(ValueError, match=expected):
        FolderDocuments(tmp_path / "docs.tsv", frozenset({"d1"})).get_many(["d1"])


def test_a_long_malformed_line_is_shortened(tmp_path):
    (tmp_path / "docs.tsv").write_text("x" * 5000)
    with pytest.raises(ValueError, match="line 1") as error:
        FolderDocuments(tmp_path / "docs.tsv", frozenset()).count()
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_a_file_that_changes_between_two_reads(path):
    docs = FolderDocuments(path, frozenset({"d3", "d600"}))
    docs.get_many(["d3"])
    path.write_text("e0\tother\n" * 3)
    with pytest.raises(ValueError, match="changed while it was being read"):
        docs.get_many(["d3"])
    with pytest.raises(ValueError, match="changed while it was being read"):
        docs.get_many(["d600"])


def test_a_file_of_the_same_length_with_other_ids(path):
    docs = FolderDocuments(path, frozenset({"d3"}))
    docs.count()
    path.write_text(path.read_text(encoding="utf-8").replace("d3\t", "e3\t"), encoding="utf-8")
    with pytest.raises(ValueError, match="changed while it was being read"):
        docs.get_many(["d3"])


def test_ir_datasets_by_id_whatever_the_order_and_the_gaps():
    docs = IrDatasetsDocuments(FakeDocs(TEXTS), "fake")
    asked = ["d5", "nowhere", "d4", "d5"]
    assert docs.get_many(asked) == {"d4": TEXTS["d4"], "d5": TEXTS["d5"]}
    assert list(docs.get_many(asked)) == ["d4", "d5"]
    assert docs.get_many([]) == {}


@pytest.mark.parametrize("count", [len, lambda docs: None])
@pytest.mark.parametrize("iterator", [IndexedPages, SlicedPages, lambda docs: iter(IndexedPages(docs))])
def test_ir_datasets_by_position(iterator, count):
    docs = IrDatasetsDocuments(FakeDocs(TEXTS, iterator, count), "fake")
    assert docs.count() == 601
    expected = list(TEXTS.items())
    assert docs.at([600, 3, 0, 3]) == {position: expected[position] for position in (0, 3, 600)}


def test_fewer_documents_than_published():
    docs = IrDatasetsDocuments(FakeDocs({"d0": "zero", "d1": "one"}, count=lambda docs: 5), "fake")
    assert docs.at([1, 4]) == {1: ("d1", "one")}


def test_a_document_store_that_ir_datasets_built(path):
    (plain := path.with_name("plain.tsv")).write_text("".join(f"{d}\t{t}\n" for d, t in TEXTS.items()))
    docs = IrDatasetsDocuments(ir_datasets.create_dataset(docs_tsv=str(plain)), "local")
    assert docs.get_many(["d600", "d2", "d601"]) == {"d2": TEXTS["d2"], "d600": TEXTS["d600"]}
    assert docs.count() == 601
    assert docs.at([599, 2]) == {2: ("d2", TEXTS["d2"]), 599: ("d599", TEXTS["d599"])}


def test_a_record_without_any_text():
    class Store:
        def get_many(self, doc_ids):
            return {"d1": (1, 2)}

    dataset = FakeDocs({})
    dataset.store = Store()
    with pytest.raises(ValueError, match="records without a text"):
        IrDatasetsDocuments(dataset, "fake").get_many(["d1"])
