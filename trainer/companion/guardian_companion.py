"""The companion: counts and tells, from inside a training job, what only the job can know.

It must never cost the run. Every piece that runs inside the job is guarded: a failure is told in the heartbeat,
the third one turns the piece off, and the job goes on. Nothing is written before a training loop begins: data
loader workers that import the job's script again carry the same rank. It runs in the job's Python, so it stands
alone on the standard library, in the syntax of Python 3.8, and torch is whatever the job has loaded.

What not every launch wants stands in the files beside this one, which are loaded when a knob asks for them.
"""

import contextlib
import functools
import importlib.util
import json
import numbers
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType

# What these mean, and what the heartbeat's lines hold, stands in guardian/core/wire.py; a test compares them.
ENV_DIR = "GUARDIAN_DIR"
ENV_SPEC = "GUARDIAN_SPEC"
ENV_SHARING = "GUARDIAN_SHARING_STRATEGY"
WIRE_VERSION = 1
CONTROL = "control.json"
HEARTBEAT = "heartbeat.{rank}.jsonl"
COMPANION_KNOBS = frozenset({
    "fingerprint", "restore_batch", "restore_intervals", "longest", "rescue", "learning_rate", "rewarm", "stacks",
    "resume", "arguments", "training", "afresh",
})  # fmt: skip

FAILURES_ALLOWED = 3
TEXT_LIMIT = 2000  # characters of an exception's message that are told


# --- telling ---------------------------------------------------------------------------------------------------


class Heartbeat:
    """This process's file in the attempt's folder. What cannot be written is lost, and the job goes on."""

    def __init__(self, folder):
        self.folder = folder
        self.path = None
        self.held = []
        self.torn = False

    def path_of(self, rank):
        return os.path.join(self.folder, HEARTBEAT.format(rank=rank))

    def open(self, rank):
        self.path = self.path_of(rank)

    def tell(self, event, **facts):
        """One line, with one write. What comes before the first training loop is held back until it begins."""
        self.held.append(json.dumps(dict({"t": round(time.time(), 3), "ev": event}, **facts), default=str))
        if self.path is not None:
            lines, self.held = self.held, []
            for line in lines:
                self.append(line)

    def append(self, line):
        data = (("\n" if self.torn else "") + line + "\n").encode()
        try:
            # Opened for each line (5 us): a job may close, or reuse, the descriptors it does not know.
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self.torn = os.write(file, data) < len(data)  # a disk that fills up takes half a line
            finally:
                os.close(file)
        except OSError:
            pass


def guarded(piece):
    """A method of the companion whose failure is told and never reaches the job."""
    name = piece.__name__

    @functools.wraps(piece)
    def run(self, *args, **kwargs):
        failed = self.failures.get(name, 0)
        if failed >= FAILURES_ALLOWED:
            return None
        try:
            return piece(self, *args, **kwargs)
        except Exception as error:
            self.failures[name] = failed + 1
            off = failed + 1 >= FAILURES_ALLOWED
            self.heartbeat.tell("error", where=name, err=known(described, error), off=off)
            return None

    return run


def described(error):
    place = error.__traceback__
    while place.tb_next is not None:
        place = place.tb_next
    code = place.tb_frame.f_code
    where = f"{os.path.basename(code.co_filename)}:{place.tb_lineno}"
    return f"{type(error).__name__}: {str(error)[:TEXT_LIMIT]} ({where})"


def known(read, *args):
    """What can be read; None where it cannot: a version of a framework without it, a device that is gone."""
    try:
        return read(*args)
    except Exception:
        return None


# --- counting --------------------------------------------------------------------------------------------------


class Late:
    """Numbers on their way from the device to the host; neither of the two stops for it."""

    def __init__(self, scalars):
        torch = sys.modules["torch"]
        self.numbers = torch.stack(scalars)
        self.event = None
        if self.numbers.is_cuda:
            stream = torch.cuda.current_stream(self.numbers.device)
            self.numbers = self.numbers.to("cpu", non_blocking=True)  # into pinned memory
            self.event = torch.cuda.Event()
            self.event.record(stream)

    def arrived(self):
        return self.event is None or self.event.query()

    def read(self):
        """Wait, if need be, until the device has come to where the numbers were asked for; not for what follows."""
        if self.event is not None:
            self.event.synchronize()
        return self.numbers.tolist()


