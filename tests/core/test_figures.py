"""The host's figures in a person's words."""

import pytest

from guardian.core.figures import at_the_end, disk, latest, memory
from guardian.core.hostfacts import Span, Window


@pytest.mark.parametrize(
    "known, words",
    [
        ({"tree_pss_mib": 12_600.0, "memory_limit_mib": 16_384.0}, "12.3 GiB, the limit is 16.0 GiB"),
        ({"tree_pss_mib": 300.0}, "300 MiB"),
        ({"tree_pss_mib": 300.0, "tree_peak_mib": 400.0}, "400 MiB"),
        (
            {"tree_pss_mib": 300.0, "memory_limit_mib": 512.0, "memory_full_in_s": 3600.0},
            "300 MiB, the limit is 512 MiB, reached in 1 h at this rate",
        ),
        ({"memory_limit_mib": 512.0}, None),
    ],
)
def test_memory_is_told_against_its_limit(known, words):
    """What is unknown is left out."""
    assert words == memory(known)


@pytest.mark.parametrize(
    "known, words",
    [
        ({"disk_free_mib": 3200.0, "disk_full_in_s": 7800.0}, "3.1 GiB free, full in 2 h 10 min at this rate"),
        ({"disk_free_mib": 3200.0}, None),
        ({"disk_free_mib": 100.0}, "100 MiB free"),
        ({}, None),
    ],
)
def test_the_disk_is_told_of_where_it_is_short_or_fills(known, words):
    """Else it is nobody's news."""
    assert words == disk(known)


def test_of_a_living_job_the_last_values_count_and_when_that_was():
    """Of a window; none tells nothing."""
    one = Window(1.0, 9.0, 2, (("load", Span(1.0, 2.0, 3.0, 2.5)), ("oom_kills", Span(0.0, 0.0, 0.0, 0.0))))

    assert {"at": 9.0, "load": 2.5} == latest(one)
    assert {} == latest(None)


def test_of_an_attempt_that_ended_its_facts_are_taken():
    """Those that are figures."""
    assert {"tree_peak_mib": 5.0} == at_the_end({"tree_peak_mib": 5.0, "oom_victim": "rank", "oom_kills": 1.0})
