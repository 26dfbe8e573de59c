"""`tl-crossenc explain`: what it prints and writes against the library, and bad input as one sentence."""

import json
import re

import pytest
from small_worlds import model_folder

from tl_crossenc.cli import main
from tl_crossenc.instruments.token_attributions import ATTRIBUTIONS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

QUERY, PASSAGE = "how do [/b] flea", "the flea; egg [red] rises & lays"


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "tiny", n_labels=1)


@pytest.fixture(scope="module")
def model(folder):
    return HookedCrossEncoder.from_pretrained(str(folder))


@pytest.fixture
def run(capsys, folder):
    def call(*arguments, texts=("--query", QUERY, "--passage", PASSAGE)):
        try:
            status = main(["explain", str(folder), *map(str, texts), *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_it_prints_what_the_prompt_shows(run, model):
    status, out, _ = run("--top", 3)
    found = model.explain(QUERY, PASSAGE, top=3)
    assert status == 0
    assert [line.rstrip() for line in out.splitlines()] == str(found).splitlines()
    assert max(map(len, out.splitlines())) <= 80
    assert "Words by leave-one-out, delete" in out


def test_json_has_all_tables_and_nothing_else(run, model):
    status, out, _ = run("--json", "--attribution", "gradients", "--max-length", 13, 29)
    assert status == 0
    assert json.loads(out) == json.loads(
        json.dumps(model.explain(QUERY, PASSAGE, attribution="gradients", max_length=(13, 29)).to_dict())
    )
    assert [row["max_length"] for row in json.loads(out)["lengths"]] == [13, 29, model.encoder.max_length]


def test_a_page_a_condition_a_removal_and_one_length(run, model, tmp_path):
    page = tmp_path / "new" / "page.html"
    given = (
        "--ablate",
        "DOC->QUERY",
        "--ablate",
        "mask(CLS->ALL; layers=1)",
        "--removal",
        "mask",
        "--max-length",
        "13",
    )
    status, out, _ = run(*given, "--html", page)
    assert status == 0
    with model.ablating(["DOC->QUERY", "mask(CLS->ALL; layers=1)"]):
        found = model.explain(QUERY, PASSAGE, removal="mask", max_length=13)
    assert found._repr_html_() in page.read_text(encoding="utf-8")
    assert "zero(DOC->QUERY)" in out.replace("\n", "")
    assert "mask(CLS->ALL; layers=1)" in re.sub(r"\s+", " ", out)
    assert f"The page is {page}" in out


def test_a_passage_from_a_file(run, model, tmp_path):
    file = tmp_path / "passage.txt"
    file.write_bytes(b"\xef\xbb\xbf" + PASSAGE.encode() + b"\r\n\n")
    status, out, _ = run("--json", "--attribution", "random", texts=("--query", QUERY, "--passage-file", file))
    assert status == 0
    assert json.loads(out)["passage"] == PASSAGE
    assert json.loads(out)["score"] == pytest.approx(float(model.score(QUERY, PASSAGE)[0]), abs=1e-6)


def test_the_help_names_every_attribution_that_one_pair_is_enough_for(capsys):
    with pytest.raises(SystemExit):
        main(["explain", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(name in told for name in ATTRIBUTIONS if name != "bottleneck")


@pytest.mark.parametrize(
    ("texts", "given", "message"),
    [
        (("--query", " ", "--passage", "a"), (), "expected a query with text in it, got an empty one"),
        (("--query", "a", "--passage", ""), (), "expected a passage with text in it, got an empty one"),
        (("--query", "a", "--passage-file", "no.txt"), (), "expected a file at no.txt, which cannot be read"),
        (("--query", "a", "--passage-file", "."), (), "expected a file at ., got a folder"),
        (("--query", "a", "--passage-file", "empty.txt"), (), "expected a passage in empty.txt with text in it"),
        (("--query", "a", "--passage-file", "latin.txt"), (), "expected text in UTF-8 in latin.txt, got other bytes"),
        (None, ("--attribution", "lime"), "expected attributions among bottleneck"),
        (None, ("--attribution", "bottleneck"), "expected an attribution that one pair is enough for, got bottleneck"),
        (None, ("--attribution", "direct", "--removal", "pad"), "expected no removal beside direct"),
        (None, ("--max-length", "13", "9999"), "expected max_length from 4 tokens"),
        (None, ("--ablate", "DOC=>QUERY"), "expected"),
        (None, ("--html", "file.txt/page.html"), "could not write file.txt/page.html"),
    ],
)
def test_bad_input_is_one_sentence(run, texts, given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "file.txt").write_text("x")
    status, out, err = run(*given, **({"texts": texts} if texts else {}))
    assert status == 2
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("tl-crossenc: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--max-length", "12.5"), "expected a whole number from 4"),
        (("--top", "0"), "expected a whole number from 1"),
        (("--removal", "blank"), "invalid choice"),
        (("--passage-file", "x"), "not allowed with argument"),
    ],
)
def test_what_the_parser_refuses(run, given, message):
    status, out, err = run(*given)
    assert (status, out) == (2, "")
    assert message in err
