"""Saves the last finished step when an exception leaves a training loop, and only where that is sound.

Between two optimizer steps the weights, the optimizer and the schedule are those of the finished step; what the
unfinished one has spoilt (random numbers, sums) was kept at the step's end. Nothing collective is called: the rank
that failed writes, whichever it is, and the others, which wait for it in theirs, hand over their random numbers
from a thread. The folder appears under its name when the last byte is on the disk, or never.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time

ASK = "rescue.json"  # in the attempt's folder: {"step": int, "folder": path}, by rename
STAGED = "guardian-tmp-rescue-"  # not "checkpoint-...": the frameworks' rotation takes every folder that begins so
STATE_FILE = "trainer_state.json"
WEIGHTS = re.compile(r"(model|pytorch_model|adapter_model)\b.*\.(safetensors|bin)")

POLL_S = 0.2
HAND_OVER_S = 10  # for the random numbers of the other ranks
WRITER_S = 600  # for another rank that writes
LOOKED_AT = 64  # parameters

# What a device, or a group of ranks, says when its state can no longer be trusted.
LOST_DEVICE = ("CUDA error", "device-side assert", "uncorrectable ECC")
LOST_RANK = ("NCCL", "ProcessGroup", "gloo", "Connection closed by peer", "Connection reset", "Broken pipe")
PLAIN = {"NO", "MULTI_CPU", "MULTI_GPU"}  # each rank holds everything
DEVICES = {"cpu", "cuda"}  # whose random numbers are kept


class Snapshot:
    """What a checkpoint of a step needs and the micro-steps after it spoil."""

    def __init__(self, trainer, args, state):
        self.step = state.global_step
        self.random = random_state(args.world_size)
        self.tokens = getattr(state, "num_input_tokens_seen", None)
        self.flos = state.total_flos + trainer.current_flos * args.world_size
        self.written = times_written(trainer.optimizer)


def random_state(world):
    """In the form of the trainer's own rng_state.pth."""
    torch = sys.modules["torch"]
    kept = {"python": random.getstate(), "cpu": torch.random.get_rng_state()}
    if "numpy" in sys.modules:
        kept["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        kept["cuda"] = torch.cuda.random.get_rng_state_all() if world > 1 else torch.cuda.random.get_rng_state()
    return kept


def times_written(optimizer):
    """Changes when somebody writes into the parameters (fused optimizers excepted)."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    return sum(one._version for one in parameters[:: max(1, len(parameters) // LOOKED_AT)])  # noqa: SLF001


class Rescue:
    """One training loop's; the snapshot is replaced as a whole, so that the thread may read it at any time."""

    def __init__(self, attempt):
        self.attempt = attempt
        self.snapshot = None
        self.rank = 0
        self.over = threading.Event()

    def enter(self, args):
        self.rank = args.process_index
        if self.rank == 0 and os.path.isdir(args.output_dir):
            for name in os.listdir(args.output_dir):
                if name.startswith(STAGED):  # an earlier process was killed while it wrote
                    shutil.rmtree(os.path.join(args.output_dir, name), ignore_errors=True)
        if args.world_size > 1:
            threading.Thread(target=self.listen, name="guardian-rescue", daemon=True).start()

    def leave(self):
        self.over.set()

    def remember(self, trainer, args, state):
        self.snapshot = Snapshot(trainer, args, state)

    def remember_again(self, args, state):
        """The random numbers are further than they were; nothing else is."""
        if self.snapshot is not None and self.snapshot.step == state.global_step:
            self.snapshot.random = random_state(args.world_size)

    # The rank that failed.

    def refusal(self, trainer, error, loop):
        """Why nothing is saved; None where a save is sound."""
        return (
            refused_error(error, trainer.args.world_size)
            or refused_moment(trainer, loop, self.snapshot)
            or refused_trainer(trainer)
        )

    def save(self, trainer):
        """The checkpoint's path."""
        folder = os.path.abspath(trainer._get_output_dir(trial=None))  # noqa: SLF001 - a search would have another one
        final = os.path.join(folder, f"checkpoint-{self.snapshot.step}")
        if os.path.lexists(final):
            whole = os.path.exists(os.path.join(final, STATE_FILE))
            raise FileExistsError(f"{final} is there already{'' if whole else ', and not complete'}")
        staged = os.path.join(folder, STAGED + os.path.basename(final))
        os.makedirs(folder, exist_ok=True)
        try:
            os.mkdir(staged)
        except FileExistsError:
            return self.let_the_other_write(staged, final)
        with undisturbed():
            try:
                self.write(trainer, staged)
                flush(staged)
                os.rename(staged, final)
                flush_one(folder)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        return final

    def write(self, trainer, staged):
        torch, args = sys.modules["torch"], trainer.args
        give_memory_back(trainer.optimizer)
        if args.world_size > 1:
            self.ask(staged)
        with writing_allowed(trainer):
            trainer._save(staged)  # noqa: SLF001 - save_model() would not write on this rank
        if not any(WEIGHTS.fullmatch(name) for name in os.listdir(staged)):
            raise FileNotFoundError("the trainer wrote no weights")
        torch.save(trainer.optimizer.state_dict(), os.path.join(staged, "optimizer.pt"))
        torch.save(trainer.lr_scheduler.state_dict(), os.path.join(staged, "scheduler.pt"))
        scaler = getattr(trainer.accelerator, "scaler", None)
        if scaler is not None:
            torch.save(scaler.state_dict(), os.path.join(staged, "scaler.pt"))
        if args.world_size > 1:
            self.hand_over(staged)
            self.wait_for_the_others(staged, args.world_size)
        else:
            torch.save(self.snapshot.random, os.path.join(staged, "rng_state.pth"))
        with as_of(self.snapshot, trainer):
            trainer.state.save_to_json(os.path.join(staged, STATE_FILE))

    def ask(self, staged):
        path = os.path.join(self.attempt, ASK)
        with open(f"{path}.{self.rank}", "w") as file:
            json.dump({"step": self.snapshot.step, "folder": staged}, file)
        os.replace(f"{path}.{self.rank}", path)

    def wait_for_the_others(self, staged, world):
        """A rank without its random numbers would go on with others: better no checkpoint than one that differs."""
        end = time.monotonic() + HAND_OVER_S
        while True:
            missing = [rank for rank in range(world) if not os.path.exists(random_file(staged, rank))]
            if not missing:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"no random state of ranks {missing}")
            time.sleep(POLL_S / 2)

    # The other ranks.

    def let_the_other_write(self, staged, final):
        """Two ranks failed: this one gives what only it has, and stays until the writer is done."""
        self.hand_over(staged)
        end = time.monotonic() + WRITER_S
        while os.path.isdir(staged) and time.monotonic() < end:
            time.sleep(POLL_S / 2)
        if not os.path.exists(os.path.join(final, STATE_FILE)):
            raise FileNotFoundError("the rank that wrote did not get to its end")
        return final

    def listen(self):
        """While this rank's main thread waits for one that failed."""
        while not self.over.wait(POLL_S):
            with contextlib.suppress(Exception):  # nothing is asked; what fails once is tried at the next look
                with open(os.path.join(self.attempt, ASK), "rb") as file:
                    asked = json.loads(file.read())
                if asked["step"] == self.snapshot.step and os.path.isdir(asked["folder"]):
                    self.hand_over(asked["folder"])

    def hand_over(self, staged):
        path = random_file(staged, self.rank)
        if not os.path.exists(path):
            part = f"{path}.{threading.get_ident()}"
            sys.modules["torch"].save(self.snapshot.random, part)
            os.replace(part, path)


