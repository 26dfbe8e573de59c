"""Attributions by name: each against Hugging Face, hand-carried writes or an identity, and the planted match first."""

import numpy as np
import pytest
import tiny_models as tiny
import torch
from attribution_reference import replay
from family_models import opened
from planted_texts import graded_pool

from tl_crossenc.inputs.pairs import EncodedPairs
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.instruments.faithfulness import removal_curves
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.removal import Removal, as_removal, model_scorer
from tl_crossenc.instruments.token_attributions import (
    ATTRIBUTIONS,
    Attributing,
    attribution_cost,
    check_attributions,
    token_attributions,
)
from tl_crossenc.instruments.token_reads import token_reads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.statistics.significance import mean_interval

ROWS = tiny.tiny_rows()
PAIRS = tiny.encoded(ROWS)
PAD = PAIRS.pad_token_id
REMOVAL = Removal("pad", "passage", PAD)
NONE = EncodedPairs(*[np.zeros(0, np.int64)] * 3, np.zeros(1, np.int64), np.zeros(0, bool), PAD)
FITTING = Fitting(beta=1.0, by="part", copies=3, steps=3)


@pytest.fixture(scope="module")
def hf():
    return tiny.tiny_hf(n_labels=2, seed=3).double()


@pytest.fixture(scope="module")
def model(hf):
    return tiny.port(hf)


@pytest.fixture(scope="module")
def statistics(model):
    return LayerStatistics.fit(model, tiny.encoded(tiny.tiny_rows(((3, 4), (2, 5), (4, 3)), seed=8)))


def alone(hf, tokens, types, **asked):
    with torch.no_grad():
        return hf(torch.tensor([tokens]), token_type_ids=torch.tensor([types]), **asked)


def score(hf, tokens, types):
    logits = alone(hf, tokens, types).logits[0]
    return float(logits[1] - logits[0])


@pytest.mark.parametrize("way", ["pad", "delete"])
@pytest.mark.parametrize("text", ["passage", "query"])
def test_leave_one_out_is_a_loop_through_hugging_face(model, hf, way, text):
    removal = Removal(way, text, PAD if way == "pad" else None)
    found = token_attributions(model, PAIRS, "leave-one-out", Attributing(removal, token_budget=40))
    for (tokens, types, parts), start in zip(ROWS, PAIRS.offsets, strict=False):
        for at, part in enumerate(parts):
            if part != removal.part:
                assert np.isnan(found[start + at])
                continue
            rest = tokens[:at] + ([PAD] if way == "pad" else []) + tokens[at + 1 :]
            kinds = types if way == "pad" else types[:at] + types[at + 1 :]
            assert found[start + at] == pytest.approx(score(hf, tokens, types) - score(hf, rest, kinds), abs=1e-10)


@pytest.mark.parametrize("text", ["passage", "query"])
def test_gradients_add_up_to_what_the_text_is_worth(model, hf, text):
    removal = Removal("pad", text, PAD)
    found = token_attributions(model, PAIRS, "gradients", Attributing(removal, nodes=128))
    for i, (tokens, types, parts) in enumerate(ROWS):
        own = found[PAIRS.offsets[i] : PAIRS.offsets[i + 1]]
        emptied = [PAD if part == removal.part else token for token, part in zip(tokens, parts, strict=True)]
        assert np.nansum(own) == pytest.approx(score(hf, tokens, types) - score(hf, emptied, types), abs=1e-4)


def test_attention_is_cls_s_mean_over_layers_and_heads(model, hf):
    found = token_attributions(model, PAIRS, "attention")
    for i, (tokens, types, parts) in enumerate(ROWS):
        maps = alone(hf, tokens, types, output_attentions=True).attentions
        expected = torch.stack(maps)[:, 0, :, 0].mean((0, 1)).numpy()
        expected[np.array(parts) != Part.DOC] = np.nan
        np.testing.assert_allclose(found[PAIRS.offsets[i] : PAIRS.offsets[i + 1]], expected, rtol=0, atol=1e-12)


