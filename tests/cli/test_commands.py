"""The command line: what it prints, its exit statuses, and every bad input as one sentence with nothing stored harmed."""

import errno
import importlib
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import helpers
import pytest
import tiny_collections
import torch
from small_worlds import CONTEXT, collection_folder, forbid_model_work, identities, model_folder, snapshot

from tl_crossenc import cli
from tl_crossenc.cli import main
from tl_crossenc.model import parity
from tl_crossenc.results.artefacts import NOT_ASKED

LAST = 2  # layers of the tiny model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return collection_folder(tmp_path_factory.mktemp("collections") / "fleas", n_queries=3, per_grade=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, collection):
    """The results folder of a finished job."""
    out = tmp_path_factory.mktemp("results") / "out"
    assert (
        main(["reproduce", "--only-table1", "--model", str(model), "--collection", str(collection), "--out", str(out)])
        == 0
    )
    return out


@pytest.fixture
def results(tmp_path, finished):
    """A copy of it, to be harmed."""
    return shutil.copytree(finished, tmp_path / "out")


def assert_one_sentence(found, message):
    status, out, err = found
    assert status == 2, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("tl-crossenc: ")]
    assert len(lines) == 1, err
    assert lines[0] == err.rstrip("\n").splitlines()[-1]
    assert "Traceback" not in err
    assert len(lines[0]) < 900
    assert all(part in lines[0] for part in message), lines[0]


# What works.


def test_score_prints_the_passages_best_first(run, model, capsys):
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    passages = ["the flea", "bread [/b] [SEP] :smile:", "an egg rises"]
    status, out, _ = run("score", model, "--query", "how [/do]", *(x for p in passages for x in ("--passage", p)))
    assert status == 0
    scores = HookedCrossEncoder.from_pretrained(str(model)).score("how [/do]", passages)
    shown = [line for line in out.splitlines() if any(passage in line for passage in passages)]
    expected = sorted(zip(scores.tolist(), passages, strict=True), reverse=True)
    assert len(shown) == 3
    for line, (score, passage) in zip(shown, expected, strict=True):
        assert f"{score:.4f}" in line
        assert passage in line
    assert "query: how [/do]" in out
    assert "ablated: none" in out


def test_score_under_an_ablation(run, model):
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    reranker = HookedCrossEncoder.from_pretrained(str(model))
    for texts, condition in (
        (["DOC->QUERY"], "zero(DOC->QUERY)"),
        (["mask(CLS->ALL; layers=1)", "DOC->QUERY"], "mask(CLS->ALL; layers=1) + zero(DOC->QUERY)"),
    ):
        ablate = [x for text in texts for x in ("--ablate", text)]
        status, out, _ = run("score", model, "--query", "how", "--passage", "the flea", *ablate)
        with reranker.ablating(texts):
            expected = float(reranker.score("how", ["the flea"])[0])
        assert status == 0
        assert f"ablated: {condition}" in out
        assert f"{expected:.4f}" in out


def test_parity_is_0_within_and_1_outside_of_tolerance(run, model, monkeypatch):
    status, out, _ = run("parity", model, "--device", "cpu", "--dtype", "float64")
    assert status == 0
    for what in ("logits", "hidden states", "attention patterns", "within tolerance", "float64 on cpu", "max relative"):
        assert what in out
    monkeypatch.setitem(parity.TOLERANCE, torch.float32, 0.0)
    status, out, _ = run("parity", model)
    assert status == 1
    assert "OUTSIDE of tolerance" in out


def test_score_and_parity_take_a_length_and_a_rule_and_say_what_the_score_is(run, model):
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    reranker = HookedCrossEncoder.from_pretrained(str(model), device="cpu")
    long = "the flea " * 40
    with torch.no_grad():
        logits = reranker(reranker.encode_pairs("how", [long], max_length=13).batch(), return_type="logits")
    expected = float(logits[0, 1])
    asked = ("score", model, "--device", "cpu", "--query", "how", "--passage", long)
    status, out, _ = run(*asked, "--max-length", "13", "--score", "index:1")
    assert status == 0
    assert f"{expected:.4f}" in out
    assert "score: logit[1];" in out
    status, out, _ = run(*asked)
    assert f"{expected:.4f}" not in out
    assert "score: logit[1] - logit[0];" in out
    status, out, _ = run("parity", model, "--max-length", "29", "--score", "difference:0")
    assert status == 0
    assert "token types fed; score: logit[0] - logit[1]" in out
    assert "token ids and types" in out
    for wrong in (("--max-length", "9999"), ("--score", "best"), ("--score", "index:2")):
        status, _, err = run(*asked, *wrong)
        assert status == 2
        assert err.count("\n") == 1
        assert "expected" in err


