"""Where a training runs: on the GPUs of its processes or on CPUs, the weights whole or sharded.

What accelerate is told at launch decides; what it would get wrong for a critic is set here. Its
policy for FSDP rounds what each layer hands on to bfloat16, and gradients where they are added up:
the Q of near histories become one. Here layers compute in bfloat16, gradients are added in float32,
and the head (``critic.model``) answers in float32, as without FSDP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import MixedPrecisionPolicy

from critic.errors import CriticInputError


def accelerator_of_here() -> Accelerator:
    """On the GPUs of this process, or on its CPU; sharded where it was launched so.

    Raises: ``CriticInputError`` for the first version of FSDP.
    """
    return Accelerator(
        mixed_precision="bf16",
        cpu=not torch.cuda.is_available(),
        step_scheduler_with_optimizer=False,
        fsdp_plugin=sharding(),
    )


@contextmanager
def joined_processes() -> Iterator[None]:
    """Within it processes may train together; at its end they leave each other, since an
    interpreter that ends while the group's threads still run may be aborted."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def sharding() -> FullyShardedDataParallelPlugin | None:
    """Of ``accelerate launch --use_fsdp``, each layer being a unit unless it was told otherwise;
    ``None`` for whole weights. Raises: ``CriticInputError`` for the first version of FSDP."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise CriticInputError("launch with --fsdp_version 2: its first version is not supported")
    return FullyShardedDataParallelPlugin(
        mixed_precision_policy=MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32
        ),
        auto_wrap_policy=os.environ.get("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP"),
    )
