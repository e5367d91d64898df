"""What has to hold around a training: repeatable operations, no chatter, plain failures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as hf_logging

from mnerfeat.errors import ConfigError, StorageError
from mnerfeat.training.config import TrainingConfig


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Ask torch for operations that repeat to the bit, and put its settings back after."""
    if not wanted:
        yield
        return
    # cuBLAS reads this when it starts, so it must be there before the first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    settings: Any = torch.utils.deterministic
    filling = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = filling


@contextmanager
def quiet_trainer() -> Iterator[None]:
    """Keep the trainer's own remarks, which nobody here can act on, out of the progress bar."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


@contextmanager
def plain_failures(config: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Turn a full disk or memory into an error that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{device} ran out of memory with {config.batch_size} posts a step in "
            f"{config.accumulation} parts",
            hint=f"--set train.accumulation={2 * config.accumulation} gives the same training "
            "with half the memory",
        ) from error
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"the run could not be written: {error}",
            hint="make room, then `mnerfeat train --resume`",
        ) from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):
            raise
        raise StorageError(
            f"the run could not be written: {error}",
            hint="make room, then `mnerfeat train --resume`",
        ) from error
