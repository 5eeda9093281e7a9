"""Signals of the job: which ones its own handlers heard, and how one is kept away from a save.

In the syntax of Python 3.8, on the standard library; a failure here never reaches the job.
"""

import contextlib
import functools
import signal
import threading


class Signals:
    """Notes that a signal reached a handler of the job's own; where the default stands, it stays."""

    WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    # Handlers are looked for while the loop starts up, not for ever: two parties that each wrap the other's
    # handler at every step would build an endless chain.
    LOOKS = 4

    def __init__(self):
        self.heard = False
        self.looks = 0
        self.wrapped = {}

    def look(self):
        if self.looks == self.LOOKS or threading.current_thread() is not threading.main_thread():
            return
        self.looks += 1
        for signum in self.WATCHED:
            handler = signal.getsignal(signum)
            ours, _ = self.wrapped.get(signum, (None, None))
            if callable(handler) and handler is not signal.default_int_handler and handler is not ours:
                ours = functools.partial(self.hear, handler)
                self.wrapped[signum] = (ours, handler)
                signal.signal(signum, ours)

    def hear(self, handler, signum, frame):
        self.heard = True
        return handler(signum, frame)

    def leave(self):
        if threading.current_thread() is threading.main_thread():
            for signum, (ours, handler) in self.wrapped.items():
                if signal.getsignal(signum) is ours:
                    signal.signal(signum, handler)


@contextlib.contextmanager
def deaf_to_children():
    """Torch raises in the middle of anything when a data loader process dies; here that is what is being met."""
    heard = signal.getsignal(signal.SIGCHLD)
    if not callable(heard) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except Exception:  # what was due already is raised here
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, heard)
