"""What a log shows of the work itself: that it goes on, in which phase it stands, that something went wrong.

None of it names a failure; rules do. It is read off the few hundred lines around a place, never off a whole log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PHASES = ("startup", "first_steps", "training", "evaluation", "saving", "end")
FIRST_STEPS = 100
LAST_LINES = 25
GOES_ON = 3
"""So many different lines of work after a failure's line say that it was survived."""

# tqdm's own form: ` 25%|##5       | 3/12 [00:00<00:01,  5.74it/s]` (tqdm.std, bar_format).
_BAR = re.compile(r"(?P<before>\S*) *\d{1,3}%\|[^|]*\|\s*(?P<at>\d{1,12})/(?P<total>\d{1,12}) \[\d")
_COUNTED = re.compile(r"(?i)\b(?:epochs?|steps?|iter(?:ation)?s?|batch(?:es)?|round)\b[ :=#\[(]{0,4}\d")
_MEASURED = re.compile(r"(?i)(?:\b|_)(?:loss|acc(?:uracy)?|ppl|perplexity|bpc|reward|completed|lr)\b\W{1,4}\d")
_ALIVE = re.compile(
    r"(?i)\b(?:info|load(?:ing|ed)|sav(?:ing|ed)|train(?:ing|er)?|run(?:ning)?|start(?:ing|ed)?|initiali[sz]\w+|completed|finished|done)\b"
)
_TROUBLE = re.compile(
    r"(?i)\b(?:\w*errors?|\w*exception|traceback|fail(?:ed|ure|s)?|fatal|abort(?:ed|ing)?|killed|core dumped"
    r"|crash(?:ed)?|panic|stuck|hangs?|deadlock|unable to|cannot|can't|refused|denied|not found|no such|invalid"
    r"|terminated|timed? ?out|exited with)\b"
)
_ASIDE = re.compile(
    r"(?i)\bwarn(?:ing)?s?\b|\[W\b|\[W\d|^W\d{4}|^wandb:|\bdeprecat|\b[IW] tensorflow|Unable to register cu\w+"
    r"|\w=(?:\S*)[,)]|\b(?:0|no) (?:errors?|failures?)\b"
    r"|(?:error|err|failed|failures?|invalid)\w*(?:[-_/@ ]\w+){0,2}['\"]?\s*[:=]\s*[-+]?[\d.]"
)
"""A warning, a tracker's summary, an argument as `key=value`, a measure or a count with its number: no trouble."""
_NO_WORK = re.compile(r"^wandb:|Error\b|Traceback|^\s*File \"|[:=]\s*['\"(\[]*nan\b", re.IGNORECASE)

_STEP = re.compile(
    r"(?i)global_step/max_steps\W{1,6}(?P<swift>\d{1,9})/|\biteration\s+(?P<megatron>\d{1,9})/\s*\d"
    r"|(?<![a-z_])(?:global_step|step|iter|iteration)\s?[=:#]?\s?(?P<plain>\d{1,9})\b(?!\.\d)"
)
_FRAME = re.compile(
    r"File \"[^\"]+\", line \d+, in (?P<name>\w+)|^\S+ in (?P<cell>\w+)\(|^File \S+, in (?:\w+\.)?(?P<ipython>\w+)\("
)
_SAVING = re.compile(r"_?save(?:_\w+)?|_save_checkpoint|serialize_file|_legacy_save|dump")
_EVALUATING = re.compile(
    r"_?evaluate\w*|evaluation_loop|prediction_step|predict|validate|validation_\w+|_?run_validation\w*|eval_\w+"
    r"|generate|test_\w+|run_sanity_check"
)
_TRAINING = re.compile(
    r"training_step|_?inner_training_loop|train_batch|optimizer_step|backward|train_one_epoch|run_training_\w+"
    r"|training_loop|train_epoch|forward_step"
)
_STARTING = re.compile(
    r"from_pretrained|load_dataset|_?load_(?:from_)?checkpoint|_load_\w+|load_from_json|get_train_dataloader"
    r"|parse_args\w*|load_state_dict|init_process_group"
)

