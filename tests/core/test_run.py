"""The fold: where a run stands after which story, and what is counted of its steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.core import events as ev
from guardian.core import run as stands
from guardian.core import summing
from guardian.core.folding import begin, fold

CREATED = ev.RunCreated("uuid", "r1", ("train",), "/", None, True, "{}", "0", 1000)


def stamped(event, wall=100.0):
    """A record of the event."""
    return ev.Record(ev.Stamp(wall, 0.0, "boot", "node", 1), event)


def story(*events, run=None):
    """The run after these events, each a second after the one before."""
    for second, event in enumerate(events):
        run = fold(run or begin(stamped(CREATED)), stamped(event, 101.0 + second))
    return run or begin(stamped(CREATED))


def planned(attempt=1, *, resume_from=None, not_before=0.0):
    """The plan of an attempt."""
    return ev.Planned(attempt, ("train",), (), resume_from, None, (), not_before, "because")


def launched(attempt=1):
    """The attempt runs."""
    return (planned(attempt), ev.Launched(attempt, 11, 22))


def hello(rank=0, *, world=1, attempt=1, max_steps=60):
    """A rank's loop begins."""
    return ev.Hello(
        attempt, rank, 33, world, 0, max_steps, 4, 2, world, 8 * world, None, 10, 1e-4, "/out", "T", None, (), 1.0
    )


def step(number, rank=0, *, attempt=1, rows=8, loss=2.0):
    """A rank finishes a step and tells its loss with it."""
    fingerprint = 2**63 + number
    return (
        ev.LossSeen(attempt, rank, number, loss + rank / 10),
        ev.StepDone(attempt, rank, number, rows, rows * 100, fingerprint, 1e-4, 1000.0 + number),
    )


def ended(attempt=1, *, last_step=None, checkpoints=()):
    """The attempt is whole."""
    return ev.Ended(attempt, 1, None, last_step, (), None, checkpoints)


# --- where it stands ---------------------------------------------------------------------------------------------


def test_a_run_begins_with_its_creation_and_nothing_else():
    """A journal without its first record is no story."""
    assert stands.Idle() == begin(stamped(CREATED)).state
    with pytest.raises(TypeError):
        begin(stamped(ev.KeeperLost(1)))


@pytest.mark.parametrize(
    "events, state",
    [
        ((planned(not_before=500.0),), stands.Paused(500.0)),
        ((planned(resume_from="/c"),), stands.Checking(101.0)),
        ((planned(resume_from="/c"), ev.Pinned(1, "/c", None, "none")), stands.Paused(0.0)),
        (launched(), stands.Starting()),
        ((*launched(), ev.JobStarted(1, 44, 55), hello()), stands.Starting()),
        ((*launched(), hello(), *step(1)), stands.Running()),
        ((*launched(), ev.Logged(1, 3, 60, 2.0, None, None)), stands.Running()),
        ((*launched(), ev.Logged(1, None, None, 2.0, None, None)), stands.Starting()),
        ((*launched(), ev.StopBegun(1, "asked", ())), stands.Stopping("asked", "asked", 103.0)),
        ((*launched(), ev.StopBegun(1, "w", ()), ev.SaveAsked(1, 9)), stands.Stopping("w", "saving", 104.0)),
        ((*launched(), ev.StopBegun(1, "w", ()), ev.Signalled(1, 15, 3)), stands.Stopping("w", "terminating", 104.0)),
        ((*launched(), ev.StopBegun(1, "w", ()), ev.Signalled(1, 9, 3)), stands.Stopping("w", "killing", 104.0)),
        ((*launched(), ev.LauncherExited(1, 1, None)), stands.Starting()),
        ((*launched(), ev.TreeEnded(1)), stands.Ending(103.0)),
        ((*launched(), ev.StartFailed(1, "no such file")), stands.Ending(103.0)),
        ((*launched(), ev.TreeEnded(1), ended()), stands.Over()),
        ((*launched(), ev.RunFinished(ev.Outcome.STOPPED, 75, "asked")), stands.Finished(ev.Outcome.STOPPED, 75, "asked")),
    ],
)  # fmt: skip
def test_a_run_stands_where_its_story_put_it(events, state):
    """Every state is reached by records alone."""
    assert state == story(*events).state


