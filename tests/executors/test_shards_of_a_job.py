"""The main job by shards: the same bytes as in one process, into one folder or into several, in any order."""

import json
import shutil
import subprocess
import sys

import pytest
from small_worlds import blank, collection_folder, forbid_model_work, model_folder, snapshot

from tl_crossenc.cli import main
from tl_crossenc.executors.sharded import Shard
from tl_crossenc.experiments import scoring
from tl_crossenc.experiments.paper import PaperOptions
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import PoolSpec
from tl_crossenc.reproduce import Settings, compute_shard, reproduce

N = 3
FEWEST = scoring.FEWEST
NEED_HEADS = "head_ablation"


@pytest.fixture(scope="module", autouse=True)
def _small_cells():
    """Pools of several cells."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "FEWEST", 5)
        for module in ("attention", "match_cells", "qk_alignment"):
            patch.setattr(f"tl_crossenc.experiments.{module}.SHARD", 7)
        blank(patch)
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Of the planted model, whose heads Figure 1b finds, on one small collection."""
    folder = collection_folder(tmp_path_factory.mktemp("c") / "tiny", n_queries=3, per_grade=(2, 1, 1, 2))

    def at(out, **changes):
        options = PaperOptions(n_draws=2, counts=(1, 2), draw_queries=2, methods=("head_rankers",))
        return Settings(
            "planted", (str(folder),), out, device="cpu", pool=PoolSpec(10, 2, 0), options=options, **changes
        )

    return at