def test_reproduce_names_each_method_that_was_left_out_once(run, model, collection, finished, monkeypatch):
    """And no other that is lacking, which has a reason of its own."""
    module = importlib.import_module("tl_crossenc.reproduce")
    whole, asked = module.reproduce, dict.fromkeys(("probes", "probe_features", "circuits"), NOT_ASKED)

    def lacking(*given, **named):
        return replace(whole(*given, **named), unavailable={"sinks": "no full stop."} | asked)

    monkeypatch.setattr(module, "reproduce", lacking)
    _, out, _ = run("reproduce", "--only-table1", "--model", model, "--collection", collection, "--out", finished)
    assert "sinks: not drawn: no full stop." in out
    assert "Left out, for --method NAME or --all: probes, circuits." in out


@pytest.mark.usefixtures("unchecked")
def test_reproduce_and_compare_masks_take_a_length_and_a_rule(run, model, collection, tmp_path):
    given = ("--max-length", "13", "--score", "0", "--model", model, "--collection", collection)
    out = tmp_path / "out"
    status, _, _ = run("reproduce", "--only-table1", "--out", out, *given)
    assert status == 0
    about = json.loads((out / "run.json").read_text())
    assert about["model"]["score"] == "difference:0"
    assert about["model"]["activation"] == {"name": "Identity", "why": "the default of several labels"}
    assert about["model"]["max_length"] == 13
    assert about["model"]["types_fed"] is True
    assert about["settings"]["max_length"] == 13
    status, _, _ = run("compare-masks", "--preset", "mice-mask0", "--out", tmp_path / "masks", *given)
    assert status == 0


def test_reproduce_prints_the_table_and_says_where_everything_is(
    run, model, collection, finished, tmp_path, monkeypatch
):
    forbid_model_work(monkeypatch)
    status, out, _ = run("reproduce", "--only-table1", "--model", model, "--collection", collection, "--out", finished)
    assert status == 0
    assert "Table 1" in out
    assert f"Everything is in {finished}/" in out  # on one line, however long the path
    assert "0 pair-layers run" in out
    csv = (finished / "tables" / "table1.csv").read_text().splitlines()
    value = float(dict(zip(csv[0].split(","), csv[1].split(","), strict=True))["mean"])
    assert f"{value:.3f}" in out


def test_the_default_folder_names_model_and_collection(run, model, collection, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, _ = run(
        "reproduce",
        "--only-table1",
        "--model",
        model,
        "--collection",
        collection,
        "--per-grade",
        "1",
        "--easy-negatives",
        "0",
    )
    assert status == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["tiny-fleas"]


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nothing"], ["score", "m"], ["parity"], ["reproduce", "--mode", "none"], ["reproduce", "--token-budget", "0"],
        ["reproduce", "--token-budget", "-3"], ["reproduce", "--per-grade", "0"], ["parity", "m", "--dtype", "int8"],
        ["reproduce", "--seed", "x"],
    ],
)  # fmt: skip
def test_what_the_parser_refuses_is_status_2(run, arguments):
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert "usage: tl-crossenc" in err
    assert "Traceback" not in err


def test_the_version_is_a_line(run):
    from importlib.metadata import version

    status, out, _ = run("--version")
    assert status == 0
    named = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    assert out == f"tl-crossenc {version('tl-crossenc')} ({named})\n"


def test_how_many_passages_were_cut_is_printed_and_kept(run, model, tmp_path):
    """A word is a piece, a pair has three more tokens: of 61, "how do" leaves its passage 56."""
    docs = {"d1": "flea " * 56, "d2": "flea " * 57, "d3": "egg " * 500, "d4": "bread"}
    folder = tiny_collections.write_folder(
        tmp_path / "long", docs, {"q": "how do"}, [("q", doc_id, i) for i, doc_id in enumerate(docs)]
    )
    out = tmp_path / "out"
    arguments = ["--model", model, "--collection", folder, "--out", out, "--easy-negatives", "0", "--device", "cpu"]
    status, said, err = run("reproduce", "--only-table1", *arguments)
    assert status == 0, err
    assert "Passages of long: 2 of 4 cut to the model's 61 tokens a pair." in said
    (pool,) = json.loads((out / "run.json").read_text())["pools"]
    assert pool["cut"] == {"passages": 2, "of": 4, "max_length": 61}


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ("3", ["layer.head"]),
        ("0.1,0.1", ["each head once"]),
        ("0.1,2.0", ["within 0.0 to 1.2", "2.0"]),
        ("@matching", ["@matching", "there is no such file"]),
        ("@matching:0", ["count of heads from 1"]),
        ("@Matching", ["kept list of heads"]),
    ],
)
def test_heads_that_cannot_be_right_are_refused_before_any_work(
    run, model, collection, results, monkeypatch, heads, message
):
    before = snapshot(results)
    forbid_model_work(monkeypatch)
    monkeypatch.setattr("tl_crossenc.experiments.main_job.run_table1", None)
    arguments = ["--model", model, "--collection", collection, "--out", results, "--heads", heads]
    assert_one_sentence(run("reproduce", *arguments), message)
    assert snapshot(results) == before


