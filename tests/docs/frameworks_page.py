"""docs/frameworks.md, made of the adapters: `python -m tests.docs.frameworks_page` writes it."""

import json
from pathlib import Path

from guardian.core import adapters
from guardian.core.adapters import custom, inside
from guardian.core.events import Hello
from guardian.core.job import KNOBS, SETTABLE

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"
SAMPLES = {
    "device_batch": 1, "accumulation": 2, "workers": 3, "prefetch": 3, "pin_memory": False, "eval_batch": 3,
    "gradient_checkpointing": None, "learning_rate": 1e-7, "warmup_ratio": 0.3, "max_length": 7, "dtype": "float16",
    "save_total_limit": 9, "ddp_find_unused_parameters": True, "ddp_timeout": 7,
}  # fmt: skip
HEAD = """# Frameworks

What guardian understands of the command behind `guardian run --`, per family. It reads the settings with what the
framework fills in, changes those that a remedy needs, and resumes; what stands in front of the program (variables,
`conda run`, launchers) is skipped and never edited. A command of no family is started, explained and restarted as it is,
until the training in it tells what it is made of.

*Proved*: a real run was killed, went on, and its certificate said *proved*; where a loss that was no number lowered the
learning rate it said so of all that was before, and *consistent* of the whole. *Dry run*: read from the framework's sources
or parsed by its real parser; no run here has shown it. *Refused*: guardian does not do it, and says why.

The certificate of a run is *proved* where every step's rows were counted, the same number in each, and the steps that ran
again had the same samples, and the same loss up to 1e-4; *consistent* where nothing differs and something could not be
counted or compared, which it names; *not provable*, with the reason, where nothing was counted; *violated* where what was
counted differs. On a GPU, and in bf16 or fp16, no step repeats its loss exactly: there rows and samples are the proof, and
the loss has to lie within the run's own step-to-step band, how much it usually changes from one step to the next, which is
stated (`loss_band` in `report --json`). A little outside the band is *consistent*, three times as far *violated*.

This page is made from the adapters; a test compares it with them.
"""


DESCRIBED = {
    "knobs": {"device_batch": "--bs", "accumulation": "--accum", "resume_from": "--resume", "output_dir": "--out"},
    "values": {"accumulation": 1},
}


TOLD = Hello(
    attempt=1, rank=0, pid=1, world=2, step=0, max_steps=60, device_batch=4, accumulation=2, data_parallel=2,
    effective_batch=16, steps_per_epoch=None, save_steps=500, learning_rate=5e-05, output_dir="/w/out",
    trainer="Trainer", resumed_from=None, versions=(), wall=0.0, workers=0, pin_memory=True, eval_batch=8,
    gradient_checkpointing=False, launcher="torchrun", training=1, takes_resume=False,
)  # fmt: skip


def understood(about):
    """The adapter of a family's example; of a command that says nothing, once its training has spoken."""
    if about is inside.ABOUT:
        return inside.understood(tuple(about.example.split()), None, (TOLD,), ("/w/out",))
    env = {custom.ENV_FILE: "c.toml"} if about is custom.ABOUT else {}
    return adapters.recognise(tuple(about.example.split()), env, {"c.toml": DESCRIBED}.__getitem__)


def page():
    """The whole text."""
    return "\n".join([HEAD, *(_section(about) for about in adapters.abouts())])


def _section(about):
    argv = tuple(about.example.split())
    made = understood(about)
    known = [knob for knob in KNOBS if made.spec.knob(knob) is not None]
    after, edits = made.resume(argv, "/w/other/checkpoint-5", "/w/other")
    lines = [
        f"## {about.title}",
        "",
        about.started,
        "",
        *(_file() if about is custom.ABOUT else ()),
        f"- Read of `{about.example}`{', once it trains' if about is inside.ABOUT else ''}: {', '.join(_told(made.spec, knob) for knob in known)}.",
        f"- Effective batch of that: {made.spec.effective_batch}.",
        f"- Filled in: {about.fills_in}",
        f"- Can be changed: {', '.join(f'`{knob}`' for knob in sorted(_writable(made, argv)))}.",
        f"- Resume: {about.resumes} Changes {', '.join(f'`{edit.knob}`' for edit in edits)}.",
    ]
    lines += [f"- **Proved**: {one}." for one in about.proved]
    lines += [f"- **Dry run**: {one}." for one in about.dry]
    lines += [f"- **Refused**: {one}." for one in about.refused]
    assert (after != argv) is (about is not inside.ABOUT), about.title
    return "\n".join([*lines, ""])


def _told(spec, knob):
    return f"`{knob}` {spec.knob(knob)}" + (" (filled in)" if knob in spec.implicit else "")


def _writable(made, argv):
    """The knobs that end up in the command when each is asked for by itself, beside loader workers to load ahead."""
    assert SAMPLES.keys() == SETTABLE
    flipped = {"gradient_checkpointing": not made.spec.knob("gradient_checkpointing")}
    for knob, value in (SAMPLES | flipped).items():
        asked = {knob: value} | ({"workers": 2} if knob == "prefetch" else {})
        if knob in ("device_batch", "accumulation"):
            asked = {"device_batch": 1, "accumulation": _rows(made.spec)}
        if knob in {edit.knob for edit in made.write(argv, asked).edits} or (
            knob == "device_batch" and knob not in dict(made.write(argv, asked).refused)
        ):
            yield knob


def _rows(spec):
    return (spec.knob("device_batch") or 1) * (spec.knob("accumulation") or 1)


def _file():
    tables = (
        (name, "\n".join(f"{k} = {json.dumps(v)}" for k, v in table.items())) for name, table in DESCRIBED.items()
    )
    return ("```toml", "\n\n".join(f"[{name}]\n{lines}" for name, lines in tables), "```", "")


if __name__ == "__main__":
    PAGE.write_text(page())
