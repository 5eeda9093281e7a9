"""The supervisor's ear: heard by the same user, one supervisor per run."""

import os
import queue
import uuid

import pytest

from guardian.host import control


def test_a_stop_request_is_heard_and_answered():
    """`guardian stop` knows that the living supervisor has it."""
    run, heard = uuid.uuid4().hex, queue.SimpleQueue()
    ear = control.Ear(os.getuid(), run, lambda: heard.put("stop"))
    try:
        assert control.lives(os.getuid(), run)
        assert control.ask_stop(os.getuid(), run)
        assert "stop" == heard.get(timeout=30)
    finally:
        ear.close()


def test_without_a_supervisor_nobody_hears():
    """Then the command ends the job itself."""
    assert not control.ask_stop(os.getuid(), uuid.uuid4().hex)
    assert not control.lives(os.getuid(), uuid.uuid4().hex)


def test_a_second_supervisor_of_the_run_is_refused():
    """The address is free again as soon as the first one is gone."""
    run = uuid.uuid4().hex
    first = control.Ear(os.getuid(), run, lambda: None)
    with pytest.raises(OSError, match="in use"):
        control.Ear(os.getuid(), run, lambda: None)
    first.close()
    control.Ear(os.getuid(), run, lambda: None).close()
