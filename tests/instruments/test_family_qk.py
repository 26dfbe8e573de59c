"""Query-key circuits of every family that opens, by loops over token pairs on what Hugging Face's attention reads, in float64."""

import family_oracle as oracle
import family_texts as texts
import numpy as np
import pytest
import torch
from family_models import COVERED, opened
from family_worlds import MODELS

from tl_crossenc.instruments.qk import mean_scores, part_moments, spectrum, visit_reads
from tl_crossenc.instruments.qk_offsets import OffsetCounts, mean_rotations, offset_counts, spectrum_over_offsets
from tl_crossenc.instruments.qk_terms import term_moments

NAMES = [name for name in MODELS if name in COVERED]
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
QUERY, DOC = 1, 3
SIDES = ((QUERY, DOC), (DOC, QUERY))


@pytest.fixture(scope="module", params=NAMES)
def seen(request, tmp_path_factory):
    """(world, model, encoded pairs, the oracle's batch and trace, what attention reads in each layer)."""
    world, model = opened(request.param, tmp_path_factory.mktemp(request.param))
    batch = oracle.encode(world, texts.PAIRS)
    trace = oracle.run(world, batch, [])
    reads = list(trace.hidden[:-1])
    if hasattr(world.layers[0], "attn_norm"):  # ModernBERT's layers read through a norm
        with torch.no_grad():
            reads = [
                layer.attn_norm.double()(x)
                for layer, x in zip(world.in_dtype(torch.float64).layers, reads, strict=True)
            ]
    return world, model, model.encode_pairs(QUERIES, PASSAGES), batch, trace, [read.detach() for read in reads]


