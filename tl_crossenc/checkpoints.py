"""Checkpoints: a model's name or folder → its configuration, its weights one tensor at a time, its tokenizer's place.

Reads `model.safetensors`, `pytorch_model.bin` and the sharded forms of both, from a local folder or the Hugging Face hub.
Nothing here knows what the weights mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

logger = logging.getLogger(__name__)

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


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
    tokenizer = files["config.json"].parent if any(file in files for file in ("tokenizer.json", "vocab.txt")) else None
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
    """Download what is needed of a hub model; the first kind of weight file that it has is taken."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            return None

    try:
        config = fetch("config.json")
        if config is None:
            raise ValueError(f"expected config.json in the hub model {name!r}; it has none, so it is no model to load")
        files = {"config.json": config}
        for file in WEIGHT_FILES:
            path = fetch(file)
            if path is not None:
                files[file] = path
                if file.endswith(".index.json"):
                    for shard in sorted(set(read_json(path)["weight_map"].values())):
                        fetched = fetch(shard)
                        if fetched is None:
                            raise ValueError(
                                f"expected the weight file {shard} in the hub model {name!r}; it is missing"
                            )
                        files[shard] = fetched
                break
        else:
            raise ValueError(
                f"expected weights in the hub model {name!r}, one of {', '.join(WEIGHT_FILES)}; it has none"
            )
        for file in TOKENIZER_FILES:
            path = fetch(file)
            if path is not None:
                files[file] = path
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        raise ValueError(
            f"expected 'demo', a model folder or a model on the Hugging Face hub, got {name!r}"
            f"{f' at revision {revision!r}' if revision else ''}, which is none of them: check the name "
            "(a private model needs a token in HF_TOKEN)"
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"expected {name!r} from the Hugging Face hub, but the hub cannot be reached and the model is not in the local "
            f"cache ({type(error).__name__}): connect once, or pass a local folder"
        ) from error
    commit = files["config.json"].parent.name
    return files, commit if len(commit) == 40 else None


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
    index = read_json(files[chosen])
    if not isinstance(index.get("weight_map"), dict):
        raise ValueError(f"expected a weight_map in {files[chosen]}; it has none: download it again")
    names = sorted(set(index["weight_map"].values()))
    missing = [name for name in names if name not in files]
    if missing:
        raise ValueError(
            f"expected the weight files that {files[chosen]} names, missing: {', '.join(missing)}: download them again"
        )
    return [files[name] for name in names]


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
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as weights:
                    for key in weights.keys():  # noqa: SIM118 - a safetensors handle is no mapping
                        yield key, weights.get_tensor(key)
            else:
                yield from _read_pickled(path)
        except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError, KeyError) as error:
            raise ValueError(
                f"expected model weights in {path}, but the file is truncated, corrupt or of another kind "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}): download it again"
            ) from error


def _read_pickled(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Weights of a `.bin` file: mapped where its format allows (a zip, since 2020), else loaded and let go one by one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError):
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"expected a state dict of tensors in {path}, got {type(state).__name__}")
    for key in list(state):
        yield key, state.pop(key)