@pytest.fixture(scope="module")
def plain(settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    return reproduce(settings(out)), snapshot(out)


def nothing_shown(out):
    """Only cells, pools, what says whose they are, and hidden files that say who was at work."""
    return {name.split("/")[1] for name in snapshot(out) if not name.startswith(".")} <= {
        "cells", "pools", "job.json", "tl_crossenc.json",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_shards_in_one_folder_and_a_plain_run_give_the_bytes_of_one_process(settings, plain, tmp_path):
    out = tmp_path / "out"
    shards = [Shard(i, N) for i in range(1, N + 1)]
    done = [compute_shard(settings(out), shard) for shard in shards]
    assert nothing_shown(out)
    assert [one.failed for one in done] == [{}] * N
    assert all({"table1", "attention", "figure1b", "figure2", NEED_HEADS} <= set(one.waiting) for one in done[:-1])
    assert "table1" not in done[-1].waiting  # the others are done
    assert min(one.computed for one in done) > 0
    cells = {name for name in plain[1] if "/cells/" in name and name.endswith(".json")}
    assert sum(one.computed for one in done) == len(
        [n for n in snapshot(out) if "/cells/" in n and n.endswith(".json")]
    )
    assert sum(one.computed for one in done) < len(cells)  # what needs the heads is left
    reproduce(settings(out))
    assert snapshot(out) == plain[1]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_shards_apart_in_any_order_with_a_second_round_leave_nothing_to_compute(settings, plain, tmp_path, monkeypatch):
    folders = {i: tmp_path / f"shard{i}" for i in (3, 1, 2)}

    def spread():
        for target in folders.values():
            for source in folders.values():
                if source != target:
                    shutil.copytree(source / "machinery" / "cells", target / "machinery" / "cells", dirs_exist_ok=True)

    def round_of(order):
        return {i: compute_shard(settings(folders[i]), Shard(i, N)) for i in order}

    first = round_of((3, 1, 2))
    assert all({"table1", "figure2", NEED_HEADS} <= set(one.waiting) for one in first.values())
    assert all(one.others > 0 for one in first.values())
    mine = [{n for n in snapshot(folder) if "/cells/" in n} for folder in folders.values()]
    assert sum(map(len, mine)) == len(set.union(*mine))  # no cell twice
    spread()
    second = round_of((2, 3, 1))
    assert all(not {"table1", "figure1a", "attention"} & set(one.waiting) for one in second.values())
    spread()
    third = round_of((1, 2, 3))
    assert all((one.computed, one.others, one.waiting) == (0, 0, ()) for one in third.values())
    out = shutil.copytree(folders[1], tmp_path / "out")
    forbid_model_work(monkeypatch)
    monkeypatch.setattr(HookedCrossEncoder, "run_with_hooks", None)
    found = reproduce(settings(out))
    assert found.table1.layers_run == 0
    assert snapshot(out) == plain[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    base = tmp_path_factory.mktemp("tiny")
    model = model_folder(base / "model", seed=2)
    return model, collection_folder(base / "fleas", n_queries=3, per_grade=(2, 2, 2, 1))


def arguments(tiny, out, *more, command="reproduce"):
    model, collection = tiny
    only = ["--only-table1", "--easy-negatives", 0] if command == "reproduce" else []
    given = [command, *only, "--model", model, "--collection", collection, "--device", "cpu", "--out", out, *more]
    return [str(one) for one in given]


@pytest.mark.slow
def test_processes_at_once_in_one_folder(tiny, tmp_path, monkeypatch):
    """A pool that is one cell a condition, so that the conditions are shared out."""
    monkeypatch.setattr(scoring, "FEWEST", FEWEST)  # as the processes have it
    out = tmp_path / "out"
    start = [sys.executable, "-m", "tl_crossenc.cli"]
    running = [
        subprocess.Popen(
            [*start, *arguments(tiny, out, "--shard", f"{i}/{N}")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(1, N + 1)
    ]
    ended = [(process.communicate(timeout=300), process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * N, ended
    assert nothing_shown(out)
    assert main(arguments(tiny, out)) == 0
    assert main(arguments(tiny, tmp_path / "plain")) == 0
    assert snapshot(out) == snapshot(tmp_path / "plain")


@pytest.mark.parametrize("command", ["reproduce", "compare-masks"])
@pytest.mark.usefixtures("unchecked")
def test_the_command_says_what_it_did_and_what_is_next(tiny, tmp_path, capsys, command):
    out = tmp_path / "out"
    assert main(arguments(tiny, out, "--shard", "1/2", command=command)) == 0
    said = capsys.readouterr().out
    assert "Shard 1/2: " in said
    assert "cells computed now" in said
    assert "other shards' and not in" in said
    assert "tl-crossenc merge" in said
    assert nothing_shown(out)
    assert main(arguments(tiny, out, "--shard", "2/2", command=command)) == 0
    assert "Every cell is there: run without --shard to draw." in capsys.readouterr().out
    assert nothing_shown(out)
    assert main(arguments(tiny, out, command=command)) == 0
    assert main(arguments(tiny, tmp_path / "plain", command=command)) == 0
    assert snapshot(out) == snapshot(tmp_path / "plain")


@pytest.mark.usefixtures("unchecked")
def test_a_shard_of_another_job_is_refused_even_where_nothing_is_computed_yet(tiny, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(
            "tl_crossenc.experiments.main_job.run_table1", lambda *args, **given: (_ for _ in ()).throw(OSError("cut"))
        )
        assert main(arguments(tiny, out, "--shard", "1/2")) == 2
    assert json.loads((out / "machinery" / "job.json").read_text())["fixed"]["mode"] == "zero"
    before = snapshot(out)
    capsys.readouterr()
    assert main(arguments(tiny, out, "--shard", "2/2", "--mode", "mask")) == 2
    assert "holds another job's: how attention is removed (--mode) there is zero, here mask" in capsys.readouterr().err
    assert snapshot(out) == before


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/x"])
def test_a_wrong_shard_is_refused_at_once(tiny, tmp_path, capsys, text):
    with pytest.raises(SystemExit) as stop:
        main(arguments(tiny, tmp_path / "out", "--shard", text))
    assert stop.value.code == 2
    assert "expected a shard" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_reproduce_takes_no_shard(settings, tmp_path):
    with pytest.raises(ValueError, match="got shard 1/2: use compute_shard"):
        reproduce(settings(tmp_path / "out"), executor=Shard(1, 2))
    assert not (tmp_path / "out").exists()