# Bad input: a model.


def damaged(folder, how):
    """A model's folder with one thing wrong."""
    config = helpers.small_config(max_position_embeddings=CONTEXT)
    state = helpers.random_weights(config)
    layout = "bin" if how == "truncated bin" else "safetensors"
    if how == "missing weight":
        del state["bert.encoder.layer.1.output.dense.bias"]
    elif how == "extra weight":
        state["bert.encoder.layer.2.output.dense.bias"] = torch.zeros(3)
    elif how == "3 labels":
        config = helpers.small_config(3, max_position_embeddings=CONTEXT)
        state = helpers.random_weights(config, 3)
    elif how == "causal":
        config |= {"model_type": "gpt2", "architectures": ["GPT2ForCausalLM"]}
    elif how == "decoder":
        config |= {"is_decoder": True}
    elif how == "encoder-decoder":
        config |= {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]}
    elif how == "nan":
        state["classifier.weight"][0, 0] = math.nan
    elif how == "overflow":
        state["classifier.weight"] *= 3e38
    model_folder(folder, config=config, state=state, layout=layout, vocabulary=how != "no vocabulary")
    weights = folder / ("pytorch_model.bin" if layout == "bin" else "model.safetensors")
    if how.startswith("truncated"):
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "corrupt":
        weights.write_bytes(b"\x00" * 50_000)
    elif how == "no weights":
        weights.unlink()
    elif how == "config":
        (folder / "config.json").write_text("{")
    return folder


BAD_MODELS = {
    "truncated": ["expected model weights in", "model.safetensors", "download it again"],
    "truncated bin": ["expected model weights in", "pytorch_model.bin", "download it again"],
    "corrupt": ["expected model weights in", "download it again"],
    "missing weight": ["missing: bert.encoder.layer.1.output.dense.bias"],
    "extra weight": ["not known: bert.encoder.layer.2.output.dense.bias"],
    "3 labels": ["label", "3"],
    "causal": ["expected an encoder", "decoder", "GPT2ForCausalLM"],
    "decoder": ["expected an encoder", "decoder"],
    "encoder-decoder": ["expected an encoder", "encoder-decoder"],
    "no weights": ["expected weights in the model folder"],
    "no vocabulary": ["--tokenizer"],
    "config": ["config.json", "cannot be read"],
    "nan": ["classifier.weight", "NaN"],
}


@pytest.mark.parametrize("how", BAD_MODELS)
def test_a_bad_checkpoint(run, results, collection, tmp_path, how):
    folder, before = damaged(tmp_path / "bad", how), snapshot(results)
    assert_one_sentence(
        run("reproduce", "--only-table1", "--model", folder, "--collection", collection, "--out", results),
        BAD_MODELS[how],
    )
    assert snapshot(results) == before
    for command in (["parity", folder], ["score", folder, "--query", "q", "--passage", "p"]):
        assert_one_sentence(run(*command), BAD_MODELS[how])


@pytest.mark.parametrize(
    "name", ["no-such-organisation/no-such-model", "nosuchmodel", "./no/such/folder", "~/nosuchfolder"]
)
def test_an_unknown_model(run, results, collection, name):
    before = snapshot(results)
    assert_one_sentence(
        run("reproduce", "--only-table1", "--model", name, "--collection", collection, "--out", results), [name]
    )
    assert_one_sentence(run("parity", name), [name])
    assert snapshot(results) == before


