"""Files in which processes say how far they are, as others would have written them."""

import json
import time


def place(folder, number=7, **changes):
    """The file of process `number` on another host, at work now where nothing else is said."""
    said = {
        "format": 1, "host": "elsewhere", "process": number, "how": "InProcess()", "state": "running", "cause": "",
        "now": "Table 1", "left": "", "started": 0.0, "beat": time.time(), "experiments": {}, **changes,
    }  # fmt: skip
    path = folder / f".status-elsewhere-{number}-00c0ffee.json"
    path.write_text(json.dumps(said))
    return path


def experiment(cells, done, running=0, failed=0, *, cost=0, ran=0, left=0, seconds=0.0, causes=()):
    """How far one experiment is, as such a file says it."""
    return {
        "cells": cells, "done": done, "running": running, "failed": failed, "cost": cost, "ran": ran, "left": left,
        "seconds": seconds, "causes": list(causes),
    }  # fmt: skip
