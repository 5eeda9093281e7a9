"""metrics.jsonl: private, bounded, gone on with, and nobody's trouble when it cannot be written."""

from __future__ import annotations

import pytest

from guardian.core.hostfacts import Sample, window
from guardian.host.metricsfile import NAME, MetricsFile, last, windows


@pytest.fixture
def path(tmp_path):
    """Where an attempt's figures go."""
    return tmp_path / NAME


def at(second, **readings):
    """The window of one sample."""
    return window(Sample(float(second), tuple((name, float(value)) for name, value in sorted(readings.items()))))


def test_windows_are_read_back_in_order_by_whoever_owns_them(path):
    """Mode 0600, a line each."""
    file = MetricsFile(path)
    file.write(at(1, x=5))
    file.write(at(2, x=6))

    assert [at(1, x=5), at(2, x=6)] == windows(path)
    assert (at(2, x=6), None) == (last(path), file.problem)
    assert 0o600 == path.stat().st_mode & 0o777


def test_another_writer_goes_on_behind_a_torn_line(path):
    """A killed guardian may have left half of one."""
    MetricsFile(path).write(at(1, x=5))
    with path.open("ab") as torn:
        torn.write(b'{"v":1,"t":2,"ser')
    assert at(1, x=5) == last(path)
    MetricsFile(path).write(at(3, x=7))

    assert [at(1, x=5), at(3, x=7)] == windows(path)


def test_it_stays_within_its_cap_and_keeps_all_of_the_time(path):
    """What is old becomes coarser, not less: the first and the highest are still there."""
    file = MetricsFile(path, cap=20_000)
    for second in range(2000):
        file.write(at(second, x=9999 if second == 7 else second))
        assert path.stat().st_size <= 20_000
    kept = windows(path)

    assert (0.0, 1999.0) == (kept[0].begun, kept[-1].until)
    assert 9999.0 == max(one.span("x").most for one in kept)
    assert 2000 == sum(one.samples for one in kept)


def test_what_cannot_be_written_is_said_and_written_again_when_it_can(path):
    """As on a full disk: no exception, a reason."""
    path.mkdir()
    file = MetricsFile(path)
    file.write(at(1, x=5))
    assert "Is a directory" == file.problem
    path.rmdir()
    file.write(at(2, x=6))

    assert (None, [at(2, x=6)]) == (file.problem, windows(path))


def test_a_link_is_not_followed(path, tmp_path):
    """Who may write into the folder shall not have us write elsewhere."""
    other = tmp_path / "other"
    other.write_text("mine")
    path.symlink_to(other)
    file = MetricsFile(path)
    file.write(at(1, x=5))

    assert file.problem is not None
    assert ("mine", [], None) == (other.read_text(), windows(path), last(path))
