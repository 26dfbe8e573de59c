"""The hooked cross-encoder: TransformerLens's names and hooks, directions removed in attention, conditions run on shared prefixes.

In: a checkpoint and pairs. Out: scores, caches, and where asked the activations at a stage of a layer. Here alone is known in which
order a layer's norms come.
"""
