"""One file per command, its parser and its handler together."""
