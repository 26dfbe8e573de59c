"""Integrated gradients against Hugging Face and Simpson's rule, against captum, and by what must hold of any of them."""

import logging

import numpy as np
import pytest
import tiny_models as tiny
import torch
from captum.attr import LayerIntegratedGradients
from family_models import opened
from scipy.integrate import simpson

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD
from tl_crossenc.instruments.attributed_difference import relative, tell_errors
from tl_crossenc.instruments.baselines import Baseline
from tl_crossenc.instruments.gradient_paths import path_integral
from tl_crossenc.instruments.integrated_gradients import integrated_gradients
from tl_crossenc.instruments.word_sums import word_sums
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.resumed_run import finish
from tl_crossenc.patching.attribution import attribution_patch

FAMILIES = ("xlm-roberta", "electra-projected", "modernbert-mean", "gte", "deberta-v2")
PAIRS = tiny.encoded(tiny.tiny_rows())
PAD = PAIRS.pad_token_id


@pytest.fixture(scope="module")
def hf():
    return tiny.tiny_hf(n_labels=2, seed=3).double()


@pytest.fixture(scope="module")
def model(hf):
    return tiny.port(hf)


@pytest.fixture(scope="module")
def by_query(model):
    return integrated_gradients(model, PAIRS, "query", nodes=256)


def emptied(row, part):
    tokens, types, parts = row
    return [PAD if own == part else token for token, own in zip(tokens, parts, strict=True)], types, parts


def by_simpson(hf, row, base, layer, points=401):
    """One pair alone through Hugging Face's own layers, the integral by Simpson's rule: `[pos]` and s - s'."""

    def states(tokens, types):
        given = {"input_ids": torch.tensor([tokens]), "token_type_ids": torch.tensor([types])}
        return hf(**given, output_hidden_states=True).hidden_states[layer].detach()

    def score(resid):
        for block in hf.bert.encoder.layer[layer:]:
            found = block(resid)
            resid = found[0] if isinstance(found, tuple) else found
        logits = hf.classifier(hf.bert.pooler(resid))
        return logits[:, 1] - logits[:, 0]

    x, start = states(*row[:2]), states(*base[:2])
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    path = (start + t[:, None, None] * (x - start)).requires_grad_()
    (gradient,) = torch.autograd.grad(score(path).sum(), path)
    mean = simpson(gradient.numpy(), x=t.numpy(), axis=0)
    return (mean * (x - start)[0].numpy()).sum(-1), float((score(x) - score(start)).detach())


@pytest.mark.parametrize(("side", "part"), [("query", 1), ("passage", 3)])
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_values_are_those_of_a_slow_integral_through_hugging_face(model, hf, side, part, layer):
    found = integrated_gradients(model, PAIRS, side, layers=layer, nodes=96, token_budget=50)
    for i, row in enumerate(tiny.tiny_rows()):
        expected, difference = by_simpson(hf, row, emptied(row, part), layer)
        np.testing.assert_allclose(found.of(i)[0], expected, rtol=0, atol=2e-8)
        assert found.difference[i] == pytest.approx(difference, abs=1e-9)


def test_sums_are_the_difference_at_every_layer_and_stage(model, by_query):
    assert by_query.layers == (0, 1, 2, 3)
    found = [
        by_query,
        *(integrated_gradients(model, PAIRS, "query", stage=stage, nodes=64) for stage in ("mid", "post")),
    ]
    for one in found:
        assert one.relative_error.max() <= 1e-8
        np.testing.assert_allclose(one.sums(), np.tile(by_query.difference, (len(one.layers), 1)), rtol=1e-8)
        np.testing.assert_allclose(one.by_part().sum(-1), one.sums(), rtol=1e-12)
    assert not np.allclose(found[1].values, found[2].values)


def test_captum_gives_the_same(model, by_query):
    """Through hooks on the whole model, from the tokens on."""
    batch = PAIRS.batch()
    base = torch.where(batch.parts.codes == 1, PAD, batch.tokens)

    def score(tokens, types, mask):
        logits = model(tokens, token_type_ids=types, attention_mask=mask)
        return logits[:, 1] - logits[:, 0]

    for layer, name in ((0, "hook_full_embed"), (1, "blocks.1.hook_resid_pre")):
        values = LayerIntegratedGradients(score, model.hook_dict[name]).attribute(
            batch.tokens,
            base,
            additional_forward_args=(batch.token_type_ids, batch.attention_mask),
            n_steps=256,
            method="gausslegendre",
        )
        expected = values.sum(-1).detach().numpy()[batch.attention_mask.numpy()]
        np.testing.assert_allclose(by_query.values[layer], expected, rtol=0, atol=3e-7)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_only_what_can_differ_has_a_value(by_query):
    """Before layer 0 an empty query differs at QUERY alone; what the head reads is CLS alone."""
    assert (by_query.values[0][PAIRS.parts != 1] == 0).all()
    assert (by_query.values[0][PAIRS.parts == 1] != 0).all()
    assert (by_query.values[3][PAIRS.parts != 0] == 0).all()
    assert (by_query.values[1] != 0).all()


