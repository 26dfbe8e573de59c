"""nDCG under replacement: scores recomputed one pair at a time, the store, and the planted heads."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from planted_texts import graded_pool
from small_worlds import collection_folder, count_layers, forbid_model_work, identities, model_folder, tiny_model
from type_checks import unchecked

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD, SINK_HEAD
from tl_crossenc.experiments.replacement import run_replacement
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.replacement import replacing
from tl_crossenc.patching.replacement_values import ReplacementMeans, ReplacementSamples
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.statistics.dcg import ndcg
from tl_crossenc.store.cells import Store

SETS = ("1.2", "0.0+mlp.1", "QUERY<->DOC@0.1")


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    base = tmp_path_factory.mktemp("collections")
    first = collection_folder(base / "first", n_queries=3, per_grade=(2, 2, 1, 1))
    second = collection_folder(base / "second", n_queries=2, per_grade=(1, 1, 2, 1), prefix="s")
    return tuple(build_pool(load_collection(folder), PoolSpec(10, 3, 0)) for folder in (first, second))


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def found(reranker, pools, store_folder):
    return run_replacement(reranker, pools, Store(store_folder), SETS, seed=3, max_donors=5, cutoff=5, token_budget=60)


def test_scores_are_the_models_under_the_pools_own_values(found, reranker, pools):
    by_pair = found.scores.set_index(["collection", "query_id", "doc_id"])
    for pool in pools:
        ranked = pool.ranked.pairs
        queries, texts = [p.query for p in ranked], [p.text for p in ranked]
        encoded = reranker.encode_pairs(queries, texts)
        for chosen in SETS:
            values = {
                "mean": ReplacementMeans.fit(reranker, encoded, chosen),
                "resample": ReplacementSamples.fit(reranker, encoded, chosen, seed=3, max_donors=5),
            }
            for kind in ("zero", "mean", "resample"):
                with replacing(reranker, chosen, *[values[kind]] if kind in values else []), unchecked():
                    expected = reranker.score(queries, texts).numpy()
                label = f"{kind}({chosen.replace('QUERY<->DOC@0.1', 'QUERY->DOC@0.1+DOC->QUERY@0.1')})"
                stored = [by_pair.loc[(pool.collection, p.query_id, p.doc_id), label] for p in ranked]
                np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-11)


def test_ndcg_and_comparison_are_those_of_the_scores(found):
    for (collection, query_id), group in found.scores.groupby(["collection", "query_id"]):
        for label in found.per_query.columns:
            value = ndcg(group[label], group["grade"], 5, "linear", 1e-12)
            assert found.per_query.loc[(collection, query_id), label] == pytest.approx(value, abs=1e-12)
    assert len(found.comparison) == 9
    assert found.comparison["values"].tolist() == ["zero", "mean", "resample"] * 3
    for label, row in found.comparison.iterrows():
        difference = (found.per_query[label] - found.per_query["none"]).mean()
        assert row["difference"] == pytest.approx(difference, abs=1e-12)
        assert label == f"{row['values']}({row['targets']})"
    assert found.unchanged[0] == pytest.approx(found.per_query["none"].mean())
    assert (found.seed, found.max_donors) == (3, 5)


def test_a_second_run_does_no_model_work(found, reranker, pools, store_folder, monkeypatch):
    before = identities(store_folder)
    forbid_model_work(monkeypatch)
    again = run_replacement(reranker, pools, Store(store_folder), SETS, seed=3, max_donors=5, cutoff=5, token_budget=60)
    assert again.layers_run == 0 < found.layers_run
    assert again.per_query.equals(found.per_query)
    assert again.comparison.equals(found.comparison)
    assert identities(store_folder) == before


def test_progress_counts_the_layers_run(reranker, pools, tmp_path, monkeypatch):
    calls, seen = count_layers(monkeypatch), []
    found = run_replacement(
        reranker,
        pools,
        Store(tmp_path),
        ["1.2", "mlp.0"],
        max_donors=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    ran = sum(pairs for _, pairs in calls)
    base = 2 * sum(len(pool.ranked) for pool in pools)
    assert found.layers_run == ran
    assert seen[-1] == (ran - base, ran - base)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    more = run_replacement(reranker, pools, Store(tmp_path), ["1.2", "mlp.0", "attn.1"], kinds=["zero"], max_donors=2)
    assert more.layers_run == base


def test_another_seed_is_another_cell_for_resampling_alone(found, reranker, pools, store_folder):
    other = run_replacement(reranker, pools, Store(store_folder), SETS, seed=4, max_donors=5, cutoff=5, token_budget=60)
    for label in found.per_query.columns.drop("none"):
        same = np.array_equal(found.scores[label], other.scores[label])
        assert same is not label.startswith("resample")


def test_planted_heads_are_told_apart_by_what_they_carry(tmp_path):
    """The moving head carries the share; the sink and an empty head carry nothing, under all three."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pool = graded_pool(n_queries=5, per_grade=2, seed=1)
    names = {head: f"{head[0]}.{head[1]}" for head in (MATCHING_HEAD, MOVING_HEAD, SINK_HEAD, (2, 2))}
    sets = [*names.values(), f"DOC->QUERY@{names[MATCHING_HEAD]}", f"QUERY->DOC@{names[MATCHING_HEAD]}", "mlp.1"]
    found = run_replacement(model, [pool], Store(tmp_path), sets)
    change = found.comparison.set_index(["targets", "values"])["difference"]
    assert found.unchanged[0] == pytest.approx(1.0)
    for harmless in (names[SINK_HEAD], names[(2, 2)], f"QUERY->DOC@{names[MATCHING_HEAD]}", "mlp.1"):
        assert (change[harmless].abs() < 1e-9).all()
    for carries in (names[MOVING_HEAD], names[MATCHING_HEAD], f"DOC->QUERY@{names[MATCHING_HEAD]}"):
        assert (change[carries] < -0.05).all()
    ties = found.comparison.set_index(["targets", "values"])["tie_rate"]
    assert ties[names[MOVING_HEAD], "zero"] == ties[names[MOVING_HEAD], "mean"] == 1.0
    assert ties[names[MOVING_HEAD], "resample"] < 1.0


