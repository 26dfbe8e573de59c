"""Conditions in a file: read line by line as they are written by hand, and every bad line named."""

import gzip

import pytest

from tl_crossenc.interventions.conditions import Condition
from tl_crossenc.interventions.conditions_file import read_conditions

TEXT = """\ufeff# what carries the match
DQ: zero(DOC->QUERY)

early-2:   zero(DOC->QUERY; layers=0-1)  +  mask(CLS->ALL)   # and the end
mask(QUERY<->DOC; heads=3)
none
"""


def written(tmp_path, text):
    path = tmp_path / "c.txt"
    path.write_text(text)
    return path


def test_names_comments_and_order(tmp_path):
    found = read_conditions(written(tmp_path, TEXT))
    assert list(found.items()) == [
        ("DQ", Condition.ablate("DOC->QUERY")),
        ("early-2", Condition.ablate("DOC->QUERY", layers=(0, 1)) + Condition.ablate("CLS->ALL", mode="mask")),
        (
            "mask(DOC->QUERY; heads=3) + mask(QUERY->DOC; heads=3)",
            Condition.ablate(["DOC->QUERY", "QUERY->DOC"], heads=[3], mode="mask"),
        ),
        ("none", Condition()),
    ]


def test_presets_where_a_model_says_how_many_layers(tmp_path):
    path = written(tmp_path, "a: mask(@paper-doc-query:2)\n@paper-cls-doc")
    expected = {
        "a": Condition.ablate("DOC->QUERY", layers=(0, 1), mode="mask"),
        "zero(CLS->DOC)": Condition.ablate("CLS->DOC"),
    }
    assert read_conditions(path, 3, 5) == expected
    with pytest.raises(
        ValueError, match=r"line 1: expected edits, such as .* where no model is given, got the preset in"
    ):
        read_conditions(path)
    with pytest.raises(ValueError, match=r"line 2: expected heads 0\.\.4 in zero\(DOC->CLS; heads=5\), got head 5"):
        read_conditions(written(tmp_path, "none\nx: zero(DOC->CLS; heads=5)"), 3, 5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("none\nDOC->QUERY\n", "line 2: expected an edit such as zero"),
        ("\n\nzero(DOG->QUERY)\n", "line 3: .*DOG"),
        (
            "a: zero(DOC->CLS)\nb: zero(CLS->DOC)\na: none\n",
            "line 3: expected every name and condition once, found the name 'a' of line 1",
        ),
        (
            "a: zero(DOC->CLS)\n\nzero( DOC->CLS )\n",
            r"line 3: .* the condition zero\(DOC->CLS\) of line 1 again: remove one",
        ),
        ("# nothing\n\n", "has no condition; expected one a line"),
        ("a: \n", "line 1: expected an edit"),
    ],
)
def test_bad_lines_are_one_sentence(tmp_path, text, said):
    with pytest.raises(ValueError, match=said) as error:
        read_conditions(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of conditions at"):
        read_conditions(tmp_path / "nowhere.txt")
    (tmp_path / "z").write_bytes(gzip.compress(b"none"))
    with pytest.raises(ValueError, match="line 1: expected UTF-8"):
        read_conditions(tmp_path / "z")
    (tmp_path / "large").write_text("none\n" * 300_000)
    with pytest.raises(ValueError, match="got one of 1,500,000 bytes"):
        read_conditions(tmp_path / "large")
