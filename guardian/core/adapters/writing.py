"""Change the settings of a command whose options are named as in transformers' TrainingArguments.

What the effective batch stands on is written out: an accumulation that the framework would fill in follows the device
batch by its own rule, and rounds. What cannot be written is refused with the reason, and the rest is written.
"""

from __future__ import annotations

from collections.abc import Mapping

from guardian.core.adapters import deepspeed
from guardian.core.adapters.deepspeed import Overlaid
from guardian.core.adapters.words import Words, spelt
from guardian.core.events import Edit
from guardian.core.job import PRESERVING, SETTABLE, JobSpec, Value
from guardian.core.values import dataclass

Argv = tuple[str, ...]
Settings = Mapping[str, Value]

OVERLAYS = "{overlays}"
"""Stands in an argv for the attempt's folder of changed copies."""

WRITTEN = {
    "device_batch": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "workers": "dataloader_num_workers",
    "prefetch": "dataloader_prefetch_factor",
    "pin_memory": "dataloader_pin_memory",
    "eval_batch": "per_device_eval_batch_size",
    "gradient_checkpointing": "gradient_checkpointing",
    "learning_rate": "learning_rate",
    "save_total_limit": "save_total_limit",
    "ddp_find_unused_parameters": "ddp_find_unused_parameters",
    "ddp_timeout": "ddp_timeout",
}
"""What TrainingArguments calls the knobs that a remedy may change; some frameworks have more of them."""
_BATCH = frozenset({"device_batch", "accumulation"})


@dataclass(frozen=True, slots=True)
class Written:
    """A command with other settings."""

    argv: Argv
    edits: tuple[Edit, ...] = ()
    overlays: tuple[tuple[str, str], ...] = ()
    """Changed copies of configuration files: (name, content); the argv names them as `{overlays}/<name>`."""
    refused: tuple[tuple[str, str], ...] = ()
    """Knobs that were not written, each with the reason."""
    inside: tuple[tuple[str, Value], ...] = ()
    """Arguments that the companion gives the trainer, in the place of words of the command."""


@dataclass(frozen=True, slots=True)
class Tongue:
    """How one program names its settings."""

    names: tuple[tuple[str, str], ...]
    """Knob and option."""
    fixed: tuple[tuple[str, str], ...] = ()
    """Knobs of this very command that must not be changed, each with the reason."""
    persistent_matters: bool = True
    """Persistent loader workers with no workers at all are an error (torch), not ignored."""
    dtype: tuple[str, ...] = ()
    """Switches of mixed precision, bf16 and fp16; `dtype` is one of them, or stands beside them."""
    inverted: tuple[str, ...] = ()
    """Knobs whose option says the opposite."""
    implied_accumulation: bool = False
    """The rows per step are given as a whole; the accumulation follows and has no option."""
    warmup_steps: bool = True
    """There is a `warmup_steps` that excludes, or wins over, `warmup_ratio`."""


class _Refused(Exception):  # noqa: N818 - it is an answer, never seen outside
    """Why a knob cannot be written."""


def write(
    head: Argv, words: Words, spec: JobSpec, settings: Settings, tongue: Tongue, file: Overlaid | None = None
) -> Written:
    """The command of `head` and these words with the settings in it; `file`: the DeepSpeed file that it names."""
    editing = _Editing(words, spec, tongue)
    wanted = editing.possible(settings)
    for knob in sorted(wanted, key=_order):
        editing.set(knob, wanted[knob])
    editing.keep_loader_valid()
    if file is not None:
        editing.overlay(file, wanted)
    return editing.written(head)


def _order(knob: str) -> int:
    return [*WRITTEN, *sorted(SETTABLE - WRITTEN.keys())].index(knob)


