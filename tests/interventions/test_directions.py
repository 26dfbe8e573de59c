import itertools
import pickle

import numpy as np
import pytest
from helpers import one_sentence
from hypothesis import given
from hypothesis import strategies as st

from tl_crossenc.inputs.parts import REAL_PARTS, Part
from tl_crossenc.interventions.directions import PAPER_DIRECTIONS, Direction, direction_grid, parse_directions

NAMES = ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL")
SIDE = st.sampled_from(NAMES)
SPACE = st.sampled_from(["", " ", "  ", "\t"])
CASE = st.sampled_from([str.lower, str.upper, str.title])


def side(name):
    return None if name == "ALL" else Part[name]


@given(SIDE, SIDE, SPACE, SPACE, CASE)
def test_parse_reads_any_spelling_and_str_writes_the_canonical_one(attender, attended, before, after, case):
    direction = Direction.parse(f"{before}{case(attender)}{after}->{before}{case(attended)}{after}")
    assert (direction.attender, direction.attended) == (side(attender), side(attended))
    assert str(direction) == f"{attender}->{attended}"
    assert Direction.parse(str(direction)) == direction


@given(SIDE, SIDE, SPACE)
def test_a_double_arrow_is_both_directions_once(left, right, space):
    both = parse_directions(f"{left}{space}<->{space}{right}")
    expected = [f"{left}->{right}"] if left == right else [f"{left}->{right}", f"{right}->{left}"]
    assert [str(direction) for direction in both] == expected


@pytest.mark.parametrize(("attender", "attended"), list(itertools.product(NAMES, NAMES)))
def test_a_direction_is_made_of_parts_or_their_names(attender, attended):
    expected = Direction.parse(f"{attender}->{attended}")
    assert Direction(attender, attended.lower()) == Direction(side(attender), side(attended)) == expected
    assert hash(Direction(attender, attended)) == hash(expected)
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize("bad", ["PAD", "DOC->QUERY", "", Part.PAD])
def test_a_side_that_is_no_part_is_one_sentence(bad):
    for sides in ((bad, "DOC"), (Part.CLS, bad)):
        with pytest.raises(ValueError, match="expected a part among CLS, QUERY, SEP1, DOC, SEP2") as error:
            Direction(*sides)
        assert one_sentence(error.value)


def test_a_double_arrow_is_not_one_direction():
    with pytest.raises(ValueError, match="names two"):
        Direction.parse("DOC<->QUERY")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DOC",
        "DOC->",
        "->DOC",
        "DOC<-QUERY",
        "DOC=>QUERY",
        "DOC->QUERY->CLS",
        "PAD->DOC",
        "DOC->PAD",
        "SEP->DOC",
        "PASSAGE->QUERY",
        "DOC->NONE",
        "DOC-QUERY",
        "DOC→QUERY",
        "0->1",
        "DOC->QUERY\nCLS->ALL",
    ],
)
def test_what_is_no_direction_is_one_sentence(text):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is checked below
        parse_directions(text)
    assert one_sentence(error.value)
    assert repr(text) in str(error.value)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused_with_a_value_error(text):
    try:
        directions = parse_directions(text)
    except ValueError:
        return
    assert all(str(direction).split("->")[0] in NAMES for direction in directions)


@pytest.mark.parametrize(("attender", "attended"), list(itertools.product(NAMES, NAMES)))
def test_grid_is_true_at_the_direction_only(attender, attended):
    grid = Direction.parse(f"{attender}->{attended}").grid
    for row, column in itertools.product(range(5), range(5)):
        held = attender in ("ALL", NAMES[row]) and attended in ("ALL", NAMES[column])
        assert grid[row, column] == held


def test_sides():
    direction = Direction.parse("ALL->DOC")
    assert direction.attenders == REAL_PARTS
    assert direction.attendeds == (Part.DOC,)


def test_the_grid_has_every_direction_once_in_the_papers_order():
    texts = [str(direction) for direction in direction_grid()]
    assert texts == [f"{attender}->{attended}" for attender in NAMES for attended in NAMES]
    assert [str(direction) for direction in PAPER_DIRECTIONS] == texts[:30]
    cells = sum(direction.grid.astype(int) for direction in direction_grid())
    # each cell: its own direction, its row's ALL, its column's ALL, ALL->ALL
    assert np.array_equal(cells, np.full((5, 5), 4))


def test_padding_has_no_directions():
    with pytest.raises(ValueError, match="expected a part among"):
        Direction(Part.PAD, None)
    with pytest.raises(ValueError, match="expected a part among"):
        Direction(Part.DOC, Part.PAD)


def test_all_is_not_the_same_as_a_part_and_directions_are_keys():
    directions = {Direction.parse(f"{a}->{b}") for a in NAMES for b in NAMES}
    assert len(directions) == 36
