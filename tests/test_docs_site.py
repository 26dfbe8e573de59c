"""The documentation site: it builds without a warning, has a page of everything, fetches nothing, and fits a phone."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import DESKTOP, PHONE, needs_a_browser, open_address, requested, started

import tl_crossenc

pytest.importorskip("mkdocs", reason="needs mkdocs, of the docs extra")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LOOKED_AT = (
    "index.html",
    "howto/patching.html",
    "RESULTS.html",
    "TRANSFORMERLENS_TOOLS.html",
    "api/patching.html",
    "analyses/notebooks/01_a_first_look.html",
    "analyses/notebooks/02_a_patching_experiment.html",
)
FETCHED = {"src", "srcset", "data", "poster"}
"""Attributes that make a browser fetch; so does `href` in a `link`."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Page(HTMLParser):
    """What a page fetches, leads to, and has places for."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.links, self.ids, self.classes = [], [], set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id"))
        self.classes.update(given.get("class", "").split())
        self.fetched += [value for name, value in given.items() if name in FETCHED or (name, tag) == ("href", "link")]
        if tag == "a":
            self.links.append(given.get("href", ""))


def test_nothing_on_a_page_or_in_a_style_is_fetched_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for path in pages:
        page = Page(path)
        assert page.fetched
        assert not [address for address in page.fetched if re.match(r"(?:\w+:)?//", address)], path
        assert "mermaid" not in page.classes  # which the theme's script would fetch
    for path in site.rglob("*.css"):
        without_data = re.sub(r"""url\((["'])data:.*?\1\)""", "", path.read_text(encoding="utf-8"))
        assert not re.search(r"url\([^)]*//|@import", without_data), path


def test_every_page_is_reached_from_the_home_page(site):
    home = Page(site / "index.html")
    docs = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"ARCHITECTURE", "CHANGELOG"}
    wings = {path.parent.name for path in (ROOT / "tl_crossenc").glob("*/__init__.py")} - {"demo"}
    notebooks = {path.stem for path in (ROOT / "analyses" / "notebooks").glob("*.ipynb")}
    wanted = {f"{name}.html" for name in docs} | {f"api/{name}.html" for name in wings}
    wanted |= {f"analyses/notebooks/{name}.html" for name in notebooks}
    wanted |= {f"howto/{path.stem}.html" for path in (ROOT / "docs" / "howto").glob("*.md")}
    assert wanted <= set(home.links)


def test_links_between_files_of_the_repository_lead_to_their_pages(site):
    assert "tl_crossenc/demo/MODEL_CARD.html" in Page(site / "RESULTS.html").links
    page = Page(site / "howto" / "patching.html")
    assert "../analyses/patching.py.html" in page.links
    assert "def main(" in re.sub(r"<[^>]+>", "", (site / "analyses" / "patching.py.html").read_text(encoding="utf-8"))


def test_public_names_have_a_place_with_readable_shapes(site):
    pages = {path.stem: Page(path) for path in (site / "api").glob("*.html")}
    names = set().union(*(page.ids for page in pages.values())) - {None}
    for name in tl_crossenc.__all__:
        assert [place for place in names if place.startswith("tl_crossenc.") and place.endswith(f".{name}")], name
    text = re.sub(r"<[^>]+>", "", (site / "api" / "inputs.html").read_text(encoding="utf-8"))
    assert 'tokens: Int[Tensor, "pair pos"]' in text
    for path in (site / "api").glob("*.html"):
        assert "<blockquote" not in path.read_text(encoding="utf-8")  # what Markdown makes of a bare example


def test_notebooks_are_shown_with_what_came_out(site):
    cells = json.loads((ROOT / "analyses" / "notebooks" / "01_a_first_look.ipynb").read_text(encoding="utf-8"))["cells"]
    text = (site / "analyses" / "notebooks" / "01_a_first_look.html").read_text(encoding="utf-8")
    assert text.count('<div class="output">') == sum(len(cell.get("outputs", [])) for cell in cells)
    assert "tensor([ 0.7261, -0.4887, -1.0547])" in text
    assert "What adds most to the score, directly" in text


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that does not say what it serves."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with started(tmp_path_factory.mktemp("profile"), here) as driver:
        yield driver


@needs_a_browser
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("page", LOOKED_AT)
def test_a_page_asks_for_nothing_from_elsewhere_and_nothing_sticks_out(browser, address, page, width):
    browser.get("data:text/html,<title>empty</title>")
    browser.get_log("browser"), browser.get_log("performance")
    open_address(browser, address + page, width)
    browser.execute_async_script("setTimeout(arguments[0], 400)")
    asked = requested(browser)
    assert address + page in asked
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@needs_a_browser
def test_pages_follow_the_system_s_light_and_dark(browser, address):
    for scheme, shown in (("light", "default"), ("dark", "slate")):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        open_address(browser, address + "RESULTS.html", DESKTOP)
        assert browser.execute_script("return document.body.getAttribute('data-md-color-scheme')") == shown
        picture = "return getComputedStyle(document.querySelector('article img')).backgroundColor"
        assert browser.execute_script(picture) == "rgb(255, 255, 255)"


@needs_a_browser
def test_search_finds_without_a_network(browser, address):
    open_address(browser, address + "index.html", DESKTOP)
    field = browser.find_element("css selector", "[data-md-component=search-query]")
    browser.execute_script("document.querySelector('label[for=__search]').click()")
    browser.implicitly_wait(20)
    field.send_keys("bootstrap interval")
    found = browser.find_elements("css selector", ".md-search-result__item a")
    assert any("api/statistics.html" in item.get_attribute("href") for item in found)
