"""What the benchmarks share: real pairs, models of three shapes, timings that are interleaved, and how they are printed.

Every comparison is run in one process, A/B/A/B, and reported as the median over rounds of the ratio within a round, so that a
machine whose speed drifts slows both sides alike. A job may report its own seconds (one that runs in another process does).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET, length_batches
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.parts import PartMasks
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights
from tl_crossenc.model.tokenizers import load_tokenizer
from tl_crossenc.pools.spec import PoolPair

SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "tiny": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 96},
}
"""minilm is the demo model with its own weights; base, large (MonoBERT's) and tiny (for --smoke) have random weights."""

TREC_LENGTHS = (
    22, 52, 59, 63, 67, 70, 73, 76, 79, 82, 85, 90, 96, 103, 110, 119, 128, 136, 147, 162, 286,
)  # fmt: skip
"""Tokens of a pair at every twentieth of the pairs: the first 100 passages of BM25 for the queries of TREC DL 2019 and 2020, for
which the passages are at hand, in BERT's uncased vocabulary (`hours.py --collection FOLDER --run FILE` prints them)."""
TREC_QUERY = 7
"""Tokens of the middle query."""

Job = Callable[[], float | None]


def parser(doc: str | None, *, pairs: int, shapes: Sequence[str] = ("minilm",)) -> argparse.ArgumentParser:
    """The options that all benchmarks take."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--collection", default="demo", help="demo, or a folder as in README.md (default: demo)")
    options.add_argument(
        "--pairs", type=int, default=pairs, help=f"judged pairs, spread over the pool (default: {pairs})"
    )
    options.add_argument("--shape", nargs="+", choices=tuple(SHAPES), default=list(shapes), help="model sizes")
    options.add_argument("--large", action="store_true", help="MonoBERT's shape as well")
    options.add_argument("--rounds", type=int, default=5, help="timings of each (default: 5)")
    options.add_argument("--token-budget", type=int, default=DEFAULT_TOKEN_BUDGET, help="padded tokens a batch")
    options.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    options.add_argument("--smoke", action="store_true", help="a few seconds on a tiny model: does the script run?")
    return options


def parse(options: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments; `--smoke` makes everything small."""
    given = options.parse_args(argv)
    if given.large:
        given.shape = [*given.shape, "large"]
    if given.smoke:
        given.pairs, given.shape, given.rounds, given.token_budget = 12, ["tiny"], 1, 512
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    return given


# Models and pairs.


@dataclass(frozen=True)
class Subject:
    """A model twice, ported and in Hugging Face's own class, with the same weights."""

    shape: str
    model: HookedCrossEncoder
    hf_of: Callable[[str], Any]

    def hf(self, attention: str = "sdpa") -> Any:
        """Hugging Face's model with `sdpa` or `eager` attention."""
        return self.hf_of(attention)


def random_checkpoint(name: str, sizes: Mapping[str, int]) -> Checkpoint:
    """A one-label classifier of these sizes with seeded random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(**sizes, num_labels=1)
    state = BertForSequenceClassification(config).state_dict()
    return Checkpoint(name, "random", config.to_dict(), lambda: iter(state.items()), None, None)


def ported(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> HookedCrossEncoder:
    """A checkpoint's model, without a tokenizer."""
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, dtype))
    port_weights(model, checkpoint)
    return model


def subject(shape: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Subject:
    """The demo model for `minilm`, else one with seeded random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    checkpoint = open_model("demo") if shape == "minilm" else random_checkpoint(shape, SHAPES[shape])
    config = BertConfig.from_dict(checkpoint.config)
    state = {key: tensor for key, tensor in checkpoint.read_tensors() if not key.endswith("position_ids")}
    model = ported(checkpoint, dtype)

    def hf_of(attention: str) -> Any:
        config._attn_implementation = attention
        reference = BertForSequenceClassification(config)
        reference.load_state_dict(state)
        return reference.to(device=device, dtype=dtype).eval()

    return Subject(shape, model.to(device).eval(), hf_of)


def subjects(
    given: argparse.Namespace, share: int = 1, *, print_each: bool = False
) -> Iterator[tuple[Subject, EncodedPairs]]:
    """Print what the numbers hold for, then give each model asked for with its pairs.

    Args:
        given: the arguments.
        share: models larger than the demo's get one pair in so many.
        print_each: say of each model's pairs how long they are, and not once of all pairs.
    """
    print_machine()
    everything = real_pairs(given.collection, given.pairs)
    if not print_each:
        print_pairs(everything, given.collection, given.token_budget)
    for shape in given.shape:
        tested = subject(shape)
        small = share == 1 or shape in ("minilm", "tiny")
        pairs = everything if small else sample(everything, given.pairs // share)
        if print_each:
            print_pairs(pairs, given.collection, given.token_budget)
        yield tested, pairs


def real_pairs(collection: str, n_pairs: int) -> EncodedPairs:
    """`n_pairs` judged pairs of a collection's default pool, spread evenly over it, encoded with BERT's uncased vocabulary."""
    from tl_crossenc.pools.collections import load_collection
    from tl_crossenc.pools.pool import build_pool

    pool = build_pool(load_collection(collection)).ranked.pairs
    return encoded([pool[i] for i in np.unique(np.linspace(0, len(pool) - 1, min(n_pairs, len(pool))).astype(int))])


def encoded(pairs: Sequence[PoolPair]) -> EncodedPairs:
    """Pairs of a pool in BERT's uncased vocabulary."""
    checkpoint = open_model("demo")
    cfg = config_from_checkpoint(checkpoint, torch.float32)
    reader = HookedCrossEncoder(cfg, load_tokenizer(checkpoint, cfg, None))
    return reader.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])


