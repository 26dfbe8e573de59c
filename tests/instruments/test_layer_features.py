"""States by layer and set: every mean and maximum by plain loops over Hugging Face's own hidden states, on every family."""

from itertools import pairwise

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from family_models import COVERED, opened
from family_worlds import MODELS
from tiny_models import port, run_hf, tiny_hf, tiny_rows, to_batch

from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.direct_attribution import score_lens
from tl_crossenc.instruments.layer_features import POOLINGS, _pooled, layer_features
from tl_crossenc.instruments.layer_tokens import layer_tokens
from tl_crossenc.instruments.token_sets import SETS

NAMES = [name for name in MODELS if name in COVERED]
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
SIZES = ((5, 19), (3, 17), (7, 2), (4, 0), (2, 13))
ROWS = tiny_rows(SIZES, seed=3, vocabulary=17)  # so few pieces that some match


def places(name, tokens, parts):
    """The positions of a set, read off one pair's parts."""
    query = {token for token, part in zip(tokens, parts, strict=True) if part == Part.QUERY}
    wanted = {
        "CLS": lambda token, part: part == Part.CLS,
        "QUERY": lambda token, part: part == Part.QUERY,
        "SEP": lambda token, part: part in (Part.SEP1, Part.SEP2),
        "DOC": lambda token, part: part == Part.DOC,
        "MATCHED": lambda token, part: part == Part.DOC and token in query,
    }[name]
    return [i for i, (token, part) in enumerate(zip(tokens, parts, strict=True)) if wanted(token, part)]


def literal(hidden, tokens, parts, pooling, sets=SETS):
    """(values, counts) of some pairs by loops; `hidden` is a layer's `[pair, pos, d_model]`, tokens and parts padded or not."""
    values = np.full((len(parts), len(hidden), len(sets), hidden[0].shape[-1]), np.nan)
    counts = np.zeros((len(parts), len(sets)), int)
    for pair, own in enumerate(parts):
        for s, name in enumerate(sets):
            found = places(name, tokens[pair], own)
            counts[pair, s] = len(found)
            for layer, states in enumerate(hidden):
                if found:
                    rows = [np.asarray(states[pair][i], dtype=float) for i in found]
                    values[pair, layer, s] = sum(rows) / len(rows) if pooling == "mean" else np.array(rows).max(0)
    return values, counts


@pytest.fixture(scope="module", params=NAMES)
def seen(request, tmp_path_factory):
    world, model = opened(request.param, tmp_path_factory.mktemp(request.param))
    batch = oracle.encode(world, texts.PAIRS)
    trace = oracle.run(world, batch, [])
    return model, model.encode_pairs(QUERIES, PASSAGES), [h.numpy() for h in trace.hidden], batch


@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_set_and_layer_of_every_family(seen, pooling):
    model, encoded, hidden, batch = seen
    values, counts = literal(hidden, batch.inputs["input_ids"].tolist(), batch.parts.tolist(), pooling)
    found = layer_features(model, encoded, pooling=pooling, token_budget=97)  # several batches, each padded
    np.testing.assert_array_equal(found.counts, counts)
    assert found.counts[2, SETS.index("DOC")] == 0  # the empty passage
    assert len(found.values[0]) == model.cfg.n_layers + 1
    np.testing.assert_allclose(found.values, values, atol=1e-9)
    lens = score_lens(model, encoded)
    np.testing.assert_allclose(found.lens[:, 1:], lens, atol=1e-9)


def test_a_batch_of_one_is_a_batch_of_many(seen):
    model, encoded, _, _ = seen
    together = layer_features(model, encoded, token_budget=10**4)
    tokens = layer_tokens(model, encoded, "DOC", most=3, seed=5)
    for pair in range(len(encoded)):
        alone = encoded.batch([pair])
        found = layer_features(model, alone)
        np.testing.assert_allclose(found.values[0], together.values[pair], atol=1e-9)
        own = slice(*tokens.offsets[pair : pair + 2])
        single = layer_tokens(model, alone, "DOC", most=3, seed=5)
        assert single.positions.tolist() == tokens.positions[own].tolist()
        np.testing.assert_allclose(single.values, tokens.values[own], atol=1e-9)


@pytest.fixture(scope="module")
def bert():
    hf = tiny_hf(seed=3)
    return hf.double(), port(hf)


