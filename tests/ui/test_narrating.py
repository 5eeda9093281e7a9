"""The lines that are shown as it happens: each says by itself what happened, and what follows from it."""

from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.ui.narrating import narrate
from tests.core import stories as tell
from tests.core.stories import records

PATH = "/home/me/out/checkpoint-20"
TRAINING = (tell.launched(), tell.hello(), tell.steps(1, 3))
CTRL_C = ev.StopRequested(ev.StopBy.CTRL_C)
TERM = ev.StopRequested(ev.StopBy.SIGTERM)


def lines(*parts):
    """All that is shown of a story."""
    told = records(*parts)
    run = tell.begin(told[0])
    shown = []
    for record in told[1:]:
        run = tell.fold(run, record)
        shown.append(narrate(run, record))
    return [line for line in shown if line is not None]


def test_a_quiet_run_is_told_in_few_lines():
    """Command, batch, checkpoints, end."""
    shown = lines(tell.launched(), tell.hello(), tell.steps(1, 60), tell.saved(30, 60), tell.finished())

    command = "sft --model demo --dataset demo --output_dir out --max_steps 60 --save_steps 10"
    assert [
        f"attempt 1 starts: {command}\n  added to its environment: PYTHONUNBUFFERED=1; stdin: /dev/null",
        "attempt 1 trains to step 60, effective batch 16 = 4 x 4 x 1 (device batch x accumulation x data-parallel ranks)",
        "checkpoint of step 30 is complete",
        "checkpoint of step 60 is complete",
        "run r1 finished after 1 min 11 s: the job ended as it should",
    ] == shown


def test_what_gpus_report_and_who_holds_their_memory_is_told():
    """With what follows from it."""
    held = ("GPU 0 holds 8000 MiB more than at the first launch (process 77 python: 8000 MiB)",)
    full = "the job's memory on GPU 0 climbs by 57.0 MiB a step and is full in about 20 steps"
    shown = lines(
        TRAINING,
        ev.GpuFault(0, 0, "lost", 79, "the card has fallen off the bus", tell.NOW),
        ev.StopBegun(0, full, (1,), "cuda-oom", facts=(("gpu_leak_mib_per_step", 57.0),)),
        ev.DrainBegun(0, held, tell.NOW + 200),
        ev.Reaped(0, 15, ("123 python train.py",)),
        ev.Reaped(0, 15, ()),
        ev.Drained(0),
        ev.Drained(0, held),
    )

    assert "GPU 0 reports Xid 79: the card has fallen off the bus" == shown[2]
    assert f"attempt 1 is ended before it must, and goes on from there: {full}" == shown[3]
    assert shown[4].startswith("attempt 1 waits for memory of the GPUs, ")
    assert shown[4].endswith(f" s at most\n  {held[0]}")
    assert "SIGTERM is sent to what an earlier attempt of this run left behind\n  123 python train.py" == shown[5]
    assert [
        "the GPUs are free again",
        f"the GPUs' memory is held still, and is waited for no longer: {held[0]}",
    ] == shown[6:]


def test_a_recovery_tells_cause_evidence_change_and_pin():
    """Each edit of the command stands where it is decided."""
    edit = ev.Edit("resume_from", None, PATH, "resume")
    again = ev.Planned(0, tell.ARGV, (), PATH, 20, (edit,), tell.NOW + 500, "", (("/x/checkpoint-25", "cut off"),))
    cause = ev.Cause(
        "oom", None, "r", "Out of memory", (ev.Line(7, "token hf_abcdefghijklmnopqrstuvwxyz"),), 1, "Less."
    )
    shown = lines(
        TRAINING, tell.ended(1, cause=cause), again, ev.Pinned(0, PATH, "pins/20", "hard links"), ev.Launched(0, 1, 1)
    )

    assert "attempt 1: its first process ended with exit code 1" == shown[2]
    assert shown[3].startswith("attempt 1 ended at step 3: Out of memory [oom]\n  job.log:7: token ")
    assert "hf_abcdefghijklmnopqrstuvwxyz" not in shown[3]
    assert shown[3].endswith("\n  Less.")
    assert (
        f"attempt 2 resumes from step 20 ({PATH}) in 488 s\n  resume_from: (not set) -> {PATH}"
        "\n  passed over /x/checkpoint-25: cut off"
    ) == shown[4]
    assert "that checkpoint is pinned in the run folder, as hard links: it stays until there is a newer one" == shown[5]
    assert "attempt 2 starts: the command changed as said, in the same environment" == shown[6]


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ((CTRL_C,), "Ctrl-C: the job is being stopped (once more: without a save; a third time: it is killed)"),
        ((CTRL_C, TERM), "SIGTERM: no save is waited for any more"),
        ((CTRL_C, TERM, ev.StopRequested(ev.StopBy.COMMAND)), "guardian stop: the job is killed"),
    ],
)
def test_a_request_to_stop_says_what_it_does_and_what_the_next_one_would(requests, said):
    """Whoever presses the key again knows what for."""
    assert said == lines(*TRAINING, *requests)[-1]


