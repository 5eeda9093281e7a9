"""Stacks out of strangers' text, grouped by what is the same, with the ranks named that the others wait for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardian.core import events as ev
from guardian.core import records, stacks, stacktext
from guardian.core.stacks import Rank, Stack
from guardian.core.stacktext import Frame
from tests.core.stories import hello, launched, story

TORCH = "/opt/venv/lib/python3.11/site-packages/torch"
WAITING = f"""Thread 0x00007f429 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "/usr/lib/python3.11/threading.py", line 1038 in _bootstrap

Current thread 0x00007f42953efb80 [MainThread] (most recent call first):
  File "{TORCH}/distributed/distributed_c10d.py", line 2810 in all_reduce
  File "{TORCH}/distributed/c10d_logger.py", line 83 in wrapper
  File "/home/user/job.py", line 40 in sync
  File "/home/user/trainer/companion/guardian_companion.py", line 850 in watch_micro_step
  File "/home/user/job.py", line 90 in <module>
"""
ASLEEP = """Current thread 0x00007f42953efb80 (most recent call first):
  File "/home/user/job.py", line 31 in train_step
  File "/home/user/job.py", line 90 in <module>
"""
LOADING = f"""Current thread 0x00007f42953efb80 (most recent call first):
  File "/usr/lib/python3.11/selectors.py", line 415 in select
  File "{TORCH}/utils/data/_utils/worker.py", line 275 in _worker_loop
"""


def stack(rank, text="", *, kind="rank", pid=None, state="S", waits=None):
    """Of a process that printed this."""
    frames = stacktext.main_frames(stacktext.parse_faulthandler(text))
    pid = 100 + rank if pid is None else pid
    source = "faulthandler" if frames else "proc"
    return Stack(pid, 7, kind, rank, "python", source, frames, stacktext.digest(frames), state, waits)


# --- reading -------------------------------------------------------------------------------------------------


def test_the_main_thread_of_a_dump_is_the_last_one():
    """Innermost call first."""
    first, main = stacktext.parse_faulthandler(WAITING)

    assert (False, True) == (first.main, main.main)
    assert Frame(f"{TORCH}/distributed/distributed_c10d.py", 2810, "all_reduce") == main.frames[0]
    assert ["all_reduce", "wrapper", "sync", "watch_micro_step", "<module>"] == [one.function for one in main.frames]
    assert main.frames == stacktext.main_frames((first, main))


@pytest.mark.parametrize(
    ("text", "functions"),
    [
        ("", []),
        ("nothing of a dump\n", []),
        ('  File "before.py", line 1 in any_thread\n', []),
        ("Current thread 0x1 (most recent call first):\n  <no Python frame>\n", []),
        ('Stack (most recent call first):\n  File "a.py", line ??? in f\n  ...\n', ["f"]),
        ('Current thread 0x1 (most recent call first):\n  Garbage-collecting\n  File "a b", line 2 in <listcomp>\n', ["<listcomp>"]),
        ('Current thread 0x1 (most recent call first):\n  File "odd", line 7 in name", line 3 in g\n  File "torn", li', ["g"]),
    ],
)  # fmt: skip
def test_what_is_torn_or_unknown_in_a_dump_is_left_out(text, functions):
    """The rest counts."""
    assert functions == [one.function for one in stacktext.main_frames(stacktext.parse_faulthandler(text))]


def test_a_dump_without_end_is_read_in_part():
    """Threads, frames and names are bounded."""
    frames = '  File "%s", line 1 in f\n' % ("x" * 1000) * 1000
    found = stacktext.parse_faulthandler(("Thread 0x1 (most recent call first):\n" + frames) * 300)

    assert stacktext.THREADS_MOST >= len(found)
    assert {stacktext.FRAMES_MOST} >= {len(one.frames) for one in found[:-1]}
    assert stacktext.NAME_MOST == len(found[0].frames[0].file)


@settings(derandomize=True, max_examples=60)
@given(st.text() | st.text(alphabet='File "",line in0x(most recent call first):\n<>'))
def test_any_text_is_read_without_complaint(text):
    """As a dump and as py-spy's."""
    stacktext.parse_faulthandler(text)
    stacktext.parse_pyspy(text)


