"""A job of the standard library alone that does what its words say, one after the other.

The words come from WORDS_<attempt> in the environment, else from the command line; a word is `act` or `act:value`.
Each start adds a line to the file `starts`.
"""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path


def main():
    attempt = os.environ["GUARDIAN_MARK"].rpartition("/")[2]
    with open("starts", "a") as file:
        file.write(f"{attempt} {os.getpid()}\n")
    for word in os.environ.get(f"WORDS_{attempt}", "").split() or sys.argv[1:]:
        act, _, value = word.partition(":")
        ACTS[act](value)


def touch(name):
    Path(name).touch()


def wait(name):
    while not os.path.exists(name):
        time.sleep(0.02)


def ignore_term(_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def have_child(_):
    """A child in a session of its own, which waits for a file that never comes and heeds no SIGTERM."""
    subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], start_new_session=True)


def draw_bar(steps):
    """A training bar as tqdm draws it: it tells guardian the step."""
    done, total = steps.split("/")
    print(f"Train:  10%|#         | {done}/{total} [00:01<00:10,  1.00it/s]", flush=True)


def say(text):
    print(text.replace("_", " "), flush=True)


def save(step):
    """A checkpoint that looks whole."""
    folder = Path("out", f"checkpoint-{step}")
    folder.mkdir(parents=True)
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        with zipfile.ZipFile(folder / name, "w") as archive:  # as torch.save does
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": int(step)}))


def link(name):
    """A link that leads nowhere."""
    os.symlink("/nowhere", name)


def loop(name):
    """Where a folder was there is a link to itself: nobody can look into it any more."""
    os.rename(name, f"{name}-away")
    os.symlink(name, name)


def kill(_):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(code):
    sys.exit(int(code))


ACTS = {
    "touch": touch,
    "wait": wait,
    "ignore_term": ignore_term,
    "child": have_child,
    "bar": draw_bar,
    "say": say,
    "save": save,
    "fifo": os.mkfifo,
    "link": link,
    "loop": loop,
    "kill": kill,
    "exit": leave,
}

if __name__ == "__main__":
    main()
