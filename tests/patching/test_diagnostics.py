"""Every axiom in every form with every filler: aligned, different where it was meant to be and nowhere else."""

import math

import numpy as np
import pytest
from helpers import VOCABULARY, bert_tokenizer, one_sentence
from hypothesis import given
from hypothesis import strategies as st
from planted_texts import whole_words
from tiny_models import port, tiny_hf

from tl_crossenc.inputs.parts import Part
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.diagnostics import AXIOMS, FILLERS, FORMS, diagnose
from tl_crossenc.patching.slots import STOPWORDS, closest_words, content_terms, idf_of
from tl_crossenc.pools.pool import Pool, PoolPair, PoolSpec

QUERY = "guitar and piano"  # 3 tokens: the passage starts at position 5
PASSAGE = "the guitar by the piano in the garden, a guitar"  # piano at 4, garden 7, comma 8, the last guitar at 10
N = 11
START = 5
IDF = {"guitar": 1.0, "piano": 2.0}
# (axiom, form) -> for each pair, {offset in the passage: (clean, corrupted)}; `_` is a token of filler.
MEANT = {
    ("TFC1", "append"): [{N: ("guitar", "_")}],
    ("TFC1", "replace"): [{10: ("guitar", "_")}],
    ("TFC2", "append"): [{N: ("guitar", "_")}, {N + 1: ("guitar", "_")}, {N + 2: ("guitar", "_")}],
    ("TFC2", "replace"): [{1: ("guitar", "_")}, {10: ("guitar", "_")}],
    ("TDC", "append"): [{N: ("piano", "guitar")}],
    ("TDC", "replace"): [{10: ("piano", "guitar")}],
    ("LNC1", "append"): [{N: ("_", "window")}],
    ("LNC1", "replace"): [{7: ("_", "garden")}],
    ("STMC1", "append"): [{N: ("music", "_")}],
    ("STMC1", "replace"): [{10: ("music", "_")}],
    ("PROX1", "append"): [{N + 1: ("piano", "_"), N + 4: ("_", "piano")}],
    ("PROX1", "replace"): [{2: ("piano", "_"), 4: ("_", "piano")}],
}
SETTINGS = {
    ("LNC1", "append"): {"word": "window"},
    ("LNC1", "replace"): {"word": "garden"},
    ("STMC1", "append"): {"word": "music"},
    ("STMC1", "replace"): {"word": "music"},
    ("PROX1", "append"): {"distance": 2},
}


@pytest.fixture(scope="module")
def model():
    return HookedCrossEncoder.from_pretrained("planted", device="cpu")


def tokens(model, side, pair):
    ids = side.tokens[side.offsets[pair] : side.offsets[pair + 1]].tolist()
    return model.tokenizer.convert_ids_to_tokens(ids)


def is_filler(token, filler):
    if filler == "random":
        return token in whole_words() and token not in {*QUERY.split(), *PASSAGE.split(), *STOPWORDS}
    return token == {"neutral": "a", "masked": "[MASK]"}[filler]


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("axiom", AXIOMS)
def test_the_sides_differ_as_meant_and_nowhere_else(model, axiom, form, filler):
    pairs = diagnose(model, axiom, QUERY, PASSAGE, form=form, filler=filler, idf=IDF, **SETTINGS.get((axiom, form), {}))
    meant = MEANT[axiom, form]
    assert len(pairs) == len(meant)
    np.testing.assert_array_equal(pairs.clean.lengths, pairs.corrupted.lengths)
    np.testing.assert_array_equal(pairs.clean.parts, pairs.corrupted.parts)
    np.testing.assert_array_equal(pairs.clean.token_type_ids, pairs.corrupted.token_type_ids)
    for pair, slots in enumerate(meant):
        sides = tokens(model, pairs.clean, pair), tokens(model, pairs.corrupted, pair)
        assert pairs.positions(pair).tolist() == [START + offset for offset in slots]
        for side in sides:
            assert side[: START - 1] == ["[CLS]", "guitar", "and", "piano"]
        for offset, expected in slots.items():
            for side, token in zip(sides, expected, strict=True):
                found = side[START + offset]
                assert is_filler(found, filler) if token == "_" else found == token
        label = pairs.labels[pair]
        assert (label["axiom"], label["form"], label["filler"], label["query"]) == (axiom, form, filler, QUERY)


def test_gains_that_shrink_are_labelled_by_the_occurrences_before(model):
    append = diagnose(model, "TFC2", QUERY, PASSAGE, repeats=4)
    assert [label["occurrences"] for label in append.labels] == [2, 3, 4, 5]
    replace = diagnose(model, "TFC2", QUERY, PASSAGE, form="replace")
    assert [label["occurrences"] for label in replace.labels] == [0, 1]
    # One pair's clean text is the next one's corrupted text: a chain of single steps.
    for pairs in (append, replace):
        for i in range(len(pairs) - 1):
            assert pairs.labels[i]["clean"] == pairs.labels[i + 1]["corrupted"]


