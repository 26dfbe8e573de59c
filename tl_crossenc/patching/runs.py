"""The machinery of patching: two runs side by side, and the streams that a patch leaves.

`TwinRun` takes the pairs of a batch through the model twice, layer by layer: the run that is patched (base) and the one
patched from (donor). Only the present layer's activations are held, and of those only the ones asked for.
`model.resumed_run` takes the streams that were changed to their scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from tl_crossenc.inputs.batching import length_batches
from tl_crossenc.inputs.pairs import PairBatch
from tl_crossenc.interventions.conditions import LayerEdits
from tl_crossenc.model.attention_input import AttentionInput
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.sites import SITES, Pieces

Twin = tuple[Tensor, Tensor]
"""An activation in the base run and in the donor run."""


def pair_batches(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Indices of the pairs whose two runs are made together: few, of almost the same length, since patches multiply them.

    Raises:
        ValueError: the budget is not positive.
    """
    return length_batches(lengths, -(-token_budget // 8))


@dataclass
class TwinRun:
    """Both runs of one batch of pairs, before `layer`.

    They are run one after the other, so that what is equal in both inputs is equal in both runs to the last bit.

    Attributes:
        model: the model; directions that it is ablating stay ablated.
        base: the batch whose run is patched.
        donor: the batch whose run is patched from, aligned with `base`.
        layer: the layer that is next.
        resid: before it, `[pair, pos, d_model]` of each.
        given: what attention has to know of either batch: they have the same mask and parts.
        edits: the directions ablated in each layer.
    """

    model: HookedCrossEncoder
    base: PairBatch
    donor: PairBatch
    layer: int = 0
    resid: Twin = field(init=False)
    given: AttentionInput = field(init=False)
    edits: tuple[LayerEdits | None, ...] = field(init=False)

    def __post_init__(self) -> None:
        model = self.model
        self.given = model.attention_input(self.base.attention_mask, self.base.parts)
        self.edits = model.active_condition.compile(model.cfg.n_layers, model.cfg.n_heads)
        first, second = (model.run_embed(side.tokens, side.token_type_ids) for side in (self.base, self.donor))
        self.resid = first, second

    @property
    def codes(self) -> Int8[Tensor, "pair pos"]:
        """The part of each position."""
        return self.given.known_parts().codes

    def step(self, sites: Iterable[str] = ()) -> dict[str, Twin]:
        """Run the next layer and give its activations at `sites`, and nothing else."""
        wanted = list(sites)
        first, kept_first = self._run(self.resid[0], wanted)
        second, kept_second = self._run(self.resid[1], wanted)
        self.resid = first, second
        self.layer += 1
        return {site: (kept_first[site], kept_second[site]) for site in wanted}

    def _run(self, resid: Tensor, sites: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
        kept = {"resid_pre": resid}
        hooked = [site for site in sites if site != "resid_pre"]
        alone = self.layer == self.model.cfg.n_layers - 1 and not hooked
        with capturing(self.model, self.layer, hooked, kept):
            after = self.model.run_layer(self.layer, resid, self.given, self.edits[self.layer], only_cls=alone)
        return after, kept

    def scores(self) -> Twin:
        """`[pair]` of the base and of the donor run, after the last layer."""
        mask = self.given.attention_mask
        first, second = (self.model.score_of(self.model.read_out(resid, mask)) for resid in self.resid)
        return first, second


@contextmanager
def capturing(model: HookedCrossEncoder, layer: int, sites: Iterable[str], kept: dict[str, Tensor]) -> Iterator[None]:
    """Put a layer's activations at `sites` into `kept` whenever it is run inside of the `with` block."""

    def keeper(site: str) -> Callable[[Tensor, HookPoint], None]:
        def keep(activation: Tensor, hook: HookPoint) -> None:
            kept[site] = activation

        return keep

    hooks: list = [(SITES[site].hook_name(model.block(layer)), keeper(site)) for site in sites]
    if not hooks:
        yield
        return
    with model.hooks(fwd_hooks=hooks):
        yield


def patched_z(
    twin: TwinRun, layer: int, pieces: Pieces, kept: dict[str, Twin]
) -> tuple[Float[Tensor, "slot pair pos head d_head"], Tensor]:
    """What heads read when their q, k, v, z or pattern is patched, and which patches change anything, `[slot, pair, head]`.

    Heads do not read each other, so that all of them are patched in one pass and taken one by one afterwards. A projection
    is never computed again.
    """
    base, donor = kept[pieces.site.name]
    codes = twin.codes
    if pieces.site.kind == "pattern":
        cells = pieces.cells(codes)[:, :, None, : base.shape[2]]
        z = torch.stack(
            [(torch.where(mask, donor, base) @ kept["v"][0].transpose(1, 2)).transpose(1, 2) for mask in cells]
        )
        differs = torch.stack([((donor != base) & mask).any(-1) for mask in cells])  # [slot, pair, head, row]
        return z, differs
    masks = pieces.rows(codes)[..., None, None]
    differs = torch.stack([((donor != base) & mask).any(-1) for mask in masks]).transpose(2, 3)
    swapped = [torch.where(mask, donor, base) for mask in masks]
    if pieces.site.name == "z":
        return torch.stack(swapped), differs
    q, k, v = ([kept[site][0]] * len(swapped) if site != pieces.site.name else swapped for site in "qkv")
    attend = twin.model.block(layer).attn.attend
    runs = [attend(*inputs, twin.given, twin.edits[layer]) for inputs in zip(q, k, v, strict=True)]
    return torch.stack(runs), differs


def changed_streams(
    twin: TwinRun, layer: int, pieces: Pieces, kept: dict[str, Twin], *, only_cls: bool = False
) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]:
    """The residual streams, at the site's stage of `layer`, that patching each piece leaves.

    Args:
        twin: the two runs.
        layer: the patched layer.
        pieces: what is patched, each alone.
        kept: the layer's activations that the site needs.
        only_cls: whether only what the head reads is read once the layer's attention is past.

    Returns:
        How to make the streams of (patch, pair) indices, `[item, row, d_model]`; and two `[head x slot, pair]`: whether the patch
        changes anything that is read, and whether what it leaves is the donor's stream.
    """
    model, site, n_slots = twin.model, pieces.site, len(pieces.slots)
    rows = 1 if only_cls and model.reads_only_first_row and site.stage != "pre" else None
    if site.kind != "stream":
        z, differs = patched_z(twin, layer, pieces, kept)
        own = list(pieces.heads)
        read = None if site.name in ("k", "v") else rows
        changed = differs[:, :, own, :read].any(-1).permute(2, 0, 1).flatten(0, 1)
        delta = (z - kept["z"][0])[:, :, :rows, own]  # [slot, pair, row, head, d_head]
        write, mid = model.W_O[layer][own], kept["resid_mid"][0][:, :rows]

        def write_head(patch: Tensor, pair: Tensor) -> Tensor:
            head, slot = patch // n_slots, patch % n_slots
            return mid[pair] + torch.bmm(delta[slot, pair, :, head], write[head])

        return write_head, changed, torch.zeros_like(changed)

    base, donor = (side[:, :rows] for side in kept[site.name])
    mask = pieces.rows(twin.codes)[:, :, :rows]
    differs = (donor != base).any(-1)
    changed = (mask & differs).any(-1)
    if site.name.startswith("resid"):
        whole = ~(differs & twin.given.attention_mask[:, :rows] & ~mask).any(-1)
        return lambda patch, pair: torch.where(mask[patch, pair, :, None], donor[pair], base[pair]), changed, whole
    stream = kept["resid_mid" if site.stage == "mid" else "resid_post"][0][:, :rows]
    step = donor - base
    return (
        lambda patch, pair: stream[pair] + mask[patch, pair, :, None] * step[pair],
        changed,
        torch.zeros_like(changed),
    )
