"""The memory that opening a model takes, of a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

PORT = r"""
import re, sys
import torch
from transformers import BertTokenizerFast
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
if sys.argv[1:]:
    model = HookedCrossEncoder.from_pretrained(sys.argv[1], device="cpu", tokenizer=sys.argv[2])
else:
    import tl_crossenc.model.tokenizers, safetensors.torch
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024)
"""


def peak_memory(*arguments):
    """The most memory that a fresh process was resident with, in bytes.

    Not `ru_maxrss`, which a process takes over from the one that started it.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PORT, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