def random_file(staged, rank):
    return os.path.join(staged, f"rng_state_{rank}.pth")


# --- whether it is sound -----------------------------------------------------------------------------------------


def refused_error(error, world):
    if not isinstance(error, Exception):
        return f"{type(error).__name__} is no failure"
    text = f"{type(error).__name__}: {error}".lower()
    signs = (*LOST_DEVICE, *LOST_RANK) if world > 1 else LOST_DEVICE
    lost = next((words for words in signs if words.lower() in text), None)
    return f"after {lost!r} neither the device nor the other ranks can be trusted" if lost else None


def refused_moment(trainer, loop, snapshot):
    if loop.optimizing:
        return "it was inside the optimizer step"
    if loop.phase == "save":
        return "a checkpoint was being written"
    if snapshot is None:
        return "no step has finished in this process"
    if snapshot.step != trainer.state.global_step:
        return f"step {trainer.state.global_step} has not ended where the trainer's callbacks say"
    if snapshot.written != times_written(trainer.optimizer):
        return f"the weights have been written to since step {snapshot.step}"
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    if loop.phase == "eval" and callable(getattr(optimizer, "eval", None)):
        return "this optimizer exchanges the weights for an evaluation"
    return None


def refused_trainer(trainer):
    args, accelerator = trainer.args, trainer.accelerator
    kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
    sharded = ("is_deepspeed_enabled", "is_fsdp_enabled", "is_tp_enabled", "is_distributed_loading_by_transformers")
    reasons = {
        f"{kind}: a save takes all ranks": kind not in PLAIN or any(getattr(trainer, name, False) for name in sharded),
        "the model is spread over ranks": getattr(accelerator, "parallelism_config", None) is not None,
        "the job itself tries again (auto_find_batch_size)": args.auto_find_batch_size,
        "the job saves weights only (save_only_model)": args.save_only_model,
        "a search over hyperparameters": getattr(trainer, "hp_search_backend", None) is not None,
        f"random numbers of {args.device.type} are not kept": args.device.type not in DEVICES,
        "ranks on several machines": os.environ.get("GROUP_WORLD_SIZE", "1") != "1",  # torchrun's number of agents
    }
    return next((why for why, holds in reasons.items() if holds), None)


