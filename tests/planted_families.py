"""The planted circuit in other families' frames: checkpoints made by hand, as `checkpoints.planted`'s, with known right answers.

`write(name, folder)` writes one of `FAMILIES` and gives what opens it and what is known of it. The sink, the matching and the
moving head sit where they sit in BERT's, and the score grows with the share of matched pieces:

    bert                the package's own
    electra             BERT's weights; embeddings of width 50 that a projection widens; a GELU head whose dense layer adds 8 to
                        the share, where GELU is the identity, and whose classifier takes it away: linear in the share
    xlm-roberta         one token type and two separators, positions that are added: see below
    modernbert          pre-LN, no types and no biases, rotary positions, a window in layer 2; the matching head lies in a layer
                        without one and compares codes on dimensions that turn too slowly to matter
    modernbert-mean     the same, read as the mean over all positions, of which CLS alone has a share

Where no token types say which side a position is on, `SIDE_HEAD` finds out by the separators. Every position attends to the
separator that lies furthest before it, else to the first position, and takes "passage" from the one and "query" from the other.
Its score is, up to a constant that words do not have,

    K sin(angle_i - angle_j)    of a separator j         K sin(angle of half a step)    of the first position,

where an angle grows by a step a position to less than a quarter turn, so that it is positive only of what lies before. (One step
more in XLM-R, so that the first separator does not count for the second.) ModernBERT turns queries and keys by itself; in XLM-R the
position embeddings are cos and sin of the angle, which `<s>`, always at angle 0, takes out of itself.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer

from tl_crossenc.checkpoints import planted
from tl_crossenc.checkpoints.planted import BLANK, CLS, CONST, D_CODE, MATCHED, SEP, SHARE, TYPE, WORD, vocabulary
from tl_crossenc.model.cross_encoder import HookedCrossEncoder

SIDE_HEAD = (0, 0)
N_CTX = 128
HALF_WINDOW = 7
GELU_AT = 8.0
"""From here on GELU is the identity, to 1e-14."""
MARGIN = 20.0
"""What half a step is worth to the side head: e^-20 of its attention goes astray."""
NORM = 140
"""Squared norm of a position's features where the matching head reads them, in BERT."""


@dataclass(frozen=True)
class Planted:
    """What is known of a planted checkpoint.

    Attributes:
        name: of `FAMILIES`.
        head: the share at CLS, against what else a position holds -> score.
        d_head: of its heads.
        norm: squared norm of a position's features where the matching head reads them.
        constants: what terms of the matching head's score that are no bias add to its singular values.
        side: heads that find out which side a position is on.
        sep1: separators between the texts.
        mean: whether the head reads the mean over positions.
    """

    name: str
    head: Callable[[float], float]
    d_head: int = planted.D_HEAD
    norm: float = NORM
    constants: float = 0.0
    side: tuple[tuple[int, int], ...] = ()
    sep1: int = 1
    mean: bool = False

    @property
    def trace(self):
        """Of the matching head's W_Q W_K^T: the code, and the type against it."""
        return (planted.SAME_PIECE - self._type()) * math.sqrt(self.d_head)

    @property
    def alignment(self):
        """Trace / sum of singular values of it."""
        return (planted.SAME_PIECE - self._type()) / (planted.SAME_PIECE + self._type() + self.constants)

    @property
    def faint(self):
        """How far patching may be off 0 and 1: where all positions are read, a flag makes its own position's constant smaller."""
        return 0.02 if self.mean else 1e-6

    def _type(self):
        return planted.OTHER_SIDE / (2 * planted.SIZE[TYPE] ** 2)

    def score(self, query, passage):
        """By counting: of lists of words that are whole pieces."""
        flags = (
            [_found(passage.count(piece), 1) for piece in query],
            [_found(query.count(piece), self.sep1) for piece in passage],
        )
        share = sum(flag * self._shrunk(flag) for flag in flags[1]) / len(passage)
        if not self.mean:
            return self.head(share)
        others = [0.0] * (1 + self.sep1)
        constants = [self._shrunk(written) for written in (share, *flags[0], *flags[1], *others)]
        return self.head(share * self._shrunk(share) / sum(constants))

    def _shrunk(self, written):
        """What a norm multiplies with after a write of size 1."""
        return 1 / math.sqrt(1 + 2 * written**2 / self.norm)


def _found(copies, separators):
    """The weight of a piece's equals across, against the separators there."""
    return copies / (copies + separators * math.exp(planted.TO_SEPARATOR - planted.SAME_PIECE))


def _saturating(share, norm):
    return planted.SCALE * math.tanh(share / math.sqrt(1 + 2 * share**2 / norm))


def _linear(share, norm, scale=planted.SCALE):
    return scale * share / math.sqrt(1 + 2 * share**2 / norm)


