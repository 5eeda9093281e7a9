"""A guardian that takes over reads job.log on from where the last one stood: no line missed, none counted twice."""

import random
import sys
import time
from pathlib import Path

from tests.faults.harness import Guarded

JOB = Path(__file__).parents[1] / "jobs" / "hitting.py"
RULE = """id = "hit"
class = "code_bug"
title = "A numbered line"
role = "symptom"
false_friends = "None."
[match]
any = [{ log = 'HIT \\d+' }]
[[try]]
give_up = "It was only a test."
"""
LINES = 24


def test_every_line_is_judged_once_however_often_guardian_is_killed(tmp_path):
    """Killed four times at random moments while the job prints; each hit is in the story once, with its line."""
    rules = tmp_path / "rules"
    rules.mkdir(mode=0o700)
    (rules / "hit.toml").write_text(RULE)
    (rules / "hit.toml").chmod(0o600)
    guarded = Guarded(tmp_path, sys.executable, str(JOB), str(LINES), "0.3", options=("--rules", "rules"))
    guarded.start()
    guarded.until("the first hit", lambda run: run.attempts[0].hits)
    chance = random.Random(3)
    for _ in range(4):
        time.sleep(chance.uniform(0, 1.2))
        guarded.process.kill()
        guarded.process.wait()
        guarded.start("resume", guarded.name, "--rules", "rules")
        time.sleep(0.5)

    assert 0 == guarded.wait(), guarded.shown()
    hits = guarded.story().attempts[0].hits
    assert [f"HIT {n}" for n in range(1, LINES + 1)] == sorted((h.line.text for h in hits), key=lambda t: int(t[4:]))
    assert [2 * n for n in range(1, LINES + 1)] == sorted(h.line.number for h in hits)