def test_terms_of_several_tokens_meet_as_much_filler(model):
    """The planted tokenizer spells unknown words: one token a letter."""
    pairs = diagnose(model, "TFC1", "wqz guitar", "the garden", filler="masked")
    assert pairs.labels[0]["corrupted"] == "the garden [MASK] [MASK] [MASK]"
    assert len(pairs.positions(0)) == 3
    pairs = diagnose(model, "TDC", "wqz guitar", "the garden", idf={"wqz": 3.0, "guitar": 1.0})
    assert (pairs.labels[0]["clean"], pairs.labels[0]["corrupted"]) == ("the garden wqz", "the garden guitar a a")
    pairs = diagnose(model, "PROX1", "guitar wqz", "guitar in the garden wqz", form="replace")
    assert pairs.labels[0]["clean"] == "guitar wqz the garden a a a"
    assert pairs.labels[0]["corrupted"] == "guitar a a a the garden wqz"


def test_the_last_occurrence_is_replaced_and_none_inside_of_a_word(model):
    """Each word stands twice alone, and once more within another word that comes later."""
    query, passage = "car and cat", "car by the cat, cat and car by the card in cats"
    without_car = "car by the cat, cat and [MASK] by the card in cats"
    without_cat = "car by the cat, [MASK] and car by the card in cats"
    for axiom, settings in (("TFC1", {"term": "car"}), ("STMC1", {"term": "car", "word": "music"})):
        (label,) = diagnose(model, axiom, query, passage, form="replace", filler="masked", **settings).labels
        assert label["corrupted"] == without_car
    (label,) = diagnose(model, "TDC", query, passage, form="replace", idf={"car": 2.0, "cat": 1.0}).labels
    assert label["clean"] == "car by the cat, car and car by the card in cats"
    (label,) = diagnose(model, "LNC1", "piano", passage, form="replace", word="cat", filler="masked").labels
    assert label["clean"] == without_cat
    two = diagnose(model, "TFC2", query, passage, form="replace", term="cat", filler="masked").labels
    assert [label["clean"] for label in two] == [without_cat, passage]
    with pytest.raises(ValueError, match="'cat' in the passage to replace it, but it is not there"):
        diagnose(model, "LNC1", "piano", "the cats scatter", form="replace", word="cat")


def test_the_term_of_highest_idf_is_set_against_the_one_of_lowest(model):
    """Of four terms, whatever their order in the query."""
    idf = {"guitar": 2.0, "piano": 4.0, "music": 1.0, "garden": 3.0}
    for query in ("guitar piano music garden", "garden music piano guitar", "piano garden guitar music"):
        (label,) = diagnose(model, "TDC", query, "the window", idf=idf).labels
        assert (label["clean"], label["corrupted"]) == ("the window piano", "the window music")
        assert (label["term"], label["word"], label["idf"], label["word_idf"]) == ("piano", "music", 4.0, 1.0)


@pytest.mark.parametrize(
    ("passage", "settings", "expected"),
    [
        ("the garden", {"distance": 3}, ("guitar", "piano", 3)),
        ("the garden", {"term": "piano"}, ("piano", "guitar", 5)),
        ("the garden", {"term": "piano", "word": "guitar", "distance": 1}, ("piano", "guitar", 1)),
        ("guitar in the old garden, piano", {"form": "replace"}, ("guitar", "piano", 4)),
        ("piano by a guitar", {"form": "replace"}, ("guitar", "piano", 2)),
        ("piano by a guitar", {"form": "replace", "term": "piano"}, ("piano", "guitar", 2)),
    ],
)
def test_proximity_is_labelled_by_the_term_the_word_and_what_lies_between(model, passage, settings, expected):
    """The term stays where it is on both sides; the word stands beside it on the clean side."""
    (label,) = diagnose(model, "PROX1", QUERY, passage, filler="masked", **settings).labels
    assert (label["term"], label["word"], label["distance"]) == expected
    clean, corrupted = label["clean"].replace(",", "").split(), label["corrupted"].replace(",", "").split()
    at = {side: [words.index(term) for term in expected[:2]] for side, words in (("c", clean), ("x", corrupted))}
    assert at["c"][0] == at["x"][0]
    assert abs(at["c"][0] - at["c"][1]) == 1
    assert abs(at["x"][0] - at["x"][1]) == 1 + expected[2] + ("form" not in settings)


def test_terms_are_brought_together_from_either_side(model):
    pairs = diagnose(model, "PROX1", QUERY, "piano by the old guitar", form="replace")
    assert pairs.labels[0]["clean"] == "a by the piano guitar"
    assert pairs.labels[0]["corrupted"] == "piano by the a guitar"
    assert pairs.labels[0]["distance"] == 3