def test_a_stage_begins_once():
    """The second TERM does not restart the time that the job has to end."""
    run = story(*launched(), ev.StopBegun(1, "w", ()), ev.Signalled(1, 15, 3), ev.Signalled(1, 15, 2))

    assert stands.Stopping("w", "terminating", 104.0) == run.state
    assert 2 == len(run.attempts[0].signalled)


@pytest.mark.parametrize("late", [step(5), (ev.Logged(1, 5, 60, 2.0, None, None),), (ev.TreeEnded(1),)])
@pytest.mark.parametrize(
    "end",
    [
        (ev.TreeEnded(1),),
        (ev.TreeEnded(1), ended()),
        (ev.TreeEnded(1), ended(), ev.RunFinished(ev.Outcome.GAVE_UP, 1, "budget")),
        (ev.TreeEnded(1), ended(), planned(2)),
        (ev.TreeEnded(1), ended(), *launched(2)),
    ],
)
def test_what_is_heard_late_does_not_bring_an_attempt_back_to_life(end, late):
    """The heartbeats of an ended attempt are read again at each start."""
    run = story(*launched(), hello(), *step(1), *end)

    assert run.state == story(*late, run=run).state


def test_a_stopped_run_that_is_taken_up_again_goes_on_from_its_last_attempt():
    """What asked for its end no longer counts; what happened stays."""
    stop = ev.StopRequested(ev.StopBy.SIGTERM)
    run = story(*launched(), stop, ev.TreeEnded(1), ended(), ev.RunFinished(ev.Outcome.STOPPED, 75, "asked"))
    assert 1 == len(run.stop_requests)
    again = story(ev.SupervisorStarted("resume", "", reopened=True), run=run)

    assert (stands.Over(), (), None) == (again.state, again.stop_requests, again.finished_wall)
    assert run.attempts == again.attempts


def test_records_of_an_attempt_that_nobody_planned_are_ignored():
    """A foreign file in the attempt's folder is no attempt."""
    run = story(*launched(), *step(1, attempt=7), ended(2), ended(0))

    assert (1, stands.Starting()) == (len(run.attempts), run.state)


# --- what is counted ---------------------------------------------------------------------------------------------


def test_a_step_is_the_sum_over_the_ranks():
    """Rows, tokens and fingerprints add, modulo 2^64; the loss is the mean, as the trainer logs it."""
    run = story(*launched(), hello(0, world=2), hello(1, world=2), *step(1, 0, rows=8), *step(1, 1, rows=7))

    (one,) = run.attempts[0].steps
    assert stands.Step(step=1, rows=15, tokens=1500, fingerprint=2, loss=2.05, lr=1e-4, wall=1001.0) == one
    assert (1, 1, 60) == (run.attempts[0].first_step, run.attempts[0].last_step, run.attempts[0].max_steps)


def test_a_step_counts_when_every_rank_has_finished_it():
    """Half a global batch is not a batch; but the highest step that anyone reached is known."""
    run = story(*launched(), hello(0, world=2), hello(1, world=2), *step(1, 0), *step(2, 0), *step(1, 1))

    assert [1] == [one.step for one in run.attempts[0].steps]
    assert 2 == run.attempts[0].last_step


def test_what_a_rank_does_not_know_is_unknown_for_the_step():
    """A sum with a part missing would be a lie."""
    blind = ev.StepDone(1, 1, 1, None, None, None, None, 1001.0)
    run = story(*launched(), hello(0, world=2), *step(1, 0), blind, ended())

    (one,) = run.attempts[0].steps
    assert (None, None, None, None) == (one.rows, one.tokens, one.fingerprint, one.loss)


def test_a_line_that_was_lost_costs_its_own_step_alone():
    """A full disk swallowed one line of one rank; what comes after is counted."""
    events = [one for number in (1, 2, 3) for rank in (0, 1) if (number, rank) != (2, 1) for one in step(number, rank)]
    run = story(*launched(), hello(0, world=2), *events, ended())

    assert [1, 3] == [one.step for one in run.attempts[0].steps]


