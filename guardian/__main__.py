"""`python -m guardian` is the same program as the `guardian` command."""

from __future__ import annotations

if __name__ == "__main__":
    try:
        from guardian.cli.main import entry

        entry()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # in the middle of an import
