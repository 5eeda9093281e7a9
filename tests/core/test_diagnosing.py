"""What ended an attempt: real logs, and ends that no log tells of."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from guardian.core import events as ev
from guardian.core.diagnosing import diagnose, remark
from guardian.core.rules import PROGRESS
from guardian.core.stacks import Frame, Stack
from guardian.core.trail import Trail
from guardian.host import rulebook
from guardian.host.matching import Matcher
from tests.core.attempts import attempt, ended_by, hello, hit, of_log, run

LOGS = Path(__file__).parent.parent / "data" / "raw_logs"
with patch.dict(os.environ, {"XDG_CONFIG_HOME": "/nonexistent"}):  # the tester's own rules do not count
    RULES = rulebook.load(None)
STOP = ev.StopBegun(1, "asked for by ctrl-c", (9,))
ASKED = ((5.0, ev.StopRequested(ev.StopBy.CTRL_C)),)
SIGTERMED = ((6.0, ev.Signalled(1, 15, 3)),)


def cause(*attempts, rules=RULES, **changes):
    """The cause of the last of these attempts."""
    whole = run(*attempts, **changes)
    return diagnose(rules, whole.attempts[-1], whole).cause


def judged(one):
    """Class, variant, retries of a cause; None for an end that is as it should be."""
    return one and (one.id, one.variant, one.retries)


def first_line(one):
    """The deciding evidence."""
    return (one.evidence[0].number, one.evidence[0].text)


def of_file(name, code, **changes):
    """The cause of a recorded log."""
    data = re.sub(rb"\[exit status \d+\]\n$", b"", (LOGS / f"{name}.log").read_bytes())
    return cause(of_log(Matcher(RULES), data, code, **changes))


# --- real logs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, code, failure, retries, line, text",
    [
        ("fault_unknown_arg_swift", 1, "config_conflict", 0, 22, "ValueError: remaining_argv: ['--per_device_batch', '4']"),
        ("fault_train_type_v3_flag_swift4", 1, "config_conflict", 0, 22, "ValueError: remaining_argv: ['--train_type', 'full']"),
        ("fault_k_fsdp_deepspeed_hf", 1, "config_conflict", 0, None, "ValueError: Using --fsdp xxx together with --deepspeed is not"),
        ("fault_k_fsdp_deepspeed_swift", 1, "config_conflict", 0, None, "ValueError: FSDP2 is not compatible with DeepSpeed."),
        ("fault_i_bad_deepspeed_hf", 1, "config_conflict", 0, None, "ValueError: Expected a string path to an existing deepspeed"),
        ("fault_i_bad_deepspeed_swift", 1, "config_conflict", 0, None, "json.decoder.JSONDecodeError: Expecting value: line 1 column 1"),
        ("fault_g_keyerror_hf", 1, "dataset_error", 0, None, "ValueError: Column to remove ['messages'] not in the dataset."),
        ("fault_g_bad_columns_swift", 1, "dataset_error", 0, None, "[INFO:swift] Dataset filtered, origin length: 32, filtered"),
        ("fault_h_bad_model_swift", 1, "model_load_error", 0, None, "ValueError: path: '/no/such/model' not found"),
        ("fault_h_bad_model_hf", 1, "model_load_error", 0, None, "huggingface_hub.errors.HFValidationError: Repo id must be"),
        ("fault_h_bad_model_hub", 1, "model_load_error", 0, None, "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find"),
        ("lf_torchvision_mismatch", 1, "dependency_error", 0, None, "RuntimeError: operator torchvision::nms does not exist"),
        ("fault_b_rlimit_as_900m", 1, "dependency_error", 0, None, "ImportError: WORK/v1/lib/python3.11/site-packages/tokenizers"),
        ("fault_bad_resume_swift", 1, "checkpoint_corrupt", None, None, "FileNotFoundError: path: 'WORK/out/nope/checkpoint-5'"),
        ("fault_j_no_such_checkpoint", 1, "checkpoint_corrupt", None, None, "ValueError: Can't find a valid checkpoint at out/nope"),
        ("fault_j_optimizer_truncated", 1, "checkpoint_corrupt", None, None, "RuntimeError: PytorchStreamReader failed reading zip archive"),
        ("fault_a_shm_full", 1, "shm_bus_error", None, None, "RuntimeError: unable to allocate shared memory(shm) for file"),
        ("fault_f_disk_full", 1, "disk_full", 3, None, "RuntimeError: basic_ios::clear: iostream error"),
        ("fault_d_gloo_timeout", 1, "nccl_timeout", 3, 15, "[rank0]: RuntimeError: [/__w/pytorch/pytorch/third_party/gloo"),
        ("ddp_kill9_rank1", 1, "preempted_or_interrupted", None, 488, "E1121 01:21:48.972000 499 v1/lib/python3.11/site-packages"),
        ("ddp_kill9_agent", 247, "preempted_or_interrupted", None, None, "the job's process ended by SIGKILL (exit code 247)"),
        ("ddp_term_group", 143, "preempted_or_interrupted", None, 528, "torch.distributed.elastic.multiprocessing.api.SignalException:"),
        ("sig_int_worker", 254, "preempted_or_interrupted", None, None, "KeyboardInterrupt"),
        ("fault_b_cgroup_oom", 137, "preempted_or_interrupted", None, None, "the job's process ended by SIGKILL (exit code 137)"),
    ],
)  # fmt: skip
def test_a_recorded_failure_is_named_with_its_line(name, code, failure, retries, line, text):
    """Whole logs of real jobs: the class, the retries, and the line that decides, with its number."""
    found = of_file(name, code)
    number, shown = first_line(found)

    assert (failure, retries) == (found.id, found.retries)
    assert shown.startswith(text)
    if line is not None:
        assert line == number
    if number is not None:
        assert shown.split()[-1] in (LOGS / f"{name}.log").read_bytes().split(b"\n")[number - 1].decode()


def test_a_failure_after_steps_of_training_is_tried_once_more():
    """The same traceback that ends a start for good may be a matter of one batch later."""
    log = 'Traceback (most recent call last):\n  File "t.py", line 3, in step\nRuntimeError: shapes do not fit\n'

    assert ("code_bug", None, 1) == judged(cause(of_log(Matcher(RULES), log, 1, steps=4)))
    assert ("code_bug", None, 0) == judged(cause(of_log(Matcher(RULES), log, 1)))


def test_a_rank_that_leaves_takes_the_blame_and_not_its_peers():
    """Connection closed by peer is what the others see; the exception of the rank that left decides."""
    log = (
        '[rank0]: Traceback (most recent call last):\n[rank0]:   File "t.py"\n'
        "[rank0]: RuntimeError: [/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1\n"
        '[rank1]: Traceback (most recent call last):\n[rank1]:   File "t.py"\n[rank1]: KeyError: 7\n'
        "E1 api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 8) of binary: python\n"
        'Traceback (most recent call last):\n  File "run.py"\n'
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\n"
    )  # fmt: skip
    found = cause(of_log(Matcher(RULES), log, 1))

    assert ("code_bug", (6, "[rank1]: KeyError: 7")) == (found.id, first_line(found))


def test_of_several_ranks_exceptions_the_one_that_failed_first_decides():
    """Whoever printed first: torchrun names the rank."""
    log = (
        "[rank0]: Traceback (most recent call last):\n[rank0]: ValueError: odd\n"
        "[rank1]: Traceback (most recent call last):\n[rank1]: KeyError: 7\n"
        "E1 api.py:1002] failed (exitcode: 1) local_rank: 1 (pid: 8) of binary: python\n"
    )

    assert (4, "[rank1]: KeyError: 7") == first_line(cause(of_log(Matcher(RULES), log, 1)))


def test_a_rank_that_leaves_without_a_word_leaves_the_symptom():
    """A rank called os._exit(3): what is known is who saw it go."""
    log = (
        "[rank0]: Traceback (most recent call last):\n"
        "[rank0]: RuntimeError: [/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1\n"
        "E1 api.py:1002] failed (exitcode: 3) local_rank: 1 (pid: 8) of binary: python\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
    )

    assert "network" == cause(of_log(Matcher(RULES), log, 1)).id


@pytest.mark.parametrize("form", [1, 137])
def test_the_last_line_before_the_exit_is_in_the_evidence(form):
    """Whatever it says, with its number; carriage returns have overwritten what came before on it."""
    found = cause(attempt(form, tail=["one", "", "bar 1\rbar 2\rFATAL: boom", "  "]))

    assert (3, "FATAL: boom") in [(line.number, line.text) for line in found.evidence]


@pytest.mark.parametrize(
    "ending",
    ["raise ValueError('boom 7')", "sys.stderr.write('Traceback (most recent call last):\\nboom 7\\n'); sys.exit(3)", "print('boom 7', flush=True); import os; os._exit(3)", "raise type('Odd', (BaseException,), {})('boom 7')"],
)  # fmt: skip
def test_the_failure_line_of_a_real_job_decides(ending):
    """Exceptions of every kind, half a traceback, a bare word: the last thing printed is the evidence."""
    job = f"import sys\nfor n in range(100): print('step', n)\nsys.stdout.flush()\n{ending}\n"
    done = subprocess.run([sys.executable, "-c", job], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    number, text = first_line(cause(of_log(Matcher(RULES), done.stdout, done.returncode)))

    assert "boom 7" in text
    assert done.stdout.decode().split("\n")[number - 1] == text


def test_an_exception_that_python_passes_over_does_not_decide():
    """`Exception ignored in` comes after the one that ended the process, when its objects are taken apart."""
    log = (
        "Traceback (most recent call last):\n  File \"t.py\"\nKeyError: 'x'\n"
        "Exception ignored in: <function A.__del__>\nTraceback (most recent call last):\n  File\nAttributeError: 'y'\n"
    )  # fmt: skip

    assert (3, "KeyError: 'x'") == first_line(cause(of_log(Matcher(RULES), log, 1)))


def test_the_exception_that_left_the_training_loop_decides():
    """The companion saw which one it was; another thread's comes after it in the log."""
    log = "ValueError: loss is off\nTraceback (most recent call last):\n  File\nRuntimeError: wandb is gone\n"
    seen = (ev.ExceptionLeft(1, 0, 7, "ValueError", "loss is off\nand more"),)

    assert (1, "ValueError: loss is off") == first_line(cause(of_log(Matcher(RULES), log, 1, exceptions=seen)))


