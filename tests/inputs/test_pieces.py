"""What pieces stand for and where words begin, in every kind of tokenizer that the families have, written down by hand."""

import family_texts
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tl_crossenc.inputs.pieces import Pieces

WORDPIECE, UNIGRAM, BYTES = (
    ("bert", "distilbert", "mpnet"),
    ("xlm_roberta", "camembert", "deberta"),
    ("roberta", "modernbert"),
)
TEXTS = ("The flea's café; host;", "跳蚤 a跳b", "หมัดวางไข่ แล้ว", "the 🐕 has 😀🔥")
WORDS = {
    WORDPIECE: (
        ["the", "flea", "'", "s", "cafe", ";", "host", ";"],
        ["跳", "蚤", "a", "跳", "b"],
        ["หมดวางไข", "แลว"],  # BERT takes the marks off
        ["the", "🐕", "has", "😀🔥"],
    ),
    UNIGRAM: (
        ["The", "flea", "'", "s", "café", ";", "host"],  # `host;` is one piece
        ["跳蚤", "a", "跳", "b"],  # `▁跳蚤` is one piece
        ["หมัดวางไข่", "แล้ว"],
        ["the", "🐕", "has", "😀🔥"],
    ),
    BYTES: (
        ["The", "flea", "s", "café", ";", "host", ";"],  # `'s` is one piece
        ["跳蚤", "a", "跳", "b"],
        ["หมัดวางไข่", "แล้ว"],
        ["the", "🐕", "has", "😀🔥"],
    ),
}
SHOWN = {
    WORDPIECE: (
        ["the", "flea", "'", "s", "cafe", ";", "host", ";"],
        ["跳", "蚤", "a", "跳", "b"],
        ["หมดวา", "##ง", "##ไ", "##ข", "แ", "##ล", "##ว"],
        ["the", "🐕", "has", "😀🔥"],
    ),
    UNIGRAM: (
        ["The", "flea", "'", "s", "café", ";", "host;"],
        ["跳蚤", "a", "跳", "b"],
        ["หมัดวา", "##ง", "##ไ", "##ข", "##่", "แล้ว"],
        ["the", "🐕", "has", "😀🔥"],
    ),
    BYTES: (
        ["The", "fl", "##ea", "'s", "c", "##af", "##é", ";", "h", "##os", "##t", ";"],
        None,
        ["หม", "##ั", "##ดวางไข", "##่", "Ġ", "##แ", "##·", "##ล", "##้", "##ว"],
        ["the", "🐕", "##·", "##·", "h", "##as", "😀", "##·", "##·", "##🔥", "##·", "##·"],
    ),
}
CASES = [
    (name, text, words, shown)
    for kind in WORDS
    for name in kind
    for text, words, shown in zip(TEXTS, WORDS[kind], SHOWN[kind], strict=True)
]


def ids_of(tokenizer, text):
    return tokenizer([text], add_special_tokens=False)["input_ids"][0]


@pytest.mark.parametrize(("name", "text", "words", "shown"), CASES)
def test_words_and_what_is_shown_by_hand(name, text, words, shown):
    tokenizer = getattr(family_texts, name)()
    pieces, ids = Pieces(tokenizer), ids_of(tokenizer, text)
    found = list(pieces.words(ids))
    assert [word.text for word in found] == words
    assert [0, *(word.stop for word in found)] == [*(word.start for word in found), len(ids)]
    if shown is not None:
        assert pieces.shown(ids) == shown


@pytest.mark.parametrize("name", [*UNIGRAM, *BYTES])
def test_all_that_is_shown_is_the_text_again(name):
    tokenizer = getattr(family_texts, name)()
    pieces = Pieces(tokenizer)
    for text in family_texts.TEXTS:
        shown = "".join(pieces.shown(ids_of(tokenizer, text)))
        for mark in ("##", "·", "Ġ", " "):
            shown, text = shown.replace(mark, ""), text.replace(mark, "")
        assert shown.replace("▁", "") == text


@pytest.mark.parametrize("name", [*WORDPIECE, *UNIGRAM, *BYTES])
def test_no_word_begins_inside_of_a_character_and_empty_texts_have_none(name):
    tokenizer = getattr(family_texts, name)()
    pieces = Pieces(tokenizer)
    assert list(pieces.words([])) == pieces.shown([]) == []
    for text in family_texts.TEXTS:
        assert all(c < "\udc80" or c > "\udcff" for word in pieces.words(ids_of(tokenizer, text)) for c in word.text)


@pytest.mark.parametrize("name", [*WORDPIECE, *UNIGRAM, *BYTES])
def test_a_whole_word_is_one_piece_after_a_space(name):
    tokenizer = getattr(family_texts, name)()
    known = Pieces(tokenizer).whole_words()
    before = len(ids_of(tokenizer, "the"))
    for word in ("the", "and", "eggs"):
        assert ids_of(tokenizer, f"the {word}")[before:] == [known[word]]
    inside = {WORDPIECE: "##ea", UNIGRAM: "ง", BYTES: "ea"}
    for kind, piece in inside.items():
        if name in kind:
            assert piece not in known


def test_a_character_that_is_cut_is_a_word_of_its_own():
    tokenizer = family_texts.roberta()
    whole = ids_of(tokenizer, "the 🐕")
    cut = [word.text for word in Pieces(tokenizer).words(whole[:-1])]
    assert cut[0] == "the"
    assert cut[1] != "🐕"


def test_special_tokens_stand_alone_and_keep_their_name():
    for name in ("xlm_roberta", "roberta"):
        tokenizer = getattr(family_texts, name)()
        ids = [*ids_of(tokenizer, "eggs"), tokenizer.sep_token_id, *ids_of(tokenizer, "eggs")]
        pieces = Pieces(tokenizer)
        assert [word.text for word in pieces.words(ids)] == ["eggs", "</s>", "eggs"]
        assert "</s>" in pieces.shown(ids)


def test_spaces_marked_by_a_normalizer_and_single_bytes():
    """Gemma's way, which multilingual ModernBERTs have: a space becomes `▁` before pieces are made, unknown characters bytes."""
    vocabulary = {
        piece: i
        for i, piece in enumerate(["<unk>", "▁the", "t", "h", "e", "▁", "a", *(f"<0x{b:02X}>" for b in range(256))])
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))
    ids = [vocabulary[piece] for piece in ("▁the", "<0xE8>", "<0xB7>", "<0xB3>", "a", "▁", "a")]
    assert [word.text for word in pieces.words(ids)] == ["the", "跳", "a", "a"]
    assert pieces.shown(ids) == ["the", "跳", "##·", "##·", "a", "▁", "##a"]


def test_words_marked_at_their_end_and_words_without_marks():
    ending = Tokenizer(
        models.BPE(vocab={"<unk>": 0, "eg": 1, "gs</w>": 2, "a</w>": 3}, merges=[], end_of_word_suffix="</w>")
    )
    ending.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=ending, unk_token="<unk>"))
    assert [word.text for word in pieces.words([1, 2, 3])] == ["eggs", "a"]
    plain = Tokenizer(models.WordLevel({"<unk>": 0, "egg": 1, "##s": 2}, unk_token="<unk>"))
    pieces = Pieces(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>"))
    assert [word.text for word in pieces.words([1, 2])] == ["egg", "##s"]
