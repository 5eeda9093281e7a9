"""The report's screen: short, plain, safe, and understood without knowing guardian."""

from __future__ import annotations

import re

import pytest

from guardian.core import events as ev
from guardian.core.reporting import report, summary
from guardian.ui.report import markdown, render
from tests.core.stories import (
    a_long_night,
    created,
    failed,
    finished,
    gave_up,
    hello,
    killed,
    launched,
    logged,
    saved,
    steps,
    stopped,
    story,
    two_kills,
)

VIOLATED = story(
    launched(), hello(), steps(1, 35), saved(30), killed(),
    launched(
        resume=30,
        edits=[ev.Edit("device_batch", "4", "2", "preserving"), ev.Edit("accumulation", None, "16", "preserving")],
        passed_over=[("out/checkpoint-35", "optimizer.pt is missing")],
        pin="none",
    ),
    hello(step=30), steps(31, 60, rows=32), finished(),
)  # fmt: skip
UNKNOWN_ARGUMENT = story(
    launched(),
    failed(
        "code_bug", "an unknown argument", "error: --lerning_rate", number=7, retries=0, advice="Use --learning_rate."
    ),
    gave_up("an unknown argument", ev.Outcome.NOT_RETRYABLE, 4),
)
NIGHTS = {
    "two kills": two_kills(),
    "violated": VIOLATED,
    "unknown argument": UNKNOWN_ARGUMENT,
    "stopped": story(launched(), hello(), steps(1, 20), saved(20), stopped()),
    "running": story(launched(), hello(ranks=2, split=(4, 2)), steps(1, 20, ranks=2)),
    "no companion": story(created(family=None), launched(), logged(10, 60, by=10), finished()),
    "nothing yet": story(),
    "500 attempts": a_long_night(),
    "12 attempts": a_long_night(12),
}


def screen(run, width=100, *, color=False, encoding="utf-8"):
    """What a person sees."""
    return render(report(run), width, color, encoding)


@pytest.mark.parametrize("width", [60, 80, 100, 160, 200])
@pytest.mark.parametrize("night", NIGHTS)
def test_every_night_is_one_screen(night, width):
    """At most some forty lines, none wider than asked for; what is there to be copied or found is not broken."""
    lines = screen(NIGHTS[night], width).split("\n")

    assert len(lines) <= (40 if width >= 100 else 48)
    assert all(len(line) <= width for line in lines[:-1] if "go on with" not in line)
    assert summary(report(NIGHTS[night])) == lines[-1]


def test_two_kills_are_understood_at_a_glance():
    """Outcome, steps, batch, replays, verdict; the attempts with their cause, its line and their cost."""
    shown = screen(two_kills())

    for words in (
        "FINISHED  All 60 steps are done, 2 failures on the way healed.",
        "steps            60 of 60",
        "effective batch  16 rows, counted at each of 60 steps",
        "replayed steps   12 compared, largest loss difference 0",
        "certificate      proved",
        "line 214: 58%",
        "went on from checkpoint-40",
    ):
        assert words in shown
    assert re.search(r"  1  \d\d:\d\d:\d\d  1-35   54 s  5 steps, 24 s  killed by signal 9", shown)


def test_an_attempt_that_somebody_stopped_is_no_failure():
    """Only what failed was healed; why it was stopped stands once."""
    asked = ev.Cause("preempted_or_interrupted", "asked", None, "It was stopped: asked for by Ctrl-C", (), None)
    night = (launched(), hello(), steps(1, 20), killed(asked), launched(resume=20), hello(step=20), steps(21, 60))

    shown = screen(story(*night, finished()))

    assert "FINISHED  All 60 steps are done." in shown
    assert 1 == shown.count("asked for by Ctrl-C")
    assert "1 failure on the way healed" in screen(story(*night[:3], killed(), *night[4:], finished()))


def test_a_line_of_the_log_is_shown_rather_than_how_the_process_ended():
    """The exit is in the title already; where the log is silent, it is all there is."""
    exit_code, line = ev.Line(None, "the process ended with 1"), ev.Line(9, "KeyError: 'text'")

    def shown(*seen):
        """An attempt that ended with this evidence."""
        return screen(story(launched(), killed(ev.Cause("code_bug", None, None, "A bug", seen, None))))

    assert "line 9: KeyError: 'text'" in shown(exit_code, line)
    assert "the process ended with 1" in shown(exit_code)


def test_where_the_ranks_of_a_hang_stood_is_shown_side_by_side():
    """The odd one first, the others behind it: broken, not cut off."""
    ranks = (
        "rank 1 is stopped by a signal (SIGSTOP or SIGTSTP) and waits for SIGCONT; rank 0 stands in "
        "_engine_run_backward at graph.py:979, called from train_step at train.py:80"
    )
    hang = ev.Cause("hang_no_output", "silent", "stuck", "Nothing happened any more", (ev.Line(None, ranks),), None)

    for width in (80, 100):
        shown = screen(story(launched(), killed(hang)), width)
        assert "waits for SIGCONT; rank 0 stands in _engine_run_backward" in " ".join(shown.split())


