"""Texts in several scripts, pairs of them, and the tokenizers of every family over their words.

A tokenizer is of the class that a checkpoint of the family names. What differs between families is there: `▁` (Unigram), `Ġ`
(byte-level BPE) or `##` (WordPiece), one separator or two, token types named among the inputs or not. Byte-level BPE is trained
here; what `tokenizers` trains for Unigram and WordPiece differs from run to run, so their pieces are set by rule.
"""

import json
from dataclasses import dataclass
from functools import cache

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertTokenizer,
    CamembertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

TEXTS = (
    "how do fleas lay eggs and how long do the eggs live",
    "The flea lays her eggs on the host; the eggs fall off and hatch in two to twelve days.",
    "why does bread rise in the oven",
    "Yeast eats sugar and gives off gas, which makes the dough rise before it is baked.",
    "wash the quilt cold, and dry the sponge in the sun!",
    "Is the café's crème brûlée naïve? Über-cool, señor: déjà vu at 7:45.",
    "跳蚤怎么产卵",
    "跳蚤把卵产在宿主身上，卵会掉下来孵化。",
    "面包为什么会发起来",
    "หมัดวางไข่อย่างไร",
    "หมัดวางไข่บนตัวสัตว์ แล้วไข่ก็ร่วงลงมา",
    "ขนมปังขึ้นฟูเพราะยีสต์",
    "the 🐕 has fleas 😀🔥 and the 🥚 hatch",
)
N_CTX = 67  # positions that every model has for a pair
LONG = " ".join(TEXTS[i] for i in (1, 3, 4, 0, 2)) + " " + " ".join(TEXTS[i] for i in (3, 1, 0))
PAIRS = (
    ("how do fleas lay eggs", "The flea lays her eggs on the host."),
    ("why does bread rise in the oven before it is baked", "Yeast eats sugar."),
    ("why does bread rise", ""),  # an empty passage
    ("sponge", "quilt"),  # one word each
    (
        "eggs",
        "The flea lays her eggs on the host; the eggs fall off and hatch",
    ),  # beyond half a window, not beyond n_ctx
    ("how long do the eggs live", LONG),  # beyond every n_ctx: its passage is cut
    ("跳蚤怎么产卵", "跳蚤把卵产在宿主身上"),
    ("หมัดวางไข่", "ไข่ก็ร่วงลงมา"),
    ("naïve café", "crème brûlée, señor: déjà vu"),
    ("the 🐕 has fleas", "😀🔥 and the 🥚"),
)


@dataclass(frozen=True)
class Frame:
    """The special tokens of a pair: `cls query *sep1 passage sep2`."""

    cls: str
    sep1: tuple[str, ...]
    sep2: str


BERT_FRAME = Frame("[CLS]", ("[SEP]",), "[SEP]")
ROBERTA_FRAME = Frame("<s>", ("</s>", "</s>"), "</s>")
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _unigram(specials):
    """(piece, score) of a Unigram vocabulary: the specials, every character, every word's beginnings; longer is likelier."""
    pieces = {}
    for text in TEXTS:
        for word in text.split():
            marked = "▁" + word
            for end in (2, 3, 5, 7):
                pieces.setdefault(marked[:end], None)
            for character in word:
                pieces.setdefault(character, None)
    pieces.setdefault("▁", None)
    return [(special, 0.0) for special in specials] + [(piece, len(piece) - 10.0) for piece in pieces]


def _byte_bpe(specials):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=401,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


@cache
def _wordpiece(specials):
    """Piece -> id: the specials, every character, at a word's start and inside, and the beginnings and ends of every word."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces = {}
    for text in TEXTS:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            for character in word:
                pieces |= {character: None, f"##{character}": None}
            pieces |= {word[:5]: None, f"##{word[5:]}": None} if len(word) > 5 else {word: None}
    return {piece: i for i, piece in enumerate((*specials, *pieces))}


def xlm_roberta():
    vocabulary = _unigram(("<s>", "<pad>", "</s>", "<unk>"))
    return XLMRobertaTokenizer(vocab=[*vocabulary, ("<mask>", 0.0)], model_max_length=N_CTX)


def camembert():
    vocabulary = _unigram(("<s>", "<pad>", "</s>", "<unk>"))
    return CamembertTokenizer(
        vocab=[*vocabulary, ("<mask>", 0.0)], additional_special_tokens=[], model_max_length=N_CTX
    )


def roberta():
    backend = _byte_bpe(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    vocabulary, merges = _vocabulary_and_merges(backend)
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=N_CTX)


def modernbert():
    """As ModernBERT's checkpoints name it: the general class, no token types among the inputs."""
    backend = _byte_bpe(("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"))
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return _general(backend, ["input_ids", "attention_mask"])


def bert():
    """ELECTRA's and ERNIE's: WordPiece, `[CLS] a [SEP] b [SEP]`, token types among the inputs."""
    return BertTokenizer(vocab=dict(_wordpiece(BERT_SPECIALS)), model_max_length=N_CTX)


def bert_without_types():
    """The same pieces and frame; token types are not among its inputs."""
    tokenizer = bert()
    return _general(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), ["input_ids", "attention_mask"])


def distilbert():
    return DistilBertTokenizer(vocab=dict(_wordpiece(BERT_SPECIALS)), model_max_length=N_CTX)


def mpnet():
    vocabulary = _wordpiece(("<s>", "<pad>", "</s>", "[UNK]", "<mask>"))
    return MPNetTokenizer(vocab=dict(vocabulary), model_max_length=N_CTX)


def deberta():
    vocabulary = _unigram(("[PAD]", "[CLS]", "[SEP]", "[UNK]"))
    return DebertaV2Tokenizer(vocab=[*vocabulary, ("[MASK]", 0.0)], model_max_length=N_CTX)


def _vocabulary_and_merges(backend):
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _general(backend, inputs):
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=inputs,
        model_max_length=N_CTX,
    )
