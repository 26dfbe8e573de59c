"""Who computes, as the command line asks for it."""

import argparse
import sys

import pytest
from helpers import one_sentence

from tl_crossenc.cli import main
from tl_crossenc.cli.options import executor_of, executor_options, model_options
from tl_crossenc.executors.executor import IN_PROCESS


def read(*arguments):
    parser = argparse.ArgumentParser()
    executor_options(parser)
    model_options(parser)
    return executor_of(parser.parse_args(arguments))


def test_ray_is_told_what_was_asked_for():
    pytest.importorskip("ray")
    with read("--engine", "ray") as plain:
        assert (plain.address, plain.device, plain.cpus_per_actor, plain.patience) == ("local", "auto", None, 3600)
    with read(
        "--engine", "ray", "--address", "auto", "--cpus-per-actor", "7", "--patience", "11", "--device", "cuda:1"
    ) as other:
        assert (other.address, other.device, other.cpus_per_actor, other.patience) == ("auto", "cuda", 7, 11)
    assert read() is IN_PROCESS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "auto"], "expected --engine ray beside --address"),
        (["--cpus-per-actor", "2"], "expected --engine ray beside --cpus-per-actor"),
        (["--patience", "2"], "expected --engine ray beside --patience"),
        (["--engine", "ray", "--shard", "1/2"], "expected --engine ray or --shard, got both"),
        (["--engine", "ray", "--device", "mps"], "expected --device auto, cpu or cuda with --engine ray, got 'mps'"),
    ],
)
@pytest.mark.parametrize("command", ["reproduce", "compare-masks"])
def test_what_does_not_go_together_is_refused_before_anything_is_written(command, arguments, said, tmp_path, capsys):
    assert main([command, "--model", "planted", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert one_sentence(error)
    assert not (tmp_path / "out").exists()


def test_without_ray_one_sentence_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["reproduce", "--model", "planted", "--out", str(tmp_path / "out"), "--engine", "ray"]) == 2
    error = capsys.readouterr().err.strip()
    assert "pip install 'tl-crossenc[ray]'" in error
    assert one_sentence(error)
    assert not (tmp_path / "out").exists()