# --- writing ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def undisturbed():
    """The launcher ends the ranks of a failed job by SIGTERM, and kills them half a minute later."""
    try:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except ValueError:  # not the main thread
        before = None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def give_memory_back(optimizer):
    """The gradients of a step that will be done again from its start."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
    cuda = sys.modules["torch"].cuda
    if cuda.is_available() and cuda.is_initialized():
        cuda.empty_cache()


@contextlib.contextmanager
def writing_allowed(trainer):
    """Two gates silently keep other ranks than 0 from writing: the arguments', since transformers 5 the model's."""
    gate = "should_save_on_this_rank"
    kinds = [kind for module in trainer.model.modules() for kind in type(module).__mro__]
    owner = next((kind for kind in kinds if gate in vars(kind)), None)
    with contextlib.ExitStack() as gates:
        if owner is not None:
            gates.enter_context(replaced(owner, gate, lambda _model, is_main_process=True: is_main_process))
        if not trainer.args.should_save:
            gates.enter_context(replaced(type(trainer.args), "should_save", property(lambda _args: True)))
        yield


@contextlib.contextmanager
def replaced(owner, name, value):
    absent = object()
    before = vars(owner).get(name, absent)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is absent:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextlib.contextmanager
def as_of(snapshot, trainer):
    """The trainer's state as its own save at the snapshot's step would have written it."""
    state = trainer.state
    names = ("num_input_tokens_seen", "total_flos", "stateful_callbacks")
    before = {name: getattr(state, name) for name in names if hasattr(state, name)}
    if snapshot.tokens is not None:
        state.num_input_tokens_seen = snapshot.tokens
    state.total_flos = snapshot.flos
    if "stateful_callbacks" in before:
        state.stateful_callbacks = dict(before["stateful_callbacks"], **callback_states(trainer, before))
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(state, name, value)


def callback_states(trainer, before):
    kept = before["stateful_callbacks"]
    parts = {type(one).__name__: one for one in (*trainer.callback_handler.callbacks, trainer.control)}
    named = {name: one for name, one in parts.items() if isinstance(kept.get(name), dict)}
    return {name: one.state() for name, one in named.items() if callable(getattr(one, "state", None))}


def flush(folder):
    """Files and names: after a power cut a rename may survive without what it names."""
    for place, _, names in os.walk(folder):
        for name in names:
            flush_one(os.path.join(place, name))
        flush_one(place)


def flush_one(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
