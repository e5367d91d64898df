"""The diffusion of entity boundaries (DPE-MNER, 2.1): noise, and the way back from it.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (DDPM), for the forward process; Song et
al. 2021, "Denoising Diffusion Implicit Models" (DDIM), for the way back in a few steps; Shen et al.
2023, "DiffusionNER: Boundary Diffusion for Named Entity Recognition", for applying it to
boundaries.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Noise = Literal["linear", "cosine"]

Signal = Float[Tensor, "batch noisy 2"]
"""(left, width) of each span in [−scale, scale]: what the diffusion adds noise to."""

LINEAR_BETAS = (1e-4, 0.02)
"""Smallest and largest β of the linear schedule over 1,000 timesteps (DDPM, section 4)."""
COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999
"""Of the cosine schedule (Nichol and Dhariwal 2021, "Improved DDPM", section 3.2)."""


def to_signal(
    left: Int[Tensor, "batch noisy"],
    right: Int[Tensor, "batch noisy"],
    last: Int[Tensor, " batch"],
    *,
    scale: float,
) -> Signal:
    """Turn spans of words into a signal.

    Args:
        left: First words.
        right: Last words; one before `left`, which a network may predict, has width 0.
        last: Each post's last word: both `left` and width are divided by it. In a post of one
            word, the only span is (0, 0).
        scale: Half the range of the signal.
    """
    span = torch.stack([left, right - left], dim=2) / last.clamp(min=1)[:, None, None]
    return ((2 * span - 1) * scale).clamp(-scale, scale)


def to_words(
    signal: Signal, last: Int[Tensor, " batch"], *, scale: float
) -> tuple[Int[Tensor, "batch noisy"], Int[Tensor, "batch noisy"]]:
    """Round a signal to first and last words: the inverse of `to_signal`."""
    left, width = ((signal.clamp(-scale, scale) / scale + 1) / 2).unbind(dim=2)
    right = (left + width).clamp(max=1)
    length = last.unsqueeze(1)
    return (left * length).round().long(), (right * length).round().long()


def alphas_bar(noise: Noise, timesteps: int) -> Float[Tensor, " timesteps"]:
    """Return ᾱ_t, the share of the signal's variance that is left at each timestep.

    Args:
        noise: `linear`: β rises from 1e-4 to 0.02 over 1,000 timesteps, and faster over fewer.
            `cosine`: ᾱ_t falls as the square of a cosine.
        timesteps: Number of timesteps.
    """
    if noise == "linear":
        faster = 1000 / timesteps
        low, high = (beta * faster for beta in LINEAR_BETAS)
        beta = torch.linspace(low, high, timesteps, dtype=torch.float64).clamp(max=LARGEST_BETA)
    else:
        at = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        left = torch.cos((at + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        beta = (1 - left[1:] / left[:-1]).clamp(max=LARGEST_BETA)
    return (1 - beta).cumprod(dim=0).float()


class Diffusion(nn.Module):
    """Eq. 1, z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε, and DDIM back from it.

    Args:
        noise: See `alphas_bar`.
        timesteps: Timesteps of the forward process.
        steps: Steps of the way back, at most as many.
    """

    alpha_bar: Tensor

    def __init__(self, noise: Noise, *, timesteps: int, steps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.register_buffer("alpha_bar", alphas_bar(noise, timesteps), persistent=False)
        self.times = [timesteps - 1 - timesteps * step // steps for step in range(steps)]

    def signal_share(self, time: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """Return √ᾱ_t, the s of eqs. 3 and 6: 1 without noise, near 0 at the last timestep."""
        return self.alpha_bar[time].sqrt()

    def add_noise(self, signal: Signal, noise: Signal, time: Int[Tensor, " batch"]) -> Signal:
        """Return the signal at a timestep of the forward process (eq. 1)."""
        alpha = self.alpha_bar[time][:, None, None]
        return alpha.sqrt() * signal + (1 - alpha).sqrt() * noise

    def step_back(
        self, noisy: Signal, predicted: Signal, time: int, earlier: int, noise: Signal
    ) -> Signal:
        """Go from the signal at a timestep to that at an earlier one (DDIM, eq. 12, with η = 1).

        Args:
            noisy: z_t.
            predicted: The network's prediction of z_0.
            time: t.
            earlier: The timestep to go to, 0 to t − 1.
            noise: Fresh noise.
        """
        alpha, wanted = self.alpha_bar[time], self.alpha_bar[earlier]
        direction = (noisy - alpha.sqrt() * predicted) / (1 - alpha).sqrt()
        fresh = (1 - wanted) / (1 - alpha) * (1 - alpha / wanted)  # σ²
        kept = (1 - wanted - fresh).clamp(min=0)
        return wanted.sqrt() * predicted + kept.sqrt() * direction + fresh.sqrt() * noise

    def sample(
        self,
        noise: Float[Tensor, "steps batch noisy 2"],
        predict: Callable[[Signal, int], Signal],
    ) -> None:
        """Reason from pure noise to entities.

        Args:
            noise: One for the start, and a fresh one for each further step.
            predict: Called at each step with z_t and t; returns its prediction of z_0.
        """
        noisy = noise[0]
        for step, time in enumerate(self.times):
            predicted = predict(noisy, time)
            if step + 1 < len(self.times):
                earlier = self.times[step + 1]
                noisy = self.step_back(noisy, predicted, time, earlier, noise[step + 1])


def seeded_noise(
    seeds: Sequence[int], *, spans: int, steps: int
) -> Float[Tensor, "steps batch noisy 2"]:
    """Draw standard normal noise that depends on each post's seed alone, on the CPU."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.randn(steps, spans, 2, generator=generator))
    return torch.stack(drawn, dim=1)
