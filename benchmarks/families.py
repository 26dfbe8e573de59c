"""Every family that opens: untouched against Hugging Face's own model, and a direction removed everywhere against untouched.

    python benchmarks/families.py --collection FOLDER [--shape minilm base] [--family modernbert gte]

Models have random weights, the demo tokenizer's ids and one size: what differs is what a family computes. Compared on the same
length-sorted batches: Hugging Face with SDPA (DeBERTa has none there: its own attention), ours untouched, ours with DOC->QUERY
removed in every layer and head, in both modes. Memory is what a pass takes on top of what was there, at most.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import (
    SHAPES,
    batches,
    interleave,
    parse,
    parser,
    ported,
    print_machine,
    print_pairs,
    print_table,
    real_pairs,
    replaced,
)

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.model import attention_layer
from tl_crossenc.model.attention import explicit_pattern

DIRECTION = "DOC->QUERY"
N_CTX = 512
FAMILIES = {
    "bert": ("Bert", {}),
    "xlm-roberta": ("XLMRoberta", {"max_position_embeddings": N_CTX + 1, "type_vocab_size": 1}),
    "electra": ("Electra", {}),
    "distilbert": ("DistilBert", {}),
    "modernbert": ("ModernBert", {"cls_token_id": 101, "sep_token_id": 102, "bos_token_id": 101, "eos_token_id": 102}),
    "gte": ("Gte", {"type_vocab_size": 1}),
    "deberta-v2": (
        "DebertaV2",
        {
            "type_vocab_size": 0,
            "position_biased_input": False,
            "relative_attention": True,
            "position_buckets": 256,
            "max_relative_positions": -1,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    "ernie": ("Ernie", {"use_task_id": False}),
}
"""Name -> how Hugging Face's classes begin, and what their configuration says beside the sizes."""

DISTILBERT_SIZES = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
}


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=96)
    options.add_argument("--family", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    given = parse(options, argv)
    print_machine()
    pairs = real_pairs(given.collection, given.pairs)
    print_pairs(pairs, given.collection, given.token_budget)
    sorted_batches = batches(pairs, given.token_budget)
    for shape in given.shape:
        rows = [measured(name, SHAPES[shape], sorted_batches, given.rounds) for name in given.family]
        header = (
            "",
            "Hugging Face s",
            "ours s",
            "throughput",
            "zero",
            "mask",
            "patterns",
            "MB untouched",
            "MB ablated",
        )
        print_table(f"{shape}, {len(pairs)} pairs; {DIRECTION} removed everywhere, in times of untouched", header, rows)


def measured(name: str, sizes: dict[str, int], given: Sequence[PairBatch], rounds: int) -> tuple[object, ...]:
    """A row of the table."""
    theirs, model = both(name, sizes)
    typed = getattr(theirs.config, "type_vocab_size", None) == 2
    if not typed:
        given = [replace(batch, token_type_ids=torch.zeros_like(batch.token_type_ids)) for batch in given]

    def hugging_face() -> None:
        for batch in given:
            theirs(**inputs(batch, typed))

    def ours(mode: str | None = None) -> None:
        if mode is None:
            for batch in given:
                model(batch)
        else:
            with model.ablating(DIRECTION, mode=mode):
                for batch in given:
                    model(batch)

    batch = given[-1]
    logits = theirs(**inputs(batch, typed)).logits
    worst = float((model(batch, return_type="logits") - logits).abs().max())
    if worst > 1e-4:
        raise ValueError(f"expected {name} to give Hugging Face's logits, got a difference of {worst:.1e}")
    patterns = []

    def counting(*args: Any, **more: Any) -> Any:
        patterns.append(name)
        return explicit_pattern(*args, **more)

    with replaced(attention_layer, "explicit_pattern", counting):  # and not what CLS's own row is read with
        for mode in (None, "zero", "mask"):
            ours(mode)
    memory = [peak(lambda mode=mode: ours(mode)) for mode in (None, "zero")]
    jobs = {"hf": hugging_face, "ours": ours, "zero": lambda: ours("zero"), "mask": lambda: ours("mask")}
    timings = interleave(jobs, rounds)
    return (
        name,
        *(f"{timings.median(job):.2f}" for job in ("hf", "ours")),
        f"{timings.ratio('hf', 'ours'):.2f} x",
        *(f"{timings.ratio(job, 'ours'):.2f}" for job in ("zero", "mask")),
        len(patterns),
        *("not read" if bytes_ is None else f"{bytes_ / 1e6:.0f}" for bytes_ in memory),
    )


def both(name: str, sizes: dict[str, int]) -> tuple[Any, Any]:
    """Hugging Face's model with seeded random weights, and ours with the same."""
    import transformers

    stem, more = FAMILIES[name]
    if name == "distilbert":
        sizes = {DISTILBERT_SIZES[key]: value for key, value in sizes.items()}
    if name == "electra":
        more = {"embedding_size": sizes["hidden_size"]}
    general = {"vocab_size": 30_522, "pad_token_id": 0, "num_labels": 1, "max_position_embeddings": N_CTX}
    config = getattr(transformers, f"{stem}Config")(**{**general, **sizes, **more})
    config._attn_implementation = "eager" if name == "deberta-v2" else "sdpa"
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{stem}ForSequenceClassification")(config).eval()
    state = theirs.state_dict()
    checkpoint = Checkpoint(name, "random", config.to_dict(), lambda: iter(state.items()), None, None)
    return theirs, ported(checkpoint).eval()


def inputs(batch: PairBatch, typed: bool) -> dict[str, torch.Tensor]:
    """A batch as Hugging Face's model takes it."""
    found = {"input_ids": batch.tokens, "attention_mask": batch.attention_mask.long()}
    return found | ({"token_type_ids": batch.token_type_ids} if typed else {})


def peak(job: Callable[[], None]) -> int | None:
    """Bytes that a job takes at most on top of what the process has; None where the system does not say."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # what the allocator keeps would hide what a pass takes
    try:
        reset.write_text("5", encoding="ascii")
        before = _kilobytes(status, "VmRSS")
        job()
        return max(_kilobytes(status, "VmHWM") - before, 0) * 1024
    except OSError:
        return None


def _kilobytes(status: Path, field: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text(encoding="ascii").splitlines() if field in line)


if __name__ == "__main__":
    main()