class Tally:
    """What entered forward on this rank in one optimizer step."""

    def __init__(self):
        self.batches = 0
        self.rows = 0
        self.tokens = 0
        self.hashed = True  # each batch so far
        self.waiting = []

    def add(self, inputs, fingerprinted):
        batch = leading(inputs)
        if batch is None:
            return
        self.batches += 1
        self.rows += batch.shape[0]
        ids, mask = inputs.get("input_ids"), mask_of(inputs, batch)
        scalars = {}
        if mask is None:
            self.tokens += batch.shape[0] * (batch.shape[1] if batch.dim() > 1 else 1)
        else:
            scalars["tokens"] = mask.sum()
        self.hashed = self.hashed and fingerprinted and batch is ids and ids.dim() == 2
        if self.hashed:
            labels, positions = like(ids, inputs, "labels"), like(ids, inputs, "position_ids")
            scalars["fingerprint"] = fingerprint(ids, mask, labels, positions)
        if scalars:
            self.waiting.append((list(scalars), Late(list(scalars.values()))))

    def facts(self):
        """For the step's line; nothing where no batch was seen: unknown, which is not zero."""
        if not self.batches:
            return {}
        sums = {"tokens": self.tokens, "fingerprint": 0}
        for names, late in self.waiting:
            for name, number in zip(names, late.read()):
                sums[name] += number
        facts = {"rows": self.rows, "tokens": sums["tokens"]}
        if self.hashed:
            facts["fp"] = format(sums["fingerprint"] % 2**64, "016x")
        return facts


def named(args, kwargs):
    """The arguments of a forward by name; positional ones by their place."""
    inputs = {}
    for place, value in enumerate(args):
        inputs.update(value if isinstance(value, Mapping) else {place: value})
    inputs.update(kwargs)
    return inputs


def leading(inputs):
    """The tensor whose first dimension is the batch."""
    candidates = [inputs.get("input_ids"), inputs.get("inputs_embeds"), *inputs.values()]
    return next((value for value in candidates if is_tensor(value) and value.dim()), None)


def longest_row(inputs, batch):
    """Tokens of the longest row; None for what is no text. Never waits: on an accelerator it is the padded width."""
    ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
    if not ((batch is ids and ids.dim() == 2) or (batch is embeddings and embeddings.dim() == 3)):
        return None
    mask = mask_of(inputs, batch)
    if mask is None or mask.device.type != "cpu" or not batch.shape[0]:
        return batch.shape[1]
    return int(mask.sum(1).max())


def is_tensor(value):
    return isinstance(value, sys.modules["torch"].Tensor)


def mask_of(inputs, batch):
    """True at the real tokens, from a plain attention mask."""
    mask = inputs.get("attention_mask")
    return mask != 0 if is_tensor(mask) and mask.dim() == 2 and mask.shape == batch.shape[:2] else None


def like(ids, inputs, name):
    value = inputs.get(name)
    return value if is_tensor(value) and value.shape == ids.shape else None


def fingerprint(ids, mask, labels, positions):
    """The sum over the rows of a 64-bit hash, on the batch's device.

    Neither the order of the rows, nor how they are split into batches, nor padding and its side change it; one
    token, its place or its label does. Sums of batches and ranks add up modulo 2^64. In a batch without padding
    (one long row whose position_ids start again) each sequence counts as a row.
    """
    torch = sys.modules["torch"]
    integer = torch.int64
    packed = mask is None and positions is not None and ids.shape[0] == 1
    real = torch.ones_like(ids, dtype=integer) if mask is None else mask.to(integer)
    place = positions.to(integer) + 1 if packed else real.cumsum(1)
    tokens = ids.to(integer) + (place << 32)
    if labels is not None:
        tokens = tokens ^ ((labels.to(integer) + 101) << 17)
    hashes = mixed(tokens) * real
    if not packed:
        return mixed(hashes.sum(1) + 1).sum()
    # The number of sequences stays on the device: room for as many as there are tokens, the empty ones masked out.
    sequence = (positions[0] == 0).to(integer).cumsum(0).sub(1).clamp_(min=0)
    sums = torch.zeros_like(sequence).index_add_(0, sequence, hashes[0])
    filled = torch.arange(sequence.shape[0], device=ids.device) <= sequence[-1]
    return (mixed(sums + 1) * filled).sum()


