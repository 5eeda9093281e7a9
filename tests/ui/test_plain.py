"""The terminal: the job's bytes as they are, guardian's lines whole and harmless."""

import os
import threading

from guardian.ui.plain import Terminal, printable


def shown(act, tmp_path):
    """What a terminal wrote while `act` used it."""
    out = tmp_path / "screen"
    with out.open("wb") as file:
        terminal = Terminal(file.fileno())
        act(terminal)
        terminal.close(30)
    return out.read_bytes()


def test_the_jobs_output_comes_byte_for_byte_before_the_line_about_its_end(tmp_path):
    """What the job printed stands before what guardian says of it."""
    log = tmp_path / "job.log"
    log.write_bytes(b"\rstep 1\rstep 2\xff\x00")

    def act(terminal):
        terminal.follow(str(log))
        terminal.say("attempt 1 ended")

    assert b"\rstep 1\rstep 2\xff\x00\nguardian: attempt 1 ended\n" == shown(act, tmp_path)


def test_a_log_that_appears_later_is_shown_from_its_offset(tmp_path):
    """The keeper opens job.log after the launch; an adopted job's old output is not shown again."""
    log = tmp_path / "job.log"

    def act(terminal):
        terminal.follow(str(log), 4)
        log.write_bytes(b"old new\n")
        terminal.say("end")

    assert b"new\nguardian: end\n" == shown(act, tmp_path)


def test_a_reader_that_has_gone_does_not_hurt(tmp_path):
    """A closed pipe ends the output, not the run."""
    reading, writing = os.pipe()
    os.close(reading)
    terminal = Terminal(writing)
    terminal.say("nobody reads this")
    terminal.close(30)
    os.close(writing)


def test_a_terminal_that_does_not_read_holds_up_nobody(tmp_path):
    """After Ctrl-S only the writing thread waits."""
    reading, writing = os.pipe()
    terminal = Terminal(writing)
    big = "x" * 1_000_000
    said = threading.Thread(target=lambda: terminal.say(big), daemon=True)
    said.start()
    said.join(30)
    assert not said.is_alive()
    os.close(reading)
    terminal.close(30)
    os.close(writing)


def test_escape_sequences_in_guardians_lines_are_shown_not_obeyed():
    """A log line quoted as evidence cannot clear the screen."""
    assert "a\\x1b[2Jb\\r" == printable("a\x1b[2Jb\r")
