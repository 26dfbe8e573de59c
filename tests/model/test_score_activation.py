"""Activated scores against sentence-transformers' own CrossEncoder, for everything that a checkpoint can name."""

import json
import logging

import family_texts as texts
import pytest
import torch
from family_worlds import build
from helpers import one_sentence

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.cli import main
from tl_crossenc.model.score_activation import ELEMENTWISE, activation_of

CrossEncoder = pytest.importorskip("sentence_transformers").CrossEncoder
QUERIES, PASSAGES = (list(side) for side in zip(*texts.PAIRS, strict=True))
TORCH = "torch.nn.modules.activation."


def folder_of(name, folder, n_labels=1, **changes):
    build(name, n_labels).write(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def opened(folder, **given):
    return HookedCrossEncoder.from_pretrained(folder, device="cpu", **given)


def theirs(folder):
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    return model.predict(list(texts.PAIRS), convert_to_tensor=True, show_progress_bar=False).cpu()


def same(model, folder):
    found, expected = model.activated(model.score(QUERIES, PASSAGES)), theirs(folder)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)
    return found


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "roberta", "electra", "distilbert", "modernbert-cls", "gte"])
def test_the_default_of_one_label_is_a_sigmoid_in_every_family(name, tmp_path):
    model = opened(folder_of(name, tmp_path))
    scores = same(model, tmp_path)
    assert ((scores > 0) & (scores < 1)).all()
    assert str(model.activation) == "Sigmoid (the default of one label)"


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        ({"sentence_transformers": {"activation_fn": f"{TORCH}Tanh"}}, "Tanh", "sentence_transformers.activation_fn"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "Identity", "config.json"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "Identity", "sbert_ce_default"),
        ({"sbert_ce_default_activation_function": "torch.nn.Sigmoid"}, "Sigmoid", "sbert_ce_default"),
        ({"sbert_ce_default_activation_function": None}, "Sigmoid", "the default of one label"),
        (
            {"sentence_transformers": {"activation_fn": None}, "sbert_ce_default_activation_function": f"{TORCH}Tanh"},
            "Sigmoid",
            "the default of one label",
        ),
        (
            {"sentence_transformers": {"version": "5"}, "sbert_ce_default_activation_function": f"{TORCH}Tanh"},
            "Tanh",
            "sbert",
        ),
        (
            {
                "sentence_transformers": {"activation_fn": f"{TORCH}ReLU"},
                "sbert_ce_default_activation_function": f"{TORCH}Tanh",
            },
            "ReLU",
            "sentence_transformers",
        ),
    ],
)
def test_what_a_configuration_names_is_taken_in_cross_encoders_order(changes, name, why, tmp_path):
    model = opened(folder_of("bert", tmp_path, **changes))
    assert model.activation.name == name
    assert why in model.activation.why
    found = same(model, tmp_path)
    assert torch.equal(found, model.score(QUERIES, PASSAGES)) == (name == "Identity")


def test_a_saved_cross_encoders_settings_come_first(tmp_path):
    given = folder_of("xlm-roberta", tmp_path / "given", sentence_transformers={"activation_fn": f"{TORCH}Tanh"})
    CrossEncoder(str(given), device="cpu", activation_fn=torch.nn.Softplus()).save_pretrained(str(tmp_path / "saved"))
    model = opened(tmp_path / "saved")
    assert str(model.activation) == "Softplus (activation_fn of config_sentence_transformers.json)"
    same(model, tmp_path / "saved")
    (tmp_path / "saved" / "modules.json").unlink()  # without which it does not look there
    left = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert opened(tmp_path / "saved").activation.name == ("Tanh" if left.get("sentence_transformers") else "Sigmoid")
    same(opened(tmp_path / "saved"), tmp_path / "saved")


