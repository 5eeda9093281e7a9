"""What `guardian run --dry-run` shows: the command as understood, and what would be started. Nothing is."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING

from guardian.core.job import JobSpec, unrecognised
from guardian.core.masking import mask
from guardian.core.planning import Terms
from guardian.core.wire import ENV_SPEC
from guardian.host.clock import Clock
from guardian.ui.plain import printable

if TYPE_CHECKING:
    from guardian.core.adapters import Adapter
    from guardian.core.events import Planned

OUTSIDE = "(decided at the start)"
"""Stands for what only a real run has: its folder and its id."""
UNKNOWN = "not recognised: started, explained and restarted as it is, never edited"
UNKNOWN_YET = "not recognised: what trains in it is learnt from inside, once it does; until then restarted as it is"


def show(terms: Terms, adapter: Adapter | None, *, as_json: bool) -> int:
    """Print the plan of the first attempt; 2 where the command cannot run as it is written."""
    spec = adapter.spec if adapter else unrecognised(terms.argv)
    planned = terms.first(Clock().wall())
    text = json.dumps(_json(spec, planned), indent=1) if as_json else "\n".join(map(printable, _lines(spec, planned)))
    sys.stdout.write(text + "\n")
    return 2 if any(f.severity == "error" for f in spec.findings) else 0


def _json(spec: JobSpec, planned: Planned) -> dict[str, object]:
    return {
        "family": spec.family,
        "launcher": spec.launcher,
        "interpreter": spec.interpreter,
        "knobs": dict(spec.knobs),
        "implicit": list(spec.implicit),
        "effective_batch": spec.effective_batch,
        "argv": list(planned.argv),
        "env": dict(planned.env),
        "findings": [{"id": f.id, "severity": f.severity, "message": f.message, "fix": f.fix} for f in spec.findings],
    }


def _lines(spec: JobSpec, planned: Planned) -> list[str]:
    known = [f"  {name}: {value}{_given(name, spec)}" for name, value in spec.knobs if value is not None]
    return [
        f"family: {spec.family or (UNKNOWN_YET if ENV_SPEC in dict(planned.env) else UNKNOWN)}",
        *known,
        *([f"  effective batch: {spec.effective_batch}"] if spec.effective_batch is not None else []),
        f"would run: {mask(shlex.join(planned.argv))}",
        *(f"  with {name}={_shown(name, value)}" for name, value in planned.env),
        *(f"{f.severity}: {f.message}{f' ({f.fix})' if f.fix else ''}" for f in spec.findings),
    ]


def _given(name: str, spec: JobSpec) -> str:
    return " (filled in by the framework)" if name in spec.implicit else ""


def _shown(name: str, value: str) -> str:
    """A value; of a path that guardian puts in front, what the caller has follows."""
    mine = os.environ.get(name)
    return f"{value}   (was {mine!r})" if mine is not None else value
