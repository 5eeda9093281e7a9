"""How the companion gets into every trainer: around the methods of its classes, so that subclasses are reached too.

What they call of the companion is guarded and raises nothing; what is raised in here is the job's own.

In the syntax of Python 3.8, on the standard library.
"""

import functools


def before_making(trainer_class, change):
    """Call `change(args, kwargs)`, which raises nothing, with what each trainer is made of."""
    original = trainer_class.__init__

    @functools.wraps(original)
    def made(self, *args, **kwargs):
        change(args, kwargs)
        return original(self, *args, **kwargs)

    trainer_class.__init__ = made


def join_handlers(handler_class, callback):
    original = handler_class.__init__

    @functools.wraps(original)
    def joined(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.callbacks.append(callback())

    handler_class.__init__ = joined


def join_methods(trainer_class, companion_class):
    """Watch what a trainer does that has a companion among its callbacks."""
    around(trainer_class, companion_class, "train", watch_train)
    around(trainer_class, companion_class, "_inner_training_loop", watch_loop)
    around(trainer_class, companion_class, "training_step", watch_micro_step)
    around(trainer_class, companion_class, "evaluate", watch_evaluation)
    around(trainer_class, companion_class, "evaluation_loop", watch_batches)
    around(trainer_class, companion_class, "_save_checkpoint", watch_save)


def around(trainer_class, companion_class, name, watch):
    original = getattr(trainer_class, name, None)
    if original is None:  # a version without it: the rest is watched all the same
        return

    @functools.wraps(original)
    def watched(self, *args, **kwargs):
        callbacks = getattr(getattr(self, "callback_handler", None), "callbacks", ())
        companion = next((one for one in callbacks if isinstance(one, companion_class)), None)
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
    companion.micro_step_done()
    return loss


def watch_evaluation(companion, original, trainer, *args, **kwargs):
    before = companion.enter("eval", trainer.state)
    result = original(trainer, *args, **kwargs)
    if before:  # after an exception the phase stays: it says where the job failed
        companion.enter(before, trainer.state)
        companion.remember_again(trainer)
    return result


def watch_batches(companion, original, trainer, *args, **kwargs):
    """The part of an evaluation that calls `on_prediction_step` after each batch; what comes before it does not."""

    def loop(self, *args, **kwargs):
        companion.batches_begin()
        return original(self, *args, **kwargs)

    return watch_evaluation(companion, loop, trainer, *args, **kwargs)


def watch_save(companion, original, trainer, *args, **kwargs):
    before = companion.enter("save", trainer.state)
    result = original(trainer, *args, **kwargs)
    if before:
        companion.saved(trainer.state)
        companion.enter(before, trainer.state)
        companion.remember_again(trainer)
    return result
