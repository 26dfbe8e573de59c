"""Hand-made results of methods beyond the paper, for `saved_results`."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from saved_frames import QUERIES, frame


def adapter_updates(rng, n_layers):
    kinds = ("only layer", "without layer", "up to layer", "from layer")
    rows = [("none", None, None), ("all", None, None)]
    rows += [(kind, layer, None) for kind in kinds for layer in range(n_layers)]
    rows += [(f"{side} projection", None, name) for side in ("only", "without") for name in ("query", "mlp_out")]
    rankings = pd.DataFrame(rows, columns=["kind", "layer", "projection"])
    rankings["layer"] = rankings["layer"].astype("Int64")
    rankings.insert(0, "ranking", [" ".join(str(x) for x in row if x is not None) for row in rows])
    rankings["mean"] = rng.uniform(0.5, 0.8, len(rows))
    rankings["difference"] = rankings["mean"] - rankings["mean"][1]
    rankings["p_holm"] = rng.uniform(0, 0.2, len(rows))
    for name, centre in (("", "mean"), ("diff_", "difference")):
        rankings[f"{name}low"], rankings[f"{name}high"] = rankings[centre] - 0.06, rankings[centre] + 0.06
    return SimpleNamespace(
        rankings=rankings.assign(n_updates=3, n_queries=7),
        updates=frame(rng, {"layer": range(n_layers), "projection": ("query", "mlp_out")}, "size", high=0.1),
        per_query=pd.DataFrame({"none": 0.6, "all": 0.8}, index=QUERIES),
        scalars={"random": 0.47, "n_queries": 7},
    )


def circuits(rng, n_layers, n_heads):
    about = {"fold": (0, 1), "share": (0.9, 0.99)}
    rows = frame(rng, about, "multiply_adds", "chosen", "unablated", "kept", "removed", "drawn", low=0.5, high=0.9)
    for name in ("faithfulness", "completeness"):
        rows[name] = rng.uniform(0.7, 1, len(rows))
        rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] - 0.2, rows[name] + 0.1
    places = about | {"layer": range(n_layers), "head": range(0, n_heads, 2), "direction": ("DOC->QUERY",)}
    units = frame(rng, places, "importance").assign(rank=1)
    curve = frame(
        rng, {"fold": (0, 1), "k": (1, 2, 4, 8)}, "multiply_adds", "kept", "removed", "faithfulness", "completeness"
    )
    return SimpleNamespace(
        circuits=rows.assign(
            n_units=11, n_all=97, minimal=[True, True, False, True], runs=9, random=0.47, n_queries=[4, 4, 3, 3]
        ),
        units=units,
        curve=curve,
        per_query=frame(rng, about | {"query_id": ("q0", "q1")}, "kept", "removed"),
        scalars={"mode": "zero", "seed": 5, "n_draws": 3, "most_runs": 9},
    )


def part_gradients(rng, n_layers):
    layers = {"baseline": ("query:pad", "passage:pad"), "layer": range(n_layers + 1)}
    parts = frame(rng, layers | {"part": ("CLS", "SEP", "QUERY", "DOC", "STOPS", "ALL")}, "mean", "share", low=0.1)
    errors = frame(rng, layers, "median", "largest", high=0.04)
    return SimpleNamespace(
        parts=parts.assign(
            low=parts["mean"] - 0.1,
            high=parts["mean"] + 0.1,
            share_low=parts["share"] - 0.05,
            share_high=parts["share"] + 0.05,
            published=np.nan,
        ),
        errors=errors.assign(difference=2.4, missed=1, same=0, n_pairs=13),
        per_query=frame(rng, layers | {"query_id": ("q0", "q1")}, "CLS", "DOC").set_index([*layers, "query_id"]),
        scalars={"n_pairs": 13, "n_queries": 7, "nodes": 64, "sampled": {"queries": 7, "passages": 2}},
    )


def neuron_pruning(rng, n_layers):
    counts = {"values": ("zero", "mean"), "k": (3, 11)}
    rankings = frame(rng, counts | {"choice": ("conductance", "activity", "random")}, "mean", low=0.5, high=0.8)
    for name in ("low", "lowest_draw"):
        rankings[name] = rankings["mean"] - 0.07
    for name in ("high", "highest_draw"):
        rankings[name] = rankings["mean"] + 0.07
    contrasts = frame(
        rng, counts | {"against": ("unpruned", "random", "activity")}, "difference", "p", "p_holm", high=0.2
    )
    return SimpleNamespace(
        rankings=rankings.assign(n_queries=7),
        contrasts=contrasts.assign(low=contrasts["difference"] - 0.1, high=contrasts["difference"] + 0.1),
        draws=frame(rng, counts | {"draw": range(3)}, "mean"),
        neurons=frame(rng, {"layer": range(n_layers), "neuron": (2, 5)}, "conductance", "activity"),
        per_query=pd.DataFrame({"unpruned": 0.8, "fold": 0}, index=QUERIES),
        scalars={
            **{"unpruned": 0.76, "random_ranking": 0.47, "n_queries": 7, "n_neurons": 159, "n_pairs": 13, "n_draws": 3},
            **{"baseline": "query:pad", "shared": {"3": 1, "11": 5}, "missed": 0.01},
        },
    )


def faithfulness(rng):
    names = {"attribution": ("direct", "leave-one-out", "random")}
    tested = ("mean", "difference", "p", "p_holm")
    measures = frame(rng, names | {"measure": ("area", "raw_area", "sensitivity")}, *tested, high=0.1)
    fractions = {"fraction": (0.0, 0.5, 1.0)}
    curves = frame(rng, names | {"order": ("most", "least")} | fractions, "mean")
    rankings = frame(rng, names | fractions, *tested, low=0.01, high=0.4)
    for table in (measures, curves, rankings):
        table["low"], table["high"], table["n_queries"] = table["mean"] - 0.1, table["mean"] + 0.1, 7
    for table in (measures, rankings):
        table.loc[table["attribution"] == "random", ["difference", "p", "p_holm"]] = np.nan
    return SimpleNamespace(
        measures=measures,
        curves=curves,
        rankings=rankings,
        per_query=frame(rng, names | {"query_id": ("q0", "q1")}, "area", "sensitivity"),
        scalars={
            **{"n_queries": 7, "n_pairs": 31, "without_span": 3, "without_tokens": 2, "least_span": 0.37, "draws": 2},
            **{"text": "passage", "removal": "delete", "layer": 1, "random_ranking": 0.47, "sampled": True, "seed": 5},
            **{"left_out": {"bottleneck": "there is one query"}},
        },
    )
