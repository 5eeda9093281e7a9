"""How the companion tells, and why nothing of it reaches the job: the heartbeat, and what guards each piece.

The one part that is loaded with the companion itself: whatever else breaks is told by it.

In the syntax of Python 3.8, on the standard library.
"""

import functools
import json
import numbers
import os
import time

HEARTBEAT = "heartbeat.{rank}.jsonl"  # guardian/core/wire.py has it too; a test compares them
FAILURES_ALLOWED = 3
TEXT_LIMIT = 2000  # characters of an exception's message that are told


class Heartbeat:
    """This process's file in the attempt's folder. What cannot be written is lost, and the job goes on."""

    def __init__(self, folder):
        self.folder = folder
        self.path = None
        self.held = []
        self.torn = False

    def path_of(self, rank):
        return os.path.join(self.folder, HEARTBEAT.format(rank=rank))

    def open(self, rank):
        self.path = self.path_of(rank)

    def tell(self, event, **facts):
        """One line, with one write. What comes before the first training loop is held back until it begins."""
        self.held.append(json.dumps(dict({"t": round(time.time(), 3), "ev": event}, **facts), default=str))
        if self.path is not None:
            lines, self.held = self.held, []
            for line in lines:
                self.append(line)

    def append(self, line):
        data = (("\n" if self.torn else "") + line + "\n").encode()
        try:
            # Opened for each line (5 us): a job may close, or reuse, the descriptors it does not know.
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self.torn = os.write(file, data) < len(data)  # a disk that fills up takes half a line
            finally:
                os.close(file)
        except OSError:
            pass


def guarded(piece):
    """A method of the companion whose failure is told and never reaches the job."""
    name = piece.__name__

    @functools.wraps(piece)
    def run(self, *args, **kwargs):
        failed = self.failures.get(name, 0)
        if failed >= FAILURES_ALLOWED:
            return None
        try:
            return piece(self, *args, **kwargs)
        except Exception as error:
            self.failures[name] = failed + 1
            off = failed + 1 >= FAILURES_ALLOWED
            self.heartbeat.tell("error", where=name, err=known(described, error), off=off)
            return None

    return run


def described(error):
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    where = f"{os.path.basename(code.co_filename)}:{place.tb_lineno}"
    return f"{type(error).__name__}: {str(error)[:TEXT_LIMIT]} ({where})"


def known(read, *args):
    """What can be read; None where it cannot: a version of a framework without it, a device that is gone."""
    try:
        return read(*args)
    except Exception:
        return None


def plain(logs):
    """The numbers and strings among what the trainer logged."""
    kept = {}
    for name, value in logs.items():
        if isinstance(value, str):
            kept[str(name)] = value[:TEXT_LIMIT]
        elif isinstance(value, numbers.Integral):
            kept[str(name)] = int(value)
        elif isinstance(value, numbers.Real):
            kept[str(name)] = float(value)
    return kept
