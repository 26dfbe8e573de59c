"""From correlation to cause: activations of one pair put into another, in whole, to first order, or from head to head.

In: a model and aligned clean and corrupted pairs. Out: a `PatchResult` of the metric at every site. Means and samples to replace
with are gathered here too.
"""
