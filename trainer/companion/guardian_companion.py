"""The companion: counts and tells, from inside a training job, what only the job can know.

It must never cost the run. Every piece that runs inside the job is guarded: a failure is told in the heartbeat,
the third one turns the piece off, and the job goes on. Nothing is written before a training loop begins: data
loader workers that import the job's script again carry the same rank. It runs in the job's Python, so it stands
alone on the standard library, in the syntax of Python 3.8, and torch is whatever the job has loaded.

Here stands when something is done; how it is done stands in the files beside this one, by subject. They are loaded
where they are first needed, so that one that cannot be loaded is a failure like any other; what tells comes at once.
"""

import contextlib
import functools
import importlib.util
import json
import os
import sys
import time
from types import MappingProxyType

# What these mean, and what the heartbeat's lines hold, stands in guardian/core/wire.py; a test compares them.
ENV_DIR = "GUARDIAN_DIR"
ENV_SPEC = "GUARDIAN_SPEC"
ENV_SHARING = "GUARDIAN_SHARING_STRATEGY"
WIRE_VERSION = 1
BATCHES_APART_S = 2.0
MICRO_STEPS_APART_S = 10.0
CONTROL = "control.json"
COMPANION_KNOBS = frozenset({
    "fingerprint", "restore_batch", "restore_intervals", "longest", "rescue", "learning_rate", "rewarm", "stacks",
    "resume", "arguments", "training", "afresh",
})  # fmt: skip


def beside(name):
    """Another file of the companion, loaded at the first call; sys.path does not lead to it."""
    if name not in sys.modules:
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), name + ".py")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


beside("guardian_telling")
from guardian_telling import TEXT_LIMIT, Heartbeat, described, guarded, known, plain  # noqa: E402 - it is found there now


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
        self.tally = None  # what entered forward in the step at hand (guardian_counting.py)
        self.losses = None  # of the same file
        self.lr = None
        self.orders = None  # of the control file (guardian_control.py)
        self.stopped = False  # by our control file
        self.signals = None  # that the job heard (guardian_signals.py)
        self.rescue = None
        self.rewarming = None
        self.pace = None  # of one of several ranks (guardian_pace.py)
        self.evaluated, self.evaluated_told = -1, None  # batches of the evaluation at hand, and when that was told
        self.micro_steps, self.alive_told = 0, time.monotonic()  # of the step at hand, and when it was last heard of

    def doing(self):
        """What an exception interrupts."""
        return "optimizer" if self.optimizing and self.phase == "train" else self.phase


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
            loss = known(self.last_loss) or {}
            self.heartbeat.tell("end", step=state.global_step, max_steps=state.max_steps, by=by, **loss)
            self.leave()

    # The begin and the end of a loop.

    @guarded
    def enter_train(self, trainer, args, kwargs):
        """The arguments of train(), with the checkpoint that a script does not hand on (TRL's own do not)."""
        if not (self.knobs.get("resume") or self.knobs.get("afresh")):
            return args, kwargs
        path = self.heartbeat.path_of(trainer.args.process_index)
        return beside("guardian_inside").entered(trainer, args, kwargs, self.knobs, path)

    @guarded
    def enter_loop(self, trainer, args, kwargs):
        """Before the trainer sets up its loop; returns the arguments for it."""
        self.trainer = trainer
        self.share_as_asked()
        self.resumed_from = kwargs.get("resume_from_checkpoint", args[2] if len(args) > 2 else None)
        if "restore_batch" not in self.knobs:
            return args, kwargs
        return beside("guardian_batch").with_own_batch(trainer, args, kwargs)

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
            output_dir=self.loop.output_dir,
            resumed_from=known(os.path.abspath, self.resumed_from),
            armed="stacks" in self.knobs and known(lambda: beside("guardian_stacks").armed()),
            **beside("guardian_hello").facts(self.trainer, args, state, model, loader),
            **beside("guardian_batch").facts(self.trainer, args, loader),
            **(known(self.inner_facts, args, loader) or {}),
        )
        if args.world_size > 1:
            self.loop.pace = beside("guardian_pace").Pace()

    def inner_facts(self, args, loader):
        """What no command line may tell of this training."""
        inside = beside("guardian_inside")
        ended = inside.trainings_before(self.heartbeat.path)
        return dict(inside.facts(self.trainer, args, beside("guardian_batch").sampled(loader)), training=ended + 1)

    def ended_by(self, args, state, control):
        if state.global_step >= state.max_steps:
            return "max_steps" if args.max_steps > 0 else "epochs"
        if self.loop.stopped:
            return "guardian"
        if self.loop.signals is not None and self.loop.signals.heard:
            return "signal"
        return "trainer" if control.should_training_stop else "epochs"

    @guarded
    def failed(self, error):
        if self.loop is not None:
            facts = {"phase": self.loop.doing(), **self.loop.batch, **(known(self.last_loss) or {})}
            signals = known(beside, "guardian_signals")
            with signals.deaf_to_children() if signals else contextlib.nullcontext():
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
            if loop.signals is not None:
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
            counting = beside("guardian_counting")
            with torch.no_grad():
                inputs = counting.named(args, kwargs)
                self.note_size(inputs)
                self.loop.tally = self.loop.tally or counting.Tally()
                self.loop.tally.add(inputs, "fingerprint" in self.knobs)

    @guarded
    def note_size(self, inputs):
        """Before forward: what this micro-batch takes may be what kills the process."""
        counting = beside("guardian_counting")
        batch = counting.leading(inputs)
        if batch is None:
            return
        longest = counting.longest_row(inputs, batch)
        self.loop.batch = {"rows": batch.shape[0], "longest": longest}
        if longest is not None and longest > self.loop.longest:
            self.loop.longest = longest
            if "longest" in self.knobs and self.loop.at_work is not None:
                self.heartbeat.tell("longest", step=self.loop.at_work, **self.loop.batch)

    @guarded
    def leave_micro_step(self, loss):
        if self.loop is not None:
            self.loop.batch = {}
            self.loop.losses = self.loop.losses or beside("guardian_counting").Losses()
            self.loop.losses.add(loss)

    @guarded
    def micro_step_done(self):
        """So that a step of many minutes is known from one that stands still; short steps tell enough by themselves."""
        loop, now = self.loop, time.monotonic()
        if loop is None:
            return
        loop.micro_steps += 1
        if now - loop.alive_told >= MICRO_STEPS_APART_S:
            loop.alive_told = now
            self.heartbeat.tell("batch", batch=loop.micro_steps)

    @guarded
    def step_begins(self):
        if self.loop is not None:
            self.loop.optimizing, self.loop.between, self.loop.batch = False, False, {}

    @guarded
    def step_done(self, state):
        loop, step = self.loop, state.global_step
        if loop is not None:
            tally, loop.tally = loop.tally, None
            loop.micro_steps, loop.alive_told = 0, time.monotonic()
            lr = {} if loop.lr is None else {"lr": loop.lr}
            own = {} if loop.pace is None else known(loop.pace.told, step) or {}
            counted = {} if tally is None else tally.facts()
            loss = {} if loop.losses is None else loop.losses.told(step)
            self.heartbeat.tell("step", step=step, **counted, **lr, **loss, **own)

    def last_loss(self):
        return None if self.loop.losses is None else self.loop.losses.last()

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
        step, control_file = state.global_step, os.path.join(self.heartbeat.folder, CONTROL)
        orders = self.loop.orders = self.loop.orders or beside("guardian_control").Orders(control_file)
        if orders.renewed():
            self.heartbeat.tell("ack", id=orders.identity, step=step, save_at=orders.save_at)
        if orders.save_at == step:
            control.should_save = True
            if orders.stop:
                control.should_training_stop = True
                self.loop.stopped = True

    @guarded
    def look_for_handlers(self):
        if self.loop is not None:
            self.loop.signals = self.loop.signals or beside("guardian_signals").Signals()
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

    def on_prediction_step(self, _args, _state, _control, **_):
        self.batch_evaluated()

    @guarded
    def batches_begin(self):
        if self.loop is not None:
            self.loop.evaluated, self.loop.evaluated_told = -1, None
            self.batch_evaluated()

    @guarded
    def batch_evaluated(self):
        """So that an evaluation which stands still is known from a long one; its first word is batch 0."""
        loop, now = self.loop, time.monotonic()
        if loop is None or loop.phase != "eval":
            return
        loop.evaluated += 1
        if loop.evaluated_told is None or now - loop.evaluated_told >= BATCHES_APART_S:
            loop.evaluated_told = now
            self.heartbeat.tell("batch", batch=loop.evaluated)

    @guarded
    def saved(self, state):
        path = os.path.join(self.loop.output_dir, f"checkpoint-{state.global_step}")
        self.heartbeat.tell("saved", step=state.global_step, path=path)


