"""Linear probes against scikit-learn by loops, and on worlds whose answer is known."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from tl_crossenc.statistics.explained import explained
from tl_crossenc.statistics.folds import dealt, query_folds, shuffled_within
from tl_crossenc.statistics.probes import PENALTIES, STRENGTHS, logistic_probe, ridge_probe


def world(n_queries=7, d=11, seed=0, noise=0.5, sizes=(3, 5, 4)):
    """(X, y, queries): y is linear in X but for noise."""
    rng = np.random.default_rng(seed)
    queries = [f"q{q}" for q in range(n_queries) for _ in range(sizes[q % len(sizes)])]
    X = rng.normal(size=(len(queries), d)) * rng.uniform(0.1, 30, d) + rng.normal(size=d)
    w = rng.normal(size=d) / X.std(0)
    return X, X @ w + noise * rng.normal(size=len(queries)), queries


def chosen_and_predicted(X, y, queries, asked):
    """(penalty, predictions) of one fold by scikit-learn, every left-out query fitted anew."""
    codes = np.array(queries)[~asked]
    scaler = StandardScaler().fit(X[~asked])
    Z, errors = scaler.transform(X[~asked]), {}
    for penalty in PENALTIES:
        errors[penalty] = 0.0
        for rest, left in LeaveOneGroupOut().split(Z, groups=codes):
            fitted = Ridge(alpha=penalty, solver="svd").fit(Z[rest], y[~asked][rest])
            errors[penalty] += ((fitted.predict(Z[left]) - y[~asked][left]) ** 2).sum()
    best = min(PENALTIES, key=lambda penalty: errors[penalty])
    return best, Ridge(alpha=best, solver="svd").fit(Z, y[~asked]).predict(scaler.transform(X[asked]))


@pytest.mark.parametrize(("n_queries", "d"), [(7, 11), (5, 37)])
def test_ridge_is_scikit_learns_with_every_query_left_out_in_turn(n_queries, d):
    """More pairs than columns, and fewer; several targets at once, each with a penalty of its own."""
    X, y, queries = world(n_queries, d)
    rng = np.random.default_rng(5)
    Y = np.stack([y, rng.normal(size=len(y)), y + 9 * rng.normal(size=len(y))], 1)
    folds = query_folds(queries, 3, seed=2)
    found = ridge_probe(X, Y, queries, folds)
    for i, fold in enumerate(range(3)):
        for target in range(3):
            penalty, predicted = chosen_and_predicted(X, Y[:, target], queries, folds == fold)
            assert found.chosen[i, target] == penalty
            np.testing.assert_allclose(found.predictions[folds == fold, target], predicted, rtol=1e-7, atol=1e-9)
    assert len(set(found.chosen.ravel().tolist())) > 1
    np.testing.assert_allclose(ridge_probe(X, Y[:, 1], queries, folds).predictions[:, 0], found.predictions[:, 1])


def test_logistic_is_scikit_learns_by_another_solver():
    X, y, queries = world(8, 5, seed=3, noise=4)
    labels = (y > np.median(y)).astype(int)
    folds = query_folds(queries, 4, seed=1)
    found = logistic_probe(X, labels, queries, folds, seed=6)
    for i, fold in enumerate(range(4)):
        rest = folds != fold
        scaler = StandardScaler().fit(X[rest])
        Z = scaler.transform(X[rest])
        inner = dealt(np.array([int(q[1:]) for q in np.array(queries)[rest]]), 3, 6)
        losses = {}
        for C in STRENGTHS:
            losses[C] = 0.0
            for part in range(3):
                own = LogisticRegression(C=C, solver="newton-cholesky").fit(
                    Z[inner != part], labels[rest][inner != part]
                )
                asked = labels[rest][inner == part]
                losses[C] += len(asked) * log_loss(asked, own.predict_proba(Z[inner == part]), labels=[0, 1])
        best = min(STRENGTHS, key=lambda C: losses[C])
        assert found.chosen[i, 0] == best
        whole = LogisticRegression(C=best, solver="newton-cholesky").fit(Z, labels[rest])
        expected = whole.decision_function(scaler.transform(X[~rest]))
        np.testing.assert_allclose(found.predictions[~rest, 0], expected, atol=2e-3)
    assert len(set(found.chosen.ravel().tolist())) > 1


@pytest.mark.parametrize("probe", [ridge_probe, logistic_probe])
def test_nothing_of_a_fold_enters_its_predictions(probe):
    """Neither its labels, nor other pairs' states of it, by whatever moments or penalty."""
    X, y, queries = world(9, 6, seed=4)
    labels = (y > 0).astype(float)
    folds = query_folds(queries, 3, seed=0)
    before = probe(X, labels, queries, folds).predictions[:, 0]
    asked = np.flatnonzero(folds == 1)
    other_X, other_labels = X.copy(), labels.copy()
    other_X[asked[1:]] *= 1000
    other_labels[asked] = 1 - other_labels[asked]
    after = probe(other_X, other_labels, queries, folds).predictions[:, 0]
    assert after[asked[0]] == before[asked[0]]
    rest = folds != 1
    assert (after[rest] != before[rest]).all()  # who fits on them sees it


