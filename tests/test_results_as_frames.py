"""Every result has a `to_frame`, whose `attrs` say in JSON's words how it was made."""

import dataclasses
import importlib
import json
import pickle
import pkgutil
import re
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from small_worlds import tiny_model

import tl_crossenc
from tl_crossenc import activation_patch, align_passages, attribution_patch, path_patch, run_conditions
from tl_crossenc.inputs.pieces import Pieces
from tl_crossenc.instruments.attention_flow import measure_attention
from tl_crossenc.instruments.bottleneck import Fitting, fit_bottlenecks
from tl_crossenc.instruments.conductance import conductance
from tl_crossenc.instruments.direct_attribution import direct_attribution
from tl_crossenc.instruments.faithfulness import random_sets, removal_curves
from tl_crossenc.instruments.head_rankers import measure_head_scores
from tl_crossenc.instruments.idf_in_embeddings import piece_frequencies
from tl_crossenc.instruments.integrated_gradients import integrated_gradients
from tl_crossenc.instruments.layer_features import layer_features
from tl_crossenc.instruments.layer_statistics import LayerStatistics
from tl_crossenc.instruments.layer_tokens import layer_tokens
from tl_crossenc.instruments.qk import mean_scores, part_moments, spectrum
from tl_crossenc.instruments.qk_offsets import offset_counts
from tl_crossenc.instruments.qk_terms import term_moments
from tl_crossenc.instruments.removal import as_removal, model_scorer
from tl_crossenc.instruments.soft_tf import measure_soft_tf
from tl_crossenc.instruments.token_matches import measure_matches
from tl_crossenc.instruments.token_reads import token_reads
from tl_crossenc.instruments.word_attributions import word_attributions

NO_RESULTS = {
    "texts and weights on their way in": (
        "checkpoints.adapters.Adapter checkpoints.checkpoint.Checkpoint inputs.pairs.PairBatch inputs.pairs.EncodedPairs "
        "inputs.parts.PartMasks model.porting.WeightSlot model.parity_tokens.Tokenized patching.metrics.PoolContext "
        "instruments.removal.Removed interventions.conditions.LayerEdits pools.first_stage.RunPairs"
    ),
    "what a run holds": (
        "model.activations.Activation model.attention.Reading model.attention_input.AttentionInput model.held_run.LayerWorth "
        "model.held_run.HeadWorth model.held_run.EmbeddingShares patching.replacement_values.ReplacementMeans "
        "patching.replacement_values.ReplacementSamples"
    ),
    "parts of a result that has a frame": (
        "instruments.attention_flow.Moments instruments.layer_statistics.Spread instruments.token_matches.Tally"
    ),
    "what the doctor reads and holds against a model, and says in words": (
        "doctor.causes.Cause doctor.causes.ReadPairs doctor.foreign_scores.ForeignScores doctor.probes.Probes "
        "doctor.readings.Way doctor.verdicts.Comparison doctor.held_states.HeldStates doctor.hidden_dump.HiddenDump "
        "doctor.unmasked.Unmasked doctor.reading_runs.ReadRows"
    ),
    "numbers that an experiment makes frames of": (
        "experiments.bottleneck_frames.QueryBits experiments.conductance_cells.QueryConductance experiments.qk_cells.QKTask "
        "experiments.existing_cells.ExistingCells experiments.match_distances.Labels experiments.match_masses.QueryMasses "
        "experiments.matching.QueryMeans experiments.probe_frames.Rankings experiments.semantic_fits.Fields "
        "experiments.semantic_fits.Predicted experiments.soft_tf_cells.SoftTFSums statistics.correlated.Correlated "
        "statistics.probes.OutOfFold"
    ),
}
HOLDS = re.compile("ndarray|DataFrame|Series|Tensor")
MODEL = {"model", "revision", "condition", "hooks", "dtype", "device", "tl-crossenc", "torch", "transformers"}


