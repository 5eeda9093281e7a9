"""What holds for every family: no command line breaks it, and what it writes it reads back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from guardian.core.adapters import recognise
from guardian.core.job import KNOBS
from guardian.errors import UserError

STARTS = (
    "sft", "swift sft", "NPROC_PER_NODE=2 swift sft", "swift rlhf --rlhf_type grpo", "swift sft c.json",
    "llamafactory-cli train", "llamafactory-cli train c.json", "megatron sft --tuner_type lora", "trl sft",
    "torchrun --nproc_per_node 2 train.py --output_dir out --num_train_epochs 1", "python train.py c.json",
)  # fmt: skip
NAMES = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_num_workers", "micro_batch_size",
    "dataloader_prefetch_factor", "dataloader_pin_memory", "no_dataloader_pin_memory", "deepspeed", "bf16", "config",
    "warmup_ratio", "warmup_steps", "output_dir", "resume_from_checkpoint", "sequence_parallel_size", "torch_dtype",
)  # fmt: skip
VALUES = st.sampled_from(["1", "2", "3", "8", "0", "-1", "true", "false", "0.1", "x", "zero2", "c.json", "", "{}", "{"])
OPTIONS = st.tuples(st.sampled_from(NAMES), VALUES, st.booleans()).map(
    lambda o: (f"--{o[0]}={o[1]}",) if o[2] else (f"--{o[0]}", o[1])
)
ODD = st.sampled_from([("--",), ("-1",), ("-x", "y"), ("a=b",), ("--bf16",), ("seed=1",)])
ARGVS = st.tuples(st.sampled_from(STARTS), st.lists(st.one_of(OPTIONS, ODD), max_size=5)).map(
    lambda p: (*p[0].split(), *(word for part in p[1] for word in part))
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "device_batch": st.sampled_from([1, 2, 4]), "accumulation": st.sampled_from([1, 2, 8]),
        "workers": st.sampled_from([0, 1, 4]), "prefetch": st.sampled_from([1, 4]), "pin_memory": st.booleans(),
        "eval_batch": st.sampled_from([1, 2]), "gradient_checkpointing": st.booleans(),
        "learning_rate": st.sampled_from([1e-6, 2.5e-5]), "save_total_limit": st.just(3),
    },
)  # fmt: skip
FILE = {"per_device_train_batch_size": 2, "output_dir": "o", "save_steps": 5, "train_batch_size": 4, "lr": None}


def read(path):
    """The one file that there is."""
    if path != "c.json":
        raise UserError(f"{path}: no such file")
    return FILE


@settings(derandomize=True, max_examples=400)
@given(ARGVS, SETTINGS)
def test_what_is_written_is_read_back(argv, wanted):
    """Each edit of a knob is the knob's value in the new command; the others keep theirs, unless they go with it."""
    made = recognise(argv, {}, read)
    if made is None:
        return
    new = made.write(argv, wanted)
    if any("{overlays}" in word for word in new.argv):
        return  # a file that is not there yet
    after = recognise(new.argv, {}, read)
    edited = {edit.knob for edit in new.edits}
    refused = {knob for knob, _ in new.refused}

    assert after is not None
    assert {k: wanted[k] for k in edited & wanted.keys() & set(KNOBS)} == {
        k: after.spec.knob(k) for k in edited & wanted.keys() & set(KNOBS)
    }
    assert not edited & refused
    untouched = set(KNOBS) - edited - {"accumulation", "prefetch"}
    assert {k: made.spec.knob(k) for k in untouched} == {k: after.spec.knob(k) for k in untouched}
    assert not any(edit.kind == "changing" for edit in new.edits if edit.knob == "device_batch") or (
        wanted.keys() >= {"device_batch", "accumulation"}
    )


@settings(derandomize=True, max_examples=300)
@given(ARGVS, st.sampled_from(["/w/o/checkpoint-5", None]), st.sampled_from(["/w/o", "/w/elsewhere", None]))
def test_a_resume_is_read_back(argv, checkpoint, folder):
    """The checkpoint is the one that the new command names; from the beginning it names none; what counts else stays."""
    made = recognise(argv, {}, read)
    if made is None or made.family == "megatron":  # whose checkpoint has another name in each version
        return
    after, _ = made.resume(argv, checkpoint, folder)
    again = recognise(after, {}, read)

    assert again is not None
    if checkpoint is not None:
        assert checkpoint == again.spec.knob("resume_from")
    elif folder is not None:
        assert again.spec.knob("resume_from") in (None, "", "null")
    same = set(KNOBS) - {"resume_from", "output_dir"}
    assert {k: made.spec.knob(k) for k in same} == {k: again.spec.knob(k) for k in same}
