"""Imports run one way (cli, ui -> supervisor -> host -> core), read from the sources, not from what ran.

What runs in the training job's own Python, or must outlive us, stands alone on the standard library; nothing of
the supervisor ever loads a training framework.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(ROOT.glob("guardian/**/*.py")) + sorted(ROOT.glob("trainer/companion/**/*.py"))

# From the ground up: a module may import its own layer and those before it.
LAYERS = ("errors", "core", "host", "supervisor", "ui", "cli", "__main__")
ROOMS = {
    "ending",
    "finding",
    "looking",
    "recording",
    "slowwork",
    "sources",
    "starting",
    "stopping",
    "taking_over",
    "watching",
}
"""The supervisor's other files: of its layer."""
FRAMEWORKS = {
    "accelerate",
    "datasets",
    "deepspeed",
    "numpy",
    "pandas",
    "peft",
    "tokenizers",
    "torch",
    "transformers",
}
JOB_SCRIPTS = {"guardian/host/rate_script.py": {"torch"}, "guardian/host/scan_script.py": {"torch"}}
"""Run by the job's own Python and imported by nobody: what each may load there."""
BACKPORTS = {"tomli", "typing_extensions"}  # the standard library of a later Python
EFFECTS = {
    *("os", "io", "pathlib", "shutil", "tempfile", "glob", "fcntl", "mmap", "ctypes", "importlib", "logging"),
    *("subprocess", "multiprocessing", "threading", "queue", "asyncio", "concurrent", "atexit"),
    *("socket", "select", "selectors", "ssl", "http", "urllib", "smtplib"),
    *("time", "random", "secrets", "uuid", "platform", "getpass", "pwd", "resource"),
}


def imported(tree: ast.AST, package: str) -> set[str]:
    """Every dotted name that the source imports, at any depth, relative ones spelled out."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=module, level=level):
                parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                base = ".".join([*parents, *([module] if module else [])])
                names |= {f"{base}.{alias.name}" for alias in node.names}
            case ast.Call(
                func=ast.Name(id="__import__" | "import_module") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def layer(name: str) -> str | None:
    """Where a module of guardian lives; None for what has no place in the order."""
    parts = name.split(".")
    if parts[0] != "guardian" or len(parts) == 1:
        return None
    own = "supervisor" if parts[1] in ROOMS else parts[1]
    return own if own in LAYERS else None


def faults(path: str, source: str) -> list[str]:
    """What the source at this path (from the repository's root, with slashes) imports and may not."""
    in_job = path.startswith("trainer/companion/") or path in JOB_SCRIPTS
    tree = ast.parse(source, feature_version=(3, 8) if in_job else None)
    names = imported(tree, path.rpartition("/")[0].replace("/", "."))
    names -= JOB_SCRIPTS.get(path, set())
    alone = path == "guardian/host/keeper.py" or in_job
    own = layer(path.removesuffix(".py").replace("/", "."))
    siblings = {other.stem for other in (ROOT / path).parent.glob("*.py")}
    found = []
    for name in sorted(names):
        top, target = name.split(".")[0], layer(name)
        third_party = top not in sys.stdlib_module_names and top not in {"guardian", *BACKPORTS}
        if alone and top not in sys.stdlib_module_names and not (top in siblings and path.startswith("trainer/")):
            found.append(f"{path} stands alone on the standard library but imports {name}")
        if path.startswith("guardian/") and top in FRAMEWORKS:
            found.append(f"{path} loads a training framework: {name}")
        if path.startswith("guardian/") and (name + ".").startswith("guardian.trainer."):
            found.append(f"{path} loads what belongs in the training process: {name}")
        if f"{name.replace('.', '/')}.py" in JOB_SCRIPTS:
            found.append(f"{path} loads what the job's own Python runs: {name}")
        if own and target and LAYERS.index(target) > LAYERS.index(own):
            found.append(f"{path} is {own} and imports {target}: {name}")
        if own in {"core", "errors"} and (top in EFFECTS or third_party):
            found.append(f"{path} is pure and imports {name}")
    if own in {"core", "errors"}:
        found += [f"{path}:{line} is pure and calls {call}" for call, line in effect_calls(tree)]
    return found


def effect_calls(tree: ast.AST) -> list[tuple[str, int]]:
    """Calls of built-ins that reach outside, with their lines."""
    return [
        (node.func.id, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"open", "print", "input"}
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_imports_only_what_its_layer_may(path):
    """One way only, core without effects, keeper and companion alone, no framework."""
    assert [] == faults(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))


@pytest.mark.parametrize(
    "path, source",
    [
        ("guardian/core/deciding.py", "import os"),
        ("guardian/core/deciding.py", "def f():\n    from time import sleep"),
        ("guardian/core/deciding.py", "import os.path as p"),
        ("guardian/core/deciding.py", "import rich"),
        ("guardian/core/deciding.py", "from guardian.host import keeper"),
        ("guardian/core/deciding.py", "from guardian import host"),
        ("guardian/core/adapters/hf.py", "from ...host import processes"),
        ("guardian/core/deciding.py", "def f(p):\n    return open(p).read()"),
        ("guardian/errors.py", "from guardian.core import events"),
        ("guardian/host/journal.py", "from guardian.supervisor import Supervisor"),
        ("guardian/host/journal.py", "from ..ui import plain"),
        ("guardian/supervisor.py", "import guardian.cli.main"),
        ("guardian/recording.py", "import guardian.cli.main"),
        ("guardian/host/journal.py", "from guardian import sources"),
        ("guardian/ui/plain.py", "from guardian.cli import main"),
        ("guardian/host/keeper.py", "from guardian.errors import HostError"),
        ("guardian/host/keeper.py", "import psutil"),
        ("guardian/host/gpus.py", "def f():\n    import torch.cuda"),
        ("guardian/host/gpus.py", "importlib.import_module('numpy')"),
        ("guardian/cli/run.py", "from guardian.trainer import arguments"),
        ("guardian/host/scan_script.py", "import psutil"),
        ("guardian/host/torchpython.py", "from guardian.host import scan_script"),
        ("trainer/companion/sitecustomize.py", "import torch"),
        ("trainer/companion/sitecustomize.py", "from guardian.core import wire"),
    ],
)
def test_a_forbidden_import_is_found(path, source):
    """The checker can say no: each of these is one fault, found at any depth and in any spelling."""
    assert 1 == len(faults(path, source))


@pytest.mark.parametrize(
    "path, source",
    [
        (
            "guardian/core/deciding.py",
            "from guardian.core.events import Exited\nfrom . import run\nimport re",
        ),
        ("guardian/host/journal.py", "import os, psutil\nfrom guardian.core import wire"),
        ("guardian/cli/run.py", "from guardian import supervisor\nfrom guardian.ui import plain"),
        ("guardian/host/keeper.py", "import os, socket"),
        ("guardian/__main__.py", "from guardian.cli.main import entry"),
    ],
)
def test_an_allowed_import_is_left_alone(path, source):
    """The checker can say yes."""
    assert [] == faults(path, source)


def test_the_companion_is_written_for_python_3_8():
    """The job's Python may be older than ours: newer syntax is refused before anything else is asked."""
    with pytest.raises(SyntaxError):
        faults("trainer/companion/sitecustomize.py", "match x:\n    case 1: pass")


def test_the_command_line_loads_no_framework():
    """Nothing that guardian imports on its way to its first line drags one in behind our back."""
    code = "import guardian.cli.main, sys; print(*sys.modules, sep='\\n')"
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = {name.split(".")[0] for name in listed.splitlines()}

    assert "guardian" in modules
    assert set() == modules & FRAMEWORKS
