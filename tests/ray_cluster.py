"""A cluster of Ray's on this machine for tests: without its authentication file, its reports and its warnings."""

import os
import warnings
from contextlib import contextmanager

import psutil

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else a token is written into the home folder
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
os.environ.update(SETTINGS)


@contextmanager
def cluster(cpus=2):
    """A cluster while the block lasts."""
    import ray
    import ray_tasks

    ray.cloudpickle.register_pickle_by_value(ray_tasks)  # actors do not look into this folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        ray.shutdown()


def processes_of(driver):
    """What a process started, and what that started."""
    return psutil.Process(driver).children(recursive=True)


def all_end(processes, seconds=60):
    """Whether they all do within that time."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@contextmanager
def two_nodes():
    """(ray, the cluster, its second node), a CPU each, while the block lasts; this process is a driver on it."""
    import ray
    import ray_tasks
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(ray_tasks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        second = nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray, nodes, second
    finally:
        ray.shutdown()
        nodes.shutdown()