def write(name, folder):
    """(what `from_pretrained` opens, `Planted`)."""
    return FAMILIES[name](folder)


def opened(name, folder, dtype="float64"):
    """(the model, `Planted`)."""
    path, known = write(name, folder)
    return HookedCrossEncoder.from_pretrained(path, device="cpu", dtype=dtype), known


def _stored(folder, config, state, tokenizer):
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "model.safetensors")
    return folder


def bert(folder):
    """The package's own."""
    return "planted", Planted("bert", partial(_saturating, norm=NORM))


def electra(folder):
    """BERT's weights between a projection and a head that is linear."""
    width = planted.NOTHING + 2  # the dimensions that have features
    state = {}
    for key, tensor in planted.planted_tensors().items():
        key = key.replace("bert.", "electra.", 1)
        if key.startswith("electra.embeddings."):
            tensor = tensor[..., :width] * (math.sqrt(NORM / width) if key.endswith("LayerNorm.weight") else 1)
        state[key] = tensor
    state["electra.embeddings_project.weight"] = torch.eye(planted.D_MODEL, width)
    state["electra.embeddings_project.bias"] = torch.zeros(planted.D_MODEL)
    _name_head(state, "electra")
    state["classifier.dense.bias"] += GELU_AT
    state["classifier.out_proj.bias"] -= planted.SCALE * GELU_AT
    config = _config("Electra", "electra", embedding_size=width)
    known = Planted("electra", partial(_linear, norm=NORM))
    return _stored(folder, config, state, AutoTokenizer.from_pretrained(planted.FOLDER)), known


def xlm_roberta(folder):
    """The side by separators and positions that are added."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *_marked_pieces("▁"), "<mask>"]
    tokenizer = XLMRobertaTokenizer(vocab=[(piece, -float(len(piece) < 2)) for piece in pieces], model_max_length=N_CTX)
    step = math.pi / 2 / N_CTX
    turn, across = (_unit(first, planted.D_MODEL) for first in (planted.NOTHING + 2, planted.NOTHING + 4))
    more = math.sqrt(1 + 1 / planted.SIZE[CLS] ** 2)  # so that <s> has the norm of the rest
    special = dict.fromkeys(("<pad>", "<unk>", "<mask>"), planted._feature(BLANK))
    special |= {"<s>": more * planted._feature(CLS) - turn, "</s>": planted._feature(SEP)}

    state = planted.planted_tensors()
    side = planted.Head(state, *SIDE_HEAD)
    sharp = 2 * MARGIN / step
    first, separator = planted._reader(CLS) / more, planted._reader(SEP)
    side.match(0, across / 2, turn / 2, sharp)
    side.match(1, -turn / 2, across / 2, sharp)
    side.prefer(2, (first + separator) * (sharp + 50) + first * sharp * math.sin(1.5 * step), 1.0)
    side.move(first - separator, planted._feature(TYPE))

    state["bert.embeddings.word_embeddings.weight"] = _embeddings(pieces, special)
    angles = step * torch.arange(-2, N_CTX)[:, None]
    state["bert.embeddings.position_embeddings.weight"] = angles.cos() * turn + angles.sin() * across
    state["bert.embeddings.token_type_embeddings.weight"] = torch.zeros(1, planted.D_MODEL)
    norm = NORM + 2
    for key in state:
        if key.endswith("LayerNorm.weight"):
            before = norm - 2 * planted.SIZE[TYPE] ** 2 if "embeddings" in key else norm
            state[key] *= math.sqrt(before / planted.D_MODEL)
    state = {key.replace("bert.", "roberta.", 1): tensor for key, tensor in state.items()}
    _name_head(state, "roberta")
    config = _config("XLMRoberta", "xlm-roberta", vocab_size=len(pieces), type_vocab_size=1, pad_token_id=1)
    config |= {"max_position_embeddings": N_CTX + 2, "bos_token_id": 0, "eos_token_id": 2}
    known = Planted("xlm-roberta", partial(_saturating, norm=norm), norm=norm, side=(SIDE_HEAD,), sep1=2)
    return _stored(folder, config, state, tokenizer), known


def _name_head(state, base):
    """Pooler and classifier by the names that they have inside of a head."""
    for leaf in ("weight", "bias"):
        state[f"classifier.out_proj.{leaf}"] = state.pop(f"classifier.{leaf}")
        state[f"classifier.dense.{leaf}"] = state.pop(f"{base}.pooler.dense.{leaf}")


def _config(classes, model_type, **changes):
    named = {"architectures": [f"{classes}ForSequenceClassification"], "model_type": model_type}
    return planted.open_planted().config | named | changes


def _unit(first, width):
    """A feature of size 1, at a dimension and the next."""
    vector = torch.zeros(width)
    vector[first], vector[first + 1] = 1.0, -1.0
    return vector


@cache
def _marked_pieces(mark):
    """The package's pieces with a mark where a word begins and none inside of it, and every printable character inside."""
    pieces = [piece for piece in vocabulary() if piece not in planted.SPECIAL]
    marked = [piece[2:] if piece.startswith("##") else mark + piece for piece in pieces]
    return tuple(dict.fromkeys([*marked, mark, *map(chr, range(33, 127))]))


