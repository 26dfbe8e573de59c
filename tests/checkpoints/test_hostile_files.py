"""Files that are made to do harm: refused in one sentence, in little memory and time, and never waited for."""

import collections
import inspect
import io
import json
import os
import pickle
import socket
import struct
import time
import zipfile
from pathlib import Path

import pytest
import small_worlds
import torch
from helpers import bert_tokenizer, monobert_config, one_sentence, random_weights, small_config, write_checkpoint
from safetensors.torch import save_file

from tl_crossenc import Pool, load_collection
from tl_crossenc.checkpoints.checkpoint import open_checkpoint, read_json
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.checkpoints.pickled import MOST_BYTES, MOST_COPIED
from tl_crossenc.checkpoints.weight_files import read_weight_files
from tl_crossenc.interventions.heads import load_heads
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.store.files import read_regular, regular

CONFIG = monobert_config()
STATE = random_weights(CONFIG)
MOST_SECONDS, MOST_GROWTH = 10, 400e6
NOT_ESCAPED = set(map(chr, [*range(32), *range(127, 160), 0x202E, 0x2066, 0x200F]))


def resident(field):
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if field in line).split()[1])


def refused(call, *args, **more):
    """The one sentence with which `call` refuses, soon and in little memory."""
    watched = os.access("/proc/self/clear_refs", os.W_OK)
    if watched:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
    started = time.monotonic()
    with pytest.raises((ValueError, TypeError)) as error:
        call(*args, **more)
    assert time.monotonic() - started < MOST_SECONDS
    if watched:
        assert (resident("VmHWM") - before) * 1024 < MOST_GROWTH
    message = str(error.value)
    assert one_sentence(message), message
    assert not NOT_ESCAPED & set(message), message
    assert "weights_only" not in message
    assert "safe_globals" not in message
    return message


def load(folder, **given):
    return HookedCrossEncoder.from_pretrained(str(folder), **{"device": "cpu", "tokenizer": bert_tokenizer(), **given})


# Pickles. GLOBAL is c, MARK (, TUPLE t, REDUCE R, STOP ., EMPTY_DICT }, POP 0, BINPUT q, BINGET h.

PROTO = b"\x80\x02"
ORDERED = b"ccollections\nOrderedDict\n"


def archive(data, *entries, compress=zipfile.ZIP_STORED):
    """A file in torch's zip format with this pickle and (name, bytes) beside it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compress) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in (("version", b"3\n"), ("byteorder", b"little"), *entries):
            file.writestr(f"archive/{name}", content)
    return stream.getvalue()


def in_a_row(data, storages=b""):
    """A file in torch's older format with this pickle."""
    before = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}})
    return b"".join(pickle.dumps(part, protocol=2) for part in before) + data + pickle.dumps(["0"], 2) + storages


def tensor(length, size, stride, *, global_=b"ctorch\nFloatStorage\n", key=b"0", offset=0):
    """The pickle {"a": a tensor over storage `key` of `length` values}."""

    def whole(value):
        return b"\x8a\x08" + struct.pack("<q", value)

    def several(values):
        return b"(" + b"".join(map(whole, values)) + b"t"

    pid = b"(" + text(b"storage") + global_ + text(key) + text(b"cpu") + whole(length) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + whole(offset) + several(size) + several(stride)
    return PROTO + b"}" + text(b"a") + rebuilt + b"\x89" + ORDERED + b")RtRs."


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def copies(times):
    """A dictionary of 50,000 entries that is copied again and again."""
    items = b"".join(b"(" + struct.pack("<BI", 0x4A, i) + b"Nt" for i in range(50_000))
    return PROTO + b"](" + b"".join((items, b"e")) + b"q\x000" + (ORDERED + b"h\x00\x85R0") * times + b"}."