def test_a_baseline_that_is_the_pair_gives_zeros_and_is_said(model, caplog):
    with caplog.at_level(logging.WARNING):
        found = integrated_gradients(model, PAIRS, "passage")
    assert found.same.tolist() == [False, False, False, True]  # the last passage has no token
    assert (found.of(3) == 0).all()
    assert found.difference[3] == 0
    assert (found.relative_error[:, 3] == 0).all()
    assert "passage:pad of 1 of 4 pairs is the pair itself" in caplog.text


def test_a_sum_that_misses_is_said(model, monkeypatch, caplog):
    monkeypatch.setattr("tl_crossenc.instruments.attributed_difference.FEWEST_NODES", 2)
    with caplog.at_level(logging.WARNING):
        found = integrated_gradients(model, PAIRS, "both", nodes=2)
    missed = int((found.relative_error > 0.05).sum())
    assert missed > 0
    assert (
        f"{missed} of 16 sums of attributions to the baseline both:pad miss s - s' by more than 5 % of it"
        in caplog.text
    )
    frame = found.frame(list("abcd"))
    assert int((frame["relative_error"] > 0.05).sum()) == missed
    row = frame.set_index(["layer", "pair"]).loc[(1, "c")]
    total = row[["CLS", "QUERY", "SEP1", "DOC", "SEP2"]].sum()
    assert row["relative_error"] == pytest.approx(abs(total / (row["score"] - row["baseline_score"]) - 1))


def streams(model, batch, layer):
    given = model.attention_input(batch.attention_mask, batch.parts)
    with torch.no_grad():
        return model(batch, stop_at_layer=layer), given


def test_the_way_back_has_the_opposite_values_and_padding_has_none(model):
    batch, empty = PAIRS.batch(), Baseline("both").of(model, PAIRS).batch()
    (x, given), (start, _) = streams(model, batch, 1), streams(model, empty, 1)

    def onward(resid, copies):
        return finish(model, 1, "pre", resid, copies, (None,) * 3)

    there, back = (path_integral(onward, *ends, given, 33, 100) for ends in ((x, start), (start, x)))
    assert (there[~batch.attention_mask] == 0).all()
    np.testing.assert_allclose(there.detach(), -back.detach(), rtol=0, atol=1e-12)
    assert there.detach().abs().max() > 0.01


def test_a_linear_score_needs_one_node(model):
    batch = PAIRS.batch()
    x, given = streams(model, batch, 1)
    slope = torch.arange(x[0].numel(), dtype=torch.float64).reshape(x[0].shape)
    found = path_integral(lambda resid, _: (resid * slope).sum((1, 2)), x, torch.zeros_like(x), given, 1, 10)
    np.testing.assert_allclose(found, x * slope, rtol=1e-15)


def test_attribution_patching_is_the_one_node_at_the_baseline(model):
    """A line twice as long has the baseline's stream in its middle, where one node lies."""
    batch, empty = PAIRS.batch(), Baseline("query").of(model, PAIRS)
    (x, given), (start, _) = streams(model, batch, 1), streams(model, empty.batch(), 1)

    def onward(resid, copies):
        return finish(model, 1, "pre", resid, copies, (None,) * 3)

    one_node = 0.5 * path_integral(onward, x, 2 * start - x, given, 1, 100).sum(-1).numpy()
    patched = attribution_patch(model, PAIRS, empty, {"resid_pre": "part"}, layers=1)["resid_pre"].difference()
    for i in range(len(PAIRS)):
        for part in range(5):
            here = (batch.parts.codes[i] == part).numpy()
            if here.any():
                assert patched[i, 0, part] == pytest.approx(one_node[i, here].sum(), abs=1e-10)


def test_a_pair_alone_is_the_pair_in_a_batch(model):
    """Whatever is run together: pairs, padding, nodes."""
    together = integrated_gradients(model, tiny.to_batch(tiny.tiny_rows()), "query", nodes=32)
    for i, row in enumerate(tiny.tiny_rows()):
        alone = integrated_gradients(model, tiny.encoded([row]), "query", nodes=32, token_budget=40)
        np.testing.assert_allclose(alone.values, together.of(i), rtol=0, atol=1e-12)


def test_an_ablated_model_is_attributed_as_it_is(model):
    with model.ablating("DOC->QUERY", layers="0-1"):
        found = integrated_gradients(model, PAIRS, "query")
        scores = model(PAIRS.batch()).detach().numpy()
    np.testing.assert_allclose(found.scores, scores, rtol=1e-12)
    assert found.relative_error.max() < 1e-8
    assert not np.allclose(scores, model(PAIRS.batch()).detach().numpy())


