"""What a training is made of, read off the trainer itself, and changed there before the trainer is made.

For commands that guardian cannot read: `bash train.sh`, a script whose arguments are written in it, a parser of its
own. What would not be changed by changing an argument is named with its reason and left alone.
"""

import argparse
import contextlib
import functools
import json
import os
import sys

RESUME = "--resume_from_checkpoint"
WORDS_MOST, WORD_MOST = 64, 200
READERS = ("transformers", "swift", "trl", "llamafactory")  # whose data loaders follow the arguments
BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
FOLLOWS_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate")
LOADER = ("workers", "prefetch", "pin_memory")

seen = {"takes_resume": False}


# --- reading -----------------------------------------------------------------------------------------------------


def watch_parsers():
    """Notice whether the command line is read by a parser that knows a checkpoint's option."""
    original = argparse.ArgumentParser.parse_known_args

    @functools.wraps(original)
    def watched(self, args=None, *more, **named):
        with contextlib.suppress(Exception):  # a parser of another kind is one that is not known to take it
            note(self, args)
        return original(self, args, *more, **named)

    argparse.ArgumentParser.parse_known_args = watched


def note(parser, args):
    words = sys.argv[1:] if args is None else list(args)
    option = parser._option_string_actions.get(RESUME)  # noqa: SLF001 - argparse has no other name for it
    if option is not None and option.nargs != 0 and words and all(word in sys.argv for word in words):
        seen["takes_resume"] = True


def facts(trainer, args, loader_batch):
    """For the hello; `loader_batch`: the rows of a micro-batch as the loader makes them, None where it does not say."""
    return {
        "argv": [str(word)[:WORD_MOST] for word in sys.argv[:WORDS_MOST]],
        "launcher": "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "python",
        "takes_resume": seen["takes_resume"],
        "save_total_limit": args.save_total_limit,
        "fixed": fixed(trainer, args, loader_batch),
    }


def fixed(trainer, args, loader_batch):
    """{knob: why another argument would not change it}."""
    own = own_loader(trainer)
    found = dict.fromkeys(LOADER, own) if own else {}
    try:
        why = own or over_rows(trainer) or fixed_batch(args, loader_batch)
    except Exception as error:
        why = f"what it stands on cannot be read ({type(error).__name__}: {str(error)[:WORD_MOST]})"
    return dict(found, device_batch=why, accumulation=why) if why else found


def own_loader(trainer):
    method = trainer.get_train_dataloader
    place = getattr(method, "__module__", None) or ""
    if place.partition(".")[0] in READERS:
        return None
    return f"{type(trainer).__name__} makes its own data loader ({place}), which need not follow the arguments"


def over_rows(trainer):
    """Why another split of the batch would give another loss."""
    kinds = [kind.__name__ for kind in type(trainer).__mro__]
    if any("KTOTrainer" in kind for kind in kinds):
        return "KTO takes its KL term from the rows of a micro batch"
    if any(kind in ("EmbeddingTrainer", "RerankerTrainer") for kind in kinds):
        return "the rows of a micro batch are each other's negatives"
    return None


def fixed_batch(args, loader_batch):
    if args.auto_find_batch_size:
        return "auto_find_batch_size sets it by itself"
    if hasattr(args, "num_generations"):
        return "it is tied to the answers that are generated per prompt"
    given = args.per_device_train_batch_size
    if loader_batch is not None and loader_batch != given:
        return f"the data loader makes batches of {loader_batch} rows, and the arguments say {given}"
    if getattr(getattr(args, "accelerator_config", None), "split_batches", False):
        return "the batch is split over the ranks (split_batches)"
    return fixed_by_deepspeed(args)


def fixed_by_deepspeed(args):
    if getattr(args, "deepspeed_plugin", None) is None:
        return None
    if not args.deepspeed:
        return "accelerate's DeepSpeed settings repeat it"
    content = args.deepspeed
    if not isinstance(content, dict):
        with open(content, encoding="utf-8") as file:
            content = json.load(file)
    numbers = [name for name in BATCH if content.get(name, "auto") != "auto"]
    if numbers:
        return f"the DeepSpeed configuration gives its own {' and '.join(numbers)}: write auto there"
    if "gradient_accumulation_steps" not in content:
        return "the DeepSpeed configuration leaves gradient_accumulation_steps out: write auto there"
    return None