# Printed by transformers' Trainer, ms-swift, LLaMA-Factory and Megatron; what is found last before a place holds there.
_END = re.compile(r"'?\"?train_runtime'?\"?\s*:|Training completed\.|\[after training is done\]")
_EVALUATES = re.compile(
    r"\*{3,} Running (?:Evaluation|Prediction)|(?:Validation|Validating|Evaluating|Eval)\b[^\n]{0,40}\d{1,3}%\|"
)
_SAVES = re.compile(r"Saving model checkpoint to|Saving (?:the )?model to|saving checkpoint|Configuration saved in")
_TRAINS = re.compile(r"['\"](?:eval_loss|eval_runtime|loss)['\"]\s*:|\biteration\s+\d+/|\*{3,} Running training")
_TRAINING_BAR = re.compile(r"^\s*(?:Train: *)?\d{1,3}%\|[^|]*\|\s*\d+/\d+ \[[^]]*(?:s/it|it/s)")
FRAMES_WITHIN = 150
"""Lines before the deciding one in which its traceback stands."""


def goes_on(lines: Iterable[str], least: int = GOES_ON) -> bool:
    """Whether these lines, all after a place in the log, show that the work went on there."""
    seen = {line for line in lines if _works(line)}
    return len(seen) >= least


def alive(lines: Iterable[str]) -> bool:
    """Whether a job speaks here at all."""
    return any(_works(line) or _ALIVE.search(line) for line in lines)


def trouble(lines: Iterable[str]) -> bool:
    """Whether the last lines complain of something, whatever it is."""
    last = False
    for line in lines:
        if _TROUBLE.search(line) and not _ASIDE.search(line):
            last = True
        elif _works(line):
            last = False
    return last


def last_step(lines: Iterable[str]) -> int | None:
    """The step that these lines speak of last; of unnamed bars, those of the first one's total are the training's."""
    found: int | None = None
    bars: dict[str, int] = {}
    for line in lines:
        for bar in _BAR.finditer(line):
            if not bar["before"].endswith(":") or bar["before"] == "Train:":
                bars[bar["total"]] = int(bar["at"])
        for match in _STEP.finditer(line):
            found = int(match["swift"] or match["megatron"] or match["plain"])
    return found if found is not None else next(iter(bars.values()), None)


def phase(before: list[str], step: int | None) -> str:
    """What the job was at where these lines end; `step`: the last one it had done by then."""
    near = before[-FRAMES_WITHIN:]
    frames = [match["name"] or match["cell"] or match["ipython"] for line in near for match in _FRAME.finditer(line)]
    if any(_SAVING.fullmatch(name) for name in frames):
        return "saving"
    if any(_EVALUATING.fullmatch(name) for name in frames):
        return "evaluation"
    steady = "first_steps" if (step or 0) < FIRST_STEPS else "training"
    if any(_STARTING.fullmatch(name) for name in frames) and not step:
        return "startup"
    if any(_TRAINING.fullmatch(name) for name in frames):
        return steady
    return _last_mark(before, steady) or (steady if step is not None else "startup")


def _last_mark(lines: list[str], steady: str) -> str | None:
    """What the trainer said last of where it stands; bars are drawn once more when all is done."""
    last: str | None = None
    for line in reversed(lines):
        if _END.search(line):
            return "end"
        if _TRAINS.search(line):
            return last or steady
        if last is None:
            last = "evaluation" if _EVALUATES.search(line) else "saving" if _SAVES.search(line) else None
            last = last or (steady if _TRAINING_BAR.search(line) else None)
    return last


def _works(line: str) -> bool:
    if _NO_WORK.search(line):
        return False
    bar = _BAR.search(line)
    return bool((bar and int(bar["at"])) or _COUNTED.search(line) or _MEASURED.search(line))
