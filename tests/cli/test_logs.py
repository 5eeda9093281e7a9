"""`guardian logs`: what the job printed, byte for byte."""

import os
import signal
import subprocess
import sys

from guardian.core.run import Finished
from guardian.host import joblogs
from tests.cli.behind import FOR_EVER, PATIENCE_S, eventually

RAW = rb"\rstep 1\rstep 2 \xff\xfe\x00 no end"


def raw(run, *arguments):
    """The command's output as bytes."""
    done = run.open("logs", *arguments)
    told, _ = done.communicate(timeout=PATIENCE_S)
    return done.returncode, told


def numbers(first, last, upto):
    """What the job prints when it counts from the first to the last."""
    return b"".join(b"%d/%d\n" % (number, upto) for number in range(first, last + 1))


def test_every_byte_is_shown_and_no_other(behind):
    """Carriage returns, bytes that are no text, a line without its end."""
    run = behind()
    run.command = (sys.executable, "-c", f"import sys; sys.stdout.buffer.write(b'{RAW.decode()}')")
    assert 0 == run.run()

    assert (0, b"\rstep 1\rstep 2 \xff\xfe\x00 no end") == raw(run, "r1")


def test_the_newest_attempt_is_shown_unless_one_is_named(behind):
    """--attempt names it; -n leaves its last lines."""
    run = behind("--die-at", "4", upto=8)
    assert 0 == run.run()

    assert (0, numbers(5, 8, 8)) == raw(run, "r1")
    assert (0, numbers(1, 4, 8)) == raw(run, "r1", "--attempt", "1")
    assert (0, numbers(3, 4, 8)) == raw(run, "r1", "--attempt", "1", "-n", "2")
    assert (0, b"") == raw(run, "r1", "-n", "0")
    assert (0, numbers(5, 8, 8)) == raw(run, "r1", "-n", "100")
    assert (2, b"guardian: error: run r1 has no attempt 3 with output (there is: 1, 2)\n") == raw(
        run, "r1", "--attempt", "3"
    )


def test_following_goes_on_over_relaunches_until_the_run_is_over(behind):
    """Every attempt's output, once, in order."""
    run = behind("--die-at", "2", "--die-at", "4", upto=6, gated=True)
    run.detach()
    reading = run.open("logs", "-f", "r1")
    assert b"waiting\n" == reading.stdout.readline()
    run.go()
    told, _ = reading.communicate(timeout=PATIENCE_S)

    assert numbers(1, 2, 6) + b"waiting\n" + numbers(3, 4, 6) + b"waiting\n" + numbers(5, 6, 6) == told
    assert 0 == reading.returncode
    assert isinstance(run.story().state, Finished)


def test_a_reader_that_is_slower_than_the_run_misses_no_attempt(behind):
    """The run is over before the first attempt's log has been read."""
    run = behind("--die-at", "2", "--die-at", "4", upto=6, gated=True)
    run.detach()
    reading = run.open("logs", "-f", "r1")
    assert b"waiting\n" == reading.stdout.readline()
    reading.send_signal(signal.SIGSTOP)
    run.go()
    run.until_finished()
    reading.send_signal(signal.SIGCONT)
    told, _ = reading.communicate(timeout=PATIENCE_S)

    assert numbers(1, 2, 6) + b"waiting\n" + numbers(3, 4, 6) + b"waiting\n" + numbers(5, 6, 6) == told


def test_following_one_attempt_ends_with_it(behind):
    """The run goes on without the reader."""
    run = behind("--die-at", "2")
    run.detach()

    assert (0, numbers(1, 2, FOR_EVER)) == raw(run, "r1", "-f", "--attempt", "1")
    assert not isinstance(run.story().state, Finished)


def test_ctrl_c_ends_only_the_reading(behind):
    """The run goes on."""
    run = behind()
    run.detach()
    reading = run.open("logs", "-f", "r1")
    reading.stdout.readline()
    reading.send_signal(signal.SIGINT)

    assert 130 == reading.wait(PATIENCE_S)
    reading.stdout.close()
    assert not isinstance(run.story().state, Finished)


def test_a_run_that_nobody_has_in_hand_is_followed_and_said_to_be_alone(behind):
    """Nothing ends a wait for a guardian that is dead but a person; the person is told."""
    run = behind()
    run.detach()
    os.kill(run.guardian_pid, signal.SIGKILL)
    reading = run.open("logs", "-f", "r1")
    eventually("told", lambda: b"run r1 is unattended: the job lives" in reading.stdout.readline())
    reading.terminate()
    reading.communicate(timeout=PATIENCE_S)


def test_what_was_taken_out_of_a_long_log_is_passed_over(tmp_path):
    """A hole at the beginning is not gigabytes of zeros."""
    log = tmp_path / "job.log"
    with log.open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 20)
        file.write(b"one\ntwo\n")

    assert 1 << 20 == joblogs.begin(log)
    assert (1 << 20) + 4 == joblogs.begin(log, 1)


def test_the_last_lines_are_found_in_a_log_of_many_blocks(tmp_path):
    """The same as `tail -n`, wherever the blocks are cut."""
    log = tmp_path / "job.log"
    log.write_bytes(b"\n".join(b"x" * (number % 3000) for number in range(3000)))
    for count in (1, 2, 200, 2999, 3000, 4000):
        tail = subprocess.run(["tail", "-n", str(count), log], capture_output=True, check=True).stdout
        assert len(tail) == log.stat().st_size - joblogs.begin(log, count)
