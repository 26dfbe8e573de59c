"""Hugging Face's own forward pass of any family, in float64, with directions removed. Nothing here imports the package.

    batch = encode(world, PAIRS)
    trace = run(world, batch, [Removal("mask", ("DOC",), ("QUERY",), layers=(1,))])

A removal takes attention from cells (attender position, attended position) by their parts:

- "mask": the cells are -inf before the softmax; a row that is left with nothing is all zeros;
- "zero": their weights are 0 after it, and the others stay as they are.

How: an attention function of this module's own, through `AttentionInterface`, with `eager_mask` as its mask so that sliding
windows come along. DeBERTa and MPNet have no such door, so their module's softmax is replaced. Masked cells are `finfo.min` there,
which would win where all else is masked, so they become -inf first.

`exact` has float64 all through: Hugging Face computes rotations (ModernBERT, GTE), ModernBERT's softmax and DeBERTa's scale in
float32 whatever the model's number type.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch
from family_texts import PAIRS
from family_world import backbone
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.deberta_v2 import modeling_deberta_v2
from transformers.models.gte import modeling_gte
from transformers.models.modernbert import modeling_modernbert
from transformers.models.mpnet import modeling_mpnet

PARTS = ("CLS", "QUERY", "SEP1", "DOC", "SEP2")
PAD = len(PARTS)
DOOR = "weights of the tests' own"
SOFTMAX_ONLY = (modeling_deberta_v2, modeling_mpnet)


@dataclass(frozen=True)
class Removal:
    """What is removed: (attender parts) -> (attended parts), "ALL" for every part; None for all layers or all heads."""

    mode: str
    attenders: tuple[str, ...]
    attended: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """Padded pairs: what the model is fed, and each position's part, PAD where there is only padding."""

    inputs: dict
    parts: torch.Tensor  # [pair, pos]

    @property
    def real(self):
        """[pair, pos], True at every position but padding."""
        return self.parts != PAD


@dataclass
class Trace:
    """One forward pass. Values at padding mean nothing."""

    logits: torch.Tensor | None = None  # [pair, label]
    head: torch.Tensor | None = None  # [pair, width], what the last linear map reads
    hidden: list = field(
        default_factory=list
    )  # layers + 1 of [pair, pos, d_model]: what enters layer 0, what leaves each layer
    attn_out: list = field(
        default_factory=list
    )  # a layer: [pair, pos, d_model], what attention writes, before any norm
    mlp_out: list = field(default_factory=list)  # a layer: [pair, pos, d_model], what the MLP writes, before any norm
    scores: list = field(
        default_factory=list
    )  # a layer: [pair, head, pos, pos], before any removal; -inf where no cell exists
    patterns: list = field(default_factory=list)  # a layer: [pair, head, pos, pos], after it
    qkv: list = field(
        default_factory=list
    )  # a layer: q, k (rotated), v of [pair, head, pos, d_head]; empty behind a softmax door

    @property
    def score(self):
        """[pair]: the one logit, or logit 1 - logit 0."""
        return self.logits[:, 0] if self.logits.shape[1] == 1 else self.logits[:, 1] - self.logits[:, 0]


def encode(world, pairs=PAIRS):
    """The pairs as one batch, passages cut to what the tokenizer allows.

    Lists, since a single empty passage is taken for none. Parts are read off `sequence_ids()`: of the special tokens the first is
    CLS, the last SEP2, the others SEP1.
    """
    queries, passages = map(list, zip(*pairs, strict=True))
    encoding = world.tokenizer(queries, passages, truncation="only_second", padding=True, return_tensors="pt")
    rows = []
    for i, mask in enumerate(encoding["attention_mask"]):
        n = int(mask.sum())
        sequence = encoding.sequence_ids(i)[:n]
        row = [{None: "SEP1", 0: "QUERY", 1: "DOC"}[of] for of in sequence]
        row[0], row[-1] = "CLS", "SEP2"
        rows.append([PARTS.index(part) for part in row] + [PAD] * (len(mask) - n))
    return Batch(dict(encoding), torch.tensor(rows))


def removed_cells(removal, batch, n_heads):
    """[pair, head, attender pos, attended pos], True where the removal takes weight away."""
    sides = []
    for names in (removal.attenders, removal.attended):
        codes = range(len(PARTS)) if "ALL" in names else [PARTS.index(name) for name in names]
        sides.append(torch.isin(batch.parts, torch.tensor(list(codes))))
    heads = torch.zeros(n_heads, dtype=torch.bool)
    heads[list(range(n_heads)) if removal.heads is None else list(removal.heads)] = True
    return sides[0][:, None, :, None] & sides[1][:, None, None, :] & heads[None, :, None, None]