@given(
    query=st.lists(st.sampled_from(whole_words()), min_size=2, max_size=4, unique=True),
    passage=st.lists(st.sampled_from(whole_words()), min_size=3, max_size=9),
    axiom=st.sampled_from(AXIOMS),
    form=st.sampled_from(FORMS),
    filler=st.sampled_from(FILLERS),
    seed=st.integers(0, 9),
)
def test_whatever_is_built_is_aligned_and_leaves_the_query_alone(model, query, passage, axiom, form, filler, seed):
    """Or is refused in one sentence, where the texts do not hold what the axiom needs."""
    idf = {word: 1 + i / 7 for i, word in enumerate(query)}
    try:
        pairs = diagnose(model, axiom, " ".join(query), " ".join(passage), form=form, filler=filler, idf=idf, seed=seed)
    except ValueError as refusal:
        said = str(refusal)
    else:
        said = ""
    if said:
        assert one_sentence(said)
        content = [word for word in query if word not in STOPWORDS]
        needed = 2 if axiom in ("TDC", "PROX1") else 0 if axiom == "LNC1" else 1
        assert form == "replace" or len(content) < needed, said
        return
    encoded = model.encode_pairs(" ".join(query), " ".join(passage))
    before = encoded.tokens[: len(query) + 2]
    for side in (pairs.clean, pairs.corrupted):
        for pair in range(len(pairs)):
            start, end = side.offsets[pair : pair + 2]
            np.testing.assert_array_equal(side.tokens[start : start + len(before)], before)
            if form == "append":
                np.testing.assert_array_equal(side.tokens[start : start + encoded.lengths[0] - 1], encoded.tokens[:-1])
            elif axiom in ("TFC1", "TFC2", "LNC1"):
                assert end - start == encoded.lengths[0]
    assert (pairs.clean.parts[pairs.differs] == int(Part.DOC)).all()
    assert len(pairs) == 1 or axiom == "TFC2"


def test_the_planted_model_rewards_terms_but_not_where_they_stand(model):
    """It scores the share of matched words: one more query term adds to it; order counts for nothing."""
    score = lambda pairs: [model(side.batch()).item() for side in (pairs.clean, pairs.corrupted)]  # noqa: E731
    clean, corrupted = score(diagnose(model, "TFC1", QUERY, "the garden by the sea", filler="masked"))
    assert clean > corrupted + 0.5
    clean, corrupted = score(diagnose(model, "PROX1", QUERY, "the garden by the sea"))
    assert clean == pytest.approx(corrupted, abs=1e-4)