def overlapping():
    """A zip whose directory names one stored entry of 1 MB many times."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", PROTO + b"}.")
        file.writestr("archive/data/0", b"\0" * 1_000_000)
        one = file.getinfo("archive/data/0")
        for i in range(1, 2000):
            again = zipfile.ZipInfo(f"archive/data/{i}")
            again.file_size, again.compress_size, again.CRC = one.file_size, one.compress_size, one.CRC
            again.header_offset = one.header_offset
            file.filelist.append(again)
    return stream.getvalue()


def saved(value, **settings):
    stream = io.BytesIO()
    torch.save(value, stream, **settings)
    return stream.getvalue()


class Code:
    def __reduce__(self):
        return (os.system, ("echo ran",))


class Bytes:
    def __reduce__(self):
        return (bytearray, (20_000_000_000,))


FLOATS = struct.pack("<4f", 1, 2, 3, 4)
BOMBS = {
    "compressed dictionaries": (
        lambda: archive(PROTO + b"}" * 300_000_000, compress=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "compressed storage": (
        lambda: archive(PROTO + b"}.", ("data/0", b"\0" * 300_000_000), compress=zipfile.ZIP_DEFLATED),
        "compressed",
    ),
    "dictionaries": (lambda: archive(PROTO + b"}" * 40_000_000 + b"."), "a pickle of 40,000,003 bytes"),
    "dictionaries in a row": (lambda: in_a_row(PROTO + b"}" * 40_000_000 + b"."), "its pickle has more than"),
    "entries that overlap": (overlapping, "larger, taken together"),
    "bytes": (lambda: saved({"a": Bytes()}), "__builtin__.bytearray"),
    "bytes in a row": (lambda: saved({"a": Bytes()}, _use_new_zipfile_serialization=False), "__builtin__.bytearray"),
    "code": (lambda: saved({"a": Code()}), "posix.system"),
    "copies": (lambda: archive(copies(60_000)), "copies more than"),
    "copies in a row": (lambda: in_a_row(copies(60_000)), "copies more than"),
    "a far memo": (lambda: archive(PROTO + b"}r" + struct.pack("<I", 2**32 - 1) + b"."), None),
    "a far extension": (lambda: archive(PROTO + b"\x84" + struct.pack("<i", 7) + b"."), "extension code 7"),
    "a long text": (lambda: archive(PROTO + b"}X" + struct.pack("<I", 2**32 - 1) + b"a."), "truncated"),
    "a long number": (lambda: archive(PROTO + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a."), "truncated"),
    "a large storage": (lambda: archive(tensor(2**40, (2,), (1,)), ("data/0", FLOATS)), "4,398,046,511,104 bytes"),
    "a large storage in a row": (lambda: in_a_row(tensor(2**40, (2,), (1,)), FLOATS), "4,398,046,511,104 bytes"),
    "no storage": (lambda: archive(tensor(4, (4,), (1,))), "has 0 for it"),
    "a negative storage": (lambda: archive(tensor(-4, (4,), (1,)), ("data/0", FLOATS)), "torch does not write"),
    "a negative size": (lambda: archive(tensor(4, (-4,), (1,)), ("data/0", FLOATS)), "torch does not write"),
    "an expanded tensor": (lambda: saved({"a": torch.ones(1).expand(1 << 20, 1 << 20)}), "4398046511104 bytes over"),
    "an expanded tensor in a row": (
        lambda: saved({"a": torch.ones(1).expand(1 << 20, 1 << 20)}, _use_new_zipfile_serialization=False),
        "4398046511104 bytes over",
    ),
    "an endless tensor": (lambda: archive(tensor(4, (2**62, 2**62), (0, 0)), ("data/0", FLOATS)), "bytes over"),
    "a sparse tensor": (
        lambda: saved({"a": torch.sparse_coo_tensor([[0]], [1.0], (1 << 50,), check_invariants=True)}),
        "_rebuild_sparse",
    ),
    "a tensor without storage": (lambda: saved({"a": torch.empty(1 << 40, device="meta")}), "_rebuild_meta"),
    "another command": (lambda: saved({"a\x1b[2J\u202e": 3}), "'a\\x1b[2J\\u202e'"),
    "a key that is no text": (lambda: saved({3: torch.ones(1)}), "state dict of tensors"),
    "a state dict inside": (lambda: saved({"state_dict": STATE, "epoch": 3}), "'state_dict', 'epoch': save"),
    "a list of ten thousand": (lambda: saved([0] * 10_000), "'list', and a state dict of tensors would do"),
    "two archives": (
        lambda: archive(PROTO + b"}.").replace(b"archive/version", b"another/version"),
        "several archives",
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_pickle_that_asks_for_more_than_tensors_is_refused(tmp_path, capfd, kind):
    make, said = BOMBS[kind]
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(make())
    if said is None:  # harmless: read, and empty
        assert list(read_weight_files([path])) == []
        return
    message = refused(lambda: list(read_weight_files([path])))
    assert said in message
    assert "pytorch_model.bin" in message
    assert "ran" not in capfd.readouterr().out


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict(STATE),
        dict(STATE),
        {key: torch.nn.Parameter(tensor) for key, tensor in STATE.items()},
        {key: tensor.to(torch.float8_e5m2) for key, tensor in STATE.items()},
        {key: tensor.bfloat16() for key, tensor in STATE.items()},
        {"a": torch.arange(12.0).reshape(3, 4).T, "b": torch.arange(12.0)[3:7], "c": torch.tensor(1.5)},
        {"a": STATE["classifier.bias"], "tied": STATE["classifier.bias"], "empty": torch.zeros(0, 7)},
        {"ids": torch.arange(41).expand((1, -1)), "mask": torch.ones(3, dtype=torch.bool)},
    ],
    ids=["ordered", "plain", "parameters", "float8", "bfloat16", "views", "tied", "integers"],
)
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path, value, zipped):
    if not zipped and any(weight.dtype == torch.float8_e5m2 for weight in value.values()):
        pytest.skip("torch writes float8 in its older format and does not read it")
    torch.save(value, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    read = dict(read_weight_files([tmp_path / "pytorch_model.bin"]))
    assert list(read) == list(value)
    assert all(torch.equal(read[key].double(), value[key].double()) for key in value)
    assert all(read[key].dtype == value[key].dtype for key in value)


def test_the_attributes_of_a_state_dict_are_no_hindrance(tmp_path):
    state = torch.nn.Linear(3, 5).state_dict()
    assert state._metadata
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert list(dict(read_weight_files([tmp_path / "pytorch_model.bin"]))) == ["weight", "bias"]


def test_the_bounds_leave_room_for_the_largest_models():
    per_key = len(pickle.dumps(f"bert.encoder.layer.999.{'attention.self.query.weight'}", 2)) + 150
    assert per_key * 16 * 1000 < MOST_BYTES
    assert MOST_COPIED > 16 * 1000


# Configurations.

VALUES = ["12", 12.0, 1e400, float("nan"), -3, 0, None, True, [12], {"a": 1}, 10**30, "a\x1b[2J" * 1000]
SIZES = (
    "hidden_size",
    "num_attention_heads",
    "num_hidden_layers",
    "max_position_embeddings",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
)


@pytest.mark.parametrize("key", SIZES)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:12])
def test_a_size_of_an_odd_type_is_one_sentence(tmp_path, key, value):
    write_checkpoint(tmp_path, {**CONFIG, key: value}, STATE)
    assert f"expected {key} as a whole number from 1" in refused(load, tmp_path)


@pytest.mark.parametrize(
    "key", ["layer_norm_eps", "num_labels", "id2label", "architectures", "model_type", "hidden_act"]
)
@pytest.mark.parametrize(
    "value", ["a\x1b[2J", [7], {"0": {"a": []}}, -1, float("nan"), float("inf"), True, [["a"]], "x" * 100_000], ids=str
)
def test_another_field_of_an_odd_type_is_one_sentence(tmp_path, key, value):
    if (key, str(value)) == ("id2label", "{'0': {'a': []}}"):
        value = [["0"]]
    write_checkpoint(tmp_path, {**CONFIG, key: value}, STATE)
    assert len(refused(load, tmp_path)) < 600


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 20_000}, "num_hidden_layers as a whole number from 1 to 1000"),
        ({"num_hidden_layers": 900, "hidden_size": 999}, "weights, and its weight files have"),
        ({"hidden_size": 3 * 10**6}, "weights, and its weight files have"),
        ({"vocab_size": 2**31 - 1}, "weights, and its weight files have"),
        ({"max_position_embeddings": 10**9}, "weights, and its weight files have"),
        ({"intermediate_size": 10**9}, "weights, and its weight files have"),
        ({"type_vocab_size": 10**9}, "weights, and its weight files have"),
        ({"num_labels": 10**9}, "a head with 1 or 2 logits"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantized ('bitsandbytes')"),
        ({"quantization_config": "fp8"}, "quantized ('fp8')"),
    ],
)
@pytest.mark.parametrize("layout", ["safetensors", "sharded-bin"])
def test_a_configuration_of_another_size_is_refused_before_the_model_is_made(
    tmp_path, monkeypatch, changes, said, layout
):
    monkeypatch.setattr(HookedCrossEncoder, "__init__", None)
    write_checkpoint(tmp_path, {**CONFIG, **changes}, STATE, layout)
    assert said in refused(load, tmp_path)


def test_the_number_of_weights_is_the_state_dicts(tmp_path):
    write_checkpoint(tmp_path, {**CONFIG, "vocab_size": 10**9}, STATE)
    n_weights = (
        sum(weight.numel() for weight in STATE.values()) + (10**9 - CONFIG["vocab_size"]) * CONFIG["hidden_size"]
    )
    size = (tmp_path / "model.safetensors").stat().st_size
    assert f"describes {n_weights:,} weights, and its weight files have {size:,} bytes" in refused(load, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"hidden_size": 15, "hidden_size": 15}', "'hidden_size' more than once"),
        ('{"a": {"b\\u001b[2J": 1, "b\\u001b[2J": 2}}', "more than once"),
        ('{"a": "' + "x" * 5_000_000 + '"}', "at most 4,194,304 bytes"),
        ("\x1b[2J", "expected a JSON object"),
        ('{"a": ' + "9" * 5000 + "}", "expected a JSON object"),
    ],
)
def test_a_configuration_that_is_made_to_break_its_reader(tmp_path, content, said):
    write_checkpoint(tmp_path, CONFIG, STATE)
    (tmp_path / "config.json").write_text(content)
    assert said in refused(open_checkpoint, str(tmp_path))


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.bin", "a\\b.bin", "a\x1b[2J\0.bin", ""])
def test_an_index_names_files_beside_it_alone(tmp_path, name):
    write_checkpoint(tmp_path, CONFIG, STATE, "sharded-bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    assert "names of files beside" in refused(open_checkpoint, str(tmp_path))


def test_an_index_of_nothing_is_refused(tmp_path):
    write_checkpoint(tmp_path, CONFIG, STATE, "sharded-bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {}}')
    assert "got none" in refused(open_checkpoint, str(tmp_path))


def test_a_header_that_is_far_too_long_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 60_000_000) + b"{" + b" " * 60_000_000 + b"}")
    assert "a header of 60,000,000 bytes" in refused(lambda: list(read_weight_files([path])))


# Control characters of keys, in every sentence that lists keys.


def test_control_characters_of_a_key_are_written_out(tmp_path):
    key = "classifier.\x1b[2J\x9b1m\u202e\r\nweight"
    write_checkpoint(tmp_path, CONFIG, {**STATE, key: torch.zeros(2)})
    assert "not known: classifier.\\x1b[2J\\x9b1m\\u202e  weight" in refused(load, tmp_path)


def test_control_characters_of_an_adapter_are_written_out(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "a\x1b[2J": "b\x1b[2J\u202e", "r": 1})
    )
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    assert "a\\x1b[2J 'b\\x1b[2J\\u202e'" in refused(load, tmp_path)
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "./\x1b[2J"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"x\x1b[2J\u202e": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    assert "x\\x1b[2J\\u202e" in refused(load, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": 5},
        {"modules_to_save": "classifier"},
        {"modules_to_save": [["classifier"]]},
        {"r": True},
        {"r": 1e400},
        {"lora_alpha": float("nan")},
        {"lora_alpha": True},
        {"lora_alpha": "13"},
        {"revision": 7},
        {"base_model_name_or_path": ["a"]},
        {"peft_type": ["LORA"]},
        {"bias": {}},
        {"init_lora_weights": [1]},
    ],
    ids=str,
)
def test_a_setting_of_an_adapter_of_an_odd_type_is_one_sentence(tmp_path, settings):
    plain = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain | settings))
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    assert next(iter(settings)) in refused(load, tmp_path)


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4)])
def test_a_classifier_of_an_odd_shape_is_one_sentence(tmp_path, shape):
    write_checkpoint(tmp_path / "base", small_config(), STATE)
    tensors = {
        "base_model.model.classifier.weight": torch.ones(shape),
        "base_model.model.classifier.bias": torch.ones(1),
    }
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert "classifier.weight" in refused(load, tmp_path)


# Pipes, devices, folders, sockets and links that go nowhere, in place of each file.


def put(kind, path):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            here = Path.cwd()
            os.chdir(path.parent)  # names of sockets are short
            bound.bind(path.name)
            os.chdir(here)


KINDS = ("pipe", "device", "folder", "loop", "socket")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("safetensors", "config.json"),
        ("safetensors", "model.safetensors"),
        ("bin", "pytorch_model.bin"),
        ("sharded-bin", "pytorch_model.bin.index.json"),
        ("sharded-safetensors", "model-00002-of-00003.safetensors"),
    ],
)
def test_what_is_no_file_is_not_opened_in_a_checkpoint(tmp_path, kind, layout, name):
    write_checkpoint(tmp_path, CONFIG, STATE, layout)
    put(kind, tmp_path / name)
    assert name in refused(load, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_what_is_no_file_is_not_opened_in_an_adapter(tmp_path, kind, name):
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    put(kind, tmp_path / name)
    message = refused(load, tmp_path)
    assert name in message or (kind, name) == ("loop", "adapter_config.json")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["docs.tsv", "queries.tsv", "qrels.txt"])
def test_what_is_no_file_is_not_opened_in_a_collection(tmp_path, kind, name):
    small_worlds.collection_folder(tmp_path)
    put(kind, tmp_path / name)
    started = time.monotonic()
    with pytest.raises((ValueError, OSError), match=name.replace(".", "[.]")) as error:
        load_collection(tmp_path)
    assert time.monotonic() - started < MOST_SECONDS
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_not_opened_among_results(tmp_path, kind):
    put(kind, tmp_path / "pool.parquet")
    with pytest.raises((ValueError, OSError), match=r"pool\.parquet"):
        Pool.load(tmp_path / "pool.parquet")
    (tmp_path / "heads").mkdir()
    put(kind, tmp_path / "heads" / "matching.json")
    with pytest.raises(ValueError, match=r"matching\.json"):
        load_heads(tmp_path, "matching")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_told(tmp_path, kind):
    put(kind, tmp_path / "a")
    for call in (
        lambda: regular(tmp_path / "a"),
        lambda: read_regular(tmp_path / "a", 9),
        lambda: read_json(tmp_path / "a"),
    ):
        message = refused(call)
        assert kind in message or "cannot be read" in message


@pytest.mark.parametrize(
    "name", ["a" * 5000, "a\0b", "", None, 7, b"demo", ["demo"], "\ud800", "./\x1b[2J", "a\x1b[2J"]
)
def test_a_name_that_is_none_is_one_sentence(name):
    refused(inspect.unwrap(open_model), name)