# --- what was survived -------------------------------------------------------------------------------------------


def test_a_failure_line_that_training_survived_is_no_cause():
    """An optional library was missing at the start; hundreds of steps later somebody killed the job."""
    missing = hit("import-failed", "ModuleNotFoundError: No module named 'flash_attn'", 3)
    later = hit(PROGRESS, "{'loss': 1}", 40)

    assert "dependency_error" == cause(attempt(1, hits=(missing,))).id
    assert "unknown" == cause(attempt(1, hits=(missing, later), tail=["bye"])).id


def test_steps_in_the_last_lines_show_survival_too():
    """Two logged steps after the line, not one: a rank may log a step after another has failed."""
    refused = hit("arguments-refused", "x: error: unrecognized arguments: --y", 1)
    step = "{'loss': '2.0'}"

    assert "config_conflict" == cause(attempt(1, hits=(refused,), tail=["refused", step])).id
    assert "unknown" == cause(attempt(1, hits=(refused,), tail=["refused", step, step, "gone"])).id


def test_a_job_killed_while_it_trains_is_not_blamed_on_its_first_lines():
    """What was printed long before the end cannot have to do with a signal from outside."""
    early = hit("import-failed", "ImportError: x", 3)
    late = hit("import-failed", "ImportError: x", 1003)
    tail = tuple(ev.Line(n, "x") for n in range(1000, 1010))

    assert "preempted_or_interrupted" == cause(attempt(143, hits=(early,), tail=tail, steps=9)).id
    assert "dependency_error" == cause(attempt(143, hits=(late,), tail=tail, steps=9)).id


