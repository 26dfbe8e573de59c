"""A collection to a pool: queries, judged passages, negatives as asked for, drawn once with a seed and frozen in a file.

In: a folder, an ir_datasets id or a TREC run. Out: `Pool`, the only thing that experiments know of a collection. No torch.
"""
