"""What a stored result is of: the weights, the arithmetic and the tokenizer that run, not the checkpoint they once came from.

`model_identity` gives the fields that every cell's key has:

    weights      digest of every parameter and buffer: name, dtype, shape, bytes
    arithmetic   digest of all that is no tensor and changes what is computed: sizes, activation, epsilons, the classes of the
                 modules, the precision of matrix products, and `FORWARD`
    tokenizer    digest of the tokenizer's rules, the side and the length that it cuts to, and whether its token types are fed
    dtype, device, torch, tokenizers

The weights are read anew at each call, since no counter tells of an edit through `.data` or NumPy: about 1 s a gigabyte on one
core, once an experiment and pool. An edit that is undone finds the old results again.

What no key can name is refused: hooks, functions and modules of others, parametrizations, autocast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from tl_crossenc.model.config import CrossEncoderConfig
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.hook_points import HookPoint, SharedHookPoint

POINTS = (HookPoint, SharedHookPoint)
"""Modules that compute nothing."""

FORWARD = 1
"""Counts up with every change of this package that gives a model's activations other numbers."""

CONFIG = (
    *("n_layers", "n_heads", "d_model", "d_head", "d_mlp", "n_ctx", "d_vocab", "d_vocab_types"),
    *("n_labels", "score", "act_fn", "eps", "normalization_type", "use_attn_result", "use_split_qkv_input"),
)
"""What of the configuration is computed with."""

FAMILY_CONFIG = (
    *("positional_embedding_type", "gated_mlp", "norm_order", "first_norm", "final_norm", "position_offset"),
    *("rotary_bases", "rotary_factor", "windows", "relative", "relative_norm", "unbiased", "d_embed", "pooling"),
    *("head_dense", "head_act", "head_norm", "head_eps"),
)
"""The same of what families differ in; only where it is not as in BERT, whose stored results are of before there were others."""

OURS = ("torch", "tl_crossenc")
"""Packages whose modules and functions do the same for as long as `torch` and `FORWARD` in the key are the same."""


