"""The diffusion against its closed form, simulation, and a predictor that is always right."""

import math

import pytest
import torch

from mnerfeat.heads.dpe.diffusion import (
    Diffusion,
    alphas_bar,
    seeded_noise,
    to_signal,
    to_words,
)
from mnerfeat.heads.dpe.network import TimeEmbedding


def betas(noise: str, timesteps: int) -> list[float]:
    """DDPM's linear schedule, and the cosine one of Improved DDPM, one by one."""
    if noise == "linear":
        scale = 1000 / timesteps
        low, high = 1e-4 * scale, 0.02 * scale
        return [min(low + (high - low) * t / (timesteps - 1), 0.999) for t in range(timesteps)]

    def left(t: float) -> float:
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - left(t + 1) / left(t), 0.999) for t in range(timesteps)]


@pytest.mark.parametrize("noise", ["linear", "cosine"])
@pytest.mark.parametrize("timesteps", [5, 100, 1000])
def test_the_share_that_is_left_is_the_product_of_what_each_step_leaves(noise, timesteps):
    product, wanted = 1.0, []
    for beta in betas(noise, timesteps):
        product *= 1 - beta
        wanted.append(product)
    got = alphas_bar(noise, timesteps)
    torch.testing.assert_close(got, torch.tensor(wanted), rtol=1e-5, atol=1e-12)
    assert got[0] > got[-1]


@pytest.mark.parametrize("noise", ["linear", "cosine"])
def test_noise_in_one_go_is_distributed_as_noise_step_by_step(noise):
    timesteps, many = 12, 200_000
    diffusion = Diffusion(noise, timesteps=timesteps, steps=2)
    torch.manual_seed(0)
    start = torch.tensor([0.7, -0.4]).expand(1, many, 2)
    walked = start
    for time, beta in enumerate(betas(noise, timesteps)):
        walked = (1 - beta) ** 0.5 * walked + beta**0.5 * torch.randn(1, many, 2)
        jumped = diffusion.add_noise(start, torch.randn(1, many, 2), torch.tensor([time]))
        torch.testing.assert_close(walked.mean(1), jumped.mean(1), rtol=0, atol=0.02)
        torch.testing.assert_close(walked.std(1), jumped.std(1), rtol=0, atol=0.02)


def test_adding_noise_is_equation_1_for_each_post():
    diffusion = Diffusion("linear", timesteps=1000, steps=5)
    signal, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    times = [0, 500, 999]
    got = diffusion.add_noise(signal, noise, torch.tensor(times))
    for post, time in enumerate(times):
        alpha = float(diffusion.alpha_bar[time])
        wanted = alpha**0.5 * signal[post] + (1 - alpha) ** 0.5 * noise[post]
        torch.testing.assert_close(got[post], wanted)
        assert float(diffusion.signal_share(torch.tensor([time]))) == pytest.approx(alpha**0.5)


def test_reasoning_takes_the_papers_five_timesteps():
    assert Diffusion("linear", timesteps=1000, steps=5).times == [999, 799, 599, 399, 199]
    assert Diffusion("linear", timesteps=10, steps=3).times == [9, 6, 3]
    assert Diffusion("linear", timesteps=4, steps=4).times == [3, 2, 1, 0]


def test_one_timestep_back_is_the_posterior_of_ddpm():
    """With η = 1, DDIM is DDPM (eqs. 6 and 7 there)."""
    timesteps = 20
    diffusion = Diffusion("linear", timesteps=timesteps, steps=2)
    each = betas("linear", timesteps)
    bar = diffusion.alpha_bar.double().tolist()
    predicted, noisy = torch.randn(1, 6, 2), torch.randn(1, 6, 2)
    for time in range(1, timesteps):
        zero = torch.zeros_like(noisy)
        mean = diffusion.step_back(noisy, predicted, time, time - 1, zero)
        spread = diffusion.step_back(noisy, predicted, time, time - 1, zero + 1) - mean
        wanted = (
            bar[time - 1] ** 0.5 * each[time] / (1 - bar[time]) * predicted
            + (1 - each[time]) ** 0.5 * (1 - bar[time - 1]) / (1 - bar[time]) * noisy
        )
        torch.testing.assert_close(mean, wanted, rtol=1e-3, atol=1e-4)
        variance = (1 - bar[time - 1]) / (1 - bar[time]) * each[time]
        torch.testing.assert_close(spread, zero + variance**0.5, rtol=1e-3, atol=1e-4)


def test_with_a_perfect_predictor_each_step_is_as_noisy_as_its_timestep():
    diffusion = Diffusion("linear", timesteps=1000, steps=5)
    many, gold = 100_000, torch.tensor([0.3, -0.8])
    torch.manual_seed(1)
    seen = []

    def predict(noisy, time):
        seen.append((time, noisy))
        return gold.expand_as(noisy)

    diffusion.sample(torch.randn(5, 1, many, 2), predict)
    assert [time for time, _ in seen] == diffusion.times
    for time, noisy in seen:
        alpha = float(diffusion.alpha_bar[time])
        torch.testing.assert_close(noisy.mean(1)[0], alpha**0.5 * gold, rtol=0, atol=0.02)
        spread = torch.full((2,), (1 - alpha) ** 0.5)
        torch.testing.assert_close(noisy.std(1)[0], spread, rtol=0, atol=0.02)


def test_little_noise_leaves_the_gold_spans():
    diffusion = Diffusion("linear", timesteps=1000, steps=5)
    left, right = torch.tensor([[2, 0, 7, 5]]), torch.tensor([[4, 0, 9, 5]])
    length = torch.tensor([9])
    signal = to_signal(left, right, length, scale=1.0)
    noisy = diffusion.add_noise(signal, torch.randn(1, 4, 2) * 0.5, torch.tensor([0]))
    assert [x.tolist() for x in to_words(noisy, length, scale=1.0)] == [
        left.tolist(),
        right.tolist(),
    ]


def test_noise_depends_on_a_posts_seed_alone():
    seeds = [5, 2**62 + 1, 0]
    together = seeded_noise(seeds, spans=7, steps=3)
    assert together.shape == (3, 3, 7, 2)
    for place, seed in enumerate(seeds):
        assert torch.equal(seeded_noise([seed], spans=7, steps=3)[:, 0], together[:, place])
    assert len({float(x) for x in together[0, :, 0, 0]}) == 3


@pytest.mark.parametrize("size", [1, 7, 16])
def test_timesteps_have_different_embeddings(size):
    torch.manual_seed(0)
    embedded = TimeEmbedding(size)(torch.tensor([0, 199, 999, 199]))
    assert embedded.shape == (4, size)
    torch.testing.assert_close(embedded[1], embedded[3])
    for other in (0, 2):
        assert (embedded[1] - embedded[other]).abs().max() > 1e-3
