import numpy as np
import torch

from mnerfeat.preference.discriminator import (
    REWARD_BATCH,
    Discriminator,
    DiscriminatorConfig,
    compute_rewards,
)


def test_a_reward_depends_on_its_pair_alone_to_the_last_bit():
    torch.manual_seed(0)
    module = Discriminator(DiscriminatorConfig(), d_clip_text=8, d_clip_image=8).eval()
    rng = np.random.default_rng(0)
    texts, images = rng.normal(size=(2, 5000, 8)).astype(np.float16)
    n = 2 * REWARD_BATCH + 3
    text, image = rng.integers(5000, size=(2, n))
    rewards = compute_rewards(module, texts, images, text, image)
    order = rng.permutation(n)
    assert (
        compute_rewards(module, texts, images, text[order], image[order]) == rewards[order]
    ).all()
    for one in (0, REWARD_BATCH, n - 1):
        alone = compute_rewards(module, texts, images, text[one : one + 1], image[one : one + 1])
        assert alone[0] == rewards[one]
    with torch.no_grad():
        wanted = module(
            torch.from_numpy(texts[text]).float(), torch.from_numpy(images[image]).float()
        )
    np.testing.assert_allclose(rewards, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_no_pairs_give_no_rewards():
    module = Discriminator(DiscriminatorConfig(), d_clip_text=2, d_clip_image=2).eval()
    none = np.zeros(0, np.int64)
    assert compute_rewards(module, np.zeros((1, 2)), np.zeros((1, 2)), none, none).shape == (0,)