class _Editing:
    """One command while it is being changed."""

    def __init__(self, words: Words, spec: JobSpec, tongue: Tongue) -> None:
        self.words, self.spec, self.tongue = words, spec, tongue
        self.names = dict(tongue.names)
        self.edits: list[Edit] = []
        self.refused: list[tuple[str, str]] = []
        self.overlays: list[tuple[str, str]] = []
        self.now: dict[str, Value] = {}
        self.batch_kind = "preserving"

    def written(self, head: Argv) -> Written:
        return Written((*head, *self.words.rest), tuple(self.edits), tuple(self.overlays), tuple(self.refused))

    def possible(self, settings: Settings) -> dict[str, Value]:
        """The settings that can be written, accumulation with the device batch; the others are refused."""
        wanted: dict[str, Value] = {knob: new for knob, new in settings.items() if new is not None}
        for knob in list(wanted):
            try:
                self._check(knob)
            except _Refused as why:
                self.refused.append((knob, str(why)))
                del wanted[knob]
        if _BATCH & settings.keys() and not self._batch(wanted, settings):
            wanted = {knob: new for knob, new in wanted.items() if knob not in _BATCH}
        if self.tongue.implied_accumulation and wanted.pop("accumulation", None) and self.batch_kind == "changing":
            self.refused.append(("device_batch", "the rows per step are given as a whole"))
            del wanted["device_batch"]
        prefetch = self.names.get("prefetch", "")
        if wanted.get("workers") == 0 and self.words.without(prefetch) is None:
            self.refused.append(("workers", f"the configuration file sets {prefetch}, which no workers exclude"))
            del wanted["workers"]
        if "prefetch" in wanted and not self._workers(wanted):
            if "workers" not in wanted:  # else it was meant for workers that are now taken away
                self.refused.append(("prefetch", "there are no loader workers that could load ahead"))
            del wanted["prefetch"]
        return wanted

    def set(self, knob: str, new: Value) -> None:
        """Write one knob, and say so; what counts already is left as it stands."""
        name = self.names[knob]
        said = self.words.text(name)
        old = spelt(self._counts(knob)) if self._counts(knob) is not None else said
        needed = knob in _BATCH and said is None
        if old == spelt(new) and not needed:
            return
        self.now[knob] = new
        if knob == "dtype" and self.tongue.dtype:
            self._precision(str(new), old)
            return
        self.words = self.words.put(spelt(not new if knob in self.tongue.inverted else new), name)
        self.edits.append(Edit(knob, old, spelt(new), self._kind(knob)))
        if knob == "warmup_ratio" and self.tongue.warmup_steps and self.words.text("warmup_steps") not in (None, "0"):
            self._drop("warmup_steps", "warmup_steps", "changing", instead="0")

    def _precision(self, new: str, old: str | None) -> None:
        """Mixed precision is chosen by switches; swift derives them from torch_dtype, float32 to fp16 among them."""
        if self.names["dtype"] not in self.tongue.dtype:
            self.words = self.words.put(new, self.names["dtype"])
        for name in self.tongue.dtype:
            self.words = self.words.put(spelt(name == {"bfloat16": "bf16", "float16": "fp16"}.get(new)), name)
        self.edits.append(Edit("dtype", old, new, "changing"))

    def keep_loader_valid(self) -> None:
        """Without workers, torch refuses what is about workers."""
        if self._workers({}) != 0 or "workers" not in self.now:
            return
        prefetch = self.names.get("prefetch")
        if prefetch is not None and self.words.text(prefetch) not in (None, "null"):
            self._drop("prefetch", prefetch, "preserving")
        name = "dataloader_persistent_workers"
        if self.tongue.persistent_matters and self.words.text(name) in ("true", "True"):
            self._drop("persistent_workers", name, "preserving", instead="false")

    def overlay(self, file: Overlaid, wanted: Settings) -> None:
        """Keep a DeepSpeed file's own numbers equal to the command's."""
        if not (_BATCH | {"learning_rate"}) & self.now.keys():
            return
        values = {knob: wanted.get(knob, self._counts(knob)) for knob in _BATCH}
        rate = wanted.get("learning_rate")
        changed = deepspeed.with_numbers(
            file, values["device_batch"], values["accumulation"], self._ranks(), learning_rate=rate
        )
        if changed is None:
            return
        new = f"{OVERLAYS}/{file.name}"
        self.overlays.append((file.name, changed))
        self.edits.append(Edit("deepspeed", self.words.text("deepspeed"), new, "preserving"))
        self.words = self.words.put(new, "deepspeed")

    def _check(self, knob: str) -> None:
        if knob == "accumulation" and self.tongue.implied_accumulation and not dict(self.tongue.fixed):
            return
        if knob not in SETTABLE or knob not in self.names:
            raise _Refused(f"{self.spec.family} has no option for it")
        if knob in dict(self.tongue.fixed):
            raise _Refused(dict(self.tongue.fixed)[knob])
        if self.words.config is None:
            raise _Refused("the command's configuration file cannot be read")

    def _batch(self, wanted: dict[str, Value], asked: Settings) -> bool:
        """Complete device batch and accumulation so that the rows per step are held; False: they stay as they are."""
        if not (_BATCH & asked.keys()) <= wanted.keys():
            self._refuse_batch(wanted, "device batch and accumulation change together or not at all")
            return False
        old = [self._counts(knob) for knob in ("device_batch", "accumulation")]
        rows = old[0] * old[1] if isinstance(old[0], int) and isinstance(old[1], int) else None
        for knob, other in (("device_batch", "accumulation"), ("accumulation", "device_batch")):
            if knob in wanted or rows is None:
                continue
            share = wanted.get(other)
            if not isinstance(share, int) or share < 1 or rows % share:
                self._refuse_batch(wanted, f"{share} does not divide the {rows} rows per step and rank")
                return False
            wanted[knob] = rows // share
        if not wanted.keys() >= _BATCH:
            self._refuse_batch(wanted, "the accumulation is unknown, so the effective batch could not be held")
            return False
        new = [wanted["device_batch"], wanted["accumulation"]]
        if not all(isinstance(n, int) and n >= 1 for n in new):
            self._refuse_batch(wanted, "it is a whole number of at least 1")
            return False
        self.batch_kind = "preserving" if rows is None or int(new[0] or 0) * int(new[1] or 0) == rows else "changing"
        return True

    def _refuse_batch(self, wanted: Settings, why: str) -> None:
        self.refused.extend((knob, why) for knob in sorted(_BATCH & wanted.keys()))

    def _workers(self, wanted: Settings) -> int | None:
        workers = wanted.get("workers", self.now.get("workers", self._counts("workers")))
        return workers if isinstance(workers, int) else None

    def _counts(self, knob: str) -> Value:
        """What counts now, given or filled in."""
        known = dict(self.spec.knobs)
        return known[knob] if knob in known else self.words.text(self.names[knob])

    def _ranks(self) -> int | None:
        """Ranks that read rows of their own."""
        product, batch = self.spec.effective_batch, [self._counts(k) for k in ("device_batch", "accumulation")]
        if product is None or not all(isinstance(n, int) and n for n in batch):
            return None
        return product // (int(batch[0] or 1) * int(batch[1] or 1))

    def _kind(self, knob: str) -> str:
        if knob in _BATCH:
            return self.batch_kind
        return "preserving" if knob in PRESERVING else "changing"

    def _drop(self, knob: str, name: str, kind: str, instead: str | None = None) -> None:
        """Take away what the new value excludes."""
        old = self.words.text(name)
        without = self.words.put(instead, name) if instead is not None else self.words.without(name)
        assert without is not None  # `possible` has looked
        self.words = without
        self.edits.append(Edit(knob, old, instead, kind))
