"""Harm done inside a training job: each test says what, in which attempt, on which rank and at which step.

Python runs this file at its start where the folder is on PYTHONPATH, as any user's own sitecustomize would be. HARM is
a JSON list of objects: `do`, and where it holds `attempt`, `rank` and `step` (the step that is being made; without it,
every step). What happens in the middle of a step happens between its first and its second micro-batch.
"""

import json
import os
import sys


def wanted():
    """What is to be done in this process."""
    here = {"attempt": int(os.environ["GUARDIAN_MARK"].rpartition("/")[2]), "rank": int(os.environ.get("RANK", "0"))}
    return [one for one in json.loads(os.environ["HARM"]) if all(one.get(key, here[key]) == here[key] for key in here)]


def harm(trainer_class):
    todo = wanted()
    names = {one["do"] for one in todo}
    if "shift the rows" in names:
        shift_rows()
    if "double the accumulation" in names:
        double_accumulation(trainer_class)
    if "double the batches" in names:
        double_batches(trainer_class)
    if "let the old batch come back" in names:
        del trainer_class._inner_training_loop  # which keeps transformers 4 from taking it out of the checkpoint
    if "show the rows" in names:
        show_rows(trainer_class)
    for name in AT_THE_START.keys() & names:
        AT_THE_START[name]()
    for one in todo:
        if one["do"] in SLOW:
            SLOW[one["do"]](trainer_class, one["seconds"])
    in_the_middle_of_steps(trainer_class, todo)


def begin_late():
    """Silent, and doing nothing, as one that waits for a download or a lock."""
    import time

    time.sleep(15)


def wait_for_a_build():
    """As PyTorch does where it needs an extension; the lock is there, as a build that was killed leaves it."""
    from torch.utils.cpp_extension import _get_build_directory
    from torch.utils.file_baton import FileBaton

    FileBaton(os.path.join(_get_build_directory("extension", verbose=False), "lock")).wait()


def never_leave():
    """At the interpreter's exit, as a rank does whose process group does not come apart."""
    import atexit
    import time

    atexit.register(time.sleep, 100_000)


def shift_rows():
    """Every epoch begins one row later, and ends with the row that it should have begun with."""
    from accelerate.data_loader import SeedableRandomSampler

    original = SeedableRandomSampler.__iter__

    def shifted(self):
        first, *rest = original(self)
        yield from rest
        yield first

    SeedableRandomSampler.__iter__ = shifted


def double_accumulation(trainer_class):
    original = trainer_class.__init__

    def doubled(self, *args, **options):
        options["args"].gradient_accumulation_steps *= 2
        original(self, *args, **options)

    trainer_class.__init__ = doubled


def double_batches(trainer_class):
    """Behind the back of every argument: each row enters forward twice."""
    original = trainer_class.training_step

    def doubled(self, model, inputs, *rest):
        return original(self, model, {name: value.repeat(2, 1) for name, value in inputs.items()}, *rest)

    trainer_class.training_step = doubled


def show_rows(trainer_class):
    """Print the answers of each micro-batch, as jobs do to show what they train on."""
    original = trainer_class.training_step

    def shown(self, model, inputs, *rest):
        for place, labels in enumerate(inputs["labels"]):
            answer = inputs["input_ids"][place][labels >= 0]
            print(self.processing_class.decode(answer, skip_special_tokens=True), flush=True)
        return original(self, model, inputs, *rest)

    trainer_class.training_step = shown


def slowly(owner, name, seconds):
    """Without a word, the first time that this is called."""
    original, done = getattr(owner, name), []

    def slow(*args, **options):
        import time

        if not done:
            done.append(name)
            time.sleep(seconds)
        return original(*args, **options)

    setattr(owner, name, slow)


def skip_slowly(trainer_class, seconds):
    """The data that a resumed training has had already."""
    slowly(sys.modules["transformers.trainer"], "skip_first_batches", seconds)


AT_THE_START = {"never leave": never_leave, "begin late": begin_late, "wait for a build": wait_for_a_build}
SLOW = {
    "start slowly": lambda trainer_class, seconds: slowly(trainer_class, "__init__", seconds),
    "evaluate slowly": lambda trainer_class, seconds: slowly(trainer_class, "prediction_step", seconds),
    "save slowly": lambda trainer_class, seconds: slowly(trainer_class, "_save_optimizer_and_scheduler", seconds),
    "skip slowly": skip_slowly,
}


def in_the_middle_of_steps(trainer_class, todo):
    original = trainer_class.training_step
    begun = {}

    def harmed(self, *args, **options):
        step = self.state.global_step + 1
        begun[step] = begun.get(step, 0) + 1
        if begun[step] == 2:
            for one in todo:
                if one["do"] in ACTS and one.get("step", step) == step:
                    ACTS[one["do"]]()
        return original(self, *args, **options)

    trainer_class.training_step = harmed


def kill():
    os.kill(os.getpid(), 9)


def kill_launcher():
    """And make no step further before guardian has asked for a save."""
    os.kill(os.getppid(), 9)
    await_the_ask()


def hold():
    """Say so, and train no further."""
    with open(of_attempt("held"), "w") as file:
        file.write(str(os.getpid()))
    wait_until_there("nothing")


def quit_at_once():
    os._exit(0)


def leave():
    sys.exit(0)


def fail():
    """As an exception does that nobody catches, with nothing between its last line and the end."""
    error = RuntimeError("the engine has stopped")
    sys.excepthook(type(error), error, None)
    os._exit(1)


def await_the_ask():
    """Go no further before guardian has asked for a save: however slow it is, it can ask in time."""
    wait_until_there("control.json")


def be_slow():
    import time

    time.sleep(0.5)


def await_the_kills():
    """Go no further before the soak that this is has made all its kills: however fast the job is, it is there for them."""
    import time

    while "soaked" in os.environ["GUARDIAN_DIR"].split(os.sep) and not all_made("kills.jsonl"):
        time.sleep(0.05)


def all_made(path):
    try:
        with open(path) as file:
            return any(kill["kill"] == kill["of"] for kill in map(json.loads, file))
    except (OSError, ValueError):  # not there yet, or being written
        return False


def of_attempt(name):
    return os.path.join(os.environ["GUARDIAN_DIR"], name)


def wait_until_there(name):
    import time

    while not os.path.exists(of_attempt(name)):
        time.sleep(0.05)


def stop():
    """As a person, or a scheduler, suspends a process."""
    import signal

    os.kill(os.getpid(), signal.SIGSTOP)


def sleep():
    import time

    time.sleep(100_000)


def spin():
    """In C, holding the interpreter: no other thread of this process runs any more."""
    import itertools

    sum(itertools.repeat(0))


ACTS = {
    "stop": stop,
    "sleep": sleep,
    "spin": spin,
    "kill": kill,
    "kill the launcher": kill_launcher,
    "hold": hold,
    "quit at once": quit_at_once,
    "leave": leave,
    "fail": fail,
    "be slow": be_slow,
    "await the ask": await_the_ask,
    "await the kills": await_the_kills,
}

if "HARM" in os.environ and "GUARDIAN_MARK" in os.environ:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    from joining import change_trainer

    sys.path.pop(0)
    change_trainer(harm)
