"""Bottlenecks of every kind of family, in padded uneven batches, against the literal reference, one pair at a time."""

import bottleneck_reference as reference
import numpy as np
import pytest
import torch
from family_models import opened

from tl_crossenc.instruments.bottleneck import fit_bottlenecks
from tl_crossenc.instruments.fitting import Fitting
from tl_crossenc.instruments.layer_statistics import LayerStatistics

CASES = {  # post-LN, projected embeddings, relative positions, rotary and windows and pre-LN, CLS and mean, one label and two
    "bert": (2, "keep", "all"),
    "xlm-roberta": (1, "keep", "all"),
    "jina-v2": (1, "relevant", "part"),
    "lightning-mono": (2, "keep", "all"),
    "distilbert": (1, "relevant", "all"),
    "ernie-without-tasks": (2, "relevant", "all"),
    "electra-projected": (1, "relevant", "all"),
    "deberta-v2": (1, "keep", "part"),
    "modernbert-cls": (2, "relevant", "all"),
    "modernbert-mean": (1, "keep", "all"),
    "gte": (2, "keep", "part"),
}
OTHERS = (
    ["how do fleas lay eggs", "bread", "bread"],
    ["fleas lay eggs on a host", "the yeast makes the bread rise", "an egg"],
)
PAIRS = (
    ["how do fleas reproduce", "bread", "why"],
    [
        "fleas lay eggs on a host and the eggs drop off",
        "yeast",
        "the eggs of a flea drop off and lie in a carpet for days",
    ],
)
SETTINGS = {"beta": 0.7, "steps": 3, "lr": 0.8, "alpha0": 3.0, "copies": 2, "seed": 5}


@pytest.mark.parametrize("name", CASES)
def test_bits_and_scores_are_the_references(name, tmp_path):
    n_labels, objective, by = CASES[name]
    _, model = opened(name, tmp_path, n_labels)
    others, pairs = model.encode_pairs(*OTHERS), model.encode_pairs(*PAIRS)
    assert len(set(pairs.lengths)) == 3
    layers = [0, model.cfg.n_layers - 2, model.cfg.n_layers - 1]
    statistics = LayerStatistics.fit(model, others, layers, token_budget=31)
    found = fit_bottlenecks(
        model, pairs, statistics, Fitting(objective, by=by, min_sigma=1e-9, **SETTINGS), token_budget=150
    )
    own, score_sd = reference.scores_of(model, pairs), reference.scores_of(model, others).std(ddof=1)
    np.testing.assert_allclose(found.scores, own, rtol=0, atol=1e-11)
    assert found.score_sd == pytest.approx(score_sd, rel=1e-10)
    for at, layer in enumerate(layers):
        groups = [None] if by == "all" else range(5)
        means, sds = (
            torch.stack(one) for one in zip(*(reference.moments(model, others, layer, g) for g in groups), strict=True)
        )
        for i, row in enumerate(reference.rows_of(pairs)):
            group = row.parts.codes[0].long() if by == "part" else torch.zeros(row.tokens.shape[1], dtype=torch.long)
            bits, scores = reference.fit(
                model, row, layer, means[group], sds[group], score_sd, objective=objective, **SETTINGS
            )
            np.testing.assert_allclose(found.of(i)[at], bits, rtol=1e-6)
            assert found.masked[at, i] == pytest.approx(float(scores.mean()), abs=1e-7)
            assert found.masked_sd[at, i] == pytest.approx(float(scores.std()), abs=1e-7)
            assert abs(found.masked[at, i] - own[i]) > 1e-4
