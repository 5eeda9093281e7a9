"""Run as a program: the trainer, whose second save is also made once for each moment at which a kill could fall.

Each such save is a forked copy of the process that writes into a copy of the output folder, killed-<n>, and is
SIGKILLed at its n-th touch of the disk. The parent then saves as if nothing had happened.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys

from guardian.trainer import cli

_TOUCHES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"})


def _kill_at(moment: int, folder: str) -> None:
    seen = itertools.count()

    def watch(event: str, arguments: tuple) -> None:
        if event not in _TOUCHES or (event == "open" and folder not in str(arguments[0])):
            return
        if next(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def _sweep(save, trainer, arguments) -> None:
    """Save in copies of this process, killed one touch later each time, until one gets through."""
    for moment in itertools.count():
        folder = f"{trainer.args.output_dir}-killed-{moment}"
        shutil.copytree(trainer.args.output_dir, folder)
        child = os.fork()
        if child == 0:
            trainer.args.output_dir = folder
            _kill_at(moment, folder)
            save(trainer, *arguments)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            shutil.rmtree(folder)
            return


def _main() -> int:
    from guardian.trainer import saving_trainer

    save = saving_trainer.SavingTrainer._save_checkpoint

    def save_with_sweep(trainer, *arguments):
        if trainer.state.global_step == 2:
            _sweep(save, trainer, arguments)
        save(trainer, *arguments)

    saving_trainer.SavingTrainer._save_checkpoint = save_with_sweep
    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(_main())
