"""Scores of a pool: computed once, stored in cells, computed again only where a cell is missing."""

import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import bert_tokenizer
from small_worlds import collection_folder, count_layers, forbid_model_work, snapshot, tiny_model
from type_checks import unchecked

from tl_crossenc.executors import executor
from tl_crossenc.experiments import scoring
from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import model_identity, weights_digest
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.store.cells import Store
from tl_crossenc.store.keys import CellKey

CONDITIONS = [
    UNABLATED,
    Condition.ablate("DOC->QUERY"),
    Condition.ablate("DOC->QUERY", layers=[0]),
    Condition.ablate("CLS->ALL"),
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = collection_folder(tmp_path_factory.mktemp("collection"))
    return build_pool(load_collection(folder), PoolSpec(None, 2, 0))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def cut_into(monkeypatch, shard):
    """From here on a cell is of so many pairs."""
    monkeypatch.setattr(scoring, "SHARD", shard)
    monkeypatch.setattr(scoring, "FEWEST", shard)


def plain(model, pool, conditions):
    """`[condition, pair]`, each pair by itself."""
    values = np.zeros((len(conditions), len(pool)))
    with torch.no_grad(), unchecked():
        for i, condition in enumerate(conditions):
            with model.ablating(condition):
                values[i] = [float(model(model.to_pairs(pair.query, [pair.text]))) for pair in pool.pairs]
    return values


@pytest.mark.parametrize("shard", [1, 7, 10_000], ids=["one-pair", "uneven", "larger-than-the-pool"])
def test_scores_are_those_of_pairs_run_alone_whatever_the_shards(reranker, pool, store, monkeypatch, shard):
    assert 7 < len(pool) < 10_000
    assert len(pool) % 7
    cut_into(monkeypatch, shard)
    found = score_pool(reranker, pool, CONDITIONS, store, token_budget=50)
    np.testing.assert_allclose(found.values, plain(reranker, pool, CONDITIONS), rtol=0, atol=1e-11)
    assert len(store.keys("scores")) == len(CONDITIONS) * -(-len(pool) // shard)
    # none; DOC->QUERY in both layers and in the first only share the first; CLS->ALL: 2 + 3 + 2 layers.
    assert found.layers_run == 7 * len(pool)
    assert found.layers_alone == 8 * len(pool)


def test_the_shard_size_that_divides_the_pool_leaves_no_empty_shard(reranker, pool, store, monkeypatch):
    cut_into(monkeypatch, len(pool))
    score_pool(reranker, pool, [UNABLATED], store)
    assert [store.manifest(key)["rows"] for key in store.keys("scores")] == [len(pool)]


def test_a_second_call_runs_no_model_and_gives_the_same(reranker, pool, store, monkeypatch):
    first = score_pool(reranker, pool, CONDITIONS, store)
    before = snapshot(store.root)
    forbid_model_work(monkeypatch)
    calls = []
    again = score_pool(reranker, pool, CONDITIONS[::-1], store, progress=lambda *step: calls.append(step))
    np.testing.assert_array_equal(again.values, first.values[::-1])
    assert (again.layers_run, again.layers_alone, calls) == (0, 0, [])
    assert snapshot(store.root) == before


def test_only_missing_cells_are_computed(reranker, pool, store, monkeypatch):
    cut_into(monkeypatch, 7)
    first = score_pool(reranker, pool, CONDITIONS, store)
    before = snapshot(store.root)
    gone = [
        key
        for key in store.keys("scores")
        if key.fields["condition"] == "zero(DOC->QUERY)" and key.fields["shard"] == 1
    ]
    for path in (store.root / "cells" / "scores").glob(f"{gone[0].digest}.*"):
        path.unlink()
    calls = count_layers(monkeypatch)
    again = score_pool(reranker, pool, CONDITIONS, store)
    assert sum(pairs for _, pairs in calls) == 2 * 7  # one condition, two layers, seven pairs
    assert again.layers_run == again.layers_alone == 14
    np.testing.assert_array_equal(again.values, first.values)
    assert snapshot(store.root) == before  # to the bit, though computed without the other conditions


def flip_a_bit(table):
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 1
    table.write_bytes(data)


def miscount_rows(table):
    manifest = table.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"rows": 1000}))


@pytest.mark.parametrize("damage", [flip_a_bit, miscount_rows])
def test_a_damaged_cell_is_computed_anew(reranker, pool, store, caplog, damage):
    first = score_pool(reranker, pool, CONDITIONS[:2], store)
    before = snapshot(store.root)
    damage(store.root / "cells" / "scores" / f"{store.keys('scores')[0].digest}.parquet")
    again = score_pool(reranker, pool, CONDITIONS[:2], store)
    np.testing.assert_array_equal(again.values, first.values)
    assert snapshot(store.root) == before
    assert "damaged" in caplog.text


