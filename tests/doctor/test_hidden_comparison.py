"""Hidden states that Hugging Face dumps: a fault planted in a layer is found there, and none where there is none."""

import numpy as np
import pytest
import torch
from doctored import opened
from family_worlds import build
from foreign_system import MIXED, Foreign, family_folder, long_folder, long_pairs
from helpers import one_sentence
from safetensors.torch import save_file

from tl_crossenc.doctor.foreign_scores import scores_of
from tl_crossenc.doctor.hidden_comparison import compare_hidden
from tl_crossenc.doctor.hidden_dump import read_hidden

PAIRS = long_pairs(((3, 9), (5, 14), (2, 26), (4, 4)))


def dumped(theirs, pairs, edit=None, side="right"):
    """(states [layer + 1, pair, pos, d_model], mask, ids) of one padded batch."""
    queries, passages = map(list, zip(*pairs, strict=True))
    fed = theirs.tokenizer(queries, passages, padding=True, padding_side=side, truncation=True, return_tensors="pt")
    if edit is not None:
        edit(fed)
    with torch.no_grad():
        out = theirs.model(**fed, output_hidden_states=True)
    return torch.stack(out.hidden_states), fed["attention_mask"], fed["input_ids"]


def compared(model, pairs, path):
    foreign = scores_of([q for q, _ in pairs], [p for _, p in pairs], [0.0] * len(pairs))
    return compare_hidden(model, read_hidden(path), foreign)


def written(path, states, mask=None, ids=None):
    beside = {name: array for name, array in (("attention_mask", mask), ("input_ids", ids)) if array is not None}
    np.savez(path, hidden_states=states.float().numpy(), **beside)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return long_folder(tmp_path_factory.mktemp("models") / "bert", num_hidden_layers=5)


@pytest.fixture(scope="module")
def model(folder):
    return opened(folder)


def test_no_difference_where_there_is_none(model, folder, tmp_path):
    report = compared(model, PAIRS, written(tmp_path / "a.npz", *dumped(Foreign(folder), PAIRS)))
    assert report.first is None
    assert report.verdict.startswith("All hidden states are ours, to ")
    assert "in the head" in report.verdict
    assert report.states["max_abs"].max() < 1e-5
    assert len(report.states) == 6
    assert max(map(len, str(report).splitlines())) <= 80


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_a_wrong_weight_is_found_in_its_layer(layer, model, folder, tmp_path):
    theirs = Foreign(folder)
    with torch.no_grad():
        theirs.model.bert.encoder.layer[layer].output.dense.weight[3] += 0.01
    report = compared(model, PAIRS, written(tmp_path / "a.npz", *dumped(theirs, PAIRS)))
    assert report.first.state == layer + 1
    assert (report.first.row, report.first.pos, report.first.part) == (0, 0, "CLS")
    assert (
        f"They first differ in what leaves layer {layer} (hidden_states.{layer + 1}): in pair 1 at position 0"
        in report.verdict
    )
    assert "There it is in every part." in report.notes
    within = report.states["max_abs"] <= report.states["allowed"]
    assert within.tolist() == [state <= layer for state in range(6)]


def test_a_fault_at_one_position_is_found_there(model, folder, tmp_path):
    """One number of one state, in the third pair's passage: 2 words of query, so position 7 is the fourth word of the passage."""
    states, mask, ids = dumped(Foreign(folder), PAIRS)
    states[3, 2, 7, 5] += 0.003
    report = compared(model, PAIRS, written(tmp_path / "a.npz", states, mask, ids))
    first = report.first
    assert (first.state, first.row, first.pos, first.part) == (3, 2, 7, "DOC")
    assert first.token == PAIRS[2][1].split()[3]
    assert first.difference == pytest.approx(0.003, abs=1e-5)
    assert "There it is in DOC alone: CLS, QUERY, SEP1, SEP2 agree." in report.notes
    assert report.states.loc[3, "DOC"] == pytest.approx(0.003, abs=1e-5)
    assert report.verdict.startswith(
        "They first differ in what leaves layer 2 (hidden_states.3): in pair 3 at position 7, "
    )
    assert "(DOC), by 3.0e-03 (allowed: " in report.verdict
    lines = [line.split() for line in str(report).splitlines()]
    assert ["largest", "difference", "CLS", "QUERY", "SEP1", "DOC", "SEP2", "allowed"] in lines
    table = [line for line in lines if line[:1] == ["embeddings"] or line[:2] == ["after", "layer"]]
    assert [line[2] for line in table[1:]] == ["0", "1", "2", "3", "4"]
    large = [[float(cell) > 1e-4 for cell in line[-6:]] for line in table]
    assert large == [[state == 3 and column == 3 for column in range(6)] for state in range(6)]
    assert table[3][-3] == "3.0e-03"


def test_types_of_zero_are_found_in_the_embeddings_and_named(model, folder, tmp_path):
    found = dumped(Foreign(folder), PAIRS, edit=lambda fed: fed["token_type_ids"].zero_())
    report = compared(model, PAIRS, written(tmp_path / "a.npz", *found))
    assert (report.first.state, report.first.part) == (0, "DOC")
    assert "There it is in DOC, SEP2 alone: CLS, QUERY, SEP1 agree." in report.notes
    assert "With token types all 0, all states agree." in report.notes