# --- causes and symptoms -----------------------------------------------------------------------------------------


def test_the_earliest_cause_wins_and_a_consequence_never_does():
    """By place in the log, whatever the order in which the hits came in; what another rule explains is left out."""
    port = hit("port-in-use", "the port", 9)
    refused = hit("arguments-refused", "refused", 7)
    lost = hit("peer-lost", "closed by peer", 2)

    assert "config_conflict" == cause(attempt(1, hits=(port, lost, refused))).id
    explains = tuple(replace(r, explains=("config_conflict",)) if r.id == "port-in-use" else r for r in RULES)
    assert "port_in_use" == cause(attempt(1, hits=(refused, port)), rules=explains).id
    both = tuple(replace(r, explains=("port_in_use",)) if r.id == "arguments-refused" else r for r in explains)
    assert "config_conflict" == cause(attempt(1, hits=(refused, port)), rules=both).id


def test_an_exception_is_named_more_exactly_where_a_rule_knows_it():
    """The same line is a bug to the general rule and an argument to the exact one."""
    text = "ValueError: remaining_argv: ['--x']"
    hits = (hit("exception", text, 5), hit("arguments-refused", text, 5, pattern=5))
    found = cause(attempt(1, hits=hits))

    assert ("config_conflict", "arguments-refused") == (found.id, found.rule)


