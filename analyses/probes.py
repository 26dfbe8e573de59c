"""Probes by layer: from which layer on relevance, and what classical retrieval measures, can be read off the states of some tokens.

python analyses/probes.py --model demo --collection demo
python analyses/probes.py --probe tokens --sets CLS QUERY --epochs 40
python analyses/probes.py --probe logistic --pooling max --no-control

Writes `tables/probes.csv`, `tables/probes_per_query.csv` and `tables/probes_features.csv`, and prints nDCG@10 and MRR@10 by layers
run beside the random ranking, MRR@10 beside that of Zhan et al. 2020, and R² within queries of each feature.
"""

import argparse

from common import run, write_table

from tl_crossenc.experiments.probe_work import PROBES
from tl_crossenc.experiments.probes import MOST_PAIRS, SHUFFLES, run_probes
from tl_crossenc.instruments.layer_features import POOLINGS
from tl_crossenc.instruments.token_probe import TokenProbeSettings
from tl_crossenc.instruments.token_sets import ALL_SETS, SETS
from tl_crossenc.model.cross_encoder import HookedCrossEncoder
from tl_crossenc.pools.pool import Pool
from tl_crossenc.statistics.folds import FOLDS
from tl_crossenc.statistics.published import ZHAN_2020, ZHAN_2020_PROBES
from tl_crossenc.store.cells import Store


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--probe",
        choices=PROBES,
        default="ridge",
        help="tokens: that of Zhan et al. 2020, which takes minutes (default: ridge)",
    )
    options.add_argument("--pooling", choices=POOLINGS, default="mean", help="of ridge and logistic (default: mean)")
    options.add_argument(
        "--sets",
        nargs="+",
        choices=ALL_SETS,
        default=SETS,
        metavar="S",
        help=f"of {', '.join(ALL_SETS)} (default: {' '.join(SETS)})",
    )
    options.add_argument("--folds", type=int, default=FOLDS, help=f"folds of queries (default: {FOLDS})")
    options.add_argument(
        "--shuffles", type=int, default=SHUFFLES, help=f"draws of shuffled labels; 0 leaves them (default: {SHUFFLES})"
    )
    options.add_argument("--no-control", action="store_true", help="leave the untrained twin")
    options.add_argument(
        "--max-pairs",
        type=int,
        default=MOST_PAIRS,
        help=f"about so many: whole queries are drawn (default: {MOST_PAIRS})",
    )
    options.add_argument(
        "--epochs",
        type=int,
        default=TokenProbeSettings.epochs,
        help=f"of the probe of single tokens (default: {TokenProbeSettings.epochs})",
    )
    options.add_argument("--seed", type=int, default=0, help="of folds, shuffles and sample (default: 0)")


def main(given: argparse.Namespace, model: HookedCrossEncoder, pools: list[Pool], store: Store) -> None:
    found = run_probes(
        model,
        pools,
        store,
        sets=given.sets,
        probe=given.probe,
        pooling=given.pooling,
        n_folds=given.folds,
        n_shuffles=given.shuffles,
        control=not given.no_control,
        max_pairs=given.max_pairs,
        settings=TokenProbeSettings(epochs=given.epochs),
        seed=given.seed,
    )
    write_table(given, "probes.csv", found.relevance, index=False)
    write_table(given, "probes_per_query.csv", found.per_query, index=False)
    write_table(given, "probes_features.csv", found.features, index=False)
    for measure in ("ndcg", "mrr"):
        table = found.relevance.pivot(index=["source", "set"], columns="layer", values=measure)
        floors = found.relevance.groupby("set")[f"random_{measure}"].first()
        table.insert(0, "random", floors.reindex(table.index.get_level_values("set")).to_numpy())
        print(f"{measure} by layers run, after the random ranking's\n{table.round(3).to_string()}\n")
    print(f"mrr of {ZHAN_2020}, random .023")
    for name, values in ZHAN_2020_PROBES.items():
        print(f"{name:10}", *(f"{value:.3f}" for value in values))
    features = found.features[found.features["source"] == "model"]
    table = features.pivot(index=["set", "feature"], columns="layer", values="within")
    print(f"\nR² within queries by layers run\n{table.round(2).to_string()}")


if __name__ == "__main__":
    run(main, __doc__, add_options)
