"""What makes two keys of cells one."""

import hashlib
import json
import tracemalloc

import numpy as np
import pytest

from tl_crossenc.store.keys import CellKey


def test_a_key_is_its_sorted_json_whatever_the_order():
    key = CellKey.of("scores", shard=7, model="a→b", share=0.5, last=None, paired=True)
    text = r'{"fields":{"last":null,"model":"a\u2192b","paired":true,"shard":7,"share":0.5},"kind":"scores"}'
    assert key.canonical == text
    assert key.digest == hashlib.sha256(text.encode("ascii")).hexdigest()[:24]
    other = CellKey.of("scores", paired=True, last=None, share=0.5, model="a→b", shard=7)
    assert key == other
    assert hash(key) == hash(other)
    assert key.fields == {"last": None, "model": "a→b", "paired": True, "shard": 7, "share": 0.5}


def test_keys_that_differ_in_anything_are_different():
    keys = [
        CellKey.of("scores", shard=1),
        CellKey.of("runs", shard=1),
        CellKey.of("scores", shard=2),
        CellKey.of("scores", shard=1.0),
        CellKey.of("scores", shard="1"),
        CellKey.of("scores", shard=True),
        CellKey.of("scores", shared=1),
        CellKey.of("scores", shard=1, kind="runs"),
        CellKey.of("scores"),
    ]
    assert len(set(keys)) == len({key.digest for key in keys}) == 9
    assert keys[0] != "scores"


def test_a_key_refuses_what_has_no_one_text():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite number for 'share'"):
            CellKey.of("scores", share=value)
    for value in ([1], {"a": 1}, b"1", np.int64(1)):
        with pytest.raises(TypeError, match="for 'x' in a cell key"):
            CellKey.of("scores", x=value)
    for kind in ("", "Scores", "../scores", "a/b", ".hidden", "scores\n", "1st"):
        with pytest.raises(ValueError, match="cell kind"):
            CellKey.of(kind)


def test_numbers_that_are_equal_and_not_written_alike_stay_apart_in_whatever_order_they_come():
    for values in ((0.0, -0.0), (-0.0, 0.0), (True, 1, 1.0), (1.0, True, 1), (0, False, -0.0)):
        keys = [CellKey.of("scores", share=value) for value in values]
        assert [key.canonical for key in keys] == [
            f'{{"fields":{{"share":{json.dumps(value)}}},"kind":"scores"}}' for value in values
        ]
        assert len(set(keys)) == len(values)


def test_many_keys_of_one_model_are_small():
    """15 fields: 15 places of 8 bytes, 40 of their tuple, the object and its two names; what they share is there once."""
    shared = {f"field{i}": f"{i}" * 31 for i in range(12)}
    tracemalloc.start()
    keys = [CellKey.of("scores", **shared, condition=f"c{i % 7}", shard=i % 101, size=256) for i in range(1009)]
    each = tracemalloc.get_traced_memory()[0] / len(keys)
    tracemalloc.stop()
    assert each < 160 + 48 + 104 + 30
    assert keys[3].fields == {**shared, "condition": "c3", "shard": 3, "size": 256}
