"""The rules of memory and of NaN: which form of the failure a log and its facts make, and what is tried against it."""

import os
from dataclasses import replace
from unittest.mock import patch

import pytest

from guardian.core.diagnosing import diagnose
from guardian.core.rules import filled
from guardian.core.rungs import UNTIL_FLOOR, Operation
from guardian.host import rulebook
from guardian.host.matching import Matcher
from tests.core.attempts import attempt, of_log, run

with patch.dict(os.environ, {"XDG_CONFIG_HOME": "/nonexistent"}):  # the tester's own rules do not count
    RULES = rulebook.load(None)
BY_ID = {rule.id: rule for rule in RULES}
MATCHER = Matcher(RULES)

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {asked}. GPU 0 has a total capacity of 79.15 GiB of which 66.00 MiB is free. {others}this process has 72.45 GiB memory in use. Of the allocated memory 67.07 GiB is allocated by PyTorch, and {idle} is reserved by PyTorch but unallocated.\n"
HALVED = (("device_batch", Operation("halve")), ("accumulation", Operation("keep-effective-batch")))
FEWER = (("prefetch", Operation("literal", 1)), ("workers", Operation("halve")))


def oom(asked="1.50 GiB", idle="1.00 GiB", others="Including non-PyTorch memory, "):
    """The line that torch prints."""
    return OOM.format(asked=asked, idle=idle, others=others)


def cause(log, code=1, oom_kills=0, **facts):
    """What ended a job that printed this."""
    one = of_log(MATCHER, log, code)
    ended = replace(one.ended, oom_kills=oom_kills, facts=tuple(facts.items()))
    return diagnose(RULES, replace(one, ended=ended), run(one)).cause


def rungs(found):
    """(set, env, repeat) of each rung that is left for a cause, up to the one that gives up."""
    ladder = BY_ID[found.rule].rungs(dict(found.facts), found.variant)
    tries = [(rung.set, rung.env, rung.repeat) for rung in ladder]
    return tries[: next(n for n, rung in enumerate(ladder) if rung.give_up)]


def at_last(found):
    """What the user is told when nothing is left to try."""
    ladder = BY_ID[found.rule].rungs(dict(found.facts), found.variant)
    return filled(next(rung.give_up for rung in ladder if rung.give_up), dict(found.facts))


def test_a_full_card_is_answered_by_a_smaller_batch_of_the_same_effect():
    """Down to the floor, then checkpointed gradients, then the end with need and capacity."""
    found = cause(oom())

    assert ("cuda_oom", None) == (found.id, found.variant)
    assert (1536.0, 1024.0, 81049.6) == tuple(dict(found.facts)[n] for n in ("asked_mib", "idle_mib", "capacity_mib"))
    assert [(HALVED, (), UNTIL_FLOOR), ((("gradient_checkpointing", Operation("literal", True)),), (), 1)] == rungs(
        found
    )
    assert "still asks for 1536 MiB more; the card has 81050 MiB" in at_last(found)


def test_the_allocator_helps_where_as_much_lies_idle_as_was_asked_for():
    """Once; then the batch."""
    found = cause(oom(idle="1.50 GiB"))

    assert "fragmentation" == found.variant
    assert [(), HALVED] == [changed for changed, _, _ in rungs(found)][:2]
    assert (("PYTORCH_CUDA_ALLOC_CONF", "+expandable_segments:True"),) == rungs(found)[0][1]


def test_a_strangers_process_on_the_card_is_waited_for_and_the_batch_stays():
    """It is named, with what it holds."""
    found = cause(oom(others="Process 828383 has 13.82 GiB memory in use. Including non-PyTorch memory, "))

    assert ("leftover", "Another process holds memory of the GPU that the job needs") == (found.variant, found.title)
    assert "Process 828383 holds 14152 MiB" in found.advice
    assert [((), (), 1)] * 3 == rungs(found)
    waits = [
        rung.wait.at_most_s for rung in BY_ID["cuda-oom"].ladder_of("leftover") if rung.wait and not rung.wait.until
    ]
    assert [60.0, 600.0, 3600.0] == waits


def test_what_nvml_saw_others_hold_is_waited_for_until_it_is_gone():
    """A trifle is not; what is unknown is no reason."""
    held = {"gpu_foreign_mib": 40000.0, "gpu_foreign_share": 0.5}
    found = cause(oom(), **held)

    assert ("leftover", True) == (found.variant, "Others hold 40000 MiB" in found.advice)
    first = next(rung for rung in BY_ID["cuda-oom"].ladder_of("leftover") if rung.when.holds(held))
    assert "gpu_foreign_share" == first.wait.until.fact
    assert cause(oom(), gpu_foreign_mib=700.0, gpu_foreign_share=0.01).variant is None


