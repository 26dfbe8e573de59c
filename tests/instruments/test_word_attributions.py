"""Words' values against Hugging Face on texts that are cut by hand, against the planted formula, and their sums by identities."""

import family_oracle as oracle
import numpy as np
import pytest
import torch
from family_models import opened
from small_worlds import count_layers

from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.words import word_spans
from tl_crossenc.instruments.integrated_gradients import integrated_gradients
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.removal import as_removal
from tl_crossenc.instruments.token_attributions import Attributing, token_attributions
from tl_crossenc.instruments.word_attributions import word_attributions, words_of
from tl_crossenc.instruments.word_removal import scores_without, without
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

QUERY, PASSAGE = "how do fleas lay", "The flea's eggs, on the host; crème ab日cd!"
WITHOUT = {
    "The": "flea's eggs, on the host; crème ab日cd!",
    "flea": "The's eggs, on the host; crème ab日cd!",
    "s": "The flea' eggs, on the host; crème ab日cd!",
    "eggs": "The flea's, on the host; crème ab日cd!",
    "on": "The flea's eggs, the host; crème ab日cd!",
    "the": "The flea's eggs, on host; crème ab日cd!",
    "host": "The flea's eggs, on the; crème ab日cd!",
    "crème": "The flea's eggs, on the host; ab日cd!",
    "ab": "The flea's eggs, on the host; crème日cd!",
    "日": "The flea's eggs, on the host; crème ab cd!",
    "cd": "The flea's eggs, on the host; crème ab日!",
}
NOTHING_LEFT = "',;!"
FAMILIES = ("bert", "xlm-roberta", "roberta", "modernbert-mean", "deberta-v2")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return opened("bert", tmp_path_factory.mktemp("bert"), n_labels=2)


def hf_scores(world, pairs, removals=()):
    return oracle.run(world, oracle.encode(world, pairs), list(removals)).score.numpy()


def test_words_are_cut_out_of_a_text_as_by_hand():
    words = [word for word in words_for(PASSAGE) if word.part == Part.DOC]
    assert {word.text: without(PASSAGE, [word]) for word in words} == WITHOUT
    assert without(PASSAGE, words) == NOTHING_LEFT
    assert without(PASSAGE, words[1:3] + words[5:7]) == "The' eggs, on; crème ab日cd!"
    assert without("  a  b ", words_for("  a  b ")[:1]) == "b "


def words_for(text):
    from tl_crossenc.inputs.pair_words import PairWord

    return [PairWord(Part.DOC, text[start:stop], start, stop, range(1), 0) for start, stop in word_spans(text)]


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "float64") for name in FAMILIES), ("bert", "float32"), ("roberta", "float32")]
)
def test_leave_one_out_is_hugging_face_on_texts_cut_by_hand(name, dtype, tmp_path):
    world, model = opened(name, tmp_path, dtype=dtype)
    found = word_attributions(model, QUERY, PASSAGE)
    cut = [" ".join(word for word in QUERY.split() if word != one) for one in QUERY.split()]
    pairs = [(QUERY, PASSAGE), *((query, PASSAGE) for query in cut)]
    if name not in ("xlm-roberta", "deberta-v2"):  # theirs has no piece for all of these characters
        assert [word.text for word in found.words] == [*QUERY.split(), *WITHOUT]
    kept = [word.text for word in found.words if word.part == Part.DOC]
    pairs += [(QUERY, WITHOUT[word]) for word in kept]
    pairs += [("", PASSAGE), (QUERY, NOTHING_LEFT), ("", NOTHING_LEFT)]
    scores = hf_scores(world, pairs)
    tolerance = 1e-11 if dtype == "float64" else 1e-5
    n = len(found.words)
    np.testing.assert_allclose(found.values, scores[0] - scores[1 : n + 1], rtol=0, atol=tolerance)
    assert np.abs(found.values).max() > 1e-3
    query, passage, both = found.completeness
    assert [own.text for own in found.completeness] == ["query", "passage", "both"]
    for own, score in zip(found.completeness, scores[n + 1 :], strict=True):
        assert own.difference == pytest.approx(scores[0] - score, abs=tolerance)
    assert query.total == pytest.approx(found.values[: len(cut)].sum())
    assert both.total == pytest.approx(query.total + passage.total)
    assert both.error == both.total - both.difference


def test_under_an_ablation_it_is_the_ablated_score(bert):
    world, model = bert
    removal = oracle.Removal("zero", ("DOC",), ("QUERY",))
    scores = hf_scores(world, [(QUERY, PASSAGE), *((QUERY, text) for text in WITHOUT.values())], [removal])
    with model.ablating("DOC->QUERY"):
        found = word_attributions(model, QUERY, PASSAGE)
    np.testing.assert_allclose(found.values[-len(WITHOUT) :], scores[0] - scores[1:], rtol=0, atol=1e-11)


