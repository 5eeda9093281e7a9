"""What was not given is filled in by ms-swift's rules, and contradictions are refused before anything slow."""

from __future__ import annotations

import pytest
from guardian.trainer.launch import Group, group_from, torchrun_command
from guardian.trainer.settings import decide

from guardian.errors import UserError
from tests.trainer.checkpoint_folders import whole_checkpoint

GIVEN = {"model": "owner/name", "dataset": ("demo",)}


@pytest.mark.parametrize(
    "batch,ranks,accumulation",
    [(1, 1, 16), (4, 1, 4), (4, 2, 2), (3, 1, 6), (16, 1, 1), (32, 1, 1), (5, 2, 2)],
)
def test_an_accumulation_that_is_left_out_makes_sixteen_rows_or_more(batch, ranks, accumulation):
    """max(1, ceil(16 / (batch x ranks)))."""
    settings = decide({**GIVEN, "per_device_train_batch_size": batch}, Group(ranks))

    assert (accumulation, batch * accumulation * ranks) == (
        settings["gradient_accumulation_steps"],
        settings.effective_batch,
    )


def test_the_defaults_are_those_of_ms_swift():
    """For adapters on a model that is not the demo."""
    settings = decide(GIVEN, Group())
    expected = {
        "tuner_type": "lora",
        "learning_rate": 1e-4,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "seed": 42,
        "data_seed": 42,
        "save_steps": 500,
        "eval_steps": 500,
        "logging_steps": 5,
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ("all-linear",),
        "gradient_checkpointing": True,
        "num_train_epochs": 3.0,
        "max_steps": -1,
        "eval_strategy": "no",
    }

    assert expected == {name: settings[name] for name in expected}
    assert ("output/name", True) == (str(settings.output_dir), settings.versioned)
    assert 1e-5 == decide({**GIVEN, "tuner_type": "full"}, Group())["learning_rate"]


def test_what_counts_only_with_workers_goes_with_them():
    """A command that is given anew without its workers need not be given without these."""
    loading = {"dataloader_prefetch_factor": 4, "dataloader_persistent_workers": True}
    names = tuple(loading)
    with_workers, without = (decide({**GIVEN, **loading, "dataloader_num_workers": n}, Group()) for n in (2, 0))

    assert [(4, True), (None, False)] == [tuple(each[name] for name in names) for each in (with_workers, without)]


def test_the_demo_ends_soon_unless_the_user_says_how_long():
    """What the user gives stays, and what the demo changed is remembered for the log."""
    demo = decide({"model": "demo", "dataset": ("demo",), "learning_rate": 0.5}, Group())
    longer = decide({"model": "demo", "dataset": ("demo",), "num_train_epochs": 1.0}, Group())

    assert (200, 20, "full", 0.5) == tuple(
        demo[name] for name in ("max_steps", "save_steps", "tuner_type", "learning_rate")
    )
    assert ("learning_rate" in demo.demo_defaults, "max_steps" in demo.demo_defaults) == (False, True)
    assert -1 == longer["max_steps"]


@pytest.mark.parametrize(
    "given,message",
    [
        ({"model": None}, "--model: needed"),
        ({"dataset": None}, "--dataset: needed"),
        ({"model": "./no/such"}, "--model ./no/such: no such folder"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "--warmup_ratio and --warmup_steps: give one"),
        ({"warmup_ratio": 1.5}, "--warmup_ratio 1.5: is a share"),
        ({"early_stop_interval": 2}, "--early_stop_interval: needs rows to evaluate on"),
        ({"load_best_model_at_end": True}, "--load_best_model_at_end: needs rows to evaluate on"),
        ({"eval_strategy": "steps"}, "--eval_strategy steps: there are no rows for it"),
        ({"split_dataset_ratio": 1.0}, "--split_dataset_ratio 1.0: is a share"),
        (
            {"resume_from_checkpoint": "no/checkpoint-1"},
            "--resume_from_checkpoint no/checkpoint-1: there is no such folder",
        ),
        (
            {"resume_from_checkpoint": "true", "output_dir": "no"},
            "--resume_from_checkpoint true: no complete checkpoint under no",
        ),
        ({"columns": "rows.json"}, "--columns: must be an object"),
    ],
)
def test_a_contradiction_is_refused(given, message):
    """One line that names the argument."""
    with pytest.raises(UserError) as caught:
        decide({**GIVEN, **given}, Group())

    assert str(caught.value).startswith(message)


def test_a_deepspeed_configuration_is_a_name_or_a_json_file(tmp_path):
    """Looked at before DeepSpeed is imported."""
    pytest.importorskip("deepspeed")
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 1}}')
    (tmp_path / "bad.json").write_text("{")
    stages = [
        decide({**GIVEN, "deepspeed": name}, Group()).deepspeed for name in ("zero3_offload", str(tmp_path / "ds.json"))
    ]

    assert [3, 1] == [each["zero_optimization"]["stage"] for each in stages]
    with pytest.raises(UserError, match="--deepspeed zero9: no such file"):
        decide({**GIVEN, "deepspeed": "zero9"}, Group())
    with pytest.raises(UserError, match="is not JSON"):
        decide({**GIVEN, "deepspeed": str(tmp_path / "bad.json")}, Group())


def test_a_folder_without_a_model_is_refused(tmp_path):
    """Its configuration is what makes a folder a model."""
    with pytest.raises(UserError, match=r"holds no config\.json"):
        decide({**GIVEN, "model": str(tmp_path)}, Group())


def test_a_resumed_run_goes_on_where_its_checkpoint_lies(tmp_path):
    """In the version that it belongs to; elsewhere a new version is made, and what was given counts."""
    inside = whole_checkpoint(tmp_path / "out" / "v0-20260101-000000", step=5)
    outside = whole_checkpoint(tmp_path / "kept", step=9)

    def place(**given):
        settings = decide({**GIVEN, "output_dir": str(tmp_path / "out"), **given}, Group())
        return settings.resume_from, settings.output_dir, settings.versioned

    assert (inside, inside.parent, False) == place(resume_from_checkpoint="true")
    assert (outside, tmp_path / "out", True) == place(resume_from_checkpoint=str(outside))
    assert (inside, tmp_path / "out", True) == place(resume_from_checkpoint=str(inside), add_version=True)


def test_ranks_are_read_from_the_environment():
    """A rank that a launcher started asks for no launcher."""
    assert (1, False) == (group_from({}).world_size, group_from({"NPROC_PER_NODE": "1"}).needs_launcher)
    assert (4, True) == (
        group_from({"NPROC_PER_NODE": "2", "NNODES": "2"}).world_size,
        group_from({"NNODES": "2"}).needs_launcher,
    )
    member = group_from({"NPROC_PER_NODE": "2", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    assert (4, False) == (member.world_size, member.needs_launcher)
    with pytest.raises(UserError, match="NPROC_PER_NODE=two"):
        group_from({"NPROC_PER_NODE": "two"})


def test_the_launcher_gets_our_argv_as_it_came():
    """Only torchrun's own options stand before it; a port that was given is used."""
    argv = ["sft", "--model", "demo", "--system", "a b"]
    command = torchrun_command(argv, Group(2), {"MASTER_PORT": "123"})
    options = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "123", "-m", "guardian.trainer"]

    assert [*options, *argv] == command[1:]
    assert 1024 < int(torchrun_command(argv, Group(2), {})[6]) < 65536
