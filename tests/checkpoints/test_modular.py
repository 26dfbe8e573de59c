"""Rerankers whose head is in modules of sentence-transformers: read as that library reads them, or refused in a sentence."""

import json
import shutil

import family_oracle as oracle
import family_texts as texts
import pytest
import torch
from family_worlds import build
from helpers import one_sentence
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.checkpoints.embedded import open_model

QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return build("modernbert-modular", 2).write(tmp_path_factory.mktemp("modular"))


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "model")


def edit(path, **changes):
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def scores(folder, dtype="float64"):
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype=dtype).score(QUERIES, PASSAGES)


def theirs(folder):
    model = CrossEncoder(str(folder), device="cpu")
    logits = model.predict(texts.PAIRS, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
    return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits


def test_scores_are_sentence_transformers(folder):
    torch.testing.assert_close(scores(folder, "float32"), theirs(folder), rtol=1e-5, atol=2e-5)


def test_older_files_of_a_mean_with_biases_and_a_tanh(folder):
    """Names of before version 6, pickled weights, a Dense that names no activation, and biases that are not 0."""
    edit(
        folder / "1_Pooling" / "config.json",
        pooling_mode=None,
        embedding_dimension=None,
        word_embedding_dimension=30,
        pooling_mode_cls_token=False,
        pooling_mode_mean_tokens=True,
        pooling_mode_max_tokens=False,
    )
    edit(folder / "2_Dense" / "config.json", activation_function=None, bias=True)
    listing = json.loads((folder / "modules.json").read_text())
    for module in listing:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    (folder / "modules.json").write_text(json.dumps(listing))
    weights = load_file(folder / "2_Dense" / "model.safetensors")
    weights["linear.bias"] = torch.linspace(-0.5, 0.7, 30)
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    torch.save(load_file(folder / "4_Dense" / "model.safetensors"), folder / "4_Dense" / "pytorch_model.bin")
    (folder / "4_Dense" / "model.safetensors").unlink()
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    assert (model.cfg.pooling, model.cfg.head_act, model.reads_only_first_row) == ("mean", "tanh", False)

    world = build("modernbert-modular", 2)
    trace = oracle.run(world, oracle.encode(world, texts.PAIRS), [])
    real = oracle.encode(world, texts.PAIRS).real
    final = world.model.double().model.final_norm(trace.hidden[-1])
    pooled = torch.stack([rows[mask].mean(0) for rows, mask in zip(final, real, strict=True)])
    with torch.no_grad():
        bent = torch.tanh(world.model.dense(pooled) + weights["linear.bias"].double())
        logits = world.model.scores(world.model.norm(bent))
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), logits[:, 1] - logits[:, 0], rtol=0, atol=1e-10)


def test_another_head_is_another_revision(folder):
    before = open_model(str(folder)).revision
    weights = load_file(folder / "4_Dense" / "model.safetensors")
    weights["linear.bias"] += 1
    save_file(weights, folder / "4_Dense" / "model.safetensors")
    assert open_model(str(folder)).revision != before


def without(*parts):
    def change(folder):
        path = folder.joinpath(*parts)
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def modules(change):
    def edited(folder):
        listing = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(change(listing)))

    return edited


def field(module, **changes):
    return lambda folder: edit(folder / module / "config.json", **changes)


def wrong_weights(folder):
    save_file({"linear.weight": torch.zeros(30, 29)}, folder / "2_Dense" / "model.safetensors")


def moved(listing):
    return [{**module, "path": "../elsewhere"} if module["idx"] == 2 else module for module in listing]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("2_Dense"), "missing: 2_Dense/config.json"),
        (without("3_LayerNorm", "model.safetensors"), "missing: 3_LayerNorm/model.safetensors"),
        (without("1_Pooling", "config.json"), "missing: 1_Pooling/config.json"),
        (modules(lambda listing: listing[:2] + listing[4:]), "expected Transformer, Pooling, Dense, LayerNorm, Dense"),
        (modules(lambda listing: [*listing, listing[-1]]), "expected Transformer, Pooling, Dense, LayerNorm, Dense"),
        (modules(moved), "'../elsewhere'"),
        (modules(lambda listing: [{"type": 3}, *listing[1:]]), "as sentence-transformers writes them"),
        (field("1_Pooling", pooling_mode="max"), "to be cls or mean, got 'max'"),
        (field("1_Pooling", pooling_mode=["cls", "mean"]), "to be cls or mean"),
        (field("2_Dense", activation_function="torch.nn.modules.activation.SiLU"), "'SiLU'"),
        (field("2_Dense", module_input_name="token_embeddings"), "'token_embeddings'"),
        (field("2_Dense", use_residual=True), "use_residual"),
        (field("4_Dense", activation_function=None), "Identity in 4_Dense"),
        (field("4_Dense", module_output_name="logits"), "'logits'"),
        (field("4_Dense", out_features="two"), "out_features"),
        (field("4_Dense", out_features=3), "a head with 1 or 2 logits, got 3"),
        (wrong_weights, "head.dense.weight (30, 29) instead of (30, 30)"),
        (without("modules.json"), "missing: classifier.bias, classifier.weight, head.dense.weight, head.norm.weight"),
        (lambda folder: edit(folder / "config.json", model_type="bert", architectures=["BertModel"]), "a BERT model"),
    ],
)
def test_what_is_not_read_is_refused_in_a_sentence(folder, change, said):
    change(folder)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        scores(folder)
    assert said in str(error.value)
    assert one_sentence(error.value)
