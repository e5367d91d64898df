"""The trainer's arguments, and the optimizer."""

import math
import os

import torch
from transformers import TrainingArguments

from mnerfeat.errors import ConfigError
from mnerfeat.tagger import Tagger
from mnerfeat.training.config import TrainingConfig
from mnerfeat.training.model import GOLD


def optimizer(tagger: Tagger, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW with a learning rate for each group of parameters; only matrices decay."""
    rates = {
        "encoder": config.encoder_lr,
        "fusion": config.fusion_lr,
        "crf": config.crf_lr,
        "scalars": config.scalar_lr,
    }
    groups = []
    for name, parameters in tagger.parameter_groups().items():
        for decays in (True, False):
            some = [x for x in parameters if (x.ndim >= 2) == decays]
            if some:
                decay = config.weight_decay if decays else 0.0
                groups.append({"params": some, "lr": rates[name], "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=True)


def trainer_arguments(config: TrainingConfig) -> TrainingArguments:
    """Return the trainer's arguments, still without the output folder.

    Raises:
        ConfigError: There is no such device, or the processes cannot share a batch evenly.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "train.device is 'cuda', and torch sees no GPU",
            hint="`mnerfeat doctor` shows the devices; --set train.device=auto takes what there is",
        )
    precision = choose_precision(config)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    parts = processes * config.accumulation
    if config.batch_size % parts:
        raise ConfigError(
            f"train.batch_size is {config.batch_size}, which {processes} devices with "
            f"{config.accumulation} accumulation steps each cannot share evenly",
            hint=f"--set train.batch_size={math.ceil(config.batch_size / parts) * parts}",
        )
    arguments = TrainingArguments(
        output_dir="",
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size // parts,
        per_device_eval_batch_size=config.eval_batch_size,
        gradient_accumulation_steps=config.accumulation,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup if config.warmup < 1 else 1 - 1e-9,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_cpu=config.device == "cpu",
        dataloader_pin_memory=config.device != "cpu" and torch.cuda.is_available(),
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        logging_first_step=True,
        logging_steps=20,
        logging_nan_inf_filter=False,  # TrainingStep stops at a loss that is not finite
        report_to="none",
        disable_tqdm=True,
        label_names=[GOLD],
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    # One process drives one GPU; several GPUs take `torchrun` or `accelerate launch`.
    arguments.device  # noqa: B018 - counts the GPUs
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def choose_precision(config: TrainingConfig) -> str:
    """Return the number format of matrix products: float32, bfloat16 or float16."""
    if config.precision != "auto":
        return config.precision
    if config.device == "cpu" or not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
