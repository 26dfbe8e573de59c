"""The one-way order of imports, and what the library never does, read from its source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tl_crossenc

ROOT = Path(tl_crossenc.__file__).parent
PAGE = ROOT.parent / "ARCHITECTURE.md"
ROWS = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
# A module may import from those before it on the page alone; a package's modules from each other without circles.
ORDER = tuple(name for row in ROWS for name in re.findall(r"`(\w+)`", row))
WITHOUT_TORCH = ("collections", "pools", "evaluation", "significance", "store", "tables", "figures.__init__", "report")
EXEMPT = {"__init__"}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def family(module):
    """The name under which a module stands in `ORDER`: a package's for all that is in it."""
    return module.partition(".")[0]


def imports(path):
    """(line, dotted module) of every import in a file, those inside of functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["tl_crossenc", *path.relative_to(ROOT).parts[:-1]]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def own_imports(module):
    """(line, module of this package) of every import of one."""
    for line, name in imports(MODULES[module]):
        own = name.removeprefix("tl_crossenc.")
        if own != name:
            yield from ((line, found) for found in (own, f"{own}.__init__") if found in MODULES)


def test_every_module_has_its_place_in_the_order():
    strangers = {m for m in MODULES if family(m) not in ORDER and m not in EXEMPT and not m.startswith("demo.")}
    assert not strangers, "put them into the list in ARCHITECTURE.md"


def test_the_page_names_each_module_once_and_no_other():
    assert len(set(ORDER)) == len(ORDER) > 50
    assert set(ORDER) <= {family(module) for module in MODULES}


def test_imports_point_up_the_order_only():
    wrong = []
    for module in MODULES:
        if family(module) not in ORDER:
            continue
        place = ORDER.index(family(module))
        for line, other in own_imports(module):
            allowed = ORDER.index(family(other)) < place or (family(other) == family(module) and other != module)
            if not allowed:
                wrong.append(f"{module}.py:{line} imports {other}")
    assert not wrong


def test_no_circles():
    graph = {module: {other for _, other in own_imports(module)} for module in MODULES if module != "__init__"}
    done = set()
    while ready := {
        module for module in graph.keys() - done if graph[module] <= done | {"__init__", "experiments.__init__"}
    }:
        done |= ready
    assert graph.keys() == done


def test_no_module_imports_from_the_package_itself():
    """`from tl_crossenc import X` would hide which module is meant; only users write it."""
    for module, path in MODULES.items():
        names = {name for _, name in imports(path)}
        public = {f"tl_crossenc.{name}" for name in tl_crossenc.__all__}
        assert module == "__init__" or not names & public, module


@pytest.mark.parametrize("module", [m for m in WITHOUT_TORCH if m in MODULES])
def test_what_never_imports_torch(module):
    reached, queue = set(), [module]
    while queue:
        at = queue.pop()
        if at in reached:
            continue
        reached.add(at)
        outside = {name.partition(".")[0] for _, name in imports(MODULES[at])}
        assert not outside & {"torch", "transformers", "transformer_lens", "safetensors"}, f"{module} reaches {at}"
        queue += [other for _, other in own_imports(at)]


def test_what_never_imports_torch_runs_without_it():
    names = ", ".join(f"tl_crossenc.{m.removesuffix('.__init__')}" for m in WITHOUT_TORCH if m in MODULES)
    code = f"import sys, {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("module", MODULES)
def test_no_print_and_no_assert_in_the_library(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"{module}.py:{node.lineno} asserts"
        called = node.func if isinstance(node, ast.Call) else None
        assert not (isinstance(called, ast.Name) and called.id == "print"), f"{module}.py:{node.lineno} prints"


def test_the_checks_would_notice(tmp_path):
    """The reader of imports sees every form of them."""
    source = "import torch.nn as nn\ndef f():\n    from tl_crossenc.cli import main\nfrom . import store\nfrom .files import x\n"
    path = ROOT / "never_written.py"
    found = {name for _, name in _imports_of(source, path)}
    assert {"torch.nn", "tl_crossenc.cli", "tl_crossenc.store", "tl_crossenc.files"} <= found


def _imports_of(source, path):
    class Source:
        def read_text(self, encoding):
            return source

        def relative_to(self, other):
            return path.relative_to(other)

    return list(imports(Source()))
