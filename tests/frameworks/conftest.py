"""Runs of the matrix: the undisturbed one of a start is made once for all that is compared with it in a file."""

from functools import cache

import pytest

from tests.faults.harness import marked, surviving
from tests.frameworks.matrix import ended, guarded_start
from tests.frameworks.starts import STARTS, make_model


@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """The folder of a family's model, made once; a plain script makes its own."""

    @cache
    def made(family):
        return None if family.startswith("transformers") else make_model(family, tmp_path_factory.mktemp("models"))

    return made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, model_of):
    """The steps of the run of a start that nothing is done to."""
    started = []

    @cache
    def run(name):
        folder = tmp_path_factory.mktemp("undisturbed")
        guarded = guarded_start(name, folder, model_of(STARTS[name].family))
        started.append(guarded)
        code = ended(guarded)
        report = guarded.report()
        verdict = report["certificate"]["verdict"]
        assert (0, 1, "proved") == (code, len(report["attempts"]), verdict), guarded.shown()[-5000:]
        return surviving(guarded.story())

    yield run
    for guarded in started:
        guarded.clean_up()


@pytest.fixture
def disturbed(tmp_path, model_of):
    """Runs a start that things are done to; nothing of it outlives the test."""
    started = []

    def run(name, *deeds):
        guarded = guarded_start(name, tmp_path, model_of(STARTS[name].family), *deeds)
        started.append(guarded)
        code = ended(guarded)
        assert {} == marked(guarded.story().created.run)
        return code, guarded, guarded.report()

    yield run
    for guarded in started:
        guarded.clean_up()