def test_of_two_labels_nothing_is_the_default_and_a_softmax_is_the_relevant_labels(tmp_path):
    plain = opened(folder_of("electra", tmp_path / "plain", n_labels=2))
    assert str(plain.activation) == "Identity (the default of several labels)"
    scores, logits = plain.score(QUERIES, PASSAGES), theirs(tmp_path / "plain")
    torch.testing.assert_close(plain.activated(scores), logits[:, 1] - logits[:, 0], rtol=0, atol=3e-5)

    named = {"sentence_transformers": {"activation_fn": f"{TORCH}Softmax"}}
    folder = folder_of("electra", tmp_path / "softmax", n_labels=2, **named)
    with pytest.warns(UserWarning, match="Implicit dimension"):
        shares = theirs(folder)
    for rule, label in ((None, 1), ("difference:0", 0)):
        model = opened(folder, score=rule)
        found = model.activated(model.score(QUERIES, PASSAGES))
        torch.testing.assert_close(found, shares[:, label], rtol=0, atol=3e-5)


def test_what_the_score_does_not_tell_is_refused_and_not_shown(tmp_path, capsys):
    named = {"sentence_transformers": {"activation_fn": f"{TORCH}Sigmoid"}}
    folder = folder_of("bert", tmp_path, n_labels=2, **named)
    model = opened(folder)
    assert not model.activation.computed
    with pytest.raises(ValueError, match="Sigmoid") as error:
        model.activated(model.score("flea", ["egg"]))
    assert one_sentence(error.value)
    assert model.explain("flea", "egg").activated is None
    assert main(["score", str(folder), "--device", "cpu", "--query", "flea", "--passage", "egg"]) == 0
    assert "│" in (out := capsys.readouterr().out)
    assert out.count("activated") == 1  # the line about the score, no column
    model = opened(folder, score="index:1")
    torch.testing.assert_close(model.activated(model.score(QUERIES, PASSAGES)), theirs(folder)[:, 1], rtol=0, atol=3e-5)


def test_score_and_explain_show_both(tmp_path, capsys):
    folder = folder_of("electra-untyped", tmp_path)
    model = opened(folder)
    raw = float(model.score("flea", ["egg"])[0])
    expected = 1 / (1 + torch.tensor(-raw, dtype=torch.float64).exp())
    found = model.explain("flea", "egg")
    assert found.score == pytest.approx(raw, abs=1e-5)
    assert found.activated == pytest.approx(float(expected), abs=1e-6)
    assert not found.types_fed
    for shown in (str(found), found._repr_html_()):
        assert f"Sigmoid {float(expected):.4f}" in shown
        assert "token types not fed" in shown
    assert main(["score", str(folder), "--device", "cpu", "--query", "flea", "--passage", "egg"]) == 0
    out = capsys.readouterr().out
    assert f"{raw:.4f} │ {float(expected):.4f}" in out
    assert "activated: Sigmoid (the default of one label)" in out


def test_names_that_are_none_of_torchs_are_not_run(tmp_path, caplog, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = {"sentence_transformers": {"activation_fn": "evil.Activation"}}
    model = opened(folder_of("bert", tmp_path / "model", **named))
    assert "not trusted" in caplog.text
    assert model.activation.name == "Sigmoid"
    assert "in place of" in model.activation.why
    same(model, tmp_path / "model")


@pytest.mark.parametrize(
    "path", ["torch.hub.load", "torch.nn.modules.activation.MultiheadAttention", "torch.nn.Linear"]
)
def test_names_of_torchs_that_are_no_such_function_are_said(path, caplog):
    with caplog.at_level(logging.WARNING):
        found = activation_of((path, "config.json"), 1, "single", "some/model")
    assert "not computed here" in caplog.text
    assert not found.computed
    with pytest.raises(ValueError, match="function of the score"):
        found(torch.zeros(2))


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ValueError, match="name of a function") as error:
        opened(folder_of("bert", tmp_path, sbert_ce_default_activation_function=7))
    assert one_sentence(error.value)


def test_every_function_on_the_list_is_elementwise():
    x = torch.linspace(-3, 3, 7)
    for name in ELEMENTWISE:
        whole = getattr(torch.nn, name)()(x)
        alone = torch.stack([getattr(torch.nn, name)()(one) for one in x])
        torch.testing.assert_close(whole, alone, rtol=0, atol=1e-6, msg=name)
