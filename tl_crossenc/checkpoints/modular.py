"""Repositories whose reranker is in modules of sentence-transformers: Transformer, Pooling, Dense, LayerNorm, Dense.

`modules.json` names the folder of each. The number of labels is the size of what the Dense named "scores" gives; the root's own
configuration says nothing of the head, and what transformers makes of it alone has a random one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from tl_crossenc.checkpoints.checkpoint import LARGEST_TEXT, Checkpoint, combined, read_json
from tl_crossenc.checkpoints.cross_encoder_files import MODULES, main_settings
from tl_crossenc.checkpoints.head_modules import ROLES, HeadModules
from tl_crossenc.checkpoints.hub import HubModel
from tl_crossenc.console.shown import listed, quoted
from tl_crossenc.store.files import read_regular, regular

KINDS = ("Transformer", "Pooling", "Dense", "LayerNorm", "Dense")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ACTIVATIONS = {"GELU": "gelu", "ReLU": "relu", "Tanh": "tanh"}
"""torch's classes to what configurations call them."""

Get = Callable[[str], Path | None]
"""A file's name under the root -> where it lies; None where there is none."""


def with_head_modules(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the head in modules that its repository has; itself where it has none, or is no reranker.

    Raises:
        ValueError: modules of another kind or order, one that is missing, or a setting of one that is not computed.
    """
    if checkpoint.folder is None or not os.path.lexists(checkpoint.folder / MODULES):
        return checkpoint
    folder, name = checkpoint.folder, checkpoint.name
    try:
        listing = json.loads(read_regular(folder / MODULES, LARGEST_TEXT))
        modules = [(one["type"].rpartition(".")[2], one["path"]) for one in listing]
        if any(not isinstance(path, str) for _, path in modules):
            raise TypeError("a path that is no text")
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise ValueError(
            f"expected {MODULES} in {folder} as sentence-transformers writes them, got something else ({error}): download it "
            "again, or remove it"
        ) from error
    if main_settings(folder) is None or len(modules) < 2:
        return checkpoint
    check_kinds([kind for kind, _ in modules], f"the {MODULES} of {name!r}")
    head = _head([path for _, path in modules[1:]], _getter(checkpoint), name)
    files = [file for file in head.weights.values() if isinstance(file, Path)]
    return replace(
        checkpoint,
        head=head,
        revision=checkpoint.revision
        if not checkpoint.revision.startswith("sha256:")
        else combined(
            checkpoint.revision, [*files, *(file.parent / "config.json" for file in files), folder / MODULES]
        ),
        stored_bytes=(checkpoint.stored_bytes or 0) + sum(file.stat().st_size for file in files),
    )


def check_kinds(kinds: Sequence[str], where: str) -> None:
    """Refuse modules that are not those of `KINDS` in their order; `where` they are is for the error."""
    if tuple(kinds) != KINDS:
        raise ValueError(
            f"expected {', '.join(KINDS)} in {where}, got {listed(map(quoted, kinds))}: a head of other modules is not read here"
        )


def _getter(checkpoint: Checkpoint) -> Get:
    """Files of the checkpoint's folder, or of its commit on the hub."""
    folder = checkpoint.folder
    if folder is not None and checkpoint.revision.startswith("sha256:"):
        return lambda file: regular(folder / file) if os.path.lexists(folder / file) else None
    return HubModel(checkpoint.name, checkpoint.revision).fetch


def _head(paths: list[str], get: Get, name: str) -> HeadModules:
    for path in paths:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise ValueError(
                f"expected folders inside of {name!r} in its {MODULES}, got {quoted(path)}: download it again"
            )
    configs = [_config(path, get, name) for path in paths]
    weights: dict[str, Path] = {}
    for role, path in zip(ROLES, paths[1:], strict=True):
        found = next((at for file in WEIGHTS if (at := get(f"{path}/{file}")) is not None), None)
        if found is None:
            raise _missing(name, f"{path}/{WEIGHTS[0]}")
        weights[role] = found
    return head_of(configs, weights, paths, name)


def head_of(
    configs: Sequence[dict[str, Any]], weights: Mapping[str, Path | nn.Module], paths: Sequence[str], name: str
) -> HeadModules:
    """The head of Pooling, Dense, LayerNorm and Dense, as their settings describe it.

    Args:
        configs: a module's settings each.
        weights: of `ROLES`.
        paths: what errors call the modules.
        name: of the model.

    Raises:
        ValueError: a setting that is not computed.
    """
    pooling, dense, _, scores = configs
    _check_dense(dense, "sentence_embedding", name, paths[1])
    _check_dense(scores, "scores", name, paths[3])
    activation, last = (_activation(config) for config in (dense, scores))
    if activation not in ACTIVATIONS or last != "Identity":
        raise ValueError(
            f"expected an activation among {', '.join(ACTIVATIONS)} in {paths[1]} of {name!r} and Identity in {paths[3]}, got "
            f"{quoted(activation)} and {quoted(last)}: others are not computed here"
        )
    n_labels = scores.get("out_features")
    if type(n_labels) is not int or n_labels < 1:
        raise ValueError(
            f"expected out_features in {paths[3]} of {name!r} as a whole number from 1, got {quoted(n_labels)}"
        )
    unbiased = tuple(role for role, config in (("dense", dense), ("scores", scores)) if config.get("bias") is False)
    return HeadModules(_pooling(pooling, name), ACTIVATIONS[activation], n_labels, unbiased, weights)


def _config(path: str, get: Get, name: str) -> dict[str, Any]:
    found = get(f"{path}/config.json")
    if found is None:
        raise _missing(name, f"{path}/config.json")
    return read_json(found)


def _missing(name: str, file: str) -> ValueError:
    return ValueError(
        f"expected the modules of the head of {name!r} beside its encoder, missing: {file}: download the whole repository"
    )


def _check_dense(config: dict[str, Any], output: str, name: str, path: str) -> None:
    wants = {"module_input_name": "sentence_embedding", "module_output_name": output, "use_residual": False}
    given = {"module_output_name": "sentence_embedding", **config}
    other = {key: given[key] for key, value in wants.items() if given.get(key, value) != value}
    if other:
        raise ValueError(
            f"expected a Dense from sentence_embedding to {output} in {path} of {name!r}, got {quoted(other)}: another is not "
            "computed here"
        )


def _activation(config: dict[str, Any]) -> str:
    """The class that a Dense names, without its module; sentence-transformers takes Tanh where none is named."""
    return str(config.get("activation_function", "Tanh")).rpartition(".")[2]


def _pooling(config: dict[str, Any], name: str) -> str:
    """Which rows are pooled: `pooling_mode`, or the one flag that is set in older files."""
    flags = {"cls_token": "cls", "mean_tokens": "mean"}
    mode: Any = config.get("pooling_mode")
    if mode is None:
        on = [key.removeprefix("pooling_mode_") for key, value in config.items() if "pooling_mode_" in key and value]
        mode = flags.get(on[0]) if len(on) == 1 else on
    if mode not in ("cls", "mean"):
        raise ValueError(f"expected the pooling of {name!r} to be cls or mean, got {quoted(mode)}")
    return str(mode)
