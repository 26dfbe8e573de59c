import helpers  # noqa: F401 - steady property tests
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tl_crossenc.inputs.parts import N_PARTS, REAL_PART_NAMES, REAL_PARTS, Part, PartMasks, parts_of_sequence

CLS, QUERY, SEP1, DOC, SEP2, PAD = range(6)
ROWS = [
    [CLS, QUERY, QUERY, SEP1, DOC, DOC, DOC, SEP2],
    [CLS, QUERY, SEP1, SEP2],
    [CLS, SEP1, DOC, SEP2],
]


def test_codes_are_fixed_since_stored_results_and_tensor_axes_rely_on_them():
    assert {part.name: part.value for part in Part} == {
        "CLS": 0,
        "QUERY": 1,
        "SEP1": 2,
        "DOC": 3,
        "SEP2": 4,
        "PAD": 5,
    }
    assert REAL_PARTS == (Part.CLS, Part.QUERY, Part.SEP1, Part.DOC, Part.SEP2)
    assert REAL_PART_NAMES == ("CLS", "QUERY", "SEP1", "DOC", "SEP2")
    assert N_PARTS == 5


@pytest.mark.parametrize("text", ["doc", " DOC ", "Doc"])
def test_parse_reads_a_part_in_any_case(text):
    assert Part.parse(text) is Part.DOC


@pytest.mark.parametrize("text", ["", "PAD", "ALL", "PASSAGE", "0", "SEP"])
def test_parse_refuses_what_is_no_part(text):
    with pytest.raises(ValueError, match=r"expected a part among CLS, QUERY, SEP1, DOC, SEP2, got"):
        Part.parse(text)


@given(query=st.integers(0, 7), separators=st.integers(1, 3), passage=st.integers(0, 7))
def test_parts_of_a_pair_frame_the_texts(query, separators, passage):
    sequence = [None] + [0] * query + [None] * separators + [1] * passage + [None]
    expected = [CLS] + [QUERY] * query + [SEP1] * separators + [DOC] * passage + [SEP2]
    assert parts_of_sequence(sequence) == expected


@pytest.mark.parametrize(
    "sequence",
    [
        [],
        [None, 0, 1, None],  # no separator between the texts
        [None, None],
        [0, None, 1, None],  # no CLS
        [None, 0, None, 1],  # no last separator
        [None, 1, None, 0, None],  # the passage first
        [None, 0, None, 1, 0, None],
        [None, 0, None, 1, None, 1, None],  # a separator within the passage
    ],
)
def test_parts_of_another_framing_are_an_error(sequence):
    with pytest.raises(ValueError, match=r"^expected"):
        parts_of_sequence(sequence)


def test_masks_partition_the_real_positions():
    masks = PartMasks.from_rows(ROWS, 9)
    assert masks.codes.tolist()[1] == [CLS, QUERY, SEP1, SEP2, PAD, PAD, PAD, PAD, PAD]
    assert masks.real.sum(1).tolist() == [8, 4, 4]
    total = sum(masks[part].int() for part in REAL_PARTS)
    assert torch.equal(total, masks.real.int())
    assert not (masks[Part.PAD] & masks.real).any()
    assert masks[Part.DOC].tolist()[0] == [False] * 4 + [True] * 3 + [False] * 2


def test_lengths_and_one_hot_count_each_part():
    masks = PartMasks.from_rows(ROWS, 11)
    assert masks.lengths.tolist() == [[1, 2, 1, 3, 1], [1, 1, 1, 0, 1], [1, 0, 1, 1, 1]]
    assert masks.one_hot.shape == (3, 11, 5)
    assert masks.one_hot[0, 4].tolist() == [False, False, False, True, False]
    assert not masks.one_hot[1, 4:].any()


def test_spans_cover_each_part_in_every_pair():
    masks = PartMasks.from_rows(ROWS, 9)
    # SEP1 lies at 3, 2 and 1; DOC at 4..6 and 2; SEP2 at 7, 3 and 3
    assert masks.spans == ((0, 1), (1, 3), (1, 4), (2, 7), (3, 8))
    assert masks.span([Part.CLS, Part.QUERY]) == (0, 3)
    assert masks.span([Part.QUERY, Part.SEP2]) == (1, 8)


def test_span_of_parts_that_no_pair_has_is_empty():
    masks = PartMasks.from_rows([[CLS, SEP1, SEP2]], 5)
    assert masks.spans[Part.DOC] == (0, 0)
    assert masks.span([Part.DOC, Part.QUERY]) == (0, 0)
    assert masks.span([Part.DOC, Part.SEP2]) == (2, 3)


def test_no_pairs_are_masks_too():
    masks = PartMasks.from_rows([], 0)
    assert masks.codes.shape == (0, 0)
    assert masks.lengths.shape == (0, 5)


def test_to_the_same_device_is_the_same_object():
    masks = PartMasks.from_rows(ROWS, 8)
    assert masks.to("cpu") is masks


def test_codes_of_another_shape_are_refused():
    with pytest.raises((ValueError, TypeError)):
        PartMasks(torch.zeros(3, dtype=torch.int8))


def test_an_edit_of_the_codes_in_place_is_seen():
    masks = PartMasks(torch.tensor([[0, 1, 2, 3, 3, 4], [0, 1, 2, 3, 4, 5]], dtype=torch.int8))
    assert masks.spans == ((0, 1), (1, 2), (2, 3), (3, 5), (4, 6))
    assert masks.lengths.tolist() == [[1, 1, 1, 2, 1], [1, 1, 1, 1, 1]]
    one_hot = masks.one_hot
    assert masks.one_hot is one_hot
    masks.codes[:, 3] = int(Part.PAD)
    assert masks.spans == ((0, 1), (1, 2), (2, 3), (4, 5), (4, 6))
    assert masks.lengths.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]]
    assert not masks.one_hot[:, 3].any()
