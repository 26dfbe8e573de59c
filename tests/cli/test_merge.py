"""`tl-crossenc merge` as a user sees it, 80 columns wide, and its exit statuses."""

import pyarrow as pa
import pytest

from tl_crossenc.cli import main
from tl_crossenc.results.job import Job, claim
from tl_crossenc.results.work import open_store
from tl_crossenc.store.keys import CellKey


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """Two folders: cells 0 and 1, and 1, 2 and a damaged 3, with another number of draws."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    for name, numbers, draws in (("a", (0, 1), 19), ("b", (1, 2, 3), 99)):
        store = open_store(tmp_path / name)
        for number in numbers:
            store.write(CellKey.of("scores", method=2, number=number), pa.table({"x": [number]}))
        claim(tmp_path / name, Job("reproduce", "m", {"mode": "zero"}, {"n_draws": draws}, (("fleas", "d1"),)))
    table = tmp_path / "b/machinery/cells/scores" / f"{CellKey.of('scores', method=2, number=3).digest}.parquet"
    table.write_bytes(b"PAR1")


@pytest.mark.usefixtures("shards")
def test_what_was_joined(capsys):
    assert main(["merge", "a", "b", "--out", "all"]) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "from   cells of   whole   new   there before   damaged",
        "──────────────────────────────────────────────────────",
        "a      scores         2     2              0         0",
        "b      scores         2     1              1         1",
        "Note: n draws in a is 19, in b 99: the first is kept.",
        "Collections: fleas.",
        "New in all/: 3 cells, 0 pools.",
        "Left out as damaged: 1 cell, to be computed anew.",
        "Next: tl-crossenc reproduce with the shards' own options and --out all: it finds all of this, computes what is missing "
        "and draws.",
    ]
    assert main(["status", "all"]) == 1
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "all: reproduce of m: left",
        "merge ended: what was joined is not drawn yet",
        "Cells stored: 3 of scores.",
        "Left: run tl-crossenc reproduce with the same options and --out all again: it computes what is missing, and nothing that "
        "is stored.",
    ]


@pytest.mark.usefixtures("shards")
def test_a_refusal_is_one_sentence(tmp_path, capsys):
    open_store(tmp_path / "c")
    claim(tmp_path / "c", Job("reproduce", "m", {"mode": "mask"}, {}, (("fleas", "d1"),)))
    assert main(["merge", "a", "c", "--out", "all"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "tl-crossenc: expected folders of one job, but how attention is removed (--mode) in a is zero, in c mask: merge those "
        "alone that belong together\n",
    )
    assert not (tmp_path / "all").exists()


@pytest.mark.usefixtures("shards")
def test_the_target_has_to_be_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["merge", "a", "b"])
    assert stop.value.code == 2
    assert "--out" in capsys.readouterr().err
