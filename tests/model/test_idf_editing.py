"""Editing along the first singular direction: by NumPy's decomposition, undone to the byte, and another model to the store."""

import numpy as np
import pytest
import torch
from helpers import one_sentence
from small_worlds import count_layers, pool_of_words, tiny_model

from tl_crossenc.experiments.scoring import score_pool
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.identity import weights_digest
from tl_crossenc.model.idf_editing import editing_idf, singular_directions
from tl_crossenc.store.cells import Store


@pytest.fixture(params=["float64", "float32", "bfloat16"])
def model(request, tmp_path):
    return tiny_model(tmp_path / "m", dtype=request.param)


def held(model):
    return model.embed.W_E.detach().view(torch.uint8).clone()


def test_directions_are_those_of_the_singular_value_decomposition():
    W = torch.randn(61, 13, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W += 3 * torch.randn(61, 1, generator=torch.Generator().manual_seed(1)).double() * torch.linspace(-1, 0.3, 13)
    values, vectors = singular_directions(W)
    _, s, vt = np.linalg.svd(W.numpy(), full_matrices=False)
    np.testing.assert_allclose(values, s, atol=1e-11)
    np.testing.assert_allclose(vectors.T, vt * np.sign(vt.sum(1))[:, None], atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, -2.5, 37.0])
def test_the_component_of_the_tokens_is_multiplied_and_nothing_else(model, scale):
    W = model.embed.W_E.detach().clone().double().numpy()
    u, s, vt = np.linalg.svd(W, full_matrices=False)
    u = u.copy()
    rows = [model.tokenizer.get_vocab()["flea"], 7]
    u[rows, 0] *= scale
    expected = u @ np.diag(s) @ vt
    tolerance = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 0.05}[str(model.dtype).removeprefix("torch.")]
    size = np.abs(expected).max()
    before = held(model)
    with editing_idf(model, ["flea", np.int64(7), "flea"], scale) as edited:
        assert edited is model
        now = model.embed.W_E.detach().double().numpy()
        np.testing.assert_allclose(now, expected, atol=tolerance * size)
        others = np.setdiff1d(np.arange(len(W)), rows)
        assert np.array_equal(now[others], W[others])
        assert not np.array_equal(now[rows], W[rows])
    assert torch.equal(held(model), before)


def test_scale_one_touches_nothing(model, tmp_path):
    before, digest = held(model), weights_digest(model)
    with editing_idf(model, ["flea"], 1.0):
        assert torch.equal(held(model), before)
        assert weights_digest(model) == digest


def test_bytes_are_as_before_after_an_error_and_after_nested_edits(model):
    before = held(model)
    inside = []

    def fail():
        inside.append(held(model))
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), editing_idf(model, ["flea"], 4.0):
        fail()
    assert not torch.equal(inside[0], before)
    assert torch.equal(held(model), before)
    with editing_idf(model, ["flea", "egg"], 4.0):
        outer = held(model)
        with editing_idf(model, ["egg"], -3.0):
            assert not torch.equal(held(model), outer)
        assert torch.equal(held(model), outer)
    assert torch.equal(held(model), before)


def test_stored_results_of_the_edited_model_are_its_own(tmp_path, monkeypatch):
    model, store = tiny_model(tmp_path / "m"), Store(tmp_path / "s")
    pool = pool_of_words("words", {"q": "how do fleas lay"}, {"q": (0, 1, 2)}, ["flea", "egg", "bread"])

    def scores():
        return score_pool(model, pool, [UNABLATED], store).values

    plain, digest = scores(), weights_digest(model)
    with editing_idf(model, ["flea", "egg"], 25.0):
        assert weights_digest(model) != digest
        edited = scores()
    assert np.abs(edited - plain).max() > 1e-3
    calls = count_layers(monkeypatch)
    assert np.array_equal(scores(), plain)
    with editing_idf(model, ["flea", "egg"], 25.0):
        assert np.array_equal(scores(), edited)
    assert calls == []
    assert weights_digest(model) == digest


@pytest.mark.parametrize(
    ("tokens", "scale", "error", "words"),
    [
        ([], 2.0, ValueError, "expected a list of tokens to edit, got none"),
        ("flea", 2.0, ValueError, "expected a list of tokens to edit, got the text"),
        (["flea", "wellesley"], 2.0, ValueError, "expected word pieces of the tokenizer's vocabulary, got 'wellesley'"),
        ([10**6], 2.0, ValueError, "expected token ids from 0 to"),
        ([-1], 2.0, ValueError, "expected token ids from 0 to"),
        ([2.5], 2.0, TypeError, "expected word pieces or token ids, got 2.5"),
        ([True], 2.0, TypeError, "expected word pieces or token ids, got True"),
        (["flea"], float("nan"), ValueError, "expected a finite scale"),
        (["flea"], float("inf"), ValueError, "expected a finite scale"),
        (["flea"], 1e308, ValueError, "expected a scale that torch.float"),
    ],
)
def test_what_cannot_be_edited_is_one_sentence(tmp_path, tokens, scale, error, words):
    model = tiny_model(tmp_path / "m", dtype="float32")
    before = held(model)
    with pytest.raises(error) as caught, editing_idf(model, tokens, scale):
        raise AssertionError("inside")
    assert str(caught.value).startswith(words)
    assert one_sentence(str(caught.value))
    assert torch.equal(held(model), before)