def test_the_advice_says_what_the_pattern_caught():
    """The embedded trainer's own line stands in the title."""
    log = "guardian.trainer: error: --model ./nodir: no such folder\n"
    found = cause(of_log(Matcher(RULES), log, 2))

    assert ("model_load_error", 0) == (found.id, found.retries)
    assert found.title.endswith("--model ./nodir: no such folder")
    assert found.advice


# --- how a process died ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, signal, oom, found",
    [
        (None, 9, 0, ("preempted_or_interrupted", "killed", None)),
        (137, None, 0, ("preempted_or_interrupted", "killed", None)),
        (247, None, 2, ("host_oom", None, None)),
        (None, 15, 0, ("preempted_or_interrupted", None, None)),
        (130, None, 0, ("preempted_or_interrupted", None, None)),
        (139, None, 0, ("segfault", None, 1)),
        (245, None, 0, ("segfault", None, 1)),
        (None, 6, 0, ("unknown", None, 1)),
        (3, None, 5, ("unknown", None, 1)),
    ],
)
def test_a_death_without_a_word_is_judged_by_its_signal(code, signal, oom, found):
    """In every form that an exit code takes; an OOM kill counts only for what was killed."""
    assert found == judged(cause(attempt(code, signal, oom_kills=oom, tail=["step"])))


def test_a_kill_says_what_the_kernel_counted_or_that_nobody_could_see():
    """A bare SIGKILL is never called out of memory."""
    counted, blind = cause(attempt(137)), cause(attempt(137, oom_kills=None))
    oom = cause(attempt(137, oom_kills=1))

    assert ("no OOM kill" in counted.title, counted.blind) == (True, ())
    assert ("OOM" in blind.title, blind.blind) == (False, ("the kernel's counter of OOM kills",))
    assert "counted 1 OOM kill " in oom.evidence[1].text


def test_a_rank_killed_for_memory_is_found_behind_its_launcher():
    """torchrun exits with 1 and names the rank that was killed."""
    log = "E1 api.py:1002] failed (exitcode: -9) local_rank: 0 (pid: 8) of binary: python\n"

    assert "host_oom" == cause(of_log(Matcher(RULES), log, 1, oom_kills=1)).id
    assert "segfault" == cause(of_log(Matcher(RULES), log.replace("-9", "-11"), 1)).id


# --- ends that are as they should be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ended, family",
    [
        (attempt(0, steps=12, total=12), "embedded"),
        (attempt(0, steps=13, total=12), "embedded"),
        (attempt(0, steps=7, total=12, **ended_by("trainer", 7, 12)), "embedded"),
        (attempt(0, steps=7, total=12, **ended_by("epochs", 7, 12)), "embedded"),
        (attempt(0), None),
        (attempt(0, steps=7, total=12), None),
        (attempt(0, steps=12, total=12, stop=STOP), "embedded"),
    ],
)
def test_an_end_as_it_should_be_has_no_cause(ended, family):
    """All steps; the trainer's own decision; exit 0 of a command that nobody knows."""
    assert cause(ended, family=family) is None


def test_a_run_with_nothing_left_to_train_is_finished():
    """Resumed from its last checkpoint the trainer leaves at once; the total is known from before."""
    before = attempt(137, steps=12, total=12)
    after = attempt(0)

    assert cause(before, replace(after, plan=replace(after.plan, resume_from="c", resume_step=12))) is None


def test_help_is_no_training():
    """Exit 0 is what was asked for."""
    assert cause(attempt(0), argv=("sft", "--help")) is None


def test_a_run_that_ends_in_nan_has_not_finished():
    """The numbers must be finite, also where every step was made; one skipped step does not count."""
    nan = float("nan")
    logs = [ev.Logged(1, n, 12, 2.0, nan if n > 9 else 1.0, 1e-3) for n in range(1, 13)]
    summary = ev.Logged(1, 12, 12, None, None, None)
    whole = attempt(0, steps=12, total=12)

    def ends_with(*events):
        trail = Trail()
        for event in events:
            trail = trail.append(event)
        return judged(cause(replace(whole, logged=trail)))

    assert ("nan_loss", None, 2) == ends_with(*logs, summary)
    assert ("nan_loss", None, 2) == ends_with(ev.Logged(1, 12, 12, nan, 1.0, 1e-3))
    assert ends_with(*logs[:10]) is None
    assert ends_with(*logs[:9], summary) is None


