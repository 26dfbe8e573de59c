"""docs/FAMILIES.md: its columns are the families that open, and every test in its table exists and goes over the family."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tl_crossenc.checkpoints.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "FAMILIES.md").read_text(encoding="utf-8")
WORLDS = {  # a column -> how the names of its worlds in the tests begin
    "BERT": ("bert",),
    "RoBERTa, XLM-R, CamemBERT": ("xlm-roberta",),
    "jina-reranker-v2": ("jina-v2",),
    "ELECTRA": ("electra",),
    "lightning-ir": ("lightning-mono",),
    "DistilBERT": ("distilbert",),
    "ModernBERT": ("modernbert",),
    "GTE": ("gte",),
    "DeBERTa-v2, DeBERTa-v3": ("deberta-v2",),
    "ERNIE": ("ernie-without-tasks",),
}


def table(first):
    """The rows of the table whose first row after its header is `first`, as lists of cells."""
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    at = next(i for i, row in enumerate(rows) if row[0] == first)
    end = next((i for i, row in enumerate(rows[at:], at) if len(row) != len(rows[at])), len(rows))
    return [rows[at - 2], *rows[at:end]]


CAPABILITIES, LEGEND = table("scores"), table("a")
TESTS = {letter: (*test.strip("`").split("::"), names.strip("`")) for letter, test, names in LEGEND[1:]}


def names_of(file, attribute):
    """The worlds in a module's list of them."""
    module = importlib.import_module(file.removeprefix("tests/").removesuffix(".py").replace("/", "."))
    return [getattr(name, "values", (name,))[0] for name in getattr(module, attribute)]


def test_the_families_are_those_that_open():
    models, columns = table("BERT"), CAPABILITIES[0][1:]
    assert columns == [row[0] for row in models[1:]] == list(WORLDS)
    kinds = {kind for row in models[1:] for kind in row[1].split(", ")} - {"none"}
    assert kinds == {kind for family in FAMILIES for kind in family.model_types}


def test_every_cell_has_a_test_or_says_why_not():
    for capability, *cells in CAPABILITIES[1:]:
        for cell in cells:
            assert cell == "–" or set(cell.split()) <= set(TESTS), (capability, cell)
    used = {letter for row in CAPABILITIES[1:] for cell in row[1:] for letter in cell.split()}
    assert used - {"–"} == set(TESTS)


@pytest.mark.parametrize("letter", TESTS)
def test_a_test_is_there_and_goes_over_the_families_that_name_it(letter):
    file, name, attribute = TESTS[letter]
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    worlds = names_of(file, attribute)
    assert re.search(rf"(params=|, ){attribute}\b|for name in {attribute}\b", (ROOT / file).read_text(encoding="utf-8"))
    for row in CAPABILITIES[1:]:
        for column, cell in zip(WORLDS, row[1:], strict=True):
            if letter in cell.split():
                assert any(world.startswith(WORLDS[column]) for world in worlds), (row[0], column)
