"""Which logit is relevance: what labels say, and that everything which computes a score computes that one."""

import logging

import numpy as np
import pytest
import torch
from helpers import (
    bert_tokenizer,
    hf_model,
    one_sentence,
    random_weights,
    small_config,
    write_checkpoint,
    write_vocabulary,
)
from patching_references import tiny_twins
from tiny_models import port, run_hf, tiny_hf

from tl_crossenc.instruments.direct_attribution import COMPONENTS, direct_attribution, score_lens
from tl_crossenc.interventions.conditions import UNABLATED
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.model.execution import run_conditions
from tl_crossenc.model.identity import model_identity
from tl_crossenc.model.score_rule import canonical_rule, describe_rule, side_of_label
from tl_crossenc.patching.activation import activation_patch
from tl_crossenc.patching.attribution import attribution_patch
from tl_crossenc.patching.path import path_patch
from tl_crossenc.views.explain import explain

QUERIES, PASSAGES = ["how do fleas", "egg", "the bread"], ["fleas lay eggs", "", "rise the flea"]


def folder_of(folder, n_labels=2, **changes):
    """A checkpoint with these labels; gives (folder, its logits of the texts by Hugging Face)."""
    config = small_config(n_labels, **changes)
    state = random_weights(config, n_labels)
    write_checkpoint(folder, config, state)
    write_vocabulary(folder)
    fed = bert_tokenizer()(QUERIES, PASSAGES, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = hf_model({**config, "num_labels": n_labels, "id2label": None, "label2id": None}, state)(**fed).logits
    return str(folder), logits


RELEVANT_AT_0 = [
    ("relevant", "not_relevant"),
    ("Relevant", "Not Relevant"),
    ("RELEVANT", "IRRELEVANT"),
    ("relevant", "non-relevant"),
    ("isRelevant", "nonRelevant"),
    ("relevant_document", "irrelevant_document"),
    ("positive", "negative"),
    ("POS", "NEG"),
    ("true", "false"),
    ("yes", "no"),
    ("Y", "N"),
    ("entailment", "contradiction"),
    ("entailment", "not_entailment"),
    ("match", "no match"),
    ("duplicate", "not duplicate"),
    ("1", "0"),
    ("relevant", "other"),
    ("something", "irrelevant"),
    ("relevant", "nicht relevant"),
]


@pytest.mark.parametrize(("first", "second"), RELEVANT_AT_0)
@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("key", ["id2label", "label2id"])
def test_names_that_say_which_label_is_relevance(tmp_path, caplog, first, second, at, key):
    names = (first, second) if at == 0 else (second, first)
    labels = {"id2label": {str(i): name for i, name in enumerate(names)}, "label2id": None}
    if key == "label2id":
        labels = {"id2label": None, "label2id": {name: i for i, name in enumerate(names)}}
    folder, logits = folder_of(tmp_path, **labels)
    with caplog.at_level(logging.INFO, "tl_crossenc"):
        model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    expected = logits[:, at] - logits[:, 1 - at]
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), expected, rtol=0, atol=1e-5)
    assert f"calls label {at} {names[at]!r}: the score is logit[{at}] - logit[{1 - at}]" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "label" in record.message]


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, False),
        ({"id2label": None, "label2id": None}, False),
        ({"id2label": {}, "label2id": {}}, False),
        ({"id2label": {"0": "LABEL_1", "1": "LABEL_0"}, "label2id": None}, True),
        ({"id2label": {"0": "apple", "1": "pear"}, "label2id": None}, True),
        ({"id2label": {"0": "highly relevant", "1": "partially relevant"}, "label2id": None}, True),
        ({"id2label": {"0": "irrelevant", "1": "negative"}, "label2id": None}, True),
        ({"id2label": {"0": "yes", "1": "entailment"}, "label2id": None}, True),
    ],
)
def test_names_that_do_not_say_leave_the_default_and_are_warned_of(tmp_path, caplog, labels, warned):
    folder, logits = folder_of(tmp_path, **labels)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), logits[:, 1] - logits[:, 0], rtol=0, atol=1e-5)
    assert ("does not tell which of them is relevance: the score is logit[1] - logit[0]" in caplog.text) == warned
    if warned:
        assert labels["id2label"]["0"] in caplog.text
        assert "difference:0" in caplog.text


