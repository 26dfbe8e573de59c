"""`tl-crossenc doctor`: what it prints, its exit statuses, and bad input as one sentence."""

import json

import pytest
import torch
from foreign_system import Foreign, long_folder, long_pairs

from tl_crossenc.cli import main

PAIRS = long_pairs(((3, 9), (5, 14), (2, 26), (4, 4), (7, 2), (9, 30), (1, 9), (3, 13), (6, 7), (1, 1)))


@pytest.fixture
def run(capsys, monkeypatch):
    """(exit status, standard output, standard error) of the command at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        try:
            status = main(["doctor", *map(str, arguments), "--device", "cpu"])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return long_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def logits(folder):
    return Foreign(folder).logits(PAIRS)


def written(path, scores, digits=6):
    lines = (f"{q}\t{p}\t{score:.{digits}f}\n" for (q, p), score in zip(PAIRS, scores.tolist(), strict=True))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_scores_of_a_known_cause(run, folder, logits, tmp_path):
    scores = written(tmp_path / "theirs.tsv", torch.softmax(logits, 1)[:, 0])
    status, out, err = run(folder, "--scores", scores, "--strict")
    assert status == 0
    text = " ".join(out.split())
    assert "Reproduced by softmax, column 0, to " in text
    assert "10 scores of theirs.tsv beside bert (logit[1] - logit[0]; float32)" in text
    assert "no pair has more than 128 tokens" in text
    assert max(map(len, out.splitlines())) <= 80
    assert "Traceback" not in err


def test_scores_of_no_known_cause(run, folder, logits, tmp_path):
    noise = torch.randn(len(PAIRS), generator=torch.Generator().manual_seed(3))
    scores = written(tmp_path / "theirs.tsv", logits[:, 0] + noise)
    status, out, _ = run(folder, "--scores", scores)
    assert status == 0
    assert "None of the " in out
    assert run(folder, "--scores", scores, "--strict")[0] == 1


def test_json_is_one_object_of_plain_values(run, folder, logits, tmp_path):
    scores = written(tmp_path / "theirs.tsv", -logits[:, 1])
    status, out, _ = run(folder, "--scores", scores, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["reproduced"] == "yes"
    assert (found["causes"][0]["reading"], found["causes"][0]["output"]) == ("as here", "logit[1], negated")
    assert len(found["pairs"]) == len(PAIRS)
    assert found["made"]["model"] == "bert"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q\tp\thigh\n", "line 1: expected a number as the score, or a header"),
        ("", "expected pairs of query, passage and score"),
    ],
)
def test_bad_scores_are_one_sentence(text, message, run, folder, tmp_path):
    (tmp_path / "bad.tsv").write_text(text, encoding="utf-8")
    status, out, err = run(folder, "--scores", tmp_path / "bad.tsv")
    assert (status, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert run(folder, "--scores", tmp_path / "none.tsv")[0] == 2
    assert run(tmp_path / "nowhere", "--scores", written(tmp_path / "a.tsv", torch.zeros(10)))[0] == 2


def test_without_scores_a_report_on_the_model(run, folder):
    status, out, _ = run(folder)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for topic in ("relevance", "activation", "truncation", "token types", "tokenizer"):
        assert topic in out
    found = json.loads(run(folder, "--json")[1])
    warned = any(finding["severity"] == "warning" for finding in found["findings"])
    assert run(folder, "--strict")[0] == int(warned)