def test_memory_that_was_seen_to_climb_is_a_leak_and_the_batch_stays():
    """By its slope over the steps; 0 is no slope."""
    found = cause(oom(), gpu_leak_mib_per_step=12.5)

    assert ("leak", ((), (), 1)) == (found.variant, rungs(found)[0])
    assert cause(oom(), gpu_leak_mib_per_step=0.0).variant is None


def test_a_row_longer_than_all_before_is_named():
    """The ladder is the step's: fewer rows at a time."""
    found = cause(oom(), exception_tokens=4096.0, fitted_tokens=1800.0, longest_tokens=4096.0, steps_since_start=300.0)

    assert ("long_sample", True) == (found.variant, "A row of 4096 tokens did not fit" in found.title)
    assert HALVED == rungs(found)[0][0]


def test_in_a_container_our_own_process_is_no_stranger():
    """NVML counts in the host's pids there, and no line says "this process"."""
    line = oom(others="Process 1645116 has 39.45 GiB memory in use. ").replace(
        "this process has 72.45 GiB memory in use. ", ""
    )

    assert cause(line).variant is None


@pytest.mark.parametrize(
    "log, facts",
    [
        (
            '  File "transformers/trainer.py", line 4053, in evaluation_loop\n'
            + "    frame\n" * 90
            + oom(idle="9 GiB"),
            {},
        ),
        (oom(idle="9 GiB"), {"exception_phase": "eval"}),
    ],
)
def test_an_evaluation_that_runs_out_lowers_its_own_batch_alone(log, facts):
    """Known from the companion, or from a frame far above the line."""
    found = cause(log, **facts)

    assert "eval" == found.variant
    assert [((("eval_batch", Operation("halve")),), (), UNTIL_FLOOR)] == rungs(found)


def test_right_after_a_resume_the_allocator_is_tried_first():
    """The same batch had fitted before."""
    found = cause(oom(), resumed=1.0, steps_since_start=1.0)

    assert "resume" == found.variant
    assert ([(), HALVED], "expandable_segments:True") == (
        [changed for changed, _, _ in rungs(found)][:2],
        rungs(found)[0][1][0][1].lstrip("+"),
    )
    assert cause(oom(), resumed=1.0, steps_since_start=40.0).variant is None


def test_memory_that_grows_is_not_met_by_a_smaller_batch_at_once():
    """Rows that are shorter than others that fitted: a plain restart first."""
    found = cause(oom(), exception_tokens=800.0, longest_tokens=2000.0, steps_since_start=900.0)

    assert ("leak", [((), (), 1), (HALVED, (), UNTIL_FLOOR)]) == (found.variant, rungs(found)[:2])


def test_the_cpus_allocator_is_the_steps_memory_in_a_training_and_the_hosts_elsewhere():
    """Whether a training loop is known to have begun."""
    line = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.\n"
    inside, outside = cause(line, device_batch=8.0, memory_limit_mib=300.0), cause(line)

    assert ("cuda_oom", "host_allocator", HALVED) == (inside.id, inside.variant, rungs(inside)[0][0])
    assert "There is no room for 8192 MiB more in the host's memory" == inside.title
    assert "device batch 8 it still asks for 8192 MiB more; the limit is 300 MiB" in at_last(inside)
    assert ("host_oom", None) == (outside.id, outside.variant)


@pytest.mark.parametrize(
    "facts, first",
    [
        ({"device": "cpu", "workers": 2.0}, HALVED),
        ({"device": "cuda", "workers": 2.0}, FEWER),
        ({"device": "cuda", "workers": 0.0}, HALVED),
        ({}, HALVED),
    ],
)
def test_a_killed_rank_is_met_where_its_memory_is(facts, first):
    """On the CPU, or without loader processes, in its batch; else in the loader's."""
    one = attempt(137, oom_kills=1)
    one = replace(one, ended=replace(one.ended, facts=tuple(facts.items())))
    found = diagnose(RULES, one, run(one)).cause

    assert ("host_oom", None, first) == (found.id, found.variant, rungs(found)[0][0])
    assert "the kernel counted 1 OOM kill during the attempt" == found.evidence[1].text


def test_a_killed_loader_process_takes_the_loader_down_to_none():
    """Prefetch to one, workers halved, pinned memory off; the batch is not at fault."""
    found = cause("RuntimeError: DataLoader worker (pid 61138) is killed by signal: Killed. \n")

    assert ("host_oom", "worker") == (found.id, found.variant)
    assert [FEWER, (("pin_memory", Operation("literal", False)),)] == [changed for changed, _, _ in rungs(found)]


