"""What a terminal gets: no control character of anybody's text, characters that it has, and bounded work for any number typed."""

import dataclasses
import logging
import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import small_worlds
from helpers import one_sentence

from tl_crossenc import Condition, PoolSpec, Store
from tl_crossenc.cli import main
from tl_crossenc.console.shown import PLAIN, ShownFormatter, listed, quoted, shown
from tl_crossenc.experiments.head_ablation import run_head_ablation
from tl_crossenc.experiments.match_distributions import run_match_distributions
from tl_crossenc.inputs.batching import length_batches

EVIL = "a\x1b[2J\x9b31m\x07\x08b\u202ec\u2066\x7f\rd\te\nf\u2028g"
SAFE = "a\\x1b[2J\\x9b31m\\x07\\x08b\\u202ec\\u2066\\x7f d e f g"
CONTROLS = {
    *map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160)]),
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d",
}
CONTROLS |= {*"\u202e\u2066\u2067\u2068\u2069"}


def test_control_characters_are_written_out():
    assert shown(EVIL) == SAFE
    for text in ("", "plain", "é 日本 😀 ש", "a\u200db می\u200cخواهم", "a\xa0b", "[red]\\x1b"):
        assert shown(text) == text
    assert shown("\ud800") == "\\ud800"
    assert not CONTROLS & set(shown("".join(map(chr, range(0x3000)))))
    assert shown("x" * 99, 10) == "xxxxxxx..."


def test_values_are_quoted_and_bounded():
    assert quoted("a\x1b") == "'a\\x1b'"
    assert quoted(["a\u202e", 3]) == "['a\\u202e', 3]"
    for value in ("x" * 10**6, [0] * 10**6, {i: i for i in range(10**5)}, 10**10000, b"x" * 10**6, ["x" * 10**6]):
        assert len(quoted(value)) < 120
    assert listed(["a\x1b", "b", "c"], 2) == "a\\x1b, b and 1 more"


def test_log_lines_hold_none():
    formatter = ShownFormatter("%(levelname)s: %(message)s")
    record = logging.LogRecord("x", logging.INFO, "", 0, "of %s", (EVIL,), None)
    assert formatter.format(record) == f"INFO: of {SAFE}"
    try:
        raise ValueError(EVIL)
    except ValueError:
        traced = logging.LogRecord("x", logging.INFO, "", 0, "of", (), sys.exc_info())
    assert not CONTROLS & set(formatter.format(traced))
    assert formatter.format(traced).count("\n") > 3


def test_characters_that_a_terminal_lacks():
    assert "p ≤ .05† é → 日".encode("ascii", PLAIN) == b"p <= .05+ \\xe9 -> \\u65e5"
    assert "p ≤ .05† é".encode("latin-1", PLAIN) == b"p <= .05+ \xe9"
    assert "†é日".encode("cp1252", PLAIN) == b"\x86\xe9\\u65e5"
    assert "\ud800".encode("utf-8", PLAIN) == b"\\ud800"


# Commands in this process.


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def run(capsys, *arguments):
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert not CONTROLS & set(out + err)
    return status, out, err


def test_score_shows_texts_without_their_commands(capsys):
    status, out, err = run(capsys, "score", "planted", "--query", EVIL, "--passage", EVIL)
    assert (status, err) == (0, "")
    assert f"query: {SAFE};" in out
    assert "\\x1b[2J" in out.partition("query:")[2]