# --- exit 0 before the last step -----------------------------------------------------------------------------------


def test_exit_0_early_is_tried_once_more_and_then_accepted_with_a_remark():
    """Ending twice at the same step in the same way is what this job does."""
    early = attempt(0, steps=7, total=12)
    first = cause(early)
    diagnosed = replace(early, diagnosed=ev.Diagnosed(1, first))
    accepted = run(diagnosed, replace(early, diagnosed=ev.Diagnosed(2, None)))

    assert ("unknown", "exit_0_early", 1) == judged(first)
    assert "step 7 of 12" in first.title
    assert cause(diagnosed, early) is None
    assert "step 7 of 12" in remark(accepted, accepted.attempts[-1])
    assert "exit_0_early" == cause(diagnosed, attempt(0, steps=9, total=12)).variant
    assert remark(run(early), early) is None


def test_a_job_that_was_told_to_stop_by_a_signal_goes_on_later():
    """Graceful exits return 0 with every end mark in the log: by a signal is not by the trainer."""
    told = attempt(0, steps=31, total=3000, **ended_by("signal", 31, 3000))

    assert ("preempted_or_interrupted", "graceful", None) == judged(cause(told))


def test_exit_0_with_a_cause_in_the_log_has_that_cause():
    """A script that catches everything and leaves with 0."""
    assert "port_in_use" == cause(attempt(0, steps=3, total=12, hits=(hit("port-in-use", "taken"),))).id


def test_a_rank_that_fell_is_the_cause_although_a_script_around_it_ends_with_0():
    """`torchrun ...; echo done`: twice at the same step it is still no end that is accepted."""
    log = (LOGS / "ddp_kill9_rank1.log").read_bytes()
    fell = of_log(Matcher(RULES), log, 0, steps=7, total=12)
    first = cause(fell)

    assert ("preempted_or_interrupted", "killed", None) == judged(first)
    assert first == cause(replace(fell, diagnosed=ev.Diagnosed(1, first)), fell)
    assert "exitcode: -9" in first.evidence[0].text


def test_an_exception_that_left_the_training_is_the_cause_although_a_script_around_it_ends_with_0():
    """`python train.py; echo done`; one that was caught without a word may be the job's own way to end."""
    log = b'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\nValueError: no answer\ndone\n'
    left = (ev.ExceptionLeft(1, 0, 7, "ValueError", "no answer", phase="train"),)
    fell = of_log(Matcher(RULES), log, 0, steps=7, total=12, exceptions=left)
    first = cause(fell)

    assert ("code_bug", (3, "ValueError: no answer")) == (first.id, first_line(first))
    assert judged(first) == judged(cause(replace(fell, diagnosed=ev.Diagnosed(1, first)), fell))
    silent = attempt(0, steps=7, total=12, exceptions=left)
    assert "exit_0_early" == cause(silent).variant
    assert "exit_0_early" == cause(of_log(Matcher(RULES), log, 0, steps=7, total=12)).variant


# --- stops, and ends that nobody saw -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 143, 137])
def test_what_is_printed_after_our_own_stop_is_no_cause(code):
    """KeyboardInterrupt, tracebacks, a kill: all of our own making."""
    hits = (hit("exception", "RuntimeError: x"), hit("interrupted", "KeyboardInterrupt"))
    stopped = attempt(code, steps=7, total=12, hits=hits, stop=STOP, signalled=SIGTERMED, **ended_by("guardian", 7, 12))

    assert ("preempted_or_interrupted", "asked", None) == judged(cause(stopped, stop_requests=ASKED))
    assert "asked" == cause(stopped, stop_requests=ASKED, family=None).variant
    fell = replace(stopped, launcher=ev.LauncherExited(1, code, None), launcher_wall=3.0, stop_wall=4.0)
    assert "asked" == cause(fell, stop_requests=ASKED).variant, "asked for is asked for"


