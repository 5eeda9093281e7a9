"""Samples become windows, windows become lines of metrics.jsonl and facts."""

import math

import pytest

from guardian.core.hostfacts import (
    MEMBERS_MOST,
    Member,
    Sample,
    Span,
    Window,
    decode,
    encode,
    end_of,
    facts,
    is_full,
    joined,
    readable,
    thinned,
    together,
    window,
)


def sampled(*values, name="x", begin=100.0):
    """The window of one series' values, a second apart."""
    found = None
    for second, value in enumerate(values):
        found = joined(found, window(Sample(begin + second, ((name, float(value)),))))
    return found


def test_a_window_keeps_the_least_the_mean_the_most_and_the_last():
    """Of each series, by the samples that have it."""
    assert Span(1.0, 3.0, 6.0, 2.0, 3) == sampled(1, 6, 2).span("x")


def test_a_series_that_not_every_sample_has_is_the_mean_of_those_that_do():
    """Costly readings are taken more seldom: what is missing is no zero."""
    both = joined(window(Sample(1.0, (("a", 2.0), ("b", 5.0)))), window(Sample(2.0, (("a", 4.0),))))

    assert (3.0, 5.0) == (both.span("a").mean, both.span("b").mean)
    assert both.span("c") is None


@pytest.mark.parametrize("share, lasts_s, full", [(0.5, 9, False), (0.5, 10, True), (0.95, 1, False), (0.95, 2, True)])
def test_near_the_limit_windows_are_short(share, lasts_s, full):
    """Whoever is about to die with its watchers leaves its last seconds behind."""
    assert full == is_full(sampled(*[share] * (lasts_s + 1), name="memory_share"))


def test_only_names_and_numbers_are_kept():
    """Any name that is a name; what is no number is unknown."""
    given = {"gpu.0.used_mib": 5, "load": math.nan, "Token=hf_x": 1.0, "": 1.0, "a" * 65: 1.0, "up": math.inf}

    assert (("gpu.0.used_mib", 5.0),) == readable(given)


def test_a_line_is_read_back_as_it_was_written():
    """To six digits."""
    tree = (Member(7, 9, "rank", 1, 512.25), Member(8, 9, "worker", 7, None))
    one = Window(100.0, 110.0, 4, (("x", Span(1.0, 2.5, 4.0, 3.0, 4)),), tree, "32:7")

    assert one == decode(encode(one))


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", '{"v":2}', '{"v":1,"t":1}', '{"v":1,"t":1,"s":1,"n":1,"series":{"x":[1]},"tree":[]}'],
)
def test_what_is_no_window_is_passed_over(line):
    """Torn, damaged, or of a later version."""
    assert decode(line) is None


def test_a_line_names_the_largest_processes_only():
    """However many there are, it stays short."""
    crowd = tuple(Member(pid, 1, "worker", 1, float(pid)) for pid in range(1000))
    one = decode(encode(Window(0.0, 1.0, 1, (), crowd)))

    assert MEMBERS_MOST == len(one.tree)
    assert 999 == one.tree[0].pid


def test_the_end_is_the_last_seconds_however_short_its_windows():
    """What was most before the job fell is not lost to a window that began afterwards."""
    windows = [sampled(9, begin=100.0), sampled(7, begin=111.0), sampled(1, begin=113.0)]

    assert Span(1.0, 4.0, 7.0, 1.0, 2) == end_of(windows, 10).span("x")
    assert end_of([], 10) is None


def test_thinned_windows_still_hold_all_extremes():
    """Half as many lines, the same time, the same least and most."""
    windows = [sampled(n, n + 1, begin=100.0 + 10 * n) for n in range(5)]
    kept = thinned(windows)

    assert [(100.0, 111.0), (120.0, 131.0), (140.0, 141.0)] == [(one.begun, one.until) for one in kept]
    assert (0.0, 2.0, 1.0) == (kept[0].span("x").least, kept[0].span("x").most, kept[0].span("x").mean)


def test_facts_are_the_worst_of_the_last_seconds():
    """Of room the least, of use the most; what nobody asks for is left out."""
    one = Window(
        0.0,
        9.0,
        3,
        (
            ("disk_free_mib", Span(5.0, 6.0, 9.0, 9.0)),
            ("gpu.0", Span(1.0, 1.0, 1.0, 1.0)),
            ("load", Span(1.0, 2.0, 3.0, 2.5)),
            ("tree_pss_mib", Span(5.0, 6.0, 9.0, 5.0)),
        ),
    )

    assert {"disk_free_mib": 5.0, "load": 2.5, "tree_pss_mib": 9.0} == facts(one)
    assert {} == facts(None)


def test_what_is_measured_afterwards_does_not_hide_what_was_short():
    """A job that died has given its memory back."""
    before = {"shm_free_mib": 0.0, "tree_pss_mib": 900.0, "memory_peak_mib": 950.0}
    after = {"shm_free_mib": 64.0, "memory_peak_mib": 960.0, "host_memory_mib": 4096.0}

    assert {
        "shm_free_mib": 0.0,
        "tree_pss_mib": 900.0,
        "memory_peak_mib": 960.0,
        "host_memory_mib": 4096.0,
    } == together(before, after)
