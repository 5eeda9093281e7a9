"""`guardian explain`: any log, any number of them, from a file or a pipe; it never stumbles over what it reads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LOGS = Path(__file__).parent.parent / "data" / "raw_logs"
KEYS = {
    "file",
    "class",
    "variant",
    "rule",
    "retryable",
    "phase",
    "last_step",
    "confidence",
    "evidence",
    "symptoms",
    "survived",
    "blind",
    "actions",
}


@pytest.fixture
def explain(tmp_path):
    """Call it as a person does; the tester's own rules do not count."""

    def call(*arguments, stdin=b""):
        command = [sys.executable, "-m", "guardian", "explain", *map(str, arguments)]
        env = {"PATH": "/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path / "none"), "PYTHONPATH": str(LOGS.parents[2])}
        return subprocess.run(
            command, input=stdin, capture_output=True, check=False, env=env, cwd=tmp_path, timeout=120
        )

    return call


def test_a_log_is_explained_in_words(explain):
    """Class, title, phase, the line with its number, and what would be done."""
    told = explain(LOGS / "fault_f_disk_full.log").stdout.decode()

    assert "disk_full: The disk is full\n  in: saving" in told
    assert "  line 13: RuntimeError: basic_ios::clear: iostream error\n" in told
    assert "guardian would: wait up to" in told


def test_each_log_has_its_line_of_json(explain):
    """The keys are a contract; the files come back in their order, as they were named."""
    names = [str(LOGS / "fault_a_shm_full.log"), str(LOGS / "hf_uninterrupted.log")]
    lines = [json.loads(line) for line in explain("--json", *names).stdout.splitlines()]

    assert names == [line["file"] for line in lines]
    assert all(line.keys() >= KEYS for line in lines)
    assert [("shm_bus_error", True), ("healthy", False)] == [(line["class"], line["retryable"]) for line in lines]
    assert {"line", "text"} == lines[0]["evidence"][0].keys()


def test_a_pipe_is_read_as_a_file_is(explain):
    """`-`: the same answer, line numbers and all."""
    data = (LOGS / "fault_j_optimizer_truncated.log").read_bytes()
    piped = json.loads(explain("--json", "-", stdin=data).stdout)
    read = json.loads(explain("--json", LOGS / "fault_j_optimizer_truncated.log").stdout)

    assert piped | {"file": None} == read | {"file": None}
    assert ("checkpoint_corrupt", "damaged") == (piped["class"], piped["variant"])


def test_an_exit_code_decides_where_the_text_does_not(explain):
    """SIGKILL leaves no word."""
    log = LOGS / "hf_killed_step7.log"

    assert "healthy" == json.loads(explain("--json", log).stdout)["class"]
    assert "preempted_or_interrupted" == json.loads(explain("--json", "--exit-code", "137", log).stdout)["class"]


def test_a_secret_in_a_line_is_not_shown(explain):
    """Evidence is a line of somebody's log."""
    told = explain(
        "-", stdin=b"Traceback (most recent call last):\nValueError: token=hf_abcdefghijklmnopqrstuvwxyz0123\n"
    )

    assert b"ValueError: token=" in told.stdout
    assert b"hf_abcdefghijkl" not in told.stdout


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\x00" * 5000,
        b"\xff\xfe\xfa" * 3000,
        b"x" * 3_000_000,
        b"\x1b[31mRuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB\x1b[0m\n",
        b"\r".join(b"Train: %d%%|" % n for n in range(5000)),
        b"{'loss': " * 20000,
    ],
)
def test_no_log_breaks_it(explain, data):
    """An answer, and nothing on stderr."""
    told = explain("--json", "-", stdin=data)

    assert (0, b"") == (told.returncode, told.stderr)
    assert json.loads(told.stdout)["class"]


def test_a_log_that_is_not_there_is_said(explain, tmp_path):
    """One line, exit 2."""
    missing, folder = explain("nosuch.log"), explain(tmp_path)

    assert (2, b"guardian: error: nosuch.log: there is no such file\n") == (missing.returncode, missing.stderr)
    assert 2 == folder.returncode
    assert b"is a folder, not a log" in folder.stderr