def test_padding_takes_no_part_even_where_it_is_largest(bert):
    """The batch's padding has tokens of its own, that are equal to the query's; they are in no set."""
    hf, model = bert
    batch = to_batch(ROWS)
    batch.tokens[~batch.attention_mask] = ROWS[0][0][1]
    hidden = [h.numpy() for h in run_hf(hf, batch).hidden_states]
    for pooling in POOLINGS:
        values, counts = literal(hidden, batch.tokens.tolist(), batch.parts.codes.tolist(), pooling)
        found = layer_features(model, batch, pooling=pooling)
        np.testing.assert_array_equal(found.counts, counts)
        np.testing.assert_allclose(found.values, values, atol=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_single_tokens_are_those_of_the_set_in_order(bert, name):
    hf, model = bert
    batch = to_batch(ROWS)
    hidden = [h.numpy() for h in run_hf(hf, batch).hidden_states]
    found = layer_tokens(model, batch, name, layers=(3, 0), most=7)
    for pair, (tokens, _, parts) in enumerate(ROWS):
        at = found.positions[found.offsets[pair] : found.offsets[pair + 1]].tolist()
        every = places(name, tokens, parts)
        assert len(at) == min(len(every), 7)
        assert at == sorted(set(at) & set(every))
        for row, i in enumerate(at):
            for column, layer in enumerate((3, 0)):
                np.testing.assert_allclose(
                    found.values[found.offsets[pair] + row, column], hidden[layer][pair, i], atol=1e-9
                )


def test_another_seed_draws_other_tokens_and_every_token_can_be_drawn(bert):
    _, model = bert
    draws = [layer_tokens(model, to_batch(ROWS[:1]), "DOC", layers=(0,), most=5, seed=seed) for seed in range(60)]
    drawn = [tuple(draw.positions.tolist()) for draw in draws]
    assert len(set(drawn)) > 50
    tokens, _, parts = ROWS[0]
    assert {i for draw in drawn for i in draw} == set(places("DOC", tokens, parts))


def test_which_tokens_are_drawn_is_by_the_pair_s_own_tokens(bert):
    """Six pairs of one length and other tokens: not all the same places; one of them twice: the same."""
    _, model = bert
    rows = tiny_rows(((3, 19),) * 6, seed=5)
    found = layer_tokens(model, to_batch([*rows, rows[2]]), "DOC", layers=(0,), most=5, seed=2)
    drawn = [tuple(found.positions[start:stop].tolist()) for start, stop in pairwise(found.offsets)]
    assert len(set(drawn[:6])) > 3
    assert drawn[6] == drawn[2]


def test_what_cannot_be_read_is_said(bert):
    _, model = bert
    batch = to_batch(ROWS)
    for sets in ((), ("CLS", "CLS"), ("TITLE",)):
        with pytest.raises(
            ValueError, match=r"expected sets among CLS, .*, MATCHED, STOPS, STOP_WORDS, each once, got"
        ):
            layer_features(model, batch, sets=sets)
    with pytest.raises(ValueError, match="expected a pooling among mean, max, got 'sum'"):
        layer_features(model, batch, pooling="sum")
    with pytest.raises(ValueError, match="expected at least one pair to read states of, got none"):
        layer_features(model, batch[[]])
    with pytest.raises(ValueError, match=r"expected layers in 0\.\.3, 0 being the embeddings, got \[4\]"):
        layer_tokens(model, batch, "DOC", layers=[4])
    with pytest.raises(ValueError, match="expected at least one token a pair, got most=0"):
        layer_tokens(model, batch, "DOC", most=0)
    with model.ablating("DOC->QUERY"), pytest.raises(ValueError, match="measure outside of `ablating`"):
        layer_features(model, batch)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_what_stands_outside_of_a_set_takes_no_part_be_it_infinite(pooling):
    stream = torch.tensor([[[1.0, -2.0], [torch.inf, torch.nan], [3.0, -5.0]]])
    members = torch.tensor([[[True, False, True], [False, False, False]]])
    found = _pooled(stream, members, pooling)
    assert found[0, 0].tolist() == ([2.0, -3.5] if pooling == "mean" else [3.0, -2.0])
    assert found[0, 1].tolist() == [0.0, 0.0]


def test_states_that_are_no_numbers_are_said(bert):
    hf = tiny_hf(seed=5)
    broken = port(hf)
    broken.embed.W_E.data[:] = float("nan")
    with pytest.raises(ValueError, match="expected finite states, but some are NaN or infinite"):
        layer_features(broken, to_batch(ROWS))
