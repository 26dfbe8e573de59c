"""What the site shows of the repository beyond docs/: the README as its home, other pages, notebooks, linked scripts, the API.

The site's tree is the repository's without `docs/`, so a link between two files of the repository leads to the page of the same
file: `README.md` is `index.md`, `analyses/patching.py` is `analyses/patching.py.md`, `analyses/notebooks/x.ipynb` is
`analyses/notebooks/x.md`, and a wing `tl_crossenc/pools` is `api/pools.md`.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebooks import markdown_of

ROOT = Path(__file__).parents[2]
PACKAGE = "tl_crossenc"
PAGES = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "tl_crossenc/demo/MODEL_CARD.md")
NOT_WINGS = ("demo",)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
"""The target of a Markdown link, but not an address and not a place on the same page."""

FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: pages of docs/ that it does not name, and the API."""
    named = str(config.nav)
    sections = {name: entries for section in config.nav for name, entries in section.items()}
    sections["Background"] += [path.name for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in named]
    sections["API"] += [{"Words and public names": "api/index.md"}, *(f"api/{name}.md" for name in wings())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in docs/."""
    for name in PAGES:
        add(files, config, name, (ROOT / name).read_text(encoding="utf-8"))
    for path in sorted((ROOT / "analyses" / "notebooks").glob("*.ipynb")):
        add(files, config, path.relative_to(ROOT).as_posix(), markdown_of(path))
    add(files, config, "api/index.md", api_index())
    for name, modules in wings().items():
        add(files, config, f"api/{name}.md", wing_page(name, modules))
    for target in sorted(linked_files(files)):
        code = (ROOT / target).read_text(encoding="utf-8")
        add(files, config, target, f"# {target}\n\n```python\n{code}```\n")
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Lead links between files of the repository to their pages."""
    origin = repository_path(page.file.src_uri)
    if origin == "README.md":
        page.meta["hide"] = ["navigation"]

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link[1]))
        return posixpath.relpath(site_path(target), posixpath.dirname(page.file.src_uri) or ".")

    return outside_code(markdown, lambda text: LINK.sub(lead, text))


def site_path(path: str) -> str:
    """The page, or the picture, of a file of the repository."""
    if path == "README.md":
        return "index.md"
    if path == "analyses/notebooks":
        return "analyses/notebooks/01_a_first_look.md"
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return f"{path}.md" if path.endswith(".py") else path.removeprefix("docs/")


def repository_path(src_uri: str) -> str:
    """The file of the repository that a page shows."""
    if src_uri == "index.md":
        return "README.md"
    if (ROOT / src_uri).exists() or src_uri.startswith("api/"):
        return src_uri
    return f"docs/{src_uri}" if (ROOT / "docs" / src_uri).exists() else src_uri.removesuffix(".md")


def add(files: Files, config: MkDocsConfig, path: str, content: str) -> None:
    """A page of a file that does not lie in docs/."""
    files.append(File.generated(config, site_path(path), content=content))


def linked_files(files: Files) -> set[str]:
    """The scripts that pages link to."""
    found = set()
    for file in files.documentation_pages():
        origin = posixpath.dirname(repository_path(file.src_uri))
        words = "".join(FENCE.split(file.content_string)[::2])
        found |= {posixpath.normpath(posixpath.join(origin, target)) for target in LINK.findall(words)}
    return {target for target in found if target.endswith(".py") and (ROOT / target).is_file()}


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The page with its text changed and its blocks of code left."""
    return "".join(part if i % 2 else change(part) for i, part in enumerate(FENCE.split(markdown)))


# The API, from the package's folders.


def wings() -> dict[str, list[str]]:
    """Wing -> its modules, in the order of ARCHITECTURE.md's table; a module beside the wings is one of its own."""
    root = ROOT / PACKAGE
    found = {}
    for path in root.iterdir():
        if (path / "__init__.py").exists() and path.name not in NOT_WINGS:
            modules = sorted(module for module in path.rglob("*.py") if module.name != "__init__.py")
            found[path.name] = [".".join(module.relative_to(root).with_suffix("").parts) for module in modules]
        elif path.suffix == ".py" and path.stem != "__init__":
            found[path.stem] = []
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.MULTILINE)
    return {name: found[name] for name in sorted(found, key=lambda name: table.index(name))}


def wing_page(name: str, modules: list[str]) -> str:
    """A wing: what it is, then its modules."""
    if not modules:
        return f"# {name}\n\n{directive(name)}"
    parts = [f"# {name}\n\n{directive(name, members=False)}"]
    parts += [f"## {module.partition('.')[2]}\n\n{directive(module)}" for module in modules]
    return "\n\n".join(parts)


def directive(module: str = "", members: bool = True) -> str:
    """mkdocstrings's word for a module, or the package, under the heading above it."""
    options = {"show_root_heading": False, "show_root_toc_entry": False} | ({} if members else {"members": False})
    lines = "".join(f"\n      {key}: {str(value).lower()}" for key, value in options.items())
    return f"::: {PACKAGE}{'.' * bool(module)}{module}\n    options:{lines}"


def api_index() -> str:
    """The public names with where they are, and the wings."""
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    homes = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_HOME")
    names = {
        ast.literal_eval(key): ast.literal_eval(value) for key, value in zip(homes.keys, homes.values, strict=True)
    }
    rows = [
        f"| [`{name}`][{PACKAGE}.{home}.{name}] | `{home}` |"
        for name, home in sorted(names.items(), key=lambda pair: pair[0].lower())
    ]
    table = ["| name | module |", "|---|---|", *rows]
    return "\n".join(
        [
            "# API",
            "",
            directive(members=False),
            "",
            "## Public names",
            "",
            f"`from {PACKAGE} import ...`:",
            "",
            *table,
            "",
        ]
    )
