"""Every kind of damage, for real, on checkpoints that the embedded trainer wrote; and saves that were killed midway."""

import json
import math
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from pickle import UnpicklingError
from zipfile import ZipFile

import pytest

from guardian.host import checkpoints, inspecting
from tests.trainer.jobs import DEMO, environment, run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

JOB = Path(__file__).parents[1] / "jobs" / "saving.py"
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
SHORT = (*DEMO, "--output_dir", "out", "--save_steps", "1", "--max_steps", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Output folders of real trainings: full, LoRA, and full with two ranks; each with checkpoints 1 and 2."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("full", "lora", "two")}
    run(*SHORT, cwd=made["full"])
    run(*SHORT, "--tuner_type", "lora", cwd=made["lora"])
    run(*SHORT, cwd=made["two"], ranks=2)
    return {name: folder / "out" for name, folder in made.items()}


@pytest.fixture
def full(trained, tmp_path):
    """A checkpoint-2 to be damaged, with checkpoint-1 beside it."""
    return Path(shutil.copytree(trained["full"], tmp_path / "out")) / "checkpoint-2"


def quick(folder, world=None):
    """The judgement by headers."""
    return checkpoints.glance(str(folder), checkpoints.step_in_name(str(folder)), world)


def whole(*folders, **more):
    """The judgement by every byte, of the first; the others are there to compare with."""
    return inspecting.inspect([str(f) for f in folders], **{"deadline_s": 600} | more)[0]


def truncated(file):
    """As a kill in the middle of a write leaves it."""
    os.truncate(file, file.stat().st_size // 2)


def zeroed(file, share=0.3):
    """As a lost block of the disk leaves it: the size is right, the middle is not."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(int(size * (1 - share) / 2))
        opened.write(bytes(int(size * share)))


@pytest.mark.parametrize("world", [None, 1])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_what_the_trainer_saved_is_sound(trained, kind, world):
    """By its headers, and with every byte read."""
    for folder in trained[kind].glob("checkpoint-*"):
        for found in (quick(folder, world), whole(folder, world=world)):
            assert ("sound", True, None) == (found.verdict, found.complete, found.why)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncated, Path.unlink], ids=["truncated", "missing"])
def test_a_file_that_is_cut_off_or_missing_is_seen_at_a_glance(full, name, damage):
    """Without reading what is in it."""
    damage(full / name)

    assert ("damaged", False) == (quick(full).verdict, quick(full).complete)
    assert name in quick(full).why or "no weights" == quick(full).why
    assert "damaged" == whole(full).verdict


@pytest.mark.parametrize("name", [name for name in FILES if name != "model.safetensors"])
def test_zeros_in_the_middle_of_a_file_are_seen_when_it_is_read(full, name):
    """torch's files carry checksums, and zeros are no JSON."""
    zeroed(full / name)

    found = whole(full)
    assert "damaged" == found.verdict
    assert name in found.why


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_zeros_is_seen_at_a_glance(full, name):
    """What a power cut makes of a file whose data never reached the disk."""
    (full / name).write_bytes(bytes((full / name).stat().st_size))

    assert "damaged" == quick(full).verdict


def test_a_lost_block_that_holds_a_members_header_is_seen_at_a_glance(full):
    """Each part of a torch file has one, so that many lost blocks are seen without reading the rest."""
    file = full / "optimizer.pt"
    content = file.read_bytes()
    at = content.index(b"PK\3\4", len(content) // 2)
    file.write_bytes(content[: at - 50] + bytes(100) + content[at + 50 :])

    assert quick(full).why.startswith("optimizer.pt: is damaged before its part optimizer/data/")


def test_a_storage_that_the_pickle_names_must_be_there(full):
    """An archive that is whole in itself and lacks a tensor is no optimizer."""
    file = full / "optimizer.pt"
    with ZipFile(file) as old:
        members = {name: old.read(name) for name in old.namelist() if name != "optimizer/data/4"}
    with ZipFile(file, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)

    assert "optimizer.pt: lacks optimizer/data/4, which its data.pkl names" == whole(full).why


def test_zeros_in_the_middle_of_safetensors_are_seen_where_an_older_checkpoint_has_weights(full):
    """The format has no checksum, but training does not bring weights back to exactly zero."""
    zeroed(full / "model.safetensors", share=0.02)

    found = whole(full, full.with_name("checkpoint-1"))
    assert "damaged" == found.verdict
    assert found.why.startswith("model.safetensors: has zeros in model.")
    assert found.why.endswith("where checkpoint-1 has weights")


def test_zeros_in_safetensors_with_nothing_to_compare_are_told_and_not_judged(full):
    """Nobody knows whether they belong there, so it is said and stops nothing."""
    zeroed(full / "model.safetensors", share=0.02)

    found = whole(full)
    assert ("sound", "sound") == (quick(full).verdict, found.verdict)
    assert "no checksum to tell if they belong there" in found.why


def with_number(folder, name, number, dtype):
    """The model with one number replaced, its tensors of a type."""
    from safetensors.torch import load_file, save_file

    tensors = {k: v.to(dtype) for k, v in load_file(folder / name).items()}
    last = max(tensors)
    tensors[last].view(-1)[-1] = number
    save_file(tensors, folder / name)
    return last


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("number, said", [(math.nan, "NaN"), (-math.inf, "infinite numbers")])
def test_one_number_that_is_none_poisons_a_model(full, dtype, number, said):
    """The last one of the last tensor, in every type that weights come in."""
    name = with_number(full, "model.safetensors", number, dtype)

    found = whole(full)
    assert ("poisoned", False, f"model.safetensors: {said} in {name}") == (found.verdict, found.complete, found.why)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_largest_and_smallest_numbers_are_numbers(full, dtype):
    """The exponent is one short of infinity's."""
    with_number(full, "model.safetensors", torch.finfo(dtype).max, dtype)
    assert "sound" == whole(full).verdict
    with_number(full, "model.safetensors", torch.finfo(dtype).smallest_normal / 2, dtype)
    assert "sound" == whole(full).verdict


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_in_the_optimizer_poisons_without_torch(full, dtype):
    """Adam's averages stay NaN for ever, whatever the weights are."""
    state = torch.load(full / "optimizer.pt", weights_only=True)
    state["state"][3]["exp_avg"] = state["state"][3]["exp_avg"].to(dtype)
    state["state"][3]["exp_avg"].view(-1)[7] = math.nan
    torch.save(state, full / "optimizer.pt")

    assert ("poisoned", "optimizer.pt: NaN in exp_avg") == (whole(full).verdict, whole(full).why)


def test_minus_infinity_in_an_attention_mask_is_no_poison(full):
    """Some models save their mask; a NaN in it would be one."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(full / "model.safetensors") | {"attn.mask": torch.full((8, 8), -math.inf)}
    save_file(tensors, full / "model.safetensors")

    assert "sound" == whole(full).verdict


def in_old_form(folder, number=0.5):
    """The weights as a torch before 1.6 wrote them."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors[max(tensors)].view(-1)[-1] = number
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    return max(tensors)


def test_torchs_old_form_is_read_by_the_jobs_own_python(full):
    """It has no directory; without a Python that has torch it is told that nobody read it."""
    name = in_old_form(full, math.nan)

    unread = whole(full)
    assert ("sound", "sound") == (quick(full).verdict, unread.verdict)
    assert "pytorch_model.bin: not scanned: in torch's old form, and no Python with torch is known" == unread.why
    found = whole(full, interpreter=sys.executable)
    assert ("poisoned", f"pytorch_model.bin: NaN in {name}") == (found.verdict, found.why)


def test_torchs_old_form_is_read_whole_or_called_damaged(full):
    """Sound when it is, and damage when it was cut off."""
    in_old_form(full)

    assert ("sound", None) == (
        whole(full, interpreter=sys.executable).verdict,
        whole(full, interpreter=sys.executable).why,
    )
    truncated(full / "pytorch_model.bin")
    assert "damaged" == whole(full, interpreter=sys.executable).verdict


@pytest.mark.parametrize("interpreter", ["/nowhere/python", "/bin/false"])
def test_a_python_that_cannot_be_run_means_not_scanned(full, interpreter):
    """It is said, and stops nothing."""
    in_old_form(full)

    found = whole(full, interpreter=interpreter)
    assert "sound" == found.verdict
    assert f"not scanned: in torch's old form: {interpreter}" in found.why


def test_a_pickle_that_would_act_is_not_carried_out(full, tmp_path):
    """Neither by guardian nor by the Python that has torch."""

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"w": torch.ones(3), "trap": Trap()}, full / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    torch.save({"state": {}, "trap": Trap()}, full / "optimizer.pt")

    found = whole(full, interpreter=sys.executable)
    assert "not scanned" in found.why
    assert not (tmp_path / "sprung").exists()


def test_a_checkpoint_of_two_ranks_fits_two(trained, tmp_path):
    """Another number is incompatible; a rank whose random state is missing was cut off."""
    folder = trained["two"] / "checkpoint-2"
    cut = Path(shutil.copytree(folder, tmp_path / "checkpoint-2"))
    (cut / "rng_state_1.pth").unlink()

    assert ["sound", "incompatible", "incompatible"] == [quick(folder, world).verdict for world in (2, 1, 4)]
    assert "saved by 2 ranks, the run has 4" == quick(folder, 4).why
    assert ("damaged", "damaged") == (quick(cut).verdict, quick(cut, 2).verdict)


def test_an_adapter_needs_its_configuration_and_its_tensors(trained, tmp_path):
    """peft cannot load it without; one that holds nothing would silently begin anew."""
    from safetensors.torch import save_file

    folder = Path(shutil.copytree(trained["lora"] / "checkpoint-2", tmp_path / "checkpoint-2"))
    save_file({}, folder / "adapter_model.safetensors")
    assert "adapter_model.safetensors holds no tensor" == quick(folder).why
    (folder / "adapter_config.json").unlink()
    assert "no adapter_config.json" == quick(folder).why


def sharded(folder):
    """The model in two files and their index, as a large one is saved."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {name: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, name in enumerate(sorted(tensors))}
    for part in set(parts.values()):
        save_file({name: tensors[name] for name in tensors if parts[name] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    return folder / "model-00002-of-00002.safetensors"


@pytest.mark.parametrize("damage", [truncated, Path.unlink], ids=["truncated", "missing"])
def test_a_sharded_model_is_as_whole_as_each_shard(full, damage):
    """The index tells which there must be."""
    shard = sharded(full)
    assert ("sound", "sound") == (quick(full).verdict, whole(full).verdict)

    damage(shard)
    assert "damaged" == quick(full).verdict
    assert shard.name in quick(full).why


@pytest.fixture
def zero(trained, tmp_path):
    """What two ranks save under DeepSpeed ZeRO-1: its engine's folder and names, around torch files of a real run.

    (DeepSpeed's engine compiles for minutes before its first save; names and layout are those of its engine.py.)
    """
    folder = Path(shutil.copytree(trained["two"] / "checkpoint-2", tmp_path / "checkpoint-2"))
    shards = folder / "global_step2"
    shards.mkdir()
    (folder / "args.json").unlink()  # our trainer's own, which tells the number of ranks
    (folder / "latest").write_text("global_step2")
    (folder / "zero_to_fp32.py").touch()
    torch.save({"module": None, "dp_world_size": 2}, shards / "mp_rank_00_model_states.pt")
    for rank in range(2):
        shutil.copy(folder / "optimizer.pt", shards / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder / "optimizer.pt").unlink()
    return folder


def test_a_deepspeed_checkpoint_fits_the_ranks_that_saved_it(zero):
    """ZeRO's shards fit no other number."""
    assert ["sound", "sound", "incompatible"] == [quick(zero, world).verdict for world in (None, 2, 1)]
    assert "sound" == whole(zero).verdict


@pytest.mark.parametrize("damage", [truncated, Path.unlink, zeroed])
@pytest.mark.parametrize(
    "name", ["mp_rank_00_model_states.pt", *[f"zero_pp_rank_{r}_mp_rank_00_optim_states.pt" for r in range(2)]]
)
def test_each_shard_of_deepspeed_counts(zero, name, damage):
    """A resume needs all of them."""
    damage(zero / "global_step2" / name)

    assert "damaged" == whole(zero, world=2).verdict


def test_nan_in_a_deepspeed_shard_poisons_without_torch(zero):
    """Its pickles hold objects of DeepSpeed, which are not needed to read the numbers."""
    shard = zero / "global_step2" / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    state = torch.load(shard, weights_only=True)
    state["state"][0]["exp_avg_sq"].view(-1)[0] = math.nan
    torch.save({"config": Namespace(stage=1), "optimizer_state_dict": state}, shard)
    with pytest.raises(UnpicklingError):
        torch.load(shard, weights_only=True)

    assert "poisoned" == whole(zero).verdict


def test_a_checkpoint_whose_own_log_ends_in_nan_is_poisoned_at_a_glance(full):
    """With the step from which on it is."""
    state = json.loads((full / "trainer_state.json").read_text())
    state["log_history"] = [{"step": 1, "loss": 2.0, "grad_norm": 1.0}, {"step": 2, "loss": math.nan, "grad_norm": 1.0}]
    (full / "trainer_state.json").write_text(json.dumps(state))

    assert ("poisoned", 2) == (quick(full).verdict, quick(full).first_bad_step)


# --- the reading itself --------------------------------------------------------------------------------------------


def test_without_time_it_is_judged_by_headers_and_told_to_be_unread(full):
    """Bounded: what was not looked into is no reason to stop."""
    found = whole(full, deadline_s=0)

    assert "sound" == found.verdict
    assert "model.safetensors: not scanned: out of time" in found.why


def test_who_stops_it_gets_what_is_known(full):
    """Between two pieces of a file."""
    asked = []
    found = whole(full, stop=lambda: len(asked) > 3 or asked.append(1))

    assert "sound" == found.verdict
    assert "not scanned: interrupted" in found.why


def test_progress_ends_with_all_that_is_to_be_read(full):
    """It never goes back."""
    seen = []
    whole(full, progress=seen.append)

    assert [p.done for p in seen] == sorted(p.done for p in seen)
    size = sum(f.stat().st_size for f in full.iterdir() if f.suffix in (".safetensors", ".pt", ".pth", ".bin"))
    assert 0.95 * size < seen[-1].done <= seen[-1].total == size


def test_the_newest_are_read_first_and_older_ones_only_if_needed(full):
    """A relaunch waits for no more than it must."""
    read = []
    paths = [str(full.with_name(f"checkpoint-{step}")) for step in (1, 2)]
    found = inspecting.inspect(paths, deadline_s=600, until_sound=True, progress=lambda p: read.append(p.path))

    assert [1, 2] == [c.step for c in found]
    assert {"checkpoint-2"} == {Path(path).parent.name for path in read}


def test_a_folder_that_vanishes_while_it_is_read_is_unknown(full):
    """The job's rotation does not wait for us."""
    found = whole(full, progress=lambda _: shutil.rmtree(full, ignore_errors=True))

    assert ("unknown", False) == (found.verdict, found.complete)


def test_any_altered_byte_of_a_torch_file_is_damage_or_of_no_consequence(full):
    """Sound is said only of what torch reads as before: padding, dates and the like; its whole directory is tried."""
    file = full / "scheduler.pt"
    before, content = torch.load(file, weights_only=True), file.read_bytes()
    directory = content.index(b"PK\1\2")
    for at in (*range(0, directory, 7), *range(directory, len(content))):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        if whole(full).complete:
            assert before == torch.load(file, weights_only=True), at


# --- saves that were cut off ---------------------------------------------------------------------------------------


def contents(folder):
    """Every file by name; of those that name their folder, or hold what Python draws anew in a fork, the name alone."""
    files = folder.iterdir() if folder.is_dir() else ()
    differing = {"training_args.bin", "rng_state.pth"}
    return {file.name: b"" if file.name in differing else file.read_bytes() for file in files}


@pytest.mark.parametrize("kills, seed", [(20, 5), pytest.param(100, 6, marks=pytest.mark.long)])
def test_a_save_in_place_killed_at_any_moment_is_whole_or_passed_over(tmp_path, kills, seed):
    """A plain HF Trainer; what is called sound is what an undisturbed save leaves, byte for byte, and nothing else is."""
    command = [sys.executable, str(JOB), str(tmp_path / "out"), str(kills), str(seed)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=540, check=False)
    assert 0 == done.returncode, done.stderr[-3000:]
    saved = contents(tmp_path / "out" / "checkpoint-2")
    for number in range(kills):
        folder = tmp_path / f"out-killed-{number}" / "checkpoint-2"
        found = checkpoints.scan(str(folder.parent))
        left = contents(folder)
        assert [c.complete for c in found] == ([saved == left] if folder.is_dir() else []), (sorted(left), found)
