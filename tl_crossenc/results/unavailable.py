"""What an experiment raises when its input cannot give the result asked for."""

from __future__ import annotations


class Unavailable(ValueError):
    """A result that this pool or model cannot give, with the reason in one sentence. Other results are unaffected."""