def test_random_filler_depends_on_the_seed_alone(model):
    texts = [
        diagnose(model, "TFC1", QUERY, PASSAGE, filler="random", seed=seed).labels[0]["corrupted"] for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_close_words_are_the_nearest_embeddings(model):
    embeddings = model.W_E.double().numpy()
    vocabulary = model.tokenizer.get_vocab()
    own = embeddings[vocabulary["guitar"]]
    similar = {
        word: own @ embeddings[vocabulary[word]] / np.linalg.norm(own) / np.linalg.norm(embeddings[vocabulary[word]])
        for word in whole_words()
        if word.islower() and word != "guitar" and word not in STOPWORDS
    }
    found = closest_words(model, "guitar", 3)
    assert [round(similar[word], 9) for word in found] == sorted((round(v, 9) for v in similar.values()), reverse=True)[
        :3
    ]
    pairs = diagnose(model, "STMC1", "guitar", "the garden")
    assert pairs.labels[0]["word"] == found[0]
    assert closest_words(model, "guitar", exclude=found[:1])[0] == found[1]


def test_words_close_to_a_term_of_several_pieces_are_close_to_their_mean():
    """The ranking of all words by the mean of both pieces; by the first alone it would be another one."""
    weights = port(tiny_hf(vocab_size=len(VOCABULARY)))
    model = HookedCrossEncoder(weights.cfg, bert_tokenizer())
    model.load_state_dict(weights.state_dict())
    embeddings, known = model.W_E.numpy(), ("flea", "fleas", "lay", "egg", "bread", "rise")

    def ranked(vector):
        def similarity(word):
            own = embeddings[VOCABULARY.index(word)]
            return own @ vector / np.linalg.norm(own) / np.linalg.norm(vector)

        return sorted(known, key=similarity, reverse=True)

    first, second = embeddings[VOCABULARY.index("bread")], embeddings[VOCABULARY.index("##ing")]
    assert ranked(first) != ranked((first + second) / 2) != ranked(second)
    assert closest_words(model, "breading", len(known)) == ranked((first + second) / 2)


def test_idf_from_texts_and_from_a_pool(model):
    texts = ["the guitar", "The piano, the guitar", "bread"]
    idf = idf_of([*texts, texts[0]])
    assert idf == pytest.approx(
        {"the": math.log(4 / 3), "guitar": math.log(4 / 3), "piano": math.log(2), "bread": math.log(2)}
    )
    pairs = tuple(PoolPair("q", QUERY, f"d{i}", text, 0) for i, text in enumerate(texts))
    found = diagnose(model, "TDC", QUERY, "the garden", idf=Pool("p", PoolSpec(), pairs))
    assert (found.labels[0]["term"], found.labels[0]["word"]) == ("piano", "guitar")
    assert found.labels[0]["idf"] == pytest.approx(math.log(2))
    none_has = diagnose(model, "TDC", "guitar violin", "the garden", idf=Pool("p", PoolSpec(), pairs)).labels[0]
    assert (none_has["term"], none_has["idf"]) == ("violin", pytest.approx(math.log(4)))


def test_content_terms_are_the_distinct_words_that_say_something():
    assert content_terms("How do Fleas and fleas' eggs hatch?") == ["fleas", "eggs", "hatch"]


@pytest.mark.parametrize(
    ("axiom", "query", "passage", "settings", "said"),
    [
        ("TFC1", "how to do it", PASSAGE, {}, "at least one content term, got 'how to do it'"),
        ("TFC1", QUERY, "the garden", {"form": "replace"}, r"a query term \(guitar, piano\) in the passage"),
        ("TFC1", QUERY, "the garden", {"form": "replace", "term": "piano"}, "'piano' in the passage to replace it"),
        ("TFC1", QUERY, PASSAGE, {"term": "garden"}, r"a term of the query \(guitar, piano\), got 'garden'"),
        ("TFC2", QUERY, "the guitar", {"form": "replace"}, "at least 2 occurrences of 'guitar' .*, got 1"),
        ("TFC2", QUERY, "the guitar", {"repeats": 1}, "at least 2 occurrences .*, got 1"),
        ("TDC", QUERY, PASSAGE, {}, "expected idf for TDC"),
        ("TDC", QUERY, PASSAGE, {"idf": {"guitar": 1.0}}, "idf of every query term, got none of piano"),
        ("TDC", QUERY, PASSAGE, {"idf": {"guitar": 1.0, "piano": 1.0}}, "of lower idf than 'guitar'"),
        ("TDC", QUERY, "the piano", {"idf": IDF, "form": "replace"}, "in the passage of lower idf than 'piano'"),
        ("LNC1", QUERY, PASSAGE, {"word": "piano"}, "not in the query for LNC1, got 'piano'"),
        ("LNC1", QUERY, PASSAGE, {"word": "window", "form": "replace"}, "'window' in the passage to replace it"),
        ("LNC1", QUERY, "the guitar", {"form": "replace"}, "a content word that is not in the query"),
        ("STMC1", QUERY, PASSAGE, {"word": "Piano"}, "not in the query itself for STMC1"),
        ("PROX1", "guitar", PASSAGE, {}, "two different query terms for PROX1, got 'guitar' alone"),
        ("PROX1", QUERY, "the guitar", {"form": "replace"}, "two different query terms in the passage"),
        ("PROX1", QUERY, "a guitar piano", {"form": "replace"}, "got them side by side"),
        ("PROX1", QUERY, PASSAGE, {"distance": 0}, "distance of at least 1"),
        ("TFC1", QUERY, PASSAGE, {"neutral": "qqzz"}, "neutral word of one token, but 'qqzz' has 4"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(model, axiom, query, passage, settings, said):
    with pytest.raises(ValueError, match=said) as error:
        diagnose(model, axiom, query, passage, **settings)
    assert one_sentence(error.value)


@pytest.mark.parametrize(("room", "fits"), [(7, True), (6, False)])
def test_a_difference_that_would_be_cut_away_is_refused(room, fits):
    """Six words and a term of one token need room for seven; a cut behind the last slot loses nothing."""
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    model.encoder.max_length = 3 + 3 + room
    passage = "the old garden by the window"
    if fits:
        assert diagnose(model, "TFC1", QUERY, passage).positions(0).tolist() == [START + 6]
    else:
        with pytest.raises(ValueError, match="would be cut away: shorten 'the old garden") as error:
            diagnose(model, "TFC1", QUERY, passage)
        assert one_sentence(error.value)
    cut = diagnose(model, "TFC1", QUERY, f"the guitar {passage}", form="replace")
    assert cut.clean.truncated.all()
    assert cut.positions(0).tolist() == [START + 1]


def test_a_term_cut_in_the_middle_is_refused():
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    model.encoder.max_length = 3 + 4 + 5  # the query has 4 tokens; the passage and the term 3 + 3
    with pytest.raises(ValueError, match="would be cut away"):
        diagnose(model, "TFC1", "wqz guitar", "the garden by")
