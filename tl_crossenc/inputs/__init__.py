"""Texts to what a model reads: token batches in which every position has its part.

In: a tokenizer, queries and passages. Out: `PairBatch`, `PartMasks`, and batches under a token budget. The only place that calls a
tokenizer.
"""
