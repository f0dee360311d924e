"""``python -m critic``, with accelerate made to take CPUs with gloo for GPUs: it shards on those
only, and torch's FSDP does on both. What each process holds goes to stderr. With ``STOP_AT`` the
last process is interrupted at that step, as by Ctrl-C.

    accelerate launch --use_fsdp ... tests/critic/sharded.py train ...
"""

import os
import signal
import sys
from itertools import count

from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from critic import devices, training
from critic.__main__ import main

accumulate = training.accumulate
steps = count(1)


def watched(accelerator, model, *rest):
    step = next(steps)
    if step == 1:
        units = sum(isinstance(module, FSDPModule) for module in model.modules())
        kinds = {type(weight).__name__ for weight in model.parameters()}
        print(f"{accelerator.distributed_type} units={units} {sorted(kinds)}", file=sys.stderr)
    if step == int(os.environ.get("STOP_AT", "0")) and not accelerator.is_main_process:
        os.kill(os.getpid(), signal.SIGINT)
    return accumulate(accelerator, model, *rest)


PartialState._prepare_backend = lambda self, *_: ("gloo", DistributedType.MULTI_GPU)
devices.Accelerator = lambda **options: Accelerator(**options | {"cpu": False})
training.accumulate = watched
main()
