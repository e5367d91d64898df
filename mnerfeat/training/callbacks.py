"""Progress and logs while a tagger trains."""

import logging
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from mnerfeat.tagger import Tagger

logger = logging.getLogger(__name__)


class EpochLog(TrainerCallback):
    """Logs one line per epoch: loss, F1 on dev, time left.

    Args:
        total_epochs: Maximum number of epochs.
    """

    def __init__(self, total_epochs: int) -> None:
        self.total_epochs = total_epochs
        self.loss = float("nan")
        self.best = 0.0
        self.started = time.monotonic()
        self.first_epoch = 0.0

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock."""
        self.started, self.first_epoch = time.monotonic(), float(state.epoch or 0)

    def on_epoch_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Have the trainer log the loss of the epoch's last steps."""
        control.should_log = True

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Remember the loss; log the epoch when dev has been scored."""
        self.loss = (logs or {}).get("loss", self.loss)
        if not logs or "eval_f1" not in logs:
            return
        self.best = max(self.best, logs["eval_f1"])
        epoch = round(state.epoch)
        seconds = (time.monotonic() - self.started) / max(state.epoch - self.first_epoch, 1)
        logger.log(
            logging.INFO if state.is_world_process_zero else logging.DEBUG,
            "epoch %d/%d: loss %.3f, dev F1 %.2f (best %.2f), %s",
            *(epoch, self.total_epochs, self.loss, 100 * logs["eval_f1"], 100 * self.best),
            f"{duration(seconds * (self.total_epochs - epoch))} left"
            if epoch < self.total_epochs
            else "done",
        )


class Progress(TrainerCallback):
    """One progress bar over all steps, with the last loss and the last and best F1 on dev.

    Args:
        total_epochs: Maximum number of epochs.
    """

    def __init__(self, total_epochs: int) -> None:
        self.total_epochs = total_epochs
        self.shown: dict[str, str] = {}
        self.best = 0.0
        self.bar: Any = None

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Open the bar, in the first process only."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step")

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Show the epoch."""
        if self.bar is not None:
            self.bar.set_description(f"epoch {int(state.epoch) + 1}/{self.total_epochs}")

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, *_args: Any, logs: Any = None, **_: Any) -> None:
        """Show the loss and F1."""
        if self.bar is None or not logs:
            return
        if "loss" in logs:
            self.shown["loss"] = f"{float(logs['loss']):.3f}"
        if "eval_f1" in logs:
            self.best = max(self.best, logs["eval_f1"])
            self.shown["dev F1"] = f"{100 * logs['eval_f1']:.2f} (best {100 * self.best:.2f})"
        self.bar.set_postfix(self.shown)

    def on_train_end(self, *_args: Any, **_: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class HeadScalars(TrainerCallback):
    """Logs the head's trainable scalars (α and β) to TensorBoard.

    Args:
        tagger: Tagger with the head.
        writer: TensorBoard writer.
    """

    def __init__(self, tagger: Tagger, writer: Any) -> None:
        self.tagger = tagger
        self.writer = writer

    def on_log(self, _args: Any, state: Any, *_more: Any, **_: Any) -> None:
        """Write them whenever the loss is logged."""
        for name, value in scalars(self.tagger).items():
            self.writer.add_scalar(f"head/{name}", value, state.global_step)


def scalars(tagger: Tagger) -> dict[str, float]:
    """Return the head's trainable scalars by the last part of their names."""
    ids = {id(parameter) for parameter in tagger.head.parameter_groups()["scalars"]}
    return {
        name.rsplit(".", 1)[-1]: float(parameter.detach())
        for name, parameter in tagger.head.named_parameters()
        if id(parameter) in ids
    }


def duration(seconds: float) -> str:
    """Return a duration for people: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
