"""The one-way order of imports, and what the library never does, read from its source."""

import ast
import re
import subprocess
import sys

import pytest
from architecture import MODULES, ROOT, WINGS, allowed, graph, imports, imports_of, own_imports, wing

import tl_crossenc

WITHOUT_TORCH = (
    "pools.collections",
    "pools.pool",
    "statistics.evaluation",
    "statistics.significance",
    "store.cells",
    "report.tables",
    "report.figures.__init__",
    "report.page",
)


def test_the_page_names_each_wing_once_and_no_other():
    assert sorted(allowed()) == sorted(WINGS)


def test_the_page_allows_no_circle():
    """A wing imports only from rows above its own."""
    rows = list(allowed())
    for name, below in allowed().items():
        assert set(below) <= set(rows[: rows.index(name)]), name


def test_wings_import_what_the_page_says_and_no_other():
    found = graph()
    for name, below in allowed().items():
        assert sorted(found[name]) == sorted(below), name


def test_no_circles_among_modules():
    graph = {module: {other for _, other in own_imports(module)} for module in MODULES if module != "__init__"}
    packages = {module for module in MODULES if module.endswith("__init__")}
    done = set()
    while ready := {module for module in graph.keys() - done if graph[module] <= done | packages}:
        done |= ready
    assert graph.keys() == done


@pytest.mark.parametrize("module", [m for m in MODULES if m.count(".") == 1 and m.endswith(".__init__")])
def test_each_wing_says_what_enters_and_what_leaves(module):
    if wing(module) in WINGS:
        text = ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))
        assert "\nIn: " in text, module
        assert " Out: " in text, module


def test_no_module_imports_from_the_package_itself():
    """`from tl_crossenc import X` would hide which module is meant; only users write it."""
    public = {f"tl_crossenc.{name}" for name in tl_crossenc.__all__}
    for module in MODULES:
        names = {name for _, name in imports_of(module)}
        assert module == "__init__" or not names & public, module


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_never_imports_torch(module):
    reached, queue = set(), [module]
    while queue:
        at = queue.pop()
        if at in reached:
            continue
        reached.add(at)
        outside = {name.partition(".")[0] for _, name in imports_of(at)}
        assert not outside & {"torch", "transformers", "transformer_lens", "safetensors"}, f"{module} reaches {at}"
        queue += [other for _, other in own_imports(at)]


def test_what_never_imports_torch_runs_without_it():
    names = ", ".join(f"tl_crossenc.{m.removesuffix('.__init__')}" for m in WITHOUT_TORCH)
    code = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("module", MODULES)
def test_no_print_and_no_assert_in_the_library(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"{module}.py:{node.lineno} asserts"
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Name) and called.id == "print"), f"{module}.py:{node.lineno} prints"


ORDER = re.compile(r"ln\d|hook_normalized|normalized_resid|ln_final")


def order_known(source):
    """(line, what) wherever code, not docstrings, names a norm or runs an MLP: what a layer alone knows."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    for node in ast.walk(tree):
        text = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "arg", None)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            text = node.value
        if isinstance(text, str) and ORDER.search(text):
            yield node.lineno, text
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "mlp":
            yield node.lineno, ".mlp("


NAMING = "checkpoints.families."
"""Families say where a checkpoint's weights go, norms too, and apply none."""


@pytest.mark.parametrize("module", [m for m in MODULES if wing(m) != "model" and not m.startswith(NAMING)])
def test_only_the_model_knows_the_order_of_a_layer(module):
    assert not list(order_known(MODULES[module].read_text(encoding="utf-8"))), module


def test_the_order_of_a_layer_would_be_noticed():
    for line in (
        "x = block.ln1(resid, w, b)",
        "w = stack.ln2_weight[layer]",
        'name = f"blocks.{layer}.hook_normalized_resid_post"',
        "y = x + block.mlp(x)",
        'cache["normalized_resid_post", 1]',
    ):
        assert list(order_known(f"def f():\n    {line}\n")), line
    assert not list(
        order_known('def f():\n    """Past ln1 and hook_normalized."""\n    return block.resume("mid", x)\n')
    )


def test_the_checks_would_notice():
    """The reader of imports sees every form of them."""
    source = "import torch.nn as nn\ndef f():\n    from tl_crossenc.cli import main\nfrom . import store\nfrom .files import x\n"
    found = {name for _, name in imports(source, ROOT / "never_written.py")}
    assert {"torch.nn", "tl_crossenc.cli", "tl_crossenc.store", "tl_crossenc.files"} <= found


def test_the_structure_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "tests.architecture"], cwd=ROOT.parent, capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()[: len(WINGS)]] == list(allowed())
    assert "at the top: " in done.stdout
