"""The page in a real browser without a network: it loads, says nothing on the console, shows every figure, and sorts."""

import pytest
import saved_results
from browser import DESKTOP, PHONE, needs_a_browser, open_address, requested, started

from tl_crossenc.report.page import SHOWN, write_report

pytestmark = [needs_a_browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = saved_results.save_run(tmp_path_factory.mktemp("results"), n_layers=6, n_heads=12)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tl_crossenc.report.drawing.to_pdf", lambda figure: b"")  # not on the page
        return write_report(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def open_page(browser, page, width):
    open_address(browser, page.as_uri(), width)


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_loads_without_a_network_and_the_console_stays_silent(browser, page, width):
    browser.get("data:text/html,<title>empty</title>")
    browser.get_log("browser"), browser.get_log("performance")
    open_page(browser, page, width)
    assert browser.title.startswith("Matching mechanisms of")
    assert browser.get_log("browser") == []
    assert requested(browser) == [page.as_uri()]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_every_figure_has_a_size_and_nothing_sticks_out(browser, page, width):
    open_page(browser, page, width)
    sizes = browser.execute_script(
        "return Object.fromEntries(Array.from(document.querySelectorAll('figure')).map(f => [f.id, "
        "Array.from(f.querySelectorAll('svg, table')).map(e => e.getBoundingClientRect())"
        ".filter(b => b.width > 0).map(b => [b.left, b.right, b.height])]))"
    )
    assert set(sizes) == set(SHOWN)
    for key, shown in sizes.items():
        assert len(shown) == 1, key  # one of the two widths
        left, right, height = shown[0]
        assert height > 100
        assert right - left > 0.8 * min(width, 800)
        assert left >= 0
        if key != "table1":  # which scrolls in its own frame
            assert right <= width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return document.body.scrollWidth") <= width


def test_text_in_figures_is_large_enough_on_a_phone(browser, page):
    open_page(browser, page, PHONE)
    heights = browser.execute_script(
        "return Array.from(document.querySelectorAll('figure svg text')).map(t => t.getBoundingClientRect())"
        ".filter(b => b.width > 0).map(b => Math.max(Math.min(b.width, b.height)))"
    )
    assert len(heights) > 100
    assert sorted(heights)[len(heights) // 2] > 8  # pixels, of the smaller side of the middle label


def test_text_in_figures_stays_inside_of_them(browser, page):
    for width in (PHONE, DESKTOP):
        open_page(browser, page, width)
        outside = browser.execute_script(
            "return Array.from(document.querySelectorAll('figure svg')).flatMap(s => { const a = s.getBoundingClientRect();"
            "return a.width === 0 ? [] : Array.from(s.querySelectorAll('text')).filter(t => {"
            "const b = t.getBoundingClientRect(); return b.left < a.left - 2 || b.right > a.right + 2 || b.top < a.top - 2 ||"
            " b.bottom > a.bottom + 2; }).map(t => t.textContent); })"
        )
        assert outside == []


def test_a_click_on_a_column_s_name_sorts_by_it_and_another_turns_it(browser, page):
    open_page(browser, page, DESKTOP)
    names = browser.execute_script(
        "return Array.from(document.querySelectorAll('#head-table th button')).map(b => b.textContent)"
    )
    column = names.index("alignment")

    def values():
        return [float(text) for text in browser.execute_script(
            f"return Array.from(document.querySelectorAll('#head-table tbody tr')).map(r => r.cells[{column}].dataset.v)"
        )]  # fmt: skip

    def click(index):
        browser.execute_script(f"document.querySelectorAll('#head-table th button')[{index}].click()")

    before = values()
    assert len(before) == 72
    click(column)
    assert values() == sorted(before, reverse=True)
    click(column)
    assert values() == sorted(before)
    states = browser.execute_script(
        "return Array.from(document.querySelectorAll('#head-table th[aria-sort]')).map(h => [h.textContent, h.ariaSort])"
    )
    assert states == [["alignment", "ascending"]]
    click(0)
    first = browser.execute_script("return document.querySelector('#head-table tbody th').textContent")
    click(0)
    assert {first, browser.execute_script("return document.querySelector('#head-table tbody th').textContent")} == {
        "0.0",
        "5.11",
    }


def test_without_scripts_the_table_is_still_there(browser, page):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        open_page(browser, page, DESKTOP)
        assert "4.7" in browser.page_source
        assert len(browser.find_elements("css selector", "#head-table tbody tr")) == 72
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_in_print_the_wide_drawings_are_shown_and_tables_are_whole(browser, page):
    open_page(browser, page, 700)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = browser.execute_script(
            "return Array.from(document.querySelectorAll('.drawing')).filter(d => d.getBoundingClientRect().width > 0)"
            ".map(d => d.className)"
        )
        assert set(shown) == {"drawing wide"}
        frame = browser.execute_script(
            "const t = document.querySelector('.tall'); return [t.clientHeight, t.scrollHeight]"
        )
        assert frame[0] >= frame[1] - 1
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
