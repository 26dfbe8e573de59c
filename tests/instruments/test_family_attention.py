"""Masses, excess and matches of every family that opens, by plain loops over Hugging Face's own float64 patterns."""

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from family_models import COVERED, opened
from family_worlds import MODELS

from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.attention_flow import ATTENDED, ATTENDERS, QUANTITIES, pair_moments
from tl_crossenc.instruments.token_matches import EDGES, MATCH_DIRECTIONS, N_BINS, pair_matches, word_codes

NAMES = [name for name in MODELS if name in COVERED]
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


@pytest.fixture(scope="module", params=NAMES)
def seen(request, tmp_path_factory):
    """(world, model, encoded pairs, the oracle's patterns a layer, parts)."""
    world, model = opened(request.param, tmp_path_factory.mktemp(request.param))
    batch = oracle.encode(world, texts.PAIRS)
    patterns = [pattern.numpy() for pattern in oracle.run(world, batch, []).patterns]
    return world, model, model.encode_pairs(QUERIES, PASSAGES), patterns, batch.parts.numpy()


def sides(name, parts, stops):
    """The positions of one entry of the axes `attender` and `attended`."""
    if name == "ALL":
        return [i for i, part in enumerate(parts) if part < 5]
    found = [i for i, part in enumerate(parts) if part == Part[name.removesuffix("_STOPS")]]
    return [i for i in found if i in stops] if name.endswith("_STOPS") else found


def test_every_mass_density_and_excess(seen):
    world, model, encoded, patterns, parts = seen
    stop = encoded.tokens[encoded.parts == Part.DOC][-1]  # any token that is there
    batch = encoded.batch(range(len(encoded)))
    found = pair_moments(model, batch, [int(stop)])
    shape = found.mean.shape
    expected, counted = np.zeros(shape), np.zeros((shape[0], 1, 1, *shape[3:]), int)
    for pair, own in enumerate(parts):
        real = [i for i, part in enumerate(own) if part < 5]
        stops = {i for i in real if int(batch.tokens[pair, i]) == int(stop)}
        for x, attender in enumerate(ATTENDERS):
            rows = sides(attender, own, stops)
            for y, attended in enumerate(ATTENDED):
                columns = sides(attended, own, stops)
                for q, quantity in enumerate(QUANTITIES):
                    is_stops = attended.endswith("_STOPS")
                    if not rows or (not columns and (quantity == "density" or not is_stops)):
                        continue
                    counted[pair, 0, 0, q, x, y] = 1
                    for layer, half in enumerate(world.half_windows):
                        reach = [[c for c in real if half is None or abs(r - c) <= half] for r in rows]
                        even = np.mean([len(set(columns) & set(near)) / len(near) for near in reach])
                        mass = patterns[layer][pair][:, rows][:, :, columns].sum((1, 2)) / len(rows)
                        value = {"mass": mass, "density": mass / max(len(columns), 1), "excess": mass - even}
                        expected[pair, layer, :, q, x, y] = value[quantity]
    np.testing.assert_array_equal(found.count, counted)
    np.testing.assert_allclose(found.mean, expected, atol=1e-10)


def test_every_weight_between_query_and_doc(seen):
    world, model, encoded, patterns, parts = seen
    batch = encoded.batch(range(len(encoded)))
    words = word_codes(batch.tokens, batch.parts.codes, Pieces(model.tokenizer))
    with torch.no_grad():
        found = pair_matches(model, batch, words)
    expected, counts = np.zeros(found.mass.shape), np.zeros(found.counts.shape, int)
    kinds = np.zeros(found.token_pairs.shape, int)
    for pair, own in enumerate(parts):
        query, doc = sides("QUERY", own, ()), sides("DOC", own, ())
        for i in query:
            for j in doc:
                same = batch.tokens[pair, i] == batch.tokens[pair, j]
                kind = 0 if same else 1 if words[pair, i] == words[pair, j] else 2
                kinds[pair, kind] += 1
                for direction, (row, column, n) in enumerate(((i, j, len(query)), (j, i, len(doc)))):
                    for layer, pattern in enumerate(patterns):
                        weights, half = pattern[pair, :, row, column], world.half_windows[layer]
                        expected[pair, direction, layer, :, kind] += weights / n
                        for head, weight in enumerate(weights if half is None or abs(i - j) <= half else ()):
                            slot = next(b for b in reversed(range(N_BINS)) if weight >= EDGES[b])
                            counts[pair, direction, layer, head, kind, slot] += 1
    assert len(MATCH_DIRECTIONS) == 2
    np.testing.assert_array_equal(found.token_pairs, kinds)
    np.testing.assert_allclose(found.mass, expected, atol=1e-10)
    np.testing.assert_array_equal(found.counts, counts)
    every = (kinds.sum(1)[:, None] * [1, 1] * np.prod(found.mass.shape[2:4])).tolist()
    assert (found.counts.sum((2, 3, 4, 5)).tolist() == every) == (not any(world.half_windows))
