"""Why a score differs from somebody else's: what a checkpoint's scores depend on, and which known cause gives a foreign score.

In: a model; a file of pairs with another system's scores, hidden states that it dumped. Out: reports that show themselves in a
terminal, their frames and plain values.
"""