def test_another_order_and_another_cut_are_found_in_the_tokens(model, folder, tmp_path):
    theirs = Foreign(folder)
    swapped = dumped(theirs, [(p, q) for q, p in PAIRS])
    report = compared(model, PAIRS, written(tmp_path / "a.npz", *swapped))
    assert "The tokens differ already: in pair 1 at position" in report.verdict
    assert "With passage before query, all states agree." in report.notes
    long = [*PAIRS[:1], *long_pairs(((4, 700),))]
    states, mask, ids = dumped(theirs, long)
    report = compared(model, long, written(tmp_path / "b.npz", states[:, :, :300], mask[:, :300], ids[:, :300]))
    assert "in pair 2 at position 300" in report.verdict


def test_padding_on_the_left_is_read_by_the_mask(tmp_path):
    """Rotary positions do not mind where padding is, so that all agree."""
    folder = family_folder("modernbert-cls", tmp_path / "model")
    found = dumped(Foreign(folder), MIXED[:7], side="left")
    report = compared(opened(folder), MIXED[:7], written(tmp_path / "a.npz", *found))
    assert report.first is None


def test_without_a_mask_or_ids_tokens_are_the_first_ones(model, folder, tmp_path):
    states, _, _ = dumped(Foreign(folder), PAIRS)
    assert compared(model, PAIRS, written(tmp_path / "a.npz", states)).first is None
    save_file({f"hidden_states.{i}": state.contiguous() for i, state in enumerate(states)}, tmp_path / "b.safetensors")
    assert compared(model, PAIRS, tmp_path / "b.safetensors").first is None
    save_file({"hidden_states": states.to(torch.bfloat16)}, tmp_path / "c.safetensors")
    report = compared(model, PAIRS, tmp_path / "c.safetensors")
    assert report.first is None  # what bfloat16 rounds off is allowed
    assert report.states["max_abs"].max() > 1e-4
    states[1, 0, 2, 0] = float("nan")
    assert compared(model, PAIRS, written(tmp_path / "d.npz", states)).first.pos == 2


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "distilbert", "deberta-v2", "gte", "modernbert-mean"])
def test_every_family(name, tmp_path):
    """Nothing without a fault; a fault in the second layer's output there. The last state is as the head reads it."""
    build(name).write(tmp_path)
    model, theirs = opened(tmp_path), Foreign(tmp_path)
    pairs = MIXED[:5]
    states, mask, ids = dumped(theirs, pairs)
    assert compared(model, pairs, written(tmp_path / "a.npz", states, mask, ids)).first is None
    states[2, 1, 3] *= 1.1
    found = compared(model, pairs, written(tmp_path / "b.npz", states, mask, ids)).first
    assert (found.state, found.row, found.pos) == (2, 1, 3)


def test_pairs_that_come_twice_keep_their_place(model, folder, tmp_path):
    pairs = [PAIRS[0], PAIRS[0], PAIRS[1]]
    states, mask, ids = dumped(Foreign(folder), pairs)
    states[1, 2, 4, 0] += 1
    found = compared(model, pairs, written(tmp_path / "a.npz", states, mask, ids)).first
    assert (found.state, found.row, found.pos) == (1, 2, 4)


def bad(name):
    states = torch.zeros(6, 2, 7, 15)
    return {
        "a.npz": {"hidden": states},
        "b.npz": {"hidden_states": states[0]},
        "c.npz": {"hidden_states": states[:5]},
        "d.npz": {"hidden_states": torch.zeros(6, 2, 7, 16)},
        "e.npz": {"hidden_states": torch.zeros(6, 9, 7, 15)},
        "f.npz": {"hidden_states": states, "attention_mask": torch.ones(2, 6)},
        "g.npz": {"hidden_states.0": states[0], "hidden_states.2": states[2]},
        "h.npz": {"hidden_states.0": states[0], "hidden_states.1": states[1, :1]},
        "i.npz": {"hidden_states": states, "input_ids": torch.ones(2, 7)},
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.npz", "expected hidden_states .* got neither"),
        ("b.npz", "expected floats .layer . 1, pair, pos, d_model. .* of shape .2, 7, 15"),
        ("c.npz", "expected 6 hidden states .* of 15 dimensions, got 5 of 15"),
        ("d.npz", "expected 6 hidden states .* got 6 of 16"),
        ("e.npz", "expected hidden states of at most the 4 pairs .* got 9"),
        ("f.npz", "expected attention_mask .2, 7. .* got .2, 6"),
        ("g.npz", "expected hidden_states.0 to hidden_states.1 of one shape"),
        ("h.npz", "expected hidden_states.0 to hidden_states.1 of one shape"),
        ("i.npz", "expected whole numbers as input_ids"),
    ],
)
def test_a_dump_of_another_form_is_one_sentence(name, message, model, tmp_path):
    np.savez(tmp_path / name, **{key: tensor.numpy() for key, tensor in bad(name).items()})
    with pytest.raises(ValueError, match=message) as error:
        compared(model, PAIRS, tmp_path / name)
    assert one_sentence(error.value)


def test_a_file_that_is_none_is_one_sentence(model, tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    (tmp_path / "b.safetensors").write_bytes(b"nothing at all")
    np.savez(tmp_path / "c.npz", hidden_states=np.array([{"a": 1}], dtype=object))
    for name, message in (
        ("a.npz", "cannot be read"),
        ("b.safetensors", "cannot be read"),
        ("c.npz", "cannot be read"),
        ("d.npz", "expected a file"),
        ("e.bin", "ends in .npz or .safetensors"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            read_hidden(tmp_path / name)
        assert one_sentence(error.value)
