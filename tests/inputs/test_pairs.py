import pytest
import torch
from helpers import bert_tokenizer, one_sentence, roberta_like_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tl_crossenc.inputs import encoder as encoder_module
from tl_crossenc.inputs.encoder import PairEncoder
from tl_crossenc.inputs.parts import REAL_PARTS, Part
from tl_crossenc.inputs.texts import broadcast_texts

BERT, ROBERTA = bert_tokenizer(), roberta_like_tokenizer()
MAX_LENGTH = 23
NASTY = st.sampled_from(
    [
        "",
        " ",
        "\n\t  \r",
        "egg",
        "[SEP]",
        "[CLS] [SEP] [PAD] [MASK] [UNK]",
        "how [SEP] fleas [SEP]",
        "[sep]",
        "</s> <s>",
        "<pad>",
        "😀 日本 é",
        "שלום עולם",
        "\u202efleas\u202c",
        "\x00\x01\x7f",
        "\u200b\u200d",
        "e\u0301\u0301",
        "lay " * 40,
        "x" * 300,
        "##s ##ing",
    ]
)
TEXT = NASTY | st.text(max_size=30) | st.lists(NASTY | st.text(max_size=8), max_size=4).map(" ".join)
SHORT = st.sampled_from(["", "egg", "how do fleas lay", "[SEP] [CLS]", "😀 日本", "\x00", " ", "שלום"])
FRAMES = {"bert": (BERT, 1, 3), "roberta": (ROBERTA, 2, 4)}  # tokenizer, positions of SEP1, special tokens


def alone(tokenizer, text):
    """What the Rust tokenizer makes of one text with nothing around it and nothing cut."""
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def encode(name, queries, passages, max_length=MAX_LENGTH):
    return PairEncoder(FRAMES[name][0], max_length, use_types=name == "bert").encode(queries, passages)


@pytest.mark.parametrize("name", ["bert", "roberta"])
@settings(max_examples=150)
@given(texts=st.lists(st.tuples(SHORT, TEXT), min_size=1, max_size=5))
@example(texts=[("egg", "lay " * 60), ("", ""), ("[SEP] [CLS]", "a [SEP] b"), ("egg", " ")])
def test_parts_partition_the_real_tokens_of_any_texts(name, texts):
    tokenizer, n_sep1, n_special = FRAMES[name]
    queries, passages = zip(*texts, strict=True)
    encoded = encode(name, queries, passages)
    batch = encoded.batch()

    real = batch.attention_mask
    assert batch.tokens.shape == batch.token_type_ids.shape == real.shape == batch.parts.codes.shape
    assert torch.equal(sum(batch.parts[part].int() for part in REAL_PARTS), real.int())
    assert torch.equal(batch.parts[Part.PAD], ~real)
    assert (batch.tokens[~real] == tokenizer.pad_token_id).all()
    assert (batch.token_type_ids[~real] == 0).all()
    assert encoded.lengths.tolist() == real.sum(1).tolist() == batch.parts.lengths.sum(1).tolist()
    assert real.shape[1] == max(encoded.lengths) <= MAX_LENGTH

    for i, (query, passage) in enumerate(texts):
        length = int(encoded.lengths[i])
        assert real[i].tolist() == [True] * length + [False] * (real.shape[1] - length)
        codes = batch.parts.codes[i, :length].tolist()
        assert codes == sorted(codes)
        assert batch.parts.lengths[i, Part.CLS] == batch.parts.lengths[i, Part.SEP2] == 1
        assert batch.parts.lengths[i, Part.SEP1] == n_sep1

        of_query, of_passage = alone(tokenizer, query), alone(tokenizer, passage)
        room = MAX_LENGTH - n_special - len(of_query)
        assert batch.tokens[i][batch.parts[Part.QUERY][i]].tolist() == of_query
        assert batch.tokens[i][batch.parts[Part.DOC][i]].tolist() == of_passage[:room]
        assert bool(encoded.truncated[i]) == (len(of_passage) > room)
        for part, token in ((Part.CLS, tokenizer.cls_token_id), (Part.SEP1, tokenizer.sep_token_id)):
            assert set(batch.tokens[i][batch.parts[part][i]].tolist()) == {token}
        assert batch.tokens[i, length - 1] == tokenizer.sep_token_id

        types = batch.token_type_ids[i, :length].tolist()
        second = [int(code >= Part.DOC) for code in codes]  # 1 from the passage on
        assert types == (second if name == "bert" else [0] * length)


