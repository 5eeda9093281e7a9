"""`guardian run`: run a training command under supervision.

The job waits for what is imported here. So the keeper is started as soon as the options are good: its interpreter reads
its modules while ours reads the rest.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from guardian import __version__
from guardian.cli import parsing
from guardian.errors import HostError, UserError

if TYPE_CHECKING:
    import argparse

    from guardian.cli.background import Background
    from guardian.core import events as ev
    from guardian.core.adapters import Adapter
    from guardian.core.policy import Policy
    from guardian.host.keeping import Standby

EXAMPLE = """example:
  guardian run --name night1 -- sft --model demo --dataset demo --output_dir out
  guardian run -- torchrun --nproc-per-node 2 train.py --lr 1e-5

What stands after -- is run as it is. Commands that guardian does not recognise are restarted and explained, never
edited. Exit codes: guardian --help."""


def parser() -> argparse.ArgumentParser:
    """The options before `--`."""
    options = parsing.parser("run", "Run a training command under supervision.", EXAMPLE)
    options.usage = "guardian run [options] -- COMMAND ..."
    options.add_argument("--name", help="name of the run (default: made from the time and the command)")
    parsing.add_run_dir(options)
    options.add_argument("--policy", type=Path, metavar="FILE", help="limits and waits, a TOML file")
    options.add_argument("--rules", type=Path, metavar="DIR", help="rule files that override the built-in ones by id")
    options.add_argument(
        "--no-companion", action="store_true", help="leave the job's Python alone: the log is read, less is proved"
    )
    parsing.add_detach(options)
    options.add_argument("--dry-run", action="store_true", help="show what would be run, and run nothing")
    options.add_argument("--json", action="store_true", help="with --dry-run: print JSON, for programs to read")
    return options


def main(argv: list[str]) -> int:
    """Run the command; the exit code of the run."""
    own, command = parsing.split_command(argv)
    options, left = parser().parse_known_args(own)
    if left and not command and not left[0].startswith("-"):
        raise UserError(f"put -- before the command: guardian run [options] -- {shlex.join(left)}")
    if left:
        options = parser().parse_args(own)  # which complains
    if not command:
        raise UserError("no command to run: guardian run [options] -- COMMAND ...")
    if options.json and not options.dry_run:
        raise UserError("--json goes with --dry-run here; for a run's story: guardian report --json")
    standby = None if options.dry_run or options.detach else _early()
    from guardian.core import adapters
    from guardian.host import configs, policyfile

    policy = policyfile.load(options.policy)
    parsing.judge_rules(options.rules)
    adapter = adapters.recognise(command, dict(os.environ), configs.read_config)
    if options.dry_run:
        return _dry_run(options, command, adapter, policy)
    if not options.detach:
        return _run(options, command, adapter, policy, standby=standby)
    from guardian.cli import background

    return background.start(lambda behind: _run(options, command, adapter, policy, background=behind))


def _early() -> Standby | None:
    """A keeper before it is known that one will be needed: it leaves when we do."""
    try:
        return _standby()
    except HostError:
        return None  # said when it is needed; until then there may be worse to say


def _standby() -> Standby:
    from guardian.host.keeping import Standby

    return Standby()


def _run(
    options: argparse.Namespace,
    command: tuple[str, ...],
    adapter: Adapter | None,
    policy: Policy,
    *,
    standby: Standby | None = None,
    background: Background | None = None,
) -> int:
    from guardian.cli.requests import Requests

    requests = Requests()
    from guardian.cli.session import Session, terms
    from guardian.core import events as ev
    from guardian.core import folding
    from guardian.host import machine, runs
    from guardian.host.clock import Clock
    from guardian.host.journal import Journal

    folder = runs.create(options.run_dir, options.name, hint=Path(command[0]).name)
    _preflight(folder.path, policy)
    standby = standby or _standby()
    created = _created(options, command, adapter, policy, name=folder.name)
    clock = Clock()
    stamp = ev.Stamp(clock.wall(), clock.mono(), machine.boot_id(), machine.node(), os.getpid())
    record = ev.Record(stamp, created)
    journal = Journal.create(folder.journal, say=parsing.say)
    journal.append(record, sync=False)  # before anything is done comes the launch, which is synced
    run_terms = terms(created, folder.path, adapter, os.environ)
    _tell_findings(adapter)
    session = Session(folding.begin(record), journal, run_terms, options.rules, background=background)
    code = session.conduct(ev.SupervisorStarted("run", ""), requests=requests, standby=standby)
    journal.close()
    return code


def _created(
    options: argparse.Namespace, command: tuple[str, ...], adapter: Adapter | None, policy: Policy, *, name: str
) -> ev.RunCreated:
    import json

    from guardian.core import events as ev
    from guardian.core import policy as policies
    from guardian.core.planning import shaping

    spec = adapter.spec if adapter else None
    return ev.RunCreated(
        run=os.urandom(16).hex(),
        name=name,
        argv=command,
        cwd=str(Path.cwd()),
        family=adapter.family if adapter else None,
        companion=not options.no_companion,
        policy=json.dumps(policies.as_tables(policy)),
        version=__version__,
        uid=os.getuid(),
        env=shaping(os.environ),
        ranks=spec.asked_ranks() if spec else None,
        weakened=spec.weakened() if spec else (),
    )


def _tell_findings(adapter: Adapter | None) -> None:
    """What will end or surprise the job; the job itself is started as it is written. Advice: see --dry-run."""
    odd = [one for one in adapter.spec.findings if one.severity != "advice"] if adapter else []
    if not odd:
        return
    from guardian.core.masking import mask
    from guardian.ui.plain import printable

    for one in odd:
        parsing.say(printable(mask(f"{one.severity}: {one.message}{f' ({one.fix})' if one.fix else ''}")))


def _dry_run(options: argparse.Namespace, command: tuple[str, ...], adapter: Adapter | None, policy: Policy) -> int:
    from guardian.cli import dry_run
    from guardian.cli.session import terms

    created = _created(options, command, adapter, policy, name=options.name or dry_run.OUTSIDE)
    folder = options.run_dir.absolute() / created.name
    return dry_run.show(terms(created, folder, adapter, os.environ), adapter, as_json=options.json)


def _preflight(folder: Path, policy: Policy) -> None:
    from guardian.host import machine

    free = machine.free_mib(folder)
    if free is not None and free < policy.disk.minimum_free_mib:
        need = policy.disk.minimum_free_mib
        raise HostError(f"{folder} has {free:.0f} MiB free; disk.minimum_free_mib asks for {need:.0f}")