def test_half_a_character_is_one_sentence(capsys):
    status, _, err = run(capsys, "score", "planted", "--query", "a", "--passage", "\ud800")
    assert status == 2
    assert "\\ud800" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", EVIL, "--query", "a", "--passage", "b"),
        ("score", "planted", "--query", "a", "--passage", "b", "--ablate", EVIL),
        ("score", "planted", "--query", "a", "--passage", "b", "--device", EVIL),
        ("score", "planted", "--query", "a", "--passage", "b", "--tokenizer", EVIL),
        ("score", "planted", "--query", "a", "--passage", "b", "--dtype", EVIL),
        ("score", "planted", "--query", "a", "--passage", "b", EVIL),
        ("parity", EVIL),
        (EVIL,),
        ("reproduce", "--model", "planted", "--collection", EVIL),
        ("reproduce", "--model", "planted", "--draws", EVIL),
        ("reproduce", "--model", "planted", "--direction", EVIL),
        ("compare-masks", "--model", "planted", "--preset", EVIL),
    ],
    ids=lambda arguments: " ".join(arguments).replace(EVIL, "EVIL"),
)
def test_errors_show_what_was_typed_without_its_commands(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "x1b[2j" in err.lower()


def test_ids_and_names_of_a_collection_are_shown_without_their_commands(capsys, tmp_path):
    model = small_worlds.model_folder(tmp_path / "m\x1b[2J")
    collection = small_worlds.collection_folder(tmp_path / "c\u202e", n_queries=2, prefix="\x1b[2J\u202e")
    status, _, _ = run(
        capsys,
        *("reproduce", "--model", model, "--collection", collection, "--easy-negatives", 0, "--only-table1"),
        *("--device", "cpu", "--out", tmp_path / "out"),
    )
    assert status == 0
    (collection / "qrels.txt").write_text("\x1b[2J\u202eq0 0 \x1b[2Jd high\n")
    status, _, err = run(capsys, "reproduce", "--model", model, "--collection", collection, "--out", tmp_path / "other")
    assert status == 2
    assert "\\x1b[2J" in err


def test_what_a_model_and_an_explanation_show_has_none(tmp_path, capsys):
    """A vocabulary is anybody's file too."""
    folder = small_worlds.model_folder(tmp_path / "m\x1b[2J")
    model = small_worlds.HookedCrossEncoder.from_pretrained(str(folder), device="cpu")
    assert "m\\x1b[2J:" in repr(model)
    found = model.explain("how do flea", "flea lay the egg")
    evil = dataclasses.replace(found, tokens=("\x1b[2J", *found.tokens[1:]))
    for text in (str(evil), repr(evil), evil._repr_html_()):
        assert not CONTROLS & set(text)
    assert "\\x1b[2J" in str(evil)


# Numbers that nothing can use.


@pytest.mark.parametrize("option", ["--draws", "--per-grade", "--easy-negatives", "--token-budget", "--seed"])
@pytest.mark.parametrize("value", ["1000000000000000000000", "9" * 6000, "-1", "1e3", "٣", "0x10", ""])
def test_a_number_out_of_bounds_is_refused_at_once(capsys, option, value):
    status, _, err = run(capsys, "reproduce", "--model", "planted", f"{option}={value}")
    assert status == 2
    assert "expected a whole number from" in err
    assert len(err) < 3000


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Condition.ablate("ALL->ALL", layers=range(10**9)), "at most 10,000"),
        (lambda: Condition.ablate("ALL->ALL", heads=iter(range(10**18))), "at most 10,000"),
        (lambda: Condition.parse("zero(DOC->QUERY; layers=0-999999999)"), "layers below 10000"),
        (lambda: Condition.parse(f"zero(DOC->QUERY; heads={'9' * 6000})"), "heads below 10000"),
        (lambda: Condition.parse("zero(DOC->QUERY; layers=5-3)"), "expected layers such as"),
        (lambda: PoolSpec(10**12, 0, 0), "per_grade is at most 1,000,000"),
        (lambda: PoolSpec(10, 10**12, 0), "easy_negatives is at most 1,000,000"),
        (lambda: length_batches([3, 4], 10**12), "token budget of at most 16,777,216"),
        (lambda: length_batches([3, 4], 0), "token budget of at least 1"),
    ],
)
def test_a_number_beyond_any_model_is_refused_at_once(call, said):
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"expected|at most") as error:
        call()
    assert said in str(error.value)
    assert time.monotonic() - started < 1
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny model and a pool with easy negatives."""
    from tl_crossenc import build_pool, load_collection

    folder = tmp_path_factory.mktemp("world")
    collection = load_collection(small_worlds.collection_folder(folder / "collection"))
    return small_worlds.tiny_model(folder / "model", "float32"), build_pool(collection, PoolSpec(2, 2, 0))


def test_more_draws_or_permutations_than_can_be_run_are_refused_at_once(world, monkeypatch, tmp_path):
    model, pool = world
    store = Store(tmp_path)
    small_worlds.forbid_model_work(monkeypatch)
    with pytest.raises(ValueError, match="n_draws from 0 to 10,000, got 1000000000") as error:
        run_head_ablation(model, [pool], store, [(0, 1)], counts=(1,), n_draws=10**9)
    assert one_sentence(error.value)
    with pytest.raises(ValueError, match="n_permutations from 1 to 100,000") as error:
        run_match_distributions(model, [pool], store, n_permutations=10**12)
    assert one_sentence(error.value)


def test_the_token_budget_reaches_every_section(world, tmp_path, monkeypatch):
    from tl_crossenc.experiments import paper

    model, pool = world
    seen = {}

    def spy(name, call):
        def spied(*args, **settings):
            seen[name] = settings["token_budget"]
            return call(*args, **settings)

        return spied

    for name in (
        "run_layer_sweep",
        "run_attention",
        "run_match_distributions",
        "run_qk_alignment",
        "run_head_ablation",
    ):
        monkeypatch.setattr(paper, name, spy(name, getattr(paper, name)))
    batches = []
    measure = "tl_crossenc.instruments.token_matches.length_batches"
    monkeypatch.setattr(
        measure, lambda lengths, budget, **rest: batches.append(budget) or length_batches(lengths, budget, **rest)
    )
    options = paper.PaperOptions(heads=((0, 1),), counts=(1,), n_draws=1)
    paper.run_paper(model, [pool], Store(tmp_path), options=options, token_budget=97)
    assert seen == dict.fromkeys(seen, 97)
    assert len(seen) == 5
    assert set(batches) == {97}


# Terminals that are not UTF-8.

ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Each command's arguments, and what its output has in ASCII."""
    folder = tmp_path_factory.mktemp("commands")
    model = small_worlds.model_folder(folder / "model")
    collection = small_worlds.collection_folder(folder / "collection", n_queries=2)
    given = ("--model", model, "--collection", collection, "--device", "cpu")
    return {
        "score": (("score", "planted", "--query", "é → 日", "--passage", "p ≤ †", "--passage", "guitar"), "| guitar"),
        "parity": (("parity", model, "--device", "cpu"), "within tolerance"),
        "reproduce": (
            ("reproduce", *given, "--easy-negatives", 0, "--only-table1", "--out", folder / "out"),
            "p <= .05",
        ),
        "compare-masks": (("compare-masks", *given, "--preset", "zhan-q2d:1", "--out", folder / "masks"), "zhan-q2d"),
        "help": (("reproduce", "--help"), "--collection"),
    }


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("parity", "reproduce", "compare-masks")]