def test_a_request_that_finds_no_job_stops_the_run():
    """While it waits for the next attempt."""
    assert "Ctrl-C: the run stops here" == lines(*TRAINING, tell.killed(), CTRL_C)[-1]


def test_a_stop_that_was_asked_for_is_not_explained_twice():
    """One that was not is."""
    why = ev.StopBegun(0, "the launcher is gone and its processes live on", (1,))

    assert lines(*TRAINING, CTRL_C) == lines(*TRAINING, CTRL_C, why)
    assert f"what is left of attempt 1 is being ended: {why.why}" == lines(*TRAINING, why)[-1]


def test_signals_are_told_once_each():
    """KILL is repeated until nothing is left."""
    kill = ev.Signalled(0, 9, 2)

    shown = lines(*TRAINING, CTRL_C, ev.SaveAsked(0, 7), ev.Signalled(0, 15, 1), kill, kill)

    assert [
        "the job is asked to save at step 7 and to end there",
        "SIGTERM is sent to 1 process of attempt 1",
        "SIGKILL is sent to 2 processes of attempt 1",
    ] == shown[-3:]


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (ev.Outcome.GAVE_UP, "run r1 gave up after 2 s: why"),
        (ev.Outcome.NOT_RETRYABLE, "run r1 failed for good after 2 s: why"),
        (ev.Outcome.STOPPED, "run r1 stopped after 2 s: why"),
    ],
)
def test_the_end_is_said_in_words(outcome, said):
    """No name of a constant."""
    assert said == lines(tell.created(), ev.RunFinished(outcome, 1, "why"))[-1]


def test_every_journalled_fact_that_a_person_should_hear_has_its_words():
    """What happens to guardian itself too."""
    assert [
        "run r1 goes on: the job lives: adopted",
        "the terminal is gone (SIGHUP): the run goes on without one",
        "cannot see heartbeats: Permission denied",
        "attempt 1 has lost its keeper, guardian's own helper: the job lives on, its exit code stays unknown",
        "that checkpoint is not pinned (no room): until the next one the job itself could delete it",
        "attempt 1 could not be started: x: No such file",
    ] == lines(
        *TRAINING, tell.resumed(), ev.TerminalLost(), tell.blind("heartbeats", "Permission denied"), ev.KeeperLost(0),
        ev.Pinned(0, PATH, None, "none", "no room"), ev.StartFailed(0, "x: No such file"),
    )[-6:]  # fmt: skip


def test_what_trains_in_a_command_that_says_nothing_is_told_once_it_has_spoken():
    """Who it is, and what cannot be changed there; and that the command stays as it is."""
    told = {"takes_resume": False, "argv": ("/w/train.py",), "versions": (("transformers", "5.19.0"),)}
    why = "it has a loader of its own"
    hello = tuple(replace(one, **told, fixed=(("device_batch", why),)) for one in tell.hello())
    shown = lines(
        tell.created(family=None),
        tell.launched(),
        hello,
        tell.steps(1, 3),
        tell.killed(),
        tell.launched(resume=2),
        hello,
    )

    assert shown[0].endswith(
        "learnt from inside, once it does; until then it is\n  watched, explained and restarted as it is"
    )
    assert shown[1].endswith(
        "\n  Trainer of train.py with transformers 5.19.0: its arguments and its resume are changed from inside"
        f"\n  device_batch cannot be changed there: {why}"
    )
    assert "attempt 2 starts: the same command, the training changed inside as said, in the same environment" in shown
    assert [] == [line for line in shown[2:] if "of train.py" in line]
