"""Path patching: what one head tells another, or the score, directly.

**Method.** Wang et al., *Interpretability in the Wild* (ICLR 2023), section 3.1; Goldowsky-Dill et al., *Localizing Model Behavior
with Path Patching* (2023). For a sender head in layer l and a receiver in layer r > l (the query, key or value input of a head),
in layers of any order:

1. *The path.* In the base run the sender's z is replaced by the donor run's. Every other head of layer l and every head of
   the layers l+1 .. r-1 writes what it wrote in the base run: they are frozen. So does every MLP of the layers l .. r-1 with
   `mlps="frozen"`; with "recomputed", MLPs answer what they read. The residual stream and all LayerNorms are
   recomputed: the sender's change is added to the stream of layer l where its heads write, and in a post-LN model is normalized
   again by each LayerNorm up to the receiver. This gives the receiver's q, k or v, at every position.
2. *The effect.* In the base run that q, k or v of the receiver alone is replaced, and everything above it is recomputed.

The receiver "score" is the classifier: the first step with r = number of layers gives the score itself. As frozen heads move
nothing between positions, it can change only if the sender writes to CLS.

A path is never a run of the whole model: step 1 has no attention, step 2 starts behind the receiver's.

>>> from tl_crossenc.patching.counterfactuals import align_passages
>>> model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
>>> pairs = align_passages(model, "tune a guitar", "guitar by the window", "piano by the window")
>>> paths = path_patch(model, pairs.clean, pairs.corrupted, "3.1.v")  # who speaks to the moving head's values
>>> paths.restored()[0].round(2).tolist()  # [layer, head]: the matching head, 1.2, alone
[[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tl_crossenc.inputs.batching import DEFAULT_TOKEN_BUDGET
from tl_crossenc.inputs.pairs import EncodedPairs, PairBatch
from tl_crossenc.inputs.parts import Part
from tl_crossenc.interventions.heads import check_heads
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.made_by import recorded
from tl_crossenc.model.resumed_run import finish, layers_above, select_pairs
from tl_crossenc.patching.activation import Progress
from tl_crossenc.patching.result import PatchResult
from tl_crossenc.patching.runs import (
    Twin,
    TwinRun,
    changed_streams,
    pair_batches,
)
from tl_crossenc.patching.sides import Sides
from tl_crossenc.patching.sites import choose_pieces

MLPs = Literal["frozen", "recomputed"]
SCORE = "score"
_RECEIVER = re.compile(r"\s*(\d+)\.(\d+)\.([qkv])\s*")


class Receiver(NamedTuple):
    """One input of a head, written `3.1.v`."""

    layer: int
    head: int
    input: str

    @classmethod
    def parse(cls, text: str) -> Receiver | None:
        """The input of a head that is written as `3.1.v`; None for "score".

        Raises:
            ValueError: the text is neither.
        """
        if text.strip() == SCORE:
            return None
        match = _RECEIVER.fullmatch(text)
        if match is None:
            raise ValueError(f"expected a receiver such as 3.1.v (layer.head.q, k or v) or {SCORE!r}, got {text!r}")
        return cls(int(match[1]), int(match[2]), match[3])

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}.{self.input}"


@recorded
def path_patch(
    model: HookedCrossEncoder,
    clean: EncodedPairs | PairBatch,
    corrupted: EncodedPairs | PairBatch,
    receiver: Receiver | str,
    *,
    by: str = "head",
    mode: str = "denoise",
    mlps: str = "frozen",
    layers: Indices = None,
    heads: Indices = None,
    parts: Iterable[Part | str] | None = None,
    labels: Sequence[Hashable] | None = None,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> PatchResult:
    """Patch the direct path from every sender head to the receiver, one sender at a time, in every pair.

    Args:
        model: the model; directions that it is ablating stay ablated.
        clean, corrupted: aligned pairs, from `model.encode_pairs` or `model.to_pairs`: pair by pair as many tokens, with the
            same parts.
        receiver: a head's query, key or value input, such as "3.1.v", or "score".
        by: "head", all that a sender writes, or "head_part", what it writes to each part's positions.
        mode: "denoise" sends clean activations through the corrupted run, "noise" corrupted ones through the clean run.
        mlps: "frozen" or "recomputed" on the path.
        layers, heads: the senders; None for all heads of all layers below the receiver's.
        parts: with by="head_part", only these.
        labels: a name for each pair; numbers from 0 otherwise.
        token_budget: padded tokens run at a time.
        progress: called after each sender layer of a batch with the numbers of paths (times pairs) done and to do.

    Raises:
        ValueError: pairs that are not aligned, a choice that there is not, a sender not below its receiver, or hooks on the model.
    """
    sides = Sides.of(model, clean, corrupted, mode, labels)
    n_pairs, lengths = len(sides.base), sides.base.lengths
    if mlps not in ("frozen", "recomputed"):
        raise ValueError(f"expected mlps frozen or recomputed, got {mlps!r}")
    target = Receiver.parse(receiver) if isinstance(receiver, str) else Receiver.parse(str(receiver))
    top = model.cfg.n_layers
    if target is not None:
        check_heads([target[:2]], model.cfg.n_layers, model.cfg.n_heads)
        top = target.layer
        if top == 0:
            raise ValueError(f"expected a receiver above layer 0, got {target}: no head writes to what it reads")
    chosen = within(layers, top, "sender layer")
    pieces = choose_pieces("z", by, n_heads=model.cfg.n_heads, lengths=lengths.tolist(), heads=heads, parts=parts)
    n_paths = len(pieces.heads) * len(pieces.slots)
    scores = np.full((n_pairs, len(chosen), n_paths), np.nan)
    ends = np.full((2, n_pairs), np.nan)
    plain = run = 2.0 * model.cfg.n_layers * n_pairs
    done = 0
    with torch.no_grad():
        for pairs in pair_batches(lengths, token_budget):
            twin = TwinRun(model, sides.base.batch(pairs), sides.donor.batch(pairs))
            path = _Path(twin, target, mlps == "frozen", chosen)
            ends[:, pairs] = torch.stack(twin.scores()).to("cpu", torch.float64).numpy()
            present = pieces.present(twin.codes).repeat(len(pieces.heads), 1).cpu().numpy()
            plain += float(present.sum()) * 2 * model.cfg.n_layers * len(chosen)
            for place, layer in enumerate(chosen):
                make, changed, _ = changed_streams(twin, layer, pieces, path.kept[layer], only_cls=target is None)
                items = changed.nonzero()
                values = np.broadcast_to(ends[0, pairs], (n_paths, len(pairs))).copy()
                for chunk in items.split(max(token_budget // twin.codes.shape[1], 1)):
                    patch, pair = chunk.unbind(1)
                    after = path.scores(layer, make(patch, pair), pair)
                    values[patch.cpu().numpy(), pair.cpu().numpy()] = after.to("cpu", torch.float64).numpy()
                scores[pairs, place] = np.where(present, values, np.nan).T
                run += len(items) * path.cost(layer)
                done += n_paths * len(pairs)
                if progress is not None:
                    progress(done, scores.size)
    return sides.result(
        model,
        ends,
        site=f"z -> {target or SCORE}",
        by=pieces.by,
        axes={"layer": chosen, **pieces.axes},
        scores=scores.reshape(n_pairs, len(chosen), *pieces.shape),
        layers_run=run,
        layers_plain=plain,
    )


class _Path:
    """The base and donor runs of a batch, and what the paths from senders to one receiver are frozen to.

    Args:
        twin: both runs, not begun.
        receiver: where paths end; None for the score.
        frozen: whether MLPs are frozen.
        senders: the layers where paths begin.
    """

    def __init__(self, twin: TwinRun, receiver: Receiver | None, frozen: bool, senders: Sequence[int]):
        self.twin, self.receiver, self.frozen = twin, receiver, frozen
        self.top = twin.model.cfg.n_layers if receiver is None else receiver.layer
        self.kept: dict[int, dict[str, Twin]] = {}
        for layer in range(twin.model.cfg.n_layers):
            sites = {"z", "resid_mid"} if layer in senders else set()
            if min(senders) <= layer < self.top:
                sites |= {"attn_out", "mlp_out"} if frozen else {"attn_out"}
            if receiver is not None and layer == receiver.layer:
                sites = {"q", "k", "v", "z", "resid_mid"}
            self.kept[layer] = twin.step(sorted(sites))

    def cost(self, sender_layer: int) -> float:
        """The layers run for one pair's path."""
        mlps = 0.0 if self.frozen else (self.top - sender_layer) / 2
        return mlps + (layers_above(self.twin.model.cfg.n_layers, self.top, "mid") if self.receiver else 0.0)

    def scores(self, layer: int, resid: Tensor, pair: Tensor) -> Tensor:
        """`[item]` for streams `[item, row, d_model]` changed at the mid stage of `layer`, one a path and pair."""
        model, rows = self.twin.model, resid.shape[1]
        own: Callable[[int, str], Tensor] = lambda at, site: self.kept[at][site][0][pair, :rows]  # noqa: E731
        for at in range(layer, self.top):
            if at > layer:
                resid = resid + own(at, "attn_out")
            resid = model.block(at).resume("mid", resid, own(at, "mlp_out") if self.frozen else None)
        given = select_pairs(self.twin.given, pair)
        if self.receiver is None:
            return model.score_of(model.read_out(resid, given.attention_mask))
        at, head, which = self.receiver
        block = model.block(at)
        inputs = {site: own(at, site)[:, :, head : head + 1] for site in "qkv"}
        inputs[which] = block.project_head(resid, head, which).unsqueeze(2)
        z = block.attn.attend(inputs["q"], inputs["k"], inputs["v"], given, self.twin.edits[at], head=head)[:, :, 0]
        mid = own(at, "resid_mid") + (z - own(at, "z")[:, :, head]) @ model.W_O[at, head]
        read = 1 if at == model.cfg.n_layers - 1 and model.reads_only_first_row else None
        return finish(model, at, "mid", mid[:, :read], given, self.twin.edits)
