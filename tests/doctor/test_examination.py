"""The doctor on a model: what it measures beside Hugging Face's own numbers, and what it warns of, planted."""

import json

import pytest
import torch
import transformers
from family_worlds import build
from foreign_system import Foreign, family_folder, long_folder

from tl_crossenc import HookedCrossEncoder
from tl_crossenc.checkpoints.embedded import open_model
from tl_crossenc.doctor.examination import examine_model
from tl_crossenc.doctor.findings import NOTE, OK, WARNING
from tl_crossenc.doctor.probes import PASSAGES, QUERIES

PAIRS = [(query, passage) for query in QUERIES for passage in PASSAGES]
TOPICS = (
    *("relevance", "activation", "ties", "head", "precision"),
    *("token types", "batches", "left padding", "truncation", "positions", "tokenizer"),
)


def examined(folder, **settings):
    """(findings by topic, report)."""
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu", **settings)
    report = examine_model(model, open_model(folder))
    return {finding.topic: finding for finding in report.findings}, report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return long_folder(tmp_path_factory.mktemp("models") / "bert", limit=101)


@pytest.fixture(scope="module")
def found(folder):
    return examined(folder)


def scores(theirs, **settings):
    logits = theirs.logits(PAIRS, truncation="only_second", max_length=101, **settings)
    return logits[:, 1] - logits[:, 0]


def largest(a, b):
    return float((a - b).abs().max())


def test_every_topic_is_there_in_80_columns_and_plain(found):
    by_topic, report = found
    assert tuple(by_topic) == TOPICS
    assert max(map(len, str(report).splitlines())) <= 80
    severities = [by_topic[topic].severity for topic in TOPICS]
    counts = ", ".join(f"{severities.count(kind)} {kind}" for kind in ("warning", "note", "ok"))
    assert str(report).splitlines()[0].endswith(f" (float32 on cpu): {counts}")
    rows = [line for line in str(report).splitlines()[1:] if line[:1].strip()]
    assert all(row.split(None, 1)[1].startswith(topic) for row, topic in zip(rows, TOPICS, strict=True))
    assert [row.split()[0] for row in rows] == severities
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert [finding["topic"] for finding in plain["findings"]] == list(TOPICS)
    frame = report.to_frame()
    assert frame.attrs["pairs"] == len(PAIRS)
    assert frame["severity"].isin([OK, NOTE, WARNING]).all()


def test_types_of_zero_move_scores_as_they_do_in_hugging_face(found, folder):
    theirs = Foreign(folder)
    moved = largest(scores(theirs), scores(theirs, edit=lambda fed: fed["token_type_ids"].zero_()))
    assert found[0]["token types"].value == pytest.approx(moved, abs=1e-5)
    assert found[0]["token types"].severity == NOTE


def test_half_precision_moves_scores_about_as_in_hugging_face(found, folder):
    theirs = {dtype: scores(Foreign(folder, dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16)}
    worst = max(largest(theirs[torch.float32], theirs[dtype]) for dtype in (torch.float16, torch.bfloat16))
    assert worst / 3 < found[0]["precision"].value < worst * 3


def test_padding_on_the_left_moves_scores_as_in_hugging_face(found, folder):
    theirs = Foreign(folder)
    fed = theirs.tokenizer(
        *map(list, zip(*PAIRS, strict=True)),
        padding=True,
        padding_side="left",
        truncation="only_second",
        max_length=101,
        return_tensors="pt",
    )
    with torch.no_grad():
        logits = theirs.model(**fed).logits
    assert found[0]["left padding"].value == pytest.approx(
        largest(scores(theirs), logits[:, 1] - logits[:, 0]), abs=1e-5
    )
    assert found[0]["left padding"].severity == OK


def test_what_longest_first_does_is_what_hugging_face_does(found, folder):
    """The pair that it names is rebuilt from its lengths alone: all its words are one piece each or unknown."""
    finding = found[0]["truncation"]
    assert "Pairs are cut to 101 tokens (the tokenizer's model_max_length)" in finding.what
    assert "at most 49 tokens" in finding.means
    model = HookedCrossEncoder.from_pretrained(folder, device="cpu")
    from tl_crossenc.doctor.input_checks import _long
    from tl_crossenc.doctor.probes import probe

    probes = probe(model, model.encoder, None)
    pair = [(_long(probes, 98 - 24), _long(probes, 101))]
    theirs = Foreign(folder)
    kept = theirs.tokenizer(*pair[0], truncation="longest_first", max_length=101)
    of_query, of_passage = kept.sequence_ids(0).count(0), kept.sequence_ids(0).count(1)
    assert f"{of_query:,} and {of_passage:,} by longest_first" in finding.measured
    logits = [theirs.logits(pair, truncation=cut, max_length=101)[0] for cut in ("only_second", "longest_first")]
    assert finding.value == pytest.approx(abs(float((logits[0] - logits[1]) @ torch.tensor([-1.0, 1.0]))), abs=1e-5)


def test_batches_matter_by_rounding_alone_and_in_bfloat16_by_more(found, folder):
    assert found[0]["batches"].severity == OK
    assert found[0]["batches"].value < 1e-5
    exact, _ = examined(folder, dtype="float64")
    assert exact["batches"].value < 1e-12


def test_a_head_that_was_never_trained_is_warned_of(tmp_path, found):
    """An encoder that was loaded as a classifier and saved: its head is drawn."""
    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=113, hidden_size=60, num_hidden_layers=2, num_attention_heads=3, intermediate_size=37, num_labels=2
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "new")
    long_folder(tmp_path / "words")
    for name in ("vocab.txt", "tokenizer_config.json"):
        (tmp_path / "new" / name).write_bytes((tmp_path / "words" / name).read_bytes())
    by_topic, report = examined(tmp_path / "new")
    assert by_topic["head"].severity == WARNING
    assert by_topic["head"] in report.warnings
    assert "before any training" in by_topic["head"].means
    assert found[0]["head"].severity == OK


