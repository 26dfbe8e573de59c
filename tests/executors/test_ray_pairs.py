"""A run reranked, and two models compared, by Ray's actors: the same files and words as of one process."""

import pytest
from ray_cluster import cluster
from small_worlds import collection_folder, model_folder, snapshot

from tl_crossenc.cli import main
from tl_crossenc.experiments import scoring

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ON_RAY = ["--engine", "ray", "--cpus-per-actor", "1", "--patience", "240"]
COMMANDS = {
    "rerank": ["rerank", "a", "--run", "a.run", "--depth", "5", "--ablate", "DOC->QUERY"],
    "compare": ["compare", "a", "b", "--conditions", "c.txt", "--sample", "7"],
}


@pytest.fixture(scope="module", autouse=True)
def _started():
    with cluster(cpus=1):  # one actor: it takes the longest to import what it needs
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    place = tmp_path_factory.mktemp("world")
    for name, seed in (("a", 2), ("b", 3)):
        model_folder(place / name, seed=seed)
    collection_folder(place / "fleas", n_queries=3, per_grade=(2, 1, 1, 1))
    docs = [f"d{q}-{grade}-0" for q in range(3) for grade in range(4)]
    (place / "a.run").write_text("".join(f"q{q} Q0 {doc} 0 {-i} t\n" for q in range(3) for i, doc in enumerate(docs)))
    (place / "c.txt").write_text("match: zero(DOC->QUERY)\nnone\n")
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_the_files_and_what_is_said_are_those_of_one_process(command, world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(world)
    monkeypatch.setattr(scoring, "FEWEST", 5)
    given = [*COMMANDS[command], "--collection", "fleas", "--device", "cpu", "--out"]
    assert main([*given, str(tmp_path / "here")]) == 0
    here = capsys.readouterr().out
    assert main([*given, str(tmp_path / "there"), *ON_RAY]) == 0
    assert capsys.readouterr().out.replace("/there", "/here") == here
    assert len([name for name in snapshot(tmp_path / "there") if name.endswith(".parquet")]) >= 6
    assert snapshot(tmp_path / "there") == snapshot(tmp_path / "here")
