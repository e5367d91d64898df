"""The network of MANIQA: pyiqa's modules and weights, without the parts that nothing reads.

Yang et al. 2022, MANIQA: Multi-dimension Attention Network for No-Reference Image Quality
Assessment (CVPR Workshops). Differs from pyiqa in three ways that change scores by rounding only:
the ViT stops after block 9, because only blocks 6 to 9 of twelve are read; Wqᵀ Wk of the transposed
attention is multiplied once, because queries and keys only meet as a product; and the ViT's own
pretrained weights are not downloaded, because the checkpoint holds all of them.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mnerfeat.errors import ModelError

_SIDE = 28  # patches: 224 pixels in patches of 8
_PATCHES = _SIDE * _SIDE
_BLOCKS = (6, 7, 8, 9)
_MLP_WIDTH = 768  # of the Swin layers


class ManiqaNetwork(nn.Module):
    """Computes the score and the weight of each patch of a crop.

    Modules are named as in pyiqa's checkpoints.

    Args:
        vit: A ViT of timm with 28 × 28 patches and at least ten blocks.
        scale: Scale of the residual branches of the Swin layers: 0.8 for the checkpoints trained
            on KonIQ-10k and KADID-10k, 0.13 for the one trained on PIPAL.
    """

    def __init__(self, vit: Any, scale: float) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pyiqa.archs.maniqa_arch import TABlock  # noqa: PLC0415
            from pyiqa.archs.maniqa_swin import SwinTransformer  # noqa: PLC0415

        def swin(width: int) -> nn.Module:
            made: nn.Module = SwinTransformer(
                patches_resolution=(_SIDE, _SIDE),
                depths=[2, 2],
                num_heads=[4, 4],
                embed_dim=width,
                window_size=4,
                dim_mlp=_MLP_WIDTH,
                scale=scale,
            )
            return made

        def head(last: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(half, half), nn.ReLU(), nn.Dropout(), nn.Linear(half, 1), last
            )

        width, half = vit.embed_dim, vit.embed_dim // 2
        self.vit = vit
        self.tablock1 = nn.ModuleList(TABlock(_PATCHES) for _ in range(2))
        self.conv1 = nn.Conv2d(width * len(_BLOCKS), width, 1)
        self.swintransformer1 = swin(width)
        self.tablock2 = nn.ModuleList(TABlock(_PATCHES) for _ in range(2))
        self.conv2 = nn.Conv2d(width, half, 1)
        self.swintransformer2 = swin(half)
        self.fc_score = head(nn.ReLU())
        self.fc_weight = head(nn.Sigmoid())

    def fold(self) -> None:
        """Multiply Wqᵀ Wk, and drop the blocks that nothing reads."""
        for blocks in (self.tablock1, self.tablock2):
            for i, block in enumerate(blocks):
                blocks[i] = FoldedAttention(block)
        self.vit.blocks = self.vit.blocks[: _BLOCKS[-1] + 1]
        self.vit.norm = self.vit.head = nn.Identity()

    def forward(self, crops: Float[Tensor, "crops 3 224 224"]) -> Float[Tensor, "crops 2 784"]:
        """Return scores (at least 0, no upper bound) and weights (0 to 1) of patches.

        Args:
            crops: RGB in [-1, 1].
        """
        states = self.vit.forward_intermediates(
            crops,
            indices=list(_BLOCKS),
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        x = torch.cat(states, dim=2).transpose(1, 2)  # (crops, channels, patches)
        for block in self.tablock1:
            x = block(x)
        x = self.swintransformer1(self.conv1(_grid(x))).flatten(2)
        for block in self.tablock2:
            x = block(x)
        x = self.swintransformer2(self.conv2(_grid(x))).flatten(2)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().transpose(1, 2)  # (crops, patches, channels)
            return torch.stack([self.fc_score(x)[..., 0], self.fc_weight(x)[..., 0]], dim=1)


def _grid(x: Float[Tensor, "crops channels patches"]) -> Float[Tensor, "crops channels 28 28"]:
    return x.reshape(*x.shape[:2], _SIDE, _SIDE)


class FoldedAttention(nn.Module):
    """The transposed attention block with Wqᵀ Wk multiplied once.

    Terms that are equal for all keys cancel in the softmax, so only the query's projection to the
    keys and the query's bias remain.

    Args:
        block: pyiqa's `TABlock`.
    """

    key_from_query: Tensor
    key_from_bias: Tensor

    def __init__(self, block: Any) -> None:
        super().__init__()
        query, key = block.c_q, block.c_k
        with torch.no_grad():
            product = key.weight.double().T @ query.weight.double()
            bias = key.weight.double().T @ query.bias.double()
        self.register_buffer("key_from_query", product.float())
        self.register_buffer("key_from_bias", bias.float())
        self.value = block.c_v
        self.scale = float(block.norm_fact)

    def forward(
        self, x: Float[Tensor, "crops channels patches"]
    ) -> Float[Tensor, "crops channels patches"]:
        """Add attention between channels to `x`."""
        query = functional.linear(x, self.key_from_query, self.key_from_bias)
        attended = functional.scaled_dot_product_attention(
            query[:, None], x[:, None], self.value(x)[:, None], scale=self.scale
        )[:, 0]
        # The transpose before the reshape mixes channels and patches; the weights expect it so.
        return x + attended.transpose(1, 2).reshape(x.shape)


def load_maniqa(weights: Mapping[str, Tensor], path: Path, *, scale: float) -> ManiqaNetwork:
    """Load the network from a checkpoint, ready for inference.

    Args:
        weights: State dictionary of the checkpoint.
        path: Path of the checkpoint, for messages.
        scale: See `ManiqaNetwork`.

    Raises:
        ModelError: The weights are not MANIQA's.
    """
    import timm  # noqa: PLC0415

    vit = timm.create_model("vit_base_patch8_224", pretrained=False, weight_init="skip")
    network = ManiqaNetwork(vit, scale)
    try:
        network.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        faults = [line.strip() for line in str(error).splitlines()[1:]]
        raise ModelError(
            f"quality: {path} does not hold the weights of MANIQA:",
            faults=faults,
            hint="use a checkpoint of pyiqa: ckpt_koniq10k.pt, ckpt_kadid10k.pt or "
            "MANIQA_PIPAL-ae6d356b.pth",
        ) from error
    network.fold()
    return network.eval().requires_grad_(requires_grad=False)
