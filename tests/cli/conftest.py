"""Runs in the background, for all tests of this folder."""

import pytest

from tests.cli.behind import FOR_EVER, Behind


@pytest.fixture
def behind(tmp_path):
    """Makes such runs; nothing of them outlives the test."""
    made = []

    def make(*words, upto=FOR_EVER, folder="here", name="r1", gated=False):
        run = Behind(tmp_path / folder, *words, upto=upto, name=name, gated=gated)
        run.env["XDG_STATE_HOME"] = str(tmp_path / "state")  # one user, whatever the folder
        made.append(run)
        return run

    yield make
    for run in made:
        run.clean_up()
