"""Sites: the activations that can be patched, and the pieces of them that are patched one at a time.

| site | activation | pieces (`by`) |
|---|---|---|
| resid_pre, resid_mid, resid_post, attn_out, mlp_out | `[pair, pos, d_model]` | part, position, all |
| z, q, k, v | `[pair, pos, head, d_head]` | head, head_part |
| pattern | `[pair, head, attender pos, attended pos]` | head (or one direction of it), head_part (rows of a part) |

Hook names and meanings are those of the encoder: `resid_mid` and `resid_post` are the residual stream with the heads' and with the
MLP's write added, in a post-LN layer before its LayerNorm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int8
from torch import Tensor

from tl_crossenc.inputs.parts import REAL_PART_NAMES, REAL_PARTS, Part
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import Indices, within
from tl_crossenc.model.block import Block, Stage

Kind = Literal["stream", "heads", "pattern"]
BY: dict[Kind, tuple[str, ...]] = {
    "stream": ("part", "position", "all"),
    "heads": ("head", "head_part"),
    "pattern": ("head", "head_part"),
}


@dataclass(frozen=True)
class Site:
    """An activation of every layer.

    Attributes:
        name: what users call it.
        kind: which axes it has.
        stage: the residual stream that a patch of it changes: before the layer, with the heads' or with the MLP's write added.
        leaf: its hook's name inside of a block; None for the residual stream, of which the block knows where it is.
    """

    name: str
    kind: Kind
    stage: Stage
    leaf: str | None = None

    def hook_name(self, block: Block) -> str:
        """The full name of its hook point in a layer."""
        return block.stream_name(self.stage) if self.leaf is None else block.name_of(self.leaf)


SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Site("resid_pre", "stream", "pre"),
        Site("resid_mid", "stream", "mid"),
        Site("resid_post", "stream", "post"),
        Site("attn_out", "stream", "mid", "hook_attn_out"),
        Site("mlp_out", "stream", "post", "hook_mlp_out"),
        Site("z", "heads", "mid", "attn.hook_z"),
        Site("q", "heads", "mid", "attn.hook_q"),
        Site("k", "heads", "mid", "attn.hook_k"),
        Site("v", "heads", "mid", "attn.hook_v"),
        Site("pattern", "pattern", "mid", "attn.hook_pattern"),
    )
}


@dataclass(frozen=True)
class Pieces:
    """The pieces of a site that are patched one at a time: some heads x some slots (parts, positions, or the whole).

    Attributes:
        site: the site.
        by: see the module's docstring.
        heads: which heads; () where the site has none.
        slots: the parts or positions; (None,) where the whole is patched at once.
        direction: for `pattern`, the only cells patched; None for all.
    """

    site: Site
    by: str
    heads: tuple[int, ...]
    slots: tuple[Part | int | None, ...]
    direction: Direction | None = None

    @property
    def axes(self) -> dict[str, tuple[int | str, ...]]:
        """Name and labels of each axis of the result after `pair` and `layer`."""
        axes: dict[str, tuple[int | str, ...]] = {"head": self.heads} if self.heads else {}
        if self.by in ("part", "head_part"):
            axes["part"] = tuple(slot.name for slot in self.slots if isinstance(slot, Part))
        elif self.by == "position":
            axes["position"] = tuple(int(slot) for slot in self.slots if slot is not None)
        return axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of `axes`."""
        return tuple(len(labels) for labels in self.axes.values())

    def rows(self, codes: Int8[Tensor, "pair pos"]) -> Bool[Tensor, "slot pair pos"]:
        """True at the positions of each slot (for `pattern`, the attenders); padding is in none."""
        real = codes != int(Part.PAD)
        if self.by == "position":
            columns = torch.arange(codes.shape[1], device=codes.device)
            return torch.stack([real & (columns == int(slot)) for slot in self.slots if slot is not None])
        parts = [slot if isinstance(slot, Part) else None for slot in self.slots]
        return torch.stack([real if part is None else codes == int(part) for part in parts])

    def cells(self, codes: Int8[Tensor, "pair pos"]) -> Bool[Tensor, "slot pair row pos"]:
        """True at the cells of a pattern that each slot patches."""
        real = codes != int(Part.PAD)
        cells = self.rows(codes)[..., :, None] & real[None, :, None, :]
        if self.direction is not None:
            attenders, attendeds = (
                torch.stack([codes == int(part) for part in side]).any(0)
                for side in (self.direction.attenders, self.direction.attendeds)
            )
            cells = cells & attenders[None, :, :, None] & attendeds[None, :, None, :]
        return cells

    def present(self, codes: Int8[Tensor, "pair pos"]) -> Bool[Tensor, "slot pair"]:
        """Whether a pair has anything to patch in a slot."""
        return self.cells(codes).any(-1).any(-1) if self.site.kind == "pattern" else self.rows(codes).any(-1)


def choose_pieces(
    site: str,
    by: str | None,
    *,
    n_heads: int,
    lengths: Iterable[int],
    direction: Direction | str | None = None,
    heads: Indices = None,
    parts: Iterable[Part | str] | None = None,
    positions: Indices = None,
) -> Pieces:
    """The pieces that the arguments of a patching function name.

    Args:
        site: a key of `SITES`.
        by: see the module's docstring; None takes the first choice of the site.
        n_heads: of the model.
        lengths: the number of positions of each pair.
        direction: for `pattern` by head, patch only these cells.
        heads, parts, positions: only these; None for all.

    Raises:
        ValueError: a name, head, part or position that there is not, or a choice that does not go with the site.
    """
    if site not in SITES:
        raise ValueError(f"expected a site among {', '.join(SITES)}, got {site!r}")
    place = SITES[site]
    choices = BY[place.kind]
    by = choices[0] if by is None else by
    if by not in choices:
        raise ValueError(f"expected by among {', '.join(choices)} for the site {site}, got {by!r}")
    for name, value, wanted in (
        ("direction", direction, place.kind == "pattern" and by == "head"),
        ("heads", heads, place.kind != "stream"),
        ("parts", parts, by in ("part", "head_part")),
        ("positions", positions, by == "position"),
    ):
        if value is not None and not wanted:
            raise ValueError(f"expected no {name} when patching {site} by {by}, got {value!r}: leave it out")
    slots: tuple[Part | int | None, ...] = (None,)
    if by in ("part", "head_part"):
        chosen = REAL_PART_NAMES if parts is None else parts
        slots = tuple(part if isinstance(part, Part) else Part.parse(part) for part in chosen)
        if any(slot not in REAL_PARTS for slot in slots):
            raise ValueError(f"expected parts among {', '.join(REAL_PART_NAMES)}, got PAD, which nothing reads")
    elif by == "position":
        sizes = [int(length) for length in lengths]
        slots = tuple(range(max(sizes))) if positions is None else within(positions, min(sizes), "position")
    if not slots:
        raise ValueError(f"expected at least one of {by} to patch, got none")
    found = Direction.parse(direction) if isinstance(direction, str) else direction
    return Pieces(place, by, () if place.kind == "stream" else within(heads, n_heads, "head"), slots, found)
