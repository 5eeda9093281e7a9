"""bin/ makes its own environments once, resumes a cut installation, and afterwards costs no process.

The scripts are the real ones in a copied checkout; what they would download is played by a small stand-in for Python
that notes when each step of pip begins and ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASH = shutil.which("bash")

STAND_IN = r"""#!{bash}
all=$*
last=${{*: -1}}
step=${{all##*constraints.txt }}
step=${{step##*constraints-}}
case "$all" in
  *_base_executable*) echo {home}/python3 ;;
  *" -m venv "*)
    rm -rf "$last"
    mkdir -p "$last/bin" "$last/lib/python3/site-packages/pip-1.dist-info"
    touch "$last/lib/python3/site-packages/pip-1.dist-info/INSTALLER"
    cp "$0" "$last/bin/python" ;;
  *" pip install "*)
    echo "begin $step" >>{home}/steps
    echo "$$" >{home}/pip.pid
    echo "chatter on stdout"
    while [[ -e {home}/slow ]]; do sleep 0.1; done
    [[ $step != *"[train]"* || ! -e {home}/no-deepspeed ]] || exit 1
    [[ $step != *"llamafactory="* || ! -e {home}/no-llamafactory ]] || {{
      echo "ERROR: No matching distribution found for llamafactory"
      exit 1
    }}
    [[ $step != *"-e "* ]] || {{
      printf '#!{bash}\n(($# == 0)) || printf "%%s\\0" "$@"\n' >"${{0%/*}}/guardian"
      chmod +x "${{0%/*}}/guardian"
    }}
    echo "end $step" >>{home}/steps ;;
  *" -c import "*) exec {python} "$@" ;;
  "-m pytest"*) echo "python4 $GUARDIAN_TEST_PYTHON4"; env | grep ^GUARDIAN_TEST | sort ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of bin/ and what it installs from, and a PATH whose python3 is the stand-in."""
    place = tmp_path / "a checkout"
    place.mkdir()
    shutil.copytree(ROOT / "bin", place / "bin")
    for file in (ROOT / "pyproject.toml", *ROOT.glob("constraints*.txt")):
        shutil.copy(file, place)
    python = tmp_path / "python3"
    python.write_text(STAND_IN.format(bash=BASH, home=tmp_path, python=sys.executable))
    python.chmod(0o755)
    return place


def start(checkout, *argv, path=None, program="guardian"):
    """A program of bin/ as a process of its own."""
    path = f"{checkout.parent}:/usr/bin:/bin" if path is None else path
    argv = [BASH, str(checkout / "bin" / program), *argv]
    return subprocess.Popen(argv, env={"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process):
    """Its exit code, stdout and stderr."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err.decode()


def steps(checkout):
    """When each step of pip began and ended, in order."""
    return (checkout.parent / "steps").read_text().splitlines()


def wait_for(condition):
    """Until it holds; the test's own time limit is the bound."""
    while not condition():
        time.sleep(0.05)


def test_torch_is_installed_first_and_alone(checkout):
    """Otherwise the next package's requirements would pick another build of it."""
    assert 0 == finish(start(checkout))[0]
    assert ["begin torch==2.13.0", "end torch==2.13.0"] == steps(checkout)[:2]


def test_the_first_start_keeps_stdout_for_the_program(checkout):
    """The installer talks to stderr and to its log, so that --json can be read by a program."""
    code, out, err = finish(start(checkout, "--json"))

    assert (0, b"--json\0") == (code, out)
    assert "torch==2.13.0" in err
    assert "chatter" in (checkout / ".venv.log").read_text()


def test_arguments_go_through_byte_for_byte(checkout):
    """The job's command is the user's: spaces, quotes, newlines, empty and undecodable ones included."""
    finish(start(checkout))
    argv = [b"a b", b"", b"'\"$HOME*", b"line\nline", b"\xff\xfe", b"--", b"-n"]

    out = finish(start(checkout, *argv))[1]

    assert argv == out.split(b"\0")[:-1]


def test_a_later_start_runs_no_other_program(checkout):
    """With nothing on PATH it still gets there: the glance is bash alone."""
    finish(start(checkout))

    assert (0, b"x\0", "") == finish(start(checkout, "x", path="/nonexistent"))


def test_it_is_one_environment_however_bin_is_reached(checkout, tmp_path):
    """From inside bin/, through a linked folder, through a linked program: nothing is made a second time."""
    finish(start(checkout))
    (tmp_path / "bin").symlink_to(checkout / "bin")
    (tmp_path / "g").symlink_to("bin/guardian")
    ways = [("./guardian", checkout / "bin"), ("bin/guardian", tmp_path), ("./g", tmp_path)]

    for program, cwd in [*ways, ("../bin/guardian", checkout / "bin")]:
        argv = [BASH, program, "x"]
        env = {"PATH": "/usr/bin:/bin"}
        done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, timeout=60, check=False)
        assert (0, b"x\0", b"") == (done.returncode, done.stdout, done.stderr)