def test_cells_of_an_earlier_version_are_left_alone_and_that_is_said(reranker, pool, store, caplog):
    fields = {"revision": reranker.cfg.revision, "tokenizer": "abc", "dtype": "float64", "device": "cpu"}
    fields |= {"pool": pool.digest, "condition": "none", "shard": 0, "shard_size": 256, "token_budget": 2048}
    old = CellKey.of("scores", **fields)
    store.write(old, pa.table({"score": np.zeros(len(pool))}))
    caplog.set_level("INFO")
    found = score_pool(reranker, pool, [UNABLATED], store)
    np.testing.assert_allclose(found.values, plain(reranker, pool, [UNABLATED]), rtol=0, atol=1e-11)
    assert "scores: computing anew; what is stored is of an earlier version" in caplog.text
    assert len(store.read(old)) == len(pool)


def test_a_message_does_not_cost_a_look_at_every_cell(reranker, pool, store, caplog, monkeypatch):
    """A folder of many cells of another model: some of them are read for what is said, however many there are."""
    first = score_pool(reranker, pool, CONDITIONS, store)
    assert len(store.keys("scores")) > 3
    monkeypatch.setattr(executor, "LOOKED_AT", 3)
    asked = []
    real = Store.keys
    monkeypatch.setattr(Store, "keys", lambda *args: asked.append(real(*args)) or asked[-1])
    score_pool(reranker, pool, [Condition.ablate("QUERY->QUERY")], store)
    assert [len(keys) for keys in asked] == [3]
    again = score_pool(reranker, pool, CONDITIONS, store)
    np.testing.assert_array_equal(again.values, first.values)


@pytest.mark.parametrize(
    ("n_pairs", "size"), [(1, 32), (32, 32), (192, 32), (193, 33), (383, 64), (1369, 229), (1536, 256), (10**6, 256)]
)
def test_a_cell_is_a_sixth_of_the_pool_within_bounds(n_pairs, size):
    assert scoring.shard_size(n_pairs) == size


