"""Vector graphics fit to stand in a page: no ids that clash, no links, fonts of the reader, titles under the pointer."""

from __future__ import annotations

import io
import re
from html import escape, unescape

import matplotlib
from matplotlib.figure import Figure

from tl_crossenc.figures.style import BETWEEN, HOVER, STYLE

FONTS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
"""None is wider than DejaVu Sans, by which the figure is laid out."""

_SHAPE = re.compile(r"<(?:path|use)\b[^>]*/>")
_DEFS = re.compile(r"<defs>.*?</defs>", re.DOTALL)
_GROUP = re.compile(r'<g id="(hovers?:)([^"]*)">')


def to_svg(figure: Figure, salt: str) -> str:
    """A figure as an SVG file: the same bytes every time; text stays text.

    Args:
        figure: what to draw.
        salt: for the ids of clip paths and markers; a name of its own for each figure.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": salt})
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return finish(buffer.getvalue())


def to_pdf(figure: Figure) -> bytes:
    """A figure as a PDF file with embedded fonts: the same bytes every time."""
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return buffer.getvalue()


def finish(svg: str) -> str:
    """What matplotlib wrote, with hover marks as titles, no metadata, no needless ids and digits, and `FONTS`."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _titled(svg)
    svg = re.sub(r'<g id="(?!hover)[\w. -]+">', "<g>", svg)
    svg = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?(?=[;\"])", FONTS, svg)
    svg = re.sub(r"(\d+\.\d{2})\d+", r"\1", svg)
    return re.sub(r"\n\s*", "\n", svg)


def inline(svg: str, label: str, prefix: str) -> str:
    """An SVG file as an element of an HTML page.

    Args:
        svg: from `to_svg`.
        label: what a screen reader says.
        prefix: made a part of every id, so that figures of one page do not share any.
    """
    body = svg[svg.index("<svg") :]
    head, _, rest = body.partition(">")
    box = re.search(r'viewBox="([^"]*)"', head)
    rest = re.sub(r'\bid="', f'id="{prefix}-', rest)
    rest = re.sub(r'xlink:href="#', f'href="#{prefix}-', rest)
    rest = rest.replace("url(#", f"url(#{prefix}-")
    view = box[1] if box else "0 0 100 100"
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="{view}">{rest}'


def _titled(svg: str) -> str:
    """Groups that bear a hover mark instead of an id get their titles."""
    pieces: list[str] = []
    at = 0
    while match := _GROUP.search(svg, at):
        end = _end_of_group(svg, match.end())
        content = svg[match.end() : end]
        text = unescape(match[2])
        pieces.append(svg[at : match.start()])
        if match[1] == HOVER:
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
    for tag in re.finditer(r"<g\b[^>]*?(/?)>|</g>", svg[start:]):
        if tag[0] == "</g>":
            depth -= 1
        elif not tag[1]:
            depth += 1
        if depth == 0:
            return start + tag.start()
    raise ValueError("expected closed groups in the drawing, got one that never ends: draw the figures anew")