def test_a_violated_certificate_is_the_first_thing_to_be_read():
    """With its reason, what was changed, and what else went wrong."""
    shown = screen(VIOLATED)

    assert " VIOLATED  Finished, but this is not the training that was asked for." == shown.split("\n")[0]
    for words in (
        "VIOLATED: 32 rows instead of 16 were counted at steps 31-60 (attempt 2)",
        "device_batch 4 → 2, accumulation (not set) → 16",
        "out/checkpoint-35: optimizer.pt is missing",
        "out/checkpoint-30 was not pinned: no space",
    ):
        assert words in shown


def test_a_failure_for_good_shows_its_line_its_fix_and_the_command():
    """The first lines are all that is needed."""
    shown = screen(UNKNOWN_ARGUMENT)

    assert shown.startswith(" FAILED  An unknown argument; trying again cannot heal this.")
    assert "log line 7   error: --lerning_rate" in shown
    assert "to do        Use --learning_rate." in shown
    assert "go on with  guardian run -- sft --model demo" in shown


def test_a_stopped_run_says_how_to_go_on():
    """The command can be pasted."""
    assert "  go on with  guardian resume r1\n" in screen(NIGHTS["stopped"])


def test_of_many_attempts_the_first_and_the_last_are_shown_and_the_rest_counted():
    """Five hundred rows would bury the news."""
    shown = screen(a_long_night(), 120)

    assert [1, 2, 3, 496, 497, 498, 499, 500] == [
        int(n) for n in re.findall(r"^  (\d+) +\d\d:\d\d:\d\d", shown, re.MULTILINE)
    ]
    assert re.search("… 492 attempts not shown: 328 . a rank ran out of GPU memory, 164 . killed by signal 9", shown)


def test_twelve_attempts_are_all_shown():
    """The grouping begins with the thirteenth."""
    assert "not shown" not in screen(a_long_night(12))
    assert "not shown" in screen(a_long_night(13))


def test_text_of_the_job_cannot_drive_the_terminal():
    """Escape sequences, carriage returns, markup, marks of direction and a line that never ends."""
    nasty = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\x08 [bold]markup[/bold] \u202egnp \x9b31m" + "long " * 5000
    run = story(launched(), failed("unknown", nasty, nasty, advice=nasty), gave_up(nasty))
    shown = screen(run) + markdown(report(run))

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert "red ? [bold]markup[/bold] ?gnp" in shown
    assert "owned" not in shown
    assert len(shown) < 8000


def test_colors_come_only_when_asked_for_and_change_no_word():
    """A pipe gets plain text."""
    plain, colored = screen(VIOLATED), screen(VIOLATED, color=True)
    bare = "\n".join(line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", colored).split("\n"))

    assert "\x1b[" not in plain
    assert "\x1b[1;31m" in colored
    assert plain == bare


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "no-such-encoding"])
def test_a_terminal_without_unicode_gets_ascii(encoding):
    """The curve is drawn with stars; nothing is lost or widened."""
    shown = screen(VIOLATED, encoding=encoding)

    assert shown.isascii()
    assert "device_batch 4 -> 2" in shown
    assert re.search(r"\|  +\*{5,}", shown)
    assert all(len(line) <= 100 for line in shown.split("\n")[:-1])


def test_the_encoding_of_stdout_is_used_by_default(monkeypatch):
    """Whoever prints need not know."""

    class Old:
        encoding = "ascii"

    monkeypatch.setattr("sys.stdout", Old())

    assert render(report(VIOLATED), 100, False).isascii()


def test_the_markdown_tells_the_same_with_every_reason():
    """Kept in the run folder: a table of attempts, the curve, the sentence at the end."""
    run = story(
        [
            (launched(resume=at * 5 or None), hello(step=at * 5), steps(at * 5 + 1, at * 5 + 9, rows=16 + at))
            for at in range(8)
        ]
    )
    page = markdown(report(run))

    for at in range(1, 8):
        assert f"{16 + at} rows instead of 16 were counted" in page
    assert "| 8 | " in page
    assert page.endswith(summary(report(run)).replace("_", "\\_") + "\n")


def test_the_markdown_is_not_broken_by_what_a_log_says():
    """A pipe, a backtick, a heading and a tag stay text of their cell."""
    nasty = "# a | b `c` <img src=x>\n| d |"
    page = markdown(report(story(launched(), failed("unknown", nasty, nasty), gave_up(nasty))))
    rows = [line for line in page.split("\n") if line.startswith("| 1 |")]

    assert 1 == len(rows)
    assert 7 == len(re.findall(r"(?<!\\)\|", rows[0]))
    assert "<img" not in re.sub(r"`[^`]*`", "", page).replace("\\<img", "")


def test_a_table_of_the_long_night_stays_short_in_markdown():
    """Grouped as on the screen."""
    assert len(markdown(report(a_long_night())).split("\n")) < 45
