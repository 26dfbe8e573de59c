import json
import pickle
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from helpers import (
    LAYOUTS,
    bert_tokenizer,
    monobert_config,
    one_sentence,
    random_weights,
    small_config,
    write_checkpoint,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tl_crossenc.checkpoints.checkpoint import open_checkpoint, read_json, read_weight_files

CONFIG = monobert_config()
STATE = random_weights(CONFIG)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refused(call, *args):
    """The one sentence with which `call` refuses."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked here and by the caller
        call(*args)
    assert one_sentence(error.value), str(error.value)
    return str(error.value)


def read_all(folder):
    return list(open_checkpoint(str(folder)).read_tensors())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights(tmp_path, layout):
    write_checkpoint(tmp_path, CONFIG, STATE, layout)
    checkpoint = open_checkpoint(str(tmp_path))
    for _ in range(2):  # it can be read again
        read = list(checkpoint.read_tensors())
        assert sorted(key for key, _ in read) == sorted(STATE)
        assert all(torch.equal(tensor, STATE[key]) for key, tensor in read)
    assert checkpoint.config == CONFIG
    assert checkpoint.tokenizer_folder is None
    assert checkpoint.folder == tmp_path
    assert checkpoint.name == str(tmp_path)


def test_the_revision_tells_weights_and_configurations_apart(tmp_path):
    write_checkpoint(tmp_path / "a", CONFIG, STATE)
    write_checkpoint(tmp_path / "same", CONFIG, STATE)
    write_checkpoint(tmp_path / "weights", CONFIG, random_weights(CONFIG, seed=1))
    write_checkpoint(tmp_path / "config", {**CONFIG, "hidden_act": "relu"}, STATE)
    revisions = {name: open_checkpoint(str(tmp_path / name)).revision for name in ("a", "same", "weights", "config")}
    assert revisions["a"] == revisions["same"]
    assert len(set(revisions.values())) == 3
    assert all(len(revision) == len("sha256:") + 64 for revision in revisions.values())


@pytest.mark.parametrize("layout", ["sharded-safetensors", "sharded-bin"])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_the_revision_is_over_every_shard(tmp_path, layout, shard):
    files = write_checkpoint(tmp_path, CONFIG, STATE, layout)
    before = open_checkpoint(str(tmp_path)).revision
    content = bytearray(files[shard].read_bytes())
    content[-200] ^= 1
    files[shard].write_bytes(content)
    assert open_checkpoint(str(tmp_path)).revision != before


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_checkpoint(tmp_path / "model", CONFIG, STATE)
    assert open_checkpoint("~/model").folder == tmp_path / "model"


def test_safetensors_are_taken_where_both_kinds_lie_there(tmp_path):
    write_checkpoint(tmp_path, CONFIG, random_weights(CONFIG, seed=1), "bin")
    write_checkpoint(tmp_path, CONFIG, STATE, "safetensors")
    assert all(torch.equal(tensor, STATE[key]) for key, tensor in read_all(tmp_path))


def test_the_tokenizer_of_the_folder_is_found(tmp_path):
    write_checkpoint(tmp_path, CONFIG, STATE)
    bert_tokenizer().save_pretrained(tmp_path)
    assert open_checkpoint(str(tmp_path)).tokenizer_folder == tmp_path


# Folders that are no checkpoint.


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here-at-all", "a/b/c"])
def test_a_path_that_is_no_folder(name):
    assert "which is no folder" in refused(open_checkpoint, name)


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    assert "which is no folder" in refused(open_checkpoint, str(path))


def test_an_empty_folder(tmp_path):
    assert "expected config.json" in refused(open_checkpoint, str(tmp_path))


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tf_model.h5").write_bytes(b"weights of another library")
    message = refused(open_checkpoint, str(tmp_path))
    assert "model.safetensors" in message
    assert "pytorch_model.bin" in message


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"hidden_size": ', b"\xff\xfe{", b"<html>404</html>", b"[1, 2]", b"3"]
)
def test_a_configuration_that_is_no_json_object(tmp_path, content):
    write_checkpoint(tmp_path, CONFIG, STATE)
    (tmp_path / "config.json").write_bytes(content)
    assert "expected a JSON object in" in refused(open_checkpoint, str(tmp_path))


def test_read_json_names_the_file_that_is_not_there(tmp_path):
    assert "nothing.json" in refused(read_json, tmp_path / "nothing.json")


# Damaged weights.


@pytest.mark.parametrize("layout", ["sharded-safetensors", "sharded-bin"])
def test_a_missing_shard_is_named(tmp_path, layout):
    shards = write_checkpoint(tmp_path, CONFIG, STATE, layout)
    shards[1].unlink()
    message = refused(open_checkpoint, str(tmp_path))
    assert shards[1].name in message
    assert shards[0].name not in message


@pytest.mark.parametrize(
    "index", ["{", "{}", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": []}}']
)
def test_a_damaged_index(tmp_path, index):
    write_checkpoint(tmp_path, CONFIG, STATE, "sharded-bin")
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    assert "pytorch_model.bin.index.json" in refused(open_checkpoint, str(tmp_path))


@pytest.mark.parametrize("fraction", [0, 0.001, 0.02, 0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_truncated_file_is_refused_and_named(tmp_path, layout, fraction):
    path = write_checkpoint(tmp_path, CONFIG, STATE, layout)[-1]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    message = refused(read_all, tmp_path)
    assert path.name in message
    assert "download it again" in message


@pytest.mark.parametrize("lost", [1, 7, 8, 64])
@pytest.mark.parametrize("layout", ["safetensors", "bin", "legacy"])
def test_a_file_that_lacks_its_last_bytes_is_refused(tmp_path, layout, lost):
    (path,) = write_checkpoint(tmp_path, CONFIG, STATE, layout)
    path.write_bytes(path.read_bytes()[:-lost])
    refused(read_all, tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1340675298\n",
        b"<html>Too many requests</html>",
        b"\x00" * 1000,
        bytes(range(256)) * 40,
        b"PK\x03\x04" + b"\x07" * 500,
        b"\xff" * 8 + b"{}",
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_garbage_is_refused(tmp_path, name, content):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / name).write_bytes(content)
    assert name in refused(read_all, tmp_path)


class Trap:
    def __reduce__(self):
        return (print, ("ran code from a checkpoint",))


@pytest.mark.parametrize("value", [[1, 2], 3, {"model": {"a": torch.ones(2)}}, {"weight": 1.5}, torch.ones(3)])
def test_a_bin_file_of_something_else_is_refused(tmp_path, value):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(value, tmp_path / "pytorch_model.bin")
    assert "state dict of tensors" in refused(read_all, tmp_path)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_bin_file_is_never_run(tmp_path, capsys, save):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save({"weight": Trap()}, tmp_path / "pytorch_model.bin")
    refused(read_all, tmp_path)
    assert "ran code" not in capsys.readouterr().out


def test_tensors_are_let_go_while_reading(tmp_path):
    paths = write_checkpoint(tmp_path, CONFIG, STATE, "bin")
    reader = read_weight_files(paths)
    first, tensor = next(reader)
    assert torch.equal(tensor, STATE[first])
    assert len(dict(reader)) == len(STATE) - 1


# The hub, which no test reaches.


def response(status):
    return SimpleNamespace(headers={}, status_code=status, request=SimpleNamespace(url="", method="GET", headers={}))


class FakeHub:
    """`hf_hub_download` from a folder; `errors` by file name."""

    def __init__(self, folder, errors):
        self.folder, self.errors, self.asked = folder, errors, []

    def __call__(self, name, file, revision=None):
        self.asked.append((file, revision))
        error = self.errors.get(file, self.errors.get("*"))
        if error is not None:
            raise error
        if not (self.folder / file).exists():
            raise EntryNotFoundError(f"404: {file}")
        return str(self.folder / file)


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    def make(**errors):
        hub = FakeHub(tmp_path / "hub" / COMMIT, {key.replace("_json", ".json"): e for key, e in errors.items()})
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_args, **_more: None)
        return hub

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hub_model_is_read_at_one_commit(fake_hub, layout):
    hub = fake_hub()
    write_checkpoint(hub.folder, CONFIG, STATE, layout)
    checkpoint = open_checkpoint("some/model", "v2")
    assert checkpoint.revision == COMMIT
    assert all(torch.equal(tensor, STATE[key]) for key, tensor in checkpoint.read_tensors())
    assert checkpoint.tokenizer_folder is None
    assert hub.asked[0] == ("config.json", "v2")
    assert {revision for _, revision in hub.asked[1:]} == {COMMIT}


def test_a_hub_models_tokenizer_is_fetched(fake_hub):
    hub = fake_hub()
    write_checkpoint(hub.folder, CONFIG, STATE)
    bert_tokenizer().save_pretrained(hub.folder)
    assert open_checkpoint("some/model").tokenizer_folder == hub.folder
    assert {"tokenizer.json", "tokenizer_config.json", "vocab.txt"} <= {file for file, _ in hub.asked}


def test_a_hub_copy_has_every_file_that_its_texts_are_read_by(fake_hub):
    """A file that is not fetched is not in the copy: an old layout would lose its added tokens, a CrossEncoder its length."""
    hub = fake_hub()
    write_checkpoint(hub.folder, CONFIG, STATE)
    files = {"vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    files |= {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
    for file in files:
        (hub.folder / file).write_text("{}")
    open_checkpoint("some/model")
    assert files <= {file for file, _ in hub.asked}


def test_a_hub_model_that_is_no_sentence_transformers_is_asked_for_one_of_its_files(fake_hub):
    hub = fake_hub()
    write_checkpoint(hub.folder, CONFIG, STATE)
    open_checkpoint("some/model")
    asked = {file for file, _ in hub.asked}
    assert "modules.json" in asked
    assert not {"config_sentence_transformers.json", "sentence_bert_config.json"} & asked


@pytest.mark.parametrize("kind", [RepositoryNotFoundError, RevisionNotFoundError])
def test_a_name_that_the_hub_does_not_know(fake_hub, kind):
    fake_hub(config_json=kind("404 Client Error.\n\nRepository Not Found", response=response(404)))
    message = refused(open_checkpoint, "some/modle", "v3")
    assert "'some/modle' at revision 'v3', which is none of them: check the name" in message


def test_a_name_that_can_be_no_hub_name(monkeypatch):
    assert "check the name" in refused(open_checkpoint, "what is this?")


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("An error happened.\nPlease check your connection"),
        HfHubHTTPError("503 Server Error\n\nunavailable", response=response(503)),
        ConnectionError("refused"),
        OSError(28, "No space left on device"),
        RuntimeError("Data processing error\nof a download"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("file", ["config_json", "pytorch_model.bin"])
def test_a_hub_that_fails(fake_hub, error, file):
    hub = fake_hub(**{file: error})
    write_checkpoint(hub.folder, CONFIG, STATE, "bin")
    message = refused(open_checkpoint, "some/model")
    assert "'some/model' from the Hugging Face hub" in message
    assert type(error).__name__ in message
    assert "local folder" in message


@pytest.mark.parametrize("library", ["httpx", "requests"])
def test_errors_of_http_libraries_are_one_sentence_too(fake_hub, library):
    error = pytest.importorskip(library)
    kind = error.ConnectError if library == "httpx" else error.exceptions.ConnectionError
    fake_hub(config_json=kind("[Errno -2] Name or service not known"))
    assert "Name or service not known" in refused(open_checkpoint, "some/model")


def test_a_hub_model_without_configuration_or_weights(fake_hub):
    hub = fake_hub()
    hub.folder.mkdir(parents=True)
    assert "expected config.json in the hub model 'some/model'" in refused(open_checkpoint, "some/model")
    (hub.folder / "config.json").write_text("{}")
    assert "expected a weight file" in refused(open_checkpoint, "some/model")


def test_a_hub_model_that_lacks_a_shard(fake_hub):
    hub = fake_hub()
    shards = write_checkpoint(hub.folder, CONFIG, STATE, "sharded-bin")
    shards[2].unlink()
    assert shards[2].name in refused(open_checkpoint, "some/model")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """The hub library's own cache in a folder, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--some--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return repository


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_cached_model_is_read_without_a_network(offline, layout):
    write_checkpoint(offline / "snapshots" / COMMIT, CONFIG, STATE, layout)
    checkpoint = open_checkpoint("some/model")
    assert checkpoint.revision == COMMIT
    assert len(list(checkpoint.read_tensors())) == len(STATE)
    assert checkpoint.tokenizer_folder is None


def test_a_model_that_is_not_cached_needs_a_network(offline):
    message = refused(open_checkpoint, "other/model")
    assert "cannot be reached and config.json is not in the local cache" in message


def test_a_model_whose_weights_are_not_cached_needs_a_network(offline):
    shards = write_checkpoint(offline / "snapshots" / COMMIT, small_config(), STATE, "sharded-safetensors")
    shards[0].unlink()
    assert f"cannot be reached and the weight file {shards[0].name}" in refused(open_checkpoint, "some/model")
    shutil.rmtree(offline / "snapshots" / COMMIT)
    (offline / "snapshots" / COMMIT).mkdir()
    (offline / "snapshots" / COMMIT / "config.json").write_text("{}")
    assert "cannot be reached and a weight file" in refused(open_checkpoint, "some/model")
