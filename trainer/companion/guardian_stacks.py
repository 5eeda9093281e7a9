"""Stacks of all threads on request, written by the interpreter's own C code: also where Python hangs in a call.

A signal that a process is not armed for would end it: whoever asks must see it in SigCgt of /proc/PID/status first.
A process that has a handler of its own on that signal, or sets one later, keeps it.
"""

import faulthandler
import fcntl
import os
import signal

STACKS = "stacks"
SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else None
# Far from the numbers that a job closes and opens: text must not land in a file that took over our number.
NUMBER_AT_LEAST = 500

state = {"folder": None, "file": None}


def arm(folder):
    """This process and those that it forks; each has a file of its own."""
    if SIGNAL is None or signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return
    state["folder"] = os.path.join(folder, STACKS)
    register()
    os.register_at_fork(after_in_child=again)


def register():
    os.makedirs(state["folder"], mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    low = os.open(os.path.join(state["folder"], f"{os.getpid()}.txt"), flags, 0o600)
    try:
        file = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, NUMBER_AT_LEAST)
    finally:
        os.close(low)
    faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)
    before, state["file"] = state["file"], file
    if before is not None:
        os.close(before)


def again():
    """In a forked child; one that cannot have its own file must not write into its parent's."""
    if not armed():
        return
    try:
        register()
    except Exception:
        faulthandler.unregister(SIGNAL)
        state["file"] = None


def armed():
    """Python's table shows a handler of the job's own, and not the one in C."""
    return state["file"] is not None and signal.getsignal(SIGNAL) is signal.SIG_DFL
