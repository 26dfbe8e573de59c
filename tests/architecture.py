"""The structure of the package, read from its source: which wing imports from which, how many modules each has, the longest.

`python -m tests.architecture` prints it.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1]
ROOT = FOLDER / "tl_crossenc"
PAGE = FOLDER / "ARCHITECTURE.md"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(ROOT.rglob("*.py"))}


def wing(module: str) -> str:
    """The wing that a module stands in; a module at the top is its own."""
    return module.partition(".")[0]


WINGS = tuple(sorted({wing(module) for module in MODULES} - {"__init__", "demo"}))


def imports(source: str, path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a source, those inside of functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["tl_crossenc", *path.relative_to(ROOT).parts[:-1]]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


@functools.cache
def imports_of(module: str) -> list[tuple[int, str]]:
    """(line, dotted module) of every import of a module."""
    return list(imports(MODULES[module].read_text(encoding="utf-8"), MODULES[module]))


def own_imports(module: str) -> Iterator[tuple[int, str]]:
    """(line, module of this package) of every import of one."""
    for line, name in imports_of(module):
        own = name.removeprefix("tl_crossenc.")
        if own != name:
            yield from ((line, found) for found in (own, f"{own}.__init__") if found in MODULES)


@functools.cache
def graph() -> dict[str, set[str]]:
    """Wing -> the wings that its modules import from."""
    found: dict[str, set[str]] = {name: set() for name in WINGS}
    for module in MODULES:
        if wing(module) in found:
            found[wing(module)] |= {wing(other) for _, other in own_imports(module)} - {wing(module), "__init__"}
    return found


def allowed() -> dict[str, list[str]]:
    """Wing -> the wings that it may import from, as the page's table says, in the table's order."""
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    found: dict[str, list[str]] = {}
    for row in rows:
        (name,) = re.findall(r"`(\w+)`", row[1])
        found[name] = re.findall(r"\w+", row[3].replace("nothing", ""))
    return found


def main() -> None:
    """Print the wings in the page's order, with what each imports from, and the longest modules."""
    found, lengths = graph(), {m: len(path.read_text("utf-8").splitlines()) for m, path in MODULES.items()}
    for name in allowed():
        inside = [module for module in MODULES if wing(module) == name and not module.endswith("__init__")]
        print(
            f"{name:14} {len(inside):3} modules {sum(lengths[m] for m in inside):6} lines  <- {', '.join(sorted(found[name]))}"
        )
    top = sorted(module for module in MODULES if "." not in module)
    print(f"\nat the top: {len(top)} ({', '.join(top)})")
    for module in sorted(lengths, key=lambda m: -lengths[m])[:5]:
        print(f"{lengths[module]:4} lines  {module}")


if __name__ == "__main__":
    main()