def classes():
    """(name, class) of every public dataclass and named tuple of the package that holds arrays or tables."""
    for module in pkgutil.walk_packages(tl_crossenc.__path__, "tl_crossenc."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if not isinstance(kind, type) or kind.__module__ != module.name or name.startswith("_"):
                continue
            made = dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
            if made and any(HOLDS.search(str(field)) for field in getattr(kind, "__annotations__", {}).values()):
                yield f"{module.name.removeprefix('tl_crossenc.')}.{name}", kind


def test_what_holds_arrays_or_tables_has_a_frame_or_is_known_to_be_no_result():
    found = dict(classes())
    listed = [name for names in NO_RESULTS.values() for name in names.split()]
    assert len(found) > 60
    assert sorted(name for name, kind in found.items() if not hasattr(kind, "to_frame")) == sorted(listed)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


PASSAGES = ["fleas lay eggs in bread", "the egg", "how do sponges rise and how do fleas lay the eggs", "quilt"]


def measured(model, others=("bread", "the flea", "how do eggs rise")):
    """Name -> a result of every instrument and of patching."""
    pairs = model.encode_pairs("how do fleas rise", PASSAGES)
    statistics = LayerStatistics.fit(model, model.encode_pairs("lay the bread", others))
    moments, frequencies = part_moments(model, pairs), piece_frequencies(model, PASSAGES * 2)
    kept = []
    measure_matches(model, pairs, Pieces(model.tokenizer), lambda indices, found: kept.append(found))
    twins = align_passages(model, "how do fleas rise", "the bread lay", "the egg lay")
    sides = twins.clean, twins.corrupted
    removal, values = as_removal(model, pairs), np.arange(len(pairs.tokens), dtype=np.float64)
    return {
        "scores": run_conditions(model, pairs, ["none", "DOC->QUERY"]),
        "flow": measure_attention(model, pairs, [0, 3, 3, -1]),
        "statistics": statistics,
        "bottlenecks": fit_bottlenecks(model, pairs, statistics, Fitting(steps=1, copies=2)),
        "conductance": conductance(model, pairs, nodes=32),
        "direct": direct_attribution(model, pairs),
        "curves": removal_curves(model_scorer(model), pairs, values, removal, fractions=(0.0, 0.5, 1.0), bins=(0.25,)),
        "sets": random_sets(model_scorer(model), pairs, removal, draws=2),
        "heads": measure_head_scores(model, pairs),
        "frequencies": frequencies,
        "gradients": integrated_gradients(model, pairs, layers=[1], nodes=32),
        "features": layer_features(model, pairs),
        "tokens": layer_tokens(model, pairs, "DOC"),
        "spectrum": spectrum(model.W_Q, model.W_K),
        "moments": moments,
        "means": mean_scores(model, moments.mean),
        "offsets": offset_counts(pairs, model.cfg.n_ctx),
        "terms": term_moments(model, pairs, moments.mean),
        "soft_tf": measure_soft_tf(model, pairs),
        "matches": kept[0],
        "reads": token_reads(model, pairs),
        "words": word_attributions(model, "how do fleas rise", "the egg"),
        "twins": twins,
        "patched": activation_patch(model, *sides, "z"),
        "estimated": attribution_patch(model, *sides, "z")["z"],
        "path": path_patch(model, *sides, "score"),
        "matrix": model.attention_matrix("how do fleas rise", "the egg", layer=1, head=0),
    }


@pytest.fixture(scope="module")
def results(model):
    return measured(model)


OF_NO_MODEL = {"curves", "sets", "spectrum", "offsets", "twins"}
SETTINGS = {
    "scores": {"conditions": ["none", "zero(DOC->QUERY)"], "function": "model.execution.run_conditions"},
    "bottlenecks": {"layers": None, "score_sd": ...},
    "conductance": {"baseline": "both:pad", "nodes": 32},
    "direct": {"tanh": "secant"},
    "curves": {"bins": [0.25], "seed": 0},
    "gradients": {"stage": "pre", "nodes": 32, "layers": [1]},
    "tokens": {"name": "DOC", "most": 20, "seed": 0},
    "patched": {"site": "z", "by": "head", "mode": "denoise"},
    "estimated": {"site": "z", "mode": "denoise"},
    "matrix": {"layer": 1, "head": 0, "direction": "ALL->ALL"},
}


def test_every_instruments_frame_says_how_it_was_made(model, results, tmp_path):
    for name, result in results.items():
        frame = result.to_frame()
        assert len(frame), name
        attrs = frame.attrs
        assert json.loads(json.dumps(attrs)) == attrs, name
        if name not in OF_NO_MODEL:
            assert attrs.keys() >= MODEL, name
            assert (attrs["dtype"], attrs["device"], attrs["condition"]) == ("float64", "cpu", "none"), name
            assert attrs["torch"] == version("torch")
        expected = SETTINGS.get(name, {})
        assert {key: attrs[key] for key in expected} == {
            key: attrs[key] if value is ... else value for key, value in expected.items()
        }, name
        frame.columns = frame.columns.astype(str)
        if frame.columns.is_unique:  # a matrix has a column a token
            frame.to_parquet(tmp_path / "frame.parquet")
            assert pd.read_parquet(tmp_path / "frame.parquet").attrs == attrs, name
        for other in (frame.copy(), pickle.loads(pickle.dumps(frame))):
            assert other.attrs == attrs, name


def test_what_is_ablated_and_hooked_is_said(model):
    pairs = model.encode_pairs("how do fleas rise", PASSAGES)
    with model.ablating("DOC->QUERY", layers=[1]):
        ablated = direct_attribution(model, pairs).to_frame().attrs
    with model.hooks([("blocks.0.hook_mlp_out", lambda value, hook: value * 2)]):
        hooked = run_conditions(model, pairs, "none").to_frame().attrs
    assert (ablated["condition"], ablated["hooks"]) == ("zero(DOC->QUERY; layers=1)", False)
    assert (hooked["condition"], hooked["hooks"]) == ("none", True)


def test_rows_are_the_elements_of_the_arrays(model, results):
    """Labels by hand, numbers from the arrays."""
    pairs = model.encode_pairs("how do fleas rise", PASSAGES)
    scores = results["scores"].to_frame().set_index(["condition", "pair"])["values"]
    assert scores["zero(DOC->QUERY)", 2] == results["scores"].values[1, 2]
    bits = results["bottlenecks"].to_frame()
    assert (bits["layer"].nunique(), bits["pair"].nunique()) == (2, 4)
    one = bits[(bits["layer"] == 1) & (bits["pair"] == 2)]
    np.testing.assert_array_equal(one["bits"], results["bottlenecks"].of(2)[1])
    assert one["pos"].tolist() == list(range(len(one)))
    np.testing.assert_array_equal(one["token"], pairs.tokens[pairs.offsets[2] : pairs.offsets[3]])
    assert one["part"].iloc[[0, 1, -2, -1]].tolist() == ["CLS", "QUERY", "DOC", "SEP2"]
    gradients = results["gradients"].to_frame()
    assert gradients["layer"].unique().tolist() == [1]
    totals = gradients.groupby("pair")["values"].sum().to_numpy()
    np.testing.assert_allclose(totals, results["gradients"].sums()[0], rtol=0, atol=1e-12)
    heads = results["heads"].to_frame().set_index(["pair", "direction", "layer", "head"])["mass"]
    assert heads[3, "DOC->QUERY", 1, 0] == results["heads"].mass[3, 1, 1, 0]
    soft = results["soft_tf"].to_frame()
    own = soft[(soft["pair"] == 1) & (soft["layer"] == 0) & (soft["head"] == 1) & (soft["part"] == "SEP2")]["values"]
    start, stop = results["soft_tf"].offsets[1:3]
    np.testing.assert_array_equal(own, results["soft_tf"].values[start:stop, 0, 1, 1])
    flow = results["flow"].to_frame()
    row = flow.query(
        "group == 3 and layer == 1 and head == 0 and quantity == 'mass' and attender == 'DOC' and attended == 'CLS'"
    )
    group = results["flow"].groups.index(3)
    assert row["count"].tolist() == [2]
    assert row["mean"].item() == results["flow"].moments.mean[group, 1, 0, 0, 3, 0]
    assert row["variance"].item() == pytest.approx(
        results["flow"].moments.m2[group, 1, 0, 0, 3, 0]
    )  # of two: / (2 - 1)
    states = results["tokens"].to_frame()
    place = states[(states["pair"] == 0) & (states["pos"] == 6) & (states["layer"] == 1) & (states["d_model"] == 2)]
    at = results["tokens"].positions[: results["tokens"].offsets[1]].tolist().index(6)
    assert place["values"].item() == results["tokens"].values[at, 1, 2]


def test_a_parity_certificate_is_a_frame(model):
    from tl_crossenc.model.parity import Difference, ParityCertificate

    difference = Difference("logits", 7, 1e-6, 1e-5, 3.0)
    found = ParityCertificate("m", "r", "float32", "cpu", "2 x 3", {"torch": "2"}, 1e-4, (difference,))
    frame = found.to_frame()
    assert frame.to_dict("records") == [
        {"what": "logits", "compared": 7, "max_abs": 1e-6, "max_rel": 1e-5, "scale": 3.0}
    ]
    assert frame.attrs["passed"]
    assert json.loads(json.dumps(frame.attrs))["versions"] == {"torch": "2"}
