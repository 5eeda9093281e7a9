"""What may be resumed from, judged from what lies in a folder."""

import json
from dataclasses import replace

import pytest

from guardian.core.checkpoints import (
    Damaged,
    FileFact,
    FolderFacts,
    Incompatible,
    Poisoned,
    Sound,
    Unknown,
    as_checkpoint,
    judge,
    step_of,
    verdict,
)

PLAIN = ("model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")
TWO_RANKS = ("rng_state_0.pth", "rng_state_1.pth")
ZERO = (
    "global_step8/mp_rank_00_model_states.pt",
    "global_step8/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    "global_step8/zero_pp_rank_1_mp_rank_00_optim_states.pt",
)
DEEPSPEED = ("latest", "scheduler.pt", "trainer_state.json", "zero_to_fp32.py", *TWO_RANKS, *ZERO)


def folder(*names, state=None, texts=(), folders=()):
    """A checkpoint-8 with these files, each whole."""
    told = json.dumps({"global_step": 8} | (state or {}))
    files = tuple(FileFact(name, 100) for name in sorted(names))
    return FolderFacts("out/checkpoint-8", 8, files, told if "trainer_state.json" in names else None, folders, texts)


def plain(*, drop=(), add=(), **more):
    """As a single process saves it."""
    return folder(*[name for name in PLAIN if name not in drop], *add, **more)


def deepspeed(*, drop=(), latest="global_step8\n"):
    """As two ranks under ZeRO save it."""
    names = [name for name in DEEPSPEED if name not in drop]
    return folder(*names, texts=(("latest", latest),) * ("latest" in names), folders=("global_step8",))


def with_file(facts, name, **seen):
    """The same, with something seen in one of its files."""
    return replace(facts, files=tuple(replace(f, **seen) if f.name == name else f for f in facts.files))


def arguments(**said):
    """An args.json."""
    return (("args.json", json.dumps(said)),)


@pytest.mark.parametrize(
    "facts",
    [
        plain(),
        plain(drop=["model.safetensors"], add=["pytorch_model.bin"]),
        plain(drop=["model.safetensors"], add=["adapter_model.safetensors", "adapter_config.json"]),
        plain(drop=["model.safetensors"], add=["policy/adapter_model.bin", "policy/adapter_config.json"]),
        plain(drop=["rng_state.pth"], add=TWO_RANKS),
        deepspeed(),
        folder("scheduler.pt", "trainer_state.json", "rng_state.pth", "pytorch_model_fsdp_0/.metadata",
               "optimizer_0/.metadata", folders=("pytorch_model_fsdp_0", "optimizer_0")),
    ],
    ids=["plain", "bin", "adapter", "named adapter", "two ranks", "deepspeed", "fsdp"],
)  # fmt: skip
def test_what_the_frameworks_save_is_sound(facts):
    """Each form that a resume knows."""
    assert Sound() == verdict(facts)


@pytest.mark.parametrize(
    "facts, why",
    [
        (plain(drop=["trainer_state.json"]), "no trainer_state.json: its save did not finish"),
        (plain(add=["checkpoint-is-incomplete.txt"]), "its save did not finish"),
        (plain(state={"global_step": 7}), "trainer_state.json says step 7, the folder says 8"),
        (plain(drop=["model.safetensors"]), "no weights"),
        (plain(drop=["optimizer.pt"]), "no optimizer.pt: a resume would reset the optimizer and the schedule"),
        (plain(drop=["scheduler.pt"]), "no scheduler.pt: a resume would reset the optimizer and the schedule"),
        (plain(drop=["rng_state.pth"]), "no rng_state.pth: a resume would draw other random numbers"),
        (plain(drop=["model.safetensors"], add=["adapter_model.bin"]), "no adapter_config.json"),
        (deepspeed(drop=["latest"]), "no latest: DeepSpeed finds no shards without it"),
        (deepspeed(latest="global_step6"), "no global_step6/*model_states.pt, which latest names"),
        (deepspeed(drop=[ZERO[2]]), "no optimizer shard of rank 1 in global_step8"),
        (deepspeed(drop=[ZERO[1]]), "no optimizer shard of rank 0 in global_step8"),
        (deepspeed(drop=ZERO[1:]), "no global_step8/*optim_states.pt: a resume would reset the optimizer"),
    ],
)
def test_what_is_missing_is_named(facts, why):
    """Whoever reads it can go and look."""
    assert Damaged(why) == verdict(facts)


def test_a_shard_that_the_index_names_must_be_there():
    """The index itself must be readable."""
    index = "model.safetensors.index.json"
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    text = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}})
    facts = plain(drop=["model.safetensors"], add=[index, *shards], texts=((index, text),))
    short = plain(drop=["model.safetensors"], add=[index, shards[0]], texts=((index, text),))

    assert Sound() == verdict(facts)
    assert Damaged(f"no {shards[1]}, which {index} names") == verdict(short)
    assert Damaged(f"{index} is cut off or damaged") == verdict(replace(facts, texts=((index, text[:9]),)))


