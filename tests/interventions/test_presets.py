"""The presets against matrices written by hand, and against the rules of Zhan et al. position by position."""

import itertools

import numpy as np
import pytest
from helpers import one_sentence

from tl_crossenc.interventions.conditions import UNABLATED, Condition
from tl_crossenc.interventions.directions import PAPER_DIRECTIONS
from tl_crossenc.interventions.presets import (
    COMPARED,
    PRESETS,
    parse_preset,
    preset,
    resolve_ablations,
    resolve_condition,
)

N_LAYERS, N_HEADS = 7, 3
# Rows are attenders, columns attended parts: CLS, QUERY, SEP1, DOC, SEP2. `x` is cut.
MATRICES = {
    "zhan-q2d": """. . . . .
                   . . . . .
                   . . . . .
                   x x x . .
                   x x x . .""",
    "zhan-d2q": """. . . . .
                   x . x x x
                   . . . . .
                   . . . . .
                   . . . . .""",
    "zhan-both": """. . . . .
                    x . x x x
                    . . . . .
                    x x x . .
                    x x x . .""",
    "mice-mask0": """. . . . .
                     x . . . x
                     x x . x x
                     x . x . .
                     x x x x .""",
    "mice-mask1": """. . . x x
                     x . . . x
                     x x . x x
                     x . x . .
                     x x x x .""",
    "mice-mask2": """. . . x x
                     x . . . x
                     x x . x x
                     x x x . .
                     x x x x .""",
}
MODES = {"zhan": "zero", "mice": "mask", "paper": "zero"}


def grids(condition):
    """(zero, mask) of every layer, `[layer, head, attender, attended]`."""
    nothing = np.zeros((N_HEADS, 5, 5), dtype=bool)
    layers = condition.compile(N_LAYERS, N_HEADS)
    return tuple(np.stack([nothing if e is None else getattr(e, kind) for e in layers]) for kind in ("zero", "mask"))


def hand(name):
    return np.array([[cell == "x" for cell in line.split()] for line in MATRICES[name].splitlines()])


@pytest.mark.parametrize("first", [None, 0, 1, 4, N_LAYERS])
@pytest.mark.parametrize("mode", [None, "zero", "mask"])
@pytest.mark.parametrize("name", MATRICES)
def test_every_cell_is_that_of_the_matrix_written_by_hand(name, mode, first):
    condition = preset(name if first is None else f"{name}:{first}", N_LAYERS, mode=mode)
    zero, mask = grids(condition)
    cut, other = (zero, mask) if (mode or MODES[name.partition("-")[0]]) == "zero" else (mask, zero)
    assert not other.any()
    for layer, head in itertools.product(range(N_LAYERS), range(N_HEADS)):
        expected = hand(name) if first is None or layer < first else np.zeros((5, 5), dtype=bool)
        np.testing.assert_array_equal(cut[layer, head], expected)


@pytest.mark.parametrize("name", ["zhan-q2d", "zhan-d2q", "zhan-both"])
def test_zhans_masks_by_position(name):
    """[CLS] q q q [SEP] d d [SEP]: the rows of the passage with its separator, or of the query's tokens, keep their own span."""
    parts = [0, 1, 1, 1, 2, 3, 3, 4]
    kept = np.ones((8, 8), dtype=bool)
    if name != "zhan-d2q":
        kept[5:, :5] = False
    if name != "zhan-q2d":
        kept[1:4, :1] = kept[1:4, 4:] = False
    zero, _ = grids(preset(name, N_LAYERS))
    np.testing.assert_array_equal(~zero[3, 1][np.ix_(parts, parts)], kept)


def test_mice_masks_are_cumulative():
    edits = [set(preset(f"mice-mask{i}", N_LAYERS).edits) for i in range(3)]
    assert edits[0] < edits[1] < edits[2]
    assert {str(edit) for edit in edits[1] - edits[0]} == {"mask(CLS->DOC)", "mask(CLS->SEP2)"}
    assert {str(edit) for edit in edits[2] - edits[1]} == {"mask(DOC->QUERY)"}


