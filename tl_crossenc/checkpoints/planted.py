"""The planted model: a BERT cross-encoder whose weights are set by hand, so that what each head does is known.

Its score grows with the share of the passage's word pieces that are equal to a word piece of the query, and three heads make it:

- `MATCHING_HEAD`: every QUERY and DOC position attends to the equal word pieces on the other side of the pair (DOC->QUERY and
  QUERY->DOC), and to the other side's separator where there is none (DOC->SEP1, QUERY->SEP2). It writes the flag "matched".
  The score needs DOC->QUERY only.
- `MOVING_HEAD`: CLS attends to all of DOC alike and writes the mean of its flags, the share, to CLS (CLS->DOC). Every other
  position, and CLS without a passage, attends to CLS, whose flag is 0.
- `SINK_HEAD`: every position attends to the separators, and nothing is written: its value of a separator is 0.

Every other head has W_Q = W_K = W_V = W_O = 0 (uniform attention, nothing written), and so have the MLPs. The pooler reads the
share and the classifier scales it. With p the weight that a matched
piece gives to its m equals, p = m / (m + e^-5),

    score = 10 tanh(share' / sqrt(1 + 2 share'^2 / 140)),    share' = share p / sqrt(1 + 2 p^2 / 140),

where the roots are those of the LayerNorms after the two writes.

Construction. A position's vector x holds features, each on two dimensions as (+a, -a), whose value is read as (x_+ - x_-) / 2a:

    dimensions  0..31    code c of the word piece: 32 entries of +-1, 16 of each; 0 at special tokens
    TYPE   a = 6         t = +1 where the token type is 0 (CLS, QUERY, SEP1), -1 where it is 1 (DOC, SEP2)
    WORD   a = 3         1 at word pieces        SEP, CLS, BLANK  a = 5   1 at [SEP], [CLS], and at [UNK], [MASK], [PAD]
    CONST  a = 3         1 everywhere            MATCHED, SHARE, NOTHING  a = 1   written by the three heads

Every embedding has mean 0 and squared norm 32 + 2 (6^2 + 3^2 + 3^2) = 2 (6^2 + 5^2 + 3^2) = 140 = d_model, so that LayerNorm
with weight 1 and bias 0 is the identity on it; writing w of a feature of size 1 divides everything by sqrt(1 + 2 w^2 / 140).
Positions are not encoded: to this model a text is a bag of word pieces.

Codes come from the dual of the extended double-error-correcting BCH code of length 32 (MacWilliams & Sloane 1977, chapter 15):
c_x = (-1)^(Tr(a x + b x^3) + s) over x in GF(32). Two of them have the inner product 32, 0, +-8 or -32: different pieces never
look more than a quarter equal. The words with 16 ones are taken: 1,054 of them.

The matching head's score for attender i and attended j is (biases and the division by sqrt(d_head) included)

    20 c_i.c_j / 32  -  12 t_i t_j  +  15 SEP_j,

32 for equal pieces across, 27 for the separator across, at most 17 for other pieces across, 8 for equal pieces on one's own side.
A = W_Q W_K^T has 32 positive eigenvalues (the code) and one negative (the type): trace / sum of singular values = .983.
The separator's term is a bias of the queries, b_Q, and no part of A. The moving head's score is
15 CLS_j - 30 CLS_i (SEP_j + (t_j + 1) / 2), its first term by b_Q: for CLS, 0 at DOC whatever its flag, -15 at CLS itself and
at most -30 elsewhere; for the rest, 15 at CLS and 0 elsewhere. The sink head's is 20 SEP_j. The A of both have rank 1 and trace 0.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from tl_crossenc.checkpoints.checkpoint import Checkpoint

PLANTED = "planted"
FOLDER = Path(__file__).parents[1] / "demo" / "planted"
N_LAYERS, N_HEADS, D_HEAD, D_MLP, N_CTX = 4, 4, 35, 16, 512
D_MODEL = N_HEADS * D_HEAD

SINK_HEAD = (0, 3)
MATCHING_HEAD = (1, 2)
MOVING_HEAD = (3, 1)
"""(layer, head), both from 0."""

D_CODE = 32
TYPE, WORD, SEP, CLS, BLANK, CONST, MATCHED, SHARE, NOTHING = range(D_CODE, D_CODE + 18, 2)
SIZE = {TYPE: 6.0, WORD: 3.0, SEP: 5.0, CLS: 5.0, BLANK: 5.0, CONST: 3.0, MATCHED: 1.0, SHARE: 1.0, NOTHING: 1.0}
"""First dimension of each feature -> its size a."""
SPECIAL = {"[PAD]": BLANK, "[UNK]": BLANK, "[MASK]": BLANK, "[CLS]": CLS, "[SEP]": SEP}
SAME_PIECE, OTHER_SIDE, TO_SEPARATOR = 20.0, 12.0, 15.0
"""The three terms of the matching head's score."""
SINK, NOT_DOC, TO_CLS = 20.0, 30.0, 15.0
"""The sink head's score of a separator, how far below DOC the moving head's of QUERY is, and its score of CLS."""
SCALE = 10.0


