"""Each fault stands on the curves at its step, by the letter of its cause, and the letters are explained."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.core.contract import as_json
from guardian.core.reporting import report
from guardian.ui.report import markdown, render
from tests.core.stories import created, ended, finished, hello, killed, launched, logged, saved, steps, story

OOM = ev.Cause("cuda_oom", None, "cuda-oom", "a rank ran out of GPU memory", (), None)
HALVED = (ev.Edit("device_batch", "4", "2", "preserving"), ev.Edit("accumulation", "4", "8", "preserving"))
NIGHT = story(
    launched(), hello(), steps(1, 21), saved(20), killed(),
    launched(resume=20), hello(step=20), steps(21, 41), saved(30), ended(1, cause=OOM),
    launched(resume=30, edits=HALVED), hello(step=30, split=(2, 8)), steps(31, 60), finished(),
)  # fmt: skip
LABELS = 11
"""Columns before the first one of a curve."""


def shown(run, width=100, encoding="utf-8"):
    """The lines of the screen."""
    return render(report(run), width, False, encoding).split("\n")


def signs(lines, corner="└"):
    """The axis and the row below it, from the first column of the curve."""
    at = next(at for at, line in enumerate(lines) if line.startswith(" " * (LABELS - 1) + corner))
    return lines[at][LABELS:], lines[at + 1][LABELS:]


def place(step, axis):
    """The column of a step of 1 to 60."""
    return round((step - 1) / 59 * (len(axis) - 1))


@pytest.mark.parametrize("width", [60, 80, 100, 160, 200])
def test_ends_restarts_and_changed_settings_stand_at_their_steps(width):
    """Killed at step 21, out of memory at 41 and gone on from 30 with another batch."""
    axis, letters = signs(shown(NIGHT, width))

    assert {place(21, axis): "A", place(41, axis): "B"} == {at: sign for at, sign in enumerate(letters) if sign != " "}
    assert {place(20, axis): "▲", place(30, axis): "◆"} == {at: sign for at, sign in enumerate(axis) if sign != "─"}


def test_the_letters_are_explained_with_steps_and_changes():
    """What ended it, at which step, from where it went on, with what."""
    lines = shown(NIGHT, 120)

    assert "  loss, ▲ went on, ◆ went on with other settings" in lines
    assert any(re.fullmatch(r"  A killed by signal 9 .*: step 21, on from 20", line) for line in lines)
    assert ("  B a rank ran out of GPU memory: step 41, on from 30 with device_batch, accumulation changed") in lines


def test_a_terminal_without_unicode_has_the_same_signs():
    """In ASCII."""
    lines = shown(NIGHT, 100, "ascii")
    axis, letters = signs(lines, "+-")

    assert "\n".join(lines).isascii()
    assert "^" == axis[place(20, axis)]
    assert "#" == axis[place(30, axis)]
    assert "A" == letters[place(21, axis)]


def test_the_markdown_has_the_marks_and_their_meaning():
    """report.md is what is read in the morning."""
    text = markdown(report(NIGHT))

    assert "Loss, ▲ went on, ◆ went on with other settings:" in text
    assert "\nB a rank ran out of GPU memory: step 41, on from 30 with" in text


def test_the_json_has_each_attempts_faults_with_their_steps():
    """Programs draw them too."""
    told = as_json(report(NIGHT))["attempts"]

    assert [(21, "killed", 20, []), (41, "cuda_oom", 30, ["device_batch", "accumulation"])] == [
        (fault["step"], fault["class"], fault["resumed_step"], fault["edits"])
        for one in told
        for fault in one["faults"]
    ]
    assert [] == told[2]["faults"]


def test_an_attempt_that_dies_before_its_first_step_is_marked_where_it_began():
    """It had made no step of its own."""
    run = story(
        launched(), hello(), steps(1, 30), saved(30), killed(),
        launched(resume=30), killed(),
        launched(resume=30), hello(step=30), steps(31, 60), finished(),
    )  # fmt: skip

    assert [30, 30] == [fault.step for fault in report(run).faults]


def test_the_other_numbers_are_curves_over_the_same_steps():
    """What does not change is no curve; behind each is where it goes from and to, where there is room."""
    told = [
        replace(part, grad_norm=10.0 - part.step / 10, memory_gib=float(part.step))
        if isinstance(part, ev.Logged)
        else part
        for part in logged(1, 60)
    ]
    run = story(created(family=None), launched(), told, finished())
    wide, narrow = shown(run, 100), shown(run, 60)
    (memory,) = (line for line in wide if line.startswith("      GiB │"))

    assert memory.startswith("      GiB │▁")
    assert memory.endswith("█ 1 to 60")
    assert any(line.startswith("grad norm │█") and line.endswith("▁ 4 to 9.9") for line in wide)
    assert any(line.startswith("      GiB │▁") and line.endswith("█") for line in narrow)
    assert not any(line.startswith("       lr │") for line in wide)
