"""Errors are named for whose turn it is.

GuardianError
├── UserError   your input needs fixing      exit 2
└── HostError   the machine stands in the way exit 3

A job that fails is not an exception: it is an `Ended` event and a diagnosis.
"""

from __future__ import annotations


class GuardianError(Exception):
    """Something that guardian says in one line before it exits."""

    exit_code = 3


class UserError(GuardianError):
    """The command line, a policy file or a rule file cannot be used as written."""

    exit_code = 2


class MissingFileError(UserError):
    """A file that somebody names is not there."""


class HostError(GuardianError):
    """Disk, lock, permission or a damaged run folder stands in the way."""

    exit_code = 3
