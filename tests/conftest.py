"""What holds for every test: judged by the answer, never by the speed; the user's home is his; Ctrl-C is heard.

Those that train for minutes are begun first, or the last of them would run alone while the other cores wait.
"""

import os
import signal
from collections import Counter

import pytest
from hypothesis import settings

settings.register_profile("guardian", deadline=None)  # shared and slow machines are no failure
settings.load_profile("guardian")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and what the tests start would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST_FIRST = ("frameworks", "crash", "faults", "trainer", "companion")
"""Folders of tests whose jobs are real."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Files stay as they are; folders, and in each the files with the most long tests, come in that order."""
    here = config.rootpath / "tests"
    long = Counter(item.path for item in items if item.get_closest_marker("long"))

    def turn(item):
        folder = item.path.relative_to(here).parts[0]
        place = LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)
        return not long[item.path], place, -long[item.path]

    items.sort(key=turn)


@pytest.fixture(autouse=True, scope="session")
def _no_test_writes_into_the_users_home(tmp_path_factory):
    """The registry of all that is started without an environment of its own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