def test_a_full_dev_shm_takes_as_many_workers_as_it_holds():
    """In one restart, and below that by halves; it is no full disk."""
    log = "RuntimeError: unable to allocate shared memory(shm) for file </torch_32407_2331774274_0>: No space left on device (28)\n"
    found = cause(log, shm_total_mib=2.0)

    assert ("shm_bus_error", "full") == (found.id, found.variant)
    assert [("workers", Operation("fit-shm")), ("prefetch", Operation("literal", 1))] == list(rungs(found)[0][0])
    assert (UNTIL_FLOOR, Operation("halve")) == (rungs(found)[1][2], dict(rungs(found)[1][0])["workers"])
    assert "Shared memory of 2 MiB" in at_last(found)
    assert ["shm-bus-error"] == [BY_ID[cause("x\n", code=code).rule].id for code in (135,)]


def test_too_many_open_files_raise_the_limit_first():
    """Then tensors go over /dev/shm by name."""
    found = cause("RuntimeError: received 0 items of ancdata\n")
    ladder = BY_ID["shm-fds"].rungs({}, "fds")

    assert ("shm_bus_error", "fds", 2) == (found.id, found.variant, found.retries)
    assert [(("nofile", "hard"),), ()] == [rung.limits for rung in ladder[:2]]
    assert (("GUARDIAN_SHARING_STRATEGY", "file_system"),) == ladder[1].env


def test_nan_goes_back_before_its_first_step_with_a_lower_rate_and_then_a_tenth():
    """The second time at the same step it is the data, and nothing is tried."""
    rule = BY_ID["nan-loss"]

    assert "line" == rule.confirm
    assert ["before:runaway_step"] * 2 == [rung.resume for rung in rule.ladder[:2]]
    assert [Operation("lower-or-safe"), Operation("times", 0.1)] == [
        dict(r.set)["learning_rate"] for r in rule.ladder[:2]
    ]
    assert Operation("at-least", 0.05) == dict(rule.ladder[0].set)["warmup_ratio"]
    assert (2, 0) == (rule.retries({}), rule.retries({}, "data"))
    assert "data" == rule.variant({"first_bad_step": 12.0, "earlier_bad_step": 12.0}).name
    assert rule.variant({"first_bad_step": 12.0}) is None


def test_what_a_job_survives_or_only_shows_is_no_failure():
    """A caught OOM, and data that speaks of one, with steps after it."""
    steps = "{'loss': '2.0', 'grad_norm': '1.0', 'learning_rate': '1e-05'}\n" * 3
    log = (
        oom() + steps + "instruction: what does 'DataLoader worker (pid 1) is killed by signal: Killed' mean?\n" + steps
    )

    assert "unknown" == cause(log).id


# --- an end that nobody saw ---------------------------------------------------------------------------------------


def unseen(rebooted=False, oom_kills=0, **facts):
    """What ended a job whose keeper is gone with it."""
    one = attempt(None)
    ended = replace(one.ended, oom_kills=oom_kills, rebooted=rebooted, facts=tuple(facts.items()))
    return diagnose(RULES, replace(one, ended=ended), run(one)).cause


@pytest.mark.parametrize("facts", [{"memory_share": 0.97}, {"oom_kills": 2}, {"oom_kills": None, "memory_share": 0.95}])
def test_a_job_that_died_with_its_keeper_where_memory_had_run_out_is_met_by_a_smaller_batch(facts):
    """The counter or the last figures say so: as in a container that is ended whole."""
    found = unseen(**facts)

    assert ("host_oom", HALVED) == (found.id, rungs(found)[0][0])
    assert "nobody saw how it ended" == found.evidence[0].text
    assert any("of the memory were in use" in line.text or "OOM kill" in line.text for line in found.evidence)


@pytest.mark.parametrize(
    "facts, variant",
    [({"memory_share": 0.5}, "unseen"), ({}, "unseen"), ({"memory_share": 0.97, "rebooted": True}, "host_restart")],
)
def test_else_nobody_knows_and_the_batch_stays(facts, variant):
    """Memory to spare, no figures, or a machine that was started anew."""
    found = unseen(**facts)

    assert (variant, None) == (found.variant, found.rule)


def test_what_the_kernel_killed_decides_what_is_tried():
    """A worker: fewer of them; a rank: a smaller batch. Neither shows in the log."""
    worker = cause("step\n", oom_kills=1, oom_victim="worker", device="cpu")
    rank = cause("step\n", oom_kills=1, oom_victim="rank", device="cpu")

    assert ("worker", FEWER) == (worker.variant, rungs(worker)[0][0])
    assert (None, HALVED) == (rank.variant, rungs(rank)[0][0])
    assert "the kernel killed a rank for want of memory" in [line.text for line in rank.evidence]


def test_conditions_that_must_not_hold_are_no_evidence():
    """What speaks against a rule is not told as what speaks for it."""
    found = cause("step\n", 137, oom_kills=1, memory_share=0.4, machine_oom_kills=1)

    assert "host_oom" == found.id
    assert not any("0.4" in line.text for line in found.evidence)
