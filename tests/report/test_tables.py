"""The four forms of Table 1 on a hand-made comparison whose marks are known."""

import io
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tl_crossenc.console.shown import shown
from tl_crossenc.interventions.presets import COMPARED
from tl_crossenc.report import tables
from tl_crossenc.report.tables import SIDES, cell_text, latex_table, markdown, markdown_table, table1_csv
from tl_crossenc.report.terminal import masks_for_terminal, table1_for_terminal
from tl_crossenc.statistics.published import VAST_2025_TABLE_1
from tl_crossenc.statistics.significance import COLUMNS

UNABLATED = 0.8125
# direction: (mean, significant by the paper's test, by ours); every other direction leaves the unablated value as it is.
SPECIAL = {
    "CLS->ALL": (0.48, True, True),
    "DOC->DOC": (0.6666, True, False),
    "DOC->QUERY": (0.79, False, True),
    "QUERY->DOC": (0.805, False, False),
    "CLS->CLS": (0.9, False, False),
    "SEP1->SEP2": (0.81249, False, False),  # a decrease, but not one that shows
    "ALL->ALL": (0.4795, True, True),
}


@pytest.fixture
def comparison():
    rows = {}
    for row in SIDES:
        for column in SIDES:
            mean, paper, holm = SPECIAL.get(f"{row}->{column}", (UNABLATED, False, False))
            rows[f"{row}->{column}"] = dict.fromkeys(COLUMNS, np.float64(0.25)) | {
                "n_queries": 7,
                "mean": mean,
                "difference": mean - UNABLATED,
                "decrease_paper": paper,
                "decrease_holm": holm,
            }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
    return frame.astype({"decrease_paper": bool, "decrease_holm": bool, "n_queries": int})


def test_markdown(comparison):
    assert markdown_table(comparison, UNABLATED) == (
        "| attender \\ attended | CLS | QUERY | SEP1 | DOC | SEP2 | ALL |\n"
        "|---|---|---|---|---|---|---|\n"
        "| CLS | 0.900 | 0.812 | 0.812 | 0.812 | 0.812 | **0.480**\\*† |\n"
        "| QUERY | 0.812 | 0.812 | 0.812 | **0.805** | 0.812 | 0.812 |\n"
        "| SEP1 | 0.812 | 0.812 | 0.812 | 0.812 | 0.812 | 0.812 |\n"
        "| DOC | 0.812 | **0.790**† | 0.812 | **0.667**\\* | 0.812 | 0.812 |\n"
        "| SEP2 | 0.812 | 0.812 | 0.812 | 0.812 | 0.812 | 0.812 |\n"
        "| ALL | 0.812 | 0.812 | 0.812 | 0.812 | 0.812 | **0.479**\\*† |\n"
    ).replace("**0.479**", f"**{0.4795:.3f}**")


def test_latex(comparison):
    text = latex_table(comparison, UNABLATED, r"50 % of my_model & {x} #1 $2 \a ~ ^ CLS->ALL, p ≤ .05 †: a<b|c>")
    lines = text.splitlines()
    assert lines[0] == r"\begin{table}"
    assert lines[2] == (
        r"  \caption{50 \% of my\_model \& \{x\} \#1 \$2 \textbackslash{}a \textasciitilde{} \textasciicircum{} "
        r"CLS$\to$ALL, p $\leq$ .05 $\dagger$: a\textless{}b\textbar{}c\textgreater{}}"
    )
    assert lines[5] == r"    attender & CLS & QUERY & SEP1 & DOC & SEP2 & ALL \\"
    assert lines[7] == r"    CLS & 0.900 & 0.812 & 0.812 & 0.812 & 0.812 & \textbf{0.480}$^{*\dagger}$ \\"
    assert (
        lines[10] == r"    DOC & 0.812 & \textbf{0.790}$^{\dagger}$ & 0.812 & \textbf{0.667}$^{*}$ & 0.812 & 0.812 \\"
    )
    assert len(lines) == 16


def test_latex_is_balanced_and_pure(comparison):
    text = latex_table(comparison, UNABLATED, "results/{a}_b\\c of 95 % & more")
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    environments = re.findall(r"\\(begin|end)\{(\w+)\}", text)
    assert environments == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.count("&") for line in rows] == [6] * 7
    assert r"\begin{tabular}{lcccccc}" in text
    assert bare.isascii()


def test_csv(comparison):
    frame = table1_csv(comparison)
    assert "published" not in frame
    assert list(frame.columns[:2]) == ["attender", "attended"]
    again = pd.read_csv(io.StringIO(frame.to_csv()), index_col="direction")
    assert tuple(again.loc["DOC->QUERY", ["attender", "attended", "mean"]]) == ("DOC", "QUERY", 0.79)
    assert tuple(again.loc["ALL->CLS", ["attender", "attended"]]) == ("ALL", "CLS")
    assert bool(again.loc["DOC->QUERY", "decrease_holm"]) is True
    assert bool(again.loc["DOC->QUERY", "decrease_paper"]) is False
    assert len(again) == 36


