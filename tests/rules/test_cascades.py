"""Of everything that a failing job prints, what failed first: many ranks, tables, advice, and what the job survived."""

import io

import pytest

from guardian.host import reading
from tests.rules.explained import MATCHER, RULES

OOM = (
    "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79.15 GiB "
    "of which 1.62 GiB is free. Including non-PyTorch memory, this process has 77.52 GiB memory in use. Of the allocated "
    "memory 70.07 GiB is allocated by PyTorch, and 512.00 MiB is reserved by PyTorch but unallocated.\n"
)
ABORTS = "".join(
    f"[rank{n}]:[E1218 ProcessGroupNCCL.cpp:629] [Rank {n}] Watchdog caught collective operation timeout: "
    f"WorkNCCL(SeqNum=9, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600081 milliseconds before timing out.\n"
    for n in (0, 1, 2, 4, 5, 6, 7)
)
TABLE = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 650)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 651)
============================================================
"""
STEP = "{'loss': 2.0, 'grad_norm': 1.0, 'learning_rate': 1e-05, 'epoch': 0.%d}\n"
RETRY = (
    "'(ReadTimeoutError(\"HTTPSConnectionPool(host='huggingface.co', port=443): Read timed out. (read timeout=10)\"), "
    "'(Request ID: 1)')' thrown while requesting HEAD https://huggingface.co/gpt2/resolve/main/config.json\n"
    "Retrying in 1s [Retry 1/5].\n"
)
WARNED = "[W socket.cpp:558] [c10d] The client socket has failed to connect to [localhost]:12355 (errno: 99).\n"


def explain(text, code=1):
    """What is said of a log."""
    return reading.explain(RULES, MATCHER, io.BytesIO(text.encode()), code)


@pytest.mark.parametrize(
    "text", [OOM + ABORTS, ABORTS[:300] + "\n" + OOM + ABORTS, OOM + ABORTS + TABLE.format(code=1)]
)
def test_one_ranks_oom_is_the_cause_of_the_others_timeouts(text):
    """Also where another rank's abort was printed first: a symptom speaks only when no cause does."""
    told = explain(text)

    assert "cuda_oom" == told.failure
    assert told.evidence[0].text.startswith("[rank3]: torch.OutOfMemoryError")
    assert "nccl_timeout" in told.symptoms


@pytest.mark.parametrize(
    "code, failure",
    [("-11", "segfault"), ("-9", "preempted_or_interrupted"), ("-7", "shm_bus_error"), ("1", "unknown")],
)
def test_of_torchruns_table_the_first_observed_failure_counts(code, failure):
    """The others died of the agent's SIGTERM."""
    assert failure == explain(TABLE.format(code=code)).failure


def test_a_caught_oom_after_which_the_training_goes_on_is_survived():
    """Three steps later it is history, with an exit code or without one."""
    text = STEP % 1 + OOM + "WARNING: skipping batch after OOM\n" + "".join(STEP % n for n in range(2, 6))

    assert ("healthy", 1) == (explain(text, 0).failure, explain(text, 0).survived)
    assert "healthy" == explain(text, None).failure
    assert "code_bug" == explain(text + "Traceback (most recent call last):\nKeyError: 7\n").failure


@pytest.mark.parametrize(
    "noise", [RETRY, WARNED, "fp16=False,\nlogging_nan_inf_filter=True,\nignore_args_error=False,\n"]
)
def test_what_is_tried_again_and_what_is_only_named_so_is_no_cause(noise):
    """Before a real failure, and before none."""
    assert "cuda_oom" == explain(noise + OOM).failure
    assert "healthy" == explain(noise + STEP % 1 + STEP % 2, None).failure


@pytest.mark.parametrize(
    "line, failure, variant",
    [
        ("RuntimeError: unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)", "shm_bus_error", "full"),
        ("NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x, error: No space left on device", "shm_bus_error", "full"),
        ("OSError: [Errno 24] Too many open files", "shm_bus_error", "fds"),
        ("OSError: [Errno 28] No space left on device: 'out/checkpoint-5'", "disk_full", None),
        ("RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 566528 vs 566420", "disk_full", None),
        ("safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer", "checkpoint_corrupt", "damaged"),
        ("RuntimeError: Error(s) in loading state_dict for Net:", "checkpoint_corrupt", "incompatible"),
        ("NVRM: Xid (PCI:0000:02:00): 79, GPU has fallen off the bus.", "gpu_hardware", "lost"),
        ("NVRM: Xid (PCI:0000:02:00): 48, An uncorrectable double bit error (DBE)", "gpu_hardware", None),
    ],
)  # fmt: skip
def test_a_failure_with_forms_is_named_with_its_form(line, failure, variant):
    """What is done hangs on it."""
    told = explain(f"Traceback (most recent call last):\n{line}\n")

    assert (failure, variant) == (told.failure, told.variant)


