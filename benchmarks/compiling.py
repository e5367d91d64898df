"""Whether `torch.compile` makes the frozen towers faster, and what compiling them costs.

Each tower looks at the same batch as it is and compiled, in turns, random weights. The time of the
first compiled call less that of a later one is what compiling costs, and how many images pay for
it follows. The smaller last batch of a run would compile anew; here there is none. Run it as

    python benchmarks/compiling.py

and it writes its record to `benchmarks/results/compiling.md`, on a GPU to `compiling_gpu.md`.
"""

import argparse
import platform
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
import transformers
from recording import CLOCKS, RESULTS, add_run, begin, ending, machine, publish


@dataclass(frozen=True, kw_only=True)
class Result:
    """One tower.

    Attributes:
        name: Of it.
        eager: Images a second.
        compiled: Images a second.
        cost: Seconds until it is compiled.
    """

    name: str
    eager: float
    compiled: float
    cost: float

    @property
    def images(self) -> str:
        """How many images it takes until compiling has paid for itself."""
        saved = 1 / self.eager - 1 / self.compiled
        return f"{self.cost / saved:,.0f}" if saved > 0 else "no number of"


def options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Frozen towers, compiled and not")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    add_run(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[Result]:
    chosen = options(argv)
    begin(chosen.threads)
    vit = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
    clip = open_clip.create_model("ViT-B-32").visual
    results = [
        measure("ViT-B/16", vit.eval(), chosen),
        measure("CLIP ViT-B/32, images", clip.eval(), chosen),
    ]
    kind = "compiling_gpu.md" if chosen.device.startswith("cuda") else "compiling.md"
    publish(record(results, chosen), chosen.record or RESULTS / kind)
    return results


def measure(name: str, tower: torch.nn.Module, chosen: argparse.Namespace) -> Result:
    """One tower, both ways in turns."""
    gpu = chosen.device.startswith("cuda")
    tower = tower.to(chosen.device)
    compiled = torch.compile(tower)
    pixels = torch.randn(chosen.batch, 3, 224, 224, device=chosen.device)
    clock = CLOCKS[chosen.clock]

    def timed(look: Callable[[Any], Any]) -> float:
        start = clock()
        with (
            torch.inference_mode(),
            torch.autocast("cuda", torch.float16) if gpu else nullcontext(),
        ):
            look(pixels)
        if gpu:
            torch.cuda.synchronize()
        return clock() - start

    timed(tower)
    first = timed(compiled)
    seconds: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(chosen.rounds):
        seconds["eager"].append(timed(tower))
        seconds["compiled"].append(timed(compiled))
    eager, later = (statistics.median(values) for values in seconds.values())
    return Result(
        name=name, eager=chosen.batch / eager, compiled=chosen.batch / later, cost=first - later
    )


def record(results: Sequence[Result], chosen: argparse.Namespace) -> str:
    rows = [
        f"| {x.name} | {x.eager:.3g} | {x.compiled:.3g} | **{x.compiled / x.eager:.2f}×** | "
        f"{x.cost:.0f} s | {x.images} images |"
        for x in results
    ]
    versions = {library.__name__: library.__version__ for library in (torch, transformers)}
    last = ending(
        f"{machine(chosen.device)}, {chosen.threads} thread(s)",
        {"python": platform.python_version(), **versions},
    )
    return "\n".join(
        [
            "# Frozen towers, compiled and not",
            "",
            f"`python benchmarks/compiling.py --device {chosen.device}`:",
            f"batches of {chosen.batch}, medians of {chosen.rounds} rounds in turns",
            f"({chosen.clock} clock).",
            "",
            "| | as it is, images/s | compiled, images/s | ratio | to compile | pays after |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *last,
            "",
        ]
    )


if __name__ == "__main__":
    main()