def test_names_that_contradict_each_other_are_warned_of(tmp_path, caplog):
    labels = {"id2label": {"0": "yes", "1": "no"}, "label2id": {"no": 0, "yes": 1}}
    model = HookedCrossEncoder.from_pretrained(folder_of(tmp_path, **labels)[0], device="cpu")
    assert model.cfg.score == "difference:0"
    assert "id2label" in caplog.text
    assert "label2id: the first is taken" in caplog.text


def test_one_label_that_is_not_relevance_is_warned_of(tmp_path, caplog):
    folder, logits = folder_of(tmp_path, 1, id2label={"0": "not relevant"}, label2id={"not relevant": 0})
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), logits[:, 0], rtol=0, atol=1e-5)
    assert "'not relevant', and a higher logit is taken for more relevance" in caplog.text


@pytest.mark.parametrize(
    ("rule", "n_labels", "of"),
    [
        ("difference", 2, lambda x: x[:, 1] - x[:, 0]),
        ("difference:1", 2, lambda x: x[:, 1] - x[:, 0]),
        ("difference:0", 2, lambda x: x[:, 0] - x[:, 1]),
        (0, 2, lambda x: x[:, 0] - x[:, 1]),
        ("1", 2, lambda x: x[:, 1] - x[:, 0]),
        ("index:1", 2, lambda x: x[:, 1]),
        ("index:0", 2, lambda x: x[:, 0]),
        ("index:2", 3, lambda x: x[:, 2]),
        (1, 3, lambda x: x[:, 1]),
        ("single", 1, lambda x: x[:, 0]),
        ("index:0", 1, lambda x: x[:, 0]),
    ],
)
def test_a_rule_that_is_given_comes_before_the_labels(tmp_path, rule, n_labels, of):
    names = [*("relevant", "irrelevant", "neutral")[:n_labels]]
    folder, logits = folder_of(tmp_path, n_labels, id2label=dict(enumerate(names)), label2id=None)
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", score=rule)
    torch.testing.assert_close(model.score(QUERIES, PASSAGES), of(logits), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "n_labels"),
    [
        *(("single", 2), ("difference", 1), ("difference", 3), ("difference:2", 2), ("index:2", 2), ("index:-1", 2)),
        *(
            ("index", 2),
            ("difference:", 2),
            ("single:0", 1),
            ("relevant", 2),
            ("", 2),
            (3, 2),
            (-1, 2),
            ("index:0:1", 2),
        ),
    ],
)
def test_a_rule_that_the_head_does_not_have_is_refused(tmp_path, rule, n_labels):
    folder, _ = folder_of(tmp_path, n_labels)
    with pytest.raises(ValueError, match="expected a") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu", score=rule)
    assert one_sentence(error.value)
    with pytest.raises(TypeError, match="expected a score rule as text"):
        HookedCrossEncoder.from_pretrained(folder, device="cpu", score=True)


def test_three_labels_say_what_to_pass(tmp_path):
    folder, _ = folder_of(tmp_path, 3)
    with pytest.raises(ValueError, match=r"a head with 1 or 2 logits, got 3.*score='index:K'") as error:
        HookedCrossEncoder.from_pretrained(folder, device="cpu")
    assert one_sentence(error.value)


def test_rules_have_one_spelling_and_words():
    assert [canonical_rule(rule, 2) for rule in (None, "difference:1", 1, 0, "index:1")] == [
        *("difference", "difference", "difference", "difference:0", "index:1")
    ]
    assert canonical_rule(None, 1) == canonical_rule("index:0", 1) == "single"
    assert describe_rule("difference:0") == "logit[0] - logit[1]"
    assert describe_rule("index:1") == "logit[1]"
    assert side_of_label("Ünsinn") == 0


