"""A name to a configuration and weights, one tensor at a time.

In: a hub name, a folder, an adapter over a base, or a model that comes with the package. Out: a `Checkpoint`: settings that were
read, not believed, and named tensors. Nothing of the remote is run.
"""
