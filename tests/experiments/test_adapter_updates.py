"""An adapter's updates by layer and projection, against adapters saved with those factors alone."""

import numpy as np
import pytest
import torch
from checkpoints.test_adapters import MODULES, save_adapter, save_base
from helpers import WORDS, one_sentence
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
def found(model, pool, tmp_path_factory):
    return run_adapter_updates(model, [pool], Store(tmp_path_factory.mktemp("store")), cutoff=3)


def test_rankings_are_those_of_adapters_saved_in_part(found, base, pool):
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
        for query, rows in pool.by_query().items():
            pairs = [pool.pairs[row] for row in rows]
            scores = reference.score([p.query for p in pairs], [p.text for p in pairs]).double().numpy()
            expected = ndcg(scores, [p.grade for p in pairs], cutoff=3, tolerance=1e-12)
            assert found.per_query.loc[("words", query), label] == pytest.approx(expected, abs=1e-12), label
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
    assert row["n_queries"] == 3


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