def test_the_unused_parameters_of_ddp_are_healed_by_the_argument_for_them():
    """The experiment stays what it was."""
    told = explain(
        "[rank0]: RuntimeError: Expected to have finished reduction in the prior iteration before starting a new one. "
        "This error indicates that your module has parameters that were not used in producing loss.\n"
    )

    assert ("code_bug", "unused_parameters", True) == (told.failure, told.variant, told.retryable)
    assert "ddp find unused parameters = true" in told.actions[0]


@pytest.mark.parametrize(
    "text, failure",
    [
        (
            "slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2023-09-11T21:25:45 DUE TO TIME LIMIT ***\n",
            "preempted_or_interrupted",
        ),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.\n",
            "host_oom",
        ),
        ("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit.\nExited with exit code 137.\n", "host_oom"),
        ("./run.sh: line 3: 18317 Killed                  python train.py\n", "preempted_or_interrupted"),
    ],
)
def test_a_scheduler_tells_why_it_ended_a_job(text, failure):
    """A bare kill is no want of memory."""
    assert failure == explain(STEP % 1 + text, None).failure


@pytest.mark.parametrize(
    "after, failure",
    [
        ("AttributeError: 'NoneType' object has no attribute 'write'", "code_bug"),
        ("RuntimeError: DataLoader worker (pid 5) is killed by signal: Interrupt.", "preempted_or_interrupted"),
    ],
)
def test_a_caught_interrupt_whose_handler_fails_is_the_handlers_fault(after, failure):
    """What the interrupt itself brings down is the interrupt's; a signal at the end says it all."""
    text = (
        "Traceback (most recent call last):\nKeyboardInterrupt\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        f'Traceback (most recent call last):\n  File "logger.py", line 9, in close\n{after}\n'
    )

    assert failure == explain(text).failure
    assert "preempted_or_interrupted" == explain(text, 130).failure


@pytest.mark.parametrize(
    "end",
    [
        'Exception ignored in: <function>\nTraceback (most recent call last):\n  File "p.py", line 2\nTypeError: no\n',
        "wandb: Network error (ConnectionError), entering retry loop.\n" + STEP % 8 + STEP % 9,
        "[rank0]:[W1218 ProcessGroupNCCL.cpp:1250] Warning: WARNING: process group has NOT been destroyed before exit\n",
        "train-error-top1: 0.31\nval_error: 0.2, failed=0\n",
    ],
)
def test_a_job_that_works_is_healthy_whatever_it_complains_of_at_its_end(end):
    """What Python tells and goes on after, what is tried again, measures that are called errors."""
    told = explain("loading data\n" + "".join(STEP % n for n in range(1, 8)) + end, None)

    assert "healthy" == told.failure, told.evidence


def test_exit_code_0_hides_no_loss_that_is_no_number():
    """A script of nobody's family prints its loss in its own way, and ends as if all were well."""
    text = "loading data\nepoch 1 mean loss: 2.3\nepoch 2 mean loss: nan\nsaved model.pt\n"

    assert ("nan_loss", 3) == (explain(text, 0).failure, explain(text, 0).evidence[0].number)
    assert "healthy" == explain(text.replace("nan", "2.1"), 0).failure


@pytest.mark.parametrize(
    "code, failure, line", [(1, "code_bug", 3), (137, "preempted_or_interrupted", 7), (139, "segfault", 7)]
)
def test_a_launchers_exception_is_not_the_jobs(code, failure, line):
    """accelerate and LLaMA-Factory raise one for their child: what it left, or its exit code, decides."""
    text = (
        'Traceback (most recent call last):\n  File "train.py", line 3, in step\nKeyError: 7\n'
        'Traceback (most recent call last):\n  File "accelerate", line 8, in <module>\n    sys.exit(main())\n'
        f"subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status {code}.\n"
    )
    told = explain(text if code == 1 else text.replace("KeyError: 7", "  note"))

    assert (failure, line) == (told.failure, told.evidence[0].number)


@pytest.mark.parametrize(
    "code, failure",
    [("-9", "preempted_or_interrupted"), ("-11", "segfault"), ("-7", "shm_bus_error"), ("1", "unknown")],
)
def test_deepspeeds_launcher_tells_how_its_child_ended(code, failure):
    """It has no table; without a word of the child's own this is all there is."""
    line = f"[2024-01-01 00:00:00,000] [ERROR] [launch.py:321:sigkill_handler] ['python'] exits with return code = {code}\n"

    assert failure == explain(line, None).failure
    assert "cuda_oom" == explain(OOM + line).failure
