"""What the readings of GPUs mean: whose memory it is, whether it climbs, what broke."""

import json
from dataclasses import replace

import pytest

from guardian.core import cards, folding, gpus, probelines
from guardian.core import events as ev
from guardian.core import run as stands
from guardian.core.deciding import AskSave, BeginStop, Launch, Measure, Reap, SendSignal, Tell, Wait, decide
from guardian.core.facts import FACTS, facts_of
from guardian.core.planning import Terms
from guardian.core.policy import Gpu, Policy
from guardian.core.run import Step
from guardian.core.trail import Trail
from tests.core.attempts import attempt, hello, run

OURS, OTHER = 9, 77
"""The rank of the builders' hello; a stranger."""
NOW = 1000.0


def card(used=1000.0, *holders, index=0, **more):
    """A card of 24 GiB; holders: (pid, MiB)."""
    held = tuple(cards.Holder(pid, mib, pid == OURS, f"p{pid}") for pid, mib in holders)
    known = {"total_mib": 24000.0, "free_mib": 24000.0 - used, "processes": held} | more
    return cards.Card(index, f"GPU-{index}", used_mib=used, **known)


def seen(*shown, wall=NOW, host_pids=True):
    """One look at these cards."""
    return ev.GpusSeen(1, wall, host_pids, shown)


def living(*, launched=NOW - 100, hellos=None, **changes):
    """An attempt that trains."""
    said = (hello(10_000),) if hellos is None else hellos
    plan = ev.Launched(1, 2, 3)
    return replace(attempt(), ended=None, launched=plan, launched_wall=launched, hellos=said, **changes)


def watched(one, *looks):
    """The attempt after these looks, (step, GpusSeen)."""
    for step, look in looks:
        one = replace(one, rank_steps=((0, step),))
        one = replace(one, gpus=gpus.after(one, look))
    return one


def climbing(by_mib, *, first=1000.0, steps=range(0, 400, 5), shape=None):
    """A job that holds so much more at each step."""
    held = shape or (lambda step: first + by_mib * step)
    return watched(living(), *((step, seen(card(held(step), (OURS, held(step))))) for step in steps))


# --- the probe's lines -------------------------------------------------------------------------------------------


def test_a_reading_that_is_missing_is_unknown():
    """Null and absent alike; no reading becomes 0."""
    line = {"ev": "seen", "t": 1.5, "cards": [{"index": 0, "uuid": "u", "used_mib": 5, "utilisation": None}]}
    told = probelines.parse(json.dumps(line).encode())

    assert probelines.Seen(1.5, (cards.Card(0, "u", used_mib=5.0),)) == told
    assert None is told.cards[0].utilisation
    assert {"gpu0_used_mib": 5.0} == probelines.readings(told.cards)


@pytest.mark.parametrize(
    "line", [b"", b"no json", b"[]", b'{"ev": "seen"', b'{"ev": "news"}', b'{"ev": "xid"}', b"[" * 100_000]
)
def test_what_is_no_line_of_the_probe_says_nothing(line):
    """A newer probe, a broken one."""
    assert None is probelines.parse(line)


@pytest.mark.parametrize("strange", [{"cards": 3}, {"cards": [3]}, {"cards": [{"processes": 3}]}, {"t": "x"}])
def test_strange_values_in_a_line_break_nothing(strange):
    """They are unknown."""
    assert isinstance(probelines.parse(json.dumps({"ev": "seen"} | strange).encode()), probelines.Seen)


# --- whose memory it is ------------------------------------------------------------------------------------------


def test_where_pids_count_the_strangers_memory_is_told_from_ours():
    """On the card that the job uses."""
    one = watched(living(), (5, seen(card(9000.0, (OURS, 6000.0), (OTHER, 2500.0)), card(300.0, index=1))))
    facts = facts_of(run(one), one)

    assert (9000.0, 24000.0, 2500.0) == tuple(
        facts[n] for n in ("gpu_memory_used_mib", "gpu_memory_total_mib", "gpu_foreign_mib")
    )
    assert facts["gpu_foreign_share"] == pytest.approx(2500 / 24000)


def test_a_stranger_whose_memory_is_not_told_makes_it_unknown():
    """Unknown is not 0."""
    one = watched(living(), (5, seen(card(9000.0, (OURS, 6000.0), (OTHER, None)))))

    assert "gpu_foreign_mib" not in facts_of(run(one), one)


def test_in_a_container_what_was_held_before_the_job_is_others():
    """Pids name nobody here."""
    early = living(launched=NOW - 2, hellos=())
    one = watched(early, (0, seen(card(3000.0), host_pids=False)))
    one = watched(replace(one, hellos=(hello(100),)), (5, seen(card(9000.0), wall=NOW + 60, host_pids=False)))

    assert 3000.0 == facts_of(run(one), one)["gpu_foreign_mib"]