def mixed(x):
    """A bijective scramble of 64 bits (constants of splitmix64); int64 wraps on every device."""
    x = x * -7046029254386353131
    x = x ^ (x >> 29)
    x = x * -4658895280553007687
    return x ^ (x >> 32)


# --- one training loop -----------------------------------------------------------------------------------------


class Signals:
    """Notes that a signal reached a handler of the job's own; where the default stands, it stays."""

    WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    # Handlers are looked for while the loop starts up, not for ever: two parties that each wrap the other's
    # handler at every step would build an endless chain.
    LOOKS = 4

    def __init__(self):
        self.heard = False
        self.looks = 0
        self.wrapped = {}

    def look(self):
        if self.looks == self.LOOKS or threading.current_thread() is not threading.main_thread():
            return
        self.looks += 1
        for signum in self.WATCHED:
            handler = signal.getsignal(signum)
            ours, _ = self.wrapped.get(signum, (None, None))
            if callable(handler) and handler is not signal.default_int_handler and handler is not ours:
                ours = functools.partial(self.hear, handler)
                self.wrapped[signum] = (ours, handler)
                signal.signal(signum, ours)

    def hear(self, handler, signum, frame):
        self.heard = True
        return handler(signum, frame)

    def leave(self):
        if threading.current_thread() is threading.main_thread():
            for signum, (ours, handler) in self.wrapped.items():
                if signal.getsignal(signum) is ours:
                    signal.signal(signum, handler)


class Loop:
    """The state of one training loop on this rank."""

    def __init__(self, output_dir):
        self.output_dir = output_dir
        self.phase = "train"
        self.optimizing = False  # from the last micro-batch of a step to the step's end
        self.between = False  # no micro-batch has begun since the last step's end
        self.at_work = None  # the optimizer step that the micro-batch in forward or backward belongs to
        self.batch = {}  # rows and longest row of that micro-batch
        self.longest = 0
        self.tally = Tally()
        self.lr = None
        self.loss = None  # summed on the device over the micro-batches of the step at hand
        self.late_loss = None  # (step, Late) of the step before, where reading at once would make the host wait
        self.control_seen = None
        self.control = {}
        self.stopped = False  # by our control file
        self.signals = Signals()
        self.rescue = None
        self.rewarming = None
        self.pace = None  # of one of several ranks (guardian_pace.py)

    def doing(self):
        """What an exception interrupts."""
        return "optimizer" if self.optimizing and self.phase == "train" else self.phase

    def add_loss(self, loss):
        loss = loss.detach().to(sys.modules["torch"].float32, copy=True)
        self.loss = loss if self.loss is None else self.loss + loss

    def losses(self, step):
        """What can be told of the loss at the end of this step, as a part of its line."""
        if self.loss is None:
            return {}
        own, self.loss = (step, Late([self.loss])), None
        if own[1].event is None:
            return told_loss(own)
        before, self.late_loss = self.late_loss, own
        return told_loss(before) if before else {}

    def last_loss(self):
        """The loss of the last finished step where it was not told yet; not waited for: the device may be gone."""
        late, self.late_loss = self.late_loss, None
        return told_loss(late) if late and late[1].arrived() else {}


@contextlib.contextmanager
def deaf_to_children():
    """Torch raises in the middle of anything when a data loader process dies; here that is what is being met."""
    heard = signal.getsignal(signal.SIGCHLD)
    if not callable(heard) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except Exception:  # what was due already is raised here
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, heard)


def told_loss(late):
    step, number = late
    return {"loss": [step, number.read()[0]]}


