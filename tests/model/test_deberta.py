"""DeBERTa: settings of the family against Hugging Face's own class, what is refused, and the table that all layers read."""

import copy
import weakref

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from family_worlds import build, deberta
from helpers import one_sentence

from tl_crossenc import Condition, HookedCrossEncoder
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.attention_flow import QUANTITIES, pair_moments
from tl_crossenc.instruments.token_matches import pair_matches, word_codes
from tl_crossenc.model.parity import check_parity
from tl_crossenc.model.relative_positions import RelativePositions

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


def world_of(**changes):
    """A tiny DeBERTa of two labels with changes to its configuration."""
    return deberta(2, **changes)


def opened(world, folder, dtype="float64"):
    world.write(folder, "safetensors")
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype=dtype)


SETTINGS = {
    "only c2p": {"pos_att_type": ["c2p"]},
    "only p2c": {"pos_att_type": "p2c"},
    "no terms": {"pos_att_type": [], "share_att_key": False},
    "as text": {"pos_att_type": "p2c|c2p"},
    "no buckets": {"position_buckets": -1, "max_relative_positions": 13},
    "no buckets, all positions": {"position_buckets": -1},
    "fewer positions": {"max_relative_positions": 23},
    "no norm": {"norm_rel_ebd": "none"},
    "positions too": {"position_biased_input": True},
    "types too": {"type_vocab_size": 2, "position_biased_input": True},
    "no relative attention": {
        "relative_attention": False,
        "pos_att_type": None,
        "position_biased_input": True,
        "norm_rel_ebd": "none",
    },
    "tanh": {"pooler_hidden_act": "tanh"},
    "relu": {"pooler_hidden_act": "relu", "hidden_act": "gelu_new"},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=list(SETTINGS))
def test_settings_of_the_family_are_hugging_faces(changes, tmp_path):
    world = world_of(**changes)
    model, batch = opened(world, tmp_path), oracle.encode(world, texts.PAIRS)
    expected = oracle.run(world, batch, []).score
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-10)
    expected = oracle.run(world, batch, [oracle.Removal("mask", ("DOC",), ("QUERY",), [1, 2], [0, 2])]).score
    with model.ablating(Condition.parse("mask(DOC->QUERY; layers=1-2; heads=0,2)")):
        torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-10)


def test_the_settings_differ_where_they_should(tmp_path):
    """Else a setting that is not read would pass."""
    scores = {
        name: opened(world_of(**changes), tmp_path / name.replace(" ", "")).score(QUERIES, PASSAGES)
        for name, changes in SETTINGS.items()
        if name != "as text"
    }
    assert len({tuple(score.round(decimals=6).tolist()) for score in scores.values()}) == len(scores)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conv_kernel_size": 3}, "expected conv_kernel_size among 0 "),
        ({"share_att_key": False}, "expected share_att_key among True "),
        ({"share_att_key": None}, "expected share_att_key among True "),
        ({"embedding_size": 11}, "expected embedding_size among 21 "),
        ({"attention_head_size": 11}, "expected attention_head_size among 7 "),
        ({"pooler_hidden_size": 11}, "expected pooler_hidden_size among 21 "),
        ({"pooler_hidden_act": "silu"}, "expected pooler_hidden_act among gelu, gelu_new, relu, tanh "),
        ({"pos_att_type": ["c2p", "p2p"]}, "expected pos_att_type of c2p, p2c "),
        ({"norm_rel_ebd": "batch_norm"}, "expected norm_rel_ebd of none, layer_norm "),
        ({"relative_attention": False}, "expected relative_attention where pos_att_type has p2c, c2p, got none"),
        ({"position_buckets": "many"}, "expected position_buckets as a whole number from -1"),
        ({"position_buckets": 11}, "deberta.encoder.rel_embeddings.weight (20, 21) instead of (22, 21)"),
        ({"position_buckets": 2**30}, "too few"),
        ({"norm_rel_ebd": "none"}, "not known: deberta.encoder.LayerNorm.bias"),
        ({"position_biased_input": True}, "missing: deberta.embeddings.position_embeddings.weight"),
        ({"model_type": "deberta", "architectures": ["DebertaForSequenceClassification"]}, "which is 'deberta'"),
    ],
)
def test_what_is_not_computed_is_refused(changes, said, tmp_path):
    world = build("deberta-v2")
    world.config.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del world.config[key]
    with pytest.raises(ValueError, match=r"expected|too few") as error:
        opened(world, tmp_path)
    assert said in str(error.value)
    assert one_sentence(error.value)


