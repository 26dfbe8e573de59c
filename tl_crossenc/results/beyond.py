"""The artefacts beyond the paper: of the methods of the systems that it cites, and of newer ones (`experiments.beyond`)."""

from __future__ import annotations

from tl_crossenc.results.artefact import Artefact, tables

BEYOND: tuple[Artefact, ...] = (
    Artefact(
        "bottleneck",
        "From how many bits of each token the score can be had",
        tables(
            by_layer="bottleneck.csv",
            matches="bottleneck_matches.csv",
            positions="bottleneck_positions.csv",
            scores="bottleneck_scores.csv",
            per_query="bottleneck_per_query.parquet",
            pairs="bottleneck_pairs.csv",
        ),
        beyond=True,
    ),
    Artefact(
        "part_gradients",
        "Where a relevance score is, layer by layer: integrated gradients by part",
        tables(
            parts="part_gradients.csv",
            errors="part_gradients_errors.csv",
            per_query="part_gradients_per_query.csv",
        ),
        beyond=True,
    ),
    Artefact(
        "neuron_pruning",
        "Neurons pruned by conductance",
        tables(
            rankings="neuron_pruning.csv",
            contrasts="neuron_pruning_contrasts.csv",
            draws="neuron_pruning_draws.csv",
            neurons="neuron_pruning_neurons.csv",
            per_query="neuron_pruning_per_query.csv",
        ),
        beyond=True,
    ),
    Artefact(
        "adapter_updates",
        "Which of the adapter's updates the ranking needs",
        tables(
            rankings="adapter_updates.csv",
            updates="adapter_updates_sizes.csv",
            per_query="adapter_updates_per_query.csv",
        ),
        beyond=True,
    ),
    Artefact(
        "head_rankers",
        "Heads as rankers",
        tables(
            heads="head_rankers.csv",
            rankings="head_rankers_best.csv",
            comparisons="head_rankers_compared.csv",
            references="head_rankers_references.csv",
            per_query="head_rankers_per_query.csv",
        ),
        beyond=True,
    ),
    Artefact(
        "circuits",
        "Circuits: the fewest directions of heads that suffice",
        tables(
            circuits="circuits.csv",
            units="circuits_units.csv",
            curve="circuits_curve.csv",
            per_query="circuits_per_query.csv",
        ),
        beyond=True,
    ),
    Artefact(
        "probes",
        "Probes: from which layer on relevance can be read",
        tables(relevance="probes.csv", per_query="probes_per_query.csv"),
        beyond=True,
    ),
    Artefact(
        "probe_features",
        "Probes: what of classical retrieval can be read",
        tables(features="probes_features.csv"),
        source="probes",
        beyond=True,
    ),
    Artefact(
        "semantic_bm25",
        "Semantic BM25: the score from rarity and what heads find",
        tables(
            correlations="semantic_bm25.csv",
            comparisons="semantic_bm25_compared.csv",
            heads="semantic_bm25_heads.csv",
            embeddings="semantic_bm25_embeddings.csv",
            per_pair="semantic_bm25_pairs.parquet",
        ),
        beyond=True,
    ),
    Artefact(
        "faithfulness",
        "Are attributions faithful: the score when the tokens that they name are removed",
        tables(measures="faithfulness.csv", curves="faithfulness_curves.csv", per_query="faithfulness_per_query.csv"),
        beyond=True,
    ),
    Artefact(
        "faithfulness_rankings",
        "Are attributions faithful: the ranking when the tokens that they name are removed",
        tables(rankings="faithfulness_rankings.csv"),
        source="faithfulness",
        beyond=True,
    ),
)
"""In the order in which a report shows them, after the paper's; each `beyond=True`, its key that of its method or its `source`."""
