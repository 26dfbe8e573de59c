"""Paths wherever a path goes, as text and as `pathlib.Path`; and devices that are not here."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_worlds
import torch
from helpers import one_sentence, write_vocabulary

from tl_crossenc import HookedCrossEncoder, Pool, Store, check_parity, load_collection
from tl_crossenc.model.devices import resolve_device, resolve_dtype
from tl_crossenc.pools.pool import PoolSpec, build_pool

QUERY, PASSAGES = "how do fleas lay", ["fleas lay eggs", "bread"]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_goes_wherever_text_goes(tmp_path, kind):
    folder = small_worlds.model_folder(tmp_path / "model")
    words = write_vocabulary(tmp_path / "words")
    model = HookedCrossEncoder.from_pretrained(kind(folder), device="cpu", tokenizer=kind(words))
    plain = HookedCrossEncoder.from_pretrained(str(folder), device="cpu")
    assert torch.equal(model.score(QUERY, PASSAGES), plain.score(QUERY, PASSAGES))
    assert model.cfg.model_name == plain.cfg.model_name == str(folder)
    assert model.cfg.revision == plain.cfg.revision
    assert check_parity(kind(folder), device="cpu", tokenizer=kind(words)).passed

    collection = load_collection(kind(small_worlds.collection_folder(tmp_path / "collection")))
    pool = build_pool(collection, PoolSpec(2, 0, 0))
    pool.save(kind(tmp_path / "pool.parquet"))
    assert Pool.load(kind(tmp_path / "pool.parquet")).digest == pool.digest
    assert Store(kind(tmp_path / "store")) is not None


def test_a_path_is_a_folder_and_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="which is no folder") as error:
        HookedCrossEncoder.from_pretrained(Path("demo"), device="cpu")
    assert one_sentence(error.value)
    small_worlds.model_folder(tmp_path / "demo")
    assert HookedCrossEncoder.from_pretrained(Path("demo"), device="cpu").cfg.n_layers == 2
    assert HookedCrossEncoder.from_pretrained("demo", device="cpu").cfg.n_layers == 6


# Devices.


def refused(call, *args):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked here and by the caller
        inspect.unwrap(call)(*args)
    assert one_sentence(error.value), str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "device",
    [
        "meta",
        "vulkan",
        "hpu",
        "lazy",
        "xla",
        "privateuseone",
        "abacus",
        "",
        "-1",
        "cpu:-1",
        "cuda:x",
        "a\x1b[2J",
        7,
        None,
    ],
)
def test_a_device_of_another_kind_is_refused(device):
    message = refused(resolve_device, device)
    assert "expected a device among auto, cpu, cuda, mps, xpu, got" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("device", ["mps", "xpu", "xpu:0", "cuda", "cuda:7", torch.device("xpu")])
def test_a_device_that_is_not_here_is_refused(device, monkeypatch):
    for kind in (torch.cuda, torch.xpu, torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    kind = str(device).partition(":")[0]
    assert f"has no {kind} device: use cpu" in refused(resolve_device, device)


def test_devices_that_are_here_are_counted(monkeypatch):
    for kind in (torch.cuda, torch.xpu):
        monkeypatch.setattr(kind, "is_available", lambda: True)
        monkeypatch.setattr(kind, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for device in ("cuda", "cuda:1", "xpu", "xpu:1", "mps", "cpu", torch.device("xpu", 1)):
        assert resolve_device(device) == torch.device(device)
    assert resolve_device("auto") == torch.device("cuda")
    assert "that are here, cuda:0, cuda:1, got 'cuda:7'" in refused(resolve_device, "cuda:7")
    assert "that are here, mps:0, got 'mps:1'" in refused(resolve_device, "mps:1")


def test_float64_is_refused_where_there_is_none():
    assert "mps, which has no float64" in refused(resolve_dtype, "float64", torch.device("mps"))
    assert resolve_dtype("float32", torch.device("mps")) == torch.float32
    assert resolve_dtype("float64", torch.device("xpu")) == torch.float64
    assert "dtype among float32" in refused(resolve_dtype, SimpleNamespace())


@pytest.mark.parametrize("device", ["xpu", "mps", "meta", "cuda:9"])
def test_a_model_is_not_read_for_a_device_that_is_not_here(device, tmp_path, monkeypatch):
    monkeypatch.setattr("tl_crossenc.model.pretrained.open_model", None)
    with pytest.raises(ValueError, match=device.partition(":")[0]):
        HookedCrossEncoder.from_pretrained(tmp_path, device=device)
