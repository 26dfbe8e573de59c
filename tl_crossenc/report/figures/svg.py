"""Vector graphics fit to stand in a page: no ids that clash, no links, fonts of the reader, titles under the pointer."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape, unescape
from typing import Any, cast

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tl_crossenc.report.figures.style import BETWEEN, HOVER, STYLE

FONTS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
"""None is wider than DejaVu Sans, by which the figure is laid out."""

LONG_PATH = 400
"""Characters: a curve, not a marker or a cell."""

_SHAPE = re.compile(r"<(?:path|use)\b[^>]*/>")
_DEFS = re.compile(r"<defs>.*?</defs>", re.DOTALL)
_TAG = re.compile(r"<g\b[^>]*?(/?)>|</g>")
_GROUP = re.compile(r"""<g id=(["'])(hovers?:)(.*?)\1>""", re.DOTALL)


def to_svg(figure: Figure, salt: str) -> str:
    """A figure as an SVG file: the same bytes every time; text stays text.

    Args:
        figure: what to draw.
        salt: for the ids of clip paths and markers; a name of its own for each figure.
    """
    buffer = io.StringIO()
    about = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with _own_canvas(figure, STYLE | {"svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=about)
    return finish(buffer.getvalue())


def to_pdf(figure: Figure) -> bytes:
    """A figure as a PDF file with embedded fonts: the same bytes every time."""
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # brings fontTools, which only this needs

    buffer = io.BytesIO()
    with _own_canvas(figure, STYLE):
        FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


@contextmanager
def _own_canvas(figure: Figure, style: dict[str, Any]) -> Iterator[None]:
    """A style, in which a figure is drawn once, by a canvas's own method; it has its canvas and resolution back after.

    `savefig` draws a figure that has a layout twice, the first time for its layout alone, and every draw makes that anyway.
    """
    canvas, dpi = figure.canvas, figure.dpi
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(cast(Any, style))
            yield
    finally:
        figure.set_canvas(canvas)
        figure.dpi = dpi


def finish(svg: str) -> str:
    """What matplotlib wrote, with hover marks as titles, no metadata, no needless ids and digits, and `FONTS`."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _titled(svg)
    svg = re.sub(r'<g id="(?!hover)[\w. -]+">', "<g>", svg)
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?(?=[;\"])", FONTS, svg)
    svg = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", svg)
    svg = re.sub(r'\bd="([^"]*)"', lambda match: f'd="{_short_path(match[1])}"', svg)
    svg = re.sub(r'(?<= )(x|y)="(-?\d+\.\d{2})\d+"', r'\1="\2"', svg)
    return re.sub(r"\n\s*", "\n", svg)


class PageStyles:
    """The styles of all drawings of a page, each said once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, style: str) -> str:
        """The class that stands for a style."""
        return self._names.setdefault(style, f"s{len(self._names)}")

    @property
    def css(self) -> str:
        """The rules of all classes given out so far."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self._names.items())


def inline(svg: str, label: str, prefix: str, styles: PageStyles) -> str:
    """An SVG file as a small element of an HTML page, whose own style names the fonts.

    Args:
        svg: from `to_svg`.
        label: what a screen reader says.
        prefix: the first part of every id, so that drawings of one page do not share any.
        styles: of the page; its rules must be on it.
    """
    body = svg[svg.index("<svg") :]
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    ids: dict[str, str] = {}

    def short(name: str) -> str:
        return ids.setdefault(name, f"{prefix}{len(ids)}")

    rest = rest.replace(f" font-family: {FONTS};", "").replace(f"; font-family: {FONTS}", "")
    rest = re.sub(r'\bid="([^"]*)"', lambda match: f'id="{short(match[1])}"', rest)
    rest = re.sub(r'xlink:href="#([^"]*)"', lambda match: f'href="#{short(match[1])}"', rest)
    rest = re.sub(r"url\(#([^)]*)\)", lambda match: f"url(#{short(match[1])})", rest)
    rest = re.sub(r'\bstyle="([^"]*)"', lambda match: f'class="{styles.name(match[1])}"', rest)
    rest = re.sub(r'<style type="text/css">.*?</style>', "", rest, flags=re.DOTALL)
    rest = re.sub(r">\n+<", "><", rest)
    view = box[1] if box else "0 0 100 100"
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="{view}">{rest}'


def _short_path(data: str) -> str:
    """The same path with a tenth of a point's precision if it is long, a hundredth's if not."""
    digits = 1 if len(data) > LONG_PATH else 2
    numbers = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.{digits}f}".rstrip("0").rstrip("."), data)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", numbers).strip()


def _titled(svg: str) -> str:
    """Groups that bear a hover mark instead of an id get their titles."""
    pieces: list[str] = []
    at = 0
    while match := _GROUP.search(svg, at):
        end = _end_of_group(svg, match.end())
        content = svg[match.end() : end]
        text = unescape(match[3])
        pieces.append(svg[at : match.start()])
        if match[2] == HOVER:
            pieces.append(f"<g><title>{escape(text, quote=False)}</title>{content}")
        else:
            pieces.append(f"<g>{_each_titled(content, text.split(BETWEEN))}")
        at = end
    return "".join([*pieces, svg[at:]])


def _each_titled(content: str, texts: list[str]) -> str:
    """Titles for the shapes of a collection, definitions left as they are."""
    remaining = iter(texts)

    def titled(match: re.Match[str]) -> str:
        text = next(remaining, "")
        return f"<g><title>{escape(text, quote=False)}</title>{match[0]}</g>" if text else match[0]

    pieces, at = [], 0
    for definitions in _DEFS.finditer(content):
        pieces += [_SHAPE.sub(titled, content[at : definitions.start()]), definitions[0]]
        at = definitions.end()
    return "".join([*pieces, _SHAPE.sub(titled, content[at:])])


def _end_of_group(svg: str, start: int) -> int:
    """Where the group that was opened before `start` is closed."""
    depth = 1
    for tag in _TAG.finditer(svg, start):
        if tag[0] == "</g>":
            depth -= 1
        elif not tag[1]:
            depth += 1
        if depth == 0:
            return tag.start()
    raise ValueError("expected closed groups in the drawing, got one that never ends: draw the figures anew")
