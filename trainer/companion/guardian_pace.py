"""What one of several ranks does by itself in a step, without what it waits for the others.

Ranks that train together end every step together, so the time of their steps does not tell whom they wait for. Their
own work does: what lies between the micro-steps (the optimizer step once the gradients are summed, logging, the data),
and what the model inside its wrapper takes in forward. Backward is left out: the others are waited for in it. Where
forward waits for them too (weights that are gathered), all ranks take equally long, and nothing is told wrong.

On a GPU forward is timed by events on its stream, and read a step late: nothing waits for them.

In the syntax of Python 3.8, on the standard library and the job's torch; a failure here never reaches the job.
"""

import sys
import time


class Pace:
    """The clock of this rank, from step to step."""

    def __init__(self):
        self.since = None  # the end of the last micro-step, or of the sum of a step's gradients
        self.outside = 0.0  # seconds of the step at hand between its micro-steps, and before the first
        self.whole = True  # all of that is known
        self.spans = []  # of its forwards
        self.waiting = []  # (step, seconds outside, spans) of steps that are not told yet: their events may be to come

    def begins(self):
        """What follows is this rank's own: a micro-step is over, after the last one the gradients are summed too."""
        self.since = time.monotonic()

    def interrupted(self):
        """An evaluation or a save: it is no work of a step, and others may be waited for in it."""
        self.since = None

    def watch(self, model, hook):
        """Time the model inside its wrapper for one micro-step; returns what removes that hook with its own."""
        if self.since is None:
            self.whole = False
        else:
            self.outside += time.monotonic() - self.since
        hooks = [hook]
        inner = getattr(model, "module", None)
        if isinstance(inner, sys.modules["torch"].nn.Module) and not compiled(inner):
            hooks += [inner.register_forward_pre_hook(self.entered), inner.register_forward_hook(self.left)]
        return Hooks(hooks, self.begins)

    def entered(self, model, _inputs):
        try:
            self.spans.append([moment(model), None])
        except Exception:
            self.spans = []

    def left(self, model, _inputs, _output):
        try:
            if self.spans:
                self.spans[-1][1] = moment(model)
        except Exception:
            self.spans = []

    def told(self, step):
        """What can be told at the end of this step, as a part of its line."""
        spans, outside, whole = self.spans, self.outside, self.whole
        self.spans, self.outside, self.whole = [], 0.0, True
        if whole and spans and all(left is not None for _, left in spans):
            self.waiting.append((step, outside, spans))
        if not self.waiting or (self.waiting[0][0] == step and not timed(self.waiting[0])):
            return {}
        return read(self.waiting.pop(0))


class Hooks:
    """Several hooks, removed as one at the end of a micro-step."""

    def __init__(self, hooks, over):
        self.hooks = hooks
        self.over = over

    def remove(self):
        for hook in self.hooks:
            hook.remove()
        self.over()


def compiled(model):
    """Its forward would be traced, and a hook with it."""
    return getattr(model, "_compiled_call_impl", None) is not None or type(model).__name__ == "OptimizedModule"


def moment(model):
    """Now: where the model is on a GPU, an event of its stream."""
    if not next(model.parameters()).is_cuda:
        return time.monotonic()
    event = sys.modules["torch"].cuda.Event(enable_timing=True)
    event.record()
    return event


def timed(own):
    """Whether it was timed by the host's clock, and there is no event to come."""
    return isinstance(own[2][0][0], float)


def read(own):
    """Seconds of a step; nothing where its last event has not happened yet."""
    step, outside, spans = own
    if timed(own):
        inside = sum(left - entered for entered, left in spans)
    elif spans[-1][1].query():
        inside = sum(entered.elapsed_time(left) for entered, left in spans) / 1000
    else:
        return {}
    return {"own": [step, round(outside + inside, 6)]}
