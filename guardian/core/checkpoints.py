"""Say whether a checkpoint folder may be resumed from, from what lies in it.

Pure: the host lists the folder and reads of its files the headers (host/checkpoints.py: milliseconds, no torch) or
every byte (host/inspecting.py); here both are judged, by the same questions. What the quick look sees is a save that
was cut off, a file that is missing, truncated or begins with zeros, other ranks, weights alone, and a log that ends in
NaN.
"""

from __future__ import annotations

import json
import re

from guardian.core import events as ev
from guardian.core import losses
from guardian.core.values import dataclass

NAME = re.compile(r"checkpoint-(\d{1,12})")
STATE = "trainer_state.json"
ARGUMENTS = "args.json"
LATEST = "latest"
"""DeepSpeed's, written last: the name of the folder with its shards."""
TENSOR_FILES = (".safetensors", ".pt", ".pth", ".bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
REMARKS_MOST = 3
READ_WHOLE = frozenset({LATEST, ARGUMENTS, *INDEXES})
"""Small texts that are needed to judge the rest."""

_NEEDED = re.compile(
    r"(?:.*/)?(?:[^/]*\.safetensors|[^/]*_states\.pt"
    r"|(?:pytorch_model|adapter_model|optimizer|scheduler|scaler|rng_state|rank\d)[^/]*\.(?:pt|pth|bin))"
)
"""What a resume reads. The damage of another file (training_args.bin) is no reason to pass a checkpoint over."""
_RNG = re.compile(r"rng_state_(\d{1,6})\.pth")
_SHARD = re.compile(r"(?:bf16_)?zero_pp_rank_(\d{1,6})_mp_rank_(\d{1,6})_?optim_states\.pt")


# --- what was found ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file of a checkpoint folder, with what was seen of its inside."""

    name: str
    """Below the checkpoint folder, with slashes."""
    size: int
    broken: str | None = None
    """What is wrong with its form; None: nothing was found (or it is not a kind that is looked into)."""
    tainted: str | None = None
    """Where it holds what is no number."""
    unseen: str | None = None
    """What of it could not be looked into, and why."""
    empty: bool = False
    """It is whole and holds no tensor."""


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What lies in a checkpoint folder."""

    path: str
    step: int | None
    """From the folder's name; None: it has a name of its own."""
    files: tuple[FileFact, ...]
    state: str | None
    """The text of trainer_state.json; None: there is none, or it is too long to be read."""
    folders: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    """(name, text) of the files of READ_WHOLE that are there."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(f.name for f in self.files)

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed's engine wrote it, which then loads weights and optimizer from its own folder."""
        return LATEST in self.names or any(f.startswith("global_step") for f in self.folders)

    @property
    def fsdp(self) -> bool:
        return any(n.startswith("pytorch_model_fsdp") for n in (*self.folders, *self.names))

    def text(self, name: str) -> str | None:
        return dict(self.texts).get(name)


# --- what it means -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sound:
    """It may be resumed from."""

    remarks: tuple[str, ...] = ()
    """What was not looked into, or cannot be proved."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """Files are missing, cut off or altered."""

    why: str


@dataclass(frozen=True, slots=True)
class Poisoned:
    """It is whole, and what was trained into it is no number any more."""

    why: str
    first_bad_step: int | None = None
    """By its own log; None: the log says nothing of it."""


@dataclass(frozen=True, slots=True)
class Incompatible:
    """It is whole, and this training cannot go on from it as it was."""

    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can say: not to be resumed from while another one is sound."""

    why: str


Verdict = Sound | Damaged | Poisoned | Incompatible | Unknown


def judge(facts: FolderFacts, world: int | None = None) -> ev.Checkpoint:
    """The checkpoint with its verdict; `world`: the ranks of the run that wants to go on, None: any."""
    return as_checkpoint(facts.path, step_of(facts), verdict(facts, world))


def verdict(facts: FolderFacts, world: int | None = None) -> Verdict:
    """The first question that has an answer decides; a file that is missing is named before one that is altered."""
    for question in (_cut_off, _weights, _training_state, _ranks, _broken, _poisoned):
        answer = question(facts, world)
        if answer is not None:
            return answer
    return Sound(tuple(_remarks(facts)))


def as_checkpoint(path: str, step: int, found: Verdict) -> ev.Checkpoint:
    """A verdict as the run's history keeps it."""
    match found:
        case Sound(remarks):
            return ev.Checkpoint(path, step, complete=True, why=_shortly(remarks), verdict="sound")
        case Poisoned(why, first):
            return ev.Checkpoint(path, step, complete=False, why=why, verdict="poisoned", first_bad_step=first)
        case _:
            return ev.Checkpoint(path, step, complete=False, why=found.why, verdict=type(found).__name__.lower())


def _shortly(remarks: tuple[str, ...]) -> str | None:
    more = len(remarks) - REMARKS_MOST
    told = "; ".join(remarks[:REMARKS_MOST])
    return (f"{told}; and {more} more" if more > 0 else told) or None


def step_of(facts: FolderFacts) -> int:
    """By the folder's name, else by its state; -1 where neither tells."""
    if facts.step is not None:
        return facts.step
    step = (_object(facts.state) or {}).get("global_step")
    return step if isinstance(step, int) else -1


def _remarks(facts: FolderFacts) -> list[str]:
    files = [f"{f.name}: {f.broken or f.unseen}" for f in facts.files if f.unseen or (f.broken and not _needed(f))]
    return files if facts.state is not None else [f"{STATE} is too long to be read", *files]


# --- the questions, in their order ---------------------------------------------------------------------------------


def _cut_off(facts: FolderFacts, _: int | None) -> Verdict | None:
    # Left inside while transformers 5's just-in-time checkpoint is being written (trainer_jit_checkpoint.py).
    if any(name.startswith("checkpoint-is-incomplete") for name in facts.names):
        return Damaged("its save did not finish")
    if STATE not in facts.names:
        return Damaged(f"no {STATE}: its save did not finish")
    if facts.state is None:
        return None
    state = _object(facts.state)
    if state is None:
        return Damaged(f"{STATE} is cut off or damaged")
    step = state.get("global_step")
    if facts.step is not None and step != facts.step:
        return Damaged(f"{STATE} says step {step}, the folder says {facts.step}")
    return None


def _weights(facts: FolderFacts, _: int | None) -> Verdict | None:
    if facts.deepspeed or facts.fsdp:
        return None
    names = facts.names
    for index in INDEXES:
        if index in names and (answer := _indexed(facts, index)):
            return answer
    adapters = [n for n in names if n.rpartition("/")[2] in ADAPTERS]
    for path in sorted(adapters):
        config = path.replace(path.rpartition("/")[2], "adapter_config.json")
        if config not in names:
            return Damaged(f"no {config}")
    if adapters or names & {*WHOLE_WEIGHTS, *INDEXES}:
        return None
    other = [n for n in sorted(names) if n.endswith(TENSOR_FILES) and not _is_training_state(n)]
    other = [n for n in other if n != "training_args.bin"]
    return Unknown(f"no weights under a name that is known, only {other[0]}") if other else Damaged("no weights")


def _indexed(facts: FolderFacts, index: str) -> Verdict | None:
    shards = (_object(facts.text(index)) or {}).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        return Damaged(f"{index} is cut off or damaged")
    absent = sorted({str(n) for n in shards.values()} - facts.names)
    return Damaged(f"no {absent[0]}, which {index} names") if absent else None


def _is_training_state(name: str) -> bool:
    return "optimizer" in name or name in ("scheduler.pt", "scaler.pt", "rng_state.pth") or bool(_RNG.fullmatch(name))


def _training_state(facts: FolderFacts, _: int | None) -> Verdict | None:
    """Without optimizer or scheduler transformers resumes all the same, and silently resets Adam and the schedule."""
    if facts.deepspeed:
        return _deepspeed(facts)
    present = [n for n in (*facts.names, *facts.folders) if _is_training_state(n)]
    if not present:
        return Incompatible("weights only (save_only_model): a resume would reset the optimizer and the schedule")
    for what, found in (
        ("optimizer.pt", [n for n in present if "optimizer" in n]),
        ("scheduler.pt", [n for n in present if n == "scheduler.pt"]),
    ):
        if not found:
            return Damaged(f"no {what}: a resume would reset the optimizer and the schedule")
    for folder in facts.folders:
        # torch.distributed.checkpoint writes it last (filesystem.py, finish).
        if folder.startswith(("pytorch_model_fsdp", "optimizer")) and f"{folder}/.metadata" not in facts.names:
            return Damaged(f"no {folder}/.metadata: its save did not finish")
    return None


def _deepspeed(facts: FolderFacts) -> Verdict | None:
    folder = (facts.text(LATEST) or "").strip()
    if not folder:
        return Damaged(f"no {LATEST}: DeepSpeed finds no shards without it")
    inside = [n for n in facts.names if n.startswith(f"{folder}/")]
    if not any(n.endswith("model_states.pt") for n in inside):
        return Damaged(f"no {folder}/*model_states.pt, which {LATEST} names")
    shards = _shards(facts)
    # DeepSpeed puts this script beside the shards of every ZeRO stage (engine.py, _copy_recovery_script).
    if not shards and "zero_to_fp32.py" in facts.names:
        return Damaged(f"no {folder}/*optim_states.pt: a resume would reset the optimizer")
    ranks, parts = {r for r, _ in shards}, {p for _, p in shards}
    # One for each data-parallel rank and part of the model (MiCS, which keeps fewer, is not known here).
    wanted = max([r + 1 for r in ranks] + [_ranks_seen(facts) // len(parts)]) if shards else 0
    absent = sorted({(r, p) for p in parts for r in range(wanted)} - shards)
    if absent:
        return Damaged(f"no optimizer shard of rank {absent[0][0]} in {folder}")
    return None


def _shards(facts: FolderFacts) -> set[tuple[int, int]]:
    """(data-parallel rank, model-parallel rank) of the optimizer shards that DeepSpeed would load."""
    folder = (facts.text(LATEST) or "").strip()
    found = (_SHARD.fullmatch(n.removeprefix(f"{folder}/")) for n in facts.names)
    return {(int(m[1]), int(m[2])) for m in found if m}


def _ranks(facts: FolderFacts, world: int | None) -> Verdict | None:
    """Whether it was saved by as many ranks as go on from it, and each rank's random state is there."""
    seen, saved_by = _ranks_seen(facts), _saved_by(facts)
    other = saved_by if saved_by is not None else seen
    if world is not None and (other > world or saved_by not in (None, world)):
        sharded = ", and DeepSpeed's shards fit no other number" if _shards(facts) else ""
        return Incompatible(f"saved by {_count(other)}, the run has {world}{sharded}")
    wanted = saved_by or world or seen or 1
    names = ["rng_state.pth"] if wanted == 1 else [f"rng_state_{rank}.pth" for rank in range(wanted)]
    absent = [n for n in names if n not in facts.names]
    return Damaged(f"no {absent[0]}: a resume would draw other random numbers") if absent else None


def _saved_by(facts: FolderFacts) -> int | None:
    """The ranks of the run that wrote it; None where nothing tells for certain.

    Rank 0 writes the state last of its own files, but waits for nobody: the random states of higher ranks may be
    missing from a save that was cut off.
    """
    said = _object(facts.text(ARGUMENTS)) or {}
    for name in ("world_size", "global_world_size"):  # our trainer's, ms-swift's
        ranks = said.get(name)
        if isinstance(ranks, int) and ranks > 0:
            return ranks
    shards = _shards(facts)
    if shards:
        return len(shards)
    return 1 if not _ranks_seen(facts) and "rng_state.pth" in facts.names else None


def _ranks_seen(facts: FolderFacts) -> int:
    """As many ranks as the numbers of the random states demand; 0 where they carry none."""
    return max((int(m[1]) + 1 for n in facts.names if (m := _RNG.fullmatch(n))), default=0)


def _count(ranks: int) -> str:
    return "1 rank" if ranks == 1 else f"{ranks} ranks"


def _broken(facts: FolderFacts, _: int | None) -> Verdict | None:
    for file in facts.files:
        if file.broken and _needed(file):
            return Damaged(f"{file.name}: {file.broken}")
        if file.size == 0 and file.name.endswith(TENSOR_FILES) and _needed(file):
            return Damaged(f"{file.name} is empty")
        if file.empty and not facts.deepspeed:
            return Damaged(f"{file.name} holds no tensor")  # peft under ZeRO-3 is known for it
    return None


def _needed(file: FileFact) -> bool:
    return _NEEDED.fullmatch(file.name) is not None


def _poisoned(facts: FolderFacts, _: int | None) -> Verdict | None:
    history = (_object(facts.state) or {}).get("log_history")
    bad = losses.first_bad(history) if isinstance(history, list) else None
    if bad is not None:
        return Poisoned(f"{bad.what} from step {bad.step} on", bad.step)
    tainted = next((f for f in facts.files if f.tainted), None)
    return Poisoned(f"{tainted.name}: {tainted.tainted}") if tainted else None


def _object(text: str | None) -> dict[str, object] | None:
    try:
        read = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