def test_shards_are_every_pair_once_by_length_and_of_the_pool_alone(pool):
    shards = scoring.shards_by_length(pool)
    assert [len(shard) for shard in shards] == [32] * (len(pool) // 32) + [len(pool) % 32]
    assert sorted(index for shard in shards for index in shard) == list(range(len(pool)))
    lengths = [[len(pool.pairs[i].query) + len(pool.pairs[i].text) for i in shard] for shard in shards]
    assert all(min(longer) >= max(shorter) for longer, shorter in itertools.pairwise(lengths))
    assert all(list(shard) == sorted(shard) for shard in shards)


def test_a_small_job_cut_short_keeps_what_it_did_and_ends_with_the_same_bytes(reranker, pool, store, tmp_path):
    whole = score_pool(reranker, pool, CONDITIONS, Store(tmp_path / "whole"))

    def stop(done, total):
        if done > total * 0.8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_pool(reranker, pool, CONDITIONS, store, token_budget=None, progress=stop)
    kept = len(store.keys("scores"))
    assert kept == len(CONDITIONS) * (len(pool) // 32) > 0
    again = score_pool(reranker, pool, CONDITIONS, store)
    assert again.layers_run == whole.layers_run * (len(pool) % 32) // len(pool)
    np.testing.assert_array_equal(again.values, whole.values)
    assert snapshot(store.root) == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("budget", [50, 51])
def test_the_token_budget_is_part_of_the_key(reranker, pool, store, budget):
    score_pool(reranker, pool, [UNABLATED], store, token_budget=49)
    assert score_pool(reranker, pool, [UNABLATED], store, token_budget=budget).layers_run == 2 * len(pool)
    assert {key.fields["token_budget"] for key in store.keys("scores")} == {49, budget}


def test_cells_hold_what_they_are_about(reranker, pool, store, monkeypatch):
    cut_into(monkeypatch, len(pool))
    score_pool(reranker, pool, [UNABLATED], store)
    (key,) = store.keys("scores")
    table = store.read(key)
    assert table.column_names == ["query_id", "doc_id", "grade", "score"]
    for i, pair in enumerate(pool.pairs):
        assert (pair.query_id, pair.doc_id, pair.grade) == tuple(
            table[name][i].as_py() for name in table.column_names[:3]
        )
    assert key.fields["condition"] == "none"
    assert key.fields["weights"] == weights_digest(reranker)
    assert key.fields["pool"] == pool.digest
    assert key.fields["dtype"] == "float64"


def test_progress_ends_at_the_total_also_under_an_active_ablation(reranker, pool, store):
    for active in (UNABLATED, Condition.ablate("CLS->ALL", layers=[0])):
        steps = []
        with reranker.ablating(active):
            found = score_pool(
                reranker, pool, CONDITIONS, store, token_budget=50, progress=lambda *s, into=steps: into.append(s)
            )
        assert len(steps) > 1
        assert {total for _, total in steps} == {found.layers_run}
        assert steps[-1][0] == found.layers_run
        assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_what_is_being_ablated_is_part_of_the_key(reranker, pool, store):
    active = Condition.ablate("CLS->DOC", layers=[1])
    with reranker.ablating(active):
        found = score_pool(reranker, pool, [UNABLATED], store)
    plainly = score_pool(reranker, pool, [UNABLATED, active], store)
    np.testing.assert_array_equal(found.values[0], plainly.values[1])
    assert np.abs(plainly.values[0] - plainly.values[1]).max() > 1e-3
    assert plainly.layers_alone == 2 * len(pool)  # the ablated one was there already


def test_another_dtype_model_tokenizer_or_pool_is_another_cell(reranker, pool, store, tmp_path, monkeypatch):
    cut_into(monkeypatch, len(pool))
    folder = tmp_path / "model"
    score_pool(reranker, pool, [UNABLATED], store)
    n = len(store.keys("scores"))
    others = {
        "dtype": (tiny_model(folder, "float32"), pool),
        "weights": (tiny_model(tmp_path / "other", seed=1), pool),
        "tokenizer": (
            HookedCrossEncoder.from_pretrained(
                str(folder), dtype="float64", tokenizer=bert_tokenizer(do_lower_case=False)
            ),
            pool,
        ),
        "length": (
            HookedCrossEncoder.from_pretrained(
                str(folder), dtype="float64", tokenizer=bert_tokenizer(model_max_length=23)
            ),
            pool,
        ),
        "pool": (reranker, pool.ranked),
    }
    for i, (what, (model, its_pool)) in enumerate(others.items(), start=1):
        assert score_pool(model, its_pool, [UNABLATED], store).layers_run > 0, what
        assert len(store.keys("scores")) == n + i, what


def test_a_tokenizer_that_was_used_is_the_same_tokenizer(reranker, pool, store):
    keys = []
    for _ in range(2):  # the first use sets its truncation
        keys.append(model_identity(reranker))
        reranker.score("how do fleas rise", ["the egg"])
    assert keys[0] == keys[1]


def test_nan_scores_are_an_error_and_nothing_of_them_is_stored(pool, store, tmp_path, monkeypatch):
    cut_into(monkeypatch, 7)
    model = tiny_model(tmp_path / "model")
    score_pool(model, pool, [UNABLATED], store)
    before = snapshot(store.root)
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"expected finite scores, but 21 of 21 are NaN .*first under none\)"):
        score_pool(model, pool, CONDITIONS[:3], store)  # what was stored is of other weights
    assert snapshot(store.root) == before


def test_a_model_with_hooks_is_refused(reranker, pool, store):
    reranker.add_hook("blocks.1.hook_resid_pre", lambda value, hook: value * 0)
    try:
        with pytest.raises(ValueError, match=r"without hooks.*blocks\.1\.hook_resid_pre"):
            score_pool(reranker, pool, [UNABLATED], store)
    finally:
        reranker.reset_hooks()
    assert store.keys("scores") == []


def test_no_conditions_are_an_error(reranker, pool, store):
    with pytest.raises(ValueError, match="at least one condition"):
        score_pool(reranker, pool, [], store)


def test_a_layer_that_is_not_there_is_an_error_before_any_work(reranker, pool, store, monkeypatch):
    forbid_model_work(monkeypatch)
    with pytest.raises(ValueError, match=r"expected layers 0\.\.1 .* got layer 2"):
        score_pool(reranker, pool, [UNABLATED, Condition.ablate("DOC->QUERY", layers=[2])], store)
    assert store.keys("scores") == []


def test_repeated_conditions_are_scored_once_and_given_twice(reranker, pool, store):
    found = score_pool(reranker, pool, [UNABLATED, UNABLATED], store)
    assert found.values.shape == (2, len(pool))
    np.testing.assert_array_equal(found.values[0], found.values[1])
    assert found.layers_run == 2 * len(pool)
