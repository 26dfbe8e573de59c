import itertools

import numpy as np
import pytest
import torch
from helpers import one_sentence
from hypothesis import given
from hypothesis import strategies as st

from tl_crossenc.interventions.conditions import (
    UNABLATED,
    Condition,
    DirectionAblation,
)
from tl_crossenc.interventions.directions import Direction
from tl_crossenc.interventions.indices import as_indices, format_indices, parse_indices

NAMES = ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL")
N_LAYERS, N_HEADS = 7, 3

directions = st.builds(lambda a, b: Direction.parse(f"{a}->{b}"), st.sampled_from(NAMES), st.sampled_from(NAMES))
layer_sets = st.none() | st.lists(st.integers(0, N_LAYERS - 1), max_size=9).map(tuple)
head_sets = st.none() | st.lists(st.integers(0, N_HEADS - 1), max_size=5).map(tuple)
edits = st.builds(DirectionAblation, directions, st.sampled_from(["zero", "mask"]), layer_sets, head_sets)
conditions = st.lists(edits, max_size=4).map(lambda chosen: Condition(tuple(chosen)))


@given(st.lists(st.integers(0, 40), max_size=15))
def test_indices_round_trip(indices):
    ordered = sorted(set(indices))
    text = format_indices(ordered)
    if ordered:
        assert parse_indices(text) == tuple(ordered)
    else:
        assert text == ""


@pytest.mark.parametrize(
    ("indices", "text"),
    [((0, 1, 2, 3, 7), "0-3,7"), ((5,), "5"), ((1, 2), "1-2"), ((0, 2, 4), "0,2,4"), ((), "")],
)
def test_indices_are_written_as_runs(indices, text):
    assert format_indices(indices) == text


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("0-3,7", (0, 1, 2, 3, 7)),
        (" 7 , 0 - 2 ", (0, 1, 2, 7)),
        ("3,3,1-3", (1, 2, 3)),
        ("11", (11,)),
        ("all", None),
        (" ALL ", None),
    ],
)
def test_indices_are_read(text, indices):
    assert parse_indices(text) == indices


@pytest.mark.parametrize("text", ["", ",", "1,", "3-1", "-1", "1-", "a", "1.5", "0-3-5", "all,1", "1 2"])
def test_indices_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="expected layers such as 0-3,7 or all, got") as error:
        parse_indices(text, "layers")
    assert one_sentence(error.value)


@given(conditions)
def test_text_forms_round_trip_and_are_canonical(condition):
    text = str(condition)
    assert Condition.parse(text) == condition
    assert str(Condition.parse(text)) == text