def test_the_difference_of_two_labels_is_that_of_their_attributions(model, by_query):
    one, other = (integrated_gradients(model, PAIRS, "query", nodes=256, score=f"index:{i}").values for i in (1, 0))
    np.testing.assert_allclose(by_query.values, one - other, rtol=0, atol=1e-12)


def test_a_probability_adds_up_to_its_own_difference(model, by_query):
    found = integrated_gradients(model, PAIRS, "query", nodes=256, score="probability")
    np.testing.assert_allclose(found.scores, 1 / (1 + np.exp(-by_query.scores)), rtol=1e-12)
    assert found.relative_error.max() < 1e-8


def test_a_share_of_what_is_missed():
    errors = relative(np.array([0.0, 0.1, -0.2, 0.0]), np.array([0.0, 0.0, 0.4, 2.0]))
    assert errors.tolist() == [0, np.inf, 0.5, 0]


def test_the_median_that_is_said_is_of_finite_errors(caplog):
    errors = np.array([[0.05, 0.051, np.inf, np.inf, 0.3]])
    with caplog.at_level(logging.WARNING):
        tell_errors(errors, np.zeros(5, bool), Baseline("query"), 41)
    assert "4 of 5 sums" in caplog.text
    assert "(median error 5.1 %)" in caplog.text
    assert "more than 41 nodes" in caplog.text


def test_runs_are_counted_for_both_ends_and_forth_and_back_at_every_node(model):
    for stage, above in (("pre", 3 + 1), ("mid", 2 + 0)):  # layers above those of 0 and 2, of three
        told = []
        given = {"layers": [0, 2], "stage": stage, "nodes": 33, "token_budget": 40, "progress": told.append}
        integrated_gradients(model, PAIRS, "query", **given)
        assert len(told) > 1
        assert sum(told) == 4 * (2 * 3 + 2 * 33 * above)


def test_the_frame_has_pairs_by_number_or_label(model):
    found = integrated_gradients(model, PAIRS, layers=[0, 3], nodes=32)
    assert str(found.baseline) == "query:pad"
    frame = found.frame()
    assert frame["pair"].tolist() == [0, 1, 2, 3] * 2
    np.testing.assert_allclose(frame["score"][4:], model(PAIRS.batch()).detach(), rtol=1e-12)
    for names in ("abc", "abcde"):
        with pytest.raises(ValueError, match=f"a label for each of 4 pairs, got {len(names)}"):
            found.frame(list(names))


def test_the_weights_are_left_as_they_were(hf):
    model = tiny.port(hf)
    model.classifier.bias.requires_grad_(False)
    before = [weight.requires_grad for weight in model.parameters()]
    integrated_gradients(model, PAIRS, "query", layers=2)
    with pytest.raises(ValueError, match="Boom"):
        integrated_gradients(
            model, PAIRS, "query", layers=2, progress=lambda _: (_ for _ in ()).throw(ValueError("Boom"))
        )
    assert [weight.requires_grad for weight in model.parameters()] == before
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_adds_up_at_every_layer(name, tmp_path):
    """Windows, rotary and relative positions, a norm first, a mean over all rows; random lower layers make their paths rough."""
    _, model = opened(name, tmp_path)
    pairs = model.encode_pairs("how fleas lay", ["the flea lays its eggs.", "bread"])
    found = integrated_gradients(model, pairs, "query:mask", nodes=64)
    assert found.relative_error[2:].max() < 1e-3
    assert (found.values[0][pairs.parts != 1] == 0).all()
    assert (found.values[-1][pairs.parts != 0] == 0).all() == model.reads_only_first_row
    alone = integrated_gradients(model, model.encode_pairs("how fleas lay", ["bread"]), "query:mask", layers=1)
    np.testing.assert_allclose(found.of(1)[1:2], alone.values, rtol=0, atol=1e-10)


