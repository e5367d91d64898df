"""Deterministic operations, a quiet trainer, and failures with a next step."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging as hf_logging

from mnerfeat.checkpoint import Run
from mnerfeat.errors import ConfigError, StorageError
from mnerfeat.training.config import TrainingConfig


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Use torch operations that repeat to the bit; the settings before are restored."""
    if not enabled:
        yield
        return
    # cuBLAS reads this when it starts, so it must be set before the first product.
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
    """Silence the trainer's own warnings, about which a user cannot do anything."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)


@contextmanager
def readable_failures(config: TrainingConfig, device: torch.device, run: Run) -> Iterator[None]:
    """Turn a full disk or a full memory into an error with the next command."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{device} ran out of memory with {config.batch_size} posts per step in "
            f"{config.accumulation} parts",
            hint=f"--set train.accumulation={2 * config.accumulation} gives the same training "
            "with half the memory",
        ) from error
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
            raise
        raise StorageError(
            f"the run could not be written: {error}",
            hint=f"free some space, then {run.resume_command}",
        ) from error
