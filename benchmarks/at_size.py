"""Many pairs: does memory stay flat, and does the progress bar's estimate hold?

Two things that people run at size, each size in a process of its own:

- `score`: `model.score` on that many pairs in one call;
- `rerank`: a run of 43 queries, reranked to two depths, by `experiments.reranking.rerank`.

Memory is what the process is resident with, looked at every 20 ms, less what it was resident with once the model was loaded and
had scored some pairs; a part of it is what the C library keeps of freed blocks. The estimate is the bar's after a tenth of the
work, time so far times ten, against the time until the work was done; by the clock on the wall, and by the processor's time, which
other processes on the machine disturb less.

    python benchmarks/at_size.py --model planted
    python benchmarks/at_size.py --model demo --what score --size 5000 20000
    python benchmarks/at_size.py --model demo --collection FOLDER --what rerank --depth 100 1000

Passages are the collection's, drawn with a seed; without one they are random words, as many as TREC DL's passages have tokens.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from common import TREC_LENGTHS, TREC_QUERY, print_machine, print_table, replaced

QUERIES = 43
WARM = 64
EVERY = 0.02
"""Seconds between two looks at the memory."""
TENTH = 0.1
_WORDS = (
    "flea",
    "egg",
    "bread",
    "sponge",
    "lay",
    "the",
    "rise",
    "how",
    "train",
    "city",
    "guitar",
    "garden",
    "winter",
    "water",
)


class Source(NamedTuple):
    """Where passages come from.

    Attributes:
        collection: a collection's name or folder; None for random words.
        shorter: the share of each passage that is taken is one of so many, its beginning.
    """

    collection: str | None
    shorter: int


class Measured(NamedTuple):
    """What one job took.

    Attributes:
        pairs: of the job.
        seconds, processor: in all, by the wall and by the processor.
        base, peak: bytes resident before the job, and at most in it.
        errors: of the estimate after a tenth of the work, by the wall and by the processor, as shares of what it took.
    """

    pairs: int
    seconds: float
    processor: float
    base: int
    peak: int
    errors: tuple[float, float]


class Progress:
    """When a tenth of the work was done, and all of it."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """The bar is there from now on."""
        self.start = self._now()
        self.tenth: tuple[float, tuple[float, float]] | None = None

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def __call__(self, done: int, total: int) -> None:
        """So much is done of so much."""
        self.last = self._took()
        if self.tenth is None and done >= TENTH * total:
            self.tenth = done / total, self.last

    def _took(self) -> tuple[float, float]:
        return tuple(now - then for now, then in zip(self._now(), self.start, strict=True))  # type: ignore[return-value]

    def errors(self) -> tuple[float, float, float, float]:
        """Seconds from the beginning to the last step by both clocks, and the errors of the estimate by both."""
        took = self.last
        assert self.tenth is not None, "nothing was done"
        share, then = self.tenth
        wall, processor = (early / share / late - 1 for early, late in zip(then, took, strict=True))
        return (*took, wall, processor)


@contextmanager
def watched() -> Iterator[list[int]]:
    """[most bytes resident] inside of the block."""
    process, found, over = psutil.Process(), [0], threading.Event()

    def look() -> None:
        while True:
            found[0] = max(found[0], process.memory_info().rss)
            if over.wait(EVERY):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def passages(source: Source, count: int) -> list[str]:
    """`count` passages, of a collection in a seeded order or random words; over again where there are too few."""
    collection, shorter = source
    rng = np.random.default_rng(0)
    if collection is None:
        middles = np.linspace(0, 1, min(count, 8192))
        lengths = (
            np.interp(middles, np.linspace(0, 1, len(TREC_LENGTHS)), TREC_LENGTHS).round().astype(int) - TREC_QUERY - 3
        )
        found = [" ".join(rng.choice(_WORDS, max(length, 1))) for length in rng.permutation(lengths)]
    else:
        from tl_crossenc.pools.collections import load_collection

        docs = load_collection(collection).docs
        places = rng.permutation(docs.count())[:count].tolist()
        at = docs.at(places)
        found = [at[place][1] for place in places]
    texts = [" ".join(words[: -(-len(words) // shorter)]) for words in map(str.split, found)]
    return [texts[i % len(texts)] for i in range(count)]


def measured_score(model_name: str, source: Source, size: int, threads: int | None) -> Measured:
    """`model.score` on `size` pairs, in this process."""
    from tl_crossenc.console import progress as bars

    model = _model(model_name, threads)
    texts = passages(source, size)
    model.score("how to tune a guitar", texts[:WARM])

    def job(progress: Progress) -> None:
        @contextmanager
        def bar(what: str) -> Iterator[Callable[[int, int], None]]:
            yield progress

        with replaced(bars, "progress_bar", bar):
            model.score("how to tune a guitar", texts, progress=True)

    return _measured(size, job)


def measured_rerank(model_name: str, source: Source, depth: int, threads: int | None) -> Measured:
    """A run of `QUERIES` x `depth`, in this process; passages are those of the largest depth asked for in a folder of their own."""
    from tl_crossenc.experiments.reranking import conditions_of, rerank, rerank_pairs
    from tl_crossenc.experiments.run_tasks import survey
    from tl_crossenc.pools.collections import load_collection
    from tl_crossenc.pools.first_stage import FirstStage
    from tl_crossenc.store.cells import Store

    model = _model(model_name, threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "collection"
        run = write_run(folder, source, depth)
        own = load_collection(folder)
        rerank(model, own, run, Store(Path(place) / "warm"), depth=2)

        def job(progress: Progress) -> None:
            pairs = survey(model, FirstStage.of(own, run, depth))
            progress.begin()
            rerank_pairs(model, pairs, Store(Path(place) / "store"), conditions_of(model, []), progress=progress)

        return _measured(QUERIES * depth, job)


def write_run(folder: Path, source: Source, depth: int) -> Path:
    """A collection of its own with a run of `QUERIES` x `depth`, half of the first ten passages judged."""
    rng = np.random.default_rng(1)
    texts = [" ".join(text.split()) for text in passages(source, 8 * depth)]
    folder.mkdir()
    (folder / "docs.tsv").write_text("".join(f"d{i}\t{text}\n" for i, text in enumerate(texts)))
    (folder / "queries.tsv").write_text("".join(f"q{q}\thow to tune a guitar in {2000 + q}\n" for q in range(QUERIES)))
    lines, judged = [], []
    for q in range(QUERIES):
        chosen = rng.permutation(len(texts))[:depth]
        lines += [f"q{q} Q0 d{d} {rank} {1000 - rank} first\n" for rank, d in enumerate(chosen)]
        judged += [f"q{q} 0 d{d} {rank % 4}\n" for rank, d in enumerate(chosen[:10:2])]
    (folder / "qrels.txt").write_text("".join(judged))
    (folder / "first.run").write_text("".join(lines))
    return folder / "first.run"


def _model(name: str, threads: int | None):
    from tl_crossenc.model.cross_encoder import HookedCrossEncoder

    if threads:
        torch.set_num_threads(threads)
    return HookedCrossEncoder.from_pretrained(name, device="cpu")


def _measured(pairs: int, job: Callable[[Progress], None]) -> Measured:
    gc.collect()
    base = psutil.Process().memory_info().rss
    with watched() as most:
        progress = Progress()
        job(progress)
        seconds, processor, *errors = progress.errors()
    return Measured(pairs, seconds, processor, base, most[0], (errors[0], errors[1]))


JOBS: Mapping[str, Callable[[str, Source, int, int | None], Measured]] = {
    "score": measured_score,
    "rerank": measured_rerank,
}


def print_measured(what: str, found: Sequence[Measured]) -> None:
    """A row a size."""
    rows = [
        (
            f"{one.pairs:,}",
            f"{one.seconds:.1f}",
            f"{one.processor:.1f}",
            f"{one.base / 1e6:.0f}",
            f"{(one.peak - one.base) / 1e6:+.0f}",
            *(f"{100 * error:+.0f} %" for error in one.errors),
        )
        for one in found
    ]
    header = ("pairs", "s", "processor s", "MB before", "MB more at most", "estimate, wall", "estimate, processor")
    print_table(what, header, rows)
    if len(found) > 1:
        small, large = found[0], found[-1]
        growth = (large.peak - large.base - small.peak + small.base) / max(large.pairs - small.pairs, 1)
        print(f"\n{what}: {growth:,.0f} bytes a pair from {small.pairs:,} to {large.pairs:,} pairs")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", default="demo", help="demo, planted, a folder or a hub name (default: demo)")
    options.add_argument("--collection", help="a folder to take passages from (default: random words)")
    options.add_argument(
        "--shorter", type=int, default=1, help="take the first of so many parts of a passage (default: 1)"
    )
    options.add_argument("--what", nargs="+", choices=tuple(JOBS), default=list(JOBS))
    options.add_argument(
        "--size", nargs="+", type=int, default=[5000, 20000], help="pairs of score (default: 5000 20000)"
    )
    options.add_argument("--depth", nargs="+", type=int, default=[100, 1000], help="of rerank (default: 100 1000)")
    options.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    options.add_argument("--smoke", action="store_true", help="a few seconds on a tiny model: does the script run?")
    given = options.parse_args(argv)
    if given.smoke:
        given.model, given.size, given.depth = "planted", [40], [3]
    print_machine()
    source = Source(given.collection, given.shorter)
    for what in given.what:
        sizes, found = (given.size if what == "score" else given.depth), []
        for size in sizes:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                found.append(alone.submit(JOBS[what], given.model, source, size, given.threads).result())
        print_measured(f"{what}, {given.model}", found)


if __name__ == "__main__":
    main()