def test_planted_values_are_where_the_matches_are():
    """At the matched words of the query, then of the passage, then at CLS, a half each; e^-5 is what a match leaves to others."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu", dtype="float64")
    pairs = model.encode_pairs("tune a guitar", ["a guitar garden"])
    found = integrated_gradients(model, pairs, "query")
    assert (MATCHING_HEAD[0], MOVING_HEAD[0]) == (1, 3)
    for layer in range(5):
        words = word_sums(model, found.pairs, 0, found.of(0)).set_index(["part", "word"])[layer] / found.difference[0]
        place = "QUERY" if layer <= 1 else "DOC"
        if layer == 4:
            expected = {("CLS", "[CLS]"): 1.0}
        else:
            expected = {(place, "a"): 0.5, (place, "guitar"): 0.5}
        for where, share in words.items():
            assert share == pytest.approx(expected.get(where, 0.0), abs=1e-4), (layer, where)


def test_words_add_up_to_their_pieces(tmp_path):
    _, model = opened("roberta", tmp_path)
    pairs = model.encode_pairs("how fleas lay", ["the flea lays its eggs."])
    values = np.arange(2 * len(pairs.tokens), dtype=float).reshape(2, -1)
    frame = word_sums(model, pairs, 0, values)
    assert frame["start"].tolist() == [0, *frame["stop"][:-1]]
    assert frame["stop"].iloc[-1] == len(pairs.tokens) > len(frame)
    for row in frame.itertuples():
        assert row[5] == values[0, row.start : row.stop].sum()
    with pytest.raises(ValueError, match="one a token of the pair"):
        word_sums(model, pairs, 0, values[:, 1:])
    two = model.encode_pairs("how fleas lay", ["a", "the flea lays its eggs."])
    assert word_sums(model, two, 1, values).equals(frame)
    assert word_sums(model, two, -1, values).equals(frame)
    with pytest.raises(ValueError, match=r"expected pairs 0\.\.1, got pair 2"):
        word_sums(model, two, 2, values)


def test_replaced_tokens_are_the_texts_alone(model):
    planted = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pairs = planted.encode_pairs("tune a guitar", ["old piano"])
    names = planted.tokenizer.convert_ids_to_tokens
    for text, shown in {
        "query": "[CLS] [PAD] [PAD] [PAD] [SEP] old piano [SEP]",
        "passage:mask": "[CLS] tune a guitar [SEP] [MASK] [MASK] [SEP]",
        "both:unk": "[CLS] [UNK] [UNK] [UNK] [SEP] [UNK] [UNK] [SEP]",
        "query:garden": "[CLS] garden garden garden [SEP] old piano [SEP]",
    }.items():
        baseline = Baseline.parse(text)
        found = baseline.of(planted, pairs)
        assert " ".join(names(found.tokens.tolist())) == shown
        assert found.parts is pairs.parts
        assert found.token_type_ids is pairs.token_type_ids
        assert Baseline.parse(str(baseline)) == baseline
    assert Baseline.parse(" Query : mask ") == Baseline("query", "mask")
    three = tiny.port(tiny.tiny_hf(n_labels=3), score="index:2")
    with pytest.raises(ValueError, match="whose sigmoid is a probability, but of 3 labels index:2 is one logit"):
        integrated_gradients(three, PAIRS, "query", score="probability")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 31}, "expected at least 32 nodes, got 31"),
        ({"nodes": True}, "expected a whole number of nodes, 32 at least, got True"),
        ({"baseline": "query:"}, "expected a baseline that replaces query, .* got 'query' and ''"),
        ({"stage": "end"}, "expected a stage among pre, mid, post, got 'end'"),
        ({"layers": 4}, "expected layers 0..3, got layer 4"),
        ({"layers": 3, "stage": "mid"}, "expected layers 0..2, got layer 3"),
        ({"baseline": "title"}, "expected a baseline that replaces query, passage or both"),
        ({"baseline": "query:mask"}, "expected a model with a tokenizer to find 'mask'"),
        ({"score": "index:2"}, "expected a score that"),
        ({"token_budget": 0}, "expected a token budget of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(model, given, message):
    with pytest.raises(ValueError, match=message):
        integrated_gradients(model, PAIRS, **given)


@pytest.mark.usefixtures("unchecked")
def test_nodes_are_whole_numbers_of_any_kind(model):
    with pytest.raises(ValueError, match=r"expected a whole number of nodes, 32 at least, got 64\.0"):
        integrated_gradients(model, PAIRS, nodes=64.0)
    found = [integrated_gradients(model, PAIRS, layers=2, nodes=kind(32)).values for kind in (np.int64, int)]
    assert np.array_equal(*found)


def test_what_the_vocabulary_lacks_is_said_with_what_there_is(model):
    planted = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pairs = planted.encode_pairs("tune a guitar", ["old piano"])
    planted.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="with a mask token, but this one has none: choose pad, unk or a piece"):
        integrated_gradients(planted, pairs, "query:mask")
    with pytest.raises(ValueError, match="or a piece of the vocabulary, got 'gu1tar'"):
        integrated_gradients(planted, pairs, "query:gu1tar")
    with pytest.raises(ValueError, match="at least one pair to attribute, got none"):
        integrated_gradients(planted, planted.encode_pairs("tune", []), "query")
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", tiny.no_op)]),
        pytest.raises(ValueError, match=r"expected a model without hooks, got one on blocks\.1\.hook_resid_pre"),
    ):
        integrated_gradients(model, PAIRS, "query")