LIMITS = {("bert", "right"): 17, ("bert", "left"): 17, ("roberta", "right"): 21, ("roberta", "left"): 22}


@pytest.mark.parametrize(("name", "side"), LIMITS)
def test_nothing_comes_in_for_a_word_of_a_passage_that_is_cut(name, side, tmp_path):
    """The score of the text without the word at the length that leaves what else was cut, cut."""
    world, model = opened(name, tmp_path)
    model.tokenizer.truncation_side = world.tokenizer.truncation_side = side
    query, passage = "fleas lay", "The flea lays her eggs on the host, where they hatchling in twelve wintry days"
    limit = LIMITS[name, side]
    whole = world.tokenizer([query], [passage]).sequence_ids(0).count(1)
    found = words_of(model, query, passage, max_length=limit)
    lost = whole - found.read_tokens
    assert lost > 3
    words = [word for word in found.words if word.tokens]
    assert any(word.cut for word in words)  # one is cut in its middle
    values = word_attributions(model, query, passage, max_length=limit).values
    texts = [(query, passage)]
    for word in words:
        text = (query, passage)[word.part == Part.DOC]
        rest = f"{text[: word.start].strip()} {text[word.stop :].strip()}".strip().replace(" ,", ",")
        texts.append((rest, passage) if word.part == Part.QUERY else (query, rest))
    scores = []
    for (a, b), gone in zip(texts, [0, *(word.cut for word in words)], strict=True):
        encoding = world.tokenizer([a], [b])
        length = len(encoding["input_ids"][0]) - (lost - gone)
        scores.append(float(model.score(a, b, max_length=min(length, limit))[0]))
    np.testing.assert_allclose(values, scores[0] - np.array(scores[1:]), rtol=0, atol=1e-12)
    full = word_attributions(model, query, passage)
    assert len(full.words) > len(words)


def test_all_words_of_both_texts_are_one_batch(bert, monkeypatch):
    _, model = bert
    calls = count_layers(monkeypatch)
    done = []
    word_attributions(model, QUERY, PASSAGE, token_budget=100_000, progress=done.append)
    n = 1 + len(QUERY.split()) + len(WITHOUT) + 3
    assert [pairs for layer, pairs in calls if layer == 0] == [n]
    assert done == [n * model.cfg.n_layers]
    calls.clear()
    word_attributions(model, "", "flea", token_budget=100_000)
    assert [pairs for layer, pairs in calls if layer == 0] == [2]  # the word, and all words of the passage, are one


@pytest.mark.parametrize("way", ["mask", "pad"])
def test_masked_and_padded_words_keep_their_places(bert, way):
    world, model = bert
    found = word_attributions(model, QUERY, PASSAGE, way=way)
    batch = oracle.encode(world, [(QUERY, PASSAGE)])
    token = getattr(world.tokenizer, f"{way}_token_id")
    ids, whole = batch.inputs["input_ids"], float(oracle.run(world, batch, []).score[0])
    for word, value in zip(found.words, found.values, strict=True):
        replaced = ids.clone()
        replaced[0, list(word.tokens)] = token
        other = oracle.Batch(batch.inputs | {"input_ids": replaced}, batch.parts)
        assert value == pytest.approx(whole - float(oracle.run(world, other, []).score[0]), abs=1e-11)


def test_gradients_add_up_to_the_score_less_that_of_emptied_texts(bert):
    world, model = bert
    found = word_attributions(model, QUERY, PASSAGE, "gradients")
    batch = oracle.encode(world, [(QUERY, PASSAGE)])
    ids = batch.inputs["input_ids"].clone()
    ids[(batch.parts == 1) | (batch.parts == 3)] = world.tokenizer.pad_token_id
    scores = [
        float(oracle.run(world, b, []).score[0])
        for b in (batch, oracle.Batch(batch.inputs | {"input_ids": ids}, batch.parts))
    ]
    (complete,) = found.completeness
    assert complete.text == "both"
    assert complete.difference == pytest.approx(scores[0] - scores[1], abs=1e-11)
    assert complete.total == pytest.approx(found.values.sum() + found.others, abs=1e-12)
    instrument = integrated_gradients(model, model.encode_pairs(QUERY, PASSAGE), "both:pad", layers=[0])
    assert complete.error == pytest.approx(float(instrument.error[0, 0]), abs=1e-12)
    assert abs(complete.error) < 1e-3 * abs(complete.difference)
    for word, value in zip(found.words, found.values, strict=True):
        assert value == pytest.approx(instrument.of(0)[0, list(word.tokens)].sum(), abs=1e-13)
    assert abs(found.others) > 1e-6  # of commas and the like
    assert (found.way, found.attribution) == ("pad", "gradients")