def test_a_linear_world_has_the_r2_that_its_noise_leaves():
    """Signal of variance 3, noise of variance 1: R² .75 but for what is lost in fitting 4 weights on 1,600 pairs."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2000, 4))
    y = X @ np.array([1.0, 1, 1, 0]) + rng.normal(size=2000)
    queries = [i // 20 for i in range(2000)]
    found = ridge_probe(X, y, queries, query_folds(queries, 5))
    r2, low, high, within = explained(y, found.predictions[:, 0], queries)
    assert r2 == pytest.approx(0.75, abs=0.02)
    assert low < 0.75 < high
    assert high - low < 0.06
    assert within == pytest.approx(0.75, abs=0.02)


def test_what_the_query_alone_tells_is_not_found_across_queries_and_would_be_by_a_split_of_pairs():
    rng = np.random.default_rng(2)
    queries = np.repeat(np.arange(30), 10)
    X = rng.normal(size=(30, 40))[queries] + 0.1 * rng.normal(size=(300, 40))  # which query it is, plainly
    y = rng.normal(size=30)[queries]
    by_query = ridge_probe(X, y, queries.tolist(), query_folds(queries.tolist(), 5)).predictions[:, 0]
    pairs = list(range(300))
    by_pair = ridge_probe(X, y, pairs, query_folds(pairs, 5)).predictions[:, 0]
    assert explained(y, by_query, queries.tolist()).r2 < 0.1
    assert explained(y, by_pair, queries.tolist()).r2 > 0.9


@pytest.mark.parametrize("noise", [0.0, 3e-7])
def test_columns_without_variance_give_every_pair_of_a_query_the_same(noise):
    """Rounding is no variance; a column with some is still seen beside them."""
    X, y, queries = world(6, 4)
    rng = np.random.default_rng(0)
    flat = np.array([5.0, -1, 0.3, 0])[None] * (1 + noise * rng.normal(size=(len(y), 4)))
    folds = query_folds(queries, 3)
    found = ridge_probe(flat, y, queries, folds)
    assert found.constant.tolist() == [4, 4, 4]
    for fold in range(3):
        np.testing.assert_allclose(found.predictions[folds == fold, 0], y[folds != fold].mean(), rtol=1e-12)
    both = ridge_probe(np.concatenate([flat, X], 1), y, queries, folds)
    assert both.constant.tolist() == [4, 4, 4]
    np.testing.assert_allclose(both.predictions, ridge_probe(X, y, queries, folds).predictions, rtol=1e-9)


def test_labels_that_are_all_the_same_are_predicted_so():
    X, y, queries = world(6, 4)
    folds = query_folds(queries, 3)
    np.testing.assert_allclose(ridge_probe(X, 0 * y + 2, queries, folds).predictions, 2)
    found = logistic_probe(X, 0 * y + 1, queries, folds).predictions
    assert np.isfinite(found).all()
    assert found.min() > 2


def test_folds_split_no_query_and_are_as_even_as_can_be():
    queries = [f"q{i % 13}" for i in range(61)]
    folds = query_folds(queries, 5, seed=3)
    by_query = {query: set(folds[[i for i, q in enumerate(queries) if q == query]]) for query in queries}
    assert all(len(found) == 1 for found in by_query.values())
    assert sorted(np.bincount([next(iter(found)) for found in by_query.values()])) == [2, 2, 3, 3, 3]
    assert folds.tolist() == query_folds(queries, 5, seed=3).tolist()
    assert folds.tolist() != query_folds(queries, 5, seed=4).tolist()


def test_shuffling_stays_within_queries():
    queries = [f"q{i % 7}" for i in range(60)]
    values = np.arange(60.0)
    found = shuffled_within(values, queries, seed=1)
    for query in set(queries):
        own = [i for i, q in enumerate(queries) if q == query]
        assert sorted(found[own]) == sorted(values[own])
    assert (found != values).sum() > 30
    assert found.tolist() != shuffled_within(values, queries, seed=2).tolist()


@pytest.mark.parametrize(
    ("n_queries", "n_folds", "message"),
    [
        (3, 5, "expected at least 5 queries for 5 folds, got 3: take fewer folds or more queries"),
        (3, 2, "expected at least 4 queries for 2 folds, got 3"),
        (9, 1, "expected at least 2 folds, one to predict and others to fit on, got 1"),
    ],
)
def test_too_few_queries_are_said(n_queries, n_folds, message):
    with pytest.raises(ValueError, match=message):
        query_folds(list(range(n_queries)), n_folds)


def test_what_cannot_be_fitted_is_said():
    X, y, queries = world(6, 4)
    folds = query_folds(queries, 3)
    with pytest.raises(
        ValueError, match="expected a row, targets, a query and a fold of every pair, got 24, 23, 24, 24"
    ):
        ridge_probe(X, y[1:], queries, folds)
    with pytest.raises(ValueError, match="leave out pairs whose set of tokens is empty"):
        ridge_probe(np.where(X[3, 1] == X, np.nan, X), y, queries, folds)
    for bad in (np.arange(len(y)) % 2, 0 * folds, np.array([int(q == "q0") for q in queries])):
        with pytest.raises(
            ValueError, match="expected each query in one fold, and two queries or more outside of each"
        ):
            ridge_probe(X, y, queries, bad)
    with pytest.raises(ValueError, match=r"expected penalties above 0, got \[0.0\]"):
        ridge_probe(X, y, queries, folds, penalties=[0.0])
    with pytest.raises(ValueError, match="expected labels 0 and 1 for logistic regression"):
        logistic_probe(X, y, queries, folds)


# R².


def test_r2_is_scikit_learns_and_within_queries_its_own():
    _, y, queries = world(7, 3)
    p = y + 2 * np.random.default_rng(0).normal(size=len(y))
    found = explained(y, p, queries)
    assert found.r2 == pytest.approx(r2_score(y, p))
    by_query = [[i for i, q in enumerate(queries) if q == query] for query in dict.fromkeys(queries)]
    errors = sum(float(sum((y[i] - y[own].mean() - p[i] + p[own].mean()) ** 2 for i in own)) for own in by_query)
    total = sum(float(sum((y[i] - y[own].mean()) ** 2 for i in own)) for own in by_query)
    assert found.within == pytest.approx(1 - errors / total)
    assert found.low < found.r2 < found.high


def test_the_interval_is_the_bootstrap_over_whole_queries():
    _, y, queries = world(7, 3)  # queries that differ most, so that a draw's own mean matters
    y = 0.1 * y + np.array([(0, 0, 0, 0, 0, 6, 9)[int(q[1:])] for q in queries])
    p = y + np.random.default_rng(0).normal(size=len(y))
    found = explained(y, p, queries, seed=4, draws=300)
    rng = np.random.default_rng(9)  # other draws
    by_query = [[i for i, q in enumerate(queries) if q == query] for query in dict.fromkeys(queries)]
    drawn = []
    for _ in range(4000):
        rows = [i for q in rng.integers(0, 7, 7) for i in by_query[q]]
        drawn.append(r2_score(y[rows], p[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.25 * width)
    assert found.high == pytest.approx(high, abs=0.25 * width)


def test_r2_may_be_negative_and_there_is_none_of_a_constant():
    queries = ["a", "a", "b", "b"]
    assert explained([0.0, 1, 0, 1], [3.0, 3, 3, 3], queries).r2 == pytest.approx(-25)
    assert np.isnan(explained([2.0] * 4, [1.0, 2, 3, 4], queries)).all()
    of_queries = explained([1.0, 1, 2, 2], [1.0, 1.5, 2, 2], queries)
    assert of_queries.r2 == pytest.approx(0.75)
    assert np.isnan(of_queries.within)
    with pytest.raises(ValueError, match="expected a finite target, prediction and query of every pair"):
        explained([1.0, np.nan], [1.0, 2.0], ["a", "b"])