def random_pairs(lengths: Sequence[int], query: int = TREC_QUERY) -> EncodedPairs:
    """Pairs of random tokens with these lengths, separators counted, and queries of `query` tokens."""
    parts = np.concatenate([[0] + [1] * query + [2] + [3] * (n - query - 3) + [4] for n in lengths]).astype(np.int8)
    tokens = np.random.default_rng(0).integers(1000, 30000, len(parts)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return EncodedPairs(tokens, (parts >= 3).astype(np.int8), parts, offsets, np.zeros(len(lengths), bool), 0)


def trec_pairs(n_pairs: int) -> EncodedPairs:
    """Pairs of random tokens with the lengths of TREC's, spread evenly over them and then shuffled: no text is needed."""
    middles = (np.arange(n_pairs) + 0.5) / n_pairs
    lengths = np.interp(middles, np.linspace(0, 1, len(TREC_LENGTHS)), TREC_LENGTHS).round().astype(int)
    return random_pairs(np.random.default_rng(0).permutation(lengths))


def sample(pairs: EncodedPairs, n_pairs: int) -> EncodedPairs:
    """`n_pairs` of the pairs, spread evenly over them, in their order."""
    return chosen(pairs, np.unique(np.linspace(0, len(pairs) - 1, min(n_pairs, len(pairs))).astype(int)))


def chosen(pairs: EncodedPairs, keep: np.ndarray) -> EncodedPairs:
    """Some of the pairs, by their places."""
    spans = [slice(pairs.offsets[i], pairs.offsets[i + 1]) for i in keep]
    columns = {
        name: np.concatenate([getattr(pairs, name)[span] for span in spans])
        for name in ("tokens", "token_type_ids", "parts")
    }
    offsets = np.concatenate([[0], np.cumsum(pairs.lengths[keep])])
    return replace(pairs, **columns, offsets=offsets, truncated=pairs.truncated[keep])


def batches(pairs: EncodedPairs, token_budget: int, device: str = "cpu") -> list[PairBatch]:
    """Length-sorted batches."""
    return [pairs.batch(indices).to(device) for indices in length_batches(pairs.lengths, token_budget)]


def in_order(pairs: EncodedPairs, size: int = 32) -> list[PairBatch]:
    """Batches of `size` in the order given."""
    return [pairs.batch(range(i, min(i + size, len(pairs)))) for i in range(0, len(pairs), size)]


def run_hf(model: Any, given: Sequence[PairBatch]) -> list[torch.Tensor]:
    """Hugging Face's logits."""
    return [
        model(batch.tokens, attention_mask=batch.attention_mask.long(), token_type_ids=batch.token_type_ids).logits
        for batch in given
    ]


def compiled_forward(model: HookedCrossEncoder, backend: str = "inductor") -> Callable[[PairBatch], torch.Tensor]:
    """The unablated pass as one graph, without breaks, for any batch shape."""

    def run(tokens, types, mask, bias, codes):
        given = AttentionInput(mask, PartMasks(codes), model.dtype)
        given.__dict__.update(padded=bias is not None, bias=bias)
        resid = model.run_embed(tokens, types)
        for layer in range(model.cfg.n_layers):
            resid = model.run_layer(layer, resid, given, only_cls=layer == model.cfg.n_layers - 1)
        return model.run_head(resid)

    graph = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)

    def forward(batch):
        given = model.attention_input(batch.attention_mask, batch.parts)
        return graph(batch.tokens, batch.token_type_ids, given.attention_mask, given.bias, batch.parts.codes)

    return forward


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute replaced for a while, to turn an idea off."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


# Time.


@dataclass(frozen=True)
class Timings:
    """Seconds of each job in each round."""

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Of a job, over rounds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """The median over rounds of `name`'s time in units of `other`'s in the same round."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True))


def interleave(jobs: Mapping[str, Job], rounds: int) -> Timings:
    """Time every job once a round, each round starting with another, after one run of each that is not counted."""
    names = list(jobs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        first = max(turn, 0) % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            own = jobs[name]()
            took = time.perf_counter() - start if own is None else own
            if turn >= 0:
                seconds[name].append(took)
    return Timings(seconds)


# Printing.


def print_machine() -> None:
    """What the numbers hold for."""
    cpu = platform.processor()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.partition(":")[2].strip() for line in info.open() if line.startswith("model name")), cpu)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = torch.backends.cpu.get_cpu_capability()
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens"))
    print(f"machine: {cpu}, {cores} cores ({flags}), {torch.get_num_threads()} threads{load}")
    print(f"versions: python {platform.python_version()}, {packages}")


def print_pairs(pairs: EncodedPairs, collection: str, token_budget: int) -> None:
    """How long the pairs are."""
    lengths = pairs.lengths
    padded = sum(len(i) * int(lengths[i].max()) for i in length_batches(lengths, token_budget))
    print(
        f"pairs: {len(pairs)} of {Path(collection).name}, {lengths.min()}..{lengths.max()} tokens, mean {lengths.mean():.1f}; "
        f"{100 * (1 - lengths.sum() / padded):.1f} % padding at a budget of {token_budget}"
    )


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "|".join("---" if i == 0 else "--:" for i in range(len(header))) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


def print_timings(title: str, timings: Timings, reference: str, column: str = "time against it") -> None:
    """Median, spread and the ratio to one of the jobs."""
    rows = [
        (
            name,
            f"{timings.median(name):.3f}",
            f"{min(seconds):.3f}..{max(seconds):.3f}",
            "1" if name == reference else f"{timings.ratio(name, reference):.2f}",
        )
        for name, seconds in timings.seconds.items()
    ]
    print_table(f"{title} (reference: {reference})", ("", "median s", "range", column), rows)
