"""The files beside the cells: whole, readable by others, the same bytes for the same content."""

import json
from pathlib import Path

import ir_measures
import pandas as pd
import pytest

from tl_crossenc.results.outputs import (
    default_folder,
    file_name,
    guard,
    read_frame,
    unguard,
    versions,
    write_frame,
    write_json,
    write_runs,
)
from tl_crossenc.store.files import StoreError


@pytest.fixture
def scores():
    rows = [
        ("a", "1", "d1", 0, 0.25, 1.0),
        ("a", "1", "d2", 3, 1.75, 1.0),
        ("a", "2", "d1", 1, -3.5, 2.0),
        ("b", "1", "d1", 2, 7.5, 3.0),
        ("b", "1", "d9", 2, 0.1 + 0.2, 4.0),
    ]
    return pd.DataFrame(rows, columns=["collection", "query_id", "doc_id", "grade", "none", "zero(CLS->ALL)"])


def test_runs_are_trec_runs_a_collection_and_condition(tmp_path, scores):
    write_runs(tmp_path, scores, ["none", "zero(CLS->ALL)"])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.run")) == [
        "a/none.run", "a/zero_CLS-ALL.run", "b/none.run", "b/zero_CLS-ALL.run",
    ]  # fmt: skip
    assert (tmp_path / "a/none.run").read_text() == ("1 Q0 d2 1 1.75 none\n1 Q0 d1 2 0.25 none\n2 Q0 d1 1 -3.5 none\n")
    assert [tuple(row[:3]) for row in ir_measures.read_trec_run(str(tmp_path / "b/none.run"))] == [
        ("1", "d1", 7.5), ("1", "d9", 0.300000012),
    ]  # fmt: skip


def test_frames_come_back(tmp_path, scores):
    write_frame(tmp_path / "s.csv", scores, index=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "s.csv", dtype={"query_id": str}), scores)
    write_frame(tmp_path / "s.parquet", scores, index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "s.parquet"), scores)
    assert b"\r" not in (tmp_path / "s.csv").read_bytes()


def test_the_same_content_is_the_same_bytes(tmp_path, scores):
    for name in ("s.csv", "s.parquet"):
        write_frame(tmp_path / "one" / name, scores)
        write_frame(tmp_path / "two" / name, scores.copy())
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_json_is_sorted_and_keeps_unicode(tmp_path):
    write_json(tmp_path / "r.json", {"b": "→", "a": [1, None]})
    text = (tmp_path / "r.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"')
    assert "→" in text
    assert json.loads(text) == {"b": "→", "a": [1, None]}


def test_versions_name_what_the_numbers_depend_on():
    found = versions()
    assert {"python", "tl-crossenc", "torch", "transformers", "numpy"} <= found.keys()
    assert all(found.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", "none"),
        ("zero(DOC->QUERY; layers=0-3)", "zero_DOC-QUERY_layers_0-3"),
        ("zero(A->B) + mask(B->A)", "zero_A-B_+_mask_B-A"),
        ("msmarco-passage/trec-dl-2019/judged", "msmarco-passage_trec-dl-2019_judged"),
        ("日本", "日本"),
        ("//", "unnamed"),
    ],
)
def test_file_names(text, expected):
    assert file_name(text) == expected


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path, scores):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"could not write .*: choose a place"):
        write_frame(tmp_path / "file" / "s.csv", scores)


def test_a_default_folder_is_named_by_the_last_part_of_each_name(tmp_path, monkeypatch):
    here = tmp_path / "my pool"
    here.mkdir()
    monkeypatch.chdir(here)
    assert default_folder("castorini/monobert", ["demo", "."]) == Path("results/monobert-demo-my-pool")
    assert default_folder(str(here), ["beir/nfcorpus/test"], "masks-") == Path("results/masks-my-pool-test")


# Texts that a spreadsheet would run.

FORMULAS = ["=1+1", "+a", "-a", "@SUM(1)", "\ta", "\ra", "=", "-", "'=a", "''-b", "-1e", "=cmd|' /C calc'!A0"]
HARMLESS = ["a", "a=b", "'a", "''", "-1", "+1.5", "-1e-3", "-inf", "", "é", "zero(DOC->QUERY)", " =a", "'-1"]


def test_texts_that_start_a_formula_are_guarded_and_no_others():
    for text in FORMULAS:
        assert guard(text) == f"'{text}"
    for text in HARMLESS:
        assert guard(text) == text
    for text in [*FORMULAS, *HARMLESS, *map(guard, FORMULAS), *(f"'{guard(text)}" for text in FORMULAS)]:
        assert unguard(guard(text)) == text


def test_a_csv_holds_no_formula_and_reads_back_equal(tmp_path):
    ids = pd.MultiIndex.from_tuples([("c", "=q"), ("-c", "q"), ("@c", "+q")], names=["collection", "query_id"])
    frame = pd.DataFrame({"mean": [-0.5, float("nan"), 1e-9], "mark": ["=1", "-", "-2x"], "grade": [-1, 0, 3]}, ids)
    write_frame(tmp_path / "a.csv", frame)
    cells = [cell for line in (tmp_path / "a.csv").read_text().splitlines()[1:] for cell in line.split(",")]
    assert not [cell for cell in cells if cell[:1] in "=+@\t\r-" and cell and not cell[1:2].isdigit()]
    assert cells[:2] == ["c", "'=q"]
    assert cells[2] == "-0.5"
    pd.testing.assert_frame_equal(read_frame(tmp_path / "a.csv"), frame.reset_index(), check_index_type=False)
    pd.testing.assert_frame_equal(frame, frame.copy())
    flat = frame.reset_index().set_index("query_id")
    write_frame(tmp_path / "b.csv", flat)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "b.csv"), flat.reset_index())
    write_frame(tmp_path / "c.csv", flat, index=False)
    pd.testing.assert_frame_equal(read_frame(tmp_path / "c.csv"), flat.reset_index(drop=True))
    write_frame(tmp_path / "d.parquet", flat)
    assert pd.read_parquet(tmp_path / "d.parquet").index.tolist() == ["=q", "q", "+q"]


def test_a_csv_without_such_texts_is_pandas_own(tmp_path):
    frame = pd.DataFrame(
        {"none": [0.5, -1.0], "direction": ["DOC->QUERY", "ALL->ALL"], "passes": [True, False]}, ["a", "b"]
    )
    frame.index.name = "query_id"
    write_frame(tmp_path / "a.csv", frame)
    assert (tmp_path / "a.csv").read_text() == frame.to_csv(lineterminator="\n")
