"""Contrast pairs from a file: read line by line, aligned one by one, and what is wrong with which line."""

import json

import pytest

from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.patching.pairs_file import ContrastPair, align_file, read_pairs

ONE = {"id": "g1", "query": "tune a guitar", "clean": "guitar by the window", "corrupted": "piano by the window"}
OTHER = {"query": "tune a guitar", "corrupted_query": "tune a piano", "clean": "the guitar", "corrupted": "the guitar"}
LONGER = {"id": "longer", "query": "water", "clean": "water the garden", "corrupted": "the garden"}
SAME = {"id": "same", "query": "water", "clean": "water", "corrupted": "water"}


def written(folder, *lines):
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_lines_are_pairs_with_their_own_queries_and_names(tmp_path):
    assert read_pairs(written(tmp_path, ONE, "", OTHER)) == [
        ContrastPair("g1", 1, ("tune a guitar", "guitar by the window"), ("tune a guitar", "piano by the window")),
        ContrastPair("3", 3, ("tune a guitar", "the guitar"), ("tune a piano", "the guitar")),
    ]


def test_what_does_not_align_is_left_out_by_name_with_the_reason(tmp_path):
    model = HookedCrossEncoder.from_pretrained("planted", device="cpu")
    pairs, left_out = align_file(model, read_pairs(written(tmp_path, ONE, LONGER, OTHER, SAME)))
    assert [label["pair"] for label in pairs.labels] == ["g1", "3"]
    assert [(out.pair.name, out.pair.line) for out in left_out] == [("longer", 2), ("same", 4)]
    assert "the pair has 7 and 6 tokens (DOC 3 and 2)" in left_out[0].reason
    assert "the pair has the same tokens on both sides" in left_out[1].reason
    with pytest.raises(
        ValueError, match="none of 2 does; the first, 'longer': expected clean and corrupted pairs aligned"
    ):
        align_file(model, read_pairs(written(tmp_path, LONGER, SAME)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: expected JSON"),
        ("[1]", "line 2: expected a JSON object, .* found list"),
        ({**ONE, "id": "x", "corupted_query": "a"}, "line 2: expected keys among id, query, .* found 'corupted_query'"),
        ({"query": "a", "clean": "b"}, "line 2: expected a text as corrupted, found none"),
        ({"clean": "a", "corrupted": "b"}, "line 2: expected a text as query, found none"),
        ({"clean_query": "a", "clean": "a", "corrupted": "b"}, "line 2: expected a text as query, found none"),
        ({"query": "a", "clean": "b", "corrupted": 3}, "line 2: expected a text as corrupted, found int"),
        ({"query": " ", "clean": "b", "corrupted": "c"}, "line 2: expected a query with text, found an empty one"),
        ({**ONE, "id": True}, "line 2: expected a text or a whole number as id, found True"),
        (ONE, "line 2: expected every id once, found 'g1' of line 1 again"),
        ("[" * 100_000, "line 2: expected"),
    ],
)
def test_bad_lines_are_one_sentence(tmp_path, line, said):
    with pytest.raises(ValueError, match=said) as error:
        read_pairs(written(tmp_path, ONE, line))
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of pairs at"):
        read_pairs(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="has no pair; expected a line of JSON a pair"):
        read_pairs(written(tmp_path, ""))
    (tmp_path / "b").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match="line 1: expected JSON"):
        read_pairs(tmp_path / "b")