def model_identity(model: HookedCrossEncoder) -> dict[str, str]:
    """What of a model a stored result depends on, as fields of its cell's key.

    Raises:
        ValueError: something that no key can name is at work: a hook, a foreign module or function, a parametrization, autocast.
    """
    _refuse_hooks(model)
    _refuse_autocast(model.device.type)
    return {
        "weights": weights_digest(model),
        "arithmetic": _sha256("\n".join(_arithmetic(model))),
        "tokenizer": _tokenizer_digest(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "torch": str(torch.__version__),
        "tokenizers": "none" if model.encoder is None else version("tokenizers"),
    }


def weights_digest(model: nn.Module) -> str:
    """BLAKE2b, 32 hexadecimal digits, over name, dtype, shape and bytes of every parameter and buffer, in their order."""
    slices = list(_slices(model))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        digests = pool.map(lambda named: _blake2b(named[0].encode(), _bytes(named[1])), slices)
        return _blake2b(*digests).hex()


def _slices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(what it is, tensor): stacked tensors by their first axis, so that little is held of a model on a device."""
    tensors = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for name, tensor in tensors:
        about = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        for part in tensor.detach().unbind() if tensor.ndim > 2 else (tensor.detach(),):
            yield about, part


def _bytes(tensor: Tensor) -> Any:
    """The tensor's bytes, row by row, without a copy where it lies so in memory."""
    return tensor.to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().data


def _blake2b(*parts: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _arithmetic(model: HookedCrossEncoder) -> Iterator[str]:
    yield f"forward {FORWARD}, products {_precision(model)}"
    yield from (f"{name} {getattr(model.cfg, name)!r}" for name in CONFIG)
    plain = {field.name: field.default for field in fields(CrossEncoderConfig)}
    differs = [name for name in FAMILY_CONFIG if getattr(model.cfg, name) != plain[name]]
    yield from (f"{name} {getattr(model.cfg, name)!r}" for name in differs)
    for name, module in model.named_modules():
        if type(module) in POINTS:
            continue
        where = name or "the model"
        if is_parametrized(module):
            raise ValueError(
                f"expected weights as they are, but {where} has a parametrization, whose rule stored results would not tell: "
                "call torch.nn.utils.parametrize.remove_parametrizations(..., leave_parametrized=True)"
            )
        yield f"{name} {_named(type(module), where)}"
        for attribute, value in sorted(vars(module).items()):
            yield from _setting(module, where, attribute, value)


def _setting(module: nn.Module, where: str, attribute: str, value: object) -> Iterator[str]:
    """A module's plain numbers and functions; the model's own are its state or in `CONFIG`."""
    if callable(value) and callable(getattr(type(module), attribute, None)):
        raise ValueError(
            f"expected the package's own {attribute} in {where}, but it was replaced by a function that stored results would not "
            "tell of: compute with model.score or run_conditions, which store nothing"
        )
    if attribute == "_compiled_call_impl" and value is not None:
        yield " compiled"
    if attribute.startswith("_") or attribute == "training" or isinstance(module, HookedCrossEncoder):
        return
    if callable(value) and not isinstance(value, nn.Module):
        yield f" {attribute} {_named(value, f'{where}.{attribute}')}"
    elif isinstance(value, bool | int | float | str):
        yield f" {attribute} {value!r}"
    elif is_dataclass(value) and not isinstance(value, CrossEncoderConfig):  # an activation, a way to tell distances
        for field in fields(value):
            part = getattr(value, field.name)
            yield f" {attribute}.{field.name} {_named(part, f'{where}.{attribute}') if callable(part) else repr(part)}"


def _named(thing: Any, where: str) -> str:
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    package = getattr(thing, "__module__", None) or ("torch" if getattr(torch, name, None) is thing else "builtins")
    if package.partition(".")[0] not in OURS:
        raise ValueError(
            f"expected a module or function of this package or torch at {where}, got {package}.{name}, which stored results would "
            "not tell from another of that name: compute with model.score or run_conditions, which store nothing"
        )
    return f"{package.partition('.')[0]}.{name}"  # the module that a class lies in may move without a change of what it does


def _precision(model: HookedCrossEncoder) -> str:
    """How exact products of float32 matrices are: "full", or what was allowed in its stead (TF32, bfloat16)."""
    backend = (
        torch.backends.cuda.matmul if model.device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    )
    chosen = getattr(backend, "fp32_precision", None) or torch.get_float32_matmul_precision()
    return "full" if chosen in ("none", "ieee", "highest") else chosen


def _tokenizer_digest(model: HookedCrossEncoder) -> str:
    """SHA-256 of all that decides a pair's ids and types; the truncation and padding last used do not."""
    if model.encoder is None:
        return "none"
    tokenizer = model.encoder.tokenizer
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules.update(
        truncation=getattr(tokenizer, "truncation_side", None),
        split_special_tokens=bool(getattr(tokenizer, "split_special_tokens", False)),
        padding=None,
        max_length=model.encoder.max_length,
        types_fed=model.types_fed,
    )
    return _sha256(json.dumps(rules, sort_keys=True))


def _refuse_hooks(model: HookedCrossEncoder) -> None:
    """Refuse whatever is called while the model runs. Of backward hooks those on hook points, which change the path taken."""
    hooked = [name for name, point in model.hook_dict.items() if point.has_hooks(dir="both")]
    if hooked:
        raise ValueError(
            f"expected a model without hooks, since stored results would not tell of them; got hooks on {', '.join(hooked[:3])}: "
            "call model.reset_hooks(), or use model.ablating(...)"
        )
    foreign = [name or "the model" for name, module in model.named_modules() if _runs_hooks(module)]
    everywhere = torch.nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        foreign.insert(0, "every module (register_module_forward_hook)")
    if foreign:
        raise ValueError(
            f"expected a model without hooks, since stored results would not tell of them; got hooks of torch's own on "
            f"{', '.join(foreign[:3])}: call remove() on what register_forward_hook or register_forward_pre_hook returned"
        )


def _runs_hooks(module: nn.Module) -> bool:
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return type(module) in POINTS and bool(module._backward_hooks or module._backward_pre_hooks)


def _refuse_autocast(device: str) -> None:
    if torch.is_autocast_enabled(device):
        raise ValueError(
            f"expected no autocast, since stored results would not tell of it; torch.autocast({device!r}) is on: leave its block, "
            "or load the model with dtype='bfloat16'"
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
