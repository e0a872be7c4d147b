"""Weights of one canvas size made to fit another: decoders learn at 32x32 four times faster than at 64x64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_canvas(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with positions, relative biases and spatial averages interpolated to the shapes of `expected`.

    Tensors of other names stay as they are: a strict load then says what does not fit.
    """
    return {
        name: resized(name, tensor, expected[name].shape) if name in expected else tensor
        for name, tensor in state.items()
    }


def resized(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """One tensor for a canvas of another size, if its name is of a part that depends on the canvas."""
    if tensor.shape == shape:
        return tensor
    if name.endswith("positions.rows"):  # (H, 1, D)
        return F.interpolate(tensor.permute(1, 2, 0), shape[0], mode="linear").permute(2, 0, 1)
    if name.endswith("positions.columns"):  # (W, D)
        return F.interpolate(tensor.T[None], shape[0], mode="linear")[0].T
    if name.endswith("spatial_average"):  # (1, H, W, 1)
        enlarged = F.interpolate(tensor.permute(0, 3, 1, 2), tuple(shape[1:3]), mode="bilinear")
        return enlarged.permute(0, 2, 3, 1)
    if name.endswith("relative_bias"):
        return resized_bias(tensor, shape[1] // 2)
    return tensor


def resized_bias(bias: Tensor, length: int) -> Tensor:
    """A table `(heads, 2 * L)` of relative biases for lines of another length: the same share of it, the same bias.

    Entry `offset + L - 1` is of a key that lies `offset` pixels on; the last one is never read.
    """
    old = bias.shape[1] // 2
    offset = torch.arange(1 - length, length + 1) * (old / length)
    place = (offset + old - 1).clamp(0, 2 * old - 2)
    below = place.floor().long().clamp(max=2 * old - 3)
    return torch.lerp(bias[:, below], bias[:, below + 1], place - below)
