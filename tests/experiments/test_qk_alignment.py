"""Figure 2 end to end on a tiny model (frames against the parts they are made of) and on the model with a known answer."""

import numpy as np
import pytest
import torch
from helpers import bert_tokenizer
from planted_texts import graded_pool
from tiny_models import D_HEAD, N_HEADS, N_LAYERS, tiny_hf

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.experiments import qk_alignment
from tl_crossenc.experiments.qk_alignment import run_qk_alignment
from tl_crossenc.instruments.qk import mean_scores, part_moments, spectrum
from tl_crossenc.instruments.qk_terms import term_moments
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.porting import config_from_checkpoint, port_weights
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec
from tl_crossenc.results.unavailable import Unavailable
from tl_crossenc.store.cells import Store

FRAMES = ("heads", "products", "spectrum", "decomposition", "layers")
WORDS = ("how", "do", "fleas", "lay", "egg", "the", "bread", "rise")


@pytest.fixture(scope="module")
def model():
    """A tiny model that reads texts, in float64."""
    hf = tiny_hf(vocab_size=113)
    checkpoint = Checkpoint("tiny", "sha256:0", hf.config.to_dict(), lambda: iter(hf.state_dict().items()), None, None)
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, torch.float64), bert_tokenizer())
    port_weights(model, checkpoint)
    return model.eval()


