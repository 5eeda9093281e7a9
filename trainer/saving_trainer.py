"""transformers' Trainer with saves that are whole or not there, and a resume that obeys the arguments.

The framework writes a checkpoint file by file under its final name; whoever is killed in between leaves a folder
that looks usable. Here all ranks write into a folder of another name, which is renamed when the last file of the
last rank is on the disk (see `checkpoints`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback

from . import checkpoints, output_folder
from .notes import say


class SavingTrainer(Trainer):
    """One run; `record` is written beside every checkpoint as args.json."""

    def __init__(self, *args: Any, record: Mapping[str, Any], resumed_from: Path | None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._record = record
        self._resumed_from = resumed_from
        self._staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        """Trainer asks where its checkpoint folders go; while one is written, that is the staging folder."""
        return str(self._staging or super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        final = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        say(f"Saving model checkpoint to {final}")
        if self.args.should_save:
            checkpoints.clear_leftovers(final.parent)
        self.accelerator.wait_for_everyone()
        try:
            written = self._write_aside(model, trial, final)
            if self.args.should_save:
                checkpoints.publish(written, final)
                self._rotate(final)
        except BaseException:
            if self.args.should_save:
                checkpoints.clear_leftovers(final.parent)  # a full disk gets its space back
            raise
        self.accelerator.wait_for_everyone()

    def _write_aside(self, model: Any, trial: Any, final: Path) -> Path:
        """All files of all ranks, under another name; the last one is there when this returns."""
        self._staging = checkpoints.staging_folder(final)
        written = self._staging / final.name
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(final)  # Trainer noted where it stands now
            if self.args.should_save:
                self.state.save_to_json(str(written / checkpoints.STATE_FILE))
        self.accelerator.wait_for_everyone()
        return written

    def _rotate(self, saved: Path) -> None:
        best = self.state.best_model_checkpoint
        protected = frozenset({saved, *([Path(best)] if best else [])})
        for folder in checkpoints.rotate(saved.parent, limit=self.args.save_total_limit, protected=protected):
            say(f"Deleted {folder}: save_total_limit is {self.args.save_total_limit}")

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict=state_dict)
        if self.args.should_save:
            output_folder.write_record(Path(output_dir or self.args.output_dir), self._record)

    def _inner_training_loop(self, batch_size: Any = None, args: Any = None, **options: Any) -> Any:
        """Transformers 4 restores the batch of the checkpoint over the argument; the argument counts."""
        if self._resumed_from is not None and not self.args.auto_find_batch_size:
            batch_size = self._train_batch_size = self.args.train_batch_size
        return super()._inner_training_loop(batch_size=batch_size, args=args, **options)


class ArgumentsCount(TrainerCallback):
    """After a resume Trainer goes on with the old save_steps, eval_steps and logging_steps; the new ones count."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del control
        state.compute_steps(args, state.max_steps)
        state.train_batch_size = args.train_batch_size
