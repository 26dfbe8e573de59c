"""Data of the embedded demo: the adapter of a small cross-encoder, a graded collection, the planted model's vocabulary."""
