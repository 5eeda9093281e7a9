"""Run a command without some calls of the kernel, as a strict sandbox would: `denied.py COMMAND...`.

Refused with EPERM: ptrace and what goes with it (reading another process's memory), and pidfd. A seccomp filter holds
for all that the command starts and needs no privilege. Exit code 1 where the kernel or the machine has no such filters.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

CALLS = {
    "x86_64": {"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312},
    "aarch64": {"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272},
}
EVERYWHERE = {"pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438}

# linux/prctl.h, linux/seccomp.h, linux/bpf_common.h
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def instructions(numbers):
    """Load the call's number; where it is one of these, jump behind all the others to the refusal."""
    yield LOAD_WORD, 0, 0, 0
    for place, number in enumerate(numbers):
        yield JUMP_IF_EQUAL, len(numbers) - place, 0, number
    yield RETURN, 0, 0, ALLOW
    yield RETURN, 0, 0, REFUSE | errno.EPERM


def deny(numbers):
    """Whether this process, and all that it becomes and starts, is refused these calls from now on."""
    code = b"".join(struct.pack("HBBI", *one) for one in instructions(numbers))
    text = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.cast(text, ctypes.c_void_p))
    prctl = ctypes.CDLL(None).prctl
    return (
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 == prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program))
    )


if __name__ == "__main__":
    calls = CALLS.get(platform.machine())
    if calls is None or not deny([*calls.values(), *EVERYWHERE.values()]):
        sys.exit("no such filter on this machine")
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - a shell would be one more thing in between
