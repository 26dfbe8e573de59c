"""Files written whole or not at all, one process at a time in a folder, and cells: what was computed, found again by what it is of.

In: bytes, tables and keys. Out: files that a kill leaves whole, and the tables back. What a key has to say is `model.identity`'s.
"""
