"""Words of strangers made fit for a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardian.ui.text import clean, duration, narrow


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone", "gone"),
        ("a\r\nb\tc", "a b c"),
        ("bell\x07 null\x00", "bell? null?"),
        ("\u202eevil\u200b", "?evil?"),
        ("\ud800", "?"),
        ("täglich 12 °C █", "täglich 12 °C █"),
        ("x" * 300, "x" * 199 + "…"),
    ],
)
def test_a_text_becomes_one_short_line_that_drives_nothing(text, shown):
    """Sequences go, other controls show, the rest stays as it is."""
    assert shown == clean(text)


@given(st.text())
def test_any_text_is_printable_once_cleaned(text):
    """And can be written as UTF-8."""
    shown = clean(text, 50)

    assert len(shown) <= 50
    assert all(c.isprintable() for c in shown)
    assert shown == shown.encode("utf-8").decode("utf-8")


def test_a_narrow_encoding_gets_words_for_signs():
    """An arrow is two characters, an unknown letter a question mark."""
    assert "8 -> 4..., ?" == narrow("8 → 4…, é", "ascii")
    assert "8 -> 4..., é" == narrow("8 → 4…, é", "latin-1")
    assert "8 → 4…, é" == narrow("8 → 4…, é", "utf-8")


@pytest.mark.parametrize(
    "seconds, words",
    [
        (None, "?"),
        (0.4, "0 s"),
        (59.6, "1 min 00 s"),
        (133, "2 min 13 s"),
        (32_700, "9 h 05 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds, words):
    """What a person would say."""
    assert words == duration(seconds)
