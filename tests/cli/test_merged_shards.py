"""`rerank` and `compare` by shards into folders of their own: merged, they are the bytes of one process, computed once."""

import pytest
from small_worlds import collection_folder, forbid_model_work, model_folder, snapshot

from tl_crossenc.experiments import scoring
from tl_crossenc.pools.collections import load_collection


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A collection, a run of it and a model of another shape, vocabulary and arithmetic than the planted one."""
    place = tmp_path_factory.mktemp("world")
    model_folder(place / "m")
    collection = load_collection(collection_folder(place / "fleas", n_queries=3, per_grade=(2, 1, 1, 1), n_more=5))
    ids = {query_id: [*own, "x0", "x1"] for query_id, own in collection.qrels.items()}
    lines = [f"{query_id} Q0 {doc_id} 0 {-i} t\n" for query_id, own in ids.items() for i, doc_id in enumerate(own)]
    (place / "a.run").write_text("".join(lines))
    (place / "c.txt").write_text("match: zero(DOC->QUERY)\nnone\n")
    return place


COMMANDS = {
    "rerank": ("rerank", "planted", "--run", "a.run", "--ablate", "DOC->QUERY"),
    "compare": ("compare", "planted", "m", "--conditions", "c.txt"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("unchecked", "blank_drawings")
def test_merged_they_are_the_bytes_of_one_process(run, world, tmp_path, monkeypatch, command):
    monkeypatch.chdir(world)
    monkeypatch.setattr(scoring, "FEWEST", 7)  # several cells, so that either shard has some of both models
    given = (*COMMANDS[command], "--collection", "fleas", "--device", "cpu", "--out")
    apart = [tmp_path / "one", tmp_path / "two"]
    for folder, shard in zip(apart, ("1/2", "2/2"), strict=True):
        status, said, _ = run(*given, folder, "--shard", shard)
        assert (status, f"Shard {shard}: " in said) == (0, True)
        assert not (folder / "tables").exists()
    cells = [{name for name in snapshot(folder) if "/cells/" in name} for folder in apart]
    assert all(cells)
    assert not cells[0] & cells[1]
    out = tmp_path / "all"
    status, said, _ = run("merge", *apart, "--out", out)
    assert status == 0
    assert said.splitlines()[-1].startswith(
        f"Next: tl-crossenc {command} with the shards' own options and --out {out}: "
    )
    status, said, _ = run("status", out)
    assert (status, f"run tl-crossenc {command} with the same options" in said) == (1, True)
    assert said.startswith(f"{out}: {command} of {'planted' if command == 'rerank' else 'planted and m'}: left")
    assert run(*given, tmp_path / "whole")[0] == 0
    forbid_model_work(monkeypatch)
    assert run(*given, out)[0] == 0
    assert snapshot(out) == snapshot(tmp_path / "whole")
    assert {name for name in snapshot(out) if "/cells/" in name} == cells[0] | cells[1]