def test_who_came_late_in_a_container_knows_nothing():
    """What it sees first is the job's own."""
    one = watched(living(), (5, seen(card(9000.0), host_pids=False)), (6, seen(card(9500.0), host_pids=False)))

    assert not [name for name in facts_of(run(one), one) if name.startswith("gpu_")]


def test_of_a_card_that_is_cut_into_instances_nothing_is_concluded():
    """The whole card's memory is not the job's part."""
    one = watched(living(), (5, seen(card(9000.0, (OURS, 6000.0), mig=True))))

    assert not [name for name in facts_of(run(one), one) if name.startswith("gpu_")]


# --- memory that climbs --------------------------------------------------------------------------------------------


def test_a_steady_climb_is_a_leak():
    """By its slope."""
    assert gpus.leak(climbing(10.0).gpus[0].climb) == pytest.approx(10.0, rel=0.05)


@pytest.mark.parametrize(
    "shape",
    [
        lambda _: 5000.0,
        lambda step: 5000.0 + 60.0 * (step > 200),
        lambda step: 5000.0 + 4000.0 * (step > 30),  # the first long row
        lambda step: 5000.0 + (2000.0 if step % 50 < 10 else 0.0),  # evaluation
        lambda step: 3000.0 + 900.0 * (step + 1).bit_length(),  # ever rarer records
    ],
)
def test_other_shapes_are_no_leak(shape):
    """Allocators grow at first, rows differ, evaluations come and go."""
    assert 0.0 == gpus.leak(climbing(0, shape=shape).gpus[0].climb)


def test_of_few_steps_nothing_is_said():
    """Unknown, and so no rule is true by it."""
    one = climbing(10.0, steps=range(0, 30, 1))

    assert None is gpus.leak(one.gpus[0].climb)
    assert "gpu_leak_mib_per_step" not in facts_of(run(one), one)


def test_what_is_kept_does_not_grow_with_the_run():
    """A million steps are not a million points; the slope is still the slope."""
    one = climbing(0.01, steps=range(0, 50_000, 10))

    assert len(one.gpus[0].climb) <= gpus.CLIMB_MOST
    assert gpus.leak(one.gpus[0].climb) == pytest.approx(0.01, rel=0.1)


def test_a_strangers_climb_is_not_the_jobs():
    """Where pids count."""
    looks = ((s, seen(card(1000.0 + 20 * s, (OURS, 1000.0), (OTHER, 20.0 * s)))) for s in range(0, 400, 5))

    assert 0.0 == gpus.leak(watched(living(), *looks).gpus[0].climb)


def trained(one):
    """With the whole steps that a companion tells of, a second each, the last of them just now."""
    steps = Trail()
    for at in range(1, one.last_step + 1):
        steps = steps.append(Step(at, 16, 100, 1, 2.0, 1e-3, NOW - one.last_step + at))
    return replace(one, steps=steps, step_wall=NOW)


def decided(one, *, now=NOW, policy=None, **changes):
    """What is decided of a run whose last attempt this is."""
    terms = Terms("r", ("sft",), None, policy or Policy(), "/w/run", "python", "/companion", None)
    return decide(run(one, **({"state": stands.Running()} | changes)), terms, now)


def test_a_leak_is_met_by_a_planned_save_before_the_memory_is_full():
    """The same batch goes on; an OOM would lose what was done since the last checkpoint."""
    one = trained(climbing(57.0))
    decision = decided(one)

    assert isinstance(decision, BeginStop)
    assert ("cuda-oom", True) == (decision.rule, "full in about" in decision.why)
    assert dict(decision.facts)["gpu_leak_mib_per_step"] == pytest.approx(57.0, rel=0.05)


def test_the_job_is_asked_to_save_and_not_only_ended():
    """Nothing has failed yet."""
    one = trained(climbing(57.0))
    stop = ev.StopBegun(1, "full soon", (OURS,), "cuda-oom", None, (("gpu_leak_mib_per_step", 57.0),))
    stopping = stands.Stopping("full soon", "asked", NOW)
    asked = replace(one, stop=stop, stop_wall=NOW, alive=frozenset({OURS}))

    assert isinstance(decided(asked, now=NOW + 5, state=stopping), AskSave)
    hangs = replace(asked, stop=replace(stop, facts=()))
    assert isinstance(decided(hangs, now=NOW + 5, state=stopping), SendSignal)


