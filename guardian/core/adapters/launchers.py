"""What stands before a program: variables, wrappers, Python itself, and what starts one process per rank.

A command is `variables wrapper... launcher program words...`; only the program's own words are ever edited. An option
that a table of switches does not list takes a value; tests hold the tables to the launchers' real parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from guardian.core import commandline
from guardian.core.job import Finding, ReadConfig
from guardian.core.values import dataclass
from guardian.errors import MissingFileError, UserError

Argv = tuple[str, ...]

_PYTHON = re.compile(r"(python|pypy)[\d.]*")
_PYTHON_WITH_VALUE = frozenset({"-W", "-X", "--check-hash-based-pycs"})
_COUNT = re.compile(r"[1-9]\d{0,5}")

# Wrappers that start what follows, with their options that take a value.
_WRAPPERS: dict[tuple[str, ...], frozenset[str]] = {
    ("conda", "run"): frozenset({"-n", "--name", "-p", "--prefix", "--cwd"}),
    ("mamba", "run"): frozenset({"-n", "--name", "-p", "--prefix", "--cwd"}),
    ("micromamba", "run"): frozenset({"-n", "--name", "-p", "--prefix", "--cwd", "-r", "--root-prefix"}),
    ("uv", "run"): frozenset({
        "--extra", "--no-extra", "--group", "--no-group", "--only-group", "--env-file", "--with", "--with-editable",
        "--with-requirements", "-w", "--package", "-P", "--upgrade-package", "--reinstall-package", "-p", "--python",
        "--project", "--directory", "--config-file", "--cache-dir", "--index", "--default-index", "-i", "--index-url",
        "--extra-index-url", "-f", "--find-links", "--index-strategy", "--keyring-provider", "--resolution",
        "--prerelease", "--exclude-newer", "--link-mode", "--refresh-package", "--no-build-package",
        "--no-binary-package", "-C", "--config-setting", "--python-platform", "--color", "--allow-insecure-host",
    }),
    ("poetry", "run"): frozenset(),
    ("pdm", "run"): frozenset({"-p", "--project"}),
    ("pixi", "run"): frozenset({"-e", "--environment", "--manifest-path"}),
    ("nohup",): frozenset(),
    ("nice",): frozenset({"-n", "--adjustment"}),
    ("time",): frozenset({"-f", "--format", "-o", "--output"}),
    ("stdbuf",): frozenset({"-i", "-o", "-e"}),
    ("numactl",): frozenset({"-m", "-N", "-C", "-i", "-p"}),
    ("env",): frozenset({"-u", "--unset", "-C", "--chdir"}),
}  # fmt: skip

TORCHRUN_SWITCHES = frozenset({
    "-h", "--help", "--standalone", "-m", "--module", "--no_python", "--run_path", "--virtual_local_rank",
})  # fmt: skip
ACCELERATE_SWITCHES = frozenset({
    "-h", "--help", "--quiet", "-q", "--cpu", "--multi_gpu", "--tpu", "--enable_cpu_affinity",
    "--dynamo_use_fullgraph", "--dynamo_use_dynamic", "--dynamo_use_regional_compilation", "--use_deepspeed",
    "--use_fsdp", "--use_parallelism_config", "--use_megatron_lm", "--same_network", "-m", "--module", "--no_python",
    "--tpu_cluster", "--no_tpu_cluster", "--tpu_use_sudo", "--downcast_bf16", "--fp8_use_autocast_during_eval",
    "--debug",
})  # fmt: skip
DEEPSPEED_SWITCHES = frozenset({
    "-h", "--help", "--module", "--no_python", "--no_local_rank", "--no_ssh", "--no_ssh_check", "--force_multi",
    "--save_pid", "--bind_cores_to_rank", "-q", "--quiet",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Command:
    """A command taken apart."""

    variables: tuple[tuple[str, str], ...]
    """Set by the command itself, outermost first."""
    launcher: str
    """`direct`, `python`, `torchrun`, `accelerate` or `deepspeed`."""
    interpreter: str | None
    """The Python that the command names."""
    program: str
    """The console script, the script file or the module."""
    is_module: bool
    head: Argv
    """Everything up to and with the program."""
    rest: Argv
    """The program's own words."""
    options: Argv = ()
    """The launcher's own."""

    @property
    def name(self) -> str:
        """The program's without its folders."""
        return self.program.rpartition("/")[2]

    def environment(self, outside: Mapping[str, str]) -> dict[str, str]:
        """What the job will find; the command's own variables win."""
        return {**outside, **dict(self.variables)}