class Companion:
    """The callback that joins every trainer. Outside a training loop `loop` is None and nothing is told."""

    heartbeat = None
    knobs = MappingProxyType({})

    def __init__(self):
        self.failures = {}
        self.trainer = None
        self.resumed_from = None
        self.loop = None

    def __reduce__(self):
        """A copied or pickled trainer carries an idle callback in our place."""
        return (type(self).__bases__[1], ())

    # What the trainer's callback handler calls.

    def on_train_begin(self, args, state, _control, model=None, train_dataloader=None, **others):
        self.restore_intervals(args, state)
        self.begin(args, state, model, train_dataloader)
        self.set_rate(state, others.get("optimizer"), others.get("lr_scheduler"))
        self.prepare_rewarming(state)
        self.prepare_rescue(args)
        self.look_for_handlers()

    def on_step_begin(self, _args, state, _control, optimizer=None, lr_scheduler=None, **_):
        self.enter("train", state)  # a job may have caught what an evaluation or a save threw
        self.step_begins()
        self.lower_rate(state, optimizer, lr_scheduler)

    @guarded
    def on_pre_optimizer_step(self, _args, _state, _control, **_):
        if self.loop is not None:
            self.loop.optimizing = True
            if self.loop.pace is not None:
                self.loop.pace.begins()

    @guarded
    def on_optimizer_step(self, _args, _state, _control, **_):
        if self.loop is not None and self.loop.rewarming is not None:
            self.loop.rewarming.give_back()

    def on_step_end(self, args, state, control, **_):
        self.step_done(state)
        self.end_lowered_rate()
        self.remember(args, state)
        self.step_is_over()
        self.obey(state, control)
        self.look_for_handlers()

    @guarded
    def on_log(self, _args, state, _control, logs=None, **_):
        if self.loop is not None:
            self.heartbeat.tell("log", step=state.global_step, logs=plain(logs or {}))

    @guarded
    def on_train_end(self, args, state, control, **_):
        if self.loop is not None:
            by = self.ended_by(args, state, control)
            loss = known(self.loop.last_loss) or {}
            self.heartbeat.tell("end", step=state.global_step, max_steps=state.max_steps, by=by, **loss)
            self.leave()

    # The begin and the end of a loop.

    @guarded
    def enter_train(self, trainer, args, kwargs):
        """The arguments of train(), with the checkpoint that a script does not hand on (TRL's own do not)."""
        wanted, afresh = self.knobs.get("resume"), self.knobs.get("afresh")
        if not (wanted or afresh):
            return args, kwargs
        inside = beside("guardian_inside")
        path = self.heartbeat.path_of(trainer.args.process_index)
        given = args[0] if args else kwargs.get("resume_from_checkpoint")
        if self.knobs.get("training") == inside.trainings_before(path) + 1:
            if wanted or inside.lies_in(given, afresh):
                return inside.handed(args, kwargs, wanted)
            return args, kwargs
        if given is not None or not wanted:
            return args, kwargs
        # A script may train something else first, and the checkpoint is not that trainer's.
        home = os.path.dirname(os.path.abspath(wanted))
        asked = getattr(trainer.args, "resume_from_checkpoint", None)
        if asked != wanted and os.path.abspath(trainer.args.output_dir) != home:
            return args, kwargs
        return inside.handed(args, kwargs, wanted)

    @guarded
    def enter_loop(self, trainer, args, kwargs):
        """Before the trainer sets up its loop; returns the arguments for it."""
        self.trainer = trainer
        self.share_as_asked()
        self.resumed_from = kwargs.get("resume_from_checkpoint", args[2] if len(args) > 2 else None)
        return with_own_batch(trainer, args, kwargs) if "restore_batch" in self.knobs else (args, kwargs)

    @guarded
    def share_as_asked(self):
        """How tensors come from the data loader's processes, which inherit it: as open files, or by name."""
        if os.environ.get(ENV_SHARING):
            sys.modules["torch"].multiprocessing.set_sharing_strategy(os.environ[ENV_SHARING])

    @guarded
    def restore_intervals(self, args, state):
        """A resumed state carries the intervals of the run that wrote it, and they win over the command line."""
        if "restore_intervals" in self.knobs and hasattr(state, "compute_steps"):
            state.compute_steps(args, state.max_steps)

    @guarded
    def begin(self, args, state, model, loader):
        self.loop = Loop(os.path.abspath(args.output_dir))
        self.heartbeat.open(args.process_index)
        self.heartbeat.tell(
            "hello",
            v=WIRE_VERSION,
            pid=os.getpid(),
            rank=args.process_index,
            local_rank=args.local_process_index,
            world=args.world_size,
            step=state.global_step,
            max_steps=state.max_steps,
            steps_per_epoch=known(steps_per_epoch, loader, args.gradient_accumulation_steps),
            save_steps=state.save_steps if args.save_strategy == "steps" else None,
            logging_steps=state.logging_steps if args.logging_strategy == "steps" else None,
            learning_rate=args.learning_rate,
            output_dir=self.loop.output_dir,
            trainer=type(self.trainer).__name__ if self.trainer is not None else None,
            resumed_from=known(os.path.abspath, self.resumed_from),
            versions=versions(),
            armed="stacks" in self.knobs and known(lambda: beside("guardian_stacks").armed()),
            eval_batch=known(lambda: args.per_device_eval_batch_size),
            optimizer=known(lambda: str(getattr(args.optim, "value", args.optim))),
            **(known(model_facts, model) or {}),
            **(known(loader_facts, loader) or {}),
            **batch_facts(self.trainer, args, loader),
            **(known(self.inner_facts, args, loader) or {}),
        )
        if args.world_size > 1:
            self.loop.pace = beside("guardian_pace").Pace()

    def inner_facts(self, args, loader):
        """What no command line may tell of this training."""
        inside = beside("guardian_inside")
        ended = inside.trainings_before(self.heartbeat.path)
        return dict(inside.facts(self.trainer, args, sampled_batch(loader)), training=ended + 1)

    def ended_by(self, args, state, control):
        if state.global_step >= state.max_steps:
            return "max_steps" if args.max_steps > 0 else "epochs"
        if self.loop.stopped:
            return "guardian"
        if self.loop.signals.heard:
            return "signal"
        return "trainer" if control.should_training_stop else "epochs"

    @guarded
    def failed(self, error):
        if self.loop is not None:
            facts = {"phase": self.loop.doing(), **self.loop.batch, **(known(self.loop.last_loss) or {})}
            with deaf_to_children():
                facts.update(self.rescued(error) or {})
            text = known(lambda: str(error)[:TEXT_LIMIT])
            step = self.trainer.state.global_step
            self.heartbeat.tell("exc", step=step, type=type(error).__name__, text=text, **facts)

    @guarded
    def rescued(self, error):
        """Save the last finished step; returns what came of it, for the exception's line."""
        if self.loop.rescue is None:
            return None
        step = self.trainer.state.global_step
        if self.loop.rewarming is not None:
            self.loop.rewarming.undo()  # what is saved is the schedule's own rate
        why = self.loop.rescue.refusal(self.trainer, error, self.loop)
        if why:
            return {"not_rescued": why}
        self.heartbeat.tell("phase", phase="save", step=step)
        try:
            path = self.loop.rescue.save(self.trainer)
        except BaseException as failure:  # an impatient Ctrl-C too: the job ends by its own exception
            return {"not_rescued": known(described, failure) or type(failure).__name__}
        self.heartbeat.tell("saved", step=step, path=path)
        return {"rescued": path}

    @guarded
    def leave(self):
        """However the loop ended: nothing of the job is held any longer."""
        loop, self.loop, self.trainer, self.resumed_from = self.loop, None, None, None
        if loop is not None:
            loop.signals.leave()
            if loop.rescue is not None:
                loop.rescue.leave()

    # Within a step.

    @guarded
    def enter_micro_step(self, trainer, model):
        """Watch the model for the length of one micro-step; returns the hook's handle.

        Not longer: whoever copies or pickles the model between the steps must not find us in it. The model is the
        outermost one (DDP, the DeepSpeed engine, a compiled module): no recomputation calls its forward again.
        """
        if self.loop is None:
            return None
        self.loop.lr = known(learning_rate, trainer.optimizer)
        self.loop.at_work = known(lambda: trainer.state.global_step + 1)
        if getattr(model, "_compiled_call_impl", None) is not None:
            return None  # compiled in place: a hook would be traced, and could break the job's full graph
        hook = model.register_forward_pre_hook(self.forward_entered, with_kwargs=True)
        return hook if self.loop.pace is None else known(self.loop.pace.watch, model, hook) or hook

    @guarded
    def forward_entered(self, model, args, kwargs):
        torch = sys.modules["torch"]
        # Without gradients nothing is learnt from it: generation and reference passes within a step.
        if self.loop is not None and model.training and torch.is_grad_enabled():
            with torch.no_grad():
                inputs = named(args, kwargs)
                self.note_size(inputs)
                self.loop.tally.add(inputs, "fingerprint" in self.knobs)

    @guarded
    def note_size(self, inputs):
        """Before forward: what this micro-batch takes may be what kills the process."""
        batch = leading(inputs)
        if batch is None:
            return
        longest = longest_row(inputs, batch)
        self.loop.batch = {"rows": batch.shape[0], "longest": longest}
        if longest is not None and longest > self.loop.longest:
            self.loop.longest = longest
            if "longest" in self.knobs and self.loop.at_work is not None:
                self.heartbeat.tell("longest", step=self.loop.at_work, **self.loop.batch)

    @guarded
    def leave_micro_step(self, loss):
        if self.loop is not None:
            self.loop.batch = {}
            self.loop.add_loss(loss)

    @guarded
    def step_begins(self):
        if self.loop is not None:
            self.loop.optimizing, self.loop.between, self.loop.batch = False, False, {}

    @guarded
    def step_done(self, state):
        loop, step = self.loop, state.global_step
        if loop is not None:
            tally, loop.tally = loop.tally, Tally()
            lr = {} if loop.lr is None else {"lr": loop.lr}
            own = {} if loop.pace is None else known(loop.pace.told, step) or {}
            self.heartbeat.tell("step", step=step, **tally.facts(), **lr, **loop.losses(step), **own)

    @guarded
    def step_is_over(self):
        if self.loop is not None:
            self.loop.optimizing, self.loop.between = False, True

    # The learning rate that guardian wants (guardian_rates.py).

    @guarded
    def set_rate(self, state, optimizer, scheduler):
        """After the checkpoint has been loaded. What could not be set is told as well as what was."""
        target, step = self.knobs.get("learning_rate"), state.global_step
        if target is None or self.loop is None:
            return
        try:
            before, after = beside("guardian_rates").set_base(optimizer, scheduler, target, fresh=step == 0)
            self.heartbeat.tell("lr", step=step, before=before, after=after)
        except Exception as error:
            rate = known(learning_rate, optimizer)
            self.heartbeat.tell("lr", step=step, before=rate, after=rate, error=described(error))

    @guarded
    def prepare_rewarming(self, state):
        wanted = self.knobs.get("rewarm")
        if wanted is None or self.loop is None:
            return
        try:
            self.loop.rewarming = beside("guardian_rates").Rewarming(wanted["from"], wanted["steps"])
        except Exception as error:
            self.heartbeat.tell("lr", step=state.global_step, error=f"rewarm: {described(error)}")

    @guarded
    def lower_rate(self, state, optimizer, scheduler):
        if self.loop is not None and self.loop.rewarming is not None:
            self.loop.rewarming.lower(state.global_step, optimizer, scheduler)

    @guarded
    def end_lowered_rate(self):
        if self.loop is not None and self.loop.rewarming is not None:
            self.loop.rewarming.undo()

    # What a save on an exception needs (guardian_rescue.py).

    @guarded
    def prepare_rescue(self, args):
        if "rescue" in self.knobs and self.loop is not None:
            self.loop.rescue = beside("guardian_rescue").Rescue(self.heartbeat.folder)
            self.loop.rescue.enter(args)

    @guarded
    def remember(self, args, state):
        """At the end of a step, as the random numbers and sums of the step are whole."""
        if self.loop is not None and self.loop.rescue is not None and self.loop.optimizing:
            self.loop.rescue.remember(self.trainer, args, state)

    @guarded
    def remember_again(self, trainer):
        """After an evaluation or a save between two steps: it may have drawn random numbers."""
        if self.loop is not None and self.loop.rescue is not None and self.loop.between:
            self.loop.rescue.remember_again(trainer.args, trainer.state)

    @guarded
    def obey(self, state, control):
        """Save, or save and stop, at the step that the control file names: at that step only, as all ranks must."""
        if self.loop is None:
            return
        self.read_control(state.global_step)
        if self.loop.control.get("save_at") == state.global_step:
            control.should_save = True
            if self.loop.control.get("stop"):
                control.should_training_stop = True
                self.loop.stopped = True

    def read_control(self, step):
        path = os.path.join(self.heartbeat.folder, CONTROL)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen == self.loop.control_seen:
            return
        self.loop.control_seen = seen
        with open(path, "rb") as file:
            control = json.loads(file.read())
        if not isinstance(control, dict):
            raise TypeError("the control file holds no object")
        self.loop.control = control
        self.heartbeat.tell("ack", id=control.get("id"), step=step, save_at=control.get("save_at"))

    @guarded
    def look_for_handlers(self):
        if self.loop is not None:
            self.loop.signals.look()

    # Around evaluations and saves.

    @guarded
    def enter(self, phase, state):
        """The phase that was left; None outside a training loop."""
        if self.loop is None:
            return None
        before, self.loop.phase = self.loop.phase, phase
        if before != phase:
            if self.loop.pace is not None:
                self.loop.pace.interrupted()
            self.heartbeat.tell("phase", phase=phase, step=state.global_step)
        return before

    @guarded
    def saved(self, state):
        path = os.path.join(self.loop.output_dir, f"checkpoint-{state.global_step}")
        self.heartbeat.tell("saved", step=state.global_step, path=path)


