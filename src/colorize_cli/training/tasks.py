"""What each stage learns from: its batches, its loss and its validation numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_cli.config import CORE_SIZE, NUM_COLORS, NUM_LEVELS
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.layers import Window
from colorize_cli.models.upsamplers import ChannelUpsampler, SpatialUpsampler
from colorize_cli.palette import bins_to_rgb, rgb_to_bins, rgb_to_levels
from colorize_cli.photo import squash
from colorize_cli.training.data import PhotoCache, age, core_sample, crop, luma

BITS = 1 / math.log(2)


@dataclass(frozen=True)
class Source:
    """A cache of photographs and its share of every batch."""

    photos: PhotoCache
    share: float


class Task(Protocol):
    """One stage's training."""

    def loss(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of training step `step`, a function of the seed and the step alone, and figures to log."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Validation figures; lower is better."""


def draw_photos(sources: list[Source], rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """`count` photos, each from a source drawn by its share."""
    shares = np.array([source.share for source in sources])
    picked = rng.choice(len(sources), size=count, p=shares / shares.sum())
    return [sources[i].photos[int(rng.integers(len(sources[i].photos)))] for i in picked]


def draw_window(rng: np.random.Generator, size: int, side: int) -> Window:
    """A piece of a `size` x `size` canvas with the area of a square of `side`: that square, or a strip of full length.

    The strips show attention all distances at the price of the square.
    """
    strip = max(1, side * side // size)
    height, width = ((side, side), (size, strip), (strip, size))[int(rng.integers(3))]
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    return Window(top, left, height, width)


def count_table(sources: list[Source], photos: int = 4000, seed: int = 0) -> Tensor:
    """Log-probability of each colour given the gray, `(256, 512)`, counted and smoothed over neighbouring grays."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((NUM_LEVELS, NUM_COLORS))
    for photo in draw_photos(sources, rng, photos):
        gray, _, rgb = core_sample(photo, None)
        np.add.at(counts, (gray.ravel(), rgb_to_bins(rgb.astype(np.int64)).ravel()), 1)
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.5) ** 2)
    counts = np.apply_along_axis(lambda c: np.convolve(c, kernel, mode="same"), 0, counts)
    probability = (counts + 1e-4) / (counts + 1e-4).sum(axis=1, keepdims=True)
    return torch.from_numpy(np.log(probability)).float()


class CoreTask:
    """The core. Phase "encoder" trains the parallel head alone, "decoders" the decoders on a frozen encoder,
    "joint" everything."""

    def __init__(
        self,
        sources: list[Source],
        validation: dict[str, PhotoCache],
        *,
        batch: int,
        phase: str,
        window: int = CORE_SIZE,
        parallel_weight: float = 0.01,
        drop_colors: float = 0.0,
        validation_photos: int = 96,
        seed: int = 0,
    ) -> None:
        self.sources, self.validation, self.batch = sources, validation, batch
        self.phase, self.window, self.parallel_weight = phase, window, parallel_weight
        self.drop_colors, self.validation_photos, self.seed = drop_colors, validation_photos, seed

    def tensors(self, samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor, Tensor]:
        """Gray `(B, 64, 64)` int, backbone gray `(B, 192, 192)` uint8, bins `(B, 64, 64)` int64."""
        gray = torch.from_numpy(np.stack([s[0] for s in samples])).int()
        eye = torch.from_numpy(np.stack([s[1] for s in samples]))
        rgb = torch.from_numpy(np.stack([s[2] for s in samples])).long()
        return gray, eye, rgb_to_bins(rgb)

    def encode(self, model: ColTranCore, gray: Tensor, eye: Tensor, window: Window | None = None) -> Tensor:
        """The gray context; the backbone's gradient only where its weights ask for it."""
        maps = None
        if model.backbone is not None:
            learns = next(model.backbone.parameters()).requires_grad and torch.is_grad_enabled()
            with torch.set_grad_enabled(learns):
                maps = model.backbone(eye)
        context: Tensor = model.encoder(gray, maps, window)
        return context

    def loss(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        """`(1 - w) * autoregressive + w * parallel` in bits; `w` is 1 in phase "encoder", 0 in "decoders"."""
        assert isinstance(model, ColTranCore)
        rng = np.random.default_rng((self.seed, step))
        photos = draw_photos(self.sources, rng, self.batch)
        gray, eye, bins = self.tensors([core_sample(photo, rng) for photo in photos])
        window = draw_window(rng, CORE_SIZE, self.window)
        with torch.set_grad_enabled(self.phase != "decoders"):
            context = self.encode(model, gray, eye, window)
        gray, bins = window.cut(gray), window.cut(bins)
        figures: dict[str, float] = {}
        total = context.new_zeros((), dtype=torch.float32)
        weight = {"encoder": 1.0, "decoders": 0.0}.get(self.phase, self.parallel_weight)
        if weight > 0:
            logits = model.parallel_logits(context, gray)
            parallel = F.cross_entropy(logits.flatten(0, 2).float(), bins.flatten()) * BITS
            total = total + weight * parallel
            figures["parallel_bits"] = parallel.item()
        if weight < 1:
            logits = model.decode(context, self.corrupt(bins, rng), window)
            bits = F.cross_entropy(logits.flatten(0, 2).float(), bins.flatten()) * BITS
            total = total + (1 - weight) * bits
            figures["bits"] = bits.item()
        return total, figures

    def corrupt(self, bins: Tensor, rng: np.random.Generator) -> Tensor:
        """A share of the decoders' colour inputs replaced by another pixel's colour of the same photo."""
        if self.drop_colors == 0:
            return bins
        flat = bins.flatten(1)
        mask = torch.from_numpy(rng.random(flat.shape) < self.drop_colors)
        other = torch.from_numpy(rng.integers(flat.shape[1], size=flat.shape))
        return torch.where(mask, flat.gather(1, other), flat).view_as(bins)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Bits per pixel of both heads on each validation set."""
        assert isinstance(model, ColTranCore)
        figures: dict[str, float] = {}
        for name, photos in self.validation.items():
            numbers = np.linspace(0, len(photos) - 1, min(self.validation_photos, len(photos))).astype(int)
            bits, parallel, count = 0.0, 0.0, 0
            for start in range(0, len(numbers), 8):
                samples = [core_sample(photos[i], None) for i in numbers[start : start + 8]]
                gray, eye, bins = self.tensors(samples)
                context = self.encode(model, gray, eye)
                logits = model.parallel_logits(context, gray).flatten(0, 2).float()
                parallel += F.cross_entropy(logits, bins.flatten()).item() * BITS * len(samples)
                if self.phase != "encoder":
                    logits = model.decode(context, bins).flatten(0, 2).float()
                    bits += F.cross_entropy(logits, bins.flatten()).item() * BITS * len(samples)
                count += len(samples)
            figures[f"{name}_parallel_bits"] = parallel / count
            if self.phase != "encoder":
                figures[f"{name}_bits"] = bits / count
        return figures


class UpsamplerTask:
    """Either upsampler: one random channel of each photo, given the true coarse image."""

    def __init__(
        self,
        sources: list[Source],
        validation: dict[str, PhotoCache],
        *,
        batch: int,
        window: int,
        soften: float = 0.0,
        validation_photos: int = 24,
        seed: int = 0,
    ) -> None:
        self.sources, self.validation, self.batch, self.window = sources, validation, batch, window
        self.soften, self.validation_photos, self.seed = soften, validation_photos, seed

    def sample(
        self, model: ChannelUpsampler, photo: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, ...]:
        """Levels in `(S, S, 3)`, gray `(S, S)` and the true RGB `(S, S, 3)` at the stage's size."""
        size = model.config.resolution
        if rng is None:
            rgb = squash(photo, size)
        else:
            rgb = age(crop(photo, rng, size, 0.3), rng)
        gray = luma(rgb)
        if not isinstance(model, SpatialUpsampler):
            return rgb_to_levels(rgb), gray, rgb
        small = squash(rgb, CORE_SIZE).astype(np.int64)
        if rng is not None and rng.random() < 0.7:  # what the colour upsampler gives is not the exact small photo
            guess = bins_to_rgb(rgb_to_bins(small)) + 16
            small = np.rint(small + (guess - small) * rng.uniform(0, 0.7) * rng.uniform(0, 1, (1, 1, 3)))
            small = (small + rng.normal(0, rng.uniform(0, 5), small.shape)).clip(0, 255).round().astype(np.int64)
        levels = model.enlarge(torch.from_numpy(small)[None], torch.from_numpy(gray.astype(np.int64))[None])
        return levels[0].numpy(), gray, rgb

    def loss(self, model: nn.Module, step: int) -> tuple[Tensor, dict[str, float]]:
        """Cross entropy in bits per dimension of a window of one channel a photo."""
        assert isinstance(model, ChannelUpsampler)
        rng = np.random.default_rng((self.seed, step))
        window = draw_window(rng, model.config.resolution, self.window)
        symbols, grays, targets = [], [], []
        for photo in draw_photos(self.sources, rng, self.batch):
            levels, gray, rgb = self.sample(model, photo, rng)
            channel = int(rng.integers(3))
            symbols.append(levels[..., channel].astype(np.int64) + channel * model.levels)
            grays.append(gray)
            targets.append(rgb[..., channel])
        stacked = [window.cut(torch.from_numpy(np.stack(x)).long()) for x in (symbols, grays, targets)]
        logits = model.channel_logits(stacked[0], stacked[1], window).flatten(0, 2).float()
        truth = stacked[2].flatten()
        bits = F.cross_entropy(logits, truth) * BITS
        total = bits
        if self.soften > 0:  # also the error of the mean level: near misses are cheaper than far ones
            levels256 = torch.arange(NUM_LEVELS, dtype=torch.float32)
            mean = logits.softmax(-1) @ levels256
            total = bits + self.soften * F.smooth_l1_loss(mean, truth.float(), beta=4.0)
        return total, {"bits_per_dim": bits.item()}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Bits per dimension and root mean square error, in levels, of the mean and of the most likely level."""
        assert isinstance(model, ChannelUpsampler)
        figures: dict[str, float] = {}
        levels256 = torch.arange(NUM_LEVELS, dtype=torch.float32)
        for name, photos in self.validation.items():
            if min(photos.places[0, 1:]) < model.config.resolution:
                continue
            numbers = np.linspace(0, len(photos) - 1, min(self.validation_photos, len(photos))).astype(int)
            bits = mean_error = argmax_error = 0.0
            for i in numbers:
                levels, gray, rgb = self.sample(model, photos[i], None)
                symbols = model.symbols(torch.from_numpy(levels.astype(np.int64))[None])[0]
                for channel in range(3):
                    logits = (
                        model.channel_logits(
                            symbols[channel : channel + 1], torch.from_numpy(gray.astype(np.int64))[None]
                        )
                        .flatten(0, 2)
                        .float()
                    )
                    truth = torch.from_numpy(rgb[..., channel].astype(np.int64)).flatten()
                    bits += F.cross_entropy(logits, truth).item() * BITS
                    mean_error += ((logits.softmax(-1) @ levels256 - truth) ** 2).mean().item()
                    argmax_error += ((logits.argmax(-1) - truth).float() ** 2).mean().item()
            count = 3 * len(numbers)
            figures[f"{name}_bits_per_dim"] = bits / count
            figures[f"{name}_mean_psnr"] = 10 * math.log10(255**2 / (mean_error / count))
            figures[f"{name}_argmax_psnr"] = 10 * math.log10(255**2 / (argmax_error / count))
        return figures