@pytest.mark.parametrize(
    "rate, total, ranks_heard",
    [(20.0, 10_000, True), (50.0, 420, True), (0.0, 10_000, True), (57.0, 10_000, False)],
    ids=["far from full", "done before it is full", "no climb", "nobody could save"],
)
def test_no_save_is_planned_without_need(rate, total, ranks_heard):
    """It would cost a start."""
    one = trained(climbing(rate))
    said = replace(hello(total), world=1 if ranks_heard else 2)

    assert isinstance(decided(replace(one, hellos=(said,))), Wait)


# --- faults --------------------------------------------------------------------------------------------------------


def fault(kind, number=None, index=0):
    """A card's report."""
    return ev.GpuFault(1, index, kind, number, f"what {kind} means", NOW)


def test_the_gravest_fault_of_the_jobs_cards_is_the_fact():
    """A card that others use, and what only follows from something, count nothing."""
    one = watched(living(), (5, seen(card(9000.0, (OURS, 6000.0)))))
    one = replace(one, gpu_faults=(fault("program", 31), fault("hardware", 48), fault("lost", 79, 3)))
    facts = facts_of(run(one), one)

    assert ("hardware", 48.0, "GPU 0 reports Xid 48: what hardware means") == tuple(
        facts[n] for n in ("gpu_fault", "gpu_xid", "gpu_fault_text")
    )
    after = replace(one, gpu_faults=(fault("aftermath", 43), fault("note", 63)))
    assert "gpu_fault" not in facts_of(run(after), after)


def test_what_the_job_went_on_after_ended_it_not():
    """It is told, and no fact; a card that is lost is lost."""
    on = {"step_wall": NOW + 60}
    program = living(gpu_faults=(fault("program", 31),), **on)
    gone = living(gpu_faults=(fault("lost", 79),), **on)

    assert "gpu_fault" not in facts_of(run(program), program)
    assert "lost" == facts_of(run(gone), gone)["gpu_fault"]


@pytest.mark.parametrize(
    "value, index, may",
    [(None, 3, True), ("0,1", 1, True), ("0,1", 3, False), ("GPU-a", 0, True), ("GPU-0", 0, True), ("GPU-9", 0, False)],
)
def test_before_the_job_is_seen_on_a_card_its_variable_says_which_it_may_use(value, index, may):
    """What cannot be told may be."""
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}

    assert may is gpus.visible(environment, index, "" if value == "GPU-a" else "GPU-0")


def test_every_gpu_fact_is_in_the_table():
    """With its unit, its source, and when it is unknown."""
    one = replace(climbing(10.0), gpu_faults=(fault("hardware", 48),))
    found = {name for name in facts_of(run(one), one) if name.startswith("gpu_")}

    assert found == {name for name in FACTS if name.startswith("gpu_")}


# --- memory that is held before a relaunch ---------------------------------------------------------------------------

POLICY = Policy(gpu=Gpu(drain_wait_s=60, drain_tolerance_mib=512))


def relaunch(used, *holders, wall=NOW, host_pids=True, **changes):
    """A second attempt that is ready, ten seconds after the first ended; the cards as they are."""
    first = replace(watched(living(), (5, seen(card(9000.0, (OURS, 8000.0))))), tree_end_wall=NOW - 10)
    second = replace(attempt(), ended=None, **changes)
    look = seen(card(used, *holders), wall=wall, host_pids=host_pids)
    whole = run(first, second, state=stands.Paused(0.0))
    return replace(whole, gpus_seen=look, gpu_baseline=(("GPU-0", 1000.0),))


def next_step(whole, now=NOW):
    """What is decided of it."""
    terms = Terms("r", ("sft",), None, POLICY, "/w/run", "python", None, None)
    return decide(whole, terms, now)


def test_free_gpus_are_launched_on_at_once():
    """What they hold is what they held at the first launch, and a little."""
    assert isinstance(next_step(relaunch(1400.0)), Launch)


def test_held_memory_is_waited_for_and_the_holder_named():
    """For as long as the policy says."""
    decision = next_step(relaunch(9000.0, (OTHER, 8000.0)))

    assert isinstance(decision, Tell)
    assert NOW + 60 == decision.event.until
    assert "GPU 0 holds 8000 MiB more than at the first launch (process 77 p77: 8000 MiB)" == decision.event.held[0]


def draining(used, *holders, **changes):
    """The same, and the wait has begun."""
    whole = relaunch(used, *holders, **changes)
    return replace(whole, state=stands.Draining(NOW + 60, ("GPU 0 ...",)))


def test_what_is_ours_is_ended_first_gently():
    """TERM, and KILL if it is still there after a while; without anything to signal there is no second time."""
    reaped = ((NOW, ev.Reaped(2, 15, ("123 python",))),)
    nobody = ((NOW, ev.Reaped(2, 15, ())),)

    assert Reap(2, 15) == next_step(draining(9000.0))
    assert Reap(2, 9) == next_step(draining(9000.0, reaped=reaped, wall=NOW + 6), NOW + 6)
    assert Wait(NOW + 60) == next_step(draining(9000.0, reaped=nobody, wall=NOW + 6), NOW + 6)