def test_a_known_pair():
    words = BERT.get_vocab()
    batch = encode("bert", ["how do", "egg"], ["fleas lay eggs", ""]).batch()
    first = ["[CLS]", "how", "do", "[SEP]", "fleas", "lay", "egg", "##s", "[SEP]"]
    second = ["[CLS]", "egg", "[SEP]", "[SEP]"] + ["[PAD]"] * 5
    assert batch.tokens.tolist() == [[words[word] for word in first], [words[word] for word in second]]
    assert batch.token_type_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0, 0]]
    assert batch.parts.codes.tolist() == [[0, 1, 1, 2, 3, 3, 3, 3, 4], [0, 1, 2, 4, 5, 5, 5, 5, 5]]
    assert batch.attention_mask.sum(1).tolist() == [9, 4]


def test_two_separators_are_both_sep1():
    batch = encode("roberta", ["how do"], ["fleas lay"]).batch()
    assert batch.parts.codes.tolist() == [[0, 1, 1, 2, 2, 3, 3, 4]]
    assert batch.token_type_ids.tolist() == [[0] * 8]
    assert batch.tokens[0, [0, 3, 4, 7]].tolist() == [0, 2, 2, 2]


def test_a_literal_separator_stays_in_its_text():
    batch = encode("bert", ["how [SEP] do"], ["[SEP] fleas [CLS] [PAD]"]).batch()
    assert batch.parts.codes.tolist() == [[0, 1, 1, 1, 2, 3, 3, 3, 3, 4]]
    sep, cls, pad = BERT.sep_token_id, BERT.cls_token_id, BERT.pad_token_id
    assert batch.tokens[0, [2, 4, 5, 9]].tolist() == [sep] * 4
    assert batch.tokens[0, [0, 7]].tolist() == [cls] * 2
    assert batch.tokens[0, 8] == pad
    assert bool(batch.attention_mask[0, 8])  # a literal [PAD] is text, not padding
    assert batch.token_type_ids.tolist() == [[0] * 5 + [1] * 5]


@pytest.mark.parametrize(("name", "room"), [("bert", 20), ("roberta", 19)])
def test_a_query_may_fill_all_but_one_place_and_no_more(name, room):
    fits = encode(name, ["egg " * (room - 1)], ["fleas lay eggs"])
    assert fits.batch().parts.lengths.tolist() == [[1, room - 1, 23 - 2 - room, 1, 1]]
    assert fits.truncated.tolist() == [True]
    with pytest.raises(
        ValueError, match=rf"at most {room - 1} tokens.*23-token input.*got {room} tokens.*shorten"
    ) as e:
        encode(name, ["how", "egg " * room], ["the", "fleas"])
    assert one_sentence(e.value)
    # with nothing to make room for, one more token fits, and then no more
    assert encode(name, ["egg " * room], [""]).lengths.tolist() == [23]
    with pytest.raises(ValueError, match=f"got {room + 1} tokens"):
        encode(name, ["egg " * (room + 1)], [""])


def test_one_query_with_an_empty_and_a_full_passage_needs_room_for_the_full_one():
    for passages in (["", "fleas"], ["fleas", ""]):
        with pytest.raises(ValueError, match="got 20 tokens"):
            encode("bert", ["egg " * 20] * 2, passages)