def test_a_changed_pin_is_installed_at_the_next_start(checkout):
    """The stamp is the content of what was installed from, not its date."""
    finish(start(checkout))
    with (checkout / "constraints.txt").open("a") as pins:
        pins.write("tomli==2.0.0\n")

    finish(start(checkout))

    assert 2 == steps(checkout).count("end torch==2.13.0")


def test_a_changed_check_installs_nothing(checkout):
    """Settings of ruff, mypy and pytest say nothing about what is installed."""
    finish(start(checkout))
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("# a remark among the checks\n")

    assert (0, b"", "") == finish(start(checkout))


def test_a_moved_checkout_makes_its_environment_anew(checkout):
    """The scripts in .venv name their place; after a move they would start another program or none."""
    finish(start(checkout))
    moved = checkout.rename(checkout.parent / "moved")

    code, out, err = finish(start(moved, "x"))

    assert "making" in err
    assert (0, b"x\0") == (code, out)


def test_two_first_starts_take_turns(checkout):
    """The second waits, says so, and installs nothing again."""
    (checkout.parent / "slow").touch()
    first = start(checkout, "1")
    wait_for((checkout.parent / "pip.pid").exists)
    second = start(checkout, "2")
    wait_for(lambda: b"waiting" in second.stderr.readline())
    (checkout.parent / "slow").unlink()

    assert [0, 0] == [finish(first)[0], finish(second)[0]]
    assert 1 == steps(checkout).count("begin torch==2.13.0")


def test_a_stopped_installation_is_taken_up_again(checkout):
    """SIGTERM ends the installer too; the next start does not take the rest for done."""
    (checkout.parent / "slow").touch()
    first = start(checkout)
    wait_for((checkout.parent / "pip.pid").exists)
    first.terminate()
    code, _, err = finish(first)
    pip = Path("/proc") / (checkout.parent / "pip.pid").read_text().strip()
    wait_for(lambda: not pip.exists())
    (checkout.parent / "slow").unlink()

    assert 143 == code
    assert "the next start goes on" in err
    assert (0, b"x\0") == finish(start(checkout, "x"))[:2]


def test_a_half_written_package_is_swept_before_pip_looks(checkout):
    """For pip a package counts as installed once its metadata lies there, whatever is missing beside it."""
    finish(start(checkout))
    packages = checkout / ".venv/lib/python3/site-packages"
    (packages / "torch-2.13.0.dist-info").mkdir()
    (checkout / ".venv/.guardian/train.stamp").unlink()

    finish(start(checkout))

    assert ["pip-1.dist-info"] == [part.name for part in packages.iterdir()]


def test_deepspeed_may_fail_and_is_not_tried_at_every_start(checkout):
    """It builds from source: where that fails the rest works, in one line."""
    (checkout.parent / "no-deepspeed").touch()

    code, out, err = finish(start(checkout, "x"))

    assert (0, b"x\0") == (code, out)
    assert 1 == err.count("deepspeed did not install")
    assert (0, b"x\0", "") == finish(start(checkout, "x"))


def test_the_tests_get_a_second_environment_and_are_told_where(checkout):
    """With its own pins, after the first one; what has nothing to do with transformers is not installed in it."""
    out = finish(start(checkout, "-q", program="test"))[1].decode()
    done = steps(checkout)

    assert f"python4 {checkout}/.venv-4/bin/python" == out.splitlines()[0]
    assert done.index("end torch==2.13.0") < done.index("begin 4.txt torch==2.13.0")
    assert [f"end 4.txt --no-build-isolation -e {checkout}[train-base]"] == [each for each in done if "4.txt" in each][
        -1:
    ]
    assert finish(start(checkout, program="test"))[2] == ""


FRAMEWORKS = ("swift", "swift3", "llamafactory")


@pytest.mark.long
def test_the_long_tests_get_an_environment_per_framework(checkout):
    """Each with its own pins, torch first and alone, DeepSpeed last; made once, swift's alone where no more is asked for."""
    _, out, _ = finish(start(checkout, program="test"))
    assert ["swift"] == [name for name in FRAMEWORKS if (checkout / f".venv-{name}").exists()]
    assert "GUARDIAN_TEST_FRAMEWORKS=swift" in out.decode().splitlines()

    code, out, _ = finish(start(checkout, "--all", program="test"))

    assert 0 == code
    told = {f"GUARDIAN_TEST_{name.upper()}_PYTHON={checkout}/.venv-{name}/bin/python" for name in FRAMEWORKS}
    assert told | {"GUARDIAN_TEST_FRAMEWORKS=swift swift3 llamafactory"} <= set(out.decode().splitlines())
    begun = [each for each in steps(checkout) if each.startswith("begin swift.txt")]
    assert "begin swift.txt torch==2.13.0" == begun[0]
    assert "begin swift.txt --no-build-isolation deepspeed==0.19.8" == begun[-1]
    assert any("ms-swift==4.6.0 " in each and "deepspeed" not in each for each in begun)
    assert finish(start(checkout, "--all", program="test"))[2] == ""


