"""The main job on the smallest pools there are: a page without a hole, and no word of a test that was not made."""

import html
import json
import re

import pandas as pd
import pytest
import tiny_collections
from small_worlds import model_folder

from tl_crossenc.cli import main

WORDS = ("flea", "egg", "bread", "lay", "the", "how", "rise", "do", "fleas")
GRADES = 0
POOLS = {  # grades of each query's passages; unjudged passages; a passage that is empty
    "one query, three passages": ([[0, 1, 2]], 0, None),
    "one passage a query": ([[2], [1], [3]], 9, None),
    "an empty passage": ([[0, 1, 2, 3], [0, 2, 3], [0, 3]], 9, "d0"),
    "one query, easy negatives": ([[0, 1, 2, 3]], 12, None),
    "one query, one passage": ([[1]], 0, None),
    "one passage a query, no easy negatives": ([[2], [1], [3]], 0, None),
    "one grade": ([[2, 2, 2], [2, 2], [2, 2, 2]], 9, None),
    "one grade, no easy negatives": ([[2, 2, 2], [2, 2], [2, 2, 2]], 0, None),
    "nothing relevant": ([[0, 0, 0], [0, 0]], 6, None),
    "no easy negatives": ([[0, 1, 2, 3], [0, 0, 2], [0, 3, 3]], 0, None),
    "two queries": ([[0, 1, 2, 3], [0, 2, 3]], 9, None),
    "hardly a text": ([[2], [3]], 0, "d0"),
}
HOLE = re.compile(r"(?<![A-Za-z])[+−-]?(nan|NaN|inf)(?![A-Za-z])|\[–")
TESTED = re.compile(r"t-test|Holm|p ≤ \.05|t-interval|95 %|permutations")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "tiny", seed=2)


def collection(folder, grades, n_more, empty):
    docs, queries, qrels = {}, {}, []
    for q, given in enumerate(grades):
        queries[f"q{q}"] = f"how do {WORDS[q]} rise {q}"
        for grade in given:
            doc_id = f"d{len(qrels)}"
            docs[doc_id] = "" if doc_id == empty else " ".join(WORDS[(len(qrels) * 7 + j * 3) % 9] for j in range(5))
            docs[doc_id] += f" {len(qrels)}" * (doc_id != empty)
            qrels.append((f"q{q}", doc_id, grade))
    docs |= {f"x{i}": f"{WORDS[i % 9]} {WORDS[(i + 4) % 9]} {i}" for i in range(n_more)}
    return tiny_collections.write_folder(folder, docs, queries, qrels)


def visible(text):
    """A page's or drawing's text, titles and labels among it."""
    text = re.sub(r"<(style|script)\b.*?</\1>", " ", text, flags=re.DOTALL)
    titles = " ".join(re.findall(r'(?:title|aria-label)="([^"]*)"', text))
    return html.unescape(re.sub(r"<[^>]*>", " ", text) + " " + titles)


@pytest.mark.slow
@pytest.mark.parametrize("name", POOLS)
def test_the_smallest_pools_end_in_a_page_without_holes(model, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(
        "tl_crossenc.report.drawing.to_pdf", lambda figure: b""
    )  # drawn like the SVG beside it, which is read
    folder, out = collection(tmp_path / "small", *POOLS[name]), tmp_path / "out"
    arguments = ["--model", str(model), "--collection", str(folder), "--device", "cpu"]
    assert main(["reproduce", *arguments, "--out", str(out)]) == 0
    shown = {"terminal": capsys.readouterr().out}
    if name == "one query, three passages":
        assert main(["compare-masks", *arguments, "--out", str(tmp_path / "masks"), "--preset", "zhan-q2d"]) == 0
        shown["masks"] = capsys.readouterr().out
    for path in (*out.rglob("*"), *(tmp_path / "masks").rglob("*")):
        if path.suffix in (".md", ".tex", ".html", ".svg", ".json") and "cells" not in path.parts:
            shown[path.name] = visible(path.read_text("utf-8"))
    assert {"report.html", "table1.md", "table1.tex", "figure1a.svg", "sinks.svg"} <= shown.keys()
    assert {where: HOLE.search(text) for where, text in shown.items() if HOLE.search(text)} == {}
    missing = json.loads((out / "machinery" / "summaries" / "unavailable.json").read_text("utf-8"))
    assert all(len(reason.split()) > 5 for reason in missing.values())
    if len(POOLS[name][GRADES]) == 1:
        for where in {"report.html", "table1.md", "table1.tex", "compare_masks.md"} & shown.keys():
            said = re.sub(r"\| mask .*", "", shown[where])  # a column may be empty
            said, permuted = re.subn(r"bold where p ≤ \.05 against [\d,]+ permutations", "", said)
            if permuted:  # of passages within queries: made wherever there is a distance
                distance = pd.read_csv(out / "tables" / "figure1c_distance.csv")
                assert distance["p_max"].notna().equals(distance["distance"].notna())
                assert distance["p_max"].notna().any()
            assert TESTED.search(said) is None, where
            assert "One query: there is no interval, and nothing is tested." in shown[where]
            assert "1 queries" not in shown[where]
        assert "figure1b" in missing