@pytest.mark.parametrize("direction", PAPER_DIRECTIONS, ids=str)
def test_the_papers_directions_are_those_of_table_1(direction):
    name = "paper-" + str(direction).replace("->", "-").lower()
    assert str(preset(name, N_LAYERS)) == f"zero({direction})"
    assert str(preset(f"{name}:3", N_LAYERS, mode="mask")) == f"mask({direction}; layers=0-2)"


def test_there_are_36_described_presets():
    assert len(PRESETS) == 30 + 3 + 3
    assert all(found.name == name and found.description and found.source for name, found in PRESETS.items())
    assert len(set(COMPARED)) == 12
    assert set(COMPARED) <= set(PRESETS)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("@paper-doc-query", "zero(DOC->QUERY)"),
        (" @PAPER-doc-query:2 ", "zero(DOC->QUERY; layers=0-1)"),
        ("mask(@paper-doc-query)", "mask(DOC->QUERY)"),
        ("mask( @paper-cls-all:1 )", "mask(CLS->ALL; layers=0)"),
        ("@paper-doc-query:7", "zero(DOC->QUERY)"),
        ("@paper-doc-query:0", "none"),
        ("@paper-doc-query:0 + zero(CLS->ALL; heads=1)", "zero(CLS->ALL; heads=1)"),
        (
            "zero(QUERY->DOC) + @paper-doc-query + mask(@paper-sep1-sep2)",
            "mask(SEP1->SEP2) + zero(DOC->QUERY) + zero(QUERY->DOC)",
        ),
        ("zero(@mice-mask1) + zero(@zhan-q2d)", None),
        ("none", "none"),
        ("zero(DOC<->QUERY; layers=1)", "zero(DOC->QUERY; layers=1) + zero(QUERY->DOC; layers=1)"),
    ],
)
def test_texts_with_presets_resolve_to_canonical_conditions(text, canonical):
    condition = resolve_condition(text, N_LAYERS)
    if canonical is not None:
        assert str(condition) == canonical
    assert Condition.parse(str(condition)) == condition


@pytest.mark.parametrize("name", PRESETS)
def test_canonical_texts_round_trip_and_hold_no_preset(name):
    condition = resolve_condition(f"@{name}:4", N_LAYERS)
    assert "@" not in str(condition)
    assert Condition.parse(str(condition)) == condition == preset(f"{name}:4", N_LAYERS)


def test_ablations_that_name_no_preset_stay_texts():
    assert resolve_ablations(["DOC->QUERY", "@paper-cls-doc:1"], N_LAYERS) == [
        "DOC->QUERY",
        Condition.parse("zero(CLS->DOC; layers=0)"),
    ]
    assert preset("zhan-both:0", N_LAYERS) == UNABLATED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@zhan", "among zhan-q2d, .*paper-ATTENDER-ATTENDED.*, got 'zhan'"),
        ("@paper-doc-doc-doc", "got 'paper-doc-doc-doc'"),
        ("@zhan-q2d:8", "0 to 7 layers for @zhan-q2d on this model, got 8"),
        ("@zhan-q2d:", "number of layers after the colon"),
        ("@zhan-q2d:-1", "number of layers after the colon"),
        ("@zhan-q2d:four", "number of layers after the colon, such as @zhan-q2d:4"),
        ("@zhan-q2d:4:5", "such as @zhan-q2d or @zhan-q2d:4, got"),
        ("@", "such as @zhan-q2d"),
        ("zero(@zhan-q2d; layers=0)", "says itself what it removes and where"),
        ("half(@zhan-q2d)", "says itself"),
        ("zhan-q2d", "expected an edit such as"),
    ],
)
def test_texts_that_name_no_preset_are_refused_in_one_sentence(text, said):
    with pytest.raises(ValueError, match=said) as error:
        resolve_condition(text, N_LAYERS)
    assert one_sentence(error.value)


def test_a_preset_is_parsed_into_itself_and_its_layers():
    assert parse_preset("@zhan-d2q:05") == (PRESETS["zhan-d2q"], 5)
    assert parse_preset(" Mice-Mask0 ") == (PRESETS["mice-mask0"], None)
