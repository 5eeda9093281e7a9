"""The batch of a trainer: as it is, and as the command line wants it.

In the syntax of Python 3.8, on the standard library; a failure here never reaches the job.
"""

from guardian_telling import known


def with_own_batch(trainer, args, kwargs):
    """The loop's arguments with the batch of the command line.

    transformers 4.x restores the batch of trainer_state.json whatever the arguments say, so that 8 x 2 resumed as
    4 x 4 would run 8 x 4.
    """
    own = trainer.args.train_batch_size
    if trainer.args.auto_find_batch_size or own == claimed(trainer, trainer.args):
        return args, kwargs
    trainer._train_batch_size = own  # noqa: SLF001 - the trainer has no other name for it
    return ((own, *args[1:]), kwargs) if args else (args, dict(kwargs, batch_size=own))


def claimed(trainer, args):
    """What the trainer takes the rows of a micro-batch to be."""
    return getattr(trainer, "_train_batch_size", args.train_batch_size)


def facts(trainer, args, loader):
    """The parts of the effective batch as they are, not as they were asked for."""
    argument, made = claimed(trainer, args), sampled(loader)
    device_batch = argument if made is None else made
    accumulation = args.gradient_accumulation_steps
    total = known(lambda: trainer.get_total_train_batch_size(args))  # knows of tensor and sequence parallel ranks
    data_parallel = total // (argument * accumulation) if total else args.world_size
    return {
        "device_batch": device_batch,
        "batch_argument": args.per_device_train_batch_size,
        "accumulation": accumulation,
        "data_parallel": data_parallel,
        "effective_batch": device_batch * accumulation * data_parallel,
    }


def sampled(loader):
    """Rows of a micro-batch as the loader makes them; None where it does not say."""
    sampler = getattr(loader, "batch_sampler", None)
    size = None if getattr(sampler, "split_batches", False) else getattr(sampler, "batch_size", None)
    return size if isinstance(size, int) else None
