"""Actors and drivers killed at random moments until a job ends: nothing is lost, and nothing that was stored is computed again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from ray_cluster import cluster
from ray_tasks import begun
from small_worlds import snapshot

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
CELLS, KILLS, LIMIT = 48, 6, 800
"""Cells of the job, processes that are killed, seconds that it may take."""
AT_ONCE = 2 * 2
"""Cells that a death may lose: of two actors each the one that it is at and one on its way."""


def start(address, folder):
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, "-m", "ray_driver", address, str(folder), str(CELLS)]
    with open(folder / "driver.log", "a") as log:
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=log)


def alive(process):
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(what, deadline):
    while not (found := what()):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("seed", [11])
def test_a_job_under_kills_at_random_moments(tmp_path, seed):
    rng, deadline = random.Random(seed), time.monotonic() + LIMIT
    moments = sorted(rng.sample(range(4, CELLS), KILLS))  # by cells begun
    victims = rng.sample(["actor"] * (KILLS - 2) + ["driver"] * 2, KILLS)
    killed = Counter()
    with cluster(cpus=3) as ray:
        address = ray.get_runtime_context().gcs_address
        driver = start(address, tmp_path)
        for moment, victim in zip(moments, victims, strict=True):
            while len(begun(tmp_path)) < moment:
                assert driver.poll() is None, (tmp_path / "driver.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.25))
            if victim == "driver":
                actors = {process for _, process, _ in begun(tmp_path) if alive(process)}
                driver.kill()
                driver.wait()
                wait_for(lambda left=actors: not any(map(alive, left)), deadline)  # they end with it
                driver = start(address, tmp_path)
            else:
                live = wait_for(lambda: [process for _, process, _ in begun(tmp_path)[-3:] if alive(process)], deadline)
                os.kill(rng.choice(live), signal.SIGKILL)
            killed[victim] += 1
        assert driver.wait(timeout=max(1, deadline - time.monotonic())) == 0, (tmp_path / "driver.log").read_text()
    assert killed == {"actor": KILLS - 2, "driver": 2}
    from ray_driver import tasks_of

    alone = tmp_path / "alone"
    alone.mkdir()
    Store(alone / "store")
    IN_PROCESS.run(
        HookedCrossEncoder.from_pretrained("planted", device="cpu"),
        tasks_of(str(alone), CELLS),
        Store(alone / "store"),
    )
    assert snapshot(tmp_path / "store") == snapshot(alone / "store")
    log = begun(tmp_path)
    assert {number for number, _, _ in log} == set(range(CELLS))
    assert {state for _, _, state in log} == {"new"}  # nothing stored was begun again
    assert len(log) - CELLS <= AT_ONCE * KILLS
