"""What the core learns from: its batches, its loss and its validation figures."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_cli.config import CORE_SIZE, NUM_COLORS
from colorize_cli.models.backbone import MAP_SCALES, EfficientNetLite2
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.rows import project_context
from colorize_cli.palette import bin_centers, rgb_to_bins
from colorize_cli.photo import backbone_view
from colorize_cli.sampling import SampleRequest, decoder_of, draw_samples, noise_stream
from colorize_cli.training.batches import (
    BITS,
    Source,
    StepRandom,
    chosen,
    contact_sheet,
    draw_photo,
    draw_windows,
)
from colorize_cli.training.data import CoreSample, PhotoCache, core_sample

Maps = tuple[Tensor, Tensor, Tensor]  # of the backbone
PARALLEL_WEIGHTS = {"encoder": 1.0, "decoders": 0.0, "joint": 0.01}  # by phase; the paper's is the last


class CoreTask:
    """The core. Phase "encoder" trains the encoder and its parallel head, "decoders" the decoders on a frozen encoder,
    "joint" everything.

    Phase "encoder" with a parallel weight below 1 has the frozen decoders say, too, what they miss in the context.
    """

    def __init__(
        self,
        sources: list[Source],
        validation: dict[str, PhotoCache],
        *,
        batch: int,
        phase: str,
        window: int = CORE_SIZE,
        encoder_window: int | None = None,
        device: str = "cpu",
        parallel_weight: float | None = None,
        drop_colors: float = 0.0,
        drop_maps: float = 0.0,
        aged: float = 1.0,
        teacher: EfficientNetLite2 | None = None,
        distillation: float = 0.0,
        validation_photos: int = 96,
        sheet_photos: int = 4,
        seed: int = 0,
    ) -> None:
        self.sources, self.validation, self.batch = sources, validation, batch
        self.phase, self.window, self.encoder_window = phase, window, max(window, encoder_window or 0)
        if parallel_weight is None or phase == "decoders":  # whose encoder stands still, whatever it is told
            parallel_weight = PARALLEL_WEIGHTS[phase]
        self.parallel_weight = parallel_weight
        self.drop_colors, self.drop_maps, self.aged = drop_colors, drop_maps, aged
        self.validation_photos, self.seed = validation_photos, seed
        self.sheet_photos, self.device = sheet_photos, torch.device(device)
        self.teacher, self.distillation = teacher, distillation

    def stacked(self, pictures: Iterable[np.ndarray]) -> Tensor:
        """Pictures of one size as `(B, ...)` uint8."""
        return torch.from_numpy(np.stack(list(pictures))).to(self.device)

    def tensors(self, samples: list[CoreSample]) -> tuple[Tensor, Tensor, Tensor]:
        """Gray `(B, S, S)` int, backbone gray `(B, E, E)` uint8, bins `(B, S, S)` int64."""
        gray = self.stacked(sample.gray for sample in samples)
        rgb = self.stacked(sample.rgb for sample in samples)
        return gray.int(), self.stacked(sample.eye for sample in samples), rgb_to_bins(rgb.long())

    def look(self, model: ColTranCore, eye: Tensor) -> Maps | None:
        """The backbone's maps, if it has one; their gradient only where its weights ask for it."""
        if model.backbone is None:
            return None
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in model.backbone.parameters())
        with torch.set_grad_enabled(learns):
            maps: Maps = model.backbone(eye)
        return maps

    def blindness(self, maps: Maps, samples: list[CoreSample]) -> Tensor:
        """How far the backbone's maps of gray photos are from its teacher's of the same in colour: mean squares."""
        assert self.teacher is not None
        with torch.no_grad():
            truth = self.teacher(self.stacked(backbone_view(sample.sharp, len(sample.eye)) for sample in samples))
        parts = zip(maps, truth, MAP_SCALES, strict=True)
        return torch.stack([F.mse_loss(gray.float() / s, color.float() / s) for gray, color, s in parts]).sum()

    def loss(self, model: nn.Module, step: int, places: range) -> tuple[Tensor, dict[str, float]]:
        """`(1 - w) * autoregressive + w * parallel` in bits, and what the backbone has to learn from its teacher."""
        assert isinstance(model, ColTranCore)
        random = StepRandom(self.seed, step)
        streams = [random.of_photo(place) for place in places]
        size = model.config.resolution
        samples = [core_sample(draw_photo(self.sources, rng), rng, size, self.aged) for rng in streams]
        gray, eye, bins = self.tensors(samples)
        around, window = draw_windows(random.shared, size, [self.encoder_window, self.window])
        with torch.set_grad_enabled(self.phase != "decoders"):
            maps = self.look(model, eye)
            neck = model.encoder.neck
            seen = None if maps is None or neck is None else neck(self.withheld(maps, streams))
            context = model.encoder(gray, seen, around)
        gray, bins = around.cut(gray), around.cut(bins)
        figures: dict[str, float] = {}
        total = context.new_zeros((), dtype=torch.float32)
        weight = self.parallel_weight
        if weight > 0:
            logits = model.parallel_logits(context, gray)
            parallel = F.cross_entropy(logits.flatten(0, 2).float(), bins.flatten()) * BITS
            total = total + weight * parallel
            figures["parallel_bits"] = parallel.item()
        if weight < 1:
            inner = window.within(around)
            context, bins = inner.cut(context), inner.cut(bins)
            logits = model.decode(context, self.corrupt(bins, streams), window)
            bits = F.cross_entropy(logits.flatten(0, 2).float(), bins.flatten()) * BITS
            total = total + (1 - weight) * bits
            figures["bits"] = bits.item()
        if self.distillation > 0 and maps is not None and maps[-1].requires_grad:
            blindness = self.blindness(maps, samples)
            total = total + self.distillation * blindness
            figures["blindness"] = blindness.item()
        return total, figures

    def withheld(self, maps: Maps, streams: list[np.random.Generator]) -> Maps:
        """The backbone's maps without a share of their channels, others of every photo, the rest stronger by it.

        So nothing learns to count on one channel alone.
        """
        if self.drop_maps == 0:
            return maps
        kept = []
        for found in maps:
            masks = np.stack([rng.random(found.shape[1]) >= self.drop_maps for rng in streams])
            weights = torch.from_numpy(masks / (1 - self.drop_maps)).to(found)
            kept.append(found * weights[..., None, None])
        return kept[0], kept[1], kept[2]

    def corrupt(self, bins: Tensor, streams: list[np.random.Generator]) -> Tensor:
        """A share of the decoders' colour inputs replaced by another pixel's colour of the same photo."""
        if self.drop_colors == 0:
            return bins
        flat = bins.flatten(1)
        pixels = flat.shape[1]
        mask = np.stack([rng.random(pixels) < self.drop_colors for rng in streams])
        other = np.stack([rng.integers(pixels, size=pixels) for rng in streams])
        swapped = flat.gather(1, torch.from_numpy(other).to(flat.device))
        return torch.where(torch.from_numpy(mask).to(flat.device), swapped, flat).view_as(bins)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Bits per pixel of both heads on each validation set."""
        assert isinstance(model, ColTranCore)
        figures: dict[str, float] = {}
        for name, photos in self.validation.items():
            numbers = chosen(photos, self.validation_photos)
            bits, parallel, count = 0.0, 0.0, 0
            for start in range(0, len(numbers), 8):
                samples = [core_sample(photos[i], None, model.config.resolution) for i in numbers[start : start + 8]]
                gray, eye, bins = self.tensors(samples)
                context = model.encode(gray, eye)
                logits = model.parallel_logits(context, gray).flatten(0, 2).float()
                parallel += F.cross_entropy(logits, bins.flatten()).item() * BITS * len(samples)
                if self.parallel_weight < 1:
                    logits = model.decode(context, bins).flatten(0, 2).float()
                    bits += F.cross_entropy(logits, bins.flatten()).item() * BITS * len(samples)
                count += len(samples)
            figures[f"{name}_parallel_bits"] = parallel / count
            if self.parallel_weight < 1:
                figures[f"{name}_bits"] = bits / count
        return figures

    @torch.no_grad()
    def sheet(self, model: nn.Module) -> np.ndarray | None:
        """Gray, true coarse image, the parallel head's mean colour and, where the decoders learn, two samples."""
        assert isinstance(model, ColTranCore)
        rows: list[list[np.ndarray]] = []
        requests = []
        for photos in self.validation.values():
            for number in chosen(photos, self.sheet_photos):
                gray, eye, bins = self.tensors([core_sample(photos[number], None, model.config.resolution)])
                colors = bin_centers(torch.arange(NUM_COLORS, device=gray.device)).float()
                mean = model.parallel_logits(model.encode(gray, eye), gray).float().softmax(-1) @ colors
                row = [gray[0].cpu().numpy().astype(np.uint8), pixels(bins[0].cpu().numpy())]
                rows.append([*row, mean[0].cpu().numpy().round().astype(np.uint8)])
                if self.parallel_weight < 1:
                    projections = project_context(model, gray, eye)
                    requests += [SampleRequest(projections, noise_stream(self.seed, k, row[0])) for k in range(2)]
        for place, sample in enumerate(draw_samples(decoder_of(model), requests)):
            rows[place // 2].append(pixels(sample.bins))
        return contact_sheet(rows) if rows else None


def pixels(bins: np.ndarray) -> np.ndarray:
    """The centres of bins `(H, W)` as RGB `(H, W, 3)` uint8."""
    return bin_centers(bins.astype(np.int64)).astype(np.uint8)
