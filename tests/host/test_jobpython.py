"""The Python that a command runs in."""

import sys
from pathlib import Path

import pytest

from guardian.host import torchpython
from guardian.host.jobpython import interpreter

HERE = str(Path(sys.executable).parent)
LONG = """#!/bin/sh
'''exec' "PYTHON" "$0" "$@"
' '''
"""


@pytest.mark.parametrize(
    "head",
    ["#!PYTHON\n", "#!/usr/bin/env python3\n", LONG],
)
def test_an_installed_programs_first_lines_name_it(tmp_path, head):
    """As pip writes them; 'env' looks in the caller's PATH."""
    program = tmp_path / "torchrun"
    program.write_text(head.replace("PYTHON", f"{HERE}/python3") + "import x\n")
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{HERE}"}

    assert f"{HERE}/python3" == interpreter(("A=1", "torchrun", "train.py"), environment, "/")


def test_a_command_that_names_its_python_means_that_one(tmp_path):
    """By name or by path, also below the folder of the command."""
    (tmp_path / "python3.11").symlink_to(sys.executable)

    assert f"{HERE}/python3" == interpreter(("env", "A=1", "python3", "x.py"), {"PATH": HERE}, "/")
    assert f"{tmp_path}/./python3.11" == interpreter(("./python3.11", "x.py"), {}, str(tmp_path))


def test_what_is_no_script_of_a_python_is_not_guessed(tmp_path):
    """A shell script or a binary may start any."""
    (tmp_path / "go").write_text("#!/bin/bash\npython train.py\n")
    (tmp_path / "go").chmod(0o755)

    assert interpreter(("./go",), {}, str(tmp_path)) is None
    assert interpreter(("/bin/true",), {}, "/") is None
    assert interpreter(("nowhere",), {"PATH": "/bin"}, "/") is None
    assert interpreter((), {}, "/") is None


def test_torchs_version_is_read_where_a_python_has_it(tmp_path):
    """From its file, without a process; unknown where there is none, or it says nothing."""
    package = tmp_path / "lib" / "python3.12" / "site-packages" / "torch"
    python = str(tmp_path / "bin" / "python")
    assert torchpython.version(python) is None
    package.mkdir(parents=True)
    (package / "version.py").write_text("from typing import Optional\n\n__version__ = '2.13.0+cpu'\ndebug = False\n")

    assert (2, 13) == torchpython.version(python)
    (package / "version.py").write_bytes(b"\xff" * 10)
    assert torchpython.version(python) is None
