"""What a person at a prompt or a terminal sees of anything: texts of others made safe, short reprs, bars.

In: strings, results, counts of work. Out: text. Nothing here knows what a model is;
`prompt` looks the views up by name when asked.
"""
