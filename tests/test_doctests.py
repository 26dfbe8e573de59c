"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

import tl_crossenc

ROOT = Path(tl_crossenc.__file__).parent
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if "\n>>> " in path.read_text(encoding="utf-8") or " >>> " in path.read_text(encoding="utf-8")
)
LOOKED_AT = (
    "model.cross_encoder console.prompt views.explain views.attention console.progress interventions.directions "
    "interventions.conditions inputs.parts pools.collections pools.pool"
)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def test_what_one_meets_first_has_examples():
    assert {f"tl_crossenc.{name}" for name in LOOKED_AT.split()} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module):
    found = doctest.testmod(importlib.import_module(module), optionflags=OPTIONS)
    assert found.attempted > 0
    assert found.failed == 0
