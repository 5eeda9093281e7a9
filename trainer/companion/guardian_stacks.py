"""Stacks of all threads on request, written by the interpreter's own C code: also where Python hangs in a call.

They go into memory that has a name and no place on a disk (memfd_create(2)): a file system that hangs or is full does
not matter, and the many loader processes of a training leave no files behind. Guardian reads it in /proc/PID/fd.

A signal that a process is not armed for would end it: whoever asks must see it in SigCgt of /proc/PID/status, and the
memory that bears the process's own pid among its descriptors, first.
A process that has a handler of its own on that signal, or sets one later, keeps it.
"""

import faulthandler
import fcntl
import os
import signal

MEMORY = "guardian-stacks-{pid}"
SIGNAL = signal.SIGRTMIN + 7 if hasattr(signal, "SIGRTMIN") else None
# Far from the numbers that a job closes and opens: text must not land in a file that took over our number.
NUMBER_AT_LEAST = 500
CLOSE_ON_EXEC = 1  # MFD_CLOEXEC

state = {"create": None, "file": None}


def arm():
    """This process and those that it forks; each has memory of its own."""
    if SIGNAL is None or signal.getsignal(SIGNAL) is not signal.SIG_DFL:
        return
    state["create"] = getattr(os, "memfd_create", None) or by_the_library()
    register()
    os.register_at_fork(after_in_child=again)


def by_the_library():
    """For Pythons that were built against an older C library than the one they run with (conda's are)."""
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).memfd_create

    def create(name):
        number = call(name.encode(), CLOSE_ON_EXEC)
        if number < 0:
            raise OSError(ctypes.get_errno(), "memfd_create")
        return number

    return create


def register():
    low = state["create"](MEMORY.format(pid=os.getpid()))
    try:
        file = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, NUMBER_AT_LEAST)
    finally:
        os.close(low)
    faulthandler.register(SIGNAL, file=file, all_threads=True, chain=False)
    before, state["file"] = state["file"], file
    if before is not None:
        os.close(before)


def again():
    """In a forked child; one that cannot have its own memory must not write into its parent's."""
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