@pytest.mark.parametrize("name", ["attention", "direct", "random", "bottleneck"])
def test_other_attributions_are_their_tokens_sums(bert, name):
    _, model = bert
    pair = model.encode_pairs(QUERY, PASSAGE)
    statistics = LayerStatistics.fit(model, model.encode_pairs("bread", ["the sponge", "a quilt of eggs"]))
    given = statistics if name == "bottleneck" else None
    found = word_attributions(model, QUERY, PASSAGE, name, statistics=given)
    tokens = np.zeros(len(pair.tokens))
    for text in ("query", "passage"):
        own = token_attributions(model, pair, name, Attributing(as_removal(model, pair, "pad", text)), statistics=given)
        tokens[np.isfinite(own)] = own[np.isfinite(own)]
    expected = [tokens[list(word.tokens)].sum() for word in found.words]
    np.testing.assert_allclose(found.values, expected, rtol=0, atol=1e-13)
    assert found.completeness == ()
    assert found.way == ""


# The known answer.


def planted_score(found, n):
    """docs/PLANTED.md: of n passage pieces, the times that each of those found is in the query."""
    flags = [m / (m + np.exp(-5)) for m in found]
    share = sum(p / np.sqrt(1 + 2 * p**2 / 140) for p in flags) / n
    return 10 * np.tanh(share / np.sqrt(1 + 2 * share**2 / 140))


def test_on_the_planted_model_matched_words_carry_the_score():
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    found = word_attributions(model, "tune a guitar", "the guitar by a window, old piano")  # 8 pieces with the comma
    value = {(word.part, word.text): value for word, value in zip(found.words, found.values, strict=True)}
    whole = planted_score([1, 1], 8)
    for word in ("guitar", "a"):
        assert value[Part.DOC, word] == pytest.approx(whole - planted_score([1], 7), abs=2e-3)
        assert value[Part.QUERY, word] == pytest.approx(whole - planted_score([1], 8), abs=2e-3)
        assert value[Part.DOC, word] > 0.5
    for word in ("the", "by", "window", "old", "piano"):
        assert value[Part.DOC, word] == pytest.approx(whole - planted_score([1, 1], 7), abs=2e-3)
        assert value[Part.DOC, word] < -0.2
    assert value[Part.QUERY, "tune"] == pytest.approx(0, abs=2e-3)
    assert [own.difference for own in found.completeness] == pytest.approx([whole] * 3, abs=2e-3)
    gradients = word_attributions(model, "tune a guitar", "the guitar by a window, old piano", "gradients")
    best = sorted(zip(gradients.values, gradients.words, strict=True), key=lambda pair: -pair[0])
    assert {word.text for _, word in best[:4]} == {"a", "guitar"}
    assert sum(value for value, _ in best[:4]) == pytest.approx(whole, rel=0.01)


# What is refused.


def test_bad_input_is_told(bert):
    _, model = bert
    with pytest.raises(
        ValueError, match="expected words in the query or in the passage, got none that the model reads"
    ):
        word_attributions(model, "!", ", ;")
    with pytest.raises(ValueError, match=r"expected attributions among bottleneck, gradients, .* got 'lime'"):
        word_attributions(model, QUERY, PASSAGE, "lime")
    with pytest.raises(ValueError, match="expected no removal beside attention, which removes nothing, got 'pad'"):
        word_attributions(model, QUERY, PASSAGE, "attention", way="pad")
    with pytest.raises(ValueError, match="expected tokens of passage or query removed by mask, pad, delete, got"):
        word_attributions(model, QUERY, PASSAGE, way="blank")
    with pytest.raises(ValueError, match=r"expected statistics of other pairs to measure bits with .* got none"):
        word_attributions(model, QUERY, PASSAGE, "bottleneck")
    alone = HookedCrossEncoder(model.cfg)
    with pytest.raises(ValueError, match="expected a model with a tokenizer to read texts, got one made without"):
        words_of(alone, QUERY, PASSAGE)


def test_sets_of_words_may_be_asked_for_in_any_order(bert):
    _, model = bert
    found = words_of(model, QUERY, PASSAGE)
    some, other = found.words[2:9], (found.words[5],)
    scores = scores_without(model, QUERY, PASSAGE, found, [some, (), other, some[::-1]])
    with torch.no_grad():
        assert scores[1] == pytest.approx(float(model.score(QUERY, PASSAGE)[0]), abs=1e-12)
    assert scores[0] == scores[3]
    text = "'s eggs, on the host; crème ab日cd!"  # without "The flea"
    assert [word.text for word in other] == ["flea"]
    assert scores[2] == pytest.approx(float(model.score(QUERY, WITHOUT["flea"])[0]), abs=1e-12)
    assert not np.isclose(scores[0], float(model.score(QUERY, text)[0]))