def test_free_again_or_after_its_time_it_is_launched():
    """And which of the two is said."""
    assert Tell(ev.Drained(2)) == next_step(draining(1100.0))
    late = next_step(draining(9000.0, reaped=((NOW, ev.Reaped(2, 15, ())),), wall=NOW + 61), NOW + 61)
    assert late.event.held
    assert isinstance(next_step(relaunch(9000.0, drained=late.event)), Launch)


def test_what_is_decided_while_memory_is_held_moves_the_run_on():
    """Else it would be decided again at once, and for ever."""
    whole = relaunch(9000.0, (OTHER, 8000.0))
    told = folding.fold(whole, ev.Record(ev.Stamp(NOW, 0.0, "b", "n", 1), next_step(whole).event))
    free = folding.fold(told, ev.Record(ev.Stamp(NOW + 1, 0.0, "b", "n", 1), ev.Drained(2)))

    assert stands.Draining(NOW + 60, told.state.held) == told.state
    assert isinstance(free.state, stands.Paused)
    assert isinstance(next_step(free), Launch)


def test_readings_from_before_the_end_are_no_readings():
    """They are waited for a moment; a probe that is silent keeps no job waiting."""
    old = relaunch(9000.0, wall=NOW - 11)

    assert Wait(NOW - 5) == next_step(old, NOW - 8)
    assert isinstance(next_step(old, NOW), Launch)


def test_a_clock_that_was_set_back_keeps_no_launch_waiting():
    """The end of the attempt before lies in the future then, and every reading before it."""
    whole = replace(relaunch(9000.0, wall=NOW - 7200), state=stands.Paused(NOW - 7200))

    assert isinstance(next_step(whole, NOW - 7199), Launch)


def test_a_guardian_that_takes_over_before_the_launch_looks_first():
    """Its probe needs a moment; what nobody can see is not called free."""
    waiting = replace(draining(9000.0), gpus_seen=None)
    started = ev.SupervisorStarted("resume", "")
    early = replace(waiting, supervisors=((NOW - 1, started),))
    late = replace(waiting, supervisors=((NOW - 60, started),))

    assert Wait(NOW + 4) == next_step(early)
    assert ("GPU 0 ...",) == next_step(late).event.held


def test_what_a_launch_waits_for_is_read_off_the_newest_readings():
    """Unknown where they are old, and a job waits for nothing that nobody can see."""
    whole = relaunch(12000.0, (OTHER, 11000.0))
    awaits = ("gpu_foreign_share", "<", 0.05)
    waiting = replace(whole.attempts[1], plan=replace(whole.attempts[1].plan, awaits=awaits))
    paused = replace(whole, attempts=(whole.attempts[0], waiting), state=stands.Paused(NOW + 600))
    blind = replace(waiting, measured=(NOW, ev.Measured(2, "gpu_foreign_share", None)))

    assert (12000.0, 0.5) == tuple(gpus.now(whole, n, NOW) for n in ("gpu_foreign_mib", "gpu_foreign_share"))
    assert None is gpus.now(whole, "gpu_foreign_mib", NOW + 120)
    assert Measure(2, "gpu_foreign_share") == next_step(paused)
    assert isinstance(next_step(replace(paused, attempts=(whole.attempts[0], blind))), Launch)


def test_without_a_first_look_nothing_is_waited_for():
    """There is nothing to compare with; a run without GPUs has none."""
    assert isinstance(next_step(replace(relaunch(9000.0), gpu_baseline=())), Launch)


def test_another_jobs_card_is_none_of_ours():
    """A stranger may begin there at any time."""
    whole = relaunch(1000.0)
    other = card(20000.0, (OTHER, 19000.0), index=1)
    look = replace(whole.gpus_seen, cards=(*whole.gpus_seen.cards, other))
    baseline = (*whole.gpu_baseline, ("GPU-1", 0.0))

    assert isinstance(next_step(replace(whole, gpus_seen=look, gpu_baseline=baseline)), Launch)


def test_the_first_look_is_what_the_cards_hold_besides_the_job():
    """Taken once, before the job can have used them."""
    early = run(living(launched=NOW - 2, hellos=()))
    late = run(living())

    assert (("GPU-0", 400.0),) == gpus.baseline(early, seen(card(1000.0, (OURS, 600.0))))
    assert () == gpus.baseline(late, seen(card(1000.0)))
    assert () == gpus.baseline(replace(early, gpu_baseline=(("GPU-0", 1.0),)), seen(card(1000.0)))
