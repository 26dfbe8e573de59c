"""`tl-crossenc explain` with two passages: what Python gives, in a terminal, as JSON and as a page; what is refused."""

import json

import pytest

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.cli import main

QUERY, A, B = "tune guitar", "old guitar garden", "old piano garden tune"
COMMAND = ["explain", "planted", "--device", "cpu", "--query", QUERY, "--passage", A]


@pytest.fixture(scope="module")
def found():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu").explain(QUERY, A, B)


def test_the_terminal_and_the_page(found, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*COMMAND, "--against", B, "--html", str(tmp_path / "why.html")]) == 0
    text = capsys.readouterr().out
    assert str(found) in "\n".join(line.rstrip() for line in text.splitlines())
    assert max(len(line) for line in text.splitlines() if not line.startswith("The page is ")) <= 80
    assert found._repr_html_() in (tmp_path / "why.html").read_text(encoding="utf-8")


def test_as_json_and_from_files(found, capsys, tmp_path):
    (tmp_path / "b.txt").write_text(f"{B}\n", encoding="utf-8")
    assert main([*COMMAND, "--against-file", str(tmp_path / "b.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found.to_dict()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--against", A], "expected two passages, got the same text twice"),
        (["--against", " "], "with text in it"),
        (["--against-file", "nowhere.txt"], "nowhere.txt"),
        (["--against", B, "--attribution", "gradients"], "neither attribution nor statistics"),
        (["--against", B, "--max-length", "16", "20"], "expected one max_length"),
        (["--most-runs", "5"], "expected a second passage beside most_runs"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(given, message, capsys):
    assert main([*COMMAND, *given]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = [line for line in said.err.splitlines() if line.startswith("tl-crossenc:")]
    assert message in line