@settings(derandomize=True, max_examples=60)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["frames", "name", "line", "thread_name"]), inner)
        ),
    )
)
def test_any_json_is_read_without_complaint(value):
    """Of another py-spy, or of none."""
    stacktext.parse_pyspy(json.dumps(value))


def test_what_py_spy_prints_is_read():
    """As version 0.4.3 printed it, without what is not looked at; the main thread by its name."""
    other = {"name": "Thread.run", "filename": "/usr/lib/python3.11/threading.py", "module": None, "line": 982}
    main = [{"name": "deep", "filename": "job.py", "line": 5}, {"name": "<module>", "filename": "job.py", "line": 0}]
    text = json.dumps([
        {"pid": 1, "thread_name": "Thread-1 (run)", "os_thread_id": 2, "frames": [other]},
        {"pid": 1, "thread_name": "MainThread", "os_thread_id": 1, "frames": main},
    ])  # fmt: skip

    assert (Frame("job.py", 5, "deep"), Frame("job.py", None, "<module>")) == stacktext.main_frames(
        stacktext.parse_pyspy(text)
    )


# --- comparing -----------------------------------------------------------------------------------------------


def test_the_rank_that_did_not_enter_the_collective_is_the_odd_one():
    """Also of two ranks, where neither place has more of them."""
    for ranks in (2, 8):
        found = [stack(1, ASLEEP), *(stack(rank, WAITING) for rank in range(ranks) if rank != 1)]
        groups = stacks.group(found)

        assert (1,) == stacks.odd_ranks(groups)
        assert [True, False] == [one.odd for one in groups]


def test_many_ranks_that_are_late_are_odd_where_one_waits_for_them():
    """Who waits is told by the call, not by the number."""
    found = [stack(0, WAITING), stack(1, ASLEEP), stack(2, ASLEEP), stack(3, ASLEEP)]

    assert (1, 2, 3) == stacks.odd_ranks(stacks.group(found))


def test_a_stopped_rank_is_odd_whatever_its_stack():
    """The kernel's word is enough."""
    found = [stack(0, WAITING), stack(1, state="T")]

    assert (1,) == stacks.odd_ranks(stacks.group(found))


def test_without_a_difference_nobody_is_odd():
    """All at one place, or two places of which neither says that it waits."""
    elsewhere = ASLEEP.replace("31", "32")

    assert () == stacks.odd_ranks(stacks.group([stack(0, WAITING), stack(1, WAITING)]))
    assert () == stacks.odd_ranks(stacks.group([stack(0, ASLEEP), stack(1, elsewhere)]))
    assert () == stacks.odd_ranks(stacks.group([]))


def test_a_stack_that_never_changed_over_three_samples_is_the_same():
    """Those of which one sample is another, missing, or of another process, are not."""
    first = (stack(0, WAITING), stack(1, ASLEEP), stack(2, ASLEEP), stack(3), stack(4, state="T"), stack(5, ASLEEP))
    moved = (*first[:2], stack(2, WAITING), *first[3:5], replace(first[5], start_ticks=8))

    assert (0, 1, 2, 4, 5) == stacks.same(first, first, first)
    assert (0, 1, 4) == stacks.same(first, first, moved)
    assert (1,) == stacks.same(first, first[1:2], first)
    assert () == stacks.same(first)
    assert () == stacks.same()


def test_a_wait_for_a_disk_without_a_stack_is_a_place_too():
    """A sleep of which nothing is known is none."""
    disk, sleep = stack(0, state="D", waits="nfs_wait_bit_killable"), stack(0, waits="futex")

    assert (0,) == stacks.same((disk,), (disk,), (disk,))
    assert () == stacks.same((disk,), (disk,), (replace(disk, waits="io_schedule"),))
    assert () == stacks.same((sleep,), (sleep,), (sleep,))


