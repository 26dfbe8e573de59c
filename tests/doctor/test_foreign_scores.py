"""Files of foreign scores: every form gives the same pairs, digits say how exact a score is, and what is wrong is said by line."""

import gzip
import json

import numpy as np
import pytest
from helpers import one_sentence

from tl_crossenc.doctor.foreign_scores import read_scores, scores_of

ROWS = [
    ("how do fleas rise", 'the "flea", she said', "0.5000"),
    ("bread", "line one, line two", "-12.2500"),
    ("é", "", "3.0000"),
]


def written(path, text):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def tabs(rows, header=None):
    return "".join("\t".join(row) + "\n" for row in ([header] if header else []) + list(rows))


def commas(rows):
    return "".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\r\n" for row in rows)


FORMS = {
    "a.tsv": tabs(ROWS),
    "b.txt": tabs(ROWS, ("query", "passage", "score")),
    "c.tsv": tabs([(s, "7", p, q) for q, p, s in ROWS], ("Score", "id", "Document", "question")),
    "d.csv": commas(ROWS),
    "e.csv": commas([("passage", "score", "query"), *((p, s, q) for q, p, s in ROWS)]),
    "f.jsonl": "".join(
        f'{{"query": {json.dumps(q)}, "passage": {json.dumps(p)}, "score": {s}}}\n\n' for q, p, s in ROWS
    ),
    "g.tsv.gz": "\ufeff" + tabs(ROWS) + "\n \n",
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same(name, tmp_path):
    found = read_scores(written(tmp_path / name, FORMS[name]))
    assert list(zip(found.queries, found.passages, strict=True)) == [row[:2] for row in ROWS]
    assert found.values.tolist() == [0.5, -12.25, 3.0]
    assert found.decimals == 4
    assert found.exact_to.tolist() == pytest.approx([5e-5] * 3)
    assert found.source == name


def test_lines_are_those_of_the_file(tmp_path):
    assert read_scores(written(tmp_path / "a.tsv", FORMS["b.txt"])).lines.tolist() == [2, 3, 4]
    assert read_scores(written(tmp_path / "a.jsonl", FORMS["f.jsonl"])).lines.tolist() == [1, 3, 5]
    folded = 'q,"a passage\nof two lines",1\nq,other,2\n'
    found = read_scores(written(tmp_path / "a.csv", folded))
    assert found.lines.tolist() == [1, 3]
    assert found.passages == ("a passage\nof two lines", "other")


@pytest.mark.parametrize(
    ("texts", "exact"),
    [
        (["0.1234", "12.3000", "5.0000"], [5e-5, 5e-5, 5e-5]),  # %.4f
        (["0.1234", "12.3457", "5.0"], [5e-5, 5e-5, 5e-5]),  # round(x, 4)
        (["0.1234", "12.3", "5.0"], [5e-5, 5e-3, 5e-4]),  # that, or %.4g
        (["0.123457", "12.3457", "1234.57"], [5e-7, 5e-5, 5e-3]),  # %.6g
        (["1.2346e-05", "3.1000e+01"], [5e-10, 5e-4]),  # %.4e
        (["7", "-3", "0"], [0.5, 0.5, 0.5]),
        (["0.30000001192092896", "-4.5", "0.0"], [5e-18, 5e-17, 5e-18]),  # a float as Python prints it
    ],
)
def test_digits_say_how_exact_a_score_is(texts, exact):
    queries = [str(i) for i in range(len(texts))]
    assert scores_of(queries, queries, texts).exact_to.tolist() == pytest.approx(exact)


def test_a_pair_that_comes_again_counts_once(tmp_path):
    rows = [("q", "p", "1.5"), ("q", "other", "2.0"), ("q", "p", "1.5"), ("q", "p", "1.75")]
    found = read_scores(written(tmp_path / "a.tsv", tabs(rows)))
    assert (len(found), found.repeated, found.apart) == (2, 2, 0.25)
    assert found.lines.tolist() == [1, 2]


BAD = {
    "a.tsv": (
        tabs([("q", "p", "1"), ("q", "p2", "high")]),
        ("a.tsv, line 2", "a finite number as the score", "'high'"),
    ),
    "b.tsv": (tabs([("q", "p", "1"), ("q", "p2", "nan")]), ("line 2", "finite number", "'nan'")),
    "c.tsv": (tabs([("q", "p", "1"), ("q", "p2", "1e999")]), ("line 2", "finite number")),
    "d.tsv": (tabs([("q", "p", "1"), ("q", "2")]), ("line 2", "3 columns, query, passage and score", "got 2")),
    "e.tsv": (tabs([("q", "p", "high")]), ("line 1", "a number as the score, or a header", "'high'")),
    "f.tsv": (tabs([("query", "passage", "value")]), ("line 1", "a header that names", "'value'")),
    "g.tsv": ("\n\n", ("expected pairs of query, passage and score", "g.tsv", "none")),
    "h.tsv": (tabs([], ("query", "passage", "score")), ("expected pairs", "got none")),
    "i.csv": ('q,"p,1\n', ("i.csv, line", "as the csv module reads them")),
    "j.jsonl": ('{"query": "q", "passage": "p", "score": "0.5"}', ("line 1", "a finite number as the score", "'0.5'")),
    "k.jsonl": ('{"query": "q", "passage": "p", "score": NaN}', ("line 1", "finite number")),
    "l.jsonl": ('{"query": "q", "passage": "p"}', ("line 1", "one key for the score", "'query', 'passage'")),
    "m.jsonl": ('{"query": 3, "passage": "p", "score": 1}', ("line 1", "a text as the query", "3")),
    "n.jsonl": ('{"query": "q", "passage"', ("line 1", "a JSON object", "cannot be read")),
    "o.jsonl": ("[1]", ("line 1", "a JSON object")),
    "p.jsonl": ('{"query": "q", "passage": "p", "score": true}', ("line 1", "finite number", "True")),
    "q.jsonl": (
        '{"query": "q", "text": "a", "passage": "p", "score": 1}',
        ("line 1", "one key for the passage", "2 of them"),
    ),
    "r.parquet": ("", ("r.parquet", ".jsonl", "rename")),
    "s.tsv": (tabs([("q", "p", "1_0")]), ("line 1", "finite number", "1_0")),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_one_sentence(name, tmp_path):
    text, parts = BAD[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_scores(written(tmp_path / name, text))
    assert one_sentence(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_file_that_is_not_there_is_no_text_or_not_whole(tmp_path):
    with pytest.raises(ValueError, match=r"expected a file at .*none\.tsv"):
        read_scores(tmp_path / "none.tsv")
    (tmp_path / "bytes.tsv").write_bytes(b"q\tp\xff\t1\n")
    with pytest.raises(ValueError, match="line 1: expected UTF-8"):
        read_scores(tmp_path / "bytes.tsv")
    (tmp_path / "cut.tsv.gz").write_bytes(gzip.compress(tabs(ROWS).encode())[:-9])
    with pytest.raises(ValueError, match="not a whole file"):
        read_scores(tmp_path / "cut.tsv.gz")
    with pytest.raises(ValueError, match="as many queries as passages and scores, got 2, 1, 1"):
        scores_of(["a", "b"], ["c"], [1])
    with pytest.raises(ValueError, match="line 1: expected a finite number"):
        scores_of(["a"], ["c"], [np.nan])