def learning_rate(optimizer):
    """What the coming optimizer step uses. DeepSpeed steps, schedule and all, within the micro-step's backward."""
    lr = optimizer.param_groups[0]["lr"]
    return None if getattr(lr, "is_cuda", False) else float(lr)


# --- joining the trainer ---------------------------------------------------------------------------------------


def install(trainer_module):
    """Join every trainer that the module's classes will make. Class attributes: subclasses are reached too."""
    trainer_class = trainer_module.Trainer
    if hasattr(trainer_class, "guardian_companion"):
        return  # guardians may be nested, each with a loader
    joining = beside("guardian_joining")
    heartbeat = Heartbeat(os.environ[ENV_DIR])
    wanted = knobs(heartbeat)
    if "stacks" in wanted:
        arm(heartbeat)
    parts = {"heartbeat": heartbeat, "knobs": wanted}
    callback = type("GuardianCallback", (Companion, trainer_module.TrainerCallback), parts)
    trainer_class.guardian_companion = callback
    joining.join_handlers(trainer_module.CallbackHandler, callback)
    watch_parsers(heartbeat)
    if "arguments" in wanted:
        joining.before_making(trainer_class, functools.partial(change, heartbeat, wanted["arguments"]))
    joining.join_methods(trainer_class, Companion)


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


def change(heartbeat, wanted, args, kwargs):
    """The arguments that a trainer is about to be made of."""
    try:
        inside = beside("guardian_inside")
        inside.edit(inside.made_with(args, kwargs), wanted)
    except Exception as error:
        heartbeat.tell("error", where="arguments", err=known(described, error), off=False)
