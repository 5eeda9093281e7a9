"""Words of strangers made fit for a terminal: one line, short, without anything that drives it."""

from __future__ import annotations

import re
import unicodedata

LOOK_AT = 4000
"""Characters of a text that are looked at."""
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,40}[ -/]{0,8}[@-~]"  # CSI: colors, cursor
    r"|(?:\x1b[\]PX^_]|\x9d|\x90)[^\x07\x1b\x9c]{0,400}(?:\x07|\x1b\\|\x9c)"  # OSC and its kin: titles, links
    r"|\x1b[ -/]{0,8}[0-~]"
)
_NARROW = str.maketrans(
    {"–": "-", "—": "-", "→": "->", "…": "...", "·": "-", "×": "x", "▲": "^", "’": "'", "“": '"', "”": '"'}  # noqa: RUF001 - what is replaced
)  # fmt: skip


def clean(text: str, limit: int = 200) -> str:
    """The text as one line of at most `limit` characters; escape sequences go, other control characters show as `?`."""
    text = _ESCAPES.sub("", text[:LOOK_AT])
    text = "".join(" " if c.isspace() else c if _shows(c) else "?" for c in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _shows(character: str) -> bool:
    """No controls, no direction marks, no halves of surrogates: they change what is around them."""
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Co", "Cn"}


def narrow(text: str, encoding: str) -> str:
    """The text as this encoding can say it."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_NARROW).encode(encoding, "replace").decode(encoding)
    except LookupError:
        return narrow(text, "ascii")
    return text


def is_utf8(encoding: str) -> bool:
    """Whether braille and arrows can be shown."""
    return encoding.lower().replace("-", "").replace("_", "") == "utf8"


def duration(seconds: float | None) -> str:
    """`41 s`, `2 min 13 s`, `9 h 05 min`, `3 d 4 h`."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