def open_planted() -> Checkpoint:
    """The planted model's checkpoint; its weights are made when they are read, and its tokenizer comes with the package.

    Raises:
        ValueError: the tokenizer's vocabulary is not readable, or has more word pieces than there are codes.
    """
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "hidden_size": D_MODEL,
        "num_attention_heads": N_HEADS,
        "num_hidden_layers": N_LAYERS,
        "intermediate_size": D_MLP,
        "max_position_embeddings": N_CTX,
        "vocab_size": len(vocabulary()),
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "num_labels": 1,
        "pad_token_id": 0,
    }
    return Checkpoint(
        name=PLANTED,
        revision=f"sha256:{_digest()}",
        config=config,
        read_tensors=lambda: iter(planted_tensors().items()),
        tokenizer_folder=FOLDER,
        folder=None,
    )


@cache
def vocabulary() -> tuple[str, ...]:
    """The tokenizer's word pieces in the order of their ids: special tokens, characters, endings, a few hundred words."""
    try:
        text = (FOLDER / "vocab.txt").read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(
            f"expected the planted model's vocabulary at {FOLDER}, but it cannot be read: install the package again"
        ) from error
    return tuple(text.split())


@cache
def _digest() -> str:
    digest = hashlib.sha256("\n".join(vocabulary()).encode())
    for key, tensor in planted_tensors().items():
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def planted_tensors() -> dict[str, Tensor]:
    """Every weight of the model under Hugging Face's names, float32."""
    state = _silent_model()
    embeddings = state["bert.embeddings.word_embeddings.weight"]
    codes = iter(piece_codes())
    for index, piece in enumerate(vocabulary()):
        if piece in SPECIAL:
            embeddings[index] += _feature(SPECIAL[piece])
        else:
            code = next(codes, None)
            if code is None:
                raise ValueError(f"expected at most 1054 word pieces in {FOLDER}, one a code, got {len(vocabulary())}")
            embeddings[index, :D_CODE] = torch.tensor(code)
            embeddings[index] += _feature(WORD)
    embeddings += _feature(CONST)
    state["bert.embeddings.token_type_embeddings.weight"] += torch.stack([_feature(TYPE), -_feature(TYPE)])

    matching, sink, moving = (Head(state, *place) for place in (MATCHING_HEAD, SINK_HEAD, MOVING_HEAD))
    for dimension in range(D_CODE):
        one = torch.zeros(D_MODEL)
        one[dimension] = 1.0
        matching.match(dimension, one, one, SAME_PIECE / D_CODE)
    matching.match(D_CODE, -_reader(TYPE), _reader(TYPE), OTHER_SIDE)
    matching.prefer(D_CODE + 1, _reader(SEP), TO_SEPARATOR)
    matching.move(_reader(WORD), _feature(MATCHED))
    sink.match(0, _reader(CONST), _reader(SEP), SINK)
    sink.move(_reader(WORD), _feature(NOTHING))
    moving.match(0, _reader(CLS), -0.5 * (_reader(TYPE) + _reader(CONST)) - _reader(SEP), NOT_DOC)
    moving.prefer(1, _reader(CLS), TO_CLS)
    moving.move(_reader(MATCHED), _feature(SHARE))
    state["bert.pooler.dense.weight"][0] = _reader(SHARE)
    state["classifier.weight"][0, 0] = SCALE
    return state


