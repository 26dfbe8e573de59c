"""An adapter's updates by layer and projection, against adapters saved with those factors alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints.test_adapters import MODULES, save_adapter, save_base
from checkpoints.test_adapters_families import adapted
from helpers import WORDS, one_sentence
from scipy import stats
from small_worlds import forbid_model_work, pool_of_words, tiny_model
from tiny_models import N_LAYERS

from tl_crossenc.experiments.adapter_updates import ALL, NONE, run_adapter_updates
from tl_crossenc.model.adapter_updates import PROJECTIONS, AdapterUpdates, Updated
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.identity import weights_digest
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.statistics.dcg import ndcg
from tl_crossenc.store.cells import Store

MODULE_OF = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "mlp_in": "intermediate.dense",
    "mlp_out": "output.dense",
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def module_of(place):
    if place.layer < 0:
        return "bert.pooler.dense"
    return f"bert.encoder.layer.{place.layer}.{MODULE_OF[place.projection]}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = save_base(tmp_path_factory.mktemp("adapted") / "base")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    return folder


@pytest.fixture(scope="module")
def model(base):
    return opened(save_adapter(base.parent / "adapter", base))


def opened(folder):
    return HookedCrossEncoder.from_pretrained(str(folder), device="cpu", dtype="float64")


def with_only(base, places):
    """The adapter saved without all other factors, opened."""
    kept = {module_of(place) for place in places}
    dropped = [
        f"base_model.model.{module}.lora_{side}.weight" for module in MODULES if module not in kept for side in "AB"
    ]
    folder = base.parent / f"only{abs(hash(frozenset(kept)))}"
    return opened(folder if folder.exists() else save_adapter(folder, base, drop=dropped))


@pytest.fixture(scope="module")
def updates(model):
    return AdapterUpdates(model)


def test_every_matrix_of_the_adapter_is_an_update(updates):
    assert {module_of(place) for place in updates.sizes} == set(MODULES)
    assert len(updates.sizes) == len(MODULES)


@pytest.mark.parametrize(
    "places",
    [
        [],
        [Updated(1, "value")],
        [Updated(layer, name) for layer in range(N_LAYERS) for name in ("query", "mlp_out")],
        [Updated(2, name) for name in MODULE_OF],
        [Updated(-1, "pooler")],
    ],
    ids=["none", "one", "two projections", "a layer", "the pooler"],
)
def test_a_part_is_the_adapter_saved_with_that_part_alone(base, model, updates, places):
    before = weights_digest(model)
    expected = dict(with_only(base, places).named_parameters())
    with updates.only(places) as partly:
        for name, weight in partly.named_parameters():
            assert torch.equal(weight, expected[name]), name
    assert weights_digest(model) == before


def test_the_weights_come_back_after_an_error(model, updates):
    before, inside = weights_digest(model), []

    def broken():
        with updates.only([]):
            inside.append(weights_digest(model))
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert inside != [before]
    assert weights_digest(model) == before


def test_sizes_are_shares_of_the_bases_matrices(base, model, updates):
    plain = dict(with_only(base, []).named_parameters())["stack.out_weight"][2]
    plain, full = plain.detach(), model.stack.out_weight[2].detach()
    added = full - plain
    assert updates.sizes[Updated(2, "output")] == pytest.approx(
        float((added**2).sum().sqrt() / (plain**2).sum().sqrt())
    )


@pytest.fixture(scope="module")
def pool():
    queries = {"q1": "how do flea", "q2": "lay egg", "q3": "the bread rise"}
    grades = {"q1": [3, 0, 1, 0, 2], "q2": [0, 2, 0], "q3": [1, 0, 0, 3]}
    return pool_of_words("words", queries, grades, WORDS[:9])


@pytest.fixture(scope="module")
def other():
    """With an easy negative, which is not ranked."""
    return pool_of_words("other", {"q1": "egg rise", "q5": "flea"}, {"q1": [2, 0, -1], "q5": [0, 1, 3]}, WORDS[3:])


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def found(model, pool, other, told, tmp_path_factory):
    store, how = Store(tmp_path_factory.mktemp("store")), {"cutoff": 3, "gain": "exponential"}
    return run_adapter_updates(model, [pool, other], store, **how, progress=lambda *done: told.append(done))


def test_rankings_are_those_of_adapters_saved_in_part(found, base, pool, other):
    every = [Updated(layer, name) for layer in range(N_LAYERS) for name in MODULE_OF] + [Updated(-1, "pooler")]
    chosen = {
        NONE: [],
        ALL: every,
        "only layer 1": [place for place in every if place.layer == 1],
        "without layer 1": [place for place in every if place.layer != 1],
        "up to layer 1": [place for place in every if 0 <= place.layer <= 1],
        "from layer 1": [place for place in every if place.layer >= 1],
        "only projection key": [place for place in every if place.projection == "key"],
        "without projection key": [place for place in every if place.projection != "key"],
        "only projection pooler": [Updated(-1, "pooler")],
    }
    for label, places in chosen.items():
        reference = with_only(base, places)
        for some, query, rows in [(one, *item) for one in (pool, other) for item in one.ranked.by_query().items()]:
            pairs = [some.ranked.pairs[row] for row in rows]
            scores = reference.score([p.query for p in pairs], [p.text for p in pairs]).double().numpy()
            expected = ndcg(scores, [p.grade for p in pairs], 3, "exponential", tolerance=1e-12)
            assert found.per_query.loc[(some.collection, query), label] == pytest.approx(expected, abs=1e-12), label
        assert found.rankings.set_index("ranking").loc[label, "n_updates"] == len(places)


def test_each_layer_and_projection_is_there(found):
    kinds = found.rankings.groupby("kind").size()
    assert kinds["only layer"] == kinds["without layer"] == kinds["up to layer"] == kinds["from layer"] == N_LAYERS
    assert kinds["only projection"] == kinds["without projection"] == len(MODULE_OF) + 1
    assert set(found.rankings["projection"].dropna()) == {*PROJECTIONS, "pooler"} - {"mlp_gate"}
    assert found.rankings.set_index("ranking").loc["from layer 2", "layer"] == 2


def test_differences_are_from_the_whole_model_over_queries(found):
    difference = found.per_query["only layer 0"] - found.per_query[ALL]
    row = found.rankings.set_index("ranking").loc["only layer 0"]
    assert row["difference"] == pytest.approx(float(np.mean(difference)))
    assert row["n_queries"] == 5
    values = found.per_query["only layer 0"]
    half = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) / np.sqrt(5)
    assert (row["low"], row["high"]) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    half = stats.t.ppf(0.975, 4) * np.std(difference, ddof=1) / np.sqrt(5)
    assert (row["diff_low"], row["diff_high"]) == pytest.approx((difference.mean() - half, difference.mean() + half))


def test_all_rankings_are_corrected_for_together(found):
    rows = found.rankings.set_index("ranking").drop(ALL)
    changes = {label: found.per_query[label] - found.per_query[ALL] for label in rows.index}
    ps = [stats.ttest_1samp(change, 0).pvalue if change.abs().max() > 1e-12 else 1.0 for change in changes.values()]
    np.testing.assert_allclose(rows["p_holm"], multipletests_holm(ps), rtol=1e-9)


def multipletests_holm(ps):
    """Of m p-values the i-th smallest times m - i, at least what the one before it has, at most 1."""
    found, most = dict.fromkeys(range(len(ps))), 0.0
    for place, i in enumerate(sorted(found, key=lambda i: ps[i])):
        most = max(most, min(1.0, ps[i] * (len(ps) - place)))
        found[i] = most
    return list(found.values())


def test_a_random_ranking_s_ndcg_is_told_and_the_work_to_its_end(found, pool, other, told):
    values = []
    for some in (pool, other):
        for rows in some.ranked.by_query().values():
            gains = sorted((2 ** some.ranked.pairs[row].grade - 1 for row in rows), reverse=True)
            discounts = [1 / np.log2(rank + 1) for rank in (1, 2, 3)][: len(gains)]
            best = sum(gain * discount for gain, discount in zip(gains, discounts, strict=False))
            values.append(np.mean(gains) * sum(discounts) / best)
    assert found.random == found.scalars["random"] == pytest.approx(np.mean(values), abs=1e-12)
    done, total = told[-1]
    assert done == total == N_LAYERS * (12 + 5) * len(found.rankings)
    assert [step for step, _ in told] == sorted({step for step, _ in told})
    assert len(told) == 2 * len(found.rankings)


def test_pools_that_cannot_be_ranked_together_are_refused(model, pool, tmp_path):
    bare = pool_of_words("bare", {"q1": "egg"}, {"q1": [-1, -1]}, WORDS)
    judged = replace(pool, collection="run", ideal="qrels", qrels={})
    for pools, said in (
        ([], "expected pools with passages to rank"),
        ([pool, bare], r"expected pools with passages to rank, got \['words', 'bare'\]"),
        ([pool, pool], "words"),
        ([pool, judged], "expected pools of one kind"),
    ):
        with pytest.raises(ValueError, match=said):
            run_adapter_updates(model, pools, Store(tmp_path))


@pytest.mark.parametrize(("module", "projection"), [("gate_proj", "mlp_gate"), ("up_proj", "mlp_in")])
def test_projections_of_a_gated_family_have_their_own_names(module, projection, tmp_path):
    _, _, folder = adapted("gte-split", tmp_path, targets=[module])
    found = AdapterUpdates(HookedCrossEncoder.from_pretrained(str(folder), device="cpu")).sizes
    assert {place.projection for place in found} == {projection}


@pytest.mark.usefixtures("unchecked")
def test_a_second_run_computes_nothing(model, pool, tmp_path, monkeypatch):
    store = Store(tmp_path)
    first = run_adapter_updates(model, [pool], store)
    forbid_model_work(monkeypatch)
    again = run_adapter_updates(model, [pool], store)
    assert first.layers_run > 0 == again.layers_run
    assert first.rankings.equals(again.rankings)


def test_a_whole_checkpoint_has_no_updates(tmp_path, pool):
    with pytest.raises(Unavailable) as caught:
        run_adapter_updates(tiny_model(tmp_path / "whole"), [pool], Store(tmp_path / "store"))
    assert "expected a model opened from a LoRA adapter" in str(caught.value)
    assert one_sentence(caught.value)


def test_an_edited_model_is_refused(base, pool, tmp_path):
    model = opened(base.parent / "adapter")
    model.W_Q[0, 0, 0, 0] += 1
    with pytest.raises(Unavailable, match="some were edited"):
        run_adapter_updates(model, [pool], Store(tmp_path))


def test_a_matrix_without_an_update_is_named(updates):
    with pytest.raises(ValueError, match="got mlp_gate of layer 1"), updates.only([Updated(1, "mlp_gate")]):
        pass