def some_pool(name, n_pairs, seed, empty=()):
    """Pairs of a few words; those numbered in `empty` have an empty passage."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(n_pairs):
        query = " ".join(rng.choice(WORDS, 2 + i % 3 % 2))
        text = "" if i in empty else " ".join(rng.choice(WORDS, 1 + i % 7))
        pairs.append(PoolPair(f"{name}{i}", query, f"d{i}", text, int(rng.integers(-1, 4))))
    return Pool(name, PoolSpec(), tuple(pairs), {})


@pytest.fixture
def pools():
    """Two pools of 11 and 5 pairs, one of them with an empty passage."""
    return [some_pool("a", 11, 1, empty=(4,)), some_pool("b", 5, 2)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def encode(model, pairs):
    return model.encode_pairs([pair.query for pair in pairs], [pair.text for pair in pairs])


def row_of(frame, **where):
    chosen = frame
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def same(left, right):
    return all(getattr(left, name).equals(getattr(right, name)) for name in FRAMES)


@pytest.mark.parametrize("weighting", ["token", "pair"])
def test_frames_hold_what_the_instruments_measure(model, pools, store, monkeypatch, weighting):
    monkeypatch.setattr(qk_alignment, "SHARD", 3)
    found = run_qk_alignment(model, pools, store, weighting=weighting)
    everything = encode(model, [pair for pool in pools for pair in pool.pairs])
    moments = part_moments(model, everything, weighting=weighting)
    shape, means = spectrum(model.W_Q, model.W_K), mean_scores(model, moments.mean)
    terms = term_moments(model, everything, moments.mean)
    assert (found.pairs, found.sampled, found.collections, found.weighting) == (16, 16, ("a", "b"), weighting)
    assert [len(getattr(found, name)) for name in FRAMES] == [9, 9 * 8, 9 * D_HEAD, 18, 6]
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            at, where = (layer, head), {"layer": layer, "head": head}
            row = row_of(found.heads, **where)
            assert row["trace"] == pytest.approx(shape.trace[at])
            assert row["alignment"] == pytest.approx(shape.trace[at] / shape.sigma[at].sum())
            assert row["sum_sigma"] == pytest.approx(shape.sigma[at].sum())
            spreads = [terms.variance[(d, *at)] ** 0.5 for d in range(2)]
            assert row["score_sd"] == pytest.approx(spreads[0])
            for name, sd in zip(("contrast", "other_contrast"), spreads, strict=True):
                for column in (name, f"{name}_biased"):
                    raw = getattr(means, column)[at]
                    assert row[column] == pytest.approx(raw)
                    assert row[f"{column}_logit"] == pytest.approx(raw / 7**0.5)
                    assert row[f"{column}_relative"] == pytest.approx(raw / 7**0.5 / sd)
            for biases, grid in ((False, means.plain[at]), (True, means.biased[at])):
                for (x, attender), (y, attended) in (
                    ((x, a), (y, b)) for x, a in enumerate(("QUERY", "DOC")) for y, b in enumerate(("QUERY", "DOC"))
                ):
                    product = row_of(found.products, **where, biases=biases, direction=f"{attender}->{attended}")
                    assert product["raw"] == pytest.approx(grid[x, y])
                    assert product["logit"] == pytest.approx(grid[x, y] / 7**0.5)
            for k in (1, 4, D_HEAD):
                direction = row_of(found.spectrum, **where, k=k)
                kept = shape.sigma[at][:k] * shape.overlap[at][:k]
                assert direction["sigma"] == pytest.approx(shape.sigma[at][k - 1])
                assert direction["overlap"] == pytest.approx(shape.overlap[at][k - 1])
                assert direction["cumulative"] == pytest.approx(kept.sum())
                assert direction["cumulative_alignment"] == pytest.approx(kept.sum() / shape.sigma[at][:k].sum())
            for d, name in enumerate(("QUERY->DOC", "DOC->QUERY")):
                part = row_of(found.decomposition, **where, direction=name)
                assert part["token_pairs"] == terms.count[d]
                for i, term in enumerate(("constant", "attender", "attended", "interaction")):
                    assert part[f"share_{term}"] == pytest.approx(terms.shares[(d, *at)][i], abs=1e-9)
                for column in ("epsilon_ratio", "two_term_r2", "row_r2", "match_lift", "mean_square", "variance"):
                    assert part[column] == pytest.approx(getattr(terms, column)[(d, *at)], rel=1e-6), column
        for i, part in enumerate(("QUERY", "DOC")):
            row = row_of(found.layers, layer=layer, part=part)
            assert row["spread"] == pytest.approx(moments.spread[layer, i])
            assert row["norm"] == pytest.approx((moments.mean[layer, i] ** 2).sum() ** 0.5)
            assert row["tokens"] == moments.tokens[i]
    assert not any(getattr(found, name).isna().any(axis=None) for name in FRAMES)


def test_a_rerun_does_no_model_work_and_gives_the_same(model, pools, store, monkeypatch):
    first = run_qk_alignment(model, pools, store)

    def refuse(*_, **__):
        raise AssertionError("the model ran")

    monkeypatch.setattr(HookedCrossEncoder, "run_with_hooks", refuse)
    steps = []
    again = run_qk_alignment(model, pools, store, progress=lambda *step: steps.append(step))
    assert same(first, again)
    assert steps == []
    with pytest.raises(AssertionError, match="the model ran"):
        run_qk_alignment(model, pools, store, weighting="pair")
    with pytest.raises(AssertionError, match="the model ran"), model.ablating("DOC->QUERY"):
        run_qk_alignment(model, pools, store)


def test_what_a_killed_run_left_is_used(model, pools, store, tmp_path, monkeypatch):
    monkeypatch.setattr(qk_alignment, "SHARD", 3)
    whole = run_qk_alignment(model, pools, Store(tmp_path / "other"))

    def stop(done, total):
        if done >= total / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_qk_alignment(model, pools, store, progress=stop)
    steps = []
    resumed = run_qk_alignment(model, pools, store, progress=lambda *step: steps.append(step))
    assert same(whole, resumed)
    done, total = steps[-1]
    assert done == total < (N_LAYERS - 1) * 2 * 16
    assert [step[0] for step in steps] == sorted({step[0] for step in steps})


def test_progress_counts_layers_run(model, pools, store):
    steps = []
    run_qk_alignment(model, pools, store, max_pairs=7, progress=lambda *step: steps.append(step))
    assert steps == [(2 * 11, 2 * 23), (2 * 16, 2 * 23), (2 * 23, 2 * 23)]


def test_the_sample_is_seeded_and_bounded(model, pools, tmp_path):
    def run(name, **settings):
        return run_qk_alignment(model, pools, Store(tmp_path / name), **settings)

    few, again, other, all_of_them = (
        run("a", max_pairs=5),
        run("b", max_pairs=5),
        run("c", max_pairs=5, seed=1),
        run("d"),
    )
    assert same(few, again)
    assert (few.sampled, few.seed, other.seed, all_of_them.sampled) == (5, 0, 1, 16)
    assert not few.decomposition.equals(other.decomposition)
    assert few.products.equals(other.products)  # the means are of all pairs, whatever the sample
    assert few.products.equals(all_of_them.products)
    assert few.decomposition["token_pairs"].max() < all_of_them.decomposition["token_pairs"].min()
    chosen = np.sort(np.random.default_rng(1).permutation(16)[:5])
    pairs = [pair for pool in pools for pair in pool.pairs]
    words = sum(len(pairs[i].query.split()) * len(pairs[i].text.split()) for i in chosen)
    assert set(other.decomposition["token_pairs"]) == {words}  # every word of these texts is one word piece


@pytest.mark.parametrize("changed", [{"max_pairs": 7}, {"seed": 1}, {"weighting": "pair"}])
def test_settings_do_not_share_cells(model, pools, store, tmp_path, changed):
    run_qk_alignment(model, pools, store, max_pairs=5)
    beside = run_qk_alignment(model, pools, store, **{"max_pairs": 5, **changed})
    alone = run_qk_alignment(model, pools, Store(tmp_path / "alone"), **{"max_pairs": 5, **changed})
    assert same(beside, alone)


@pytest.mark.parametrize(
    ("pools", "reason"),
    [
        ([], "need pairs of a query and a passage"),
        ([some_pool("none", 0, 0)], "need pairs of a query and a passage"),
        ([some_pool("empty", 3, 0, empty=(0, 1, 2))], "need DOC tokens, and no pair has any"),
    ],
)
def test_unavailable(model, store, pools, reason):
    with pytest.raises(Unavailable, match=reason):
        run_qk_alignment(model, pools, store)


def test_unavailable_where_the_sample_has_empty_passages_only(model, store):
    pool = some_pool("mostly", 9, 0, empty=range(1, 9))
    seed = next(s for s in range(20) if np.random.default_rng(s).permutation(9)[0] != 0)
    with pytest.raises(Unavailable, match="none of 1 has both"):
        run_qk_alignment(model, [pool], store, max_pairs=1, seed=seed)


def test_bad_settings(model, pools, store):
    with pytest.raises(ValueError, match="expected max_pairs of at least 1, got 0"):
        run_qk_alignment(model, pools, store, max_pairs=0)
    with pytest.raises(ValueError, match="expected a weighting among token, pair, got 'word'"):
        run_qk_alignment(model, pools, store, weighting="word")


def test_numbers_that_are_not_finite_are_not_stored(pools, store):
    hf = tiny_hf(vocab_size=113)
    checkpoint = Checkpoint("bad", "sha256:1", hf.config.to_dict(), lambda: iter(hf.state_dict().items()), None, None)
    model = HookedCrossEncoder(config_from_checkpoint(checkpoint, torch.float64), bert_tokenizer())
    port_weights(model, checkpoint)
    model.b_out[0, 3] = float("nan")
    with pytest.raises(ValueError, match="expected finite activations, but mean"):
        run_qk_alignment(model.eval(), pools, store)
    assert store.keys("qk-means") == []


def test_the_planted_matching_head_is_the_one(store):
    """Its score is 20 c.c' / 32 - 12 t t': the type alone gives a contrast of 12 - (-12), the rest is the code."""
    found = run_qk_alignment(HookedCrossEncoder.from_pretrained("planted", device="cpu"), [graded_pool()], store)
    layer, head = MATCHING_HEAD
    row = row_of(found.heads, layer=layer, head=head)
    others = found.heads[(found.heads["layer"] != layer) | (found.heads["head"] != head)]
    assert row["contrast_logit"] == pytest.approx(24, abs=1)
    assert row["other_contrast_logit"] == pytest.approx(24, abs=1)
    assert np.abs(others[["contrast_logit", "other_contrast_logit"]].to_numpy()).max() < 1e-3
    assert row["alignment"] == pytest.approx(0.983, abs=1e-3)  # 32 singular vectors agree, one is opposed
    assert others["alignment"].max() < 0.5
    directions = found.spectrum[(found.spectrum["layer"] == layer) & (found.spectrum["head"] == head)]
    assert (directions["overlap"][directions["sigma"] > 1e-3] > 0.99).sum() == 32
    assert (directions["overlap"][directions["sigma"] > 1e-3] < -0.99).sum() == 1
    for direction in ("QUERY->DOC", "DOC->QUERY"):
        parts = found.decomposition[found.decomposition["direction"] == direction]
        part = row_of(parts, layer=layer, head=head)
        assert part["mean_square"] > 1e6 * parts["mean_square"].drop(part.name).max()
        assert part["epsilon_ratio"] < 0.1
        assert part["two_term_r2"] > 0.95
        assert part["row_r2"] > 0.95
        assert part["match_lift"] > 3
