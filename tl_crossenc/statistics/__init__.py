"""Numbers from numbers: tie-aware nDCG, tests, corrections and intervals; and the numbers that papers published.

In: scores, grades, values a query. Out: values, intervals, p-values. No torch.
"""
