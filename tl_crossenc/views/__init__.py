"""What one sees of a single pair at the prompt: its explanation, a head's attention.

In: a model, a query and a passage. Out: objects that show themselves in a notebook and a terminal, and their frames.
"""