def test_a_batch_has_the_pairs_asked_for_in_their_order():
    encoded = encode("bert", ["how", "do", "egg"], ["fleas lay the egg", "rise", ""])
    how, do, egg = (BERT.convert_tokens_to_ids(word) for word in ("how", "do", "egg"))
    batch = encoded.batch([2, 0])
    assert batch.tokens[:, 1].tolist() == [egg, how]
    assert batch.attention_mask.sum(1).tolist() == [4, 8]
    assert encoded.batch([1]).tokens.shape == (1, 5)
    assert encoded.batch([1, 1]).tokens[:, 1].tolist() == [do, do]
    assert encoded.batch([-1, -3]).tokens[:, 1].tolist() == [egg, how]
    assert encoded.batch([-2]).attention_mask.tolist() == [[True] * 5]
    assert len(encoded) == 3
    with pytest.raises(IndexError):
        encoded.batch([3])


def test_no_pairs():
    encoded = encode("bert", [], [])
    assert len(encoded) == 0
    assert encoded.batch().tokens.shape == (0, 0)
    assert encode("bert", ["how"], ["egg"]).batch([]).tokens.shape == (0, 0)


def test_blocks_make_no_difference(monkeypatch):
    queries = ["how do", "egg", "fleas", "the bread", ""]
    passages = ["", "rise " * 30, "lay", "a b c", "日本"]
    whole = encode("bert", queries, passages)
    monkeypatch.setattr(encoder_module, "BLOCK", 2)
    blocks = encode("bert", queries, passages)
    for name in ("tokens", "token_type_ids", "parts", "offsets", "truncated"):
        assert getattr(whole, name).tolist() == getattr(blocks, name).tolist()


def test_a_tokenizers_own_truncation_and_padding_do_not_interfere():
    tokenizer = bert_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(7, strategy="longest_first")
    tokenizer.backend_tokenizer.enable_padding(length=61)
    encoded = PairEncoder(tokenizer, MAX_LENGTH).encode(["how do fleas lay the egg", "how"], ["egg " * 50, "rise"])
    assert encoded.lengths.tolist() == [23, 5]
    assert encoded.batch().parts.lengths.tolist() == [[1, 6, 1, 14, 1], [1, 1, 1, 1, 1]]


def test_tokenizing_an_overlong_passage_warns_of_nothing():
    encoded = PairEncoder(bert_tokenizer(model_max_length=11), 11).encode(["how"], ["lay " * 100])
    assert encoded.lengths.tolist() == [11]


def test_what_is_no_text_is_refused():
    encoder = PairEncoder(BERT, MAX_LENGTH)
    with pytest.raises(ValueError, match="as many queries as passages, got 1 and 2"):
        encoder.encode(["how"], ["a", "b"])
    with pytest.raises(ValueError, match=r"expected valid Unicode, got half a surrogate pair") as error:
        encoder.encode(["how"], ["flea \ud800 egg"])
    assert one_sentence(error.value)


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"expected a fast tokenizer.*got Slow"):
        PairEncoder(Slow(), 11)


def test_texts_are_broadcast():
    assert broadcast_texts("q", ["a", "b"]) == (["q", "q"], ["a", "b"])
    assert broadcast_texts("q", "a") == (["q"], ["a"])
    assert broadcast_texts(["p", "q"], ["a", "b"]) == (["p", "q"], ["a", "b"])
    assert broadcast_texts("q", []) == ([], [])
    with pytest.raises(ValueError, match="got 3 and 2"):
        broadcast_texts(["o", "p", "q"], ["a", "b"])


def test_a_batch_moves_whole():
    batch = encode("bert", ["how do"], ["egg"]).batch()
    moved = batch.to("cpu")
    assert len(moved) == 1
    assert torch.equal(moved.tokens, batch.tokens)
    assert torch.equal(moved.parts.codes, batch.parts.codes)
    assert repr(batch) == "PairBatch(1 pairs of up to 6 tokens)"
