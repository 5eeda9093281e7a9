"""Stacks as programs print them, read: Python's faulthandler, and py-spy.

Pure. It is strangers' text, and may be torn: every list and name is bounded, what is not understood is left out.
"""

from __future__ import annotations

import json
import zlib

from guardian.core.values import dataclass

TEXT_MOST = 1 << 20
"""Characters of one process's dump that are looked at; faulthandler writes 100 threads of 100 frames at most."""
THREADS_MOST = 128
FRAMES_MOST = 100
"""Of a thread that are told apart by; what is kept of them is less."""
NAME_MOST = 200
"""Characters of a file's or a function's name, from its end."""
LOADER = "torch/utils/data/_utils/worker.py"


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of a stack."""

    file: str
    line: int | None
    function: str


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread of a dump."""

    frames: tuple[Frame, ...]
    """Innermost first."""
    main: bool = False
    """Known to be the main thread."""


def parse_faulthandler(text: str) -> tuple[Thread, ...]:
    """The threads of one dump of Python's faulthandler; what is torn or unknown in it is left out."""
    threads: list[list[Frame]] = []
    for line in text[:TEXT_MOST].splitlines():
        if line.endswith("(most recent call first):"):
            if len(threads) == THREADS_MOST:
                break
            threads.append([])
        elif threads and len(threads[-1]) < FRAMES_MOST:
            frame = _frame(line)
            if frame is not None:
                threads[-1].append(frame)
    # CPython puts a new thread in front of those that it has, and dumps from the front: the main thread is the last.
    return tuple(Thread(tuple(frames), number == len(threads) - 1) for number, frames in enumerate(threads))


def parse_pyspy(text: str) -> tuple[Thread, ...]:
    """The threads of `py-spy dump --json`; none where it is not what that prints."""
    try:
        found = json.loads(text[: 4 * TEXT_MOST])
    except (ValueError, RecursionError):
        return ()
    threads = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return tuple(_pyspy_thread(one) for one in threads[:THREADS_MOST])


def main_frames(threads: tuple[Thread, ...]) -> tuple[Frame, ...]:
    """The main thread's frames; of the first thread that has any where nobody says which is the main one."""
    chosen = next((one.frames for one in threads if one.main and one.frames), None)
    return chosen if chosen is not None else next((one.frames for one in threads if one.frames), ())


def digest(frames: tuple[Frame, ...]) -> str | None:
    """Names a whole stack; None for an empty one."""
    if not frames:
        return None
    text = "\n".join(f"{one.file}\0{one.line}\0{one.function}" for one in frames)
    return f"{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"


def is_loader(frames: tuple[Frame, ...]) -> bool:
    """Whether the stack is that of a torch data loader's process."""
    return any(one.file.endswith(LOADER) for one in frames)


def _frame(line: str) -> Frame | None:
    if not line.startswith('  File "'):
        return None
    file, _, rest = line[8:4096].rpartition('", line ')
    number, _, function = rest.partition(" in ")
    if not file or not function:
        return None
    return Frame(
        file[-NAME_MOST:], int(number) if number.isascii() and number.isdecimal() else None, function[-NAME_MOST:]
    )


def _pyspy_thread(thread: dict[str, object]) -> Thread:
    found = thread.get("frames")
    frames = (
        [_pyspy_frame(one) for one in found[:FRAMES_MOST] if isinstance(one, dict)] if isinstance(found, list) else []
    )
    return Thread(tuple(frames), thread.get("thread_name") == "MainThread")


def _pyspy_frame(frame: dict[str, object]) -> Frame:
    line = frame.get("line")
    return Frame(
        str(frame.get("filename", "?"))[-NAME_MOST:],
        line if type(line) is int and line > 0 else None,
        str(frame.get("name", "?"))[-NAME_MOST:],
    )
