"""What is changed in a model, said in words: directions, conditions, presets, heads and what takes the place of what is removed.

In: text such as `zero(DOC->QUERY; layers=0-3)`. Out: small frozen objects that compile to plain arrays a layer, which is all that
attention sees. Nothing here runs a model, so the model can lie above.
"""
