"""One experiment a module: model, pools and store to frames.

In: a model, pools, a store. Out: frames with a value a query, intervals and corrected tests. Nothing here draws or prints.
"""