# --- telling -------------------------------------------------------------------------------------------------


def test_the_odd_rank_is_told_beside_the_others():
    """With the job's own call where the innermost one is a library's."""
    found = [stack(1, ASLEEP), *(stack(rank, WAITING) for rank in (0, 2, 3, 4, 5, 6, 7))]

    assert (
        "rank 1 stands in train_step at job.py:31; "
        "ranks 0, 2-7 stand in all_reduce at distributed_c10d.py:2810, called from sync at job.py:40"
    ) == stacks.summary(stacks.group(found))


def test_each_group_is_told_with_its_innermost_calls():
    """Ranks first, the odd one before the others; then the loaders, then what is above the ranks; nothing of ours."""
    found = [
        stack(0, WAITING), stack(1, state="T"), stack(0, LOADING, kind="worker", pid=200), stack(0, LOADING, kind="worker", pid=201),
        replace(stack(0, kind="launcher", pid=90, waits="wait4"), rank=None, name="torchrun"),
    ]  # fmt: skip

    assert (
        "rank 1 is stopped by a signal (SIGSTOP or SIGTSTP) and waits for SIGCONT",
        "rank 0 stands in all_reduce at distributed_c10d.py:2810, called from sync at job.py:40",
        "  all_reduce (torch/distributed/distributed_c10d.py:2810)",
        "  wrapper (torch/distributed/c10d_logger.py:83)",
        "  sync (home/user/job.py:40)",
        "  <module> (home/user/job.py:90)",
        "2 loader processes of rank 0 stand in select at selectors.py:415",
        "  select (lib/python3.11/selectors.py:415)",
        "  _worker_loop (data/_utils/worker.py:275)",
        "launcher torchrun (pid 90) gave no stack (it is in wait4)",
    ) == stacks.words(stacks.group(found))


def test_what_is_told_is_bounded():
    """A thousand ranks, each at a place of its own with long names."""
    texts = [ASLEEP.replace("job.py", "x" * 500 + f"{rank}.py") for rank in range(1000)]
    lines = stacks.words(stacks.group([stack(rank, text) for rank, text in enumerate(texts)]))

    assert 41 == len(lines)
    assert stacks.LINE_MOST >= max(len(line) for line in lines)
    assert 2 * stacks.LINE_MOST >= len(stacks.summary(stacks.group([stack(n, t) for n, t in enumerate(texts)])))


def test_numbers_are_told_in_spans():
    """At most a dozen of them."""
    assert "0, 2-7" == stacks.spans((7, 0, 2, 3, 4, 5, 6))
    assert "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, ..." == stacks.spans(tuple(range(0, 99, 2)))


# --- where it comes from and goes to --------------------------------------------------------------------------


def test_a_stack_survives_the_journal():
    """Its types are those that a record can hold."""
    codec = records.codec(tuple[Stack, ...])
    found = (stack(0, WAITING), stack(1, state="T"))

    assert found == codec.from_plain(json.loads(json.dumps(codec.to_plain(found))))


def test_ranks_are_known_by_pid_and_start_time_with_what_they_said():
    """One whose hello came from another process than the one that was found did not say that it is armed."""
    silent, armed = hello(ranks=2)
    run = story(
        launched(), silent, replace(armed, armed=True),
        ev.RankFound(1, 0, silent.pid, 7), ev.RankFound(1, 1, armed.pid, 8), ev.RankFound(1, 2, 99, 9),
    )  # fmt: skip

    assert (
        Rank(0, silent.pid, 7, False), Rank(1, armed.pid, 8, True), Rank(2, 99, 9, False),
    ) == stacks.ranks_of(run.attempts[0])  # fmt: skip
