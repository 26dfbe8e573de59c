"""Soft-TF: by plain loops over Hugging Face's own float64 patterns, in every family that opens; known on the planted model."""

import math

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from family_models import COVERED, opened
from family_worlds import MODELS
from planted_texts import graded_pool
from tiny_models import encoded, port, tiny_hf, tiny_rows

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, SINK_HEAD
from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments.soft_tf import ATTENDED_PARTS, measure_soft_tf
from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

NAMES = [name for name in MODELS if name in COVERED]
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_query_token_of_every_head_in_every_family(name, tmp_path):
    world, model = opened(name, tmp_path)
    batch = oracle.encode(world, texts.PAIRS)
    patterns, parts = oracle.run(world, batch, []).patterns, batch.parts.numpy()
    pairs = model.encode_pairs(QUERIES, PASSAGES)
    found = measure_soft_tf(model, pairs, token_budget=100)
    at = 0
    for pair in range(len(QUERIES)):
        row = parts[pair]
        own = [i for i, part in enumerate(row) if part == Part.QUERY]
        assert found.offsets[pair + 1] - found.offsets[pair] == len(own)
        for i in own:
            assert found.tokens[at] == pairs.tokens[pairs.offsets[pair] + i]
            for layer, pattern in enumerate(patterns):
                for p, part in enumerate((3, 4, 2, 0)):
                    expected = sum(pattern[pair, :, i, t].numpy() for t in range(len(row)) if row[t] == part)
                    np.testing.assert_allclose(found.values[at, layer, :, p], expected, atol=1e-10)
            at += 1
    assert at == len(found.tokens) == found.offsets[-1]


def test_a_batch_of_one_is_as_a_batch_of_many():
    model = port(tiny_hf(seed=5), torch.float64)
    rows = tiny_rows(((3, 5), (2, 8), (1, 1), (4, 0), (0, 6), (5, 13), (2, 3)), seed=3)
    found = [measure_soft_tf(model, encoded(rows), token_budget=budget) for budget in (1, 41, 4096)]
    for other in found[1:]:
        np.testing.assert_allclose(other.values, found[0].values, atol=1e-14)
        assert other.offsets.tolist() == [0, 3, 5, 6, 10, 10, 15, 17]
    assert (found[0].doc[6:10] == 0).all()  # no passage
    assert (found[0].values[6:10, ..., 1:] > 0).all()
    assert (found[0].doc[10:] > 0).all()
    whole = found[0].values.sum(-1)
    assert (whole < 1).all()  # the rest is QUERY's own


def test_sums_are_over_a_pair_s_own_query_tokens():
    model = port(tiny_hf(seed=5), torch.float64)
    found = measure_soft_tf(model, encoded(tiny_rows(((3, 5), (0, 6), (2, 4)))))
    weights = np.array([2.0, 3.0, 5.0, 7.0, 11.0])
    plain, weighted = found.summed(found.doc), found.summed(found.doc, weights)
    for layer in range(3):
        for head in range(3):
            a, b, c, d, e = found.doc[:, layer, head]
            assert plain[:, layer, head].tolist() == pytest.approx([a + b + c, 0, d + e], abs=1e-14)
            expected = [2 * a + 3 * b + 5 * c, 0, 7 * d + 11 * e]
            assert weighted[:, layer, head].tolist() == pytest.approx(expected, abs=1e-13)


def test_the_planted_matching_head_counts_softly_and_the_sink_head_does_not():
    """A word that is there m times has m / (m + e^-5); one that is not gives all to SEP2. The sink head gives DOC nothing."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pairs = graded_pool(n_queries=2, per_grade=2).pairs
    found = measure_soft_tf(model, model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs]))
    assert [part.name for part in ATTENDED_PARTS] == ["DOC", "SEP2", "SEP1", "CLS"]
    matching, at = found.values[:, MATCHING_HEAD[0], MATCHING_HEAD[1]], 0
    for pair in pairs:
        for word in pair.query.split():
            m = pair.text.split().count(word)
            expected = m / (m + math.exp(-5))
            assert matching[at, 0] == pytest.approx(expected, abs=2e-3)
            assert matching[at, 1] == pytest.approx(1 - expected, abs=2e-3)
            at += 1
    assert at == len(matching)
    sink = found.values[:, SINK_HEAD[0], SINK_HEAD[1]]
    assert sink[:, 0].max() < 1e-6
    assert sink[:, 1:3].sum(-1).min() > 1 - 1e-6


def test_an_ablated_model_is_refused():
    model = port(tiny_hf(seed=5), torch.float64)
    with (
        model.ablating(Condition.ablate("DOC->QUERY")),
        pytest.raises(ValueError, match=r"^expected a model with nothing ablated"),
    ):
        measure_soft_tf(model, encoded(tiny_rows()))


def test_attention_that_is_no_number_is_refused():
    model = port(tiny_hf(seed=5), torch.float64)
    with torch.no_grad():
        model.blocks[1].attn.b_Q[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"^expected finite attention"):
        measure_soft_tf(model, encoded(tiny_rows()))