@given(st.lists(edits, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_edits_and_repeats_make_no_other_condition(chosen, random):
    shuffled = chosen + chosen[:1]
    random.shuffle(shuffled)
    one, other = Condition(tuple(chosen)), Condition(tuple(shuffled))
    assert one == other
    assert str(one) == str(other)
    assert hash(one) == hash(other)
    assert one + other == one


@given(layer_sets, head_sets)
def test_the_order_of_layers_and_heads_makes_no_other_edit(layers, heads):
    def backwards(indices):
        return None if indices is None else indices[::-1]

    direction = Direction.parse("DOC->QUERY")
    one = DirectionAblation(direction, "zero", layers, heads)
    assert one == DirectionAblation(direction, "zero", backwards(layers), backwards(heads))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("none", "none"),
        (" None ", "none"),
        ("zero(doc->query)", "zero(DOC->QUERY)"),
        ("zero(DOC -> QUERY ; layers = 7,0-2 ; heads=1)", "zero(DOC->QUERY; layers=0-2,7; heads=1)"),
        ("zero(DOC->QUERY; heads=1; layers=0)", "zero(DOC->QUERY; layers=0; heads=1)"),
        ("zero(DOC->QUERY; layers=all)", "zero(DOC->QUERY)"),
        ("zero(DOC->QUERY; layers=none)", "zero(DOC->QUERY; layers=none)"),
        ("zero(QUERY->DOC) + mask(CLS->ALL)", "mask(CLS->ALL) + zero(QUERY->DOC)"),
        ("mask(DOC<->QUERY; layers=1)", "mask(DOC->QUERY; layers=1) + mask(QUERY->DOC; layers=1)"),
        ("zero(DOC->QUERY) + zero(DOC->QUERY)", "zero(DOC->QUERY)"),
    ],
)
def test_canonical_form(text, canonical):
    assert str(Condition.parse(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DOC->QUERY",
        "zero",
        "zero()",
        "zero(DOC)",
        "cut(DOC->QUERY)",
        "ZERO(DOC->QUERY)",
        "zero(DOC->QUERY",
        "zero(DOC->QUERY))",
        "zero(DOC->QUERY;)",
        "zero(DOC->QUERY; rows=1)",
        "zero(DOC->QUERY; layers)",
        "zero(DOC->QUERY; layers=)",
        "zero(DOC->QUERY; layers=3-1)",
        "zero(DOC->QUERY; layers=-1)",
        "zero(DOC->QUERY; layers=1; layers=2)",
        "zero(DOC->QUERY) mask(CLS->ALL)",
        "zero(DOC->QUERY) + ",
        "none + zero(DOC->QUERY)",
        "zero(PAD->QUERY)",
    ],
)
def test_what_is_no_condition_is_one_sentence(text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        Condition.parse(text)
    assert one_sentence(error.value)


@given(st.text(alphabet="zeromask(DOC->QUERYCLS<; layers=0-3,7heads)+ ", max_size=40))
def test_any_text_is_read_or_refused_with_a_value_error(text):
    try:
        condition = Condition.parse(text)
    except ValueError:
        return
    assert Condition.parse(str(condition)) == condition


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (3, (3,)),
        (range(1, 4), (1, 2, 3)),
        ([5, 0, 5], (0, 5)),
        (np.array([2, 1]), (1, 2)),
        (np.int64(2), (2,)),
        (torch.tensor([4, 2]), (2, 4)),
        ("0-3,7", (0, 1, 2, 3, 7)),
        ("all", None),
        ((), ()),
    ],
)
def test_ablate_takes_layers_of_any_iterable(given, expected):
    (edit,) = Condition.ablate("DOC->QUERY", layers=given).edits
    assert edit.layers == expected
    (edit,) = Condition.ablate("DOC->QUERY", heads=given).edits
    assert edit.heads == expected


def test_where_the_model_is_known_negative_numbers_count_from_its_end():
    assert as_indices(-1, "layers", size=7) == as_indices(torch.tensor(-1), "layers", size=7) == (6,)
    assert as_indices([0, -7, -2], "heads", size=7) == (0, 5)
    with pytest.raises(ValueError, match=r"expected heads -7\.\.6, got \(-8,\)") as error:
        as_indices(-8, "heads", size=7)
    assert one_sentence(error.value)


@pytest.mark.parametrize("bad", [range(10**12), itertools.count(), "0-999999999999"])
def test_more_layers_than_any_model_has_are_refused_at_once(bad):
    with pytest.raises(ValueError, match="no model has so many") as error:
        Condition.ablate("DOC->QUERY", layers=bad)
    assert one_sentence(error.value)


@pytest.mark.parametrize("bad", [1.0, [0.5], [None], ["1"], object(), [np.bool_(True)], {"a": 1}])
def test_layers_that_are_no_whole_numbers_are_one_sentence(bad):
    with pytest.raises(ValueError, match="expected layers as whole numbers from 0, got") as error:
        as_indices(bad, "layers")
    assert one_sentence(error.value)


def test_conditions_and_directions_show_as_their_text():
    condition = Condition.parse("zero(DOC->QUERY; layers=0-3)")
    assert repr(condition) == "zero(DOC->QUERY; layers=0-3)"
    assert repr([*condition.edits, UNABLATED]) == "[zero(DOC->QUERY; layers=0-3), none]"
    assert repr([Direction.parse("CLS->ALL")]) == "[CLS->ALL]"


@pytest.mark.parametrize("bad", [[-1], [True], [0, -2]])
def test_ablate_refuses_layers_that_are_none(bad):
    with pytest.raises(ValueError, match="expected layers as whole numbers from 0"):
        Condition.ablate("DOC->QUERY", layers=bad)
    with pytest.raises(ValueError, match="expected heads as whole numbers from 0"):
        DirectionAblation(Direction.parse("DOC->QUERY"), "zero", None, tuple(bad))


