"""What is made of the probe's words: faults told once, Xids by their table, and where a probe is started at all."""

from dataclasses import replace

import pytest

from guardian.core import events as ev
from guardian.core.cards import Card
from guardian.core.gpus import GRAVITY
from guardian.host import gpus

CARD = Card(0, "GPU-0", ecc_uncorrected=1.0, remap_failed=False)
WALL = 5.0


def test_errors_of_the_memory_are_faults_when_they_come():
    """Not those that were counted before, nor what a card does not tell."""
    found = gpus.faults(CARD, replace(CARD, ecc_uncorrected=3.0, remap_failed=True), WALL)

    assert ["hardware", "hardware"] == [one.kind for one in found]
    assert "2 uncorrectable ECC error(s)" in found[0].text
    assert [] == gpus.faults(CARD, CARD, WALL)
    assert [] == gpus.faults(None, replace(CARD, ecc_uncorrected=3.0, remap_failed=True), WALL)
    assert [] == gpus.faults(CARD, replace(CARD, ecc_uncorrected=None, remap_failed=None), WALL)


def test_a_lost_card_is_told_once():
    """It stays lost at every further look."""
    lost = replace(CARD, lost="GPU is lost")

    assert ["lost"] == [one.kind for one in gpus.faults(CARD, lost, WALL)]
    assert ["lost"] == [one.kind for one in gpus.faults(None, lost, WALL)]
    assert [] == gpus.faults(lost, lost, WALL)


@pytest.mark.parametrize(
    "number, kind",
    [
        (13, "program"), (31, "program"), (32, "program"), (69, "program"), (94, "program"), (48, "hardware"),
        (62, "hardware"), (64, "hardware"), (74, "hardware"), (95, "hardware"), (119, "hardware"), (120, "hardware"),
        (79, "lost"), (43, "aftermath"), (45, "aftermath"), (63, "note"), (9999, "note"),
    ],
)  # fmt: skip
def test_an_xid_is_of_a_kind(number, kind):
    """Of a number that nobody has looked up nothing is concluded."""
    assert kind == gpus.meaning(number)[0]


def test_every_row_of_the_table_is_of_a_known_kind():
    """And says something."""
    rows = gpus._meanings().values()

    assert len(rows) > 20
    assert {kind for kind, _ in rows} == {*GRAVITY, "aftermath", "note"}
    assert all(says for _, says in rows)


@pytest.mark.parametrize("value", ["", "-1", " "])
def test_no_probe_is_started_for_a_job_that_may_use_no_gpu(value, tmp_path):
    """Whatever lies on the machine."""
    (tmp_path / gpus.LIBRARY).touch()
    found = {gpus.FOLDER: str(tmp_path)}

    assert gpus.expected(found)
    assert not gpus.expected(found | {"CUDA_VISIBLE_DEVICES": value})


def test_a_library_on_the_loaders_path_is_found(tmp_path, monkeypatch):
    """Elsewhere in the places where distributions put it; without one nothing is started."""
    monkeypatch.setattr(gpus, "FOLDERS", ())
    monkeypatch.setattr(gpus, "DEVICES", ())
    (tmp_path / gpus.LIBRARY).touch()

    assert gpus.expected({"LD_LIBRARY_PATH": f"/nowhere:{tmp_path}"})
    assert not gpus.expected({})


def test_a_probe_that_cannot_be_started_is_told(monkeypatch, tmp_path):
    """Once, as a source that is lost; and nobody waits for its looks."""
    said = []
    monkeypatch.setattr(gpus.sys, "executable", str(tmp_path / "no-python"))
    probe = gpus.Probe("r", said.append, silent_s=30, environment={})

    assert not probe.look(60)
    assert probe.over
    assert [gpus.SOURCE] == [one.source for one in said if isinstance(one, ev.SourceLost)]