def rotation(model, layer, offset):
    """R(offset) by hand: planes of coordinates (i, i + d/2), turned by offset / base^(2i/d) / factor."""
    bases, d = model.cfg.rotary_bases, model.cfg.d_head
    matrix = np.eye(d)
    for i in range(d // 2 if bases is not None else 0):
        angle = offset * bases[layer] ** (-2 * i / d) / model.cfg.rotary_factor
        j = i + d // 2
        matrix[i, i] = matrix[j, j] = np.cos(angle)
        matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def cells(world, batch, layer, row, column):
    """(pair, i, j) of a direction that the layer has."""
    half = world.half_windows[layer]
    for pair, parts in enumerate(batch.parts.tolist()):
        for i, p in enumerate(parts):
            for j, o in enumerate(parts):
                if (p, o) == (row, column) and (half is None or abs(i - j) <= half):
                    yield pair, i, j


def test_what_attention_reads_is_hugging_faces(seen):
    _, model, encoded, batch, _, reads = seen
    found = {}
    with torch.no_grad():
        visit_reads(model, encoded.batch(range(len(encoded))), lambda layer, read: found.update({layer: read}))
    for layer, read in enumerate(reads):
        torch.testing.assert_close(found[layer][batch.real], read[batch.real], rtol=1e-10, atol=1e-10)


def test_means_are_those_of_what_attention_reads(seen):
    _, model, encoded, batch, _, reads = seen
    found = part_moments(model, encoded)
    for layer, read in enumerate(reads):
        for at, part in enumerate((QUERY, DOC)):
            np.testing.assert_allclose(found.mean[layer, at], read[batch.parts == part].mean(0).numpy(), atol=1e-9)


def test_the_terms_are_those_of_the_loop_and_sum_to_the_models_score(seen):
    world, model, encoded, batch, trace, reads = seen
    generator = np.random.default_rng(5)
    mean = generator.normal(size=(model.cfg.n_layers, 2, model.cfg.d_model))
    found = term_moments(model, encoded, mean, token_budget=150)
    tokens = batch.inputs["input_ids"]
    relative = model.cfg.relative is not None
    scale = np.sqrt(model.cfg.d_head * (3 if relative else 1))
    W_Q, W_K, b_Q, b_K = (w.detach().numpy() for w in (model.W_Q, model.W_K, model.b_Q, model.b_K))
    for layer, read in enumerate(reads):
        read, scores = read.numpy(), trace.scores[layer].numpy()
        turns = {o: rotation(model, layer, o) for o in range(-texts.N_CTX, texts.N_CTX + 1)}
        for d, (row, column) in enumerate(SIDES):
            own = list(cells(world, batch, layer, row, column))
            m, n = mean[layer, int(row == DOC)], mean[layer, int(column == DOC)]
            equal = np.array([bool(tokens[pair, i] == tokens[pair, j]) for pair, i, j in own])
            assert np.broadcast_to(found.token_pairs, found.variance.shape)[d, layer, 0] == len(own) > 50
            for head in range(model.cfg.n_heads):
                terms = []
                for pair, i, j in own:
                    A = W_Q[layer, head] @ turns[j - i] @ W_K[layer, head].T / scale
                    x, y = read[pair, i] - m, read[pair, j] - n
                    terms.append([m @ A @ n, x @ A @ n, m @ A @ y, x @ A @ y])
                    # what biases add to the content, and positions beside it
                    q, k = read[pair, i] @ W_Q[layer, head], read[pair, j] @ W_K[layer, head]
                    turn = turns[j - i]
                    biases = (b_Q[layer, head] @ turn @ k + (q + b_Q[layer, head]) @ turn @ b_K[layer, head]) / scale
                    left = scores[pair, head, i, j] - sum(terms[-1]) - biases
                    if relative:
                        terms[-1].append(left)
                    else:
                        assert left == pytest.approx(0, abs=1e-9)
                check(found, (d, layer, head), np.array(terms), own, equal)
    assert np.allclose(found.shares.sum(-1), 1)


def check(found, at, terms, own, equal):
    """The statistics of one head."""
    score, epsilon, interaction = terms.sum(1), terms[:, 1] + terms[:, 2], terms[:, 3]
    assert found.mean_square[at] == pytest.approx((score**2).mean(), rel=1e-8)
    assert found.variance[at] == pytest.approx(score.var(), rel=1e-7)
    assert found.shares[at] == pytest.approx((terms * score[:, None]).mean(0) / (score**2).mean(), abs=1e-8)
    covariances = [np.cov(term, score, bias=True)[0, 1] for term in terms.T]
    assert found.variance_shares[at] == pytest.approx(np.array(covariances) / score.var(), abs=1e-7)
    assert found.two_term_r2[at] == pytest.approx(1 - (epsilon**2).mean() / score.var(), rel=1e-6)
    rows = {}
    for place, (pair, i, _) in enumerate(own):
        rows.setdefault((pair, i), []).append(place)
    centred = np.array([score, interaction])
    for places in rows.values():
        centred[:, places] -= centred[:, places].mean(1, keepdims=True)
    missed = centred[0] - centred[1]
    assert found.row_r2[at] == pytest.approx(1 - (missed**2).sum() / (centred[0] ** 2).sum(), rel=1e-6, abs=1e-9)
    lift = (interaction[equal].mean() - interaction[~equal].mean()) / interaction.std()
    assert found.match_lift[at] == pytest.approx(lift, rel=1e-6)


def test_contrasts_are_mean_scores_of_the_means_over_the_offsets_that_occur(seen):
    world, model, encoded, batch, _, _ = seen
    rotary = model.cfg.rotary_bases is not None
    mean = np.random.default_rng(7).normal(size=(model.cfg.n_layers, 2, model.cfg.d_model))
    turn = mean_rotations(model, offset_counts(encoded, model.cfg.n_ctx)) if rotary else None
    found = mean_scores(model, mean, turn)
    assert found.scale == pytest.approx(np.sqrt(model.cfg.d_head * (3 if model.cfg.relative is not None else 1)))
    W_Q, W_K, b_Q, b_K = (w.detach().numpy() for w in (model.W_Q, model.W_K, model.b_Q, model.b_K))
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            plain, biased = np.zeros((2, 2)), np.zeros((2, 2))
            for x, row in enumerate((QUERY, DOC)):
                for y, column in enumerate((QUERY, DOC)):
                    offsets = [j - i for _, i, j in cells(world, batch, layer, row, column)]
                    R = np.mean([rotation(model, layer, o) for o in offsets], axis=0)
                    q, k = mean[layer, x] @ W_Q[layer, head], mean[layer, y] @ W_K[layer, head]
                    plain[x, y] = q @ R @ k
                    biased[x, y] = (q + b_Q[layer, head]) @ R @ (k + b_K[layer, head])
            np.testing.assert_allclose(found.plain[layer, head], plain, atol=1e-9)
            np.testing.assert_allclose(found.biased[layer, head], biased, atol=1e-9)
            for values, name in ((plain, "contrast"), (biased, "contrast_biased")):
                assert getattr(found, name)[layer, head] == pytest.approx(values[0, 1] - values[1, 1], abs=1e-9)
                assert getattr(found, f"other_{name}")[layer, head] == pytest.approx(
                    values[1, 0] - values[1, 1], abs=1e-9
                )


def test_alignment_at_offset_0_and_over_the_offsets_that_occur(seen):
    world, model, encoded, batch, _, _ = seen
    if model.cfg.rotary_bases is None:
        pytest.skip("positions are not rotary")
    turn = mean_rotations(model, offset_counts(encoded, model.cfg.n_ctx))
    at_zero, over = spectrum(model.W_Q, model.W_K), spectrum_over_offsets(model, turn)
    for layer in range(model.cfg.n_layers):
        offsets = [j - i for _, i, j in cells(world, batch, layer, QUERY, DOC)]
        assert min(offsets) > 0
        R = np.mean([rotation(model, layer, o) for o in offsets], axis=0)
        for head in range(model.cfg.n_heads):
            W_Q, W_K = (w[layer, head].detach().numpy() for w in (model.W_Q, model.W_K))
            for found, A in ((at_zero, W_Q @ W_K.T), (over, W_Q @ R @ W_K.T)):
                expected = np.trace(A) / np.linalg.svd(A, compute_uv=False).sum()
                assert found.alignment[layer, head] == pytest.approx(expected, abs=1e-10)


def test_offsets_by_pair_weigh_every_pair_of_texts_the_same(seen):
    _, model, encoded, batch, _, _ = seen
    n = model.cfg.n_ctx
    halves = [model.encode_pairs(QUERIES[some], PASSAGES[some]) for some in (slice(4), slice(4, None))]
    parts = [offset_counts(half, n, weighting="pair") for half in halves]
    found = parts[0] + (OffsetCounts.empty(n) + parts[1])
    expected = np.zeros((2 * n - 1,))
    for row in batch.parts.tolist():
        offsets = [j - i for i, p in enumerate(row) for j, o in enumerate(row) if (p, o) == (DOC, QUERY)]
        for offset in offsets:
            expected[offset + n - 1] += 1 / len(offsets)
    np.testing.assert_allclose(found.counts[1, 0], expected, atol=1e-12)
    assert expected.sum() == pytest.approx(len(encoded) - 1)  # one passage is empty
