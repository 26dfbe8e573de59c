"""Hand-made results of every kind, saved as a run would: small numbers from a seeded generator, no model."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import saved_methods
from saved_frames import QUERIES, SIDES, frame

from tl_crossenc.results.outputs import write_frame, write_json
from tl_crossenc.results.saving import save_all

CROSS = ("QUERY->DOC", "DOC->QUERY")
GROUPS = {"relevant": (2, 3), "hard": (0,), "easy": (-1,)}
KINDS = ("same_piece", "same_word", "other")
EDGES = np.concatenate([[0.0], 10.0 ** (-8 + 0.1 * np.arange(80)), [1.0]])


def compared(rng, names, unablated):
    """What `significance.compare` gives, with numbers that are only roughly like it."""
    mean = rng.uniform(0.4, unablated, len(names))
    p = rng.uniform(0, 0.2, len(names))
    return pd.DataFrame(
        {
            "n_queries": len(QUERIES),
            "mean": mean,
            "mean_low": mean - 0.07,
            "mean_high": mean + 0.07,
            "difference": mean - unablated,
            "diff_low": mean - unablated - 0.05,
            "diff_high": mean - unablated + 0.05,
            "p_paired": p,
            "p_holm": np.minimum(1, p * 3),
            "p_unpaired": p,
            "decrease_holm": p * 3 <= 0.05,
            "decrease_paper": p <= 0.05,
        },
        index=pd.Index(names, name="direction"),
    )


def ablation(rng, **rest):
    per_query = pd.DataFrame({"none": rng.uniform(0.7, 0.9, len(QUERIES))}, index=QUERIES)
    return {
        "per_query": per_query,
        "unablated": (0.8, 0.75, 0.85),
        "random": 0.47,
        "whole_job": (90, 130),
    } | rest


def figure1a(rng, n_layers):
    places = list(product(("QUERY->DOC", "DOC->DOC", "CLS->DOC"), range(n_layers)))
    curve = compared(rng, [f"{d}; {layer}" for d, layer in places], 0.8).reset_index(drop=True)
    curve.insert(0, "direction", [direction for direction, _ in places])
    curve.insert(1, "layer", [layer for _, layer in places])
    return SimpleNamespace(**ablation(rng, curve=curve, span="up_to"))


def figure1b(rng, n_layers, n_heads):
    axes = {"direction": CROSS, "layer": range(n_layers), "head": range(n_heads)}
    rows = frame(rng, axes, "relevant", "against", "standard_error", "t", "p", "p_holm")
    rows["difference"] = rows["relevant"] - rows["against"]
    significant, more = rows["p_holm"] < 0.3, rows["difference"] > 0
    return rows.assign(n_queries=len(QUERIES), passes=significant & more, less=significant & ~more)


def figure1b_control(rng, n_layers, n_heads):
    """A twin in which nothing is significant."""
    rows = figure1b(rng, n_layers, n_heads)
    return rows.assign(difference=rows["difference"] / 11, passes=False, less=False)


def figure1b_counts(rng, n_layers, n_heads):
    axes = {
        "model": ("model", "untrained"),
        "against": ("easy", "hard"),
        "quantity": ("mass", "density", "excess", "each"),
    }
    rows = frame(rng, axes).assign(n_queries=len(QUERIES), n_heads=n_layers * n_heads, cells=2 * n_layers * n_heads)
    for name in ("heads", "more", "less"):
        rows[name] = rng.integers(0, n_layers * n_heads, len(rows))
    return rows


def figure1c(rng, n_layers, n_heads):
    heads = [(layer, "all") for layer in range(n_layers)] + [
        (layer, str(h)) for layer, h in product(range(n_layers), range(n_heads))
    ]
    rows = []
    for (layer, head), direction, group, kind in product(heads[:n_layers], CROSS, GROUPS, KINDS):
        counts = rng.poisson(200 * np.exp(-(((np.arange(81) - 45 - 3 * layer) / 11) ** 2)))
        rows.append(
            pd.DataFrame({"bin_low": EDGES[:-1], "bin_high": EDGES[1:], "count": counts}).assign(
                layer=layer, head=head, direction=direction, group=group, kind=kind
            )
        )
    places = [(layer, head, *rest) for (layer, head), *rest in product(heads, CROSS, GROUPS, KINDS)]
    mass = pd.DataFrame(places, columns=["layer", "head", "direction", "group", "kind"])
    for name in ("mass", "share", "lift"):
        mass[name] = rng.uniform(0.1, 0.4, len(mass))
        mass[f"{name}_low"], mass[f"{name}_high"] = mass[name] - 0.05, mass[name] + 0.05
    mass = mass.assign(pair_share=0.02, lift_pooled=3.0, n_queries=7, n_lift=7, n_pairs=23, token_pairs=300)
    compared_with = [f"relevant - {other}" for other in ("hard", "easy")]
    axes = {
        "comparison": compared_with,
        "layer": range(n_layers),
        "head": ["all"],
        "direction": CROSS,
        "kind": [*KINDS, "all"],
    }
    distance = frame(rng, axes, "distance", "shift", "p", "p_holm", "p_max", high=0.2).assign(n_queries=7, n_pairs=46)
    token_pairs = pd.DataFrame(list(product(GROUPS, KINDS)), columns=["group", "kind"])
    token_pairs["count"] = token_pairs["kind"].map({"same_piece": 300, "same_word": 3, "other": 9000})
    return SimpleNamespace(
        histogram=pd.concat(rows, ignore_index=True),
        mass=mass,
        per_query=mass.head(11),
        depth=mass.head(2),
        distance=distance,
        token_pairs=token_pairs.assign(share=0.1),
        groups=GROUPS,
        heads=tuple(product(range(n_layers), range(n_heads))),
        pairs=71,
        n_permutations=200,
        seed=5,
    )


def sinks(rng, n_layers, n_heads):
    axes = {"layer": range(n_layers), "attender": SIDES, "sink": ("CLS", "SEP1", "SEP2", "SEP", "STOPS")}
    by_layer = frame(rng, axes, "mass", low=0.2, high=0.4).assign(lowest_head=0.1, highest_head=0.6, n_pairs=71)
    by_head = frame(rng, {"layer": range(n_layers), "head": range(n_heads)} | dict(list(axes.items())[1:]), "mass")
    return SimpleNamespace(by_layer=by_layer, by_head=by_head.assign(n_pairs=71))


def figure2(rng, n_layers, n_heads):
    places = {"layer": range(n_layers), "head": range(n_heads)}
    contrasts = [f"{name}{end}" for name in ("contrast", "other_contrast") for end in ("", "_logit", "_relative")]
    terms = ["share_constant", "share_interaction", "epsilon_ratio", "row_r2"]
    return SimpleNamespace(
        heads=frame(rng, places, "trace", "sum_sigma", "alignment", *contrasts, "score_sd", low=-1),
        products=frame(rng, places | {"biases": (False, True), "direction": CROSS}, "raw", "logit"),
        spectrum=frame(rng, places | {"k": range(1, 6)}, "sigma", "overlap", "cumulative", "cumulative_alignment"),
        decomposition=frame(rng, {"direction": CROSS} | places, *terms),
        layers=frame(rng, {"layer": range(n_layers), "part": ("QUERY", "DOC")}, "norm", "spread"),
        weighting="token",
        pairs=71,
        sampled=31,
        seed=3,
    )


def head_ablation(rng):
    rows = frame(
        rng,
        {"scope": ("QUERY<->DOC", "whole head"), "k": (1, 2, 4), "kind": ("ranked", "random")},
        "mean",
        low=0.6,
        high=0.8,
    )
    ranked = rows["kind"] == "ranked"
    curve = rows.assign(low=rows["mean"] - 0.1, high=rows["mean"] + 0.1, n_draws=np.where(ranked, 1, 5))
    for name, of in (("difference", "mean"), ("diff_low", "low"), ("diff_high", "high")):
        curve[name] = curve[of] - 0.8
    curve["p_random"], curve["p_family"] = np.where(ranked, 1 / 6, np.nan), np.where(ranked, 2 / 6, np.nan)
    drawn = pd.concat(
        [rows[rows["kind"] == "random"].assign(draw=draw) for draw in range(5)] + [rows[ranked].assign(draw=0)]
    )
    drawn["mean"] += rng.uniform(-0.05, 0.05, len(drawn))
    drawn = drawn.assign(heads="0.1", difference=drawn["mean"] - 0.8).reset_index(drop=True)
    queries = tuple(QUERIES)[:4]
    return SimpleNamespace(**ablation(rng, curve=curve, draws=drawn, drawn_queries=queries, seed=11))


def head_ablation_folds(rng):
    axes = {"scope": ("QUERY<->DOC", "whole head"), "k": (1, 2, 4), "fold": ("0", "1", "both")}
    rows = frame(rng, axes, "difference", "p", "p_holm", "all_difference", low=-0.2, high=0.0)
    bounds = {"diff_low": rows["difference"] - 0.1, "diff_high": rows["difference"] + 0.1}
    rows = rows.assign(heads="0.1", n_queries=rows["fold"].map({"0": 4, "1": 3, "both": 7}), **bounds)
    rows[["p", "p_holm"]] *= -1
    scalars = {"seed": 11, "n_queries": 7, "fold_sizes": [4, 3]}
    per_query = pd.DataFrame({"fold": "0", "none": 0.8}, index=QUERIES)
    return SimpleNamespace(folds=rows, per_query=per_query, scalars=scalars)


def head_rankers(rng, n_layers, n_heads):
    criteria, counts, every = ("core_0.001", "qr", "ndcg"), (1, 2, 4), n_layers * n_heads
    places = {"direction": CROSS, "layer": range(n_layers), "head": range(n_heads)}
    heads = frame(rng, places, *criteria, low=0.3, high=0.7)
    heads["ndcg_low"], heads["ndcg_high"] = heads["ndcg"] - 0.05, heads["ndcg"] + 0.05
    names = ["direction", "criterion", "k", "chosen_on", "fold", "heads"]
    rows = list(product(CROSS, criteria, counts, ("other half", "same half"), ("0", "1", "both"), ("0.1",)))
    rows += list(product(CROSS, ("all heads",), (every,), ("nothing",), ("0", "1", "both"), ("all",)))
    rankings = pd.DataFrame(rows, columns=names).assign(n_queries=len(QUERIES))
    rankings["mean"] = rng.uniform(0.5, 0.7, len(rankings))
    rankings = rankings.assign(low=rankings["mean"] - 0.06, high=rankings["mean"] + 0.06)
    against = ("model", "BM25", "random", "all heads", "same half")
    rows = [*product(CROSS, criteria, counts, against), *product(CROSS, ("all heads",), (every,), against[:3])]
    compared_with = pd.DataFrame(rows, columns=["direction", "criterion", "k", "against"])
    compared_with["difference"] = rng.uniform(-0.2, 0.2, len(rows))
    p = rng.uniform(0, 0.1, len(rows))
    bounds = {"low": compared_with["difference"] - 0.1, "high": compared_with["difference"] + 0.1}
    references = pd.DataFrame({"reference": ["model", "BM25", "random"], "mean": [0.8, 0.6, 0.47]})
    return SimpleNamespace(
        heads=heads,
        rankings=rankings,
        comparisons=compared_with.assign(**bounds, p=p, p_holm=p),
        references=references.assign(low=references["mean"] - 0.05, high=references["mean"] + 0.05),
        per_query=pd.DataFrame({"fold": "0", "model": 0.8}, index=QUERIES),
        scalars={
            "n_queries": 7,
            "n_all_queries": 11,
            "n_contrasted": 5,
            "fold_sizes": [4, 3],
            "n_heads": every,
            "content_free": "N/A",
            "temperatures": [0.001],
            "relevant_grades": [2, 3],
            "seed": 13,
            "left_out": {"core_0.1": "no query of one half has hard negatives"},
        },
    )


def probes(rng, n_layers):
    sets = ("CLS", "QUERY", "SEP", "DOC", "MATCHED")
    rows = [
        (s, name, layer) for s in ("model", "shuffled", "untrained") for name in sets for layer in range(n_layers + 1)
    ]
    rows += [("lens", "CLS", layer) for layer in range(n_layers + 1)]
    relevance = pd.DataFrame(rows, columns=["source", "set", "layer"])
    for measure in ("ndcg", "mrr"):
        values = rng.uniform(0.5, 0.8, len(rows))
        relevance = relevance.assign(
            **{measure: values, f"{measure}_low": values - 0.07, f"{measure}_high": values + 0.07}
        )
        relevance[f"random_{measure}"] = np.where(relevance["set"] == "MATCHED", 0.53, 0.47)
    named = ("bm25", "tf_idf", "covered", "covered_ratio", "query_words", "passage_words", "exact_matches")
    axes = {"source": ("model", "untrained"), "set": sets, "layer": range(n_layers + 1), "feature": named}
    features = frame(rng, axes, "r2", "within", low=-0.2)
    features.loc[features["feature"] == "query_words", ["r2", "within"]] = np.nan
    return SimpleNamespace(
        relevance=relevance.assign(n_queries=7, n_pairs=30, left_out=np.where(relevance["set"] == "MATCHED", 5, 0)),
        per_query=frame(rng, {"source": ("model",), "set": sets, "layer": (0,)}, "ndcg", "mrr"),
        features=features.assign(low=features["r2"] - 0.1, high=features["r2"] + 0.1, n_pairs=30),
        scalars={
            "probe": "ridge",
            "pooling": "mean",
            "n_folds": 5,
            "n_shuffles": 3,
            "seed": 17,
            "cutoff": 10,
            "queries": 7,
            "of_queries": 11,
            "pairs": 30,
            "relevant_grades": {"tiny-2": [2, 3]},
            "left_out": {"CLS": 0, "MATCHED": 5},
            "constant_features": ["query_words"],
            "bm25": {"tiny-2": {"k1": 0.9, "b": 0.4, "passages": 1234, "mean_words": 41.3}},
        },
    )


def bottleneck(n_layers):
    rng = np.random.default_rng(17)
    layers = {"layer": range(n_layers)}

    def bounded(rows, *names):
        for name in names:
            rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] * 0.8, rows[name] * 1.3
        return rows.assign(n_queries=7, n_pairs=13)

    by_layer = frame(rng, layers | {"part": SIDES}, "bits", "per_token", low=1, high=900)
    by_layer["share"] = rng.uniform(0, 0.4, len(by_layer))
    by_layer.loc[(by_layer["layer"] == n_layers - 1) & (by_layer["part"] == "CLS"), "share"] = 0.7
    matches = frame(rng, layers | {"part": ("QUERY", "DOC"), "kind": KINDS}, "per_token", low=1, high=90)
    positions = frame(rng, layers | {"decile": range(10)}, "per_token", low=1, high=90)
    scores = frame(rng, layers, "score", "masked", "error")
    return SimpleNamespace(
        by_layer=bounded(by_layer, "bits", "per_token", "share"),
        matches=bounded(matches, "per_token"),
        positions=bounded(positions, "per_token"),
        scores=bounded(scores, "score", "masked", "error"),
        per_query=frame(rng, {"query_id": ("q0", "q1"), "layer": range(n_layers)}, "bits"),
        pairs=frame(rng, {"query_id": ("q0", "q1"), "layer": range(n_layers)}, "score", "masked"),
        scalars={
            **{"objective": "keep", "beta": 10.0, "steps": 9, "sample_seed": 23, "queries": 7, "pairs": 13},
            **{"sampled": True, "first_half": n_layers - 1},
        },
    )


def semantic_bm25(n_layers, n_heads):
    rng = np.random.default_rng(31)
    systems = ("BM25", "BM25, tuned", "soft-TF", "semantic BM25", "semantic BM25, SEP2 in")
    rows = frame(
        rng, {"split": ("query", "pair"), "system": systems, "fold": ("0", "1", "all")}, "r", low=0.3, high=0.9
    )
    rows = rows.assign(r_low=rows["r"] - 0.08, r_high=rows["r"] + 0.05, r_within=rows["r"] - 0.1)
    rows = rows.assign(r2=rows["r"] ** 2, r2_low=0.1, r2_high=0.9, r2_within=0.2, n_queries=7, n_pairs=30, chosen="0.1")
    places = [(system, "query", "BM25, tuned", "query") for system in systems if system != "BM25, tuned"]
    places += [(system, "pair", system, "query") for system in systems]
    compared_with = pd.DataFrame(places, columns=["system", "split", "against", "against_split"])
    compared_with["difference"] = rng.uniform(-0.2, 0.2, len(places))
    bounds = {"low": compared_with["difference"] - 0.1, "high": compared_with["difference"] + 0.1}
    heads = frame(rng, {"layer": range(n_layers), "head": range(n_heads)}, "r_within", low=-1)
    heads["chosen"] = rng.integers(0, 6, len(heads))
    for part in ("DOC", "SEP2", "SEP1", "CLS"):
        heads[part] = rng.uniform(0, 0.25, len(heads))
    axes = {"weights": ("model", "base"), "rows": ("all", "passages'"), "feature": ("1", "2", "4", "8", "11", "norm")}
    embeddings = frame(rng, axes, "r2").assign(decomposed=113)
    return SimpleNamespace(
        correlations=rows,
        comparisons=compared_with.assign(**bounds),
        heads=heads,
        embeddings=embeddings.assign(low=embeddings["r2"] - 0.03, high=embeddings["r2"] + 0.03),
        per_pair=frame(rng, {"query_id": ("q0", "q1"), "doc_id": ("d0", "d1")}, "score", *systems),
        scalars={
            **{"n_queries": 7, "n_all_queries": 11, "n_pairs": 1301, "n_heads": 5, "given_heads": False, "n_folds": 3},
            **{"seed": 29, "passages": {"tiny-2": 1709}, "base": "other", "idf_passages": 1709},
            **{"correlation": {"model; all": -0.714}, "no_embeddings": "", "n_pieces": 89, "left_out_pieces": 24},
        },
    )


def results(n_layers=3, n_heads=5, seed=0):
    """Results of every kind by key."""
    rng = np.random.default_rng(seed)
    by_direction = {
        "layer": range(n_layers),
        "head": range(n_heads),
        "attender": SIDES[:5],
        "attended": SIDES[:5],
        "grade": (-1, 2),
    }
    return {
        "figure1a": figure1a(rng, n_layers),
        "figure1b": figure1b(rng, n_layers, n_heads),
        "figure1b_control": figure1b_control(rng, n_layers, n_heads),
        "figure1b_counts": figure1b_counts(rng, n_layers, n_heads),
        "figure1c": figure1c(rng, n_layers, n_heads),
        "sinks": sinks(rng, n_layers, n_heads),
        "figure2": figure2(rng, n_layers, n_heads),
        "head_ablation": head_ablation(rng),
        "attention": SimpleNamespace(by_direction=frame(rng, by_direction, "mean", "variance")),
        "head_ablation_folds": head_ablation_folds(rng),
        "head_rankers": head_rankers(rng, n_layers, n_heads),
        "semantic_bm25": semantic_bm25(n_layers, n_heads),
        "probes": probes(rng, n_layers),
        "bottleneck": bottleneck(n_layers),
        "adapter_updates": saved_methods.adapter_updates(rng, n_layers),
        "circuits": saved_methods.circuits(rng, n_layers, n_heads),
        "part_gradients": saved_methods.part_gradients(rng, n_layers),
        "neuron_pruning": saved_methods.neuron_pruning(rng, n_layers),
        "faithfulness": saved_methods.faithfulness(rng),
    }


def save_run(folder, given=None, **sizes):
    """A results folder as a run leaves it: Table 1, `run.json`, and the artefacts of `given`."""
    rng = np.random.default_rng(1)
    comparison = compared(rng, [f"{a}->{b}" for a, b in product(SIDES, SIDES)], 0.8)
    write_frame(folder / "tables" / "table1.csv", comparison)
    per_query = pd.DataFrame({"random": rng.uniform(0.4, 0.5, 7), "none": rng.uniform(0.7, 0.9, 7)}, index=QUERIES)
    write_frame(folder / "tables" / "per_query.csv", per_query)
    pool = {"collection": "tiny-2", "digest": "ab12", "provenance": {"passages_by_grade": {"2": 13, "0": 17, "-1": 19}}}
    run = {
        "model": {"name": "small <b>model</b>", "revision": "r1"},
        "settings": {"cutoff": 10, "mode": "zero"},
        "pools": [pool],
        "versions": {"numpy": "2.0"},
    }
    write_json(folder / "run.json", run)
    save_all(folder, results(**sizes) if given is None else given)
    return folder