def test_ranks_that_a_fallen_launcher_left_are_not_the_cause():
    """The agent was killed, guardian ended its orphans: what they print is no cause, the kill is."""
    rank = (hit("exception", "RuntimeError: x"), hit("interrupted", "KeyboardInterrupt", pattern=1))
    fell = attempt(
        247, hits=rank, stop=STOP, stop_wall=4.0, launcher=ev.LauncherExited(1, 247, None), launcher_wall=3.0
    )

    assert ("preempted_or_interrupted", "killed", None) == judged(cause(fell))


def test_a_killed_launcher_is_the_cause_although_its_ranks_saved_and_stopped():
    """torchrun's agent was killed; the ranks, asked for it, saved and left: nobody asked for the end itself."""
    saved = {"save_asked": ev.SaveAsked(1, 9), "launcher": ev.LauncherExited(1, None, 9), "launcher_wall": 3.0}

    found = cause(attempt(None, 9, steps=9, total=12, stop=STOP, stop_wall=5.0, **saved, **ended_by("guardian", 9, 12)))

    assert ("preempted_or_interrupted", "killed", None) == judged(found)
    assert "SIGKILL" in found.title


def test_a_command_that_cannot_be_started_is_not_tried_again():
    """The system's own word is the evidence."""
    found = cause(attempt(None, start_failed="swiftt: No such file or directory"))

    assert ("config_conflict", "not_started", 0) == judged(found)
    assert (None, "swiftt: No such file or directory") == first_line(found)


def test_an_end_that_nobody_saw_is_said_to_be_unseen():
    """Unless the log itself names the cause."""
    assert ("unknown", "unseen", None) == judged(cause(attempt(None, keeper_lost=True, tail=["step 7"])))
    assert ["the exit code"] == [*cause(attempt(None)).blind]
    assert "code_bug" == cause(attempt(None, tail=["Traceback (most recent call last):", "KeyError: 1"])).id


def test_an_unseen_end_after_the_whole_training_is_a_finish():
    """The keeper was killed, the job went on to its last step: every rank and the last checkpoint say so."""
    whole = (ev.Checkpoint("/w/out/checkpoint-9", 9, complete=True),)
    over = {"steps": 9, "total": 9, "keeper_lost": True, **ended_by("max_steps", 9, 9)}

    assert cause(attempt(None, checkpoints=whole, **over)) is None
    assert "unseen" == cause(attempt(None, **over)).variant
    assert "unseen" == cause(attempt(None, checkpoints=whole, steps=9, total=9, keeper_lost=True)).variant


WHOLE = (ev.Checkpoint("/w/out/checkpoint-9", 9, complete=True),)
OVER = {"steps": 9, "total": 9, **ended_by("max_steps", 9, 9)}
WOULD_NOT_LEAVE = {"stop": ev.StopBegun(1, "nothing happens", (8, 9), silent="teardown"), "stop_wall": 20.0}


def test_what_would_not_leave_after_the_whole_training_is_a_finish_and_is_said():
    """The result is the checkpoint of the last step, and it is whole; without it, or a rank's word, it is a hang."""
    one = attempt(-15, checkpoints=WHOLE, **OVER, **WOULD_NOT_LEAVE)
    judged_one = replace(one, diagnosed=ev.Diagnosed(1, None))

    assert cause(one) is None
    assert "2 processes that would not leave were ended" in remark(run(judged_one), judged_one)
    assert ("hang_no_output", "teardown", 1) == judged(cause(replace(one, checkpoints=())))
    assert ("hang_no_output", "teardown", 1) == judged(cause(replace(one, training_ends=())))
    assert "asked" == cause(one, stop_requests=ASKED).variant


@pytest.mark.parametrize("family", ["hf", "llamafactory", None])
def test_a_program_that_may_still_write_its_model_is_not_taken_for_finished(family):
    """Scripts save their last model after train(): nobody saw whether this one did."""
    one = attempt(-15, checkpoints=WHOLE, **OVER, **WOULD_NOT_LEAVE)

    assert ("hang_no_output", "teardown", 1) == judged(cause(one, family=family))


