"""LoRA adapters: a folder that PEFT saved → its factors and the modules trained in full; `merging` adds them to the base.

**Formula** (Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022). An adapted matrix W `[out, in]` has
two factors, A `[r, in]` and B `[out, r]`, and computes as W + (alpha / r) · B A. The sum is taken as each tensor of the base is
read, so the merged model costs no second copy. A module that was trained in full (the classifier) replaces the base's.

**Notation.** r, alpha: `r` and `lora_alpha` of `adapter_config.json`; A, B: the keys `<module>.lora_A.weight` and
`<module>.lora_B.weight` of `adapter_model.safetensors`.

**Limits.** Plain LoRA on linear layers of a sequence classifier. Every setting of the adapter that would change this sum
is refused, known today or not; every tensor of the adapter is used, or the adapter is refused.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_crossenc.checkpoints.checkpoint import LARGEST_CONFIG, VOCABULARY_FILES, WEIGHT_FILES, read_json
from tl_crossenc.checkpoints.families import FAMILIES
from tl_crossenc.checkpoints.families.family import Family
from tl_crossenc.checkpoints.weight_files import FLOATS, read_weight_files
from tl_crossenc.console.shown import listed, quoted, shown
from tl_crossenc.store.files import regular

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_KEY_PREFIX = "base_model.model."
_FACTORS = (".lora_A.weight", ".lora_B.weight")

_CHECKED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("SEQ_CLS", None),
    "bias": ("none",),
    # Others (pissa, olora, corda, loftq, ...) take something off the base's weights when training starts.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
_READ = frozenset({"r", "lora_alpha", "modules_to_save", "base_model_name_or_path", "revision"})
_CHOICE_OF_MODULES = frozenset({"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"})
_IN_TRAINING_ALONE = frozenset(
    {"lora_dropout", "inference_mode", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config"}
)
_INERT = frozenset({"auto_mapping", "peft_version", "megatron_core", "qalora_group_size"})  # nothing by themselves
_HARMLESS = _READ | _CHOICE_OF_MODULES | _IN_TRAINING_ALONE | _INERT
_HEADS = ("classifier", "score")
"""What PEFT says of every sequence classifier that is trained in full; an encoder's head has the first of the names."""


def full_modules(*families: Family) -> frozenset[str]:
    """Modules beside the encoder: what may be trained in full."""
    named = {name.partition(".")[0] for family in families for layout in family.layouts for name in layout.heads}
    return frozenset(named.union(_HEADS))


