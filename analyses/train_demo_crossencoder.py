"""Train a small cross-encoder like the demo model: a LoRA adapter on a BERT encoder, from graded judgments.

    python analyses/train_demo_crossencoder.py --collection trec-dl-2020 --collection trec-dl-2021 \
        --held-out trec-dl-2019 --out my-adapter

Loss: cross-entropy between the two labels' softmax and a soft target, the probability of *relevant* that the passage's
grade stands for (`TARGETS`). Grades above 3 count as 3; random passages are the pool's easy negatives, not judged for the query.
LoRA (Hu et al. 2021) on query, key, value and every dense layer; the classifier in full. AdamW, linear warm-up and decay.

Writes to --out: `adapter_model.safetensors` and `adapter_config.json` (PEFT's format, a folder that
`HookedCrossEncoder.from_pretrained` and `tl-crossenc --model` take) and `training_log.json` (settings, data, loss of every
step, nDCG@10 of the held-out queries before and after). For demonstration: see tl_crossenc/demo/MODEL_CARD.md.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from tl_crossenc.checkpoints.adapters import ADAPTER_CONFIG
from tl_crossenc.checkpoints.embedded import BASE_MODEL, open_packaged_base
from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.devices import resolve_device
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolPair, PoolSpec, build_pool
from tl_crossenc.pools.sampling import normalized_text
from tl_crossenc.statistics.evaluation import per_query_ndcg
from tl_crossenc.store.files import write_atomic

TARGETS = {3: 1.0, 2: 0.9, 1: 0.45, 0: 0.08, -1: 0.01}
"""Grade -> the probability of *relevant*; -1 is a random passage."""

BUCKET = 50
"""Batches whose pairs are sorted by length together: large enough to save padding, small enough to stay random."""


def main(argv: list[str] | None = None) -> int:
    """Train, save, evaluate; 0 when done, 1 with one sentence when something is wrong."""
    args = parse_arguments(argv)
    try:
        train_and_evaluate(args)
    except (ValueError, OSError) as error:
        print(f"train_demo_crossencoder: {error}", file=sys.stderr)
        return 1
    return 0


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small cross-encoder (LoRA) from collections with graded judgments.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--collection", action="append", required=True, metavar="C", help="name or folder; repeatable")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder for the adapter and the log")
    parser.add_argument(
        "--held-out", metavar="C", help="collection to evaluate on; none: a fifth of the queries is held out"
    )
    parser.add_argument("--base", default=BASE_MODEL, help="a BERT encoder's folder or hub name")
    parser.add_argument("--per-grade", type=int, help="most training passages a query and grade; all where not given")
    parser.add_argument("--random-passages", type=int, default=20, help="random passages a query")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=32, help="pairs a step")
    parser.add_argument("--max-length", type=int, default=144, help="tokens of a training pair")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--warmup", type=int, default=50, help="steps; at most half of them")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.05, help="of the adapter's input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args(argv)
    for name in ("steps", "batch_size", "rank", "alpha"):
        if getattr(args, name) < 1:
            parser.error(f"expected --{name.replace('_', '-')} of 1 or more, got {getattr(args, name)}")
    return args


def train_and_evaluate(args: argparse.Namespace) -> None:
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise ValueError(f"expected a new or empty folder for --out, got {args.out}: choose another")
    device = resolve_device(args.device)
    torch.manual_seed(args.seed)

    train, held_out = choose_pairs(args)
    model, tokenizer, base_name = adapted_model(args)
    model.to(device)
    limit = min(args.max_length, model.config.max_position_embeddings)
    encoded = PairEncoder(tokenizer, limit).encode([pair.query for pair in train], [pair.text for pair in train])
    targets = torch.tensor([TARGETS[min(pair.grade, 3)] for pair in train])
    print(
        f"{len(train):,} training pairs, {len(held_out):,} held-out pairs of {len({p.query_id for p in held_out})} queries"
    )

    with tempfile.TemporaryDirectory() as folder:
        save_adapter(model, Path(folder), base_name)
        before = evaluate(Path(folder), tokenizer, held_out, args.device)
    print(f"before: nDCG@10 {before['ndcg'].mean():.3f} (random ranking {before['random'].mean():.3f})")
    losses = train_model(model, encoded, targets, args, device)
    save_adapter(model, args.out, base_name)
    after = evaluate(args.out, tokenizer, held_out, args.device)
    print(f"after:  nDCG@10 {after['ndcg'].mean():.3f}")
    write_log(args, base_name, train, losses, before, after)
    print(f"wrote the adapter and its log to {args.out}")


def choose_pairs(args: argparse.Namespace) -> tuple[list[PoolPair], list[PoolPair]]:
    """Training pairs, and the judged pairs of held-out queries; a query text that is held out is in no training pair."""
    spec = PoolSpec(args.per_grade, args.random_passages, args.seed, match_length=False)
    pools = [build_pool(load_collection(name), spec) for name in args.collection]
    if args.held_out is not None:
        evaluated = build_pool(load_collection(args.held_out), PoolSpec(easy_negatives=0, seed=args.seed))
        held_out = list(evaluated.pairs)
    else:
        queries = sorted({normalized_text(pair.query) for pool in pools for pair in pool.pairs})
        order = np.random.default_rng(args.seed).permutation(len(queries))
        chosen = {queries[i] for i in order[: max(1, len(queries) // 5)]}
        held_out = [
            pair._replace(query_id=f"{number}:{pair.query_id}")  # ids of two collections may be the same
            for number, name in enumerate(args.collection)
            for pair in build_pool(load_collection(name), PoolSpec(easy_negatives=0, seed=args.seed)).pairs
            if normalized_text(pair.query) in chosen
        ]
    forbidden = {normalized_text(pair.query) for pair in held_out}
    train = [pair for pool in pools for pair in pool.pairs if normalized_text(pair.query) not in forbidden]
    if not train or not held_out:
        raise ValueError(
            f"expected queries to train on and others to hold out, got {len(train)} training and {len(held_out)} held-out "
            "pairs: give a larger collection, or another one with --held-out"
        )
    return train, held_out


def adapted_model(args: argparse.Namespace):
    """(BERT with a new two-label classifier and a LoRA adapter, its tokenizer, the name of the base for others)."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        raise ValueError(
            "expected the package peft, which is not installed: pip install 'tl-crossenc[train]'"
        ) from None
    from transformers import BertForSequenceClassification, BertTokenizerFast
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # that the classifier is new is no news
    if args.base == BASE_MODEL:
        source, name = str(open_packaged_base().folder), BASE_MODEL
    else:
        source = name = str(Path(args.base).resolve()) if Path(args.base).is_dir() else args.base
    model = BertForSequenceClassification.from_pretrained(source, num_labels=2)
    tokenizer = BertTokenizerFast.from_pretrained(source)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,  # which also has PEFT train and save the classifier in full
        r=args.rank,
        lora_alpha=args.alpha,
        lora_dropout=args.dropout,
        target_modules=["query", "key", "value", "dense"],
        exclude_modules=["classifier"],
    )
    return get_peft_model(model, lora), tokenizer, name


