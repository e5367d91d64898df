"""The diffusion of entity boundaries: noise, how much of it when, and the way back.

Ho et al. 2020, "Denoising Diffusion Probabilistic Models" (DDPM), for the forward process; Song et
al. 2021, "Denoising Diffusion Implicit Models" (DDIM), for the way back in a few steps; Shen et al.
2023, "DiffusionNER: Boundary Diffusion for Named Entity Recognition", for doing it to boundaries.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mnerfeat.heads.dpe.spans import Signal

Noise = Literal["linear", "cosine"]

LINEAR_BETAS = (1e-4, 0.02)
"""Smallest and largest β of the linear schedule over 1,000 timesteps (DDPM, section 4)."""
COSINE_OFFSET = 0.008
LARGEST_BETA = 0.999
"""Of the cosine schedule (Nichol and Dhariwal 2021, "Improved DDPM", section 3.2)."""


def alphas_bar(noise: Noise, timesteps: int) -> Float[Tensor, " timesteps"]:
    """ᾱ_t, the share of the signal's variance that is left at each timestep.

    Args:
        noise: `linear`: β rises from 1e-4 to 0.02 over 1,000 timesteps, and faster over fewer.
            `cosine`: ᾱ_t falls as the square of a cosine.
        timesteps: How many.
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
    """Eq. 1 of DPE-MNER, z_t = √ᾱ_t z_0 + √(1 − ᾱ_t) ε, and DDIM back from it.

    Args:
        noise: See `alphas_bar`.
        timesteps: Of the forward process.
        steps: Of the way back, at most as many.
    """

    alpha_bar: Tensor

    def __init__(self, noise: Noise, *, timesteps: int, steps: int) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.register_buffer("alpha_bar", alphas_bar(noise, timesteps), persistent=False)
        # Evenly from the last timestep down to −1, which stands for no noise at all.
        self.times = [timesteps - 1 - timesteps * step // steps for step in range(steps)]

    def signal_share(self, time: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """√ᾱ_t, the s of the fusion's schedules: 1 without noise, near 0 at the last timestep."""
        return self.alpha_bar[time].sqrt()

    def add_noise(self, signal: Signal, noise: Signal, time: Int[Tensor, " batch"]) -> Signal:
        """Eq. 1: the signal at a timestep of the forward process."""
        alpha = self.alpha_bar[time][:, None, None]
        return alpha.sqrt() * signal + (1 - alpha).sqrt() * noise

    def step_back(
        self, noisy: Signal, predicted: Signal, time: int, earlier: int, noise: Signal
    ) -> Signal:
        """From the signal at a timestep to that at an earlier one (DDIM, eq. 12, with η = 1).

        Args:
            noisy: z_t.
            predicted: What z_0 seems to be.
            time: t.
            earlier: The timestep to go to, from 0 to t − 1.
            noise: Fresh.
        """
        alpha, wanted = self.alpha_bar[time], self.alpha_bar[earlier]
        seeming = (noisy - alpha.sqrt() * predicted) / (1 - alpha).sqrt()
        fresh = (1 - wanted) / (1 - alpha) * (1 - alpha / wanted)  # σ²
        kept = (1 - wanted - fresh).clamp(min=0)
        return wanted.sqrt() * predicted + kept.sqrt() * seeming + fresh.sqrt() * noise

    def sample(
        self,
        noise: Float[Tensor, "steps batch noisy 2"],
        predict: Callable[[Signal, int], Signal],
    ) -> None:
        """Reason from pure noise to entities.

        Args:
            noise: One for the beginning, and a fresh one for each further step.
            predict: Called at each step with z_t and t; gives z_0 as far as it can tell.
        """
        noisy = noise[0]
        for step, time in enumerate(self.times):
            predicted = predict(noisy, time)
            if step + 1 < len(self.times):
                earlier = self.times[step + 1]
                noisy = self.step_back(noisy, predicted, time, earlier, noise[step + 1])


def noise_of(
    seeds: Sequence[int], *, spans: int, steps: int
) -> Float[Tensor, "steps batch noisy 2"]:
    """Standard normal noise that depends on each post's seed alone, on the CPU."""
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.randn(steps, spans, 2, generator=generator))
    return torch.stack(drawn, dim=1)


class TimeEmbedding(nn.Module):
    """E_t: sines and cosines of the timestep, through two linear layers (as in DDPM).

    Args:
        d_model: Size of the embedding.
    """

    rates: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        half = (d_model + 1) // 2
        rates = torch.exp(-math.log(10_000) * torch.arange(half) / max(1, half - 1))
        self.register_buffer("rates", rates, persistent=False)
        self.layers = nn.Sequential(
            nn.Linear(2 * half, d_model), nn.GELU(), nn.Linear(d_model, d_model)
        )

    def forward(self, time: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_model"]:
        """One vector a post, to be added to each of its spans."""
        angles = time.unsqueeze(1) * self.rates
        embedded: Tensor = self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))
        return embedded