# --- facts of the trainer --------------------------------------------------------------------------------------


def with_own_batch(trainer, args, kwargs):
    """The loop's arguments with the batch of the command line.

    transformers 4.x restores the batch of trainer_state.json whatever the arguments say, so that 8 x 2 resumed as
    4 x 4 would run 8 x 4.
    """
    own = trainer.args.train_batch_size
    if trainer.args.auto_find_batch_size or own == claimed_batch(trainer, trainer.args):
        return args, kwargs
    trainer._train_batch_size = own  # noqa: SLF001 - the trainer has no other name for it
    return ((own, *args[1:]), kwargs) if args else (args, dict(kwargs, batch_size=own))


def claimed_batch(trainer, args):
    return getattr(trainer, "_train_batch_size", args.train_batch_size)


def batch_facts(trainer, args, loader):
    """The parts of the effective batch as they are, not as they were asked for."""
    claimed = claimed_batch(trainer, args)
    sampled = sampled_batch(loader)
    device_batch = claimed if sampled is None else sampled
    accumulation = args.gradient_accumulation_steps
    total = known(lambda: trainer.get_total_train_batch_size(args))  # knows of tensor and sequence parallel ranks
    data_parallel = total // (claimed * accumulation) if total else args.world_size
    return {
        "device_batch": device_batch,
        "batch_argument": args.per_device_train_batch_size,
        "accumulation": accumulation,
        "data_parallel": data_parallel,
        "effective_batch": device_batch * accumulation * data_parallel,
    }