def _feature(first: int) -> Tensor:
    """The vector (+a, -a) that is a feature's value 1, `[d_model]`."""
    vector = torch.zeros(D_MODEL)
    vector[first], vector[first + 1] = SIZE[first], -SIZE[first]
    return vector


def _reader(first: int) -> Tensor:
    """The vector whose inner product with an activation is the feature's value, `[d_model]`."""
    return _feature(first) / (2 * SIZE[first] ** 2)


class Head:
    """Writes into one head's rows of a layer's weights. `part` is a dimension of d_head.

    Args:
        state: the weights under Hugging Face's names, edited in place.
        layer, head: which head.
    """

    def __init__(self, state: dict[str, Tensor], layer: int, head: int):
        self.first = head * D_HEAD
        base = f"bert.encoder.layer.{layer}.attention"
        self.query, self.key, self.value = (state[f"{base}.self.{name}.weight"] for name in ("query", "key", "value"))
        self.query_bias = state[f"{base}.self.query.bias"]
        self.output = state[f"{base}.output.dense.weight"]

    def match(self, part: int, attender: Tensor, attended: Tensor, score: float) -> None:
        """Add `score (attender . x_i) (attended . x_j)` to the attention score, its root in W_Q and in W_K."""
        root = (score * D_HEAD**0.5) ** 0.5
        self.query[self.first + part] = root * attender
        self.key[self.first + part] = root * attended

    def prefer(self, part: int, attended: Tensor, score: float) -> None:
        """Add `score (attended . x_j)` whoever attends, through b_Q."""
        self.query_bias[self.first + part] = score * D_HEAD**0.5
        self.key[self.first + part] = attended

    def move(self, read: Tensor, write: Tensor) -> None:
        """Add `write`, times the attended positions' mean of `read . x`, to what attends."""
        self.value[self.first] = read
        self.output[:, self.first] = write


def _silent_model() -> dict[str, Tensor]:
    """Weights of a model that does nothing: zeros everywhere, and LayerNorms of weight 1."""
    state: dict[str, Tensor] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.zeros(rows, columns), torch.zeros(rows)

    def norm(name: str) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(D_MODEL), torch.zeros(D_MODEL)

    for name, rows in (("word", len(vocabulary())), ("position", N_CTX), ("token_type", 2)):
        state[f"bert.embeddings.{name}_embeddings.weight"] = torch.zeros(rows, D_MODEL)
    norm("bert.embeddings.LayerNorm")
    for layer in range(N_LAYERS):
        base = f"bert.encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{base}.attention.{name}", D_MODEL, D_MODEL)
        norm(f"{base}.attention.output.LayerNorm")
        linear(f"{base}.intermediate.dense", D_MLP, D_MODEL)
        linear(f"{base}.output.dense", D_MODEL, D_MLP)
        norm(f"{base}.output.LayerNorm")
    linear("bert.pooler.dense", D_MODEL, D_MODEL)
    linear("classifier", 1, D_MODEL)
    return state


def piece_codes() -> list[list[float]]:
    """The 1,054 balanced codes of 32 entries of +1 and -1, in a fixed order."""
    cubes = [_gf32_product(x, _gf32_product(x, x)) for x in range(D_CODE)]
    codes = []
    for b in range(D_CODE):
        for a in range(D_CODE):
            bits = [_trace(_gf32_product(a, x) ^ _gf32_product(b, cubes[x])) for x in range(D_CODE)]
            if sum(bits) == D_CODE // 2:
                codes.append([float(1 - 2 * bit) for bit in bits])
                codes.append([float(2 * bit - 1) for bit in bits])
    return codes


@cache
def _gf32_product(x: int, y: int) -> int:
    """x y in GF(32): polynomials over GF(2) as bits, modulo z^5 + z^2 + 1."""
    product = 0
    for bit in range(5):
        if y >> bit & 1:
            product ^= x << bit
    for bit in range(8, 4, -1):
        if product >> bit & 1:
            product ^= 0b100101 << (bit - 5)
    return product


@cache
def _trace(x: int) -> int:
    """Tr x = x + x^2 + x^4 + x^8 + x^16, which is 0 or 1."""
    total, power = 0, x
    for _ in range(5):
        total ^= power
        power = _gf32_product(power, power)
    return total
