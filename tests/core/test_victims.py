"""Who is who in a job's tree, and whom the kernel killed."""

import pytest

from guardian.core.hostfacts import Member
from guardian.core.victims import Kill, Rise, Seen, lasting, members, victim

TORCHRUN = Seen(10, 1, 1, "torchrun", "torchrun train.py")


def rank(pid, parent=10, *, named=False):
    """A process that trains."""
    return Seen(pid, 2, parent, "python", "python train.py", local_rank=named)


def child(pid, parent, cmdline="python train.py", name="python", *, named=False):
    """A process below another one."""
    return Seen(pid, 3, parent, name, cmdline, local_rank=named)


def roles(found, ranks=()):
    """By pid."""
    return {member.pid: member.role for member in members(found, ranks)}


def test_heartbeats_name_the_ranks_and_parents_the_rest():
    """Above a rank is a launcher, a fork of it is a worker, another program is neither."""
    tree = [TORCHRUN, rank(20), rank(30), child(21, 20), child(31, 30, "resource_tracker"), child(22, 10, "tee log")]

    assert {10: "launcher", 20: "rank", 30: "rank", 21: "worker", 31: "other", 22: "other"} == roles(tree, (20, 30))


def test_a_spawned_worker_is_one_and_so_is_its_fork_server_child():
    """Other ways to start than fork: the command line is Python's own."""
    spawned = "python -c from multiprocessing.spawn import spawn_main; spawn_main()"

    assert "worker" == roles([rank(20), child(21, 20, spawned)], (20,))[21]
    assert "worker" == roles([rank(20), child(21, 20, "forkserver"), child(22, 21, spawned)], (20,))[22]


def test_without_heartbeats_the_launchers_environment_names_the_ranks():
    """Their children inherit it and are none."""
    tree = [TORCHRUN, rank(20, named=True), child(21, 20, named=True)]

    assert {10: "launcher", 20: "rank", 21: "worker"} == roles(tree)


def test_without_any_word_who_loads_data_is_the_rank():
    """Newer torch names such a process; of others nothing is known."""
    assert {20: "rank", 21: "worker"} == roles([rank(20), child(21, 20, "", "pt_data_worker")])
    assert {10: "other", 20: "other"} == roles([TORCHRUN, rank(20)])


def test_a_heartbeat_of_a_process_that_is_gone_names_nobody():
    """Its number may be another's."""
    assert {10: "launcher", 20: "rank"} == roles([TORCHRUN, rank(20, named=True)], (99,))


def test_roles_last():
    """Dying, a process has no command line; orphaned, another parent. Only a heartbeat knows better."""
    before = {(member.pid, member.ticks): member.role for member in members([rank(20), child(21, 20)], (20,))}
    dying = members([rank(20), child(21, 20, "")], (20,))
    orphaned = members([child(21, 1, named=True)], ())

    assert ["rank", "worker"] == [member.role for member in lasting(dying, before, (20,))]
    assert ["worker"] == [member.role for member in lasting(orphaned, before, ())]
    assert ["rank"] == [member.role for member in lasting(orphaned, before, (21,))]


ROLES = {10: "launcher", 20: "rank", 21: "worker"}
RANK, WORKER = Member(20, 2, "rank"), Member(21, 3, "worker")


def killed(kills=(), rises=(), *, by_sigkill=False, step_wall=None):
    """Whom the kernel killed of the three."""
    return victim(kills, rises, ROLES, by_sigkill=by_sigkill, step_wall=step_wall)


@pytest.mark.parametrize("pids, role", [((21,), "worker"), ((20,), "rank"), ((21, 20), "rank"), ((77,), None)])
def test_the_kernels_word_counts_where_it_speaks_of_ours(pids, role):
    """A rank before its worker; strangers not at all."""
    assert role == killed([Kill(5.0, pid, "python") for pid in pids])


@pytest.mark.parametrize(
    "gone, workers, by_sigkill, role",
    [
        ((WORKER,), True, False, "worker"),
        ((WORKER, WORKER), True, True, "worker"),
        ((RANK,), False, False, "rank"),
        ((RANK, WORKER), True, True, "rank"),
        ((RANK, WORKER), True, False, None),  # either may have taken the other with it
        ((), True, True, None),
    ],
)
def test_else_whoever_was_gone_when_the_counter_had_risen(gone, workers, by_sigkill, role):
    """A rank that was killed ends by SIGKILL; one that lost its worker ends by itself."""
    assert role == killed(rises=[Rise(5.0, 1, gone, workers)], by_sigkill=by_sigkill)


def test_nobody_is_a_victim_without_a_kill():
    """Whoever has gone."""
    assert killed(by_sigkill=True) is None


def test_a_kill_that_the_training_went_on_after_ended_nothing():
    """A worker that was replaced, long before."""
    rise = Rise(100.0, 1, (WORKER,), workers=True)

    assert killed([Kill(100.0, 21, "python")], [rise], step_wall=500.0) is None
    assert "worker" == killed([Kill(100.0, 21, "python")], step_wall=101.0)
