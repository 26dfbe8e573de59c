"""What hand-made results are made of: a few queries, and frames of uniform numbers."""

from itertools import product

import pandas as pd

SIDES = ("CLS", "QUERY", "SEP1", "DOC", "SEP2", "ALL")
QUERIES = pd.MultiIndex.from_tuples([("tiny", f"q{i}") for i in range(7)], names=["collection", "query_id"])


def frame(rng, axes, *columns, low=0.0, high=1.0):
    """A row a combination of the axes, the columns drawn uniformly."""
    rows = pd.DataFrame(list(product(*axes.values())), columns=list(axes))
    return rows.assign(**{name: rng.uniform(low, high, len(rows)) for name in columns})
