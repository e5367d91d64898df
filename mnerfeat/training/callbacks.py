"""What is shown and logged while a tagger trains."""

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from mnerfeat.tagger import Tagger


class Progress(TrainerCallback):
    """One progress bar over all steps, with the last loss and the last and best F1 on dev.

    Args:
        total_epochs: Passes over the training posts, at most.
    """

    def __init__(self, total_epochs: int) -> None:
        self.total_epochs = total_epochs
        self.shown: dict[str, str] = {}
        self.best = 0.0
        self.bar: Any = None

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Open the bar, where this process is the one to show it."""
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step")

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Tell the epoch."""
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
    """Logs the head's single trainable numbers (α and β), to see whether they move.

    Args:
        tagger: Whose.
        writer: A TensorBoard writer.
    """

    def __init__(self, tagger: Tagger, writer: Any) -> None:
        self.tagger = tagger
        self.writer = writer

    def on_log(self, _args: Any, state: Any, *_more: Any, **_: Any) -> None:
        """Write them beside the loss."""
        for name, value in scalars(self.tagger).items():
            self.writer.add_scalar(f"head/{name}", value, state.global_step)


def scalars(tagger: Tagger) -> dict[str, float]:
    """The head's single trainable numbers by the last part of their names."""
    apart = {id(parameter) for parameter in tagger.head.parameter_groups()["scalars"]}
    return {
        name.rsplit(".", 1)[-1]: float(parameter.detach())
        for name, parameter in tagger.head.named_parameters()
        if id(parameter) in apart
    }