class _Run:
    """The forward pass under way: weights are made here, layer by layer."""

    def __init__(self, batch, removals):
        self.batch, self.removals, self.trace = batch, removals, Trace()

    def weights(self, scores):
        """The weights of the next layer from its scores, whose cells that do not exist are -inf or `finfo.min`."""
        layer = len(self.trace.patterns)
        scores = scores.masked_fill(scores < torch.finfo(scores.dtype).min / 2, -torch.inf)
        self.trace.scores.append(scores)
        concerned = [removal for removal in self.removals if removal.layers is None or layer in removal.layers]
        cells = {"mask": [], "zero": []}
        for removal in concerned:
            cells[removal.mode].append(removed_cells(removal, self.batch, scores.shape[1]))
        for masked in cells["mask"]:
            scores = scores.masked_fill(masked, -torch.inf)
        nothing_left = (scores == -torch.inf).all(-1, keepdim=True)
        pattern = torch.softmax(scores.masked_fill(nothing_left, 0.0), -1).masked_fill(nothing_left, 0.0)
        for zeroed in cells["zero"]:
            pattern = pattern.masked_fill(zeroed, 0.0)
        self.trace.patterns.append(pattern)
        return pattern


_RUNNING: list[_Run] = []


def _attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
    run = _RUNNING[-1]
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    pattern = run.weights(scores if attention_mask is None else scores + attention_mask)
    run.trace.qkv.append((query, key, value))
    return (pattern @ value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(DOOR, _attention)
AttentionMaskInterface.register(DOOR, eager_mask)


def _frequencies(rope, d_head):
    """[d_head / 2], radians a position, in float64."""
    powers = torch.arange(0, d_head, 2, dtype=torch.float64) / d_head
    factor = {"default": 1.0, "linear": rope.get("factor")}[rope["rope_type"]]
    return rope["rope_theta"] ** -powers / factor


def _exact_rotation(self, x, position_ids, layer_type=None):
    rope = self.config.rope_parameters if layer_type is None else self.config.rope_parameters[layer_type]
    frequencies = _frequencies(rope, self.config.hidden_size // self.config.num_attention_heads)
    angles = position_ids[..., None].double() * frequencies
    angles = torch.cat((angles, angles), -1)
    return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def _exact_rotary(q, k, cos, sin, unsqueeze_dim=1):
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)

    def turned(x):
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat((-second, first), -1) * sin

    return turned(q), turned(k)


def _with_softmax(softmax):
    """`torch.nn` for one module, with another softmax."""
    functional = SimpleNamespace(**{**vars(torch.nn.functional), "softmax": softmax})
    return SimpleNamespace(**{**vars(torch.nn), "functional": functional})


@contextmanager
def exact():
    """Float64 all through, in the families where Hugging Face goes by float32."""
    patches = [
        (modeling_modernbert.ModernBertRotaryEmbedding, "forward", _exact_rotation),
        (modeling_modernbert, "apply_rotary_pos_emb", _exact_rotary),
        (modeling_modernbert, "nn", _with_softmax(lambda x, dim, dtype=None: torch.softmax(x, dim))),
        (modeling_gte.GteRotaryEmbedding, "forward", _exact_rotation),
        (modeling_deberta_v2, "scaled_size_sqrt", lambda x, factor: torch.tensor(x.size(-1) * factor).double().sqrt()),
    ]
    with ExitStack() as stack:
        for where, name, replacement in patches:
            stack.enter_context(mock.patch.object(where, name, replacement))
        yield


@contextmanager
def _recording(world, trace):
    """Hooks that fill in what passes between the modules."""
    handles = []

    def enters(_, args, kwargs):
        trace.hidden.append(args[0] if args else kwargs["hidden_states"])

    def leaves(into):
        return lambda _, __, output: into.append(output[0] if isinstance(output, tuple) else output)

    handles.append(world.layers[0].register_forward_pre_hook(enters, with_kwargs=True))
    for layer in world.layers:
        handles.append(layer.get_submodule(world.attn).register_forward_hook(leaves(trace.attn_out)))
        handles.append(layer.get_submodule(world.mlp).register_forward_hook(leaves(trace.mlp_out)))
        handles.append(layer.register_forward_hook(leaves(trace.hidden)))
    handles.append(world.last_linear.register_forward_pre_hook(lambda _, args: setattr(trace, "head", args[0])))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(world, batch, removals=(), dtype=torch.float64):
    """The forward pass with `removals`; none is an untouched one. In float32 nothing but the weights' door is this module's own."""
    copied = world.in_dtype(dtype)
    backbone(copied.model).config._attn_implementation = DOOR
    own = _Run(batch, list(removals))

    def softmax(scores, dim, dtype=None):
        return own.weights(scores)

    with ExitStack() as stack:
        if dtype == torch.float64:
            stack.enter_context(exact())
        for module in SOFTMAX_ONLY:
            stack.enter_context(mock.patch.object(module, "nn", _with_softmax(softmax)))
        stack.enter_context(_recording(copied, own.trace))
        stack.enter_context(torch.no_grad())
        _RUNNING.append(own)
        stack.callback(_RUNNING.pop)
        own.trace.logits = copied.model(**batch.inputs).logits
    return own.trace


def plain(world, batch, dtype=torch.float64):
    """Hugging Face's own forward pass, its own attention and masks: logits, head and what passes between the modules.

    In float64 it is `exact`; in float32 it is what a user of Hugging Face gets.
    """
    copied, trace = world.in_dtype(dtype), Trace()
    with ExitStack() as stack:
        if dtype == torch.float64:
            stack.enter_context(exact())
        stack.enter_context(_recording(copied, trace))
        stack.enter_context(torch.no_grad())
        trace.logits = copied.model(**batch.inputs).logits
    return trace
