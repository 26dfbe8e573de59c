import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_crossenc.interventions.heads import (
    Head,
    check_heads,
    check_heads_text,
    format_heads,
    load_heads,
    parse_heads,
    resolve_heads,
    save_heads,
)


def test_a_head_is_layer_then_head():
    head = Head(3, 7)
    assert (head.layer, head.head, str(head)) == (3, 7, "3.7")
    assert head == (3, 7)


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("3.7", [(3, 7)]),
        ("3.7,4.1", [(3, 7), (4, 1)]),
        (" 10.11 , 0.0", [(10, 11), (0, 0)]),
        ("4.1,3.7", [(4, 1), (3, 7)]),
    ],
)
def test_heads_are_read_in_the_order_written(text, heads):
    assert list(parse_heads(text)) == heads


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, unique=True))
def test_the_text_form_round_trips(heads):
    assert list(parse_heads(format_heads(heads))) == heads


@pytest.mark.parametrize("text", ["", ",", "3", "3.7,", "3-7", "3.7;4.1", "-1.2", "3.7.1", "L3H7", "3.x", "all"])
def test_what_is_no_list_of_heads_is_refused(text):
    with pytest.raises(ValueError, match=r"expected heads written layer\.head, such as 3\.7,4\.1; got"):
        parse_heads(text)


def test_a_head_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"each head once, got 3\.7 more than once"):
        parse_heads("3.7,4.1,3.7")
    with pytest.raises(ValueError, match="more than once"):
        parse_heads("3.7,03.07")


def test_heads_outside_of_the_model_are_refused_by_name():
    check_heads([(0, 0), (5, 11)], n_layers=6, n_heads=12)
    with pytest.raises(ValueError, match=r"within 0\.0 to 5\.11 \(layer\.head\), got 6\.0,0\.12:"):
        check_heads([(6, 0), (5, 11), (0, 12)], n_layers=6, n_heads=12)


def test_kept_heads_come_back_in_their_order(tmp_path):
    path = save_heads(tmp_path, "matching", [(4, 5), (2, 9), (10, 0)], {"quantity": "mass"})
    assert load_heads(tmp_path, "matching") == ((4, 5), (2, 9), (10, 0))
    assert json.loads(path.read_text())["heads"] == ["4.5", "2.9", "10.0"]
    assert json.loads(path.read_text())["about"] == {"quantity": "mass"}
    save_heads(tmp_path, "matching", [])
    assert load_heads(tmp_path, "matching") == ()


def test_an_at_sign_names_kept_heads_and_a_count_the_first_of_them(tmp_path):
    save_heads(tmp_path, "matching", [(4, 5), (2, 9), (10, 0)])
    assert resolve_heads("@matching", tmp_path) == ((4, 5), (2, 9), (10, 0))
    assert resolve_heads(" @matching:2 ", tmp_path) == ((4, 5), (2, 9))
    assert resolve_heads("3.7,4.1", tmp_path / "nothing") == ((3, 7), (4, 1))


@pytest.mark.parametrize("text", ["@matching:0", "@matching:4"])
def test_a_count_that_the_list_does_not_have_is_refused(tmp_path, text):
    save_heads(tmp_path, "matching", [(4, 5), (2, 9), (10, 0)])
    with pytest.raises(ValueError, match=f"a count of 1 to 3 for @matching, got {text[-1]}"):
        resolve_heads(text, tmp_path)


def test_kept_heads_that_are_empty_are_no_heads_to_act_on(tmp_path):
    save_heads(tmp_path, "matching", [])
    with pytest.raises(ValueError, match="@matching has no heads: no head passed"):
        resolve_heads("@matching", tmp_path)


@pytest.mark.parametrize("text", ["@", "@a:b", "@a:", "@matching,3.7", "@matching:-1"])
def test_what_names_no_kept_list_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="expected a kept list of heads such as @matching or @matching:5, got"):
        resolve_heads(text, tmp_path)


def test_a_list_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"there is no such file: run the experiment that finds them first"):
        resolve_heads("@matching", tmp_path)


@pytest.mark.parametrize("name", ["../evil", "Matching", "", "a/b", ".hidden"])
def test_names_stay_inside_of_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="expected a name of lower-case letters"):
        save_heads(tmp_path, name, [(0, 0)])
    with pytest.raises(ValueError, match=r"expected a name of lower-case letters|expected a kept list"):
        resolve_heads(f"@{name}", tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"heads": "3.7"}', '{"heads": [3.7]}', '{"heads": ["x"]}', "\x00"]
)
def test_a_damaged_list_is_refused(tmp_path, content):
    path = save_heads(tmp_path, "matching", [(4, 5)])
    path.write_text(content)
    with pytest.raises(ValueError, match="cannot be read"):
        load_heads(tmp_path, "matching")


SOURCE = {"model": {"weights": "a1"}, "pools": {"one": "p1"}}


def test_kept_heads_are_of_one_model_and_its_pools(tmp_path):
    save_heads(tmp_path, "matching", [(4, 5)], source=SOURCE)
    assert resolve_heads("@matching", tmp_path, SOURCE) == ((4, 5),)
    for part, other in (("this model", {"model": {"weights": "b2"}}), ("these pools", {"pools": {"one": "p2"}})):
        with pytest.raises(
            ValueError, match=f"expected heads found on {part} as @matching, but those in .* on another"
        ):
            resolve_heads("@matching", tmp_path, SOURCE | other)
    save_heads(tmp_path, "matching", [(4, 5)])
    with pytest.raises(
        ValueError, match="on which model and pools the heads @matching were found, but it does not say"
    ):
        resolve_heads("@matching:1", tmp_path, SOURCE)
    assert resolve_heads("3.7", tmp_path, SOURCE) == ((3, 7),)


def test_a_text_is_checked_without_a_folder():
    for text in ("3.7,4.1", "@matching", "@matching:8"):
        check_heads_text(text)
    for text in ("", "3", "3.7,3.7", "@", "@a:b", "@Matching", "@matching:0"):
        with pytest.raises(ValueError, match="expected"):
            check_heads_text(text)