def test_nan_scores(run, results, collection, tmp_path):
    folder, before, out = damaged(tmp_path / "overflow", "overflow"), snapshot(results), tmp_path / "nan"
    for command in (
        ["reproduce", "--only-table1", "--model", folder, "--collection", collection, "--out", out],
        ["score", folder, "--query", "q", "--passage", "the flea"],
    ):
        assert_one_sentence(run(*command), ["expected finite scores", "float32"])
    assert not list(out.glob("machinery/cells/*/*"))  # and so the folder is still anybody's
    command = ["reproduce", "--only-table1", "--model", folder, "--collection", collection, "--out"]
    assert run(*command, out, "--dtype", "float64", "--mode", "mask")[0] == 0
    assert_one_sentence(run(*command, results), ["another job's", "weights", str(folder)])
    assert snapshot(results) == before
    assert run("parity", folder)[0] == 1


@pytest.mark.parametrize(
    ("ablate", "message"),
    [
        ("zero(DOC->QUERY; layers=0-2)", [f"expected layers 0..{LAST - 1}", "got layer 2"]),
        ("zero(DOC->QUERY; heads=3,7)", ["expected heads 0..2", "got head 3,7"]),
        ("DOC-QUERY", ["DOC-QUERY"]),
        ("DOC->TITLE", ["TITLE"]),
        ("PAD->DOC", ["PAD"]),
        ("cut(DOC->QUERY)", ["cut(DOC->QUERY)", "zero"]),
        ("zero(DOC->QUERY; layers=3-1)", ["layers", "3-1"]),
        ("", []),
    ],
)
def test_bad_ablations(run, model, ablate, message):
    assert_one_sentence(run("score", model, "--query", "q", "--passage", "p", "--ablate", ablate), message)


def test_a_query_that_leaves_its_passage_no_room(run, model):
    query = "flea " * CONTEXT
    assert_one_sentence(
        run("score", model, "--query", query, "--passage", "p"), ["expected a query of at most", "shorten"]
    )


def test_a_device_that_is_not_there(run, model):
    for device in ("cuda:99", "tpu", "quantum"):
        if device.startswith("cuda") and torch.cuda.is_available():
            continue
        assert_one_sentence(run("parity", model, "--device", device), [device])


# Bad input: a collection.

DOCS, QUERIES = {"d1": "the flea", "d2": "an egg"}, {"q1": "how", "q2": "do"}
BAD_COLLECTIONS = {
    "malformed": (DOCS, QUERIES, "q1 0 d1 1\nq1 0 d2\n", ["qrels.txt", "line 2", "four columns"]),
    "grade": (DOCS, QUERIES, "q1 0 d1 1\nq1 0 d2 good\n", ["qrels.txt", "line 2", "whole number", "'good'"]),
    "missing passages": (DOCS, QUERIES, "q1 0 e1 1\nq1 0 e2 0\n", ["none of the 2 judged passages", "e1"]),
    "no judgments": (DOCS, QUERIES, "", ["no judgment"]),
    "other queries": (DOCS, QUERIES, "x 0 d1 1\n", ["no judgment", "query ids"]),
    "no queries": (DOCS, {}, "q1 0 d1 1\n", ["queries.tsv", "no query"]),
}


@pytest.mark.parametrize("how", BAD_COLLECTIONS)
def test_a_bad_collection(run, results, model, tmp_path, how):
    docs, queries, qrels, message = BAD_COLLECTIONS[how]
    folder = tiny_collections.write_folder(tmp_path / "bad", docs, queries, [])
    (folder / "qrels.txt").write_text(qrels)
    before = snapshot(results)
    assert_one_sentence(
        run("reproduce", "--only-table1", "--model", model, "--collection", folder, "--out", results), message
    )
    assert snapshot(results) == before


@pytest.mark.parametrize("name", ["msmarco-passage/trec-dl-1999", "./nowhere", "/nowhere/at/all", " "])
def test_an_unknown_collection(run, results, model, name):
    before = snapshot(results)
    assert_one_sentence(
        run("reproduce", "--only-table1", "--model", model, "--collection", name, "--out", results),
        [name.strip(), "trec-dl-2019"],
    )
    assert snapshot(results) == before


def test_a_collection_twice(run, results, model, collection):
    before = snapshot(results)
    arguments = ["--model", model, "--collection", collection, "--collection", collection, "--out", results]
    assert_one_sentence(run("reproduce", *arguments), ["different names"])
    assert snapshot(results) == before


# Bad input: the results folder.


