"""Every family that is covered, in each layout on disk, against Hugging Face's own modules: untouched, and with directions removed.

`COVERED` of `family_models` are the worlds of `family_worlds` that open; the oracle is `family_oracle`.
"""

import family_oracle as oracle
import family_texts as texts
import pytest
import torch
from family_models import COVERED, labels_of, opened
from family_worlds import FAMILIES

from tl_crossenc import Condition, run_conditions

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


def test_ernies_task_types_are_refused(tmp_path):
    """Their row 0 is added to every position, which the model does not do."""
    with pytest.raises(ValueError, match="expected use_task_id among False"):
        opened("ernie", tmp_path)


def test_what_is_covered_is_there():
    assert set(COVERED) <= set(FAMILIES)


@pytest.mark.parametrize(("name", "n_labels"), [(name, labels) for name in COVERED for labels in labels_of(name)])
def test_scores_are_hugging_faces(name, n_labels, tmp_path):
    world, model = opened(name, tmp_path, n_labels)
    expected = oracle.run(world, oracle.encode(world, texts.PAIRS), []).score
    assert expected.std() > 1e-2
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-10)
    for token_budget in (1, 200):
        found = model.score(QUERIES, PASSAGES, token_budget=token_budget)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", COVERED)
def test_float32_scores_are_hugging_faces(name, tmp_path):
    world, model = opened(name, tmp_path, dtype="float32", kind="bin")
    expected = oracle.run(world, oracle.encode(world, texts.PAIRS), []).score.float()
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["zero", "mask"])
@pytest.mark.parametrize("direction", ["DOC->QUERY", "CLS->ALL", "ALL->DOC", "SEP1->SEP1", "ALL->ALL"])
@pytest.mark.parametrize("name", COVERED)
def test_directions_removed_give_hugging_faces_scores(name, direction, mode, tmp_path):
    world, model = opened(name, tmp_path, labels_of(name)[-1])
    attender, attended = direction.split("->")
    batch = oracle.encode(world, texts.PAIRS)
    for where, layers, heads in (
        ("", None, None),
        ("; layers=1", [1], None),
        ("; layers=0-2; heads=0,2", [0, 1, 2], [0, 2]),
    ):
        removal = oracle.Removal(mode, (attender,), (attended,), layers, heads)
        expected = oracle.run(world, batch, [removal]).score
        with model.ablating(Condition.parse(f"{mode}({direction}{where})")):
            found = model.score(QUERIES, PASSAGES)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


SHARED = {  # text -> the same for Hugging Face; some edit few rows, on top of a run without an edit
    "none": [],
    "DOC->QUERY": [oracle.Removal("zero", ("DOC",), ("QUERY",))],
    "zero(QUERY->DOC; layers=0)": [oracle.Removal("zero", ("QUERY",), ("DOC",), [0])],
    "mask(SEP1->QUERY; layers=1; heads=0,2)": [oracle.Removal("mask", ("SEP1",), ("QUERY",), [1], [0, 2])],
    "mask(QUERY->CLS; layers=0-1) + zero(SEP2->DOC; layers=1; heads=1)": [
        oracle.Removal("mask", ("QUERY",), ("CLS",), [0, 1]),
        oracle.Removal("zero", ("SEP2",), ("DOC",), [1], [1]),
    ],
}


@pytest.mark.parametrize("name", COVERED)
def test_conditions_that_share_runs_give_hugging_faces_scores(name, tmp_path):
    world, model = opened(name, tmp_path)
    batch = oracle.encode(world, texts.PAIRS)
    expected = torch.stack([oracle.run(world, batch, removals).score for removals in SHARED.values()])
    for token_budget in (None, 200):
        found = run_conditions(model, model.encode_pairs(QUERIES, PASSAGES), list(SHARED), token_budget=token_budget)
        torch.testing.assert_close(torch.from_numpy(found.values), expected, rtol=0, atol=1e-10)
    assert (expected[1:] - expected[0]).abs().amax(1).min() > 1e-4
