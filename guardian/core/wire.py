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
STACKS = "stacks"
STACKS_FILE = "stacks/{pid}.txt"
"""Where guardian keeps the stacks that it was given, one request after the other."""
STACKS_MEMORY = "guardian-stacks-{pid}"
"""The memory (memfd_create(2)) into which an armed process writes its stacks, appended at each request; guardian reads
it in /proc/PID/fd. A forked child has one of its own."""
STACKS_AFTER_RTMIN = 7
"""The request: signal SIGRTMIN + 7. It ends a process that is not armed: send it only where SigCgt of
/proc/PID/status has it and the process holds STACKS_MEMORY of its own pid, whatever a hello said (a forked child may
have become another program)."""
STACKS_FD_AT_LEAST = 500

# Keys of ENV_SPEC.
#   fingerprint        bool: hash the samples of each step (order, split and padding do not matter)
#   restore_batch      bool: undo the batch size that transformers 4.x restores from trainer_state.json
#   restore_intervals  bool: save/eval/logging steps of the command line, not of the checkpoint
#   longest            bool: tell of each micro-batch whose longest row is the longest so far, before it enters forward
#   rescue             bool: save the last finished step when an exception leaves the training loop, where that is sound
#   learning_rate      number: the base rate of the first parameter group, absolute; the others keep their ratio to it
#   rewarm             {"from": step, "steps": n}: after `from` finished steps the optimizer sees 1/(n+1), 2/(n+1), ...
#                      of the schedule's rate; what is saved never shows it
#   stacks             bool: print the stacks of all threads on a signal (STACKS)
#   resume             path: the checkpoint that train() is given where the script gives it none
#   training           which training of the attempt (see the hello) goes on from `resume`, whatever the script gives it
#   afresh             [folder]: train() is given none of the checkpoints in these, by that training
#   arguments          {"set": {name: value}, "where": {name: value}}: what TrainingArguments are given before a trainer
#                      is made of them, if they are those of `where`
COMPANION_KNOBS = frozenset({
    "fingerprint", "restore_batch", "restore_intervals", "longest", "rescue", "learning_rate", "rewarm", "stacks",
    "resume", "arguments", "training", "afresh",
})  # fmt: skip

# Heartbeat lines: one JSON object per line, appended with one write each, with "v" (WIRE_VERSION on the hello),
# "t" (wall seconds) and "ev":
#   hello   once per training loop and rank, from on_train_begin: pid, rank, local_rank, world, step, max_steps,
#           local_world (ranks on this machine, or null), device_batch (the micro batch that the trainer really uses on
#           this rank), batch_argument (the argument),
#           accumulation, data_parallel (world size that multiplies the batch), effective_batch (their product),
#           steps_per_epoch, save_steps, logging_steps, learning_rate (argument), output_dir (absolute), the trainer's
#           class (trainer), the checkpoint or null (resumed_from), and versions, an object of python, torch,
#           transformers, peft, accelerate and deepspeed; as they are in the loop, absent or null where unknown:
#           device (type of the model's), precision (the narrowest floats that it computes in: "bfloat16"),
#           workers, prefetch and pin_memory (of the loader), eval_batch (per device,
#           argument), gradient_checkpointing (of the model; one of the job's own is not seen), optimizer (the
#           argument `optim`); armed (for STACKS); argv (sys.argv, cut), launcher ("torchrun" | "python"), training
#           (one more than this rank's loops that have ended in the attempt), takes_resume (the command line was read by
#           a parser that knows --resume_from_checkpoint), save_total_limit, fixed, an object of knobs that `arguments`
#           would not change, each with the reason; weakening, the names of what it was made with that a resumed run
#           cannot be proved under (core/weakening.py)
#   lr      knob learning_rate, once the checkpoint is loaded: step, before, after (of the first group), or error: why
#           nothing was set
#   longest knob longest, before forward: step (at work: finished steps + 1), rows, longest (tokens of the longest row;
#           where the mask is on an accelerator its padded width, which needs no wait for the device)
#   step    after each optimizer step: step (finished steps), rows, tokens (that entered forward on this rank in this
#           step), fp (hex, sum mod 2^64) or absent, lr (that the step used), loss [step, value] or absent: the sum over
#           the micro-batches of what training_step returned; on a GPU it is read one step late, without a sync
#           own [step, seconds] or absent, of one of several ranks: what it did by itself in that step, between the
#           micro-steps and in forward; on a GPU it is read one step late, as the loss
#   log     what the trainer logged: step, logs {name: number or string}
#   phase   phase ("train" | "eval" | "save"), step
#   batch   batch: in an evaluation, its finished ones (0 as it begins), at most every two seconds; in a step that takes
#           longer than ten seconds its finished micro-steps, at most every ten seconds
#   saved   step, path
#   ack     id, step, save_at: the control file was read
#   exc     an exception left the training loop: step, type, text, phase ("train" | "optimizer" | "eval" | "save"); of
#           the micro-batch that was in forward or backward rows and longest; with knob rescue the path of the
#           checkpoint (rescued), after a phase and a saved line of its own, or not_rescued: why there is none
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
