"""Guardian is killed at random moments, not only where we thought of it."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crash.test_sweep import clean, counting, essence, go_on

SEED = 7


def killed_at_random(folder, seed, undisturbed):
    """One run whose guardians are killed up to three times, at moments of the clock."""
    chance = random.Random(seed)
    guarded = counting(folder)
    guarded.start()
    for _ in range(chance.randint(1, 3)):
        time.sleep(chance.uniform(0, 2.0))
        if guarded.process.poll() is not None:
            break
        guarded.process.kill()
        guarded.process.wait()
        begun = guarded.call("status", "--json").stdout
        again = "unreadable" not in begun and '"attempt"' in begun
        guarded.start(*(("resume", guarded.name) if again else ()))
    if guarded.process.wait() != 0:
        go_on(guarded)
    clean(guarded)
    assert undisturbed == essence(guarded), guarded.shown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run, with a guardian that nobody kills."""
    guarded = counting(tmp_path_factory.mktemp("undisturbed"))
    assert 0 == guarded.run(), guarded.shown()
    return essence(guarded)


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_a_few_random_moments(tmp_path, seed, undisturbed):
    """In every run of the tests."""
    killed_at_random(tmp_path, seed, undisturbed)


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_many_random_moments(tmp_path, undisturbed):
    """A hundred together with those above, a few at a time: they mostly wait."""

    def one(seed):
        folder = tmp_path / str(seed)
        folder.mkdir()
        killed_at_random(folder, seed, undisturbed)

    with ThreadPoolExecutor(4) as several:
        for done in [several.submit(one, seed) for seed in range(100, 195)]:
            done.result()