def test_ablate_takes_directions_and_text_and_both_ways():
    condition = Condition.ablate(["doc<->query", Direction.parse("CLS->ALL")], layers=[2], mode="mask")
    assert str(condition) == "mask(CLS->ALL; layers=2) + mask(DOC->QUERY; layers=2) + mask(QUERY->DOC; layers=2)"


def test_unknown_mode_is_refused():
    with pytest.raises((ValueError, TypeError)):
        Condition.ablate("DOC->QUERY", mode="cut")


def reference(condition, n_layers, n_heads):
    """zero and mask at every [layer, head, attender, attended], one cell at a time from the edits' texts."""
    cells = {"zero": {}, "mask": {}}
    for text in str(condition).split(" + ") if str(condition) != "none" else ():
        mode, _, rest = text.rstrip(")").partition("(")
        direction, *settings = rest.split("; ")
        attender, attended = direction.split("->")
        chosen = {"layers": range(n_layers), "heads": range(n_heads)}
        for setting in settings:
            name, value = setting.split("=")
            chosen[name] = []
            for run in value.split(",") if value != "none" else ():
                low, _, high = run.partition("-")
                chosen[name] += range(int(low), int(high or low) + 1)
        for layer, head in itertools.product(chosen["layers"], chosen["heads"]):
            for i, j in itertools.product(range(5), range(5)):
                if attender in ("ALL", NAMES[i]) and attended in ("ALL", NAMES[j]):
                    cells[mode][layer, head, i, j] = True
    return cells


@given(conditions)
def test_compile_equals_a_plain_loop(condition):
    expected = reference(condition, N_LAYERS, N_HEADS)
    layers = condition.compile(N_LAYERS, N_HEADS)
    assert len(layers) == N_LAYERS
    for layer, edits in enumerate(layers):
        empty = not any(key[0] == layer for mode in expected.values() for key in mode)
        assert (edits is None) == empty
        if edits is None:
            continue
        assert edits.zero.shape == edits.mask.shape == (N_HEADS, 5, 5)
        for mode, array in (("zero", edits.zero), ("mask", edits.mask)):
            for head, i, j in itertools.product(range(N_HEADS), range(5), range(5)):
                assert array[head, i, j] == ((layer, head, i, j) in expected[mode])


def test_edits_of_layers_are_equal_when_they_do_the_same():
    first, second, third = Condition.parse("zero(DOC->ALL; layers=0-1) + zero(DOC->CLS; layers=0)").compile(3, 2)
    assert first == second
    assert hash(first) == hash(second)
    assert third is None
    (masked,) = Condition.parse("mask(DOC->ALL)").compile(1, 2)
    assert masked != first


@pytest.mark.parametrize("mode", ["zero", "mask"])
@pytest.mark.parametrize("attender", NAMES)
@pytest.mark.parametrize("heads", ["", "; heads=1"])
def test_an_edit_spares_the_passage_where_none_of_its_rows_is_edited(mode, attender, heads):
    (edits,) = Condition.parse(f"{mode}({attender}->CLS{heads}) + zero(CLS->DOC) + mask(SEP1->DOC)").compile(1, 2)
    assert edits.spares_passage is (attender not in ("DOC", "ALL"))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("zero(DOC->QUERY; layers=7)", "expected layers 0..6"),
        ("zero(DOC->QUERY; layers=3-9)", "got layer 7-9"),
        ("mask(DOC->QUERY; heads=3)", "expected heads 0..2"),
    ],
)
def test_layers_and_heads_outside_of_the_model_are_named(text, where):
    with pytest.raises(ValueError, match=where) as error:
        Condition.parse(text).compile(N_LAYERS, N_HEADS)
    assert one_sentence(error.value)


def test_unablated_is_empty():
    assert str(UNABLATED) == "none"
    assert UNABLATED.compile(2, 3) == (None, None)
    assert Condition.parse("none") == UNABLATED
    assert Condition.ablate("DOC->QUERY", layers=[]).compile(2, 3) == (None, None)
