"""How the companion gets into a process: by a sitecustomize that no process may notice.

The trainer here is a stand-in of a few lines, so that many interpreters can be started.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys

import pytest

from tests.companion.launching import COMPANION

TRAINER = """
class TrainerCallback:
    pass
class CallbackHandler:
    def __init__(self, callbacks):
        self.callbacks = list(callbacks)
class Trainer:
    def __init__(self):
        self.callback_handler = CallbackHandler([])
        self.state = None
    def _inner_training_loop(self, batch_size=None):
        return "trained"
    def training_step(self, model, inputs):
        return 0.5
"""
LOOK = "from transformers.trainer import *; print(*[type(one).__name__ for one in CallbackHandler([]).callbacks])"


@pytest.fixture
def libraries(tmp_path):
    """A folder with the stand-in for transformers."""
    folder = tmp_path / "libraries"
    (folder / "transformers").mkdir(parents=True)
    (folder / "transformers" / "__init__.py").touch()
    (folder / "transformers" / "trainer.py").write_text(TRAINER)
    return folder


def python(code, *path, watched=True, cwd=None):
    """The output of an interpreter with these folders on its PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GUARDIAN_", "PYTHON"))}
    places = os.pathsep.join(map(str, path))
    env = {
        **kept,
        "PYTHONPATH": places,
        "PYTHONDONTWRITEBYTECODE": "1",
        **({"GUARDIAN_DIR": "/nowhere"} if watched else {}),
    }
    ran = subprocess.run([sys.executable, "-c", code], env=env, cwd=cwd, capture_output=True, text=True, check=True)
    return ran.stdout.strip(), ran.stderr.strip()


def test_the_companion_joins_a_trainer_that_is_imported(libraries):
    """However the import comes about: from, import, importlib."""
    named = "import importlib; importlib.import_module('transformers.trainer'); "

    assert ("GuardianCallback", "") == python(LOOK, COMPANION, libraries)
    assert ("GuardianCallback", "") == python(named + LOOK, COMPANION, libraries)


def test_the_companion_joins_a_trainer_that_was_there_before(libraries):
    """The loader run late, by hand."""
    late = f"import transformers.trainer, runpy; runpy.run_path({str(COMPANION / 'sitecustomize.py')!r}); "

    assert ("GuardianCallback", "") == python(late + LOOK, libraries)


def test_without_guardian_the_process_is_as_it_would_be(libraries):
    """The folder on the path alone does nothing."""
    finders = "import sys; print(*[str(one).split(' at ')[0] for one in sys.meta_path])"

    assert ("", "") == python(LOOK, COMPANION, libraries, watched=False)
    assert python(finders, libraries) == python(finders, COMPANION, libraries, watched=False)


def test_a_process_that_does_not_train_loads_nothing_more():
    """Every helper process of a job pays for what is imported at its start."""
    listed = "import sys; print(*sorted(set(sys.modules) - {'sitecustomize'}))"

    assert python(listed) == python(listed, COMPANION)


def test_the_folder_leaves_the_path_but_not_the_environment(libraries):
    """The job imports from its own places; the processes that it starts are watched too."""
    child = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {LOOK!r}]); "
    code = child + f"print({str(COMPANION)!r} in sys.path, {str(COMPANION)!r} in os.environ['PYTHONPATH'])"

    assert ("GuardianCallback\nFalse True", "") == python(code, COMPANION, libraries)


def test_another_sitecustomize_still_runs(libraries, tmp_path):
    """Debian ships one, and jobs bring theirs; afterwards it is the one that everybody finds."""
    (tmp_path / "sitecustomize.py").write_text("print('theirs')\nhere = 1")
    there = "import sitecustomize; print(sitecustomize.here); "

    assert ("theirs\n1\nGuardianCallback", "") == python(there + LOOK, COMPANION, tmp_path, libraries)


def test_an_error_in_another_sitecustomize_is_reported_as_always(libraries, tmp_path):
    """Python says so and goes on; we are in place."""
    (tmp_path / "sitecustomize.py").write_text("1 / 0")
    _, plainly = python("", tmp_path)
    out, err = python(LOOK, COMPANION, tmp_path, libraries)

    assert "GuardianCallback" == out
    assert "ZeroDivisionError: division by zero" in plainly
    assert plainly.splitlines()[-1] == err.splitlines()[-1]


def test_a_missing_import_in_another_sitecustomize_is_reported_as_always(libraries, tmp_path):
    """Only our own search for another one may come back with nothing."""
    (tmp_path / "sitecustomize.py").write_text("import of_nothing")
    _, plainly = python("", tmp_path)

    assert "of_nothing" in plainly
    assert plainly.splitlines()[-1] == python("", COMPANION, tmp_path)[1].splitlines()[-1]


@pytest.mark.parametrize("broken", ["def", "import of_nothing", "raise RuntimeError('broken')"])
def test_a_broken_companion_leaves_the_job_unwatched(libraries, tmp_path, broken):
    """One line on stderr, and the trainer as it is."""
    copy = tmp_path / "copy"
    shutil.copytree(COMPANION, copy)
    (copy / "guardian_companion.py").write_text(broken)
    out, err = python(LOOK, copy, libraries)

    assert "" == out
    assert 1 == len(err.splitlines())
    assert err.startswith("guardian companion: not installed: ")


def test_a_trainer_of_another_shape_is_watched_as_far_as_it_goes(libraries):
    """Versions differ: the stand-in knows no evaluation and no checkpoints."""
    (libraries / "transformers" / "trainer.py").write_text(TRAINER.replace("_inner_training_loop", "loop"))
    code = "from transformers.trainer import Trainer; print(Trainer().loop(), hasattr(Trainer, 'evaluate'))"

    assert ("trained False", "") == python(code, COMPANION, libraries)


def test_a_module_that_is_no_trainer_at_all_is_left_alone(libraries):
    """Somebody else's transformers."""
    (libraries / "transformers" / "trainer.py").write_text("value = 3")
    out, err = python("from transformers.trainer import value; print(value)", COMPANION, libraries)

    assert "3" == out
    assert err.startswith("guardian companion: not installed: AttributeError")


def test_nested_guardians_join_once(libraries, tmp_path):
    """Two loaders of two installations, one trainer, one callback."""
    shutil.copytree(COMPANION, tmp_path / "other")

    assert ("GuardianCallback", "") == python(LOOK, COMPANION, tmp_path / "other", libraries)


def test_a_copied_or_pickled_trainer_carries_no_companion(libraries):
    """Whoever unpickles it may not have us, and a copy must not write in our name."""
    code = (
        "import copy, pickle, sys; from transformers.trainer import *; handler = CallbackHandler([]); "
        "print(type(copy.deepcopy(handler).callbacks[0]).__name__); print(pickle.dumps(handler.callbacks).hex())"
    )
    copied, pickled = python(code, COMPANION, libraries)[0].splitlines()

    assert "TrainerCallback" == copied
    assert b"guardian" not in bytes.fromhex(pickled)
    assert pickled.endswith(pickle.STOP.hex())