def _embeddings(pieces, special):
    """`[piece, dimension]`: of special tokens their feature, of the rest a code and that they are words; a constant of all."""
    table, codes = torch.zeros(len(pieces), planted.D_MODEL), iter(planted.piece_codes())
    for index, piece in enumerate(pieces):
        if piece in special:
            table[index] = special[piece]
        else:
            table[index, :D_CODE] = torch.tensor(next(codes))
            table[index] += planted._feature(WORD)
    return table + planted._feature(CONST)


# ModernBERT: 96 dimensions a head, whose pair m turns by 10^(-m/4) a position.

D_ROTARY = 96
WIDTH = 4 * D_ROTARY
ROTARY_BASE = 1e12
TURNING = 8
"""The pair that turns by .01 a position, 1.27 over all of them."""
CODE_PAIRS = range(24, 40)
SLOW_PAIRS = range(40, 48)
"""Pairs that turn by 1e-6 and by 1e-10 a position, or less."""

TO_FIRST = 120.0
"""The moving head's score of [CLS]: a matched piece's constant is .7 % smaller, which must not show in what it leaves to others."""


def modernbert(folder, pooling="cls", windowed=2):
    """Pre-LN, no biases: what BERT's queries have as a bias they read from a constant feature.

    Args:
        windowed: the layer that has a window; both bases are the same, so that the circuit does not care.
    """
    specials = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
    tokenizer, pieces, known = _byte_level(specials)
    special = {piece: planted._feature(planted.SPECIAL.get(piece, BLANK)) for piece in pieces if piece not in known}
    state = _silent_modernbert(len(pieces))
    state["model.embeddings.tok_embeddings.weight"][:, : planted.D_MODEL] = _embeddings(pieces, special)

    side, sink = _RotaryHead(state, *SIDE_HEAD), _RotaryHead(state, *planted.SINK_HEAD)
    matching, moving = _RotaryHead(state, *planted.MATCHING_HEAD), _RotaryHead(state, *planted.MOVING_HEAD)
    slow = [*SLOW_PAIRS]
    step = ROTARY_BASE ** (-2 * TURNING / D_ROTARY)
    sharp = 2 * MARGIN / step
    side.match(TURNING, _wide(CONST), _wide(SEP), sharp, TURNING + D_ROTARY // 2)
    offset = sharp * math.sin(0.5 * step)
    side.match(slow[0], _wide(CONST), 50 * _wide(SEP) + (50 + offset) * _wide(CLS), 1.0)
    side.move(_wide(CLS) - _wide(SEP), TYPE)
    sink.match(slow[0], _wide(CONST), _wide(SEP), planted.SINK)
    sink.move(_wide(WORD), planted.NOTHING)
    for part, pair in enumerate((*CODE_PAIRS, *(pair + D_ROTARY // 2 for pair in CODE_PAIRS))):
        one = torch.zeros(WIDTH)
        one[part] = 1.0
        matching.match(pair, one, one, planted.SAME_PIECE / D_CODE)
    matching.match(slow[0], -_wide(TYPE), _wide(TYPE), planted.OTHER_SIDE)
    matching.match(slow[1], _wide(CONST), _wide(SEP), planted.TO_SEPARATOR)
    matching.move(_wide(WORD), MATCHED)
    moving.match(slow[0], _wide(CLS), -0.5 * (_wide(TYPE) + _wide(CONST)) - _wide(SEP), 2 * TO_FIRST)
    moving.match(slow[1], _wide(CONST), _wide(CLS), TO_FIRST)
    moving.move(_wide(MATCHED), SHARE)

    # 8 + share and 8 - share, whose difference survives the norm: what they are divided by is known.
    spread = 2 * GELU_AT**2 - (2 * GELU_AT) ** 2 / WIDTH
    scale = planted.SCALE if pooling == "cls" else 20 * planted.SCALE
    for row, sign in enumerate((1, -1)):
        state["head.dense.weight"][row] = GELU_AT * _wide(CONST) + sign * _wide(SHARE)
        state["classifier.weight"][0, row] = sign * scale * math.sqrt(spread / WIDTH) / 2
    config = {
        "architectures": ["ModernBertForSequenceClassification"],
        "model_type": "modernbert",
        "hidden_size": WIDTH,
        "num_attention_heads": planted.N_HEADS,
        "num_hidden_layers": planted.N_LAYERS,
        "intermediate_size": planted.D_MLP,
        "max_position_embeddings": N_CTX,
        "vocab_size": len(pieces),
        "norm_eps": 1e-12,
        "layer_types": [
            "sliding_attention" if layer == windowed else "full_attention" for layer in range(planted.N_LAYERS)
        ],
        "local_attention": 2 * HALF_WINDOW,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": ROTARY_BASE},
            "sliding_attention": {"rope_type": "default", "rope_theta": ROTARY_BASE},
        },
        "classifier_pooling": pooling,
        "num_labels": 1,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "pad_token_id": specials.index("[PAD]"),
        "bos_token_id": specials.index("[CLS]"),
        "eos_token_id": specials.index("[SEP]"),
        "cls_token_id": specials.index("[CLS]"),
        "sep_token_id": specials.index("[SEP]"),
    }
    known = Planted(
        name="modernbert" if pooling == "cls" else "modernbert-mean",
        head=partial(_linear, norm=spread, scale=scale),
        d_head=D_ROTARY,
        constants=planted.TO_SEPARATOR / (2 * planted.SIZE[CONST] * planted.SIZE[SEP]),
        side=(SIDE_HEAD,),
        mean=pooling == "mean",
    )
    return _stored(folder, config, state, tokenizer), known


def _wide(first):
    """The reader of a feature, `[384]`."""
    return torch.cat([planted._reader(first), torch.zeros(WIDTH - planted.D_MODEL)])


class _RotaryHead:
    """Writes into one head's rows of a layer of ModernBERT."""

    def __init__(self, state, layer, head):
        self.first = head * D_ROTARY
        self.query, self.key, self.value = state[f"model.layers.{layer}.attn.Wqkv.weight"].chunk(3)
        self.output = state[f"model.layers.{layer}.attn.Wo.weight"]

    def match(self, dimension, attender, attended, score, other=None):
        """Add `score (attender . x_i) (attended . x_j)`, times cos, or sin with the key at a pair's other dimension."""
        root = math.sqrt(score * math.sqrt(D_ROTARY))
        self.query[self.first + dimension] = root * attender
        self.key[self.first + (dimension if other is None else other)] = root * attended

    def move(self, read, first):
        """Write the attended positions' mean of `read . x` to the feature at `first`."""
        self.value[self.first] = read
        self.output[: planted.D_MODEL, self.first] = planted._feature(first)


def _silent_modernbert(n_pieces):
    """Zeros, and norms that are the identity on features: after layer 0 these have the norm that they have in BERT."""
    before = NORM - 2 * planted.SIZE[TYPE] ** 2
    state = {
        "model.embeddings.tok_embeddings.weight": torch.zeros(n_pieces, WIDTH),
        "model.embeddings.norm.weight": torch.full((WIDTH,), math.sqrt(before / WIDTH)),
        "model.final_norm.weight": torch.full((WIDTH,), math.sqrt(NORM / WIDTH)),
        "head.dense.weight": torch.zeros(WIDTH, WIDTH),
        "head.norm.weight": torch.ones(WIDTH),
        "classifier.weight": torch.zeros(1, WIDTH),
        "classifier.bias": torch.zeros(1),
    }
    for layer in range(planted.N_LAYERS):
        base = f"model.layers.{layer}"
        state[f"{base}.attn.Wqkv.weight"] = torch.zeros(3 * WIDTH, WIDTH)
        state[f"{base}.attn.Wo.weight"] = torch.zeros(WIDTH, WIDTH)
        state[f"{base}.mlp.Wi.weight"] = torch.zeros(2 * planted.D_MLP, WIDTH)
        state[f"{base}.mlp.Wo.weight"] = torch.zeros(WIDTH, planted.D_MLP)
        for norm in ("attn_norm", "mlp_norm")[layer == 0 :]:
            state[f"{base}.{norm}.weight"] = torch.full((WIDTH,), math.sqrt(NORM / WIDTH))
    return state


def _byte_level(specials):
    """A tokenizer over bytes that builds the package's words letter by letter; its pieces; those of them that are to be told apart.

    Bytes beyond ASCII and what only lies on the way to a word are unknown to the model: there are not codes for all.
    """
    words = [piece for piece in vocabulary() if piece.isalpha()]
    every, merges = dict.fromkeys([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]), {}
    for word in words:
        for end in range(1, len(word) + 1):
            merges["Ġ" + word[: end - 1], word[end - 1]] = None
            every["Ġ" + word[:end]] = None
    pieces = list(every)
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=list(merges)))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, specials.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=N_CTX,
    )
    return tokenizer, pieces, {*("Ġ" + word for word in words), "Ġ", *map(chr, range(33, 127))}


FAMILIES = {
    "bert": bert,
    "electra": electra,
    "xlm-roberta": xlm_roberta,
    "modernbert": modernbert,
    "modernbert-mean": partial(modernbert, pooling="mean"),
}
