"""The recipe: arguments, tokens, model, trainer, run. What the input could get wrong was found before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guardian.errors import UserError

from . import checkpoints, model_loading, output_folder
from .data import Rows
from .help_text import written
from .notes import say
from .parting import leave_group
from .settings import Settings


def train(settings: Settings, rows: Rows) -> int:
    model_loading.stay_local(settings)
    model_loading.leave_out_optional_packages(settings)
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    from .framework_settings import training_arguments

    disable_progress_bar()
    _introduce(settings)
    tokenizer = model_loading.load_tokenizer(settings)
    dtype = model_loading.dtype_of(settings)
    arguments = training_arguments(settings, dtype)
    arguments.output_dir = str(output_folder.settle(settings))
    train_rows, evaluation_rows = _token_rows(settings, rows, tokenizer)
    set_seed(arguments.seed)  # adapters begin at random
    model = model_loading.load_model(settings, tokenizer, dtype)
    record = output_folder.record(settings, arguments)
    trainer = _trainer(settings, arguments, model, tokenizer, (train_rows, evaluation_rows), record)
    if not _nothing_left(settings, trainer):
        if arguments.should_save:
            output_folder.write_record(Path(arguments.output_dir), record)
        trainer.train(resume_from_checkpoint=str(settings.resume_from) if settings.resume_from else None)
        _conclude(trainer)
    leave_group()
    return 0


def _introduce(settings: Settings) -> None:
    if settings.demo_defaults:
        chosen = ", ".join(f"{name} {written(value)}" for name, value in settings.demo_defaults.items())
        say(f"--model demo, so where nothing was given: {chosen}")
    if settings.without_effect:
        say(f"without effect here: {', '.join(f'--{name}' for name in settings.without_effect)}")
    batch, accumulation = settings["per_device_train_batch_size"], settings["gradient_accumulation_steps"]
    say(
        f"rows per optimizer step: {settings.effective_batch} = {batch} per rank x {accumulation} accumulated"
        f" x {settings.world_size} {'rank' if settings.world_size == 1 else 'ranks'}"
    )
    if settings.resume_from:
        _introduce_resume(settings, settings.resume_from)


def _introduce_resume(settings: Settings, checkpoint: Path) -> None:
    say(f"resuming from {checkpoint}")
    before = checkpoints.recorded_arguments(checkpoint)
    batch, rate = before.get("effective_batch"), before.get("learning_rate")
    if batch not in {None, settings.effective_batch}:
        say(f"the checkpoint comes from {batch} rows per optimizer step: from here on it is another experiment")
    if rate not in {None, settings["learning_rate"]}:
        say(f"learning_rate {settings['learning_rate']} changes nothing: the checkpoint's schedule from {rate} goes on")


def _token_rows(settings: Settings, rows: Rows, tokenizer: Any) -> tuple[Any, Any]:
    from .encoding import TokenRows, encode

    longest, strategy = _max_length(settings, tokenizer), str(settings["truncation_strategy"])
    parts = []
    for title, conversations in (("train", rows.train), ("evaluation", rows.evaluation)):
        encoded = encode(conversations, tokenizer, max_length=longest, strategy=strategy)
        if conversations and not encoded.rows:
            raise UserError(
                f"--max_length {longest}: every {title} row is longer, or has no answer left; raise it, or give"
                " --truncation_strategy right"
            )
        if encoded.too_long:
            say(f"{title} rows left out, longer than max_length {longest}: {encoded.too_long}")
        if encoded.last_answer_only:
            say(f"{title} rows of which only the last answer counts (chat template): {encoded.last_answer_only}")
        parts.append(TokenRows(encoded.rows) if encoded.rows else None)
    say(f"train rows: {len(parts[0])}" + (f", evaluation rows: {len(parts[1])}" if parts[1] else ""))
    return parts[0], parts[1]


def _max_length(settings: Settings, tokenizer: Any) -> int | None:
    """Tokenizers without a limit give an enormous number."""
    given: int | None = settings["max_length"]
    return given or (tokenizer.model_max_length if tokenizer.model_max_length < 10**9 else None)


def _trainer(settings: Settings, arguments: Any, model: Any, tokenizer: Any, rows: Any, record: Any) -> Any:
    from transformers import EarlyStoppingCallback, PrinterCallback

    from .encoding import PaddingCollator
    from .progress import ProgressLog
    from .saving_trainer import ArgumentsCount, SavingTrainer

    callbacks: list[Any] = [ArgumentsCount(), ProgressLog()]
    if settings["early_stop_interval"]:
        callbacks.append(EarlyStoppingCallback(settings["early_stop_interval"]))
    trainer = SavingTrainer(
        model=model,
        args=arguments,
        train_dataset=rows[0],
        eval_dataset=rows[1],
        data_collator=PaddingCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=callbacks,
        record=record,
        resumed_from=settings.resume_from,
    )
    trainer.remove_callback(PrinterCallback)  # ProgressLog prints
    return trainer


def _nothing_left(settings: Settings, trainer: Any) -> bool:
    """Trainer would train one step beyond the end."""
    if settings.resume_from is None:
        return False
    done, last = checkpoints.recorded_step(settings.resume_from), _last_step(settings, len(trainer.train_dataset))
    if done < last:
        return False
    say(f"nothing left to train: {settings.resume_from} is at step {done} of {last}")
    return True


def _last_step(settings: Settings, rows: int) -> int:
    if settings["max_steps"] > 0:
        return int(settings["max_steps"])
    at_once = settings["per_device_train_batch_size"] * settings.world_size
    batches = rows // at_once if settings["dataloader_drop_last"] else -(-rows // at_once)
    per_epoch = max(1, -(-batches // settings["gradient_accumulation_steps"]))
    return int(-(-settings["num_train_epochs"] * per_epoch // 1))


def _conclude(trainer: Any) -> None:
    state = trainer.state
    if not state.is_world_process_zero:
        return
    reason = _stop_reason(trainer)
    if reason:
        say(reason)
    output_folder.conclude(trainer.args.output_dir, state, reason)


def _stop_reason(trainer: Any) -> str | None:
    from transformers import EarlyStoppingCallback

    state = trainer.state
    if state.global_step >= state.max_steps:
        return None
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            bad = callback.early_stopping_patience_counter
            if bad >= callback.early_stopping_patience:
                at = f"at step {state.global_step} of {state.max_steps}"
                return f"Stopped early {at}: evaluations without a better one: {bad}"
    return f"Stopped at step {state.global_step} of {state.max_steps}: the trainer was asked to"
