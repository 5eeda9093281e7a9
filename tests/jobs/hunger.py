"""The environment in which a job of the embedded trainer is hungry (tests/jobs/hungry says what it may be told)."""

import json
import os
from pathlib import Path

FOLDER = Path(__file__).parent / "hungry"


def hungry(beside=None, **wanted):
    """To be added to the environment of a job, or of the guardian that starts it; `beside`: an addition like harm()."""
    others = beside or {}
    path = os.pathsep.join(filter(None, (str(FOLDER), others.get("PYTHONPATH", os.environ.get("PYTHONPATH")))))
    return {**others, "PYTHONPATH": path, "HUNGRY": json.dumps(wanted)}
