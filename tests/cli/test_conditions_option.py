"""`--conditions FILE`: the same numbers as one condition at a time on the command line, called by their names."""

import re

import pytest

from tl_crossenc.cli import main

ASKED = ["--query", "tune a guitar", "--passage", "tune the guitar", "--passage", "a piano", "--device", "cpu"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("# match\nmatch: zero(DOC->QUERY)\nzero(CLS->ALL; layers=1)  # by its text\n")
    return path


def scores(text):
    """Passage -> the first number before it, by the lines of a table."""
    found = {}
    for line in text.splitlines():
        match = re.search(r"(-?\d+\.\d{4}).*│ (tune the guitar|a piano) ", line)
        if match:
            found.setdefault(match[2], []).append(float(match[1]))
    return found


def test_score_shows_what_each_condition_alone_gives(file, capsys):
    alone = []
    for condition in ("zero(DOC->QUERY)", "zero(CLS->ALL; layers=1)"):
        assert main(["score", "planted", *ASKED, "--ablate", condition]) == 0
        alone.append(scores(capsys.readouterr().out))
    assert main(["score", "planted", *ASKED, "--conditions", str(file)]) == 0
    said = capsys.readouterr().out
    expected = {passage: [one[passage][0] for one in alone] for passage in ("tune the guitar", "a piano")}
    assert scores(said) == expected
    assert expected["tune the guitar"][0] < expected["tune the guitar"][1]
    assert "match" in said
    assert all(len(line) <= 80 for line in said.splitlines() if "│" in line)


def test_bad_files_are_one_sentence(file, tmp_path, capsys):
    bad = tmp_path / "bad.txt"
    bad.write_text("none\nx: zero(DOC->QUERY; layers=9)\n")
    for given, said in (
        (["--conditions", bad], f"{bad}, line 2: expected layers 0..3 in zero(DOC->QUERY; layers=9), got layer 9"),
        (["--conditions", tmp_path / "nowhere"], "there is no file of conditions at"),
        (["--conditions", file, "--ablate", "none"], "expected --ablate or --conditions, got both"),
    ):
        assert main(["score", "planted", *ASKED, *map(str, given)]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tl-crossenc: ")]
        assert said in line


def test_rerank_ranks_under_each(file, tmp_path, capsys):
    from small_worlds import collection_folder

    collection = collection_folder(tmp_path / "c", n_queries=2, per_grade=(1, 1, 1, 1))
    run = tmp_path / "a.run"
    docs = [line.split("\t")[0] for line in (collection / "docs.tsv").read_text().splitlines()]
    lines = [f"{q} Q0 {d} 0 {-i} t\n" for q in ("q0", "q1") for i, d in enumerate(docs[:6])]
    run.write_text("".join(lines))
    given = [
        "rerank",
        "planted",
        "--collection",
        collection,
        "--run",
        run,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    assert main([*map(str, given), "--conditions", str(file)]) == 0
    said = capsys.readouterr().out
    assert "match: zero(DOC->QUERY)" in said
    names = {path.name for path in (tmp_path / "out" / "runs").rglob("*.run")}
    assert {"none.run", "zero_DOC-QUERY.run", "zero_CLS-ALL_layers_1.run"} <= names