def test_direct_is_each_read_carried_forward(model):
    found = token_reads(model, PAIRS, token_budget=40).direct
    batch = PAIRS.batch()
    with torch.no_grad():
        _, cache = model.run_with_cache(batch)
        for pair in range(len(batch)):
            own = {n: cache[n][pair] if n.startswith(("pooler.", "classifier.")) else cache[n][pair, 0] for n in cache}
            for at in range(PAIRS.lengths[pair]):
                worth = 0.0
                for layer in range(model.cfg.n_layers):
                    for head in range(model.cfg.n_heads):
                        share = cache[f"blocks.{layer}.attn.hook_pattern"][pair, head, 0, at]
                        value = cache[f"blocks.{layer}.attn.hook_v"][pair, at, head]
                        write = share * value @ model.W_O[layer, head]
                        worth += replay(own, model, write, layer, "attention")
                assert found[PAIRS.offsets[pair] + at] == pytest.approx(worth, abs=1e-11)


@pytest.mark.parametrize("family", ["bert", "modernbert-mean", "gte", "deberta-v2"])
def test_reads_add_up_to_what_the_heads_write_and_to_attention_of_1(tmp_path, family):
    _, model = opened(family, tmp_path)
    pairs = model.encode_pairs(
        ["the flea", "how do eggs", "a"], ["lay the eggs of bread", "a", "the quilt of the flea"]
    )
    reads = token_reads(model, pairs)
    sums = np.add.reduceat(reads.direct, pairs.offsets[:-1])
    heads = direct_attribution(model, pairs).head.sum((1, 2))
    np.testing.assert_allclose(sums, heads, rtol=0, atol=1e-10 * max(1.0, np.abs(heads).max()))
    np.testing.assert_allclose(np.add.reduceat(reads.attention, pairs.offsets[:-1]), 1.0, rtol=0, atol=1e-10)
    with model.ablating("CLS->DOC", layers=0):
        ablated = token_reads(model, pairs)
        heads = direct_attribution(model, pairs).head.sum((1, 2))
    sums = np.add.reduceat(ablated.direct, pairs.offsets[:-1])
    np.testing.assert_allclose(sums, heads, rtol=0, atol=1e-10 * max(1.0, np.abs(heads).max()))
    assert np.abs(ablated.attention - reads.attention).max() > 1e-4


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_pair_has_the_same_values_in_any_batch_and_all_have_them_at_the_text_alone(model, statistics, name):
    given = Attributing(REMOVAL, fitting=FITTING, seed=4)
    done = []
    found = token_attributions(model, PAIRS, name, given, statistics=statistics, progress=done.append)
    np.testing.assert_array_equal(np.isfinite(found), PAIRS.parts == Part.DOC)
    assert sum(done) == attribution_cost(model, PAIRS, name, given)
    for i, row in enumerate(ROWS):
        single = token_attributions(model, tiny.encoded([row]), name, given, statistics=statistics)
        own = found[PAIRS.offsets[i] : PAIRS.offsets[i + 1]]
        np.testing.assert_allclose(single, own, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["gradients", "direct", "leave-one-out"])
def test_upper_layers_and_a_head_that_are_drawn_anew_have_another_map(hf, name):
    """An attribution that looked at the input alone would not tell (Adebayo et al. 2018): ranks within pairs, of 11 pairs."""
    redrawn = tiny.tiny_hf(n_labels=2, seed=9).double()
    lower = {key: own for key, own in hf.state_dict().items() if "embeddings" in key or "layer.0." in key}
    redrawn.load_state_dict(redrawn.state_dict() | lower)
    pairs = tiny.encoded(tiny.tiny_rows(((2, 9),) * 11, seed=4))
    given = Attributing(REMOVAL, nodes=32)
    maps = [token_attributions(tiny.port(one), pairs, name, given).reshape(11, -1)[:, 4:13] for one in (hf, redrawn)]
    ranks = [np.argsort(np.argsort(values, axis=1), axis=1) - 4.0 for values in maps]
    assert abs((ranks[0] * ranks[1]).sum() / (11 * 60)) < 0.3  # Spearman's: the squares of -4..4 add up to 60


