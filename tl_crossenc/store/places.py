"""What a store's files are called where others lie beside them. Nothing else, so that who only asks imports no more."""

MARKER = "tl_crossenc.json"
"""The file that says that a folder is a store."""
MACHINERY = "machinery"
"""Where a folder of results has its store, apart from what people open."""