def test_a_foreign_folder_is_left_alone(run, model, collection, tmp_path):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("do not touch")
    before = identities(foreign)
    arguments = ["reproduce", "--only-table1", "--model", model, "--collection", collection, "--out"]
    assert_one_sentence(run(*arguments, foreign), ["not ours", "--out"])
    assert_one_sentence(run(*arguments, foreign / "chapter1.tex"), ["is a file", "--out"])
    assert_one_sentence(run(*arguments, foreign / "chapter1.tex" / "out"), ["could not write"])
    assert identities(foreign) == before
    assert os.listdir(foreign) == ["chapter1.tex"]


def test_an_unwritable_folder(run, model, collection, monkeypatch, tmp_path):
    def refuse(path, *args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    arguments = ["reproduce", "--only-table1", "--model", model, "--collection", collection, "--out", tmp_path / "out"]
    with monkeypatch.context() as patched:  # tests may run as root, whom no permission stops
        patched.setattr("tl_crossenc.store.files.os.open", refuse)
        assert_one_sentence(run(*arguments), ["could not write", "Permission denied", "choose a place"])
    assert not (tmp_path / "out" / "tables" / "table1.csv").exists()


@pytest.mark.parametrize("writes", [0, 1, 2, 9, 40, 76, 90])
@pytest.mark.usefixtures("unchecked")
def test_a_full_disk_at_any_moment_harms_nothing_and_a_rerun_completes(
    run, model, collection, finished, monkeypatch, tmp_path, writes
):
    out = tmp_path / "out"
    arguments = ["reproduce", "--only-table1", "--model", model, "--collection", collection, "--out", out]
    write, left = os.write, [writes]

    def full(handle, data):
        left[0] -= (
            threading.current_thread() is threading.main_thread()
        )  # another says how far the job is, as time goes
        if left[0] < 0:
            if len(data) > 1 and left[0] == -1:
                write(handle, data[: len(data) // 2])  # the disk takes the first half
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data)

    with monkeypatch.context() as patched:
        patched.setattr("tl_crossenc.store.files.os.write", full)
        assert_one_sentence(run(*arguments), ["could not write", "No space left on device", "free some space"])
    stored = snapshot(out) if out.exists() else {}
    stored = {name: data for name, data in stored.items() if not name.startswith(".status-")}  # it says what failed
    expected = snapshot(finished)
    assert {name: expected[name] for name in stored} == stored  # whole files only, of the right content
    kept = (
        {name: mark for name, mark in identities(out).items() if name.startswith("machinery/cells/")} if stored else {}
    )
    assert run(*arguments)[0] == 0
    assert snapshot(out) == expected
    manifests = {name for name in kept if name.endswith(".json")}
    both = manifests | {name.replace(".json", ".parquet") for name in manifests}
    assert {name: identities(out)[name] for name in both} == {name: kept[name] for name in both}


def test_a_full_disk_during_a_rerun_leaves_the_finished_job(run, model, collection, results, monkeypatch, tmp_path):
    before, another = snapshot(results), collection_folder(tmp_path / "more", n_queries=2)

    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tl_crossenc.store.files.os.write", full)
    arguments = ["reproduce", "--only-table1", "--model", model, "--collection", collection, "--out", results]
    assert_one_sentence(run(*arguments), ["No space left"])
    assert_one_sentence(run(*arguments, "--collection", another), ["No space left"])
    assert snapshot(results) == before


# What changed under the results' feet.


def test_a_collection_edited_after_its_pool_was_drawn_is_noticed(run, model, tmp_path):
    folder = collection_folder(tmp_path / "mine", n_queries=2, per_grade=(1, 1, 1, 1))
    out = tmp_path / "out"
    arguments = [
        "reproduce",
        "--only-table1",
        "--model",
        model,
        "--collection",
        folder,
        "--out",
        out,
        "--easy-negatives",
        "0",
    ]
    assert run(*arguments)[0] == 0
    before = snapshot(out)
    docs = folder / "docs.tsv"
    text = docs.read_text()
    docs.write_text(text.replace("flea", "egg", 1))
    assert_one_sentence(run(*arguments), ["docs.tsv changed since", "choose another --out"])
    assert snapshot(out) == before
    docs.write_text(text)
    assert run(*arguments)[0] == 0
    assert snapshot(out) == before


def test_another_collection_of_the_same_folder_name_is_noticed(run, model, tmp_path):
    folders = [collection_folder(tmp_path / name / "data", n_queries=2, prefix=name) for name in "ab"]
    out = tmp_path / "out"
    arguments = [
        "reproduce",
        "--only-table1",
        "--model",
        model,
        "--out",
        out,
        "--easy-negatives",
        "0",
        "--per-grade",
        "1",
        "--collection",
    ]
    assert run(*arguments, folders[0])[0] == 0
    before = snapshot(out)
    assert_one_sentence(run(*arguments, folders[1]), ["changed since", "choose another --out"])
    assert snapshot(out) == before


# A process of its own.


def test_what_is_typed_is_read_without_loading_anything_slow():
    """All helps, the versions and an error, in one process."""
    slow = "torch transformers transformer_lens pandas pyarrow scipy ir_datasets numpy rich matplotlib jinja2"
    typed = [["--help"], ["--version"], ["reproduce", "--draws", "0"], ["score"], ["no-such"]]
    typed += [[name, "--help"] for name in ("reproduce", "compare-masks", "parity", "score")]
    code = f"""
import sys
from tl_crossenc.cli import main
left = []
for arguments in {typed}:
    try:
        main(arguments)
    except SystemExit as stop:
        left.append(stop.code)
print(left, sorted(set({slow.split()}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 2, 2, 2, 0, 0, 0, 0] []"


def test_every_module_of_a_command_is_offered():
    """A module beside the others that has a line of help, and was left out of the list, could not be typed."""
    folder = Path(cli.__file__).parent
    modules = sorted(path.stem for path in folder.glob("*.py") if "\nHELP = " in path.read_text("utf-8"))
    assert sorted(cli.COMMANDS) == modules


def spawn(*arguments, **settings):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "tl_crossenc.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **settings)


def test_as_a_process(model, tmp_path):
    done = spawn("score", model, "--query", "q", "--passage", "p", "--ablate", "DOC=>QUERY")
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if not line.startswith(("WARNING", "INFO"))] == [
        line for line in done.stderr.splitlines() if line.startswith("tl-crossenc: expected")
    ]


@pytest.mark.slow
def test_a_limit_on_file_size_is_a_full_disk(model, collection, tmp_path):
    done = spawn(
        *("reproduce", "--only-table1", "--model", model, "--collection", collection, "--out", tmp_path / "out"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "free some space" in done.stderr.splitlines()[-1]


def test_debug_shows_the_traceback(model, capsys):
    with pytest.raises(ValueError, match="expected"):
        main(["score", str(model), "--query", "q", "--passage", "p", "--ablate", "DOC=>QUERY", "--debug"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB"), ["out of memory", "--token-budget"]),
        (MemoryError(), ["--token-budget"]),
        (RuntimeError("mat1 and mat2\nshapes"), ["mat1 and mat2 shapes", "--debug"]),
        (ModuleNotFoundError("No module named 'x'"), ["No module named 'x'"]),
    ],
)
def test_failures_of_the_machine_are_a_sentence_too(run, model, monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("tl_crossenc.model.cross_encoder.HookedCrossEncoder.score", fail)
    assert_one_sentence(run("score", model, "--query", "q", "--passage", "p"), message)


def test_an_interrupt_is_status_130(run, model, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tl_crossenc.model.cross_encoder.HookedCrossEncoder.score", interrupt)
    status, out, err = run("score", model, "--query", "q", "--passage", "p")
    assert (status, out) == (130, "")
    assert "run the same command again" in err


def test_run_json_says_what_was_run(finished, model):
    found = json.loads((finished / "run.json").read_text())
    assert found["model"]["name"] == str(model)
    assert found["settings"]["mode"] == "zero"
    assert "out" not in {name for name, value in found["settings"].items() if value is not None}


def test_results_that_share_no_layers_are_not_told_as_if_they_did(tmp_path, monkeypatch, capsys):
    counted = {"layers_run": 1234, "layers_alone": 5678}
    table1 = SimpleNamespace(comparison=None, unablated=None, **counted)
    results = {
        "ablation": SimpleNamespace(**counted),
        "other": SimpleNamespace(layers_run=91),
        "third": SimpleNamespace(),
    }
    fields = ("model_label", "collection_label", "caption", "published", "relevance", "report")
    found = SimpleNamespace(
        **dict.fromkeys(fields, "said"), table1=table1, results=results, pools=[], cut=[], unavailable={}, failed=[]
    )
    monkeypatch.setattr("tl_crossenc.reproduce.reproduce", lambda *args, **kwargs: found)
    monkeypatch.setattr("tl_crossenc.report.terminal.table1_for_terminal", lambda *args: "a table")
    assert main(["reproduce", "--out", str(tmp_path), "--method", "none"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "pair-layers" in line]
    assert told == [
        f"{name}: 1,234 pair-layers run now (5,678 without shared prefixes)." for name in ("Table 1", "ablation")
    ]