def test_random_values_are_of_the_seed_and_the_pair(model):
    first, again, other = (
        token_attributions(model, PAIRS, "random", Attributing(REMOVAL, seed=seed)) for seed in (0, 0, 1)
    )
    there = np.isfinite(first)
    np.testing.assert_array_equal(first, again)
    assert not (first == other)[there].any()
    assert len(set(first[there])) == there.sum()


@pytest.fixture(scope="module")
def planted():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


def planted_pairs(planted, grades):
    kept = [pair for pair in graded_pool(n_queries=5, per_grade=2, seed=2).pairs if pair.grade in grades]
    return planted.encode_pairs([pair.query for pair in kept], [pair.text for pair in kept])


def matched(pairs: EncodedPairs):
    found = np.zeros(len(pairs.tokens), bool)
    for start, stop in zip(pairs.offsets, pairs.offsets[1:], strict=False):
        own, parts = pairs.tokens[start:stop], pairs.parts[start:stop]
        found[start:stop] = np.isin(own, own[parts == Part.QUERY]) & (parts == Part.DOC)
    return found


@pytest.mark.parametrize("name", ["bottleneck", "gradients", "direct", "leave-one-out"])
def test_planted_matches_come_first(planted, name):
    pairs = planted_pairs(planted, (1, 2))
    statistics = LayerStatistics.fit(planted, planted_pairs(planted, (-1, 0)))
    given = Attributing(as_removal(planted, pairs, "mask"), fitting=Fitting(beta=1.0, by="part", copies=5), nodes=32)
    values = token_attributions(planted, pairs, name, given, statistics=statistics)
    match = matched(pairs)
    for start, stop in zip(pairs.offsets, pairs.offsets[1:], strict=False):
        own, hit = values[start:stop], match[start:stop]
        assert 3 <= hit.sum() <= 5
        assert np.nanmin(own[hit]) > np.nanmax(own[~hit])


def test_planted_cls_attends_to_matches_no_more_than_to_others(planted):
    """The moving head takes the mean of DOC: what differs is in the values, which attention does not see."""
    pairs = planted_pairs(planted, (1, 2))
    values = token_attributions(planted, pairs, "attention")
    for start, stop in zip(pairs.offsets, pairs.offsets[1:], strict=False):
        assert np.nanmax(values[start:stop]) - np.nanmin(values[start:stop]) < 1e-7


def test_planted_leave_one_out_is_more_faithful_than_random(planted):
    pairs = planted_pairs(planted, (1, 2))
    for way in ("mask", "pad", "delete"):
        removal = as_removal(planted, pairs, way)
        area = {}
        for name in ("leave-one-out", "random"):
            values = token_attributions(planted, pairs, name, Attributing(removal))
            area[name] = removal_curves(model_scorer(planted), pairs, values, removal).area
        low, high = mean_interval(area["leave-one-out"] - area["random"], 0.99)
        assert low > 0.2
        low, high = mean_interval(area["random"], 0.99)
        assert low < 0 < high


def test_bad_input_is_told(model):
    for names in ([], ["lime"], "direct"):
        with pytest.raises(
            ValueError, match="expected attributions among bottleneck, gradients, attention, direct, leave"
        ):
            check_attributions(names)
    assert check_attributions(["random", "direct", "random"]) == ("random", "direct")
    with pytest.raises(ValueError, match=r"expected statistics of other pairs to measure bits with .* got none"):
        token_attributions(model, PAIRS, "bottleneck")
    with pytest.raises(ValueError, match="expected at least one pair to attribute, got none"):
        token_attributions(model, NONE, "random")
    with pytest.raises(ValueError, match="expected at least one pair, got none"):
        token_reads(model, NONE)
