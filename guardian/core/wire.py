"""What passes between guardian and the processes it starts: names, file names, line formats.

The keeper and the companion cannot import this module (they run without guardian's packages); they carry the
same constants, and a test compares them with these.
"""

from __future__ import annotations

# Environment of the job. MARK identifies a process of an attempt: "<run uuid>/<attempt number>".
ENV_MARK = "GUARDIAN_MARK"
# The attempt's folder: the companion writes its heartbeat there and polls the control file there.
ENV_DIR = "GUARDIAN_DIR"
# JSON object, the companion's knobs for this launch; see COMPANION_KNOBS.
ENV_SPEC = "GUARDIAN_SPEC"

WIRE_VERSION = 1

# Files of an attempt's folder.
JOB_LOG = "job.log"
LAUNCH = "launch.json"
LAUNCHER_EXIT = "launcher_exit.json"
TREE_END = "tree_end.json"
CONTROL = "control.json"
HEARTBEAT = "heartbeat.{rank}.jsonl"
HEARTBEAT_GLOB = "heartbeat.*.jsonl"

# Keys of ENV_SPEC.
#   fingerprint        bool: hash the samples of each step (order, split and padding do not matter)
#   restore_batch      bool: undo the batch size that transformers 4.x restores from trainer_state.json
#   restore_intervals  bool: save/eval/logging steps of the command line, not of the checkpoint
COMPANION_KNOBS = frozenset({"fingerprint", "restore_batch", "restore_intervals"})

# Heartbeat lines: one JSON object per line, appended with one write each, with "v" (WIRE_VERSION on the hello),
# "t" (wall seconds) and "ev":
#   hello   once per training loop and rank, from on_train_begin: pid, rank, local_rank, world, step, max_steps,
#           device_batch (the micro batch that the trainer really uses on this rank), batch_argument (the argument),
#           accumulation, data_parallel (world size that multiplies the batch), effective_batch (their product),
#           steps_per_epoch, save_steps, logging_steps, learning_rate (argument), output_dir (absolute), the trainer's
#           class (trainer), the checkpoint or null (resumed_from), and versions, an object of python, torch,
#           transformers, peft, accelerate and deepspeed
#   step    after each optimizer step: step (finished steps), rows, tokens (that entered forward on this rank in this
#           step), fp (hex, sum mod 2^64) or absent, lr (that the step used), loss [step, value] or absent: the sum over
#           the micro-batches of what training_step returned; on a GPU it is read one step late, without a sync
#   log     what the trainer logged: step, logs {name: number or string}
#   phase   phase ("train" | "eval" | "save"), step
#   saved   step, path
#   ack     id, step, save_at: the control file was read
#   exc     an exception left the training loop: step, type, text
#   end     the training loop ended: step, max_steps, by ("max_steps" | "epochs" | "trainer" | "guardian" | "signal")
#   error   the companion's own trouble: where, err, off
# Unknown keys and events are ignored by readers, so either side may be older than the other.

# control.json, written by rename: {"id": int, "save_at": step, "stop": bool}. A rank acts only when its finished step
# equals save_at, never later: all ranks or none.


def socket_name(uid: int, run: str, attempt: int) -> str:
    """The abstract address that a keeper holds for the life of its attempt: the attempt's lock.

    The kernel releases it when the keeper is gone, however it went.
    """
    return f"\0guardian/{uid}/{run}/{attempt}"


def supervisor_socket_name(uid: int, run: str) -> str:
    """The abstract address on which the living supervisor of a run hears `guardian stop`."""
    return f"\0guardian/{uid}/{run}/supervisor"


def mark(run: str, attempt: int) -> str:
    """The value of ENV_MARK in every process of an attempt."""
    return f"{run}/{attempt}"
