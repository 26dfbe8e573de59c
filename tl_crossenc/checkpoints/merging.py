"""An adapter and the checkpoint that it was trained on → one merged checkpoint.

PEFT names what it changes by the modules of the model that it trained, and a base on disk may name the same weights otherwise, or
have several in one (GTE's `qkv_proj`): the family's layouts tell which are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tl_crossenc.checkpoints.adapters import Adapter, full_modules, not_plain
from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.families import family_of
from tl_crossenc.checkpoints.families.family import Family
from tl_crossenc.checkpoints.weight_files import FLOATS
from tl_crossenc.checkpoints.weight_names import WeightNames
from tl_crossenc.console.shown import listed, quoted, shown

_PRETRAINING = "cls."  # heads that no sequence classifier has


def merge(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint of a sequence classifier: the base's weights with the adapter's sum added as they are read.

    The base may be an encoder without a head, a sequence classifier, or a pre-training model, whose heads are left out. The
    labels are as many as the adapter's classifier has, where it has one.

    Raises:
        ValueError: a module was trained in full that is no head of the base's family.

    Reading the weights raises a ValueError for an adapter's tensor that the base has no place for.
    """
    config = dict(base.config)
    family = family_of(base.config, base.name)
    others = sorted(set(adapter.trained) - full_modules(family))
    if others:
        raise not_plain(adapter.name, [f"modules_to_save {quoted(other)}" for other in others])
    last = [name for at in family.layouts for name, targets in at.heads.items() if targets[0].path == "classifier"]
    head = next((adapter.full[f"{name}.weight"] for name in last if f"{name}.weight" in adapter.full), None)
    if head is not None:
        n_labels = head.shape[0]
        for key in ("id2label", "label2id"):
            if len(config.get(key) or ()) != n_labels:  # names of other labels than the adapter's
                config.pop(key, None)
        config["num_labels"] = n_labels
    merged = Checkpoint(
        name=adapter.name,
        revision=f"sha256:{hashlib.sha256(f'{base.revision} {adapter.digest}'.encode()).hexdigest()}",
        config=config,
        read_tensors=lambda: _merged_tensors(base, adapter, family),
        tokenizer_folder=adapter.tokenizer_folder or base.tokenizer_folder,
        folder=None,
        stored_bytes=None
        if base.stored_bytes is None
        else base.stored_bytes + sum(t.nbytes for t in adapter.full.values()),
        head=base.head,
    )
    alone = replace(merged, read_tensors=lambda: _merged_tensors(base, adapter, family, added=False))
    return replace(merged, unadapted=alone)


def _merged_tensors(
    base: Checkpoint, adapter: Adapter, family: Family, *, added: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """The weights of both; with `added` off only the base's, and the modules that the adapter has in full."""
    own = WeightNames(family)
    factors = {own(key) or key: pair for key, pair in adapter.factors.items()}
    unused = set(factors)
    replaced = {key.rpartition(".")[0] for key in adapter.full}
    n_layers = family.shape(base.config, base.name)["n_layers"]
    places = {name: place for layout in family.places(n_layers) for name, place in layout.items()}
    parts = {name: place.parts for name, place in places.items() if place.leaf == "weight"}
    by_part = {parts[key][0]: key for key in factors if len(parts.get(key, ())) == 1}
    names = WeightNames(family)
    for given, tensor in base.read_tensors():
        key = names(given) or given  # the latter under a second prefix: `porting` refuses it by that name
        if key.rpartition(".")[0] in replaced or key.startswith(_PRETRAINING):
            continue
        changes = [key] if key in factors else [by_part.get(part) for part in parts.get(key, ())]
        if any(changes):
            unused.difference_update(changes)
            if tensor.dtype not in FLOATS:
                raise ValueError(
                    f"expected {shown(given)} of a float type in the base of the adapter {adapter.name!r}, got {tensor.dtype}: "
                    "merge it with PEFT's merge_and_unload, save the model and load that"
                )
            tensor = (
                tensor
                if not added
                else torch.cat(
                    [
                        part if change is None else _adapted(part, *factors[change], adapter.scale, key, adapter.name)
                        for part, change in zip(tensor.chunk(len(changes)), changes, strict=True)
                    ]
                )
            )
        yield key, tensor
    if unused:
        raise ValueError(
            f"expected every matrix that the adapter {adapter.name!r} changes in its base {base.name!r}, which lacks "
            f"{listed(sorted(unused))}: is it the model that the adapter was trained on?"
        )
    yield from adapter.full.items()


def _adapted(
    weight: Float[Tensor, "out_ in_"],
    factor_a: Float[Tensor, "rank in_a"],
    factor_b: Float[Tensor, "out_b rank"],
    scale: float,
    key: str,
    name: str,
) -> Float[Tensor, "out_ in_"]:
    """`weight + scale · B A`, in float32 or in the base's type where that is wider."""
    expected = (factor_b.shape[0], factor_a.shape[1])
    if weight.shape != expected:
        raise ValueError(
            f"expected {key} of shape {expected} in the base of the adapter {name!r}, got {tuple(weight.shape)}: is it the model "
            "that the adapter was trained on?"
        )
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.to(wide) + scale * (factor_b.to(wide) @ factor_a.to(wide))
