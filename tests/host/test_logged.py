"""A job without a companion is told from what it logged, also when the run is loaded later."""

from __future__ import annotations

import json
import sys

from tests.cli.calling import guardian

LINE = " iteration {0:8d}/      40 | elapsed time per iteration (ms): {1}.0 | learning rate: 1.000E-04 | lm loss: {2:.6E} |"


def test_the_report_of_a_job_without_a_companion_has_its_curves_and_its_fault(tmp_path):
    """Megatron's lines: the steps, their time, and where it ended."""
    lines = [LINE.format(step, 1000 if step < 30 else 2000, 10.0 / step) for step in range(1, 31)]
    program = f"print({chr(10).join(lines)!r}); print('RuntimeError: out of luck'); raise SystemExit(3)"
    policy = tmp_path / "policy.toml"
    policy.write_text("[budget]\nrestarts = 0\n")
    run = ("run", "--name", "r1", "--no-companion", "--policy", str(policy), "--", sys.executable, "-c", program)
    ran = guardian(*run, cwd=tmp_path)
    told = json.loads(guardian("report", "--json", "r1", cwd=tmp_path).stdout)
    shown = guardian("report", "r1", cwd=tmp_path, env={"COLUMNS": "100", "PYTHONIOENCODING": "ascii"}).stdout

    assert 0 != ran.returncode
    assert [30] == [fault["step"] for attempt in told["attempts"] for fault in attempt["faults"]]
    assert any(line.startswith("       10 +*") for line in shown.split("\n"))
    assert any(line.startswith(" s a step |.") and line.endswith("@ 1 to 2") for line in shown.split("\n"))