_FULL_MODULES = full_modules(*FAMILIES)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory (a few MB).

    Attributes:
        name: what the user asked for.
        base: the model that it was trained on, a hub name or a folder.
        base_revision: the commit of the base, where the adapter names one.
        digest: SHA-256 over its configuration and its weights, hex.
        scale: alpha / r.
        factors: weight key of the classifier model, as `bert.pooler.dense.weight` -> (A `[r, in]`, B `[out, r]`).
        full: key -> tensor of the modules that were trained in full.
        tokenizer_folder: its own tokenizer's folder, or None where it uses the base's.
        trained: names of the modules that its settings say were trained in full.
    """

    name: str
    base: str
    base_revision: str | None
    digest: str
    scale: float
    factors: dict[str, tuple[Tensor, Tensor]]
    full: dict[str, Tensor]
    tokenizer_folder: Path | None
    trained: tuple[str, ...] = ()


def is_adapter_folder(folder: Path) -> bool:
    """Whether the folder holds an adapter.

    Raises:
        ValueError: it holds an adapter and a whole model, so that which of them is meant cannot be told.
    """
    if not (folder / ADAPTER_CONFIG).exists():
        return False
    regular(folder / ADAPTER_CONFIG)
    whole = [file for file in WEIGHT_FILES if (folder / file).is_file()]
    if whole:
        raise ValueError(
            f"expected a model or an adapter in {folder}, got both ({whole[0]} and {ADAPTER_CONFIG}): "
            "keep each in a folder of its own"
        )
    return True


def read_adapter(folder: Path, name: str) -> Adapter:
    """Read the adapter in a folder.

    Raises:
        ValueError: a file is missing or damaged, a setting is one that the merge does not compute, or a tensor is none that a
            LoRA adapter has.
    """
    config_file, weights_file = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if not weights_file.exists():
        raise ValueError(
            f"expected {ADAPTER_WEIGHTS} beside {config_file}; it is not there: save the adapter with PEFT's "
            "save_pretrained(..., safe_serialization=True)"
        )
    settings = read_json(config_file, LARGEST_CONFIG)
    _check_settings(settings, name)
    rank = settings["r"]
    factors, full = _sort_tensors(dict(read_weight_files([weights_file])), rank, name)
    has_tokenizer = any((folder / file).is_file() for file in VOCABULARY_FILES)
    return Adapter(
        name=name,
        base=settings["base_model_name_or_path"],
        base_revision=settings.get("revision"),
        digest=hashlib.sha256(config_file.read_bytes() + weights_file.read_bytes()).hexdigest(),
        scale=settings["lora_alpha"] / rank,
        factors=factors,
        full=full,
        tokenizer_folder=folder if has_tokenizer else None,
        trained=tuple(settings.get("modules_to_save") or ()),
    )


def _check_settings(settings: dict[str, Any], name: str) -> None:
    """Refuse what plain LoRA on linear layers does not compute: a setting that is not known here has to be off."""
    refused = [
        f"{key} {quoted(settings.get(key))}"
        for key, accepted in _CHECKED.items()
        if settings.get(key, accepted[0]) not in accepted
    ]
    refused += [
        f"{shown(key, 80)} {quoted(value)}"
        for key, value in settings.items()
        if key not in _CHECKED and key not in _HARMLESS and value
    ]
    saved = settings.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(module, str) for module in saved):
        refused.append(f"modules_to_save {quoted(saved)}")
    else:
        refused += [f"modules_to_save {quoted(other)}" for other in sorted(set(saved) - _FULL_MODULES)]
    if refused:
        raise not_plain(name, refused)
    rank, alpha = settings.get("r"), settings.get("lora_alpha", math.nan)
    base = settings.get("base_model_name_or_path")
    if type(rank) is not int or rank < 1 or not (type(alpha) in (int, float) and -math.inf < alpha < math.inf):
        raise ValueError(
            f"expected a rank r of 1 or more and a number lora_alpha in the {ADAPTER_CONFIG} of {name!r}, got r {quoted(rank)} and "
            f"lora_alpha {quoted(alpha)}: take the file that PEFT wrote"
        )
    if not isinstance(base, str) or not base or not isinstance(settings.get("revision"), str | None):
        raise ValueError(
            f"expected base_model_name_or_path, and a revision or null, as texts in the {ADAPTER_CONFIG} of {name!r}, got "
            f"{quoted(base)} and {quoted(settings.get('revision'))}: write the name or the folder "
            "of the model that it was trained on there"
        )


def not_plain(name: str, refused: list[str]) -> ValueError:
    """The error to raise over settings that are not computed."""
    return ValueError(
        f"expected a plain LoRA adapter of a sequence classifier in {name!r}, got one with {listed(refused)}, which is "
        "not computed here: merge it with PEFT's merge_and_unload, save the model and load that"
    )


def _sort_tensors(
    tensors: dict[str, Tensor], rank: int, name: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """The pairs of factors by the weight that they change, and the tensors of modules trained in full."""
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    full: dict[str, Tensor] = {}
    wrong: list[str] = []
    for key, tensor in tensors.items():
        target = key.removeprefix(_KEY_PREFIX)
        side = next((i for i, suffix in enumerate(_FACTORS) if key.endswith(suffix)), None)
        if target == key:
            wrong.append(key)
        elif tensor.dtype not in FLOATS:
            wrong.append(f"{key} of {tensor.dtype}")
        elif side is not None and tensor.ndim == 2 and tensor.shape[side] == rank:
            found[side][f"{target.removesuffix(_FACTORS[side])}.weight"] = tensor
        elif side is None and target.partition(".")[0] in _FULL_MODULES and tensor.ndim in (1, 2):
            full[target] = tensor
        else:
            wrong.append(f"{key} {tuple(tensor.shape)}")
    wrong += [f"{key} with one factor of the two" for key in sorted(found[0].keys() ^ found[1].keys())]
    if wrong:
        raise ValueError(
            f"expected lora_A and lora_B of rank {rank} for each adapted matrix, and a classifier, in the adapter {name!r}, got "
            f"{listed(wrong)}: take the files that PEFT wrote"
        )
    return {key: (found[0][key], found[1][key]) for key in found[0]}, full
