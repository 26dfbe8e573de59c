"""Frames and saved files to what people look at: tables, figures, captions, one HTML page.

In: a folder of results. Out: text, SVG, PDF and HTML. No torch: everything is drawn again from the files alone.
"""
