"""Which tokens of a pair are whose word, by hand for every way of writing pieces, and what truncation leaves of them."""

import family_texts
import numpy as np
import pytest

from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.pair_words import pair_words
from tl_crossenc.inputs.parts import Part
from tl_crossenc.inputs.words import word_spans

PASSAGE = "The flea's café,  host! 跳蚤把卵 ab日"
PIECES = {
    "bert": "The=the flea=flea s=s café=cafe host=host 跳=跳 蚤=蚤 把=把 卵=卵 ab=a+##b 日=[UNK]",
    "xlm_roberta": "The=▁The flea=▁flea s=s café=▁café host=▁host 跳蚤把卵=▁跳蚤把卵 ab=▁a+b 日=<unk>",
    "roberta": "The=The flea=Ġfl+ea s='s café=Ġc+af+Ã© host=Ġ+Ġh+os+t 跳蚤把=Ġ+è·³èļ¤æ+Ĭ+Ĭ 卵=åįµ ab=Ġa+b 日=æ+Ĺ+¥",
}


@pytest.mark.parametrize("name", PIECES)
def test_the_pieces_of_words_by_hand(name):
    tokenizer = getattr(family_texts, name)()
    encoder = PairEncoder(tokenizer, 67)
    found = pair_words(encoder, "host", PASSAGE)
    tokens = encoder.encode(["host"], [PASSAGE]).tokens.tolist()
    written = [
        f"{word.text}={'+'.join(tokenizer.convert_ids_to_tokens([tokens[at] for at in word.tokens]))}"
        for word in found.words
        if word.part == Part.DOC
    ]
    assert " ".join(written) == PIECES[name]
    assert all(PASSAGE[word.start : word.stop] == word.text for word in found.words if word.part == Part.DOC)
    assert not any(word.cut for word in found.words)
    assert found.read[0] == 0
    assert found.passage_tokens == found.read_tokens


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta", "modernbert"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_is_cut_is_told_whatever_the_length(name, side):
    """Against the tokenizer: what it gives within the length, and what it gives of the passage alone."""
    tokenizer = getattr(family_texts, name)()
    tokenizer.truncation_side = side
    encoder = PairEncoder(tokenizer, 67)
    query, passage = "why does bread rise", "Yeast eats sugar; naïvely-baked dough"
    whole = tokenizer([query], [passage], return_offsets_mapping=True)
    n_whole = whole.sequence_ids(0).count(1)
    whole_spans = np.array(whole["offset_mapping"][0])[np.array(whole.sequence_ids(0)) == 1]
    words = [passage[start:stop] for start, stop in word_spans(passage)]
    for length in range(len(whole["input_ids"][0]) - n_whole + 1, len(whole["input_ids"][0]) + 1):
        cut = tokenizer([query], [passage], truncation="only_second", max_length=length, return_offsets_mapping=True)
        of = np.array([-1 if part is None else part for part in cut.sequence_ids(0)])
        spans = np.array(cut["offset_mapping"][0])
        found = pair_words(encoder, query, passage, max_length=length)
        assert (found.passage_tokens, found.read_tokens) == (n_whole, (of == 1).sum())
        assert found.read == (spans[of == 1].min(), spans[of == 1].max())
        own = [word for word in found.words if word.part == Part.DOC]
        assert [word.text for word in own] == words
        places = np.flatnonzero(of == 1)
        read = slice(n_whole - len(places), n_whole) if side == "left" else slice(len(places))
        for word in own:
            has = belongs(passage, whole_spans, word)
            assert list(word.tokens) == places[has[read]].tolist()
            assert word.cut == has.sum() - has[read].sum()


def belongs(text, spans, word):
    """Which tokens have characters of a word, or are the white space before one that has."""
    has = [bool(a < word.stop and b > word.start) for a, b in spans]
    for i in range(len(has) - 2, -1, -1):
        a, b = spans[i]
        has[i] = has[i] or (has[i + 1] and a >= word.start - 1 and not text[a:b].strip())
    return np.array(has)


def test_texts_without_words():
    encoder = PairEncoder(family_texts.bert(), 67)
    assert pair_words(encoder, "", "").words == ()
    assert pair_words(encoder, "", "").read == (0, 0)
    found = pair_words(encoder, "!", "; ,")
    assert found.words == ()
    assert (found.read, found.passage_tokens) == ((0, 3), 2)