def take_apart(argv: Argv) -> Command | None:
    """The command in its parts, or None where something stands in it that is not known."""
    at, variables = _before(argv)
    if argv[at : at + 1] in (("-m",), ("--module",)) and at + 1 < len(argv):
        return Command(variables, "python", None, argv[at + 1], True, argv[: at + 2], argv[at + 2 :])  # noqa: FBT003 - the field's value
    if at >= len(argv) or argv[at].startswith("-"):
        return None
    name = argv[at].rpartition("/")[2]
    if _PYTHON.fullmatch(name):
        return _python(argv, at, variables)
    if name == "torchrun":
        return _launched(argv, at + 1, variables, "torchrun", TORCHRUN_SWITCHES)
    if name == "accelerate" and argv[at + 1 : at + 2] == ("launch",):
        return _launched(argv, at + 2, variables, "accelerate", ACCELERATE_SWITCHES)
    if name == "deepspeed":
        return _launched(argv, at + 1, variables, "deepspeed", DEEPSPEED_SWITCHES)
    if name.endswith(".py") and "uv" in argv[:at]:
        # `uv run train.py` finds the Python by itself.
        return Command(variables, "python", None, argv[at], False, argv[: at + 1], argv[at + 1 :])  # noqa: FBT003 - the field's value
    return Command(variables, "direct", None, argv[at], False, argv[: at + 1], argv[at + 1 :])  # noqa: FBT003 - as above


def ranks(command: Command, env: Mapping[str, str], read_config: ReadConfig, findings: list[Finding]) -> int | None:
    """How many processes train; None where only the machine knows."""
    match command.launcher:
        case "torchrun":
            return _product(
                {
                    "--nproc-per-node": _option(command, "nproc_per_node") or env.get("PET_NPROC_PER_NODE", "1"),
                    # 1:4 is a range, whose size shows when the nodes have met.
                    "--nnodes": _option(command, "nnodes") or env.get("PET_NNODES", "1"),
                },
                findings,
            )
        case "accelerate":
            if "--cpu" in command.options and _option(command, "mpirun_hostfile") is None:
                return _alone(command, findings)
            return _product({"num_processes": _accelerate(command, env, read_config, findings) or "all"}, findings)
        case "deepspeed":
            if any(_option(command, name) for name in ("hostfile", "H", "include", "i", "exclude", "e")):
                return None
            return _product(
                {
                    "--num_gpus": _option(command, "num_gpus") or _option(command, "num_accelerators") or "all",
                    "--num_nodes": _option(command, "num_nodes") or "1",
                },
                findings,
            )
    # A launcher outside ours (srun, mpirun) has already made this process one of several.
    return _product({"WORLD_SIZE": env.get("WORLD_SIZE", "1")}, findings) if "RANK" in env else 1


def _alone(command: Command, findings: list[Finding]) -> int:
    """Without mpirun `accelerate launch --cpu` starts one process, however many are asked for (commands/launch.py)."""
    asked = _option(command, "num_processes") or "1"
    if asked != "1":
        what = f"accelerate launch --cpu starts one process, not {asked}"
        findings.append(Finding("world-size", "warning", what, "start the processes with torchrun"))
    return 1


def _before(argv: Argv) -> tuple[int, tuple[tuple[str, str], ...]]:
    """Where the first word is that is neither a variable nor a wrapper, and the variables on the way."""
    at, variables = 0, []
    while at < len(argv):
        if commandline.VARIABLE.fullmatch(argv[at]):
            name, _, text = argv[at].partition("=")
            variables.append((name, text))
            at += 1
            continue
        first = argv[at].rpartition("/")[2]
        wrapper = next((w for w in _WRAPPERS if (first, *argv[at + 1 : at + len(w)]) == w), None)
        if wrapper is None:
            break
        at = _past_options(argv, at + len(wrapper), _WRAPPERS[wrapper], module=wrapper == ("uv", "run"))
    return at, tuple(variables)


def _past_options(argv: Argv, at: int, with_value: frozenset[str], *, module: bool) -> int:
    """Behind the options; `module`: not past what names the program."""
    while at < len(argv) and argv[at].startswith("-") and not (module and argv[at] in ("-m", "--module", "-c")):
        if argv[at] == "--":
            return at + 1
        at += 2 if argv[at] in with_value else 1
    return at


def _python(argv: Argv, at: int, variables: tuple[tuple[str, str], ...]) -> Command | None:
    """`python x.py`, `python -m x`, or a launcher started as a module."""
    interpreter = argv[at]
    at = _past_options(argv, at + 1, _PYTHON_WITH_VALUE, module=True)
    if at >= len(argv):
        return None
    module = argv[at] == "-m"
    at += module
    if at >= len(argv) or argv[at] == "-c":
        return None
    if module and argv[at] in ("torch.distributed.run", "torch.distributed.launch", "torch.distributed.launcher"):
        return _launched(argv, at + 1, variables, "torchrun", TORCHRUN_SWITCHES, interpreter)
    if module and argv[at] in ("accelerate.commands.launch", "accelerate.commands.accelerate_cli"):
        at += argv[at].endswith("_cli")
        return _launched(argv, at + 1, variables, "accelerate", ACCELERATE_SWITCHES, interpreter)
    if module and argv[at] in ("deepspeed", "deepspeed.launcher.runner"):
        return _launched(argv, at + 1, variables, "deepspeed", DEEPSPEED_SWITCHES, interpreter)
    return Command(variables, "python", interpreter, argv[at], module, argv[: at + 1], argv[at + 1 :])


