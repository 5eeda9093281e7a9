"""The commands tell about themselves, quickly; a dry run shows what would be done and does nothing."""

import json
import re
import subprocess
import sys

import pytest

from guardian import __version__
from guardian.cli.main import COMMANDS, EXIT_CODES
from guardian.core.job import KNOBS
from tests.cli.calling import guardian

HEAVY = {"hyperscan", "numpy", "psutil", "pynvml", "re2", "rich", "torch", "transformers", "watchdog"}


def shown(*arguments, cwd):
    """What a call that succeeds writes; it complains of nothing."""
    done = guardian(*arguments, cwd=cwd)
    assert (0, "") == (done.returncode, done.stderr), done.stderr
    return done.stdout


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_names_every_command_with_an_example_and_the_exit_codes(word, tmp_path):
    """All of it on one screen."""
    text = shown(word, cwd=tmp_path)

    assert all(f"  {name:<8} {what}\n" in text for name, what in COMMANDS.items())
    assert "\nexample:\n  guardian run -- " in text
    assert EXIT_CODES in text
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_documents_itself(command, tmp_path):
    """What it is for, each option in words, and an example that begins with its name."""
    text = shown(command, "--help", cwd=tmp_path)

    assert text.startswith(f"usage: guardian {command} ")
    assert re.search(rf"\nexample:\n  guardian {command} ", text)
    options = re.findall(r"^  (-\S.*?|[A-Z]+)(?:  +(\S.*)|\n {8,}(\S.*))$", text, re.MULTILINE)
    assert {"-h, --help"} < {names for names, *_ in options}
    assert all(len(here or below) > 8 for _, here, below in options), options


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("status", "--json")])
def test_what_a_command_does_not_need_is_not_loaded(words, tmp_path):
    """`--help` answers at once on a machine whose disk is slow."""
    script = "import sys; from guardian.cli.main import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert set() == HEAVY & {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_one_line(word, tmp_path):
    """For bug reports."""
    assert f"guardian {__version__}\n" == shown(word, cwd=tmp_path)


# --- dry run -----------------------------------------------------------------------------------------------------

SFT = ("sft", "--model", "demo", "--dataset", "demo", "--output_dir", "out", "--save_steps", "10")


def test_a_dry_run_for_programs_has_the_keys_that_they_read(tmp_path):
    """Keys may be added, these stay."""
    told = json.loads(shown("run", "--dry-run", "--json", "--", *SFT, cwd=tmp_path))

    assert {
        "family",
        "launcher",
        "interpreter",
        "knobs",
        "implicit",
        "effective_batch",
        "argv",
        "env",
        "findings",
    } <= set(told)
    assert ("embedded", "python", None, 16) == tuple(
        told[key] for key in ("family", "launcher", "interpreter", "effective_batch")
    )
    assert set(KNOBS) <= set(told["knobs"])
    assert (10, "out", 4) == tuple(told["knobs"][key] for key in ("save_steps", "output_dir", "device_batch"))
    assert "device_batch" in told["implicit"]
    assert "save_steps" not in told["implicit"]
    assert SFT == tuple(told["argv"][-len(SFT) :])
    assert {"GUARDIAN_MARK", "PYTHONUNBUFFERED"} <= set(told["env"])
    assert [] == told["findings"]


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_dry_run_starts_nothing_and_makes_nothing(extra, tmp_path):
    """No process, no folder."""
    shown("run", "--dry-run", *extra, "--", "touch", "started", cwd=tmp_path)

    assert [] == list(tmp_path.iterdir())


def test_a_dry_run_shows_a_person_the_command_and_what_is_added_to_its_environment(tmp_path):
    """The same command that a run would show."""
    text = shown(
        "run", "--dry-run", "--", "python", "my train.py", "--api_key", "hf_abcdefghijklmnopqrstuvwxyz", cwd=tmp_path
    )

    assert "would run: python 'my train.py' --api_key " in text
    assert "hf_abcdefghijklmnopqrstuvwxyz" not in text
    assert "\n  with PYTHONUNBUFFERED=1" in text
    assert "family: not recognised" in text


def test_a_dry_run_names_a_value_that_cannot_be_right(tmp_path):
    """Exit 2, as `run` would give."""
    done = guardian("run", "--dry-run", "--json", "--", *SFT, "--learning_rate", "fast", cwd=tmp_path)

    assert 2 == done.returncode
    (finding,) = json.loads(done.stdout)["findings"]
    assert {"id": "not-a-number", "severity": "error"} == {key: finding[key] for key in ("id", "severity")}
    assert "--learning_rate fast" in finding["message"]


def test_arguments_that_no_terminal_shows_are_escaped(tmp_path):
    """Bytes that are not UTF-8, control characters, and a terminal that knows ASCII only."""
    command = ("--", "x", b"\xff", "\x1b[2J", "größe")
    done = guardian("run", "--dry-run", *command, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})

    assert (0, "") == (done.returncode, done.stderr)
    assert all(text in done.stdout for text in ("\\udcff", "\\x1b[2J", "gr\\xf6"))
