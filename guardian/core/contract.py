"""A report as other programs read it: keys may be added, none goes away or changes its meaning.

Pure, and nothing in it that JSON cannot say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardian.core.reporting import summary

if TYPE_CHECKING:
    from guardian.core import events as ev
    from guardian.core.faults import Fault
    from guardian.core.reporting import AttemptReport, Report
    from guardian.core.throughput import Speed, Straggler, Window


def as_json(told: Report) -> dict[str, object]:
    """The report as plain values, without anything that JSON cannot say."""
    certificate = told.certificate
    return {
        "run": told.run,
        "name": told.name,
        "argv": list(told.argv),
        "family": told.family,
        "program": list(told.program) if told.program else None,
        "outcome": told.outcome.value,
        "reason": told.reason,
        "remark": told.remark,
        "exit_code": told.exit_code,
        "summary": summary(told),
        "began": told.began,
        "steps_done": told.steps_done,
        "max_steps": told.max_steps,
        "wall_s": round(told.wall_s, 3),
        "goodput": _rounded(told.goodput, 4),
        "attempts": [_attempt_json(a, told.faults) for a in told.attempts],
        "throughput": _speed_json(told.speed) if told.speed else None,
        "stragglers": [_straggler_json(one) for one in told.stragglers],
        "effective_batch": certificate.effective_batch,
        "certificate": {
            "verdict": certificate.verdict.value,
            "reasons": list(certificate.reasons),
            "steps_counted": certificate.steps_counted,
            "replayed_steps": certificate.replayed_steps,
            "largest_loss_difference": certificate.largest_loss_difference,
            "loss_band": certificate.loss_band,
            "short_steps": certificate.short_steps,
        },
        "skipped_checkpoints": [{"path": path, "reason": why} for path, why in told.skipped_checkpoints],
        "unpinned_checkpoints": [{"path": path, "reason": why} for path, why in told.unpinned_checkpoints],
        "guardian_restarts": told.guardian_restarts,
        "failed_edits": list(told.failed_edits),
        "smaller_batch": list(told.smaller),
        "blind": list(told.blind),
        "next_argv": list(told.next_argv) if told.next_argv else None,
    }


def _attempt_json(one: AttemptReport, known: tuple[Fault, ...]) -> dict[str, object]:
    return {
        "number": one.number,
        "began": one.began,
        "first_step": one.first_step,
        "last_step": one.last_step,
        "resumed_from": one.resumed_from,
        "resume_step": one.resume_step,
        "cause": _cause_json(one.cause) if one.cause else None,
        "end": one.end,
        "faults": [_fault_json(fault) for fault in known if fault.attempt == one.number],
        "edits": [{"knob": e.knob, "old": e.old, "new": e.new, "kind": e.kind} for e in one.edits],
        "not_tried": list(one.not_tried),
        "lost_steps": one.lost_steps,
        "seconds": _rounded(one.seconds, 3),
        "cost_s": _rounded(one.cost_s, 3),
        "host": {name: _rounded(value, 3) for name, value in one.host},
    }


def _fault_json(fault: Fault) -> dict[str, object]:
    return {
        "step": fault.step,
        "class": fault.id,
        "variant": fault.variant,
        "title": fault.title,
        "resumed_step": fault.resumed_step,
        "edits": [edit.knob for edit in fault.edits],
    }


def _speed_json(speed: Speed) -> dict[str, object]:
    def window(one: Window) -> dict[str, object]:
        return {
            "attempt": one.attempt,
            "first_step": one.first,
            "last_step": one.last,
            "step_s": _rounded(one.seconds, 4),
            "tokens_per_s": _rounded(one.tokens_s, 1),
        }

    return {
        "first": window(speed.begun),
        "now": window(speed.now),
        "share": round(speed.share, 3),
        "declined": speed.declined,
        "changed": list(speed.changed),
    }


def _straggler_json(one: Straggler) -> dict[str, object]:
    return {
        "rank": one.rank,
        "attempt": one.attempt,
        "behind_s": round(one.behind_s, 4),
        "step_s": round(one.step_s, 4),
        "late_steps": one.late,
        "steps": one.steps,
    }


def _cause_json(cause: ev.Cause) -> dict[str, object]:
    return {
        "class": cause.id,
        "variant": cause.variant,
        "rule": cause.rule,
        "title": cause.title,
        "evidence": [{"line": line.number, "text": line.text} for line in cause.evidence],
        "advice": cause.advice,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