def sampled_batch(loader):
    """Rows of a micro-batch as the loader makes them; None where it does not say."""
    sampler = getattr(loader, "batch_sampler", None)
    sampled = None if getattr(sampler, "split_batches", False) else getattr(sampler, "batch_size", None)
    return sampled if isinstance(sampled, int) else None


def model_facts(model):
    """Where the model is, and whether it computes activations again instead of keeping them."""
    device = next(model.parameters()).device.type
    switches = [getattr(module, "gradient_checkpointing", None) for module in model.modules()]
    switches = [bool(one) for one in switches if one is not None]
    return {"device": device, "gradient_checkpointing": any(switches) if switches else None}


def loader_facts(loader):
    """The loader's processes as it has them, not as they were asked for; dispatching loaders wrap the real one."""
    loader = getattr(loader, "base_dataloader", loader)
    return {
        "workers": getattr(loader, "num_workers", None),
        "prefetch": getattr(loader, "prefetch_factor", None),
        "pin_memory": getattr(loader, "pin_memory", None),
    }


def steps_per_epoch(loader, accumulation):
    return max(-(-len(loader) // accumulation), 1)


def learning_rate(optimizer):
    """What the coming optimizer step uses. DeepSpeed steps, schedule and all, within the micro-step's backward."""
    lr = optimizer.param_groups[0]["lr"]
    return None if getattr(lr, "is_cuda", False) else float(lr)


def versions():
    """Of what is loaded: importing or looking up more would cost the job time."""
    names = ("torch", "transformers", "peft", "accelerate", "deepspeed")
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return dict({"python": sys.version.split()[0]}, **{name: str(one) for name, one in found.items() if one})


def plain(logs):
    """The numbers and strings among what the trainer logged."""
    kept = {}
    for name, value in logs.items():
        if isinstance(value, str):
            kept[str(name)] = value[:TEXT_LIMIT]
        elif isinstance(value, numbers.Integral):
            kept[str(name)] = int(value)
        elif isinstance(value, numbers.Real):
            kept[str(name)] = float(value)
    return kept


# --- joining the trainer ---------------------------------------------------------------------------------------


def beside(name):
    """Another file of the companion, loaded at the first call; sys.path does not lead to it."""
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def install(trainer_module):
    """Join every trainer that the module's classes will make. Class attributes: subclasses are reached too."""
    trainer_class = trainer_module.Trainer
    if hasattr(trainer_class, "guardian_companion"):
        return  # guardians may be nested, each with a loader
    heartbeat = Heartbeat(os.environ[ENV_DIR])
    wanted = knobs(heartbeat)
    if "stacks" in wanted:
        arm(heartbeat)
    parts = {"heartbeat": heartbeat, "knobs": wanted}
    callback = type("GuardianCallback", (Companion, trainer_module.TrainerCallback), parts)
    trainer_class.guardian_companion = callback
    join_handlers(trainer_module.CallbackHandler, callback)
    watch_parsers(heartbeat)
    if "arguments" in wanted:
        around_making(trainer_class, heartbeat, wanted["arguments"])
    around(trainer_class, "train", watch_train)
    around(trainer_class, "_inner_training_loop", watch_loop)
    around(trainer_class, "training_step", watch_micro_step)
    around(trainer_class, "evaluate", watch_evaluation)
    around(trainer_class, "evaluation_loop", watch_evaluation)
    around(trainer_class, "_save_checkpoint", watch_save)


def knobs(heartbeat):
    """What this launch wants: {name: value}, without what is off or unknown."""
    try:
        spec = json.loads(os.environ.get(ENV_SPEC) or "{}")
        return {name: spec[name] for name in COMPANION_KNOBS if spec.get(name)}
    except Exception as error:
        heartbeat.tell("error", where="knobs", err=known(described, error), off=True)
        return {}


def arm(heartbeat):
    try:
        beside("guardian_stacks").arm()
    except Exception as error:
        heartbeat.tell("error", where="arm", err=known(described, error), off=True)


def watch_parsers(heartbeat):
    try:
        beside("guardian_inside").watch_parsers()
    except Exception as error:
        heartbeat.tell("error", where="watch_parsers", err=known(described, error), off=True)


def around_making(trainer_class, heartbeat, wanted):
    original = trainer_class.__init__

    @functools.wraps(original)
    def made(self, *args, **kwargs):
        try:
            inside = beside("guardian_inside")
            inside.edit(inside.made_with(args, kwargs), wanted)
        except Exception as error:
            heartbeat.tell("error", where="arguments", err=known(described, error), off=False)
        return original(self, *args, **kwargs)

    trainer_class.__init__ = made


def join_handlers(handler_class, callback):
    original = handler_class.__init__

    @functools.wraps(original)
    def joined(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.callbacks.append(callback())

    handler_class.__init__ = joined


def around(trainer_class, name, watch):
    original = getattr(trainer_class, name, None)
    if original is None:  # a version without it: the rest is watched all the same
        return

    @functools.wraps(original)
    def watched(self, *args, **kwargs):
        callbacks = getattr(getattr(self, "callback_handler", None), "callbacks", ())
        companion = next((one for one in callbacks if isinstance(one, Companion)), None)
        if companion is None:  # taken out by the job
            return original(self, *args, **kwargs)
        return watch(companion, original, self, *args, **kwargs)

    setattr(trainer_class, name, watched)


def watch_train(companion, original, trainer, *args, **kwargs):
    args, kwargs = companion.enter_train(trainer, args, kwargs) or (args, kwargs)
    return original(trainer, *args, **kwargs)


def watch_loop(companion, original, trainer, *args, **kwargs):
    args, kwargs = companion.enter_loop(trainer, args, kwargs) or (args, kwargs)
    try:
        return original(trainer, *args, **kwargs)
    except BaseException as error:
        companion.failed(error)
        raise
    finally:
        companion.leave()


def watch_micro_step(companion, original, trainer, *args, **kwargs):
    hook = companion.enter_micro_step(trainer, kwargs["model"] if "model" in kwargs else args[0])
    try:
        loss = original(trainer, *args, **kwargs)
    finally:
        if hook is not None:
            hook.remove()
    companion.leave_micro_step(loss)
    return loss


def watch_evaluation(companion, original, trainer, *args, **kwargs):
    before = companion.enter("eval", trainer.state)
    result = original(trainer, *args, **kwargs)
    if before:  # after an exception the phase stays: it says where the job failed
        companion.enter(before, trainer.state)
        companion.remember_again(trainer)
    return result


def watch_save(companion, original, trainer, *args, **kwargs):
    before = companion.enter("save", trainer.state)
    result = original(trainer, *args, **kwargs)
    if before:
        companion.saved(trainer.state)
        companion.enter(before, trainer.state)
        companion.remember_again(trainer)
    return result
