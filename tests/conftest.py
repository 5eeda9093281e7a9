"""What holds for every test: property tests are judged by their answer, never by their speed; the user's home is his."""

import os

import pytest
from hypothesis import settings

settings.register_profile("guardian", deadline=None)  # shared and slow machines are no failure
settings.load_profile("guardian")


@pytest.fixture(autouse=True, scope="session")
def _no_test_writes_into_the_users_home(tmp_path_factory):
    """The registry of all that is started without an environment of its own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
