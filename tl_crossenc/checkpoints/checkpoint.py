"""Checkpoints: a model's name or folder → its configuration, its weights one tensor at a time, its tokenizer's place.

Reads `model.safetensors`, `pytorch_model.bin` and the sharded forms of both, from a local folder or the Hugging Face hub.
Nothing here knows what the weights mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from tl_crossenc.checkpoints.head_modules import HeadModules
from tl_crossenc.checkpoints.hub import HubModel
from tl_crossenc.checkpoints.weight_files import read_weight_files
from tl_crossenc.console.shown import listed, quoted, shown
from tl_crossenc.store.files import read_regular, regular, sha256

logger = logging.getLogger(__name__)

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spm.model")
"""XLM-R's and CamemBERT's, and DeBERTa's: read through the package sentencepiece."""
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", *SENTENCEPIECE_FILES, "vocab.json")
"""What a tokenizer's words are in; the first that is there is read. The last, of byte-level BPE, goes with `merges.txt`."""
TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""What transformers reads of a tokenizer's folder, beside a `config.json`."""

CROSS_ENCODER_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
"""What sentence-transformers reads beside them; the others only where the first is there."""

_ALONE = {file: VOCABULARY_FILES.index(file) for file in VOCABULARY_FILES[2:]}
"""Vocabularies that nothing reads where one of so many before them is there."""
_NEEDS = {"merges.txt": "vocab.json", **dict.fromkeys(CROSS_ENCODER_FILES[1:], CROSS_ENCODER_FILES[0])}
"""File -> the one without which it says nothing."""

LARGEST_TEXT = 64 << 20
"""Bytes of the largest JSON or text file that is read; the largest tokenizers in use have half of it."""
LARGEST_CONFIG = 4 << 20
"""Bytes of the largest configuration or index; the index of 24 layers has 35 kB."""


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
        stored_bytes: bytes of its weight files, which bound how many weights it has; None where it has no files.
        head: a head in modules beside the encoder (`head_modules`); None where it is among the weights.
        tokenizer: its tokenizer itself, of an object in memory (`objects`); None where it lies in files.
        unadapted: of an adapter merged with its base, the same without what the adapter adds to matrices, with the head that it
            trained; None for all others.
    """

    name: str
    revision: str
    config: dict[str, Any]
    read_tensors: Callable[[], Iterator[tuple[str, Tensor]]] = field(repr=False)
    tokenizer_folder: Path | None
    folder: Path | None
    stored_bytes: int | None = None
    head: HeadModules | None = None
    tokenizer: Any = None
    unadapted: Checkpoint | None = field(default=None, repr=False)


def open_checkpoint(name: str | os.PathLike[str], revision: str | None = None) -> Checkpoint:
    """The checkpoint in a local folder, or of that name on the hub.

    Raises:
        ValueError: no such folder or hub model, no network, or files that are missing or cannot be read.
    """
    given, name = name, os.fspath(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        files = _local_files(folder)
        digest = None
    elif given is not name or folder.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ValueError(f"expected a model folder with config.json and weights, got {name!r}, which is no folder")
    else:
        files, digest = _hub_files(name, revision)
    config = read_json(files["config.json"], LARGEST_CONFIG)
    shards = _shards(files)
    tokenizer = files["config.json"].parent if any(file in files for file in VOCABULARY_FILES) else None
    return Checkpoint(
        name=name,
        revision=digest or _revision([files["config.json"], *shards]),
        config=config,
        read_tensors=lambda: read_weight_files(shards),
        tokenizer_folder=tokenizer,
        folder=files["config.json"].parent,
        stored_bytes=sum(shard.stat().st_size for shard in shards),
    )


def _local_files(folder: Path) -> dict[str, Path]:
    try:
        present = {path.name: path for path in folder.iterdir()}
    except OSError as error:
        raise ValueError(
            f"expected a model folder in {shown(folder)}, which cannot be listed ({error.strerror})"
        ) from error
    for name in ("config.json", *WEIGHT_FILES):
        if name in present:
            regular(present[name])
    files = {name: path for name, path in present.items() if path.is_file()}
    if "config.json" not in files:
        raise ValueError(f"expected config.json in the model folder {shown(folder)}; it is not there")
    if not any(name in files for name in WEIGHT_FILES):
        raise ValueError(
            f"expected weights in the model folder {shown(folder)}, one of {', '.join(WEIGHT_FILES)}; none is there"
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
    return files | fetch_tokenizer(hub), hub.commit


def fetch_tokenizer(hub: HubModel) -> dict[str, Path]:
    """The files that say how a hub model's texts become tokens, as many of them as it has."""
    found: dict[str, Path] = {}
    for file in (*TOKENIZER_FILES, *CROSS_ENCODER_FILES):
        if file in _ALONE and any(other in found for other in VOCABULARY_FILES[: _ALONE[file]]):
            continue
        if file in _NEEDS and _NEEDS[file] not in found:
            continue
        path = hub.fetch(file)
        if path is not None:
            found[file] = path
    return found


def read_json(path: Path, most: int = LARGEST_TEXT) -> dict[str, Any]:
    """The object in a JSON file of at most `most` bytes.

    Raises:
        ValueError: the file holds no JSON object, a key twice, or more.
    """
    try:
        value = json.loads(read_regular(path, most).decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else shown(error, 300)
        raise ValueError(
            f"expected a JSON object in {shown(path)}, but it cannot be read ({reason}): download it again"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object in {shown(path)}, got {type(value).__name__}")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of these pairs; readers disagree on which of two values of a key counts."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]
        raise ValueError(f"it has {listed(map(quoted, twice))} more than once")
    return value


def _shards(files: dict[str, Path]) -> list[Path]:
    chosen = next(name for name in WEIGHT_FILES if name in files)
    if not chosen.endswith(".index.json"):
        return [files[chosen]]
    names = _shard_names(files[chosen])
    missing = [name for name in names if name not in files]
    if missing:
        raise ValueError(
            f"expected the weight files that {shown(files[chosen])} names, missing: {listed(missing)}: download them again"
        )
    return [files[name] for name in names]


def _shard_names(index: Path) -> list[str]:
    """The weight files that an index names."""
    weight_map = read_json(index, LARGEST_CONFIG).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ValueError(f"expected a weight_map of file names in {shown(index)}; it has none: download it again")
    names = sorted(set(weight_map.values()))
    elsewhere = [name for name in names if not name or PurePath(name).name != name or "\\" in name or "\0" in name]
    if elsewhere or not names:
        raise ValueError(
            f"expected names of files beside {shown(index)} in its weight_map, got {listed(map(quoted, elsewhere)) or 'none'}: "
            "download it again"
        )
    return names


def combined(revision: str, paths: list[Path]) -> str:
    """A revision with more files in it."""
    return f"sha256:{hashlib.sha256(f'{revision} {_revision(paths)}'.encode()).hexdigest()}"


def _revision(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(sha256(path)))
    return f"sha256:{digest.hexdigest()}"