def test_a_rank_that_never_speaks_takes_no_memory(monkeypatch):
    """Its companion broke: nothing can be counted, and nothing piles up for it either."""
    monkeypatch.setattr(summing, "PARTIAL_MOST", 50)
    run = story(*launched(), hello(0, world=2), *(one for number in range(1, 200) for one in step(number)))

    assert (0, 50, 199) == (len(run.attempts[0].steps), len(run.attempts[0].partial), run.attempts[0].last_step)


def told(rank, *, late):
    """All that a rank says in eight steps; its losses come so many steps late, the last ones never."""
    losses = [ev.LossSeen(1, rank, number, 0.1 * number + rank / 3) for number in range(1, 9 - late)]
    steps = [step(number, rank)[1] for number in range(1, 9)]
    return [*steps[:late], *(one for pair in zip(losses, steps[late:], strict=True) for one in pair)]


RANKS = 3
TOLD = (told(0, late=0), told(1, late=1), told(2, late=1))
OPENING = (*launched(), *(hello(rank, world=RANKS) for rank in range(RANKS)))


@given(st.permutations([rank for rank in range(RANKS) for _ in TOLD[rank]]))
def test_the_order_in_which_the_ranks_are_heard_does_not_matter(order):
    """Each file in its own order, in any shuffle: whoever reads them again gets the same steps, to the last bit."""
    lines = [iter(one) for one in TOLD]
    shuffled = story(*OPENING, *(next(lines[rank]) for rank in order), ended()).attempts[0]
    plain = story(*OPENING, *TOLD[0], *TOLD[1], *TOLD[2], ended()).attempts[0]

    assert list(plain.steps) == list(shuffled.steps)
    assert plain.rank_steps == shuffled.rank_steps
    assert list(range(1, 9)) == [one.step for one in plain.steps]
    assert all(one.loss is not None for one in plain.steps[:7])


SAID = (
    *OPENING[2:],
    *(one for lines in zip(*TOLD, strict=False) for one in lines),
    ev.Logged(1, 4, None, 2.0, 1.0, 1e-4, 1004.0),
    ev.Logged(1, 8, None, 1.0, 1.0, 1e-4, 1008.0),
    ev.Logged(1, 8, None, 0.5, None, None, 1008.5),
    ev.PhaseChanged(1, 0, "save", 8),
    ev.BatchDone(1, 0, 3, 1008.7),
    ev.Saved(1, 0, 8, "/out/checkpoint-8"),
    ev.Acknowledged(1, 0, 8),
    ev.TrainingEnded(1, 0, 8, 8, "max_steps"),
    ev.ExceptionLeft(1, 1, 8, "KeyError", "'x'"),
    ev.SourceLost("companion of rank 2", "on_log: off", 1),
    ev.Hit(1, "rule", 0, 77, ev.Line(3, "boom")),
    ev.CheckpointSeen(1, ev.Checkpoint("/out/checkpoint-8", 8, complete=True)),
)


@given(st.integers(0, len(SAID)))
def test_hearing_the_files_again_changes_nothing(known):
    """A guardian that takes over reads them from their beginning, however much of them it knows."""
    whole = story(*SAID, run=story(*launched()))
    again = story(*SAID, run=story(*SAID[:known], run=story(*launched())))

    assert replace(whole, heard_wall=0.0) == replace(again, heard_wall=0.0)


def test_the_last_step_of_a_loaded_run_is_the_one_that_was_seen():
    """Without a companion the log alone showed the steps, and the log's numbers are not told again."""
    assert 41 == story(*launched(), ev.TreeEnded(1), ended(last_step=41)).attempts[0].last_step
    assert 42 == story(*launched(), hello(), *step(42), ended(last_step=41)).attempts[0].last_step


def test_progress_is_the_highest_complete_checkpoint_of_all_attempts():
    """Seen while it trained, or found at the end; a torn one does not count."""
    found = (ev.Checkpoint("/a", 30, complete=False), ev.Checkpoint("/b", 20, complete=True))
    run = story(*launched(), ended(checkpoints=found), *launched(2))

    assert 20 == run.best_step
    assert 25 == story(ev.CheckpointSeen(2, ev.Checkpoint("/c", 25, complete=True)), run=run).best_step