def test_a_hang_names_the_rank_that_the_others_wait_for():
    """In its first line of evidence, with the budget that was over; it is tried again three times."""
    stopped = Stack(11, 1, "rank", 1, "python", "proc", state="T")
    frames = (Frame("/x/site-packages/torch/distributed/c10d.py", 9, "all_reduce"), Frame("/x/train.py", 3, "step"))
    waits = Stack(10, 1, "rank", 0, "python", "faulthandler", frames=frames, digest="a", state="S")
    stop = ev.StopBegun(1, "no step has been made for 61 s", (10, 11), silent="training", silent_s=61.0)
    told = {"stop": stop, "stop_wall": 20.0, "stacks": (ev.StacksTaken(1, (waits, stopped), 21.0),)}
    found = cause(attempt(-15, steps=9, total=60, **told))

    assert ("hang_no_output", "silent", 3) == judged(found)
    assert "Nothing happened any more for 61 s (training)" == found.title
    assert found.evidence[0].text.startswith("rank 1 is stopped by a signal")
    assert "rank 0 stands in all_reduce at c10d.py:9" in found.evidence[0].text
    assert "no step has been made for 61 s" == found.evidence[1].text
    assert "asked" == cause(attempt(-15, steps=9, total=60, **told), stop_requests=ASKED).variant
    assert ("hang_no_output", None, 3) == judged(cause(attempt(-15, steps=9, total=60, **told), rules=()))
    assert "no step has been made for 61 s" == cause(attempt(-15, steps=9, **told | {"stacks": ()})).evidence[0].text


def test_a_start_that_waits_for_a_build_is_told_from_other_hangs():
    """By the file of PyTorch in which its stack stands."""
    frames = (Frame("/x/site-packages/torch/utils/file_baton.py", 49, "wait"), Frame("/x/train.py", 3, "main"))
    waits = Stack(10, 1, "process", None, "python", "faulthandler", frames=frames, digest="a", state="S")
    stop = ev.StopBegun(1, "nothing has been heard", (10,), silent="start-up", silent_s=61.0)
    found = cause(attempt(-15, stop=stop, stop_wall=20.0, stacks=(ev.StacksTaken(1, (waits,), 21.0),)))

    assert ("hang_no_output", "build_lock") == judged(found)[:2]
    assert found.evidence[0].text.startswith("process python (pid 10) stands in wait at file_baton.py:49")


def test_what_survives_sigkill_is_unkillable():
    """Whatever it was ended for; nothing is started beside it."""
    left = ev.TreeEnded(1, ("11 python train.py",), unkillable=True)

    assert ("unkillable", None, 0) == judged(cause(attempt(None, tree_end=left), stop_requests=ASKED))
    assert (None, "still there: 11 python train.py") == first_line(cause(attempt(None, tree_end=left)))


def test_a_rank_that_is_aborted_while_it_leaves_has_trained():
    """gloo throws where a peer has gone; before the end of the training, or without its checkpoint, it is a failure."""
    assert cause(attempt(-6, checkpoints=WHOLE, **OVER)) is None
    assert cause(attempt(134, checkpoints=WHOLE, **OVER)) is None
    assert cause(attempt(-6, **OVER)) is not None
    assert cause(attempt(1, checkpoints=WHOLE, **OVER)) is not None
    assert cause(attempt(-6, checkpoints=WHOLE, **OVER), family="hf") is not None
    thrown = ev.ExceptionLeft(1, 0, 9, "RuntimeError", "x")
    assert cause(attempt(-6, checkpoints=WHOLE, **OVER, exceptions=(thrown,))) is not None


def test_without_any_rules_there_is_still_a_diagnosis():
    """A broken rule folder must not leave a night without words."""
    assert "code_bug" == cause(attempt(1, tail=["Traceback (most recent call last):", "Odd: 1"]), rules=()).id
    assert "unknown" == cause(attempt(1, tail=["bye"]), rules=()).id


def test_the_builders_hello_is_the_one_that_counts():
    """A guard on this file's own tools: totals come from the hello."""
    assert 12 == replace(attempt(0), hellos=(hello(12),)).max_steps


def test_what_the_flight_recorder_wrote_is_named_with_the_cause():
    """Whatever the cause: it lies where it was written, and stands behind the evidence."""
    dumps = ("/runs/r1/attempts/0001/nccl_trace_rank_0", "/runs/r1/attempts/0001/nccl_trace_rank_1")
    fell = attempt(code=1)
    before = cause(fell)
    found = cause(replace(fell, ended=replace(fell.ended, dumps=dumps)))

    assert before.evidence == found.evidence[:-1]
    assert (
        "the ranks' last collectives, as torch recorded them: nccl_trace_rank_0 and 1 more in /runs/r1/attempts/0001"
        " (torchfrtrace reads them)"
    ) == found.evidence[-1].text