def trainings_before(path):
    """How many have ended in this rank's file, by this process or one before it in the attempt.

    One that began and did not end is begun again by its launcher (torchrun --max-restarts): it is the same one.
    """
    try:
        with open(path, "rb") as file:
            return sum(b'"ev": "end"' in line for line in file)
    except FileNotFoundError:
        return 0


# --- changing ----------------------------------------------------------------------------------------------------


def edit(args, wanted):
    """Give the arguments other values before the trainer is made of them; raises where they are another training's."""
    if args is None:
        raise LookupError("the trainer is made without arguments")
    unlike = [f"{name} {getattr(args, name)}" for name, old in wanted["where"].items() if getattr(args, name) != old]
    if unlike:
        raise LookupError(f"a trainer with {', '.join(unlike)} is not the one whose arguments are to be changed")
    new = dict(wanted["set"])
    if new.get("dataloader_num_workers") == 0:
        new.update(dataloader_prefetch_factor=None, dataloader_persistent_workers=False)
    if "warmup_ratio" in new:
        new.update(warm_up(new.pop("warmup_ratio")))
    for name, value in new.items():
        setattr(args, name, value)
    if getattr(args, "deepspeed_plugin", None) is not None and set(FOLLOWS_BATCH) & set(new):
        fill_in_again(args)


def warm_up(ratio):
    """transformers 5 takes a share of all steps as `warmup_steps` below 1, and drops the other name."""
    version = sys.modules["transformers"].__version__
    if int(version.partition(".")[0]) >= 5:
        return {"warmup_steps": ratio}
    return {"warmup_ratio": ratio, "warmup_steps": 0}


def fill_in_again(args):
    """What `auto` stands for was taken from the arguments when they were made (training_args.py, __post_init__)."""
    args.hf_deepspeed_config = type(args.hf_deepspeed_config)(args.deepspeed)
    args.hf_deepspeed_config.trainer_config_process(args)
    args.deepspeed_plugin = type(args.deepspeed_plugin)(hf_ds_config=args.hf_deepspeed_config)


def made_with(args, kwargs):
    """The TrainingArguments among what a trainer is made of: Trainer(model, args, ...)."""
    return kwargs["args"] if "args" in kwargs else args[1] if len(args) > 1 else None


# --- going on ----------------------------------------------------------------------------------------------------


def entered(trainer, args, kwargs, knobs, path):
    """The arguments of train() as this launch wants them; `path`: the rank's heartbeat."""
    wanted, afresh = knobs.get("resume"), knobs.get("afresh")
    given = args[0] if args else kwargs.get("resume_from_checkpoint")
    if knobs.get("training") == trainings_before(path) + 1:
        return handed(args, kwargs, wanted) if wanted or lies_in(given, afresh) else (args, kwargs)
    if given is not None or not wanted:
        return args, kwargs
    # A script may train something else first, and the checkpoint is not that trainer's.
    home = os.path.dirname(os.path.abspath(wanted))
    asked = getattr(trainer.args, "resume_from_checkpoint", None)
    if asked != wanted and os.path.abspath(trainer.args.output_dir) != home:
        return args, kwargs
    return handed(args, kwargs, wanted)


def handed(args, kwargs, checkpoint):
    """The arguments of train() with this checkpoint, whatever the script says; train(resume_from_checkpoint, ...)."""
    return ((checkpoint, *args[1:]), kwargs) if args else (args, dict(kwargs, resume_from_checkpoint=checkpoint))


def lies_in(checkpoint, folders):
    """Whether it is one of these folders' checkpoints; True is the newest of the trainer's own."""
    if checkpoint is True or not checkpoint:
        return checkpoint is True
    path = os.path.abspath(checkpoint)
    return any(path.startswith(folder.rstrip("/") + "/") for folder in folders)
