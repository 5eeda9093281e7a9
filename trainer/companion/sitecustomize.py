"""Puts the companion into a training job: Python runs this file at its start, because its folder is on PYTHONPATH.

It imports nothing, so that every other Python process of the job starts as before. The companion beside it is
loaded when, and only if, the job imports the trainer of transformers. A failure in here leaves the job unwatched.
"""

import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
TRAINER = "transformers.trainer"


class TrainerFinder:
    """Stands first among the interpreter's finders and lets the others find the trainer's module."""

    def __init__(self):
        self.searching = False

    def find_spec(self, name, path=None, target=None):
        if name != TRAINER or self.searching:  # searching: a second one of us asks the others too
            return None
        self.searching = True
        try:
            for finder in sys.meta_path:
                spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
                if spec is not None:
                    followed(spec.loader)
                    return spec
        finally:
            self.searching = False
        return None


def followed(loader):
    """Let the companion in as soon as the loader has run the module."""
    try:
        run = loader.exec_module

        def exec_module(module):
            run(module)
            install(module)

        loader.exec_module = exec_module
    except AttributeError as error:  # a loader of another kind: the module loads without us
        complain(error)


def install(trainer_module):
    try:
        companion().install(trainer_module)
    except Exception as error:
        complain(error)


def companion():
    """The companion's module, compiled at the first call: the path it was found by is gone from sys.path."""
    name = "guardian_companion"
    if name not in sys.modules:
        from importlib import util  # whoever imports transformers has it already

        spec = util.spec_from_file_location(name, os.path.join(FOLDER, name + ".py"))
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def complain(error):
    try:  # noqa: SIM105 - contextlib is not loaded in most of the processes that start here
        sys.stderr.write(f"guardian companion: not installed: {type(error).__name__}: {error}\n")
    except Exception:
        pass


def run_hidden():
    """Run the sitecustomize that this one hides (Debian ships one); Python reports an error in it as always."""
    own = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401 - not this file: its folder has left sys.path
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
        if own is not None:
            sys.modules["sitecustomize"] = own


sys.path[:] = [place for place in sys.path if os.path.abspath(place) != FOLDER]
if os.environ.get("GUARDIAN_DIR"):
    if TRAINER in sys.modules:
        install(sys.modules[TRAINER])
    sys.meta_path.insert(0, TrainerFinder())
run_hidden()
