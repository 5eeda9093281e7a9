"""Hide secrets in what guardian shows, writes or sends: command lines, environments, lines of a log.

A value is hidden for its name (`--hub_token X`, `WANDB_API_KEY=X`) or for its own shape (`hf_...`, `sk-...`).
Text comes from strangers: it is cut at `LONGEST` and no pattern looks twice at a long stretch, so the work is linear.
"""

from __future__ import annotations

import re

MASK = "***"
LONGEST = 20_000
"""Characters of one text that are looked at; the rest is cut off, for what is not looked at must not be shown."""

_SENSITIVE = frozenset(
    {"token", "secret", "password", "passwd", "passphrase", "pwd", "credential", "credentials", "apikey", "bearer"}
)
# `key` alone says nothing (`sort_key`); these words before it do.
_KEYS = frozenset({"api", "access", "private", "secret", "auth", "account", "signing", "encryption", "license", "ssh"})
# The tokens of tokenizers, not of services.
_VOCABULARY = frozenset(
    {"pad", "eos", "bos", "unk", "mask", "sep", "cls", "special", "stop", "end", "start", "begin", "image", "video"}
    | {"audio", "per", "next", "first", "last", "response", "loss", "boi", "eoi", "think", "extra", "unexpected"}
)
_ABOUT = frozenset(
    {"id", "ids", "type", "types", "count", "counts", "length", "len", "limit", "level", "budget", "size", "num"}
    | {"classification", "embedding", "embeddings", "weight", "weights", "idx", "index", "accuracy"}
)
_HARMLESS = re.compile(r"(?:true|false|none|null|yes|no|on|off|-?[0-9.]{1,20})", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]{1,40}(?![a-z])|[A-Z]?[a-z]{1,40}|[0-9]{1,40}")

# Both begin only where no name goes on to the left, so a long run of letters is tried once.
_NAMED = re.compile(r"""(?<![\w.\-])(?P<name>-{0,2}[A-Za-z_][\w.\-]{1,79})(?P<between>["']?\s{0,2}[=:]\s{0,2})""")
_OPTION = re.compile(r"""(?<![\w.\-])(?P<name>--?[A-Za-z_][\w.\-]{1,79})(?P<between>["']?,?\s{1,3})(?!-)""")
_VALUE = re.compile(r""""[^"\n]*"|'[^'\n]*'|(?:[^\s"',;&)\]}]|[,;)\]}](?=[^\s"']))+""")
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    # Names like hf_transfer are no secrets: a short one must have a digit.
    r"hf_(?:[A-Za-z0-9]{20,}|(?=[A-Za-z]{0,20}[0-9])[A-Za-z0-9]{8,20})"
    r"|sk-(?:[A-Za-z0-9_\-]{20,}|(?=[A-Za-z_\-]{0,20}[0-9])[A-Za-z0-9_\-]{8,20})"
    r"|gh[opsru]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_\-]{16,}"
    r"|xox[abeprs]-[A-Za-z0-9\-]{8,}"
    r"|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_\-]{35}"
    r"|eyJ[A-Za-z0-9_\-]{8,500}\.[A-Za-z0-9_\-]{8,1000}\.[A-Za-z0-9_\-]*"
    r")"
)
_BEARER = re.compile(r"(?i)(?<!\w)(?P<name>bearer|basic)(?P<between> {1,3})(?P<value>[A-Za-z0-9._~+/=\-]{16,})")
_USER_INFO = re.compile(r"(?P<before>://[^\s:/@]{0,100}:)[^\s/@]{1,500}(?=@)")


def mask(text: str) -> str:
    """The text with every secret that can be told by its name or shape replaced by `***`."""
    text = text[:LONGEST]
    text = _SHAPES.sub(MASK, text)
    text = _USER_INFO.sub(rf"\g<before>{MASK}", text)
    text = _BEARER.sub(_hide, text)
    return _hide_named(_hide_named(text, _NAMED), _OPTION)


def mask_argv(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command line whose secrets are hidden, also where name and value are two arguments."""
    shown: list[str] = []
    for at, argument in enumerate(argv):
        before = argv[at - 1] if at else ""
        follows = before.startswith("-") and "=" not in before and not argument.startswith("--")
        shown.append(mask_value(before, argument) if follows else mask(argument))
    return tuple(shown)


def mask_value(name: str, value: str) -> str:
    """The value of an option, a variable or a knob, hidden if its name says that it is a secret."""
    if is_sensitive(name) and value and not _HARMLESS.fullmatch(value):
        return MASK
    return mask(value)


def is_sensitive(name: str) -> bool:
    """Whether a name announces a secret: `HF_TOKEN`, `hubToken`, `api_key`; not `max_new_tokens`, `pad_token`."""
    words = [word.lower() for word in _WORD.findall(name[-200:])]
    neighbours = zip(["", *words], words, [*words[1:], ""], strict=False)
    return any(_announces(before, word, after) for before, word, after in neighbours)


def _announces(before: str, word: str, after: str) -> bool:
    if word == "key":
        return before in _KEYS or not (before or after)
    if word == "token" and (before in _VOCABULARY or after in _ABOUT):
        return False
    return word in _SENSITIVE or word.endswith(("token", "secret", "password", "passwd", "apikey"))


def _hide(found: re.Match[str]) -> str:
    return f"{found['name']}{found['between']}{MASK}"


def _hide_named(text: str, names: re.Pattern[str]) -> str:
    """The value after each name that announces a secret, hidden; a harmless name does not swallow the next one."""
    shown: list[str] = []
    done = 0
    for found in names.finditer(text):
        if found.start() < done or not is_sensitive(found["name"]):
            continue
        value = _VALUE.match(text, found.end())
        if value is None:
            continue
        bare = value[0].strip("\"'")
        # "key: model.layers.0" is how frameworks name a parameter.
        parameter = found["name"].lower() == "key" and ":" in found["between"]
        if not (parameter or _HARMLESS.fullmatch(bare)):
            quote = value[0][0] if value[0][0] in "\"'" else ""
            shown += [text[done : value.start()], quote, MASK, quote]
            done = value.end()
    return "".join([*shown, text[done:]])
