"""The 512-colour alphabet of the core: 3 bits a channel (section 3 of the paper)."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from colorize_cli.config import LEVELS, NUM_LEVELS

STEP = NUM_LEVELS // LEVELS  # 32 fine levels in a coarse one

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def rgb_to_levels(rgb: Array) -> Array:
    """RGB, 0..255, to coarse levels 0..7 of the same shape and type."""
    return rgb // STEP


def rgb_to_bins(rgb: Array) -> Array:
    """RGB `(..., 3)`, 0..255 of a wide integer type to bins `(...)`, 0..511: `64*r + 8*g + b` of levels."""
    levels = rgb_to_levels(rgb)
    bins: Array = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
    return bins


def bins_to_levels(bins: Array) -> Array:
    """Bins `(...)`, 0..511, to coarse levels `(..., 3)`, 0..7."""
    if isinstance(bins, torch.Tensor):
        return torch.stack([bins // LEVELS**2, bins // LEVELS % LEVELS, bins % LEVELS], dim=-1)
    return np.stack([bins // LEVELS**2, bins // LEVELS % LEVELS, bins % LEVELS], axis=-1)


def bins_to_rgb(bins: Array) -> Array:
    """Bins `(...)`, 0..511, to RGB `(..., 3)`: the lower edge of each level, 0, 32, ..., 224."""
    return bins_to_levels(bins) * STEP


def bin_centers(bins: Array) -> Array:
    """Bins `(...)`, 0..511, to RGB `(..., 3)`: the middle of each level, 16, 48, ..., 240."""
    return bins_to_rgb(bins) + STEP // 2
