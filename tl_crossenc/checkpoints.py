"""Checkpoints: a model's name or folder → its configuration, its weights one tensor at a time, its tokenizer's place.

Reads `model.safetensors`, `pytorch_model.bin` and the sharded forms of both, from a local folder or the Hugging Face hub.
Nothing here knows what the weights mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from tl_crossenc.hub import HubModel

logger = logging.getLogger(__name__)

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt")
TOKENIZER_FILES = (*VOCABULARY_FILES, "tokenizer_config.json", "special_tokens_map.json")

FLOATS = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
)
"""Types of stored weights that are numbers by themselves; all are exact in the model's type or rounded to it once."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be read.

    Attributes:
        name: what the user asked for.
        revision: a hub commit, or `sha256:...` over configuration and weights.
        config: the contents of `config.json`.
        read_tensors: gives (key, tensor) for every weight, each read when it is its turn.
        tokenizer_folder: where tokenizer files lie, or None when the checkpoint has none.
        folder: the checkpoint's own files, or None when it is put together from several sources.
    """

    name: str
    revision: str
    config: dict[str, Any]
    read_tensors: Callable[[], Iterator[tuple[str, Tensor]]] = field(repr=False)
    tokenizer_folder: Path | None
    folder: Path | None


def open_checkpoint(name: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder, or of that name on the hub.

    Raises:
        ValueError: no such folder or hub model, no network, or files that are missing or cannot be read.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = _local_files(folder)
        digest = None
    elif folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"expected a model folder with config.json and weights, got {name!r}, which is no folder")
    else:
        files, digest = _hub_files(name, revision)
    config = read_json(files["config.json"])
    shards = _shards(files)
    tokenizer = files["config.json"].parent if any(file in files for file in VOCABULARY_FILES) else None
    return Checkpoint(
        name=name,
        revision=digest or _sha256([files["config.json"], *shards]),
        config=config,
        read_tensors=lambda: read_weight_files(shards),
        tokenizer_folder=tokenizer,
        folder=files["config.json"].parent,
    )


def _local_files(folder: Path) -> dict[str, Path]:
    files = {path.name: path for path in folder.iterdir() if path.is_file()}
    if "config.json" not in files:
        raise ValueError(f"expected config.json in the model folder {folder}; it is not there")
    if not any(name in files for name in WEIGHT_FILES):
        raise ValueError(
            f"expected weights in the model folder {folder}, one of {', '.join(WEIGHT_FILES)}; none is there"
        )
    return files


def _hub_files(name: str, revision: str | None) -> tuple[dict[str, Path], str | None]:
    """What is needed of a hub model, and its commit; the first kind of weight file that it has is taken."""
    hub = HubModel(name, revision)
    config = hub.fetch("config.json")
    if config is None:
        raise hub.missing("config.json")
    files = {"config.json": config}
    for file in WEIGHT_FILES:
        path = hub.fetch(file)
        if path is not None:
            files[file] = path
            break
    else:
        raise hub.missing(f"a weight file, one of {', '.join(WEIGHT_FILES)},")
    for shard in _shard_names(path) if path.name.endswith(".index.json") else ():
        fetched = hub.fetch(shard)
        if fetched is None:
            raise hub.missing(f"the weight file {shard}")
        files[shard] = fetched
    for file in TOKENIZER_FILES:
        path = hub.fetch(file)
        if path is not None:
            files[file] = path
    return files, hub.commit


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected a JSON object in {path}, but it cannot be read ({error}): download it again"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {path}, got {type(value).__name__}")
    return value


def _shards(files: dict[str, Path]) -> list[Path]:
    chosen = next(name for name in WEIGHT_FILES if name in files)
    if not chosen.endswith(".index.json"):
        return [files[chosen]]
    names = _shard_names(files[chosen])
    missing = [name for name in names if name not in files]
    if missing:
        raise ValueError(
            f"expected the weight files that {files[chosen]} names, missing: {', '.join(missing)}: download them again"
        )
    return [files[name] for name in names]


def _shard_names(index: Path) -> list[str]:
    """The weight files that an index names."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"expected a weight_map of file names in {index}; it has none: download it again")
    return sorted(set(weight_map.values()))


def _sha256(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"


def read_weight_files(paths: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of every weight in the files, holding one tensor at a time where the format allows it.

    Raises:
        ValueError: a file is truncated, corrupt or of another kind.
    """
    for path in paths:
        try:
            yield from _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        except Exception as error:  # a damaged pickle can fail in any way at all
            raise ValueError(
                f"expected model weights in {path}, but the file is truncated, corrupt or of another kind "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): download it again"
            ) from error


def _read_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The file is mapped anew for each tensor: pages of it that were read count as memory until the mapping goes."""
    with safe_open(path, framework="pt") as weights:
        keys = list(weights.keys())
    for key in keys:
        with safe_open(path, framework="pt") as weights:
            yield key, weights.get_tensor(key)


def _read_pickled(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Loaded whole and let go one by one. Mapped, the whole file would stay resident until its last tensor is read."""
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"a state dict of tensors would do, this is {type(state).__name__}")
    for key in list(state):
        yield key, state.pop(key)