@pytest.mark.parametrize(
    ("targets", "kinds", "message"),
    [
        ([], ("zero",), "expected at least one set of targets"),
        (["1.2"], (), "expected at least one set of targets"),
        (["1.2"], ("median",), "kinds among zero, mean, resample"),
        (["7.2"], ("zero",), "expected a target in a model of 2 layers x 3 heads, got 7.2"),
        (["1.2+attn.1"], ("zero",), "would be replaced twice"),
        ([[]], ("zero",), "expected at least one target"),
    ],
)
def test_bad_input_is_one_sentence(reranker, pools, tmp_path, targets, kinds, message):
    with pytest.raises(ValueError, match=message):
        run_replacement(reranker, pools, Store(tmp_path), targets, kinds=kinds)


def test_no_pools_and_pools_of_one_name(reranker, pools, tmp_path):
    for wrong in ([], [pools[0], pools[0]]):
        with pytest.raises(ValueError, match="expected pools of different names"):
            run_replacement(reranker, wrong, Store(tmp_path), ["1.2"])


def test_the_script_writes_what_it_says(tmp_path, monkeypatch, capsys):
    model_folder(tmp_path / "m")
    collection_folder(tmp_path / "c", n_queries=2)
    script = Path(__file__).parents[2] / "analyses" / "replacement.py"
    places = ["--model", tmp_path / "m", "--collection", tmp_path / "c", "--out", tmp_path / "out", "--device", "cpu"]

    def run(*targets):
        monkeypatch.setattr(sys, "argv", [str(script), *targets, *map(str, places)])
        monkeypatch.syspath_prepend(str(script.parent))
        runpy.run_path(str(script), run_name="__main__")

    run("1.2", "mlp.0")
    assert "unchanged nDCG@10" in capsys.readouterr().out
    assert len((tmp_path / "out" / "tables" / "replacement.csv").read_text().splitlines()) == 7
    assert (tmp_path / "out" / "tables" / "replacement_per_query.parquet").is_file()
    with pytest.raises(SystemExit, match=r"error: expected a target in a model of 2 layers x 3 heads, got 9\.2"):
        run("9.2")
