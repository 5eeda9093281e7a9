"""Read `<id>.samples`: excerpts of real logs, each under a header with source, version and verdict.

    # source OWNER/REPO#12; ms-swift 4.6.0; match
    the lines of the log
    # source recorded with a full disk; torch 2.13.0; exit 139; no-match because it is a warning
    the lines of the log

The exit is left out where the log alone counts; then the job's exit code is 1.
"""

import re
from dataclasses import dataclass

HEADER = re.compile(r"# source (.+?); ([^;]+); (?:exit (\d+); )?(match|no-match because .+)")


@dataclass(frozen=True)
class Sample:
    """One excerpt."""

    source: str
    version: str
    exit: int
    matches: bool
    why: str
    text: str


def read(text):
    """The samples in a file's text; ValueError where a header is missing or wrong."""
    samples = []
    for block in re.split(r"^(?=# source)", text, flags=re.MULTILINE):
        header, _, body = block.partition("\n")
        match = HEADER.fullmatch(header)
        if block and (match is None or not body.strip()):
            raise ValueError(header)
        if match:
            source, version, code, verdict = match.groups()
            samples.append(Sample(source, version, int(code or 1), verdict == "match", verdict, body))
    return samples