def _launched(
    argv: Argv,
    begin: int,
    variables: tuple[tuple[str, str], ...],
    launcher: str,
    switches: frozenset[str],
    interpreter: str | None = None,
) -> Command | None:
    """The program behind a launcher's options."""
    at, module = begin, False
    while at < len(argv) and argv[at].startswith("-"):
        name = argv[at] if not argv[at].startswith("--") else "--" + argv[at][2:].replace("-", "_")
        if name == "--":
            at += 1
            break
        module = module or name in ("-m", "--module")
        at += 1 if name in switches or "=" in name or (name[:2] != "--" and len(name) > 2) else 2
    if at >= len(argv):
        return None
    return Command(
        variables, launcher, interpreter, argv[at], module, argv[: at + 1], argv[at + 1 :], options=argv[begin:at]
    )


def _option(command: Command, name: str) -> str | None:
    """A launcher's option; a single letter stands behind one dash."""
    if len(name) > 1:
        return commandline.value(command.options, name)
    at = [i for i, word in enumerate(command.options) if word == f"-{name}"]
    return next(iter(command.options[at[-1] + 1 :]), None) if at else None


def _accelerates(command: Command, env: Mapping[str, str], read_config: ReadConfig) -> Mapping[str, object] | None:
    """What says how `accelerate launch` starts: the file that is named, else the one that `accelerate config` wrote.

    None: there is neither. Raises UserError. accelerate 1.15: commands/launch.py and commands/config/config_args.py.
    """
    path = _option(command, "config_file")
    if path is not None:
        return read_config(path)
    cache = env.get("XDG_CACHE_HOME") or (f"{env['HOME']}/.cache" if env.get("HOME") else None)
    home = env.get("HF_HOME") or (f"{cache}/huggingface" if cache else None)
    if home is None or "--cpu" in command.options:
        return None
    home = f"{env.get('HOME', '~')}{home[1:]}" if home[:2] == "~/" else home
    try:
        return read_config(f"{home}/accelerate/default_config.yaml")
    except MissingFileError:
        return None


def _accelerate(
    command: Command, env: Mapping[str, str], read_config: ReadConfig, findings: list[Finding]
) -> str | None:
    given = _option(command, "num_processes")
    if given is not None:
        return given
    try:
        content = _accelerates(command, env, read_config)
        return None if content is None else str(content.get("num_processes", "all"))
    except UserError as error:
        what = f"{error}; the number of ranks is unknown"
        findings.append(Finding("config-unreadable", "warning", what, "mend the file or its path"))
        return "unknown"


REPEATED = ("gradient_accumulation_steps", "train_micro_batch_size_per_gpu", "train_batch_size")


def own_accumulation(command: Command, env: Mapping[str, str], read_config: ReadConfig) -> bool:
    """Whether accelerate's DeepSpeed settings repeat the batch, so that the script's cannot be changed alone."""
    if command.launcher != "accelerate":
        return False
    try:
        content = _accelerates(command, env, read_config) or {}
        inner = content.get("deepspeed_config")
        settings = dict(inner) if isinstance(inner, Mapping) else {}
        path = _option(command, "deepspeed_config_file") or settings.get("deepspeed_config_file")
        # accelerate writes a 1 where the file leaves the accumulation out (DeepSpeedPlugin.__post_init__).
        settings |= {"gradient_accumulation_steps": 1, **read_config(str(path))} if path else {}
    except UserError:
        return True
    given = _option(command, "gradient_accumulation_steps") if "--use_deepspeed" in command.options else None
    settings |= {"gradient_accumulation_steps": given} if given else {}
    return any(settings.get(name, "auto") != "auto" for name in REPEATED)


def _product(factors: Mapping[str, str], findings: list[Finding]) -> int | None:
    world = 1
    for name, text in factors.items():
        if not _COUNT.fullmatch(text):
            # `all`, `gpu`, `auto`: the machine's own count, which is nothing to warn of.
            if text not in ("all", "gpu", "cpu", "auto", "unknown", "-1"):
                what = f"{name} {text}: the number of ranks is unknown"
                findings.append(Finding("world-size", "warning", what, "give a whole number"))
            return None
        world *= int(text)
    return world
