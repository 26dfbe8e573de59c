"""Doors to other tools: a model as a transformer of PyTerrier's, its attention as what bertviz and circuitsvis take.

In: a model, and texts or a frame of them. Out: objects of other packages, which are imported when asked for and not before.
"""
