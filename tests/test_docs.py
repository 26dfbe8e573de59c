"""The how-tos do what they say: files as shown, commands that end well, code that prints what stands under it."""

import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import BertConfig, BertForSequenceClassification

from tl_crossenc.checkpoints import planted
from tl_crossenc.cli import main

HOWTOS = sorted((Path(__file__).parents[1] / "docs" / "howto").glob("*.md"))
FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: a file with its name, a command, code, or what the code above prints."""

    language: str
    title: str | None
    text: str


def blocks(page):
    return [Block(match[1], match[2], match[3]) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the how-tos take as given: a model's folder and the collection that one of them shows."""
    theirs = BertForSequenceClassification(BertConfig(**planted.open_planted().config))
    theirs.load_state_dict(planted.planted_tensors())
    theirs.save_pretrained(tmp_path / "my-reranker")
    for file in planted.FOLDER.iterdir():
        shutil.copy(file, tmp_path / "my-reranker")
    for block in (block for page in HOWTOS for block in blocks(page) if block.title):
        (tmp_path / block.title).parent.mkdir(exist_ok=True)
        (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_these_are_all_and_every_block_is_one_that_is_run():
    assert [page.stem for page in HOWTOS] == [
        "add-a-family",
        "captum",
        "collection",
        "doctor",
        "many-machines",
        "model",
        "other-tools",
        "paper",
        "patching",
        "rerank",
    ]
    found = [block for page in HOWTOS for block in blocks(page)]
    assert {block.language for block in found} == {"bash", "python", "text"}
    assert sum(page.read_text(encoding="utf-8").count("\n```") for page in HOWTOS) == 2 * len(found)


SLOW = ("captum",)
PAGES = [pytest.param(page, marks=[pytest.mark.slow] if page.stem in SLOW else [], id=page.stem) for page in HOWTOS]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("unchecked")
def test_code_prints_what_stands_under_it(page, folder, capsys):
    names, printed = {}, ""
    for block in blocks(page):
        if block.language == "python":
            capsys.readouterr()
            exec(compile(block.text, page.name, "exec"), names)
            printed = capsys.readouterr().out
        elif block.language == "text" and not block.title:
            assert printed == block.text
            printed = ""
        assert block.language != "python" or "print(" not in block.text or printed


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
@pytest.mark.usefixtures("unchecked")
def test_commands_end_well(page, folder, capsys):
    commands = [line for block in blocks(page) if block.language == "bash" for line in block.text.splitlines()]
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "tl-crossenc"
        if "reproduce" in arguments and "--only-table1" not in arguments:
            arguments.append("--only-table1")  # the figures take a minute, and are tested elsewhere
        assert main(arguments) == 0
        assert capsys.readouterr().out.strip()
