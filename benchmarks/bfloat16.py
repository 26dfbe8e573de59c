"""What bfloat16 costs in accuracy: scores and nDCG@10 against float32, for the ways of using it.

- weights: the model in bfloat16, weights, activations and residual stream; sums inside of products, softmax and LayerNorm are
  float32.
- autocast: a float32 model under `torch.autocast`: matrix products and attention in bfloat16, residual stream and LayerNorm
  in float32.
- weights, pattern built: as the first, every pattern in the open (as a hook on it would have it).

    python benchmarks/bfloat16.py --collection FOLDER
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from common import parse, parser, print_machine, print_table
from ideas import patterns_built

from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import build_pool
from tl_crossenc.statistics.evaluation import per_query_ndcg

CONDITIONS = ("none", "DOC->QUERY", "CLS->DOC")


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, pairs=400)
    options.add_argument("--queries", type=int, default=10, help="queries of the collection, whole pools (default: 10)")
    given = parse(options, argv)
    print_machine()
    pool = build_pool(load_collection(given.collection)).ranked
    chosen = pool.select(list(pool.by_query())[: 2 if given.smoke else given.queries])
    conditions = [UNABLATED if text == "none" else Condition.ablate(text) for text in CONDITIONS]
    exact = HookedCrossEncoder.from_pretrained("demo", device="cpu")
    half = HookedCrossEncoder.from_pretrained("demo", device="cpu", dtype="bfloat16")
    pairs = exact.encode_pairs([pair.query for pair in chosen.pairs], [pair.text for pair in chosen.pairs])

    def scores(model: HookedCrossEncoder) -> np.ndarray:
        return run_conditions(model, pairs, conditions, token_budget=given.token_budget).values

    found = {"float32": scores(exact), "bfloat16 weights": scores(half)}
    with torch.autocast("cpu", torch.bfloat16):
        found["bfloat16 autocast"] = scores(exact)
    with patterns_built():
        found["bfloat16 weights, pattern built"] = np.concatenate(
            [run_conditions(half, pairs, [one], token_budget=given.token_budget).values for one in conditions]
        )
    rows = []
    reference = found["float32"]
    for name, values in found.items():
        for i, condition in enumerate(CONDITIONS):
            off = np.abs(values[i] - reference[i])
            ndcg, exactly = _ndcg(chosen, values[i], name), _ndcg(chosen, reference[i], "float32")
            row = (f"{off.max():.3f}", f"{off.mean():.4f}", f"{ndcg.mean():.4f}", f"{np.abs(ndcg - exactly).max():.4f}")
            rows.append((f"{name}, {condition}", *row))
    header = ("", "largest difference of scores", "mean", "nDCG@10", "largest difference in a query")
    spread = f"scores spread over {reference[0].std():.2f} (standard deviation)"
    print_table(f"{len(chosen)} pairs of {len(chosen.by_query())} queries; {spread}", header, rows)


def _ndcg(pool, scores: np.ndarray, name: str) -> np.ndarray:
    columns = [[getattr(pair, field) for pair in pool.pairs] for field in ("query_id", "doc_id", "grade")]
    dtype = "bfloat16" if name.startswith("bfloat16 weights") else "float32"
    return per_query_ndcg(*columns, scores, cutoff=10, gain="linear", dtype=dtype)["ndcg"].to_numpy()


if __name__ == "__main__":
    main()
