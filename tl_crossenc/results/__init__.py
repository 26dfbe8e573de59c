"""The folder that a job writes: of which job it is, its pools, and its tables under their names.

In: frames and settings. Out: files, and the same frames read back without a model. `Unavailable` says which result
could not be had.
"""
