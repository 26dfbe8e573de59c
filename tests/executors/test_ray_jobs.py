"""Whole jobs on Ray: the same files as of one process, through a killed driver and two that start at once."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_cluster import SETTINGS, all_end, cluster, processes_of
from small_worlds import collection_folder, model_folder, snapshot

from tl_crossenc.cli import main
from tl_crossenc.executors.on_ray import OnRay
from tl_crossenc.experiments.paper import PaperOptions
from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.reproduce import Settings, reproduce

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def started():
    with cluster(cpus=2) as ray:
        yield ray


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(model_folder(tmp_path_factory.mktemp("models") / "tiny", seed=2))


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return str(collection_folder(tmp_path_factory.mktemp("collections") / "one", n_queries=3, per_grade=(2, 1, 1, 1)))


def test_everything_that_reproduce_writes_is_the_same(started, tmp_path, model, collection, blank_drawings):
    def settings(out):
        options = PaperOptions(n_draws=2, draw_queries=2)
        return Settings(model, (collection,), out, pool=PoolSpec(10, 2, 0), device="cpu", options=options)

    here = reproduce(settings(tmp_path / "here"))
    with OnRay(cpus_per_actor=1) as executor:
        there = reproduce(settings(tmp_path / "there"), executor=executor)
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")
    assert there.failed == here.failed == {}
    assert there.unavailable == here.unavailable


def test_compare_masks_is_the_same(started, tmp_path, model, collection, capsys):
    command = ["compare-masks", "--model", model, "--collection", collection, "--device", "cpu", "--preset", "zhan-q2d"]
    assert main([*command, "--out", str(tmp_path / "here")]) == 0
    here = capsys.readouterr().out
    on_ray = ["--engine", "ray", "--cpus-per-actor", "1", "--patience", "120"]
    assert main([*command, "--out", str(tmp_path / "there"), *on_ray]) == 0
    assert capsys.readouterr().out.replace("/there", "/here") == here
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")


def test_a_driver_that_is_killed_and_two_that_go_on_at_once(tmp_path, model, collection):
    """The lock of the dead one is taken over by one of them, which computes what is left; the other waits and finds all done."""
    common = ["reproduce", "--only-table1", "--model", model, "--collection", collection, "--device", "cpu"]
    assert main([*common, "--out", str(tmp_path / "here")]) == 0
    out = tmp_path / "there"
    command = [sys.executable, "-m", "tl_crossenc.cli", *common, "--out", str(out)]
    command += ["--engine", "ray", "--cpus-per-actor", "1", "--patience", "120"]
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start():
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first, deadline = start(), time.monotonic() + 120
    while len(list(out.glob("machinery/cells/scores/*.json"))) < 5:
        assert first.poll() is None, first.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    family = processes_of(first.pid)
    first.kill()
    first.communicate()
    assert str(first.pid) in (out / ".lock").read_text()
    stored = len(list(out.glob("machinery/cells/scores/*.json")))
    assert 5 <= stored < 37
    second, third = start(), start()
    said = [process.communicate(timeout=240)[0] for process in (second, third)]
    assert (second.returncode, third.returncode) == (0, 0), said
    assert snapshot(out) == snapshot(tmp_path / "here")
    runs = sorted(int(re.search(r"Table 1: ([\d,]+) pair-layers run now", text)[1].replace(",", "")) for text in said)
    assert runs[0] == 0 < runs[1]
    assert all_end(family)
