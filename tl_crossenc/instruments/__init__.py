"""A model and pairs to labelled statistics: attention by part, token matches, query-key circuits, what heads write to the score.

In: a model and pairs. Out: arrays with named axes and small results. Nothing here knows a pool, a file or a figure.
"""
