"""The learning rate that guardian wants, put into a job whose checkpoint has been loaded.

A target is absolute, and everything that holds a rate is scaled by what is missing to it: it can be set again and
again, also from a checkpoint that was written after it had been set. Groups keep their ratios. Where nothing says
what the rate is relative to, it is refused: a rate that is only probably right proves nothing.
"""

import math
import numbers

KEPT = "guardian_base_lr"  # rides in the parameter groups, and so in optimizer.pt, where a scheduler knows no base
GROUP_RATES = ("lr", "initial_lr", "max_lr", "min_lr", "base_lr", KEPT)
SAME = 1e-9  # relative


class Refused(Exception):  # noqa: N818 - an answer, with its reason
    """The rate cannot be set so that it holds."""


def set_base(optimizer, scheduler, target, *, fresh):
    """The rate of the first parameter group before and after; its base becomes `target`, which the schedule scales."""
    if not isinstance(target, numbers.Real) or isinstance(target, bool) or not math.isfinite(target) or target <= 0:
        raise Refused(f"a learning rate is a positive number, not {target!r}")
    if scheduler is None:
        raise Refused("there is no scheduler to keep it")
    groups, top = optimizer.param_groups, innermost(scheduler)
    before = number(groups[0]["lr"])
    if type(top).__module__.startswith("deepspeed."):
        scale_by_position(groups, top, target)
    else:
        scale(groups, scheduler, target, base_of(top, groups, fresh))
    return before, number(groups[0]["lr"])


def innermost(scheduler):
    """Past wrappers such as accelerate's."""
    while hasattr(scheduler, "scheduler") and not hasattr(scheduler, "optimizer"):
        scheduler = scheduler.scheduler
    return scheduler


def family(scheduler):
    """A scheduler and those that it combines."""
    top = innermost(scheduler)
    yield top
    for child in getattr(top, "_schedulers", ()):
        yield from family(child)


def number(rate):
    return float(rate.item()) if hasattr(rate, "item") else float(rate)


def base_of(top, groups, fresh):
    """What the schedule is relative to."""
    group = groups[0]
    if "max_lr" in group:  # OneCycleLR, CyclicLR: named after the top of their cycle
        return number(group["max_lr"])
    bases = getattr(top, "base_lrs", None)
    known = bases[0] if bases else group.get(KEPT, group.get("initial_lr", group["lr"] if fresh else None))
    if known is None or not number(known):
        raise Refused(f"{type(top).__name__} does not say which learning rate it began with")
    return number(known)


def scale(groups, scheduler, target, base):
    factor = target / base
    top = innermost(scheduler)
    if abs(factor - 1) > SAME:
        for group in groups:
            for name in GROUP_RATES:
                if group.get(name) is not None:
                    group[name] = group[name] * factor  # a new tensor where it is one: several names may share it
        for one in family(scheduler):
            scale_scheduler(one, factor)
    if not getattr(top, "base_lrs", None) and "initial_lr" not in groups[0]:
        groups[0][KEPT] = target


def scale_scheduler(scheduler, factor):
    names = ["base_lrs", "_last_lr"]
    if not hasattr(scheduler, "base_lrs"):
        names.append("min_lrs")  # ReduceLROnPlateau's floor
    for name in names:
        rates = getattr(scheduler, name, None)
        if rates:
            setattr(scheduler, name, [rate * factor for rate in rates])
    if getattr(scheduler, "eta_min", 0):
        scheduler.eta_min = scheduler.eta_min * factor


def scale_by_position(groups, top, target):
    """A scheduler of DeepSpeed's own configuration: its state is its position, its rates are the command line's.

    They count at a resume, but from the second step on; the first would run at the loaded group's rate.
    """
    if not all(getattr(top, name, None) for name in ("min_lrs", "max_lrs", "delta_lrs")):
        raise Refused(f"DeepSpeed's {type(top).__name__} is not known well enough")
    factor = target / number(top.max_lrs[0])
    for name in ("min_lrs", "max_lrs", "delta_lrs"):
        setattr(top, name, [rate * factor for rate in getattr(top, name)])
    for group, rate in zip(groups, top.get_lr()):
        group["lr"] = rate
    top._last_lr = [group["lr"] for group in groups]  # noqa: SLF001 - what get_last_lr() returns


class Rewarming:
    """Lowers what the optimizer sees for some steps, and gives the schedule's own rate back after each of them.

    What is saved never shows it, so a resume from the middle of it goes on with it: `first` is absolute.
    """

    def __init__(self, first, steps):
        if not all(isinstance(one, int) and one >= 0 for one in (first, steps)):
            raise Refused(f"steps are whole numbers, not {first!r}, {steps!r}")
        self.first = first
        self.steps = steps
        self.held = None

    def lower(self, step, optimizer, scheduler):
        """Before a step; `step` steps are finished."""
        self.undo()  # a job may have caught what ended the last step
        if not self.first <= step < self.first + self.steps:
            return
        ratio = (step - self.first + 1) / (self.steps + 1)
        groups, top = optimizer.param_groups, innermost(scheduler)
        curve, last = [group["lr"] for group in groups], getattr(top, "_last_lr", None)
        for group in groups:
            group["lr"] = group["lr"] * ratio
        lowered = [group["lr"] for group in groups]
        if last is not None:
            top._last_lr = lowered  # noqa: SLF001 - so that the job's own log tells the truth
        self.held = (groups, curve, lowered, top, last)

    def give_back(self):
        """After the optimizer's step, before the scheduler's; not where the scheduler has moved on already."""
        if self.held is not None:
            groups, curve, lowered, _, _ = self.held
            for group, own, ours in zip(groups, curve, lowered):
                if group["lr"] is ours:
                    group["lr"] = own

    def undo(self):
        """Everything as the schedule has it, in whatever moment."""
        if self.held is not None:
            self.give_back()
            _, _, lowered, top, last = self.held
            if getattr(top, "_last_lr", None) is lowered:
                top._last_lr = last  # noqa: SLF001 - as above
            self.held = None
