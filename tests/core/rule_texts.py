"""Rules from the words of a rule file, for stories."""

from guardian.core.rulefile import parse
from guardian.host.matching import regex_problem
from guardian.host.userfiles import parse_toml


def rule(text):
    """The rule that this text writes; what is wrong with it fails the test."""
    made, complaints = parse(parse_toml(text, "story.toml"), text, "story.toml", regex_problem)
    assert not complaints, [str(one) for one in complaints]
    return made


MEMORY = rule(r"""
id = "memory"
class = "cuda_oom"
title = "Memory ran out"
role = "cause"
[match]
any = [{ log = 'out of memory' }]
capture = ['asked (?P<asked_mib>\d+ MiB), idle (?P<idle_mib>\d+ MiB)']
[[variant]]
name = "fragmentation"
when = { idle_mib = ">= asked_mib" }
[[variant.try]]
env = { PYTORCH_CUDA_ALLOC_CONF = "+expandable_segments:True" }
[[try]]
set = { device_batch = "halve", accumulation = "keep-effective-batch" }
repeat = "until-floor"
[[try]]
set = { gradient_checkpointing = true }
[[try]]
give_up = "At device batch {device_batch} it still needs {asked_mib} MiB more."
""")
SHM = rule(r"""
id = "shm"
class = "shm_bus_error"
title = "Shared memory is full"
role = "cause"
[match]
any = [{ log = 'Bus error' }]
confirm = "stall"
[[try]]
set = { workers = "fit-shm", prefetch = 1 }
[[try]]
set = { workers = "halve" }
repeat = "until-floor"
""")
FILES = rule(r"""
id = "files"
class = "shm_bus_error"
title = "Too many open files"
role = "cause"
[match]
any = [{ log = 'Too many open files' }]
[[try]]
limits = { nofile = "hard" }
[[try]]
env = { GUARDIAN_SHARING_STRATEGY = "file_system" }
""")
LOCK = rule(r"""
id = "lock"
class = "hang_no_output"
title = "It waits for a lock"
role = "cause"
[match]
any = [{ log = 'waits' }]
[[try]]
env = { TORCH_EXTENSIONS_DIR = "own" }
[[try]]
give_up = "It still waits."
""")
NETWORK = rule(r"""
id = "network"
class = "network"
title = "A peer was lost"
role = "cause"
[match]
any = [{ log = 'connection reset' }]
[[try]]
restart = true
repeat = 3
""")
FULL = rule(r"""
id = "full"
class = "disk_full"
title = "The disk is full"
role = "cause"
[match]
any = [{ log = 'No space left' }]
[[try]]
wait = { until = "disk_free_mib > 1024", at_most = "1 h" }
repeat = "budget"
""")
NAN = rule(r"""
id = "nan"
class = "nan_loss"
title = "The loss is not a number"
role = "cause"
[match]
any = [{ series = "loss", is = "nan", times = 1 }]
confirm = "line"
[[try]]
resume = "before:first_bad_step"
set = { learning_rate = "lower-or-safe", warmup_ratio = "at-least 0.05" }
[[try]]
resume = "before:first_bad_step"
set = { learning_rate = "x 0.1" }
[[try]]
give_up = "Train in bf16."
""")
