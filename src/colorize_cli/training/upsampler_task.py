"""What an upsampler learns from: its batches, its loss and its validation figures."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_cli.config import CORE_SIZE, NUM_LEVELS
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import ChannelUpsampler, SpatialUpsampler
from colorize_cli.palette import bin_centers, bins_to_levels, rgb_to_bins, rgb_to_levels
from colorize_cli.photo import backbone_view, squash
from colorize_cli.training.batches import (
    BITS,
    Source,
    StepRandom,
    chosen,
    contact_sheet,
    draw_photo,
    draw_windows,
)
from colorize_cli.training.data import PhotoCache, age, crop, luma


class UpsamplerTask:
    """Either upsampler: one random channel of each photo, given its true coarse image or one drawn near it."""

    def __init__(
        self,
        sources: list[Source],
        validation: dict[str, PhotoCache],
        *,
        batch: int,
        window: int,
        soften: float = 0.0,
        core: ColTranCore | None = None,
        drawn_share: float = 0.3,
        aged: float = 1.0,
        device: str = "cpu",
        validation_photos: int = 24,
        sheet_photos: int = 4,
        seed: int = 0,
    ) -> None:
        self.sources, self.validation, self.batch, self.window = sources, validation, batch, window
        self.soften, self.validation_photos, self.seed = soften, validation_photos, seed
        self.core, self.drawn_share, self.aged = core, drawn_share, aged
        self.sheet_photos, self.device = sheet_photos, torch.device(device)

    def sample(
        self, model: ChannelUpsampler, photo: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels in `(S, S, 3)` int64, gray `(S, S)` and the true RGB `(S, S, 3)` uint8 at the stage's size."""
        size = model.config.resolution
        if rng is None:
            rgb = squash(photo, size)
        else:
            rgb = age(crop(photo, rng, size, 0.3), rng, self.aged)
        gray = luma(rgb)
        if not isinstance(model, SpatialUpsampler):
            if rng is not None and self.core is not None and rng.random() < self.drawn_share:
                return self.drawn(rgb, gray, rng), gray, rgb
            return rgb_to_levels(rgb.astype(np.int64)), gray, rgb
        small = squash(rgb, CORE_SIZE).astype(np.int64)
        if rng is not None and rng.random() < 0.7:  # what the colour upsampler gives is not the exact small photo
            guess = bin_centers(rgb_to_bins(small))
            small = np.rint(small + (guess - small) * rng.uniform(0, 0.7) * rng.uniform(0, 1, (1, 1, 3)))
            small = (small + rng.normal(0, rng.uniform(0, 5), small.shape)).clip(0, 255).round().astype(np.int64)
        levels = model.enlarge(torch.from_numpy(small)[None], torch.from_numpy(gray.astype(np.int64))[None])
        return levels[0].numpy(), gray, rgb

    @torch.no_grad()
    def drawn(self, rgb: np.ndarray, gray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Coarse levels `(S, S, 3)` drawn by the core, each pixel given the true ones before it.

        So the stage sees the core's own mistakes and learns to forgive them, under a truth that still belongs to them.
        """
        assert self.core is not None
        eye = torch.from_numpy(backbone_view(gray).copy()[None]).to(self.device)
        bins = torch.from_numpy(rgb_to_bins(rgb.astype(np.int64))[None]).to(self.device)
        grays = torch.from_numpy(gray.astype(np.int64)[None]).to(self.device)
        logits = self.core.decode(self.core.encode(grays, eye), bins)[0].float().cpu().numpy()  # (S, S, 512)
        colors: np.ndarray = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        return bins_to_levels(colors)

    def loss(self, model: nn.Module, step: int, places: range) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy in bits per dimension of a window of one channel a photo."""
        assert isinstance(model, ChannelUpsampler)
        random = StepRandom(self.seed, step)
        (window,) = draw_windows(random.shared, model.config.resolution, [self.window])
        symbols, grays, targets = [], [], []
        for place in places:
            rng = random.of_photo(place)
            levels, gray, rgb = self.sample(model, draw_photo(self.sources, rng), rng)
            channel = int(rng.integers(3))
            symbols.append(levels[..., channel] + channel * model.levels)
            grays.append(gray)
            targets.append(rgb[..., channel])
        tensors = (torch.from_numpy(np.stack(x)).long().to(self.device) for x in (symbols, grays, targets))
        seen, context, truth = (window.cut(x) for x in tensors)
        logits = model.channel_logits(seen, context, window).flatten(0, 2).float()
        bits = F.cross_entropy(logits, truth.flatten()) * BITS
        total = bits
        if self.soften > 0:  # also the error of the mean level: near misses are cheaper than far ones
            total = bits + self.soften * F.smooth_l1_loss(mean_level(logits), truth.flatten().float(), beta=4.0)
        return total, {"bits_per_dim": bits.item()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Bits per dimension, and PSNR of the mean and of the most likely level in dB."""
        assert isinstance(model, ChannelUpsampler)
        figures: dict[str, float] = {}
        for name, photos in self.validation.items():
            if min(photos.places[0, 1:]) < model.config.resolution:
                continue
            bits, mean_error, argmax_error = [], [], []
            for number in chosen(photos, self.validation_photos):
                levels, gray, rgb = self.sample(model, photos[number], None)
                symbols, grays, truths = self.channels(model, levels, gray, rgb)
                for symbol, truth in zip(symbols, truths, strict=True):
                    logits = model.channel_logits(symbol[None], grays).flatten(0, 2).float()
                    bits.append(F.cross_entropy(logits, truth).item() * BITS)
                    mean_error.append(((mean_level(logits) - truth) ** 2).mean().item())
                    argmax_error.append(((logits.argmax(-1) - truth).float() ** 2).mean().item())
            figures[f"{name}_bits_per_dim"] = float(np.mean(bits))
            figures[f"{name}_mean_psnr"] = 10 * math.log10(255**2 / np.mean(mean_error))
            figures[f"{name}_argmax_psnr"] = 10 * math.log10(255**2 / np.mean(argmax_error))
        return figures

    def channels(
        self, model: ChannelUpsampler, levels: np.ndarray, gray: np.ndarray, rgb: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols `(3, S, S)`, gray `(1, S, S)` and true levels `(3, S * S)`, all int64."""
        symbols = model.symbols(torch.from_numpy(levels)[None].to(self.device))[0]
        truths = torch.from_numpy(rgb.astype(np.int64)).permute(2, 0, 1).flatten(1).to(self.device)
        return symbols, torch.from_numpy(gray.astype(np.int64))[None].to(self.device), truths

    @torch.no_grad()
    def sheet(self, model: nn.Module) -> np.ndarray | None:
        """Gray, truth, what the stage is fed, and what it gives."""
        assert isinstance(model, ChannelUpsampler)
        rows = []
        for photos in self.validation.values():
            for number in chosen(photos, self.sheet_photos):
                levels, gray, rgb = self.sample(model, photos[number], None)
                grays = torch.from_numpy(gray.astype(np.int64))[None].to(self.device)
                given = model.upsample(torch.from_numpy(levels)[None].to(self.device), grays)[0].cpu().numpy()
                fed = (levels * (NUM_LEVELS // model.levels)).astype(np.uint8)
                rows.append([gray, rgb, fed, given])
        return contact_sheet(rows) if rows else None


def mean_level(logits: Tensor) -> Tensor:
    """The expected level `(N,)` of logits `(N, 256)`."""
    return logits.softmax(-1) @ torch.arange(NUM_LEVELS, dtype=logits.dtype, device=logits.device)
