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