# Everything that computes a score. Oracle: the same model with the classifier's rows in the other order, or with one row alone.


def swapped(hf, rows):
    """A port of the same weights whose classifier has these rows, in this order, read by the default rule."""
    other = tiny_hf(len(rows))
    state = {key: tensor.clone() for key, tensor in hf.state_dict().items()}
    for leaf in ("weight", "bias"):
        state[f"classifier.{leaf}"] = state[f"classifier.{leaf}"][rows]
    other.load_state_dict(state)
    return port(other)


def scores_of_conditions(model, clean, corrupted):
    conditions = [UNABLATED, "DOC->QUERY", "mask(CLS->DOC; layers=1-2)"]
    return {"scores": run_conditions(model, clean, conditions).values}


def forward(model, clean, corrupted):
    with torch.no_grad():
        return {"scores": model(clean.batch()).numpy()}


def contributions(model, clean, corrupted):
    split = direct_attribution(model, clean)
    parts = {name: getattr(split, name) for name in COMPONENTS}
    summed = sum(part.reshape(len(split.scores), -1).sum(1) for part in parts.values())
    np.testing.assert_allclose(summed, forward(model, clean, None)["scores"], atol=1e-10)
    return parts


def lens(model, clean, corrupted):
    return {"lens": score_lens(model, clean)}


def patches(model, clean, corrupted):
    found = activation_patch(model, clean, corrupted, "resid_pre")
    return {"scores": found.scores, "clean": found.clean, "corrupted": found.corrupted}


def estimates(model, clean, corrupted):
    return {site: found.scores for site, found in attribution_patch(model, clean, corrupted).items()}


def paths(model, clean, corrupted):
    found = path_patch(model, clean, corrupted, "score")
    return {"scores": found.scores, "clean": found.clean}


@pytest.mark.parametrize("instrument", [forward, scores_of_conditions, contributions, lens, patches, estimates, paths])
@pytest.mark.parametrize(("rule", "rows"), [("difference:0", [1, 0]), ("index:1", [1]), ("index:0", [0])])
def test_every_instrument_follows_the_rule(instrument, rule, rows):
    hf = tiny_hf(2, seed=4)
    model = port(hf)
    model.cfg.score = rule
    clean, corrupted = tiny_twins(((3, 5), (1, 2)), seed=2)
    found, expected = instrument(model, clean, corrupted), instrument(swapped(hf, rows), clean, corrupted)
    default = instrument(port(hf), clean, corrupted)
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-10, err_msg=name)
    assert any(not np.allclose(found[name], default[name], atol=1e-3, equal_nan=True) for name in found)


def test_the_score_is_hugging_faces_logits_by_hand(batch):
    hf = tiny_hf(2, seed=4)
    model, logits = port(hf), run_hf(hf.double(), batch).logits
    for rule, expected in (("difference:0", logits[:, 0] - logits[:, 1]), ("index:1", logits[:, 1])):
        model.cfg.score = rule
        torch.testing.assert_close(model(batch), expected, rtol=0, atol=1e-10)


def test_explain_follows_the_rule(tmp_path):
    folder, _ = folder_of(tmp_path, id2label={"0": "relevant", "1": "not_relevant"}, label2id=None)
    named = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64")
    default = HookedCrossEncoder.from_pretrained(folder, device="cpu", dtype="float64", score="difference")
    ours, theirs = explain(named, QUERIES[0], PASSAGES[0]), explain(default, QUERIES[0], PASSAGES[0])
    assert ours.score == pytest.approx(-theirs.score)
    assert ours.score == pytest.approx(float(named.score(QUERIES[0], PASSAGES[0])))


def test_a_stored_result_is_of_its_rule():
    model = port(tiny_hf(2))
    identities = set()
    for rule in ("difference", "difference:0", "index:0", "index:1"):
        model.cfg.score = rule
        identities.add(tuple(model_identity(model).items()))
    assert len(identities) == 4
