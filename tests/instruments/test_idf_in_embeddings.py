"""Idf in token embeddings: made to hold it in a known direction, by scikit-learn's regression, and where there is none."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from small_worlds import tiny_model

from tl_crossenc.instruments.idf_in_embeddings import NORM, PieceFrequencies, idf_in_embeddings, piece_frequencies

N_PIECES, WIDTH, PASSAGES = 1103, 17, 997


@pytest.fixture
def frequencies():
    df = np.random.default_rng(5).integers(1, 400, size=N_PIECES)
    df[1000:] = 0  # the last 103 are in no passage
    return PieceFrequencies(df, PASSAGES)


def orthonormal(seed=0, n=WIDTH):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def embeddings(frequencies, strength, place, noise=0.0, seed=1):
    """Rows whose component on direction `place` (by strength, from 0) is idf plus noise, on the others as random as can be."""
    rng = np.random.default_rng(seed)
    idf = np.where(frequencies.df > 0, frequencies.idf, frequencies.idf.max())
    parts = rng.normal(size=(N_PIECES, WIDTH)) * np.array([strength if i < place else 0.01 for i in range(WIDTH)])
    parts[:, place] = idf + noise * rng.normal(size=N_PIECES)
    return torch.tensor(parts @ orthonormal().T)


def test_df_counts_passages_and_idf_is_bm25s(tmp_path):
    model = tiny_model(tmp_path / "m")
    texts = ["the flea lay egg egg", "the egg", "bread", "", "the egg"]
    found = piece_frequencies(model, texts)
    ids = model.tokenizer.get_vocab()
    assert found.passages == 4  # one of them twice
    expected = {"the": 2, "flea": 1, "lay": 1, "egg": 2, "bread": 1, "rise": 0, "[CLS]": 0, "[SEP]": 0}
    assert {piece: found.df[ids[piece]] for piece in expected} == expected
    for piece, df in expected.items():
        assert found.idf[ids[piece]] == pytest.approx(math.log(1 + (4 - df + 0.5) / (df + 0.5)), abs=1e-14)
    assert len(found.df) == model.cfg.d_vocab


def test_idf_in_the_first_direction_is_found_in_one(frequencies):
    found = idf_in_embeddings(embeddings(frequencies, 0, 0), frequencies)
    assert found.features == ("1", "2", "4", "8", "16", "17", NORM)
    assert found.r2["1"] > 0.999
    assert abs(found.correlation) > 0.9999
    assert (len(found.pieces), found.left_out, found.decomposed) == (1000, 103, 1103)


def test_the_sign_of_the_correlation_is_that_of_a_direction_whose_entries_add_up_to_more_than_nothing(frequencies):
    """Rare pieces far along a direction of positive entries: positive; the same with all embeddings turned round: still so."""
    rng = np.random.default_rng(7)
    direction = np.abs(rng.normal(size=WIDTH))
    idf = np.where(frequencies.df > 0, frequencies.idf, 0.0)
    for sign in (1, -1):  # of what a piece has there
        W = sign * idf[:, None] * direction + 0.01 * rng.normal(size=(N_PIECES, WIDTH))
        found = idf_in_embeddings(torch.tensor(W), frequencies).correlation
        assert found == pytest.approx(sign, abs=1e-3)


def test_as_many_directions_as_half_of_the_pieces_fitted_on_are_too_many():
    """Twelve pieces, of which nine or ten are fitted on: up to three directions."""
    rng = np.random.default_rng(3)
    frequencies = PieceFrequencies(rng.integers(1, 30, size=12), 31)
    found = idf_in_embeddings(torch.tensor(rng.normal(size=(12, 7))), frequencies, sizes=(1, 2, 3, 4, 5, 7))
    assert found.features == ("1", "2", "3", NORM)


def test_idf_in_the_third_direction_needs_three(frequencies):
    found = idf_in_embeddings(embeddings(frequencies, 20, 2), frequencies, sizes=(1, 2, 3, 4)).r2
    assert max(found["1"], found["2"]) < 0.01
    assert min(found["3"], found["4"]) > 0.99


def test_with_noise_r2_is_the_share_of_variance_that_is_left(frequencies):
    idf = frequencies.idf[:1000]
    noise = idf.std()  # as large as what is sought: R² of 1/2
    found = idf_in_embeddings(embeddings(frequencies, 0, 0, noise=noise), frequencies).r2
    assert found["1"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("seen_rows", [False, True])
def test_predictions_are_scikit_learns_on_numpys_singular_vectors(frequencies, seen_rows):
    W = embeddings(frequencies, 3, 4, noise=0.7)
    found = idf_in_embeddings(W, frequencies, sizes=(1, 3, 5, 17), seen_rows=seen_rows, n_folds=7, seed=3)
    kept = found.pieces
    u = np.linalg.svd(W.numpy()[kept] if seen_rows else W.numpy(), full_matrices=False)[0]
    u = u if seen_rows else u[kept]
    fold = np.random.default_rng([3, 1000]).permutation(1000) % 7
    columns = {
        "1": u[:, :1],
        "3": u[:, :3],
        "5": u[:, :5],
        "17": u,
        NORM: np.linalg.norm(W.numpy()[kept], axis=1)[:, None],
    }
    idf = np.log(1 + (PASSAGES - frequencies.df[kept] + 0.5) / (frequencies.df[kept] + 0.5))
    for name, own in zip(found.features, found.predictions, strict=True):
        X = columns[name]
        for f in range(7):
            fitted = LinearRegression().fit(X[fold != f], idf[fold != f])
            np.testing.assert_allclose(own[fold == f], fitted.predict(X[fold == f]), atol=1e-6)
        assert found.r2[name] == pytest.approx(
            1 - ((own - idf) ** 2).sum() / ((idf - idf.mean()) ** 2).sum(), abs=1e-12
        )
    assert found.decomposed == (1000 if seen_rows else 1103)


def test_a_rotation_of_the_embeddings_changes_nothing(frequencies):
    W = embeddings(frequencies, 3, 2, noise=0.5)
    turned = W @ torch.tensor(orthonormal(9))
    found, other = (idf_in_embeddings(each, frequencies) for each in (W, turned))
    np.testing.assert_allclose(found.predictions, other.predictions, atol=1e-9)
    assert abs(found.correlation) == pytest.approx(abs(other.correlation), abs=1e-12)


def test_what_was_fitted_on_is_not_what_is_measured():
    """Random embeddings, 60 directions for 200 pieces: in-sample a quarter of the variance, held out less than the mean knows."""
    rng = np.random.default_rng(2)
    frequencies = PieceFrequencies(rng.integers(1, 90, size=200), 99)
    W = rng.normal(size=(200, 60))
    found = idf_in_embeddings(torch.tensor(W), frequencies, sizes=(60,)).r2
    in_sample = LinearRegression().fit(W, frequencies.idf).score(W, frequencies.idf)
    assert in_sample > 0.2
    assert found["60"] < 0.0


def test_idf_in_the_length_of_rows_alone_is_no_direction(frequencies):
    rng = np.random.default_rng(4)
    directions = rng.normal(size=(N_PIECES, WIDTH))
    W = directions / np.linalg.norm(directions, axis=1, keepdims=True) * frequencies.idf[:, None]
    found = idf_in_embeddings(torch.tensor(W), frequencies).r2
    assert found[NORM] > 0.999
    assert max(value for name, value in found.items() if name != NORM) < 0.05


def test_directions_without_variance_among_the_pieces_and_few_pieces_are_no_error():
    rng = np.random.default_rng(6)
    W = np.zeros((40, 11))
    W[:23, :4] = rng.normal(size=(23, 4))
    W[23:, 9] = 5.0  # in no passage, and the strongest direction
    df = np.where(np.arange(40) < 23, rng.integers(1, 30, size=40), 0)
    found = idf_in_embeddings(torch.tensor(W), PieceFrequencies(df, 31))
    assert found.features == ("1", "2", "4", "5", NORM)
    assert math.isnan(found.correlation)
    assert np.isfinite(found.predictions).all()
    assert found.r2["1"] <= 0.0


@pytest.mark.parametrize(
    ("df", "options", "words"),
    [
        ([1] * 40, {}, "expected at least 10 word pieces, not all equally rare, got 40"),
        ([1, 2] * 4 + [0] * 32, {}, "expected at least 10 word pieces, not all equally rare, got 8"),
        ([1, 2] * 19, {}, "expected the frequency of each of 40 rows"),
        ([1, 2] * 20, {"n_folds": 1}, "expected at least 2 folds"),
        ([1, 2] * 20, {"sizes": (0, 2)}, "expected at least 2 folds and sizes from 1 on"),
        ([1, 2] * 20, {"sizes": ()}, "expected at least 2 folds and sizes from 1 on"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(df, options, words):
    W = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=f"^{words}"):
        idf_in_embeddings(W, PieceFrequencies(np.array(df), 60), **options)


def test_weights_that_are_no_numbers_and_no_passages_are_refused(tmp_path):
    W = torch.full((40, 7), float("nan"))
    with pytest.raises(ValueError, match=r"^expected finite token embeddings"):
        idf_in_embeddings(W, PieceFrequencies(np.array([1, 2] * 20), 60))
    with pytest.raises(ValueError, match=r"^expected passages to count"):
        piece_frequencies(tiny_model(tmp_path / "m"), [])
    with pytest.raises(ValueError, match=r"^expected token embeddings that are not all 0"):
        idf_in_embeddings(torch.zeros(40, 7), PieceFrequencies(np.array([1, 2] * 20), 60))
