"""tl_crossenc."""
