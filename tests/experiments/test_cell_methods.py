"""What every kind of cell holds for one small job: numbers that may change only together with the method's number in the key.

A folder of an earlier version is read by its keys. So a change that gives a cell other numbers counts up `identity.FORWARD` (the
model's activations) or its module's `METHOD`, and the line below is taken anew: it is what the failing test prints.
"""

from functools import partial

import numpy as np
import pytest
from small_worlds import tiny_model

from tl_crossenc.executors.executor import IN_PROCESS
from tl_crossenc.experiments import (
    attention,
    attention_cells,
    bottleneck,
    bottleneck_cells,
    conductance_cells,
    faithfulness_cells,
    head_ranker_cells,
    match_cells,
    neuron_pruning,
    part_gradient_cells,
    part_gradients,
    probe_cells,
    qk_alignment,
    qk_cells,
    replacement,
    replacement_cells,
    scoring,
    soft_tf_cells,
)
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.removal import Removal
from tl_crossenc.instruments.token_attributions import Attributing
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model import identity
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

TEXTS = ("the flea lay eggs", "bread", "how do fleas rise ?", "egg egg 7", "quilt . the egg", "do the fleas lay an egg")
PAIRS = [
    PoolPair(f"q{i % 2}", ("how do fleas lay", "the bread rise")[i % 2], f"d{i}", text, (3, 2, 0, 0, -1, -1)[i])
    for i, text in enumerate(TEXTS)
]
POOL = Pool("six", PoolSpec(None, 1, 0), tuple(PAIRS))


def some_scores(model, store):
    scoring.score_pool(model, POOL, [Condition.ablate("DOC->QUERY", layers=0)], store)


def some_attention(model, store):
    attention.run_attention(model, [POOL], store)


def some_matches(model, store):
    match_cells.MatchCells(model, [POOL], store, ((0, 1),), 50).fill()


def some_alignment(model, store):
    qk_alignment.run_qk_alignment(model, [POOL], store, max_pairs=5)


def some_replacement(model, store):
    replacement.run_replacement(model, [POOL], store, ["0.1"], kinds=["mean"])


def some_head_scores(model, store):
    head_ranker_cells.head_scores(model, [POOL], store, content_free="N/A")


def some_soft_tf(model, store):
    soft_tf_cells.soft_tf_sums(model, [POOL], [np.ones(model.cfg.d_vocab)], store)


def some_states(pooling, model, store):
    given = {"seed": 3, "token_budget": 50, "executor": IN_PROCESS}
    probe_cells.StateCells(model, POOL, store, ("MATCHED",), pooling, **given)


def some_gradients(model, store):
    part_gradients.run_part_gradients(model, [POOL], store, baselines=["query"], nodes=32)


def some_conductance(model, store):
    grades = {"relevant_grades": (2,), "counts": (3,), "draws": 2, "kinds": ["zero"], "nodes": 32}
    with pytest.raises(Unavailable, match="a relevant passage in both"):  # once the one cell is stored
        neuron_pruning.run_neuron_pruning(model, [POOL], store, **grades)


def some_bottlenecks(model, store):
    bottleneck.run_bottleneck(
        model, [POOL], store, fitting=Fitting(steps=2, copies=2), layers=[1], n_queries=1, per_query=2
    )


def some_faithfulness(model, store):
    about = bottleneck_cells.About(IN_PROCESS.identity(model), "", 50, model.cfg.n_layers)
    given = Attributing(Removal("pad", "passage", 0))
    measuring = faithfulness_cells.Measuring((0.0, 0.4, 1.0), (0.2,), 0.3, 5)
    asked = [faithfulness_cells.Attribution("leave-one-out")]
    IN_PROCESS.run(
        model, faithfulness_cells.faithfulness_tasks(about, POOL.ranked, asked, given, measuring, None), store
    )


GOLDEN = {  # kind: what fills it, its module, (FORWARD, METHOD), sum of the numbers in all of its columns, each times cos(i)
    "scores": (some_scores, scoring, (1, 2), 4.479696840104977),
    "attention": (some_attention, attention_cells, (1, 1), -17.28662634110404),
    "match-sums": (some_matches, match_cells, (1, 1), -0.630372905415631),
    "match-histograms": (some_matches, match_cells, (1, 1), -16.317359585807946),
    "match-pairs": (some_matches, match_cells, (1, 1), 8.224271414510602),
    "qk-means": (some_alignment, qk_cells, (1, 1), -409.78514531751233),
    "qk-terms": (some_alignment, qk_cells, (1, 1), -63.6504409127549),
    "head_scores": (some_head_scores, head_ranker_cells, (1, 1), -0.979848923357927),
    "soft_tf": (some_soft_tf, soft_tf_cells, (1, 1), 25.842124860283235),
    "layer-features": (partial(some_states, "mean"), probe_cells, (1, 1), -0.14607209862628673),
    "layer-tokens": (partial(some_states, None), probe_cells, (1, 1), 3.40261573556105),
    "part-gradients": (some_gradients, part_gradient_cells, (1, 1), -2.052268209144736),
    "neuron-conductance": (some_conductance, conductance_cells, (1, 1), 5.015773713503202),
    "layer-statistics": (some_bottlenecks, bottleneck_cells, (1, 1), 16.290207985453225),
    "bottlenecks": (some_bottlenecks, bottleneck_cells, (1, 1), 63.17498563833226),
    "faithfulness": (some_faithfulness, faithfulness_cells, (1, 1), 1.8838239953915885),
    "replaced_scores": (some_replacement, replacement_cells, (1, 1), 4.298783559917925),
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_other_numbers_in_a_cell_come_with_another_method(tmp_path, kind):
    fill, module, method, golden = GOLDEN[kind]
    store = Store(tmp_path / "store")
    fill(tiny_model(tmp_path / "model"), store)
    (key,) = store.keys(kind)
    columns = [column.combine_chunks() for column in store.read(key).columns]
    flat = [
        column.flatten() if hasattr(column, "flatten") and "list" in str(column.type) else column for column in columns
    ]
    values = np.concatenate([column.to_numpy() for column in flat if str(column.type) != "string"]).astype(float)
    found = float(np.nan_to_num(values) @ np.cos(np.arange(len(values))))
    now = (identity.FORWARD, module.METHOD)
    assert (now, found) == (method, pytest.approx(golden, rel=1e-7)), (
        f"a cell of {kind} holds other numbers: count up METHOD of {module.__name__}, or identity.FORWARD, and write {found!r} here"
    )