def test_the_published_column_is_the_papers_table(comparison):
    published = table1_csv(comparison, VAST_2025_TABLE_1)["published"]
    # Vast et al. 2025, Table 1, read by eye.
    read = {
        "CLS->CLS": 0.82, "CLS->QUERY": 0.79, "CLS->DOC": 0.81, "CLS->ALL": 0.48, "QUERY->CLS": 0.82, "QUERY->QUERY": 0.78,
        "QUERY->DOC": 0.80, "QUERY->ALL": 0.66, "SEP1->ALL": 0.81, "DOC->CLS": 0.81, "DOC->QUERY": 0.79, "DOC->SEP1": 0.81,
        "DOC->DOC": 0.67, "DOC->SEP2": 0.82, "DOC->ALL": 0.62, "SEP2->DOC": 0.81,
    }  # fmt: skip
    assert {direction: published[direction] for direction in read} == read
    assert published.notna().sum() == 30
    assert published[[f"ALL->{side}" for side in SIDES]].isna().all()  # the paper has no such row


def render(table, width=120):
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    return console.file.getvalue()


def test_terminal(comparison):
    table = table1_for_terminal(comparison, UNABLATED, "Table of [b]x[/b] :smile:", "in [red]/tmp[/nothing]")
    plain = render(table)
    assert "Table of [b]x[/b] :smile:" in plain
    assert "in [red]/tmp[/nothing]" in plain
    cells = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in plain.splitlines()
        if "│" in line
    }
    assert cells["CLS"] == ["0.900", "0.812", "0.812", "0.812", "0.812", "0.480*†"]
    assert cells["DOC"] == ["0.812", "0.790†", "0.812", "0.667*", "0.812", "0.812"]
    assert list(cells) == list(SIDES)
    bold = {cell.plain[:5] for column in table.columns[1:] for cell in column.cells if cell.style == "bold"}
    assert bold == {"0.480", "0.667", "0.790", "0.805", f"{0.4795:.3f}"}


def test_bold_goes_by_what_is_shown():
    """numpy rounds 0.0025 to .002, text to .003: the same value must never look like a decrease from itself."""
    assert round(np.float64(0.0025), 3) == 0.002
    assert f"{0.0025:.3f}" == "0.003"
    row = pd.Series({"mean": np.float64(0.0025), "decrease_paper": False, "decrease_holm": False})
    assert cell_text(row, 0.0025) == ("0.003", "", False)
    for mean, unablated, bold in ((0.8124, 0.8116, False), (0.8114, 0.8116, True), (0.8116, 0.8114, False)):
        row["mean"] = np.float64(mean)
        assert cell_text(row, unablated)[2] is bold


def test_caption_says_what_was_measured():
    text = tables.caption("my/model", "one, two", 97, (0.7431, 0.70049, 0.78), 0.4912, "mask")
    for part in (
        "my/model on one, two (97 queries)",
        "(mask)",
        "0.743 [0.700, 0.780]",
        "random ranking 0.491",
        "unpaired",
        "Holm",
    ):
        assert part in text


def test_the_comparison_of_masks_names_every_mask_in_80_columns():
    rows = [
        {"preset": preset, "mode": mode, "mean": 0.7551, "difference": -0.0312, "diff_low": -0.1, "diff_high": 0.02}
        | {"p_holm": 1.23e-5, "decrease_holm": mode == "mask", "published": 0.74, "published_unablated": 0.81}
        | {"published_measure": "nDCG@10"}
        for preset in (*COMPARED, "zhan-both:11")
        for mode in ("zero", "mask")
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(masks_for_terminal(pd.DataFrame(rows), 10, "Masks", "caption"))
    lines = [line for line in console.file.getvalue().splitlines() if "1.23e-05" in line]
    assert [tuple(line.split()[:2]) for line in lines] == [(row["preset"], row["mode"]) for row in rows]
    assert all("[-0.100, +0.020]" in line and "0.740 of 0.810" in line for line in lines)


HOSTILE = "<script>x</script> [a](javascript:b) ![c](d) `e` **f** __g__ ~~h~~ | i &copy; \\ https://j www.k \x1b[2J\nl"


def test_markdown_sees_nothing_but_text_in_a_caption():
    """Against a Markdown renderer: what it shows is what was written, and it makes no element but the paragraph."""
    markdown_it = pytest.importorskip("markdown_it")
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False}).render(markdown(HOSTILE))
    assert re.findall(r"<[^>]*>", html) == ["<p>", "</p>"]
    assert unescape(html.strip().removeprefix("<p>").removesuffix("</p>")) == shown(HOSTILE)


def test_markdown_ends_no_cell():
    assert "|" not in markdown(HOSTILE).replace("\\|", "")
    assert "https:" not in markdown(HOSTILE)
    assert "www." not in markdown(HOSTILE)


def test_latex_gets_no_command_of_a_caption(comparison):
    text = latex_table(comparison, UNABLATED, HOSTILE + " \\input{a} %")
    line = next(line for line in text.splitlines() if "caption" in line)
    assert not set("\x1b\n") & set(line)
    assert set(re.findall(r"\\[a-z]+", line)) <= {
        *(r"\caption", r"\textless", r"\textgreater", r"\textbar", r"\textbackslash", r"\textasciitilde"),
    }