def train_model(
    model: torch.nn.Module, encoded: EncodedPairs, targets: torch.Tensor, args: argparse.Namespace, device: torch.device
) -> list[dict[str, float]]:
    """The loop; a record a step: step, loss, learning_rate, pairs, tokens (padding included), seconds since the start."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.learning_rate)
    warmup = min(args.warmup, args.steps // 2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (warmup + 1), (args.steps - step) / (args.steps - warmup))
    )
    batches = length_bucketed(encoded.lengths, args.batch_size, np.random.default_rng(args.seed))
    records: list[dict[str, float]] = []
    start = time.perf_counter()
    model.train()
    for step in range(1, args.steps + 1):
        indices = next(batches)
        batch = encoded.batch(indices).to(device)
        relevant = targets[torch.from_numpy(indices)].to(device)
        logits = model(
            input_ids=batch.tokens,
            token_type_ids=batch.token_type_ids,
            attention_mask=batch.attention_mask.long(),
        ).logits
        loss = F.cross_entropy(logits, torch.stack([1 - relevant, relevant], dim=1))
        if not torch.isfinite(loss):
            raise ValueError(f"expected a finite loss, got {float(loss)} at step {step}: lower --learning-rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        records.append(
            {
                "step": step,
                "loss": loss.item(),
                "learning_rate": schedule.get_last_lr()[0],
                "pairs": len(indices),
                "tokens": batch.tokens.numel(),
                "seconds": round(time.perf_counter() - start, 3),
            }
        )
        schedule.step()
        if step % 50 == 0 or step == args.steps:
            recent = np.mean([record["loss"] for record in records[-50:]])
            left = (time.perf_counter() - start) / step * (args.steps - step)
            print(f"step {step}/{args.steps}: loss {recent:.4f}, {left:.0f} s left")
    model.eval()
    return records


def length_bucketed(lengths: np.ndarray, size: int, rng: np.random.Generator):
    """Batches of indices without end: every pass takes every pair once, in batches of pairs of similar length."""
    while True:
        order = rng.permutation(len(lengths))
        batches = []
        for start in range(0, len(order), size * BUCKET):
            block = order[start : start + size * BUCKET]
            block = block[np.argsort(lengths[block], kind="stable")]
            batches += [block[i : i + size] for i in range(0, len(block), size)]
        for i in rng.permutation(len(batches)):
            yield batches[i]


def save_adapter(model, folder: Path, base_name: str) -> None:
    model.peft_config["default"].base_model_name_or_path = base_name
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form for a model card
    settings = json.loads((folder / ADAPTER_CONFIG).read_text())
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, which comes in any order
    write_atomic(folder / ADAPTER_CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")


def evaluate(folder: Path, tokenizer, pairs: list[PoolPair], device: str) -> pd.DataFrame:
    """nDCG@10 of every held-out query, by the adapter as this package loads it: see `per_query_ndcg`."""
    model = HookedCrossEncoder.from_pretrained(str(folder), device=device, tokenizer=tokenizer)
    scores = model.score([pair.query for pair in pairs], [pair.text for pair in pairs])
    return per_query_ndcg(
        [pair.query_id for pair in pairs],
        [pair.doc_id for pair in pairs],
        [pair.grade for pair in pairs],
        scores.numpy(),
    )


def write_log(
    args: argparse.Namespace,
    base_name: str,
    train: list[PoolPair],
    losses: list[dict[str, float]],
    before: pd.DataFrame,
    after: pd.DataFrame,
) -> None:
    grades = Counter(pair.grade for pair in train)
    log = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        | {"base": base_name},
        "targets": {str(grade): target for grade, target in TARGETS.items()},
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers", "peft", "tl-crossenc")},
        "training_pairs": len(train),
        "training_queries": len({normalized_text(pair.query) for pair in train}),
        "training_pairs_by_grade": {str(grade): grades[grade] for grade in sorted(grades, reverse=True)},
        "held_out": {
            "queries": len(after),
            "pairs": int(after["n_passages"].sum()),
            "ndcg@10": {
                "before": before["ndcg"].mean(),
                "after": after["ndcg"].mean(),
                "random": after["random"].mean(),
            },
            "per_query": {
                query: {
                    "before": before["ndcg"][query],
                    "after": after["ndcg"][query],
                    "random": after["random"][query],
                }
                for query in after.index
            },
        },
        "steps": losses,
    }
    write_atomic(args.out / "training_log.json", json.dumps(log, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
