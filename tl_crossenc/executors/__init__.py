"""Who computes the cells that are missing: this process, one process of several, or Ray's actors; the cells are the same.

In: a model, tasks (cells that are computed together), a store. Out: a store that has their cells, and what was run for it.
"""
