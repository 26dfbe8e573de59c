"""Models in memory as checkpoints: a sequence classifier of Hugging Face, or a CrossEncoder of sentence-transformers.

They are known by what they have, and neither library is imported. Weights are read where they are, as they are when they are
read; nothing is copied but one tensor at a time.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from typing import Any

import torch
from torch import Tensor, nn

from tl_crossenc.checkpoints.checkpoint import Checkpoint
from tl_crossenc.checkpoints.families import family_of
from tl_crossenc.checkpoints.head_modules import ROLES, HeadModules
from tl_crossenc.checkpoints.modular import check_kinds, head_of
from tl_crossenc.console.shown import quoted, shown

logger = logging.getLogger(__name__)

WRAPPED_IN = ("_orig_mod", "module")
"""Where a compiled model, and one of DataParallel, has the model itself."""
HEAD = "ForSequenceClassification"


def open_object(given: Any) -> Checkpoint:
    """The checkpoint that a model in memory is.

    Raises:
        TypeError: it is no model.
        ValueError: a base model without a head, adapters that are not merged, weights that are elsewhere, a family that is not
            covered.
    """
    given = _unwrapped(given)
    cross = given if hasattr(given, "predict") and hasattr(given, "model") and isinstance(given, nn.Module) else None
    model: Any = _unwrapped(cross.model if cross is not None else given)
    settings: Any = getattr(model, "config", None)
    if not isinstance(model, nn.Module) or not hasattr(settings, "to_dict"):
        raise TypeError(
            "expected a model's name or folder, a sequence classifier of Hugging Face or a CrossEncoder of sentence-transformers, "
            f"got {type(given).__name__}: load one with AutoModelForSequenceClassification.from_pretrained"
        )
    _refuse_adapters(model)
    config, kind = settings.to_dict(), type(model).__name__
    name = shown(str(getattr(settings, "_name_or_path", "") or kind), 200)
    config["architectures"] = [kind]
    if type(model).__module__.partition(".")[0] not in ("transformers", "transformers_modules"):
        raise ValueError(
            f"expected a class of transformers, got {kind} of {type(model).__module__}, which may compute otherwise: save its "
            "weights as a checkpoint of the class that it is made from, and open that"
        )
    family = family_of(config, name)
    modules = list(getattr(cross, "children", list)()) if hasattr(cross, "__iter__") else []
    if not kind.endswith(HEAD) and len(modules) < 2:
        raise ValueError(
            f"expected a sequence classifier, such as {family.classes[0]}{HEAD}, got {kind}, which has no head that scores: load "
            "the reranker with AutoModelForSequenceClassification.from_pretrained"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise ValueError(f"expected {name!r} with its weights in memory, got some on the meta device: load it whole")
    head = _head(modules, name) if len(modules) > 1 else None
    if cross is not None:
        function = type(cross.activation_fn)
        config["sentence_transformers"] = {"activation_fn": f"{function.__module__}.{function.__qualname__}"}
        prompt = (getattr(cross, "prompts", None) or {}).get(getattr(cross, "default_prompt_name", None))
        if prompt:
            logger.warning(
                "the CrossEncoder %s puts the prompt %s before its texts, which is not done here: its scores differ",
                name,
                quoted(prompt),
            )
    state = model.state_dict
    tensors = [*state().items(), *([] if head is None else head.read_tensors(ROLES))]
    return Checkpoint(
        name=name,
        revision=_revision(config, tensors),
        config=config,
        read_tensors=lambda: iter(state().items()),
        tokenizer_folder=None,
        folder=None,
        head=head,
        tokenizer=None
        if cross is None
        else copy.deepcopy(cross.tokenizer),  # with its limit; the caller's is not changed
    )


def _unwrapped(given: Any) -> Any:
    while isinstance(given, nn.Module):
        inner = next((given._modules[name] for name in WRAPPED_IN if set(given._modules) == {name}), None)
        if inner is None:
            return given
        given = inner
    return given


def _refuse_adapters(model: nn.Module) -> None:
    # A PEFT model is one too after merge_adapter, whose names are its own.
    if any(hasattr(module, "base_layer") or hasattr(module, "modules_to_save") for module in model.modules()):
        raise ValueError(
            f"expected a model with its adapters merged, got {type(model).__name__} with layers of PEFT in it: call "
            "merge_and_unload() and pass what that gives"
        )


def _head(modules: list[Any], name: str) -> HeadModules:
    kinds = [type(module).__name__ for module in modules]
    check_kinds(kinds, f"the CrossEncoder {name!r}")
    _, *rest = modules
    return head_of(
        [module.get_config_dict() for module in rest], dict(zip(ROLES, rest[1:], strict=True)), kinds[1:], name
    )


def _revision(config: dict[str, Any], tensors: list[tuple[str, Tensor]]) -> str:
    """SHA-256 over configuration and weights."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for key, tensor in tensors:
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole = tensor.detach().to("cpu").contiguous().reshape(-1)
        digest.update(whole.view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"
