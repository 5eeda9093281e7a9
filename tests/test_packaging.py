"""What is installed: every folder of code, the rules and the companion, under the one name guardian."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import guardian

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
FRAMEWORKS = {"accelerate", "deepspeed", "numpy", "peft", "torch", "transformers"}


def elsewhere(tmp_path, code):
    """What a Python prints that was started outside the checkout and knows nothing of it but the installation."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout.split()


def asked_for(*, extras):
    """Names of what the distribution asks for, with its extras or without."""
    listed = metadata.requires("training-guardian") or []
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in listed if extras or "extra ==" not in line}
    return names - {"training-guardian"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The built distribution, with a rule and a companion file of our own making in it."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("guardian", "trainer", "rules"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        shutil.copy(file, source) if file.is_file() else None
    shutil.copy(ROOT / "LICENSE", source)
    for made in ("rules/made/up.toml", "rules/made/up.samples", "trainer/companion/made_up.py"):
        (source / made).parent.mkdir(exist_ok=True)
        (source / made).touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "-w", str(source / "built"), str(source)], check=True)
    return zipfile.ZipFile(next((source / "built").glob("*.whl")))


def test_the_checkout_is_importable_under_one_name(tmp_path):
    """The trainer and the rules are part of guardian, straight from their folders."""
    code = "import guardian.trainer as t, guardian.rules as r; print(t.__file__); print(r.__file__)"

    assert [str(ROOT / "trainer/__init__.py"), str(ROOT / "rules/__init__.py")] == elsewhere(tmp_path, code)


def test_no_top_level_trainer_or_rules_is_installed(tmp_path):
    """Such common names would shadow, or be shadowed by, the user's own modules."""
    code = "import importlib.util as u; print(u.find_spec('trainer'), u.find_spec('rules'))"

    assert ["None", "None"] == elsewhere(tmp_path, code)


def test_every_folder_of_code_is_a_declared_package():
    """A folder that is not declared works in a checkout and is missing from the wheel."""
    folders = {file.parent.relative_to(ROOT) for top in ("guardian", "trainer") for file in ROOT.glob(f"{top}/**/*.py")}
    names = {".".join(folder.parts) for folder in folders - {Path("trainer/companion")}}
    expected = {name if name.startswith("guardian") else f"guardian.{name}" for name in names} | {"guardian.rules"}

    assert expected == set(PROJECT["tool"]["setuptools"]["packages"])


def test_the_wheel_holds_rules_and_companion(wheel):
    """What is read as files at run time is there as files."""
    names = set(wheel.namelist())

    assert {"guardian/rules/made/up.toml", "guardian/rules/made/up.samples"} <= names
    assert {"guardian/trainer/companion/made_up.py", "guardian/py.typed"} <= names


def test_the_wheel_brings_every_source_file(wheel):
    """The installed program is the one in the checkout."""
    sources = {file.relative_to(ROOT).as_posix() for file in ROOT.glob("guardian/**/*.py")}
    sources |= {f"guardian/{file.relative_to(ROOT).as_posix()}" for file in ROOT.glob("trainer/**/*.py")}

    assert set() == sources - set(wheel.namelist())


def test_the_wheel_has_one_top_level_name(wheel):
    """Nothing but guardian, and its licence among the metadata."""
    names = wheel.namelist()

    assert {"guardian", "training_guardian-0.1.0.dist-info"} == {name.split("/")[0] for name in names}
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_the_package_knows_its_version():
    """One number, wherever it is asked for."""
    assert guardian.__version__ == metadata.version("training-guardian")


def test_the_base_installation_is_light():
    """A supervisor beside a foreign framework must not bring a second one."""
    assert {"rich", "psutil", "watchdog", "nvidia-ml-py", "google-re2", "hyperscan"} <= asked_for(extras=False)
    assert set() == asked_for(extras=False) & FRAMEWORKS


def pinned(file):
    """The lines of a file of pins, in order."""
    return [line for line in (ROOT / file).read_text("utf-8").splitlines() if not line.startswith("#")]


def names(pins):
    """What the lines pin."""
    return [line.partition("==")[0].lower() for line in pins]


def test_everything_asked_for_is_pinned_and_torch_comes_first():
    """What bin/ installs today it installs tomorrow; nothing may choose another torch before ours is there."""
    pins = names(pinned("constraints.txt"))

    assert "torch" == pins[0]
    assert set() == asked_for(extras=True) - set(pins)


def test_the_second_environment_differs_in_transformers_alone():
    """A difference between the two in a test is then a difference between transformers 4 and 5."""
    first, second = pinned("constraints.txt"), pinned("constraints-4.txt")
    left_out = {"deepspeed"} | {re.split(r"[^\w.-]", tool)[0].lower() for tool in EXTRAS["dev"]} - {"tomli"}

    assert ["transformers==4.57.6"] == [line for line in second if line not in first]
    assert ("torch", left_out) == (names(second)[0], set(names(first)) - set(names(second)))