@pytest.mark.long
def test_a_framework_that_cannot_be_installed_is_named_and_fails_its_own_tests_alone(checkout):
    """One line says what it was; the tests are run without it, and are told that none may be passed over."""
    (checkout.parent / "no-llamafactory").touch()
    env = {"PATH": f"{checkout.parent}:/usr/bin:/bin", "GUARDIAN_TEST_LLAMAFACTORY_PYTHON": "/not/what/was/pinned"}
    argv = [BASH, str(checkout / "bin/test"), "--all"]

    done = subprocess.run(argv, env=env, capture_output=True, timeout=120, check=False)
    code, out, err = done.returncode, done.stdout, done.stderr.decode()

    assert 0 == code  # the stand-in for pytest
    (line,) = [each for each in err.splitlines() if "failed at" in each]
    assert "llamafactory==0.9.5 and what it needs: ERROR: No matching distribution found for llamafactory" in line
    words = out.decode()
    assert "GUARDIAN_TEST_FRAMEWORKS=swift swift3 llamafactory\n" in words
    assert "GUARDIAN_TEST_SWIFT3_PYTHON" in words
    assert "GUARDIAN_TEST_LLAMAFACTORY_PYTHON" not in words


def test_training_needs_no_second_environment(checkout):
    """It costs time and disk, and only the tests ask for it."""
    finish(start(checkout))

    assert [] == [each for each in steps(checkout) if "4.txt" in each]
    assert not (checkout / ".venv-4").exists()


def test_the_test_program_tells_its_cold_time_also_when_warm(checkout):
    """What making the environments took is remembered: the next run's last line tells both times."""
    first = finish(start(checkout, program="test"))[1].decode().splitlines()[-1]
    again = finish(start(checkout, program="test"))[1].decode().splitlines()[-1]

    made = r"bin/test: warm \d+ s \(the tests\), cold \d+ s \(with making the environments, which took (\d+) s\)"
    assert re.fullmatch(made, first)[1] == re.fullmatch(made, again)[1]


@pytest.fixture
def packages(tmp_path):
    """The folder of packages of two environments; in the first a `torch` that asks for `small` and, maybe, for `extra`."""
    version = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    places = tmp_path / "one" / version, tmp_path / "two" / version
    for place in places:
        place.mkdir(parents=True)
    package(places[0], "torch", "2", "small>=1", 'extra; extra == "more"')
    (places[0] / "torch-2.dist-info/entry_points.txt").write_text("[console_scripts]\ntorchrun = torch:main\n")
    package(places[0], "small", "1")
    package(places[0], "extra", "1")
    return places


def package(place, name, version, *requires):
    """As pip leaves it: a module, its program in bin/, and the list of both."""
    info = place / f"{name}-{version}.dist-info"
    info.mkdir()
    files = {place / f"{name}.py": version, place.parents[2] / "bin" / name: "", info / "INSTALLER": "pip\n"}
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires)]
    files |= {info / "METADATA": "\n".join(lines) + "\n\n"}
    for file, text in files.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    listed = [*files, info / "RECORD"]
    (info / "RECORD").write_text("".join(f"{os.path.relpath(each, place)},,\n" for each in listed))


def share(packages):
    """Link from the first environment into the second."""
    places = [str(place.parents[2]) for place in packages]
    subprocess.run([sys.executable, "-I", str(ROOT / "bin/share_torch.py"), *places], check=True)


def test_torch_is_shared_with_what_it_asks_for_and_nothing_else(packages):
    """The same files on the disk; the programs name the environment they were made in, so they are written anew."""
    share(packages)
    here, there = packages

    assert {"torch.py", "torch-2.dist-info", "small.py", "small-1.dist-info"} == {each.name for each in there.iterdir()}
    assert (there / "torch.py").samefile(here / "torch.py")
    assert "INSTALLER" in os.listdir(there / "torch-2.dist-info")
    assert ["torchrun"] == os.listdir(there.parents[2] / "bin")
    assert f'"{there.parents[2]}/bin/python"' in (there.parents[2] / "bin/torchrun").read_text()


def test_a_torch_that_stands_there_is_not_mixed_with_another(packages):
    """Its replacement is the installer's work: it knows which files must go."""
    package(packages[1], "torch", "1")
    share(packages)

    assert "1" == (packages[1] / "torch.py").read_text()
    assert not (packages[1] / "torch-2.dist-info").exists()


def test_a_linking_that_was_cut_off_is_done_again(packages):
    """What lies there without an INSTALLER was swept away; files beside it may have stayed."""
    (packages[1] / "torch.py").write_text("half")
    share(packages)

    assert "2" == (packages[1] / "torch.py").read_text()


def test_without_a_python_the_line_names_the_fix(checkout):
    """One line, and the exit code of a host that stands in the way."""
    bare = checkout.parent / "bare"
    bare.mkdir()
    (bare / "python3").write_text(f"#!{BASH}\nexit 1\n")
    (bare / "python3").chmod(0o755)

    code, out, err = finish(start(checkout, path=str(bare)))

    assert (3, b"", 1) == (code, out, err.count("\n"))
    assert "install Python 3.10" in err


def test_the_real_scripts_are_executable():
    """A fresh clone runs them by name."""
    assert all(os.access(ROOT / name, os.X_OK) for name in ("bin/guardian", "bin/test", "bin/check", ".ci/run"))
