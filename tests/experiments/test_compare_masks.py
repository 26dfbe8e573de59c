"""Masks compared: on the planted model, where the right answers are known, and row by row against scores taken alone."""

import csv

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from helpers import one_sentence
from planted_texts import graded_pool
from small_worlds import collection_folder, forbid_model_work, model_folder, tiny_model

from tl_crossenc.cli import main
from tl_crossenc.experiments.compare_masks import mask_conditions, published_number, run_compare_masks
from tl_crossenc.interventions.presets import COMPARED, PRESETS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.collections import load_collection
from tl_crossenc.pools.pool import PoolSpec, build_pool
from tl_crossenc.store.cells import Store


@pytest.fixture(scope="module")
def planted_pool():
    return graded_pool(n_queries=5, per_grade=2, seed=3)


@pytest.fixture(scope="module")
def planted(planted_pool, tmp_path_factory):
    """Every preset, and Zhan et al.'s up to before and up to after the matching head's layer (1), on the planted model."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    presets = [*COMPARED, "zhan-q2d:1", "zhan-q2d:2", "zhan-both:1", "zhan-both:3", "paper-cls-doc:3"]
    return run_compare_masks(
        model, [planted_pool], Store(tmp_path_factory.mktemp("planted")), presets=presets, cutoff=5
    )


SPARED = {  # what neither removes DOC->QUERY in layer 1 nor CLS->DOC in layer 3
    *("paper-query-query", "paper-query-doc", "paper-doc-doc", "paper-cls-query", "zhan-d2q", "mice-mask0"),
    *("zhan-q2d:1", "zhan-both:1", "paper-cls-doc:3"),
}


def test_zeros_that_spare_the_planted_heads_cost_nothing_and_the_others_all(planted):
    """The planted score needs DOC->QUERY in layer 1 and CLS->DOC in layer 3, and nothing else."""
    rows = planted.table[planted.table["mode"] == "zero"].set_index("preset")
    assert planted.unablated[0] == 1
    for name, row in rows.iterrows():
        if name in SPARED:
            assert row["difference"] == 0, name
            assert not row["decrease_holm"]
        else:
            assert row["mean"] == pytest.approx(planted.random, abs=1e-12), name
            assert row["tie_rate"] == 1
            assert row["decrease_holm"]
    assert set(rows.index) - SPARED == {
        *("paper-doc-query", "paper-cls-doc", "zhan-q2d", "zhan-both", "mice-mask1", "mice-mask2"),
        *("zhan-q2d:2", "zhan-both:3"),
    }


def test_before_the_softmax_the_resting_place_matters(planted):
    """Without SEP1 a DOC position that matches nothing must read some word, and so passes for a match: mask0 breaks the model."""
    by = planted.table.set_index(["preset", "mode"])
    assert by.loc[("mice-mask0", "zero"), "mean"] == 1
    assert by.loc[("mice-mask0", "mask"), "mean"] < 0.95
    assert by.loc[("zhan-d2q", "mask"), "mean"] == 1


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    base = tmp_path_factory.mktemp("collections")
    first = collection_folder(base / "first", n_queries=4, per_grade=(2, 2, 1, 1))
    second = collection_folder(base / "second", n_queries=3, per_grade=(1, 1, 2, 1))
    return tuple(build_pool(load_collection(folder), PoolSpec(10, 3, 0)) for folder in (first, second))


@pytest.fixture(scope="module")
def found(reranker, pools, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    return run_compare_masks(
        reranker, pools, store, presets=["@zhan-q2d:1", "mice-mask0", "paper-cls-doc"], token_budget=60
    )


CUT = {  # preset -> the directions it means, one by one
    "zhan-q2d:1": "DOC->CLS DOC->QUERY DOC->SEP1 SEP2->CLS SEP2->QUERY SEP2->SEP1",
    "mice-mask0": "QUERY->CLS SEP1->CLS DOC->CLS SEP2->CLS DOC->SEP1 QUERY->SEP2 SEP1->QUERY SEP1->DOC SEP1->SEP2 SEP2->QUERY "
    "SEP2->SEP1 SEP2->DOC",
    "paper-cls-doc": "CLS->DOC",
}


def ndcg(grades, scores, cutoff=10):
    """Linear gains, no ties."""
    discounts = 1 / np.log2(np.arange(2, cutoff + 2))

    def dcg(ranked):
        return sum(grade * discount for grade, discount in zip(ranked, discounts, strict=False))

    order = np.argsort(-np.asarray(scores), kind="stable")
    return dcg([grades[i] for i in order]) / dcg(sorted(grades, reverse=True))


def test_every_row_is_the_model_with_those_directions_removed(found, reranker, pools):
    assert [*zip(found.table["preset"], found.table["mode"], strict=True)] == [
        (name, mode) for name in CUT for mode in ("zero", "mask")
    ]
    for _, row in found.table.iterrows():
        layers = [0] if row["preset"].endswith(":1") else None
        with reranker.ablating(*CUT[row["preset"]].split(), layers=layers, mode=row["mode"]):
            for pool in pools:
                for query_id, indices in pool.by_query().items():
                    pairs = [pool.pairs[i] for i in indices if pool.pairs[i].grade >= 0]
                    scores = reranker.score(pairs[0].query, [pair.text for pair in pairs]).numpy()
                    assert len(set(np.round(scores, 9))) == len(scores)
                    expected = ndcg([pair.grade for pair in pairs], scores)
                    value = found.per_query.loc[(pool.collection, query_id), row["condition"]]
                    assert value == pytest.approx(expected, abs=1e-12)


def test_differences_are_paired_and_corrected_over_all_rows(found):
    baseline = found.per_query["none"]
    paired = []
    for _, row in found.table.iterrows():
        values = found.per_query[row["condition"]]
        assert row["n_queries"] == 7
        assert row["difference"] == pytest.approx((values - baseline).mean())
        interval = scipy.stats.ttest_1samp(values - baseline, 0).confidence_interval(0.95)
        assert (row["diff_low"], row["diff_high"]) == pytest.approx(tuple(interval))
        paired.append(scipy.stats.ttest_rel(values, baseline).pvalue)
    running = 0.0
    for i, index in enumerate(np.argsort(paired, kind="stable")):
        running = max(running, min(1.0, (6 - i) * paired[index]))
        assert found.table["p_holm"][index] == pytest.approx(running)


def test_published_numbers_stand_beside_the_mode_of_their_paper_only(planted):
    own = planted.table[planted.table["own_mode"]].set_index("preset")
    other = planted.table[~planted.table["own_mode"]]
    assert other[["published", "published_measure", "published_source"]].isna().all(axis=None)
    assert (own["mode"] == ["mask" if name.startswith("mice") else "zero" for name in own.index]).all()
    assert own.loc["mice-mask2", ["published", "published_unablated", "published_measure"]].tolist() == [
        0.615,
        0.755,
        "nDCG@10",
    ]
    assert own.loc["paper-doc-doc", ["published", "published_unablated"]].tolist() == [0.67, 0.81]
    assert own.loc["zhan-d2q", "published"] == 0.293
    assert own.loc["zhan-q2d", "published"] == 0.314
    assert own.loc["zhan-q2d", "published_measure"].startswith("MRR@10")
    assert np.isnan(own.loc["zhan-q2d:2", "published"])  # of four layers here, of twelve there


@pytest.mark.parametrize(
    ("name", "first", "n_layers", "expected"),
    [
        ("zhan-both", None, 12, 0.2),
        ("zhan-both", 12, 12, 0.2),
        ("zhan-both", 11, 12, 0.2),
        ("zhan-both", 6, 12, 0.286),
        ("zhan-both", 5, 12, None),
        ("zhan-both", 6, 24, None),
        ("zhan-both", None, 24, 0.2),
        ("mice-mask1", None, 6, 0.734),
        ("mice-mask1", 4, 12, None),
        ("paper-cls-all", None, 6, 0.48),
        ("paper-cls-all", 2, 6, None),
    ],
)
def test_published_numbers_for_some_of_the_layers(name, first, n_layers, expected):
    assert published_number(PRESETS[name], first, n_layers)["published"] == expected


def test_a_second_run_costs_nothing(reranker, pools, tmp_path, monkeypatch):
    arguments = {"presets": ["zhan-both"], "token_budget": 60}
    first = run_compare_masks(reranker, pools, Store(tmp_path / "s"), **arguments)
    # Two layers; the unablated model and both modes share nothing but the embedding.
    assert first.layers_run == 2 * 3 * sum(pair.grade >= 0 for pool in pools for pair in pool.pairs)
    forbid_model_work(monkeypatch)
    again = run_compare_masks(reranker, pools, Store(tmp_path / "s"), **arguments)
    assert again.layers_run == 0
    pd.testing.assert_frame_equal(first.table, again.table)


@pytest.mark.parametrize(
    ("presets", "modes", "said"),
    [
        ([], ["zero"], "at least one of each, got none"),
        (["zhan-q2d"], [], "at least one of each, got none"),
        (["zhan-q2d", "@Zhan-q2d"], ["zero"], "zhan-q2d more than once"),
        (["zhan-q2d:0"], ["zero"], "at least one layer for @zhan-q2d, got 0"),
        (["zhan-q2d:3"], ["zero"], "0 to 2 layers"),
        (["zhan"], ["zero"], "expected a preset among"),
    ],
)
def test_bad_choices_are_one_sentence(presets, modes, said):
    with pytest.raises(ValueError, match=said) as error:
        mask_conditions(presets, 2, modes)
    assert one_sentence(error.value)


def test_the_command_writes_and_prints_the_table(tmp_path, capsys):
    model, collection = model_folder(tmp_path / "m", seed=5), collection_folder(tmp_path / "c", n_queries=3)
    out = tmp_path / "out"
    arguments = ["compare-masks", "--model", model, "--collection", collection, "--out", out, "--device", "cpu"]
    assert main([str(a) for a in arguments] + ["--preset", "zhan-d2q:1", "--preset", "@mice-mask2"]) == 0
    printed = capsys.readouterr().out
    assert "zhan-d2q:1" in printed
    assert "Unablated" in printed
    with (out / "tables" / "compare_masks.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["preset"], row["mode"]) for row in rows] == [
        *(("zhan-d2q:1", "zero"), ("zhan-d2q:1", "mask")),
        *(("mice-mask2", "zero"), ("mice-mask2", "mask")),
    ]
    assert rows[3]["published"] == "0.615"
    lines = (out / "tables" / "compare_masks.md").read_text().splitlines()
    assert lines[0].startswith("| mask | mode | nDCG@10 | difference |")
    assert lines[2].startswith(f"| zhan-d2q:1 | zero | {float(rows[0]['mean']):.3f}")
    assert "0.615 of 0.755 nDCG@10" in lines[5]
    per_query = pd.read_csv(out / "tables" / "compare_masks_per_query.csv")
    assert len(per_query) == 3
    assert per_query[rows[0]["condition"]].mean() == pytest.approx(float(rows[0]["mean"]))


def test_the_command_refuses_an_unknown_preset_before_it_writes(tmp_path, capsys):
    model, collection = model_folder(tmp_path / "m"), collection_folder(tmp_path / "c", n_queries=2)
    arguments = ["compare-masks", "--model", model, "--collection", collection, "--out", tmp_path / "out"]
    assert main([*map(str, arguments), "--preset", "zhan-q2d:9"]) == 2
    assert "expected 0 to 2 layers for @zhan-q2d" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_score_takes_presets(tmp_path, capsys):
    model = model_folder(tmp_path / "m", seed=5)
    arguments = [
        "score",
        model,
        "--query",
        "how do fleas",
        "--passage",
        "the egg",
        "--device",
        "cpu",
        "--ablate",
        "@paper-cls-doc:1",
    ]
    assert main([str(a) for a in arguments]) == 0
    assert "ablated: zero(CLS->DOC; layers=0)" in capsys.readouterr().out
