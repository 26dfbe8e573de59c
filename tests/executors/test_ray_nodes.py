"""Two nodes of Ray's on this machine: both compute, and the job goes on without the one that is lost."""

import threading
import time

import psutil
import pytest
from ray_cluster import two_nodes
from ray_tasks import Squares, begun, key_of

from tl_crossenc.executors.on_ray import OnRay
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.cells import Store

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

CELLS = 24


def alive(process):
    """Whether it runs; what has ended and is not yet fetched does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_node_that_is_lost_loses_its_cells_in_flight_alone(tmp_path):
    store = Store(tmp_path / "store")
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    tasks = [
        Squares(
            tuple(range(start, start + 4)),
            str(tmp_path),
            str(tmp_path / "store"),
            fault=tuple((number, "hold") for number in range(start, start + 4)),
        )
        for start in range(0, CELLS, 4)
    ]  # the first cell of either node is held in mid-air until the second node is gone
    nodes = set()
    with two_nodes() as (ray, cluster, second), OnRay(cluster.address, cpus_per_actor=1, patience=120) as executor:
        assert sum(node["Alive"] for node in ray.nodes()) == 2
        executor.identity(model)
        assert len(executor._crew.places) == 2

        def lose():
            deadline = time.monotonic() + 100
            while len({process for _, process, _ in begun(tmp_path)}) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            nodes.update(node["NodeID"] for node in ray.nodes() if node["Alive"])
            holding = {process for _, process, _ in begun(tmp_path)}
            cluster.remove_node(second, allow_graceful=False)
            while all(map(alive, holding)) and time.monotonic() < deadline:
                time.sleep(0.05)  # a worker outlives its node's death until it notices
            (tmp_path / "go").touch()

        loser = threading.Thread(target=lose)
        loser.start()
        executor.run(model, tasks, store)
        loser.join()
        assert len(nodes) == 2
        deadline = time.monotonic() + 100
        while sum(node["Alive"] for node in ray.nodes()) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert store.missing(key_of(n) for n in range(CELLS)) == []
    log = begun(tmp_path)
    assert {state for _, _, state in log} == {"new"}
    assert 1 <= len(log) - CELLS <= 2