def test_weights_alone_are_incompatible_and_not_damaged():
    """save_only_model: whole as it was meant, and no training goes on from it as it was."""
    facts = plain(drop=["optimizer.pt", "scheduler.pt", "rng_state.pth"])

    assert isinstance(verdict(facts), Incompatible)
    assert "weights only" in verdict(facts).why


@pytest.mark.parametrize(
    "facts, world, why",
    [
        (plain(), 4, "saved by 1 rank, the run has 4"),
        (plain(drop=["rng_state.pth"], add=TWO_RANKS), 1, "saved by 2 ranks, the run has 1"),
        (plain(texts=arguments(world_size=1)), 2, "saved by 1 rank, the run has 2"),
        (deepspeed(), 4, "saved by 2 ranks, the run has 4, and DeepSpeed's shards fit no other number"),
    ],
)
def test_another_number_of_ranks_is_incompatible(facts, world, why):
    """What wrote it is known from its arguments, its shards or its random states."""
    assert Incompatible(why) == verdict(facts, world)


def test_a_rank_whose_random_state_is_missing_was_cut_off():
    """Rank 0 writes the state without waiting for the others; only who knows their number sees it."""
    facts = plain(drop=["rng_state.pth"], add=TWO_RANKS)

    assert Sound() == verdict(facts)
    assert Damaged("no rng_state_2.pth: a resume would draw other random numbers") == verdict(facts, 4)
    assert isinstance(verdict(replace(facts, texts=arguments(global_world_size=4))), Damaged)


def test_a_broken_file_counts_only_if_a_resume_reads_it():
    """The arguments that torch pickled are for people."""
    facts = plain(add=["training_args.bin"])

    assert Damaged("optimizer.pt: is cut off") == verdict(with_file(facts, "optimizer.pt", broken="is cut off"))
    assert Damaged("optimizer.pt is empty") == verdict(with_file(facts, "optimizer.pt", size=0))
    ignored = verdict(with_file(facts, "training_args.bin", broken="is cut off"))
    assert Sound(("training_args.bin: is cut off",)) == ignored


def test_an_adapter_without_tensors_is_damage():
    """peft under ZeRO-3 can save one; DeepSpeed's own shards are then what counts."""
    facts = plain(drop=["model.safetensors"], add=["adapter_model.safetensors", "adapter_config.json"])

    assert Damaged("adapter_model.safetensors holds no tensor") == verdict(
        with_file(facts, "adapter_model.safetensors", empty=True)
    )


def test_numbers_that_are_none_poison_it():
    """Seen in the tensors, or in its own log, which also tells since when."""
    nan = {"log_history": [{"step": 4, "loss": 2.0}, {"step": 5, "loss": float("nan")}]}

    assert Poisoned("loss nan from step 5 on", 5) == verdict(plain(state=nan))
    assert Poisoned("optimizer.pt: NaN in exp_avg") == verdict(
        with_file(plain(), "optimizer.pt", tainted="NaN in exp_avg")
    )


def test_damage_comes_before_poison():
    """What is not whole is not asked what it says."""
    nan = {"log_history": [{"step": 5, "loss": float("nan")}]}

    assert isinstance(verdict(plain(state=nan, drop=["optimizer.pt"])), Damaged)


def test_weights_under_a_name_of_their_own_are_unknown():
    """A trainer of somebody's own may know what to do with them; guardian does not."""
    assert Unknown("no weights under a name that is known, only mine.pt") == verdict(
        plain(drop=["model.safetensors"], add=["mine.pt"])
    )


def test_a_state_too_long_to_be_read_stops_nothing():
    """A log of a million entries is no damage; it is said that nobody read it."""
    facts = replace(plain(), state=None)

    assert Sound(("trainer_state.json is too long to be read",)) == verdict(facts)


@pytest.mark.parametrize("text", ["", "[]", "nul", '{"global_step": 8', "[" * 100_000])
def test_a_state_that_is_no_state_is_damage(text):
    """Cut off, of another kind, or built to break the reader."""
    assert isinstance(verdict(replace(plain(), state=text)), Damaged)


def test_only_what_is_sound_counts_as_complete():
    """The word by which the next attempt chooses."""
    verdicts = [Sound(("x",)), Damaged("x"), Poisoned("x", 3), Incompatible("x"), Unknown("x")]
    found = [as_checkpoint("p", 8, one) for one in verdicts]

    assert [True, False, False, False, False] == [c.complete for c in found]
    assert ["sound", "damaged", "poisoned", "incompatible", "unknown"] == [c.verdict for c in found]
    assert [None, None, 3, None, None] == [c.first_bad_step for c in found]


def test_a_folder_with_a_name_of_its_own_has_the_step_of_its_state():
    """A copy that somebody keeps."""
    assert 8 == step_of(replace(plain(), step=None))
    assert (8, "sound") == (judge(replace(plain(), step=None)).step, judge(replace(plain(), step=None)).verdict)
