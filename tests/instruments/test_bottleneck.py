"""The bottleneck's identities, each by arithmetic that is not the code's own."""

import bottleneck_reference as reference
import numpy as np
import pytest
import torch
from planted_texts import graded_pool
from tiny_models import D_MODEL, N_LAYERS, encoded, port, run_hf, tiny_hf, tiny_rows, to_batch
from torch.distributions import Normal, kl_divergence
from type_checks import unchecked

from tl_crossenc.inputs.parts import Part
from tl_crossenc.instruments import bottleneck
from tl_crossenc.instruments.bottleneck import fit_bottlenecks
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.noise_mask import PairNoise, information, masked
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

OTHERS = encoded(tiny_rows(((3, 5), (2, 8), (1, 1), (4, 2), (2, 6)), seed=11))
ROWS = tiny_rows(((3, 5), (2, 8), (1, 1), (4, 0)), seed=1)
PAIRS = encoded(ROWS)
FEW = {"steps": 3, "copies": 2}
LAST = N_LAYERS - 1
OPEN, CLOSED = 1e4, -1e4


@pytest.fixture(scope="module")
def hf():
    return tiny_hf().double()


@pytest.fixture(scope="module")
def model(hf):
    return port(hf)


@pytest.fixture(scope="module")
def statistics(model):
    return LayerStatistics.fit(model, OTHERS)


