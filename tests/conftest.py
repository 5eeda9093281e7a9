"""What holds for every test: judged by the answer, never by the speed; the user's home is his; Ctrl-C is heard."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("guardian", deadline=None)  # shared and slow machines are no failure
settings.load_profile("guardian")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and what the tests start would not hear Ctrl-C either.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _no_test_writes_into_the_users_home(tmp_path_factory):
    """The registry of all that is started without an environment of its own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