def test_a_checkpoint_without_a_head_is_refused_with_its_keys(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = long_folder(tmp_path / "headless")
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("classifier")}
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: classifier\.bias, classifier\.weight"):
        HookedCrossEncoder.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("labels", "severity", "text"),
    [
        (None, NOTE, "by default: no label is named"),
        ({"0": "irrelevant", "1": "relevant"}, OK, "since the labels are called 'irrelevant' and 'relevant'"),
        ({"0": "alpha", "1": "beta"}, NOTE, "labels called 'alpha' and 'beta' do not tell"),
    ],
)
def test_which_logit_and_why(labels, severity, text, tmp_path):
    changes = {} if labels is None else {"id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}}
    by_topic, _ = examined(long_folder(tmp_path, seed=2, **changes))
    assert text in by_topic["relevance"].what
    assert by_topic["relevance"].severity in (severity, WARNING)  # a random model may rank worse than by chance
    assert "The score is logit[1] - logit[0]" in by_topic["relevance"].what


def test_a_score_that_ranks_backwards_is_warned_of():
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    forward = {finding.topic: finding for finding in examine_model(model).findings}["relevance"]
    assert forward.value > 0.8
    with torch.no_grad():
        model.classifier.weight.neg_()
        model.classifier.bias.neg_()
    backward = {finding.topic: finding for finding in examine_model(model).findings}["relevance"]
    assert backward.severity == WARNING
    assert backward.value < 0.2


def test_ties_and_where_a_sigmoid_is_flat(tmp_path):
    """A classifier of zeros ties everything; a sigmoid is 1 where torch says so."""
    from safetensors.torch import load_file, save_file

    folder = long_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["classifier.weight"] *= 0
    save_file(state, folder / "model.safetensors")
    by_topic, _ = examined(folder)
    assert by_topic["ties"].severity == WARNING
    assert by_topic["ties"].value == 1
    for kind, dtype in (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        at = float(by_topic["ties"].what.split(f" in {kind}")[0].split()[-1])
        assert torch.sigmoid(torch.tensor(at + 0.06, dtype=dtype)) == 1
        assert torch.sigmoid(torch.tensor(at - 0.12, dtype=dtype)) < 1


def test_a_tokenizer_that_pads_on_the_left_or_knows_no_word_is_warned_of(tmp_path):
    folder = long_folder(tmp_path / "left")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, "padding_side": "left"}))
    by_topic, _ = examined(folder)
    assert by_topic["left padding"].severity == WARNING


def test_stored_half_precision_is_said(tmp_path):
    by_topic, _ = examined(family_folder("deberta-v2", tmp_path))
    assert "stored in float16, and run in float32 here" in by_topic["precision"].what
    assert by_topic["precision"].severity == NOTE
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(str(tmp_path))
    assert theirs.dtype == torch.float16  # what it says of transformers


@pytest.mark.parametrize("name", ["electra-untyped", "xlm-roberta", "distilbert", "modernbert-mean", "gte"])
def test_families(name, tmp_path):
    build(name, 2 if name == "electra-untyped" else 1).write(tmp_path)
    by_topic, _ = examined(tmp_path)
    types = by_topic["token types"]
    if name == "electra-untyped":
        assert (types.severity, types.value > 1e-3) == (WARNING, True)
        assert "its tokenizer does not name them" in types.what
    else:
        assert types.severity == OK
        assert "no token types" in types.what or "one token type" in types.what
    assert ("counted from row 2" in by_topic["positions"].what) == (name == "xlm-roberta")
    assert ("to either side" in by_topic["positions"].what) == (name == "modernbert-mean")
    assert ("keeps case" in by_topic["tokenizer"].what) == (name in ("xlm-roberta", "modernbert-mean", "gte"))
    if name != "electra-untyped":
        assert "Sigmoid (the default of one label)" in by_topic["activation"].what
