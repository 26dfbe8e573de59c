"""The benchmark scripts run; what they measure is not tested."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
HELPERS = ("common", "cost_model", "jobs", "tl39")
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem not in HELPERS)
MORE = {"gpu": ["--device", "cpu", "--compile-backend", "eager"], "ceiling": ["--profile"]}


def test_there_are_scripts():
    assert {"unablated", "direction_ablation", "table1", "figure1a", "scaling", "ceiling", "gpu"} <= set(SCRIPTS)


@pytest.mark.slow
@pytest.mark.parametrize("script", [*SCRIPTS, "scaling --cost-model"])
def test_smoke(script):
    name, *more = script.split()
    command = [sys.executable, f"{name}.py", "--smoke", "--threads", "1", *more, *MORE.get(name, [])]
    done = subprocess.run(
        command, cwd=BENCHMARKS, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "machine:" in done.stdout
    assert "| " in done.stdout
    assert "nan" not in done.stdout
