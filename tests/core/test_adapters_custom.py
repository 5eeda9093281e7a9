"""A program of no family, edited and resumed in the words that its user has written down."""

import pytest

from guardian.core.adapters import recognise
from guardian.core.events import Edit
from guardian.errors import UserError
from guardian.host.configs import read_config

CKPT = "/w/out/checkpoint-5"
FILE = """
[knobs]
device_batch = "--bs"
accumulation = "--accum"
learning_rate = "--lr"
workers = "--workers"
resume_from = "--resume"
output_dir = "--out"

[values]
accumulation = 2
"""


def words(text):
    """A command line without blanks in its words."""
    return tuple(text.split())


@pytest.fixture
def adapter(tmp_path):
    """What understands a command that a file describes."""

    def made(text, file=FILE):
        (tmp_path / "c.toml").write_text(file)
        return recognise(words(text), {"GUARDIAN_COMMAND_FILE": str(tmp_path / "c.toml")}, read_config)

    return made


def test_it_is_read_as_the_file_says(adapter):
    """What the command leaves out is what the file gives; what neither gives is unknown."""
    spec = adapter("torchrun --nproc_per_node 2 train.py --bs 8 --lr 1e-4").spec

    assert ("described", 8, 2, 2, 32, 1e-4, None) == (
        spec.family,
        *map(spec.knob, ("device_batch", "accumulation", "world_size")),
        spec.effective_batch,
        *map(spec.knob, ("learning_rate", "workers")),
    )


def test_it_is_edited_and_resumed_in_its_own_words(adapter):
    """What the file does not name is refused."""
    argv = words("bash train.sh --bs 8 --out out")
    made = adapter(" ".join(argv))
    new = made.write(argv, {"device_batch": 4, "eval_batch": 1})
    after, edits = made.resume(new.argv, CKPT, "/w/out")

    assert words(f"bash train.sh --bs 4 --out out --accum 4 --resume {CKPT}") == after
    assert ["eval_batch"] == [knob for knob, _ in new.refused]
    assert (Edit("resume_from", None, CKPT, "resume"),) == edits
    assert argv == made.resume((*argv, "--resume", CKPT), None, None)[0]


def test_programs_that_read_pairs_are_written_in_pairs(adapter):
    """As Hydra and OmegaConf read them."""
    argv = words("python train.py trainer.bs=8 seed=1")
    made = adapter(
        " ".join(argv), '[knobs]\ndevice_batch = "trainer.bs="\naccumulation = "accum="\n[values]\naccumulation = 1\n'
    )

    assert words("python train.py trainer.bs=4 seed=1 accum=2") == made.write(argv, {"device_batch": 4}).argv


@pytest.mark.parametrize(
    "file, why",
    [
        ("", "needs a table"),
        ('[knobs]\ndevice_bach = "--bs"\n', "did you mean device_batch"),
        ('[knobs]\ndevice_batch = "-b"\n', "all written"),
        ('[knobs]\ndevice_batch = "--bs"\nworkers = "w="\n', "all written"),
        ('[knobs]\ndevice_batch = "--bs"\n[values]\nworkers = [1]\n', "workers: is neither"),
        ("[knobs\n", "is not TOML"),
    ],
)
def test_a_file_that_is_wrong_says_where(adapter, file, why):
    """Before anything is started."""
    with pytest.raises(UserError, match=why):
        adapter("python train.py", file)


def test_a_described_command_comes_before_what_it_looks_like(adapter):
    """The user knows his program."""
    assert "described" == adapter("swift sft --bs 8").family
    assert "embedded" == adapter("sft --model m").family