@pytest.mark.parametrize("command", ["score", "help", *SLOW])
def test_a_terminal_without_the_characters_gets_the_table_all_the_same(commands, command):
    arguments, said = commands[command]
    for name in ("ascii", "C") if command in ("reproduce", "help") else ("ascii",):
        found = subprocess.run(
            [sys.executable, "-m", "tl_crossenc.cli", *map(str, arguments)],
            env={**os.environ, **ENCODINGS[name], "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert found.returncode == 0, found.stderr[-2000:]
        assert said in found.stdout.decode("ascii")
        found.stderr.decode("ascii")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_tables_are_drawn_with_the_characters_of_the_stream(monkeypatch, tmp_path, encoding):
    with (tmp_path / "stdout").open("w", encoding=encoding) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        status = main(["score", "planted", "--query", "é → 日", "--passage", "p ≤ † guitar", "--device", "cpu"])
    text = (tmp_path / "stdout").read_text(encoding)
    assert status == 0
    assert "p <= " in text
    assert "-> \\u65e5" in text
    assert "+----" in text or "|---" in text


def test_a_bar_is_drawn_on_a_terminal_of_few_characters(tmp_path):
    from rich.console import Console

    from tl_crossenc.report.terminal import progress_bar

    with (
        (tmp_path / "bar").open("w", encoding="ascii", errors=PLAIN) as stream,
        progress_bar(Console(file=stream, force_terminal=True), "Table 1 é") as advance,
    ):
        advance(1, 2)
    assert "Table 1" in (tmp_path / "bar").read_text("ascii")


def test_a_table_of_conditions_is_shown_without_their_commands():
    from rich.console import Console

    from tl_crossenc.report.terminal import masks_for_terminal

    row = {"preset": EVIL, "mode": "zero", "mean": 0.5, "difference": -0.1, "diff_low": -0.2, "diff_high": 0.0}
    frame = pd.DataFrame([{**row, "p_holm": 0.5, "decrease_holm": False, "published": float("nan")}])
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115 - closed with the test
    console.print(masks_for_terminal(frame, 10, EVIL, EVIL))
    text = console.export_text()
    console.file.close()
    assert text.count("\\x1b[2J") == 3
    assert not CONTROLS & set(text)
