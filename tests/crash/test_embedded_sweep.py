"""Guardian dies at its points while it supervises the embedded trainer; the training comes out the same."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from guardian.host.crash import SWITCH
from tests.crash.test_sweep import go_on
from tests.faults.harness import TINY, Guarded, Sampler, harm, surviving

STEPS = 8
JOB = (*TINY, "--output_dir", "out", "--max_steps", str(STEPS), "--save_steps", "2")
KILL = {"attempt": 1, "step": 5, "do": "kill"}
POINTS = 120
"""More than there are: a run whose guardian passes fewer ends undisturbed, which is checked as well."""
SEEDED = sorted(random.Random(11).sample(range(1, 46), 10))


def training(guarded):
    """What was trained: rows, samples and loss of each step."""
    return {n: (s.rows, s.fingerprint, round(s.loss, 5)) for n, s in surviving(guarded.story()).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run that nobody disturbs."""
    guarded = Guarded(tmp_path_factory.mktemp("undisturbed"), *JOB)
    assert 0 == guarded.run(), guarded.shown()[-4000:]
    return training(guarded)


def crashed(folder, point, undisturbed):
    """Killed at a point, its trainer killed at step 5 as well; resumed; compared."""
    guarded = Guarded(folder, *JOB, env=harm(KILL) | {SWITCH: str(point)})
    sampler = Sampler(guarded)
    sampler.start()
    try:
        code = guarded.run()
        del guarded.env[SWITCH]
        assert code in (0, -signal.SIGKILL), guarded.shown()[-4000:]
        if code:
            go_on(guarded)
        assert set() == sampler.stop()
        assert undisturbed == training(guarded)
        assert "proved" == guarded.report()["certificate"]["verdict"]
    finally:
        guarded.clean_up()
    return code != 0


@pytest.mark.parametrize("point", SEEDED)
def test_a_seeded_point(tmp_path, point, undisturbed):
    """Ten of them in every run of the tests."""
    crashed(tmp_path, point, undisturbed)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_other_point(tmp_path, undisturbed):
    """All that there are, two at a time, until runs end undisturbed."""

    def one(point):
        folder = tmp_path / str(point)
        folder.mkdir()
        return crashed(folder, point, undisturbed)

    with ThreadPoolExecutor(2) as several:
        for first in range(1, POINTS, 2):
            points = [p for p in (first, first + 1) if p not in SEEDED]
            if points and not any(list(several.map(one, points))):
                return
    raise AssertionError("the points do not end")
