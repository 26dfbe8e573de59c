"""`tl-crossenc patch` on the planted model, where it is known which heads carry the difference."""

import json

import numpy as np
import pandas as pd
import pytest

from tl_crossenc.checkpoints.planted import MATCHING_HEAD
from tl_crossenc.cli import main
from tl_crossenc.experiments.patch_pairs import PatchSettings

MOVES = (3, 1)  # what moves the match to CLS
PAIRS = [
    {"id": "g", "query": "tune a guitar", "clean": "guitar by the window", "corrupted": "piano by the window"},
    {"id": "w", "query": "water in winter", "clean": "the old water house", "corrupted": "the old river house"},
    {"query": "train to the airport", "clean": "the train", "corrupted": "the city"},
    {"id": "odd", "query": "water", "clean": "water the garden", "corrupted": "the garden"},
    {
        "id": "q",
        "query": "tune a guitar",
        "corrupted_query": "tune a piano",
        "clean": "guitar house",
        "corrupted": "guitar house",
    },
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return path


def call(file, out, *more):
    return main(["patch", "planted", "--pairs", str(file), "--out", str(out), "--device", "cpu", *more])


def test_the_planted_heads_carry_the_difference_and_no_others(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(file, out, "--measure", "restored") == 0
    said = capsys.readouterr().out
    assert "5 pairs, 4 aligned: mean score clean" in said
    assert (
        "left out: odd (line 4): expected clean and corrupted pairs aligned token by token, but the pair has 7 and 6"
        in said
    )
    summary = pd.read_csv(out / "tables" / "patching_z_summary.csv").set_index(["layer", "head"])
    planted = [tuple(MATCHING_HEAD), MOVES]
    assert summary.loc[planted, "mean"].to_numpy() == pytest.approx(1, abs=1e-3)
    assert summary.drop(planted)["mean"].abs().max() < 1e-6
    assert summary["n_pairs"].eq(4).all()
    every = pd.read_csv(out / "tables" / "patching_z.csv")
    assert set(every["pair"].astype(str)) == {"g", "w", "3", "q"}
    inputs = pd.read_csv(out / "tables" / "patch_pairs.csv").set_index("pair")
    assert inputs["left_out"].notna().tolist() == [False, False, False, False, True]
    assert inputs.loc["q", "corrupted_query"] == "tune a piano"
    assert (inputs.loc[["g", "w", "3", "q"], "clean_score"] > inputs.loc[["g", "w", "3", "q"], "corrupted_score"]).all()


def test_an_estimate_and_a_path_point_at_them_too(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(file, out, "--method", "attribution") == 0
    estimated = pd.read_csv(out / "tables" / "patching_z_attribution_summary.csv").set_index(["layer", "head"])["mean"]
    assert set(estimated.abs().nlargest(2).index) == {tuple(MATCHING_HEAD), MOVES}
    assert "estimated from one gradient" in capsys.readouterr().out
    assert call(file, out, "--receiver", "3.1.v") == 0  # another choice in the same folder
    paths = pd.read_csv(out / "tables" / "patching_z_to_3.1.v_summary.csv").set_index(["layer", "head"])["mean"]
    assert paths.abs().idxmax() == tuple(MATCHING_HEAD)
    assert np.sort(paths.abs())[-2] < 1e-6


def test_the_folder_is_of_those_pairs_and_that_model(file, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(file, out) == 0
    file.write_text(json.dumps(PAIRS[0]) + "\n")
    assert call(file, out) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--site", "zz"], "expected a site among"),
        (["--method", "exakt"], "expected a method among exact, attribution"),
        (["--method", "attribution", "--direction", "DOC->QUERY"], "expected method exact with a direction"),
        (["--receiver", "3.1.v", "--site", "q"], "expected a receiver alone"),
        (["--receiver", "9.1.v"], "expected"),
    ],
)
def test_bad_input_is_one_sentence(file, tmp_path, capsys, more, said):
    assert call(file, tmp_path / "out", *more) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tl-crossenc: ")]
    assert said in line
    assert call(tmp_path / "nowhere", tmp_path / "out") == 2
    with pytest.raises(ValueError, match="expected a mode among denoise, noise, got 'x'"):
        PatchSettings(mode="x")
