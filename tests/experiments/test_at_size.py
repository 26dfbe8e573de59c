"""Memory of a process of its own that reranks runs of two lengths, with passages of ten thousand letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_worlds import model_folder

LETTERS = 10_000
RERANK = r"""
import os, re, sys
from pathlib import Path
from tl_crossenc.experiments.reranking import rerank
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.store.cells import Store

folder, count, letters = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
place = folder / str(count)
place.mkdir()
with (place / "docs.tsv").open("w") as file:
    for i in range(count):
        file.write(f"d{i}\tegg {chr(97 + i % 26) * letters}\n")  # one word that BERT's tokenizer does not cut up: two tokens
(place / "queries.tsv").write_text("q0\thow\n")
(place / "qrels.txt").write_text("q0 0 d0 1\n")
(place / "a.run").write_text("".join(f"q0 Q0 d{i} 1 {-i} t\n" for i in range(count)))
model = HookedCrossEncoder.from_pretrained(str(folder / "model"), device="cpu")
found = rerank(model, load_collection(place), place / "a.run", Store(place / "store"), ["DOC->QUERY"], depth=count)
assert len(found.rankings.scores("none")) == count
print(int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) * 1024, flush=True)
os._exit(0)  # what is measured is over: how other libraries' threads take the interpreter's end is no part of it
"""


def peak(folder, count):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-W",
        "ignore",
        "-c",
        RERANK,
        str(folder),
        str(count),
        str(LETTERS),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_texts_of_a_run(tmp_path):
    """4,000 passages more are 40 MB of text: of that a block is held at a time, whatever the run's length, and 3 MB for ids."""
    model_folder(tmp_path / "model")
    few, many = peak(tmp_path, 1300), peak(tmp_path, 5300)
    assert many - few < 0.5 * 4000 * LETTERS, f"{(many - few) / 1e6:.1f} MB"