def test_a_table_of_positions_that_the_configuration_does_not_read_is_left(tmp_path):
    world = build("deberta-v2")
    plain = opened(copy.copy(world), tmp_path / "plain").score(QUERIES, PASSAGES)
    world.state["deberta.embeddings.position_embeddings.weight"] = torch.randn(67, 21).half()
    model = opened(world, tmp_path / "more")
    assert torch.equal(model.score(QUERIES, PASSAGES), plain)
    assert "embed.hook_pos_embed" not in model.hook_dict
    with pytest.raises(ValueError, match="got one without") as error:
        _ = model.W_pos
    assert one_sentence(error.value)


def test_the_table_is_the_checkpoints_in_full_precision(tmp_path):
    world = build("deberta-v2")
    model = opened(world, tmp_path, "float32")
    table = model.stack.relative.table
    assert table.dtype == torch.float32
    assert torch.equal(table, world.state["deberta.encoder.rel_embeddings.weight"].float())
    before = model.score(QUERIES, PASSAGES)
    with torch.no_grad():
        table[10, 3] += 1  # of distance 0, which every pair has
    assert (model.score(QUERIES, PASSAGES) - before).abs().min() > 1e-4


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.1), ("float32", 1e-5), ("float64", 1e-10)])
def test_attention_by_part_and_matches_are_computed_in_any_dtype(dtype, bound, tmp_path):
    """In bfloat16 from queries and keys in float32, with the terms of position that they have."""
    world = build("deberta-v2")
    model = opened(world, tmp_path, dtype)
    pairs = model.to_pairs(QUERIES, PASSAGES)
    trace = oracle.run(world, oracle.encode(world, texts.PAIRS))
    found = pair_moments(model, pairs).mean[:, 0, :, QUANTITIES.index("mass"), 0, 0]  # what CLS gives to itself
    expected = trace.patterns[0][:, :, 0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)
    with torch.no_grad():
        matches = pair_matches(model, pairs, word_codes(pairs.tokens, pairs.parts.codes, Pieces(model.tokenizer)))
    assert np.isfinite(matches.mass).all()


@pytest.mark.parametrize("condition", ["none", "zero(DOC->QUERY)", "mask(DOC->ALL; layers=1)"])
def test_what_distances_add_is_freed_before_the_layer_goes_on(condition, tmp_path, monkeypatch):
    """It is as large as a pattern, a head and cell."""
    model = opened(build("deberta-v2"), tmp_path)
    made, alive = [], []
    relative = RelativePositions.relative

    def noted(*given, **settings):
        found = relative(*given, **settings)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(RelativePositions, "relative", noted)
    for layer in range(model.cfg.n_layers):
        mlp = model.blocks[layer].mlp
        mlp.register_forward_pre_hook(lambda *_: alive.append(sum(one() is not None for one in made)))
    with torch.no_grad(), model.ablating(Condition.parse(condition)):
        model(model.to_pairs(QUERIES, PASSAGES))
        model.run_with_cache(model.to_pairs(QUERIES, PASSAGES))
    assert len(made) == 2 * model.cfg.n_layers
    assert alive == [0] * len(made)


def test_parity_of_a_wrapped_checkpoint_with_a_table_of_positions(tmp_path):
    """Where transformers does not read the keys, the reference is filled with them, and the table of positions among them."""
    world = world_of(position_biased_input=True)
    for key in list(world.state):
        world.state[f"module.{key}"] = world.state.pop(key)
    found = check_parity(world.write(tmp_path, "safetensors"), device="cpu", dtype="float64")
    assert found.passed, found.differences
