"""What is said of the planted models of other families (`planted_families`): scores, what heads attend to, what counts."""

import random

import pytest
import torch
from planted_families import FAMILIES, HALF_WINDOW, SIDE_HEAD, modernbert, write
from planted_texts import passage_words, whole_words

from tl_crossenc.checkpoints.planted import MATCHING_HEAD, MOVING_HEAD, SINK_HEAD
from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.parity import check_parity

QUERY = "how to tune a guitar by ear"
PASSAGES = ["cheese", "guitar", "bread and milk and a guitar", "tune the guitar and listen by ear to a note", ""]
COUNTED = [(head, direction) for head, direction in ((MATCHING_HEAD, "DOC->QUERY"), (MOVING_HEAD, "CLS->DOC"))]


@pytest.fixture(scope="module", params=FAMILIES)
def written(request, tmp_path_factory):
    return write(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(written):
    return HookedCrossEncoder.from_pretrained(written[0], device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def known(written):
    return written[1]


@pytest.fixture(scope="module")
def pairs(model):
    return model.to_pairs(QUERY, PASSAGES)


def pattern_of(model, pairs, place):
    _, cache = model.run_with_cache(pairs, names_filter=f"blocks.{place[0]}.attn.hook_pattern")
    return cache["pattern", place[0]][:, place[1]]


def scores_without(model, pairs, place, direction="ALL->ALL", mode="zero"):
    with torch.no_grad(), model.ablating(direction, layers=[place[0]], heads=[place[1]], mode=mode):
        return model(pairs)


@pytest.mark.parametrize("length", [1, 2, 11, 79])
def test_the_score_is_the_one_counted_by_hand(model, known, length):
    rng = random.Random(length)
    query = rng.sample(whole_words(), 5)
    passages = [passage_words(rng, query, matched, length) for matched in range(min(length, 7) + 1)]
    found = model.score(" ".join(query), [" ".join(words) for words in passages])
    assert found.tolist() == pytest.approx([known.score(query, words) for words in passages], abs=6e-3)
    assert (found.diff() > 0.02).all()


def test_hugging_face_computes_the_same(written, known):
    if known.name != "bert":  # which has a test of its own
        report = check_parity(str(written[0]), device="cpu")
        assert report.passed, report


@pytest.mark.parametrize(("side", "separator"), [(Part.DOC, Part.SEP1), (Part.QUERY, Part.SEP2)])
def test_the_matching_head_looks_at_equal_pieces_across_or_else_at_the_separators_there(model, pairs, side, separator):
    other = Part.QUERY if side == Part.DOC else Part.DOC
    pattern, codes = pattern_of(model, pairs, MATCHING_HEAD), pairs.parts.codes
    found = {True: 0, False: 0}
    for i, tokens in enumerate(pairs.tokens):
        across = (codes[i] == other).nonzero()[:, 0]
        for row in (codes[i] == side).nonzero()[:, 0]:
            equal = across[tokens[across] == tokens[row]]
            wanted = equal if len(equal) else (codes[i] == separator).nonzero()[:, 0]
            assert float(pattern[i, row, wanted].sum()) > (0.98 if len(equal) else 0.999)
            found[len(equal) > 0] += 1
    assert min(found.values()) >= 5


def test_the_moving_head_lets_cls_average_the_passage_and_the_rest_fall_back_on_cls(model, pairs):
    pattern = pattern_of(model, pairs, MOVING_HEAD)
    doc, real = pairs.parts.codes == Part.DOC, pairs.attention_mask.clone()
    full = doc.any(1)
    expected = (doc / doc.sum(1, keepdim=True).clamp(min=1)).double()
    torch.testing.assert_close(pattern[full, 0], expected[full], rtol=0, atol=1e-4)
    real[full, 0] = False
    assert float(pattern[..., 0][real].min()) > 0.9999


def test_sides_are_found_by_the_first_separator_that_lies_before(model, known, pairs):
    if not known.side:
        pytest.skip("it has token types")
    pattern, codes = pattern_of(model, pairs, SIDE_HEAD), pairs.parts.codes
    for i, own in enumerate(codes):
        first = int((own == Part.SEP1).nonzero()[0])
        for row in pairs.attention_mask[i].nonzero()[:, 0].tolist():
            wanted = first if own[row] in (Part.DOC, Part.SEP2) else 0
            assert float(pattern[i, row, wanted]) > 0.9999, (i, row)


def test_without_the_separator_before_it_a_passage_has_no_side(model, known, pairs):
    """DOC->SEP1 in layer 0: neither finds the matching head what is across from there, nor the moving head what is passage."""
    if not known.side:
        pytest.skip("it has token types")
    intact = model(pairs).detach()
    changed = scores_without(model, pairs, SIDE_HEAD, "DOC->SEP1").detach()
    assert float((changed - intact)[1:-1].abs().min()) > 0.5
    for direction in ("DOC->QUERY", "QUERY->DOC", "CLS->DOC", "QUERY->SEP1", "DOC->SEP2"):
        torch.testing.assert_close(
            scores_without(model, pairs, SIDE_HEAD, direction).detach(), intact, rtol=0, atol=1e-3
        )


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_two_directions_of_two_heads_count(model, known, pairs, mode):
    with torch.no_grad():
        intact, faint = model(pairs), 0.1 if known.mean else 1e-3
    assert float(intact.max()) > 4
    for head, direction in COUNTED:
        assert float(scores_without(model, pairs, head, direction, mode).abs().max()) < (0.7 if known.mean else 0.02)
    for attender in ("CLS", "QUERY", "SEP1", "SEP2"):
        found = scores_without(model, pairs, MATCHING_HEAD, f"{attender}->QUERY", mode)
        torch.testing.assert_close(found, intact, rtol=0, atol=1e-3)
    for attended in ("CLS", "QUERY", "SEP1"):
        found = scores_without(model, pairs, MOVING_HEAD, f"CLS->{attended}", mode)
        torch.testing.assert_close(found, intact, rtol=0, atol=1e-3)
    found = scores_without(model, pairs, MATCHING_HEAD, "QUERY->DOC")
    torch.testing.assert_close(found, intact, rtol=0, atol=faint)


def test_no_other_head_counts(model, known, pairs):
    with torch.no_grad():
        intact = model(pairs)
    for layer in range(4):
        for head in range(4):
            if (layer, head) not in (MATCHING_HEAD, MOVING_HEAD, *known.side):
                found = scores_without(model, pairs, (layer, head))
                torch.testing.assert_close(found, intact, rtol=0, atol=1e-6)
    assert float((scores_without(model, pairs, SINK_HEAD) - intact).abs().max()) <= 1e-6


def test_through_a_window_the_matching_head_finds_only_what_it_reaches(tmp_path):
    """ModernBERT with the window in the matching head's layer, and a passage that repeats its query in reverse.

    What has its equal within reach finds it, what has the separator there rests on it, and what has neither takes itself for found.
    """
    path, _ = modernbert(tmp_path, windowed=MATCHING_HEAD[0])
    model = HookedCrossEncoder.from_pretrained(path, device="cpu", dtype="float64")
    words = whole_words()[:11]
    text = " ".join(words)
    pairs = model.to_pairs(" ".join(reversed(words)), text)
    pattern, codes = pattern_of(model, pairs, MATCHING_HEAD)[0], pairs.parts.codes[0]
    assert not pattern[(torch.arange(25)[:, None] - torch.arange(25)).abs() > HALF_WINDOW].any()
    reached = 0
    for row in (codes == Part.DOC).nonzero()[:, 0].tolist():
        equal = 24 - row  # words stand in reverse, mirrored at the separator, position 12
        within = row - equal <= HALF_WINDOW
        assert float(pattern[row, equal]) == pytest.approx(0.9933 if within else 0, abs=1e-3)
        reached += within
    assert reached == HALF_WINDOW // 2
    alone = 11 - HALF_WINDOW
    assert float(pattern[13 + HALF_WINDOW :, 13 + HALF_WINDOW : 24].diagonal().min()) > 0.9
    assert float(model(pairs).detach()) == pytest.approx(10 * (reached + alone) / 11, abs=0.15)