def test_information_is_the_divergence_of_two_normal_distributions():
    generator = torch.Generator().manual_seed(0)
    alpha, r = (torch.randn(7, 11, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    share = 1 / (1 + torch.exp(-alpha))
    expected = kl_divergence(Normal(share * r, 1 - share), Normal(torch.zeros_like(r), torch.ones_like(r)))
    torch.testing.assert_close(information(alpha, r), expected, rtol=1e-9, atol=1e-12)


def test_information_is_nothing_behind_a_closed_mask_and_grows_without_a_bound():
    r = torch.tensor([-5.0, -1.0, 1.0, 3.0])
    assert (information(torch.full((4,), -torch.inf), r) == 0).all()
    ladder = torch.linspace(-9, 9, 31)[:, None].expand(31, 4)
    assert (information(ladder, r.expand(31, 4)).diff(dim=0) > 0).all()
    alpha = torch.tensor([17.0, 40.0, 90.0], requires_grad=True)  # where sigmoid is 1 in float32
    nats = information(alpha, torch.zeros(3))
    assert nats.tolist() == pytest.approx([16.5, 39.5, 89.5], abs=1e-4)
    nats.sum().backward()
    assert alpha.grad.tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_an_open_mask_is_the_stream_itself():
    stream = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    found = masked(torch.full_like(stream, torch.inf), stream, stream * 7, stream.abs() + 1, noise)
    assert torch.equal(found, stream[:, None].expand_as(noise))


def test_what_passes_has_the_mean_and_the_variance_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    stream, mean, alpha = (torch.randn(1, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    sigma, n = torch.rand(1, 2, 3, generator=generator, dtype=torch.float64) + 0.5, 40_000
    noise = torch.randn(1, n, 2, 3, generator=generator, dtype=torch.float64)
    found = masked(alpha, stream, mean, sigma, noise)[0]
    share = 1 / (1 + torch.exp(-alpha[0]))
    sd = (1 - share) * sigma[0]
    assert ((found.mean(0) - share * stream[0] - (1 - share) * mean[0]).abs() < 4.5 * sd / n**0.5).all()
    assert ((found.var(0) / sd**2 - 1).abs() < 4.5 * (2 / n) ** 0.5).all()


def test_noise_is_the_pairs_own_in_any_batch():
    digests, lengths = [b"a" * 32, b"b" * 32, b"c" * 32], [5, 2, 7]
    together = PairNoise(digests, lengths, 3, 4, 1, 9)
    draws = [together.draw().clone() for _ in range(2)]
    for i in range(3):
        alone = PairNoise(digests[i : i + 1], lengths[i : i + 1], 3, 4, 1, 9)
        for draw in draws:
            assert torch.equal(draw[i, :, : lengths[i]], alone.draw()[0])
            assert (draw[i, :, lengths[i] :] == 0).all()
    assert not torch.equal(draws[0], draws[1])
    for layer, seed in ((2, 9), (1, 8)):
        assert not torch.equal(PairNoise(digests, lengths, 3, 4, layer, seed).draw(), draws[0])


def test_the_score_is_its_own_behind_an_open_mask(model, statistics):
    found = fit_bottlenecks(model, PAIRS, statistics, Fitting(beta=0.0, alpha0=OPEN, **FEW))
    own = reference.scores_of(model, PAIRS)
    np.testing.assert_allclose(found.masked, np.tile(own, (N_LAYERS, 1)), rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.masked_sd, 0, atol=1e-11)


def test_the_score_knows_nothing_of_the_pair_behind_a_closed_mask(model, statistics, monkeypatch):
    two = encoded(tiny_rows(((3, 5), (3, 5)), seed=2))
    closed = Fitting(alpha0=CLOSED, steps=0, copies=3)
    apart = fit_bottlenecks(model, two, statistics, closed)
    assert (apart.bits == 0).all()
    assert (apart.masked[:, 0] != apart.masked[:, 1]).all()
    monkeypatch.setattr(bottleneck, "digests_of", lambda pairs: [b"x" * 32] * len(pairs))
    same = fit_bottlenecks(model, two, statistics, closed)
    np.testing.assert_allclose(same.masked[:, 0], same.masked[:, 1], rtol=0, atol=1e-13)
    assert same.scores[0] != same.scores[1]


def test_the_first_step_has_the_information_of_alpha_five(hf, model, statistics):
    """4.51 + .493 r^2 nats an element, by arithmetic: lambda = 1 / (1 + e^-5)."""
    found = fit_bottlenecks(model, PAIRS, statistics, Fitting(steps=0))
    hidden, share = run_hf(hf, to_batch(ROWS)).hidden_states, 1 / (1 + np.exp(-5.0))
    for layer in range(N_LAYERS):
        mean, sd = reference.moments(model, OTHERS, layer)
        for i, row in enumerate(ROWS):
            r2 = (((hidden[layer + 1][i, : len(row[0])] - mean) / sd) ** 2).numpy()
            nats = np.log(1 + np.exp(5.0)) + ((1 - share) ** 2 - 1) / 2 + share**2 / 2 * r2
            np.testing.assert_allclose(found.of(i)[layer] * np.log(2), nats.sum(1), rtol=1e-9)
            assert nats.mean() == pytest.approx(4.51 + 0.493 * r2.mean(), abs=5e-3)
    own = fit_bottlenecks(model, encoded(tiny_rows(((3, 5),) * 9, seed=4)), statistics, Fitting(steps=0))
    assert (own.bits * np.log(2) / D_MODEL).mean() == pytest.approx(5.0, abs=0.35)


def test_after_the_last_layer_only_cls_has_bits_that_the_objective_moves(model, statistics):
    found = [
        fit_bottlenecks(model, PAIRS, statistics, Fitting(objective, beta=beta, **FEW), layers=[LAST])
        for objective, beta in (("keep", 0.01), ("relevant", 0.01))
    ]
    cls = PAIRS.parts == Part.CLS
    assert np.array_equal(found[0].bits[:, ~cls], found[1].bits[:, ~cls])
    assert (np.abs(found[0].bits[:, cls] - found[1].bits[:, cls]) > 1e-3).any()


def test_an_affine_change_of_the_layer_leaves_bits_and_scores(hf, model, statistics):
    """x -> 3 x + 5 after layer 0, undone where layer 1 reads it; its LayerNorm takes both back but for its epsilon."""
    changed = port(hf)
    stack, a, c = changed.stack, 3.0, 5.0
    with torch.no_grad():
        stack.ln2_weight[0] *= a
        stack.ln2_bias[0] *= a
        stack.ln2_bias[0] += c
        stack.qkv_weight[1] /= a
        stack.qkv_bias[1] -= c * stack.qkv_weight[1].sum(-1)
        stack.out_weight[1] *= a
        stack.out_bias[1] *= a
    fitting = Fitting(beta=0.3, **FEW)
    plain = fit_bottlenecks(model, PAIRS, statistics, fitting, layers=[0])
    found = fit_bottlenecks(changed, PAIRS, LayerStatistics.fit(changed, OTHERS), fitting, layers=[0])
    np.testing.assert_allclose(found.scores, plain.scores, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.bits, plain.bits, rtol=1e-6)
    np.testing.assert_allclose(found.masked, plain.masked, rtol=0, atol=1e-6)
    moved, before = (one.spread(0) for one in (LayerStatistics.fit(changed, OTHERS), statistics))
    np.testing.assert_allclose(moved.mean, a * before.mean + c, rtol=0, atol=1e-10)


def test_a_larger_beta_leaves_fewer_bits(model, statistics):
    totals = [
        fit_bottlenecks(model, PAIRS, statistics, Fitting(beta=beta, copies=2)).bits.sum(1)
        for beta in (0.0, 0.1, 1.0, 10.0, 100.0)
    ]
    assert (np.diff(totals, axis=0) < 0).all()


def test_a_pair_alone_is_the_pair_among_others(model, statistics):
    fitting = Fitting(beta=0.3, **FEW)
    together = fit_bottlenecks(model, PAIRS, statistics, fitting, token_budget=10_000)
    for i in range(len(PAIRS)):
        alone = fit_bottlenecks(model, encoded(ROWS[i : i + 1]), statistics, fitting, layers=[1, 2])
        np.testing.assert_allclose(alone.bits, together.of(i)[1:], rtol=1e-8)
        np.testing.assert_allclose(alone.masked[:, 0], together.masked[1:, i], rtol=0, atol=1e-10)
    other = fit_bottlenecks(model, PAIRS, statistics, Fitting(beta=0.3, seed=1, **FEW))
    assert (np.abs(other.masked - together.masked) > 1e-6).all()


def test_the_total_by_part_is_the_sum_of_its_tokens(model, statistics):
    found = fit_bottlenecks(model, PAIRS, statistics, Fitting(**FEW), layers=[1])
    expected = [[found.of(i)[0][np.array(row[2]) == part].sum() for part in range(5)] for i, row in enumerate(ROWS)]
    np.testing.assert_allclose(found.by_part()[0], expected, rtol=1e-12)
    assert found.by_part()[0, 3, Part.DOC] == 0  # no passage


def test_what_is_ablated_stays_so(hf, model):
    """Layer 1's heads removed for good, by weights of 0, and removed by a condition."""
    silent = port(hf)
    with torch.no_grad():
        silent.stack.out_weight[1] = 0.0
    fitting = Fitting(beta=0.3, **FEW)
    expected = fit_bottlenecks(silent, PAIRS, LayerStatistics.fit(silent, OTHERS), fitting, layers=[0, 1])
    with model.ablating("ALL->ALL", layers=[1]):
        found = fit_bottlenecks(model, PAIRS, LayerStatistics.fit(model, OTHERS), fitting, layers=[0, 1])
    np.testing.assert_allclose(found.bits, expected.bits, rtol=1e-7)
    np.testing.assert_allclose(found.masked, expected.masked, rtol=0, atol=1e-9)


def test_no_weight_gets_a_gradient_and_progress_counts_what_was_said(model, statistics):
    told = []
    before = [weight.detach().clone() for weight in model.parameters()]
    fit_bottlenecks(model, PAIRS, statistics, Fitting(**FEW), layers=[0, 2], token_budget=40, progress=told.append)
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(*both) for both in zip(before, model.parameters(), strict=True))
    # once to the end; copies forth and back in each step and forth at the end, two layers above layer 0 and none above layer 2
    each = 3 + (2 * 3 + 1) * 2 * (2 + 0) + 2 * (3 + 1)
    assert len(told) > 1
    assert sum(told) == each * len(PAIRS)


def test_a_layer_without_variance_has_the_smallest_sigma_and_is_told(hf):
    still = port(hf)
    with torch.no_grad():
        still.stack.ln2_weight[0] = (
            0.0  # every token is the bias; the score still varies, by nothing but the passage's length
        )
    statistics = LayerStatistics.fit(still, OTHERS)
    found = fit_bottlenecks(still, PAIRS, statistics, Fitting("relevant", beta=100.0), layers=[0])
    assert found.floored == (D_MODEL,)
    assert np.isfinite(found.bits).all()
    assert found.bits.max() < 0.05 * D_MODEL


def test_what_is_put_in_by_default_is_what_the_documents_say():
    """Schulz et al. 2020's settings."""
    assert Fitting().fields == {
        **{"objective": "keep", "beta": 10.0, "steps": 10, "lr": 1.0, "alpha0": 5.0, "copies": 10},
        **{"by": "all", "min_sigma": 0.01, "seed": 0},
    }
    with unchecked():
        assert Fitting(beta=np.float32(2), seed=np.int64(3)).fields == Fitting(beta=2, seed=3).fields


def test_the_smallest_sigma_is_the_one_asked_for(model, statistics):
    """A hundred times the layer's own deviation leaves r nearly 0: 4.51 nats an element alone."""
    found = fit_bottlenecks(model, PAIRS, statistics, Fitting(steps=0, copies=1, min_sigma=100.0))
    assert found.floored == (D_MODEL,) * N_LAYERS
    np.testing.assert_allclose(found.bits * np.log(2) / D_MODEL, 4.5068, atol=1e-3)
    assert (found.masked_sd == 0).all()  # of one copy


def test_the_layers_are_those_of_the_statistics_by_default(model):
    found = fit_bottlenecks(model, PAIRS, LayerStatistics.fit(model, OTHERS, layers=[0, 2]), Fitting(steps=0, copies=1))
    assert found.layers == (0, 2)


@pytest.mark.parametrize("label", [0, 2])
def test_one_logit_of_several_is_relevant_against_all_others(label):
    """Cross-entropy of softmax over three labels, against the literal reference."""
    three = port(tiny_hf(n_labels=3, seed=4), score=f"index:{label}")
    settings = {"beta": 0.1, "steps": 2, "lr": 0.7, "alpha0": 1.0, "copies": 2, "seed": 3}
    found = fit_bottlenecks(
        three, PAIRS, LayerStatistics.fit(three, OTHERS), Fitting("relevant", **settings), layers=[1]
    )
    mean, sd = reference.moments(three, OTHERS, 1)
    for i, row in enumerate(reference.rows_of(PAIRS)):
        wide = [one.expand(row.tokens.shape[1], -1) for one in (mean, sd)]
        bits, scores = reference.fit(three, row, 1, *wide, 1.0, objective="relevant", label=label, **settings)
        np.testing.assert_allclose(found.of(i)[0], bits, rtol=1e-6)
        assert found.masked[0, i] == pytest.approx(float(scores.mean()), abs=1e-7)


def test_statistics_of_another_model_are_said(model, statistics):
    narrow = port(tiny_hf(hidden_size=15))
    with pytest.raises(ValueError, match=r"of 3 layers and width 15, got some of a layer 2 and width 21: estimate"):
        fit_bottlenecks(narrow, PAIRS, statistics)
    with pytest.raises(ValueError, match=r"of 2 layers and width 21, got some of a layer 2 and width 21"):
        fit_bottlenecks(port(tiny_hf(num_hidden_layers=2)), PAIRS, statistics, layers=[0])
    with (
        model.ablating("DOC->QUERY", layers=1),
        pytest.raises(
            ValueError, match=r"as it is now, got those of condition none in place of zero\(DOC->QUERY; layers=1"
        ),
    ):
        fit_bottlenecks(model, PAIRS, statistics)


def test_bad_input_is_one_sentence(hf, model, statistics):
    with pytest.raises(ValueError, match="at least one pair to fit a mask for, got none"):
        fit_bottlenecks(
            model,
            encoded(ROWS[:1]).__class__(*[np.zeros(0, np.int64)] * 3, np.zeros(1, np.int64), np.zeros(0, bool), 0),
            statistics,
        )
    loud = port(hf)
    with torch.no_grad():
        loud.classifier.bias[1] = torch.inf
    with pytest.raises(ValueError, match="finite bits and scores"):
        fit_bottlenecks(loud, PAIRS, statistics, Fitting("relevant", steps=0, copies=1))
    for name, wrong, said in (
        ("steps", "3", "a whole number"),
        ("copies", 1.5, "a whole number"),
        ("beta", None, "a number"),
        ("seed", True, "a whole"),
    ):
        with unchecked(), pytest.raises(TypeError, match=f"expected {said}.* as {name}, got"):
            Fitting(**{name: wrong})
    with pytest.raises(ValueError, match="seed of 64 bits"):
        Fitting(seed=2**63)
    with pytest.raises(ValueError, match=r"other pairs .* 1 of 2 .*pool without these"):
        fit_bottlenecks(model, encoded([ROWS[0], tiny_rows(((3, 5), (2, 8)), seed=11)[1]]), statistics)
    with pytest.raises(ValueError, match="expected a layer among 1 and by"):
        fit_bottlenecks(model, PAIRS, LayerStatistics.fit(model, OTHERS, layers=[1]), layers=[0])
    with pytest.raises(ValueError, match="layer"):
        fit_bottlenecks(model, PAIRS, statistics, layers=[N_LAYERS])
    one = LayerStatistics.fit(model, encoded(tiny_rows(((3, 5),), seed=11)))
    with pytest.raises(ValueError, match=r"scores that vary .* objective='relevant'"):
        fit_bottlenecks(model, PAIRS, one)
    with (
        model.hooks(fwd_hooks=[("blocks.0.hook_resid_mid", lambda value, hook: None)]),
        pytest.raises(ValueError, match="without hooks"),
    ):
        fit_bottlenecks(model, PAIRS, statistics)
    for wrong in ({"beta": -1.0}, {"lr": 0.0}, {"steps": -1}, {"copies": 0}, {"alpha0": np.inf}, {"min_sigma": 0.0}):
        with pytest.raises(ValueError, match="expected"):
            Fitting(**wrong)
    with unchecked(), pytest.raises(ValueError, match=r"keep or relevant .* got 'correct'"):
        Fitting("correct")


def test_planted_bits_go_where_the_circuit_reads(tmp_path):
    """Before the matching head at matched words of both sides, after it at the passage's flags, after the moving head at CLS."""
    planted = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pool = graded_pool(n_queries=4, per_grade=2, seed=1)
    chosen = [pair.query_id == "q0" and pair.grade == 2 for pair in pool.pairs]

    def encode(own):
        kept = [pair for pair, inside in zip(pool.pairs, chosen, strict=True) if inside is own]
        return planted.encode_pairs([pair.query for pair in kept], [pair.text for pair in kept])

    pairs = encode(True)
    found = fit_bottlenecks(
        planted, pairs, LayerStatistics.fit(planted, encode(False)), Fitting(beta=1.0, by="part", copies=5)
    )
    assert np.abs(found.masked - found.scores).max() < 0.25 * found.score_sd
    for i, row in enumerate(reference.rows_of(pairs)):
        tokens, parts = row.tokens[0].numpy(), row.parts.codes[0].numpy()
        query, doc = parts == Part.QUERY, parts == Part.DOC
        matched = (query & np.isin(tokens, tokens[doc])) | (doc & np.isin(tokens, tokens[query]))
        before, flagged, carried, last = found.of(i)
        assert before[matched].min() > 100 * before[~matched].max()
        for bits in (flagged, carried):
            assert bits[doc & matched].mean() > 1.2 * bits[doc & ~matched].mean()
            assert bits[~doc].max() < 0.3 * bits[doc].mean()
        assert last[parts == Part.CLS] > 50 * last[1:].max()
        assert np.ptp(last[1:]) < 0.01
