"""How the core's image is drawn: raster order, exact caches, one noise stream a sample (section 4.1).

The outer decoder runs one row at a time against its columns' cache, the inner decoder one pixel at a time
against its row's cache. All work has one fixed shape, a tile of `TILE` samples, so that a sample does not
depend on how many others are drawn with it. Unlike the published sampling loop, the conditional norms
average the gray context of the whole image, as in training: drawing gives the teacher-forced logits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_cli.config import NUM_COLORS
from colorize_cli.models.coarse import ColTranCore, ConditionalLayer
from colorize_cli.models.layers import NORM_EPSILON, AxialAttention

TILE = 4  # samples in flight; never another number, whatever was asked for


class KeyValueCache:
    """Keys and values of one attention, preallocated: `(T * lines, heads, length, head size)`.

    `lines` is the number of columns for the outer decoder's column attention, 1 for the inner's row attention.
    """

    def __init__(self, attention: AxialAttention, lines: int, like: Tensor) -> None:
        shape = (TILE * lines, attention.heads, attention.length, attention.head_size)
        keys, values = like.new_zeros(shape), like.new_zeros(shape)
        # Every view that a step needs, made once: thousands of steps would make them again.
        self.slots = list(zip(keys.unbind(2), values.unbind(2), strict=True))
        self.prefixes = [(keys[:, :, :n], values[:, :, :n]) for n in range(1, attention.length + 1)]

    def update(self, position: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store `(T * lines, heads, head size)` at `position`; returns all up to there, `(T * lines, heads, n, .)`."""
        key_slot, value_slot = self.slots[position]
        key_slot.copy_(key)
        value_slot.copy_(value)
        return self.prefixes[position]


def attend_one(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention of one query, `(B, heads, head size)` over keys `(B, heads, n, head size)`: `(B, heads, 1, head size)`.

    Not torch's fused attention: for a single query in float32 its rounding depends on which thread works on which entry.
    """
    scores = torch.matmul(query[:, :, None] * query.shape[-1] ** -0.5, keys.transpose(-1, -2)) + bias
    return torch.matmul(scores.softmax(dim=-1), values)


def causal_biases(attention: AxialAttention, like: Tensor) -> list[Tensor]:
    """Of each query position, the biases of the keys up to it: `(1, heads, 1, n)`."""
    bias = attention.bias().to(like.dtype)[None]
    return [bias[:, :, i : i + 1, : i + 1].contiguous() for i in range(attention.length)]


class LayerProjections(NamedTuple):
    """What a conditional layer takes from the gray context alone."""

    attention: Tensor  # (H, W, 6D), the gray part where the layer sees the outer context too
    mlp: Tensor  # (H, W, 2D), likewise
    attention_norm: Tensor  # (2D,)
    mlp_norm: Tensor  # (2D,)


class ContextProjections(NamedTuple):
    """Everything the two decoders need of one photo, computed once before drawing."""

    outer_input: Tensor  # (H, W, D): positions + gray context
    inner_input: Tensor  # (H, W, D): positions + gray context
    outer_rows: list[LayerProjections]
    outer_columns: list[LayerProjections]
    inner: list[LayerProjections]


@dataclass(frozen=True)
class SampleRequest:
    """One sample to draw: of which photo, with which noise."""

    projections: ContextProjections
    noise: np.random.Generator


@dataclass(frozen=True, eq=False)
class CoarseSample:
    """One drawn coarse image."""

    bins: np.ndarray  # (H, W) int16, 0..511
    bits_per_pixel: float  # the core's own at temperature 1, whatever it was drawn with


def noise_stream(seed: int, sample: int, gray_256: np.ndarray) -> np.random.Generator:
    """The noise of sample `sample` (from 0) of a photo: Philox keyed by seed, sample and the 256x256 gray bytes."""
    digest = hashlib.sha256(f"{seed}:{sample}:".encode() + np.ascontiguousarray(gray_256).tobytes()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def gumbel_row(noise: np.random.Generator, width: int) -> np.ndarray:
    """The next row's Gumbel noise, `(W, 512)` float32."""
    exponential = noise.standard_exponential((width, NUM_COLORS))
    return -np.log(np.maximum(exponential, 1e-30)).astype(np.float32)


def project_context(core: ColTranCore, gray_context: Tensor) -> ContextProjections:
    """All projections of one photo's gray context `(1, H, W, D)`."""
    hidden = core.config.hidden

    def project(layer: ConditionalLayer) -> LayerProjections:
        attention, mlp = layer.attention.condition, layer.mlp.condition
        assert attention is not None and mlp is not None
        # The first `hidden` inputs of a condition are the gray context; any others are the outer context.
        return LayerProjections(
            F.linear(gray_context, attention.weight[:, :hidden])[0],
            F.linear(gray_context, mlp.weight[:, :hidden], mlp.bias)[0],
            layer.attention_norm.modulation(gray_context).flatten(),
            layer.mlp_norm.modulation(gray_context).flatten(),
        )

    return ContextProjections(
        (gray_context + core.outer.positions())[0],
        (gray_context + core.inner.positions())[0],
        [project(layer) for layer in core.outer.row_layers],
        [project(layer) for layer in core.outer.column_layers],
        [project(layer) for layer in core.inner.layers],
    )


class TileSampler:
    """Draws one tile of samples, row by row."""

    def __init__(self, core: ColTranCore, requests: Sequence[SampleRequest], temperature: float) -> None:
        assert 1 <= len(requests) <= TILE
        self.core, self.temperature = core, temperature
        self.size = core.config.resolution
        # The padding draws once more what the last request draws; its results are thrown away.
        slots = [*requests, *[requests[-1]] * (TILE - len(requests))]
        self.photos = [request.projections for request in slots]
        self.streams = [request.noise for request in requests]
        like = requests[0].projections.outer_input
        self.column_caches = [KeyValueCache(layer.attention, self.size, like) for layer in core.outer.column_layers]
        self.row_caches = [KeyValueCache(layer.attention, 1, like) for layer in core.inner.layers]
        self.row_biases = [layer.attention.bias().to(like.dtype) for layer in core.outer.row_layers]
        self.column_biases = [causal_biases(layer.attention, like) for layer in core.outer.column_layers]
        self.inner_biases = [causal_biases(layer.attention, like) for layer in core.inner.layers]
        self.bins = torch.zeros((TILE, self.size, self.size), dtype=torch.int64, device=like.device)
        self.bits = torch.zeros(TILE, dtype=torch.float64, device=like.device)

    def gather(self, tensors: list[Tensor]) -> Tensor:
        """One tensor of every slot as `(T, ...)`.

        Copied even where all slots are one photo's: an expanded tensor takes other loops, which round otherwise.
        """
        return torch.stack(tensors)

    def rows(self) -> Iterator[Tensor]:
        """Draw the whole tile into `bins` and `bits`, one row a step; yields each row's logits `(T, W, 512)`."""
        outer_context = self.gather([torch.zeros_like(p.outer_input[0]) for p in self.photos])  # (T, W, D)
        for row in range(self.size):
            if row > 0:
                outer_context = self.outer_row(row - 1)
            yield self.inner_row(row, outer_context)

    def outer_row(self, row: int) -> Tensor:
        """Run the outer decoder over drawn row `row`; returns the outer context of the next row, `(T, W, D)`."""
        core = self.core
        x = core.pixel_embedding(self.bins[:, row]) + self.gather([p.outer_input[row] for p in self.photos])
        for index, (row_layer, column_layer) in enumerate(
            zip(core.outer.row_layers, core.outer.column_layers, strict=True)
        ):
            mods = self.layer_row([p.outer_rows[index] for p in self.photos], row)
            qkv = row_layer.attention.project(x, mods.attention)  # (T, W, 3, heads, head size)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (T, heads, W, head size)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.row_biases[index][None])
            out = row_layer.attention.output(out.transpose(1, 2).flatten(-2))
            x = self.finish_layer(row_layer, x, out, mods)

            mods = self.layer_row([p.outer_columns[index] for p in self.photos], row)
            qkv = column_layer.attention.project(x, mods.attention)
            q, k, v = qkv.flatten(0, 1).unbind(1)  # (T * W, heads, head size)
            keys, values = self.column_caches[index].update(row, k, v)  # (T * W, heads, row + 1, head size)
            bias = self.column_biases[index][row]
            out = attend_one(q, keys, values, bias)
            out = column_layer.attention.output(out.reshape(TILE, self.size, -1))
            x = self.finish_layer(column_layer, x, out, mods)
        context: Tensor = x
        return context

    def layer_row(self, slots: list[LayerProjections], row: int) -> LayerProjections:
        """A layer's projections at one row, `(T, W, .)`; its norms' `(T, 1, 2D)`."""
        return LayerProjections(
            self.gather([slot.attention[row] for slot in slots]),
            self.gather([slot.mlp[row] for slot in slots]),
            self.gather([slot.attention_norm for slot in slots])[:, None],
            self.gather([slot.mlp_norm for slot in slots])[:, None],
        )

    def finish_layer(self, layer: ConditionalLayer, x: Tensor, attended: Tensor, mods: LayerProjections) -> Tensor:
        """Residual, norm, MLP, residual, norm on `(T, W, D)`."""
        x = layer.attention_norm.modulated(x + attended, mods.attention_norm)
        return layer.mlp_norm.modulated(x + layer.mlp.modulated(x, mods.mlp), mods.mlp_norm)

    def inner_row(self, row: int, outer_context: Tensor) -> Tensor:
        """Draw one row pixel by pixel; returns its logits `(T, W, 512)`."""
        core, size = self.core, self.size
        base = (self.gather([p.inner_input[row] for p in self.photos]) + outer_context).unbind(1)  # W times (T, D)
        steps = []
        for index, layer in enumerate(core.inner.layers):
            projections = self.layer_row([p.inner[index] for p in self.photos], row)
            step = PixelStep(layer, self.row_caches[index], self.inner_biases[index], projections, outer_context)
            steps.append(step.run)
        noise: Sequence[Tensor] | None = None
        if self.temperature > 0:
            rows = [gumbel_row(stream, size) for stream in self.streams]
            rows.extend([rows[-1]] * (TILE - len(rows)))
            noise = torch.from_numpy(np.stack(rows)).to(base[0].device).unbind(1)  # W times (T, 512)
        embedding, norm, head = core.pixel_embedding.weight, core.norm, core.head
        row_bins, row_logits = [], []
        pixel = torch.zeros_like(base[0])
        for column in range(size):
            x = pixel + base[column]
            for run in steps:
                x = run(x, column)
            x = F.layer_norm(x, x.shape[1:], norm.weight, norm.bias, NORM_EPSILON)
            logits = F.linear(x, head.weight, head.bias).float()  # (T, 512)
            scores = logits if noise is None else torch.add(noise[column], logits, alpha=1 / self.temperature)
            drawn = scores.argmax(dim=-1)
            pixel = F.embedding(drawn, embedding)
            row_bins.append(drawn)
            row_logits.append(logits)
        bins = torch.stack(row_bins, dim=1)  # (T, W)
        self.bins[:, row] = bins
        logits = torch.stack(row_logits, dim=1)  # (T, W, 512)
        nats = logits.log_softmax(dim=-1).gather(-1, bins[..., None]).double().sum(dim=(1, 2))
        self.bits -= nats / math.log(2)
        return logits


class PixelStep:
    """One inner layer at one pixel after another of a row.

    Weights and the row's modulations are taken apart once: calling modules would cost as much as their work.
    """

    def __init__(
        self,
        layer: ConditionalLayer,
        cache: KeyValueCache,
        biases: list[Tensor],
        row: LayerProjections,
        outer_context: Tensor,
    ) -> None:
        attention, mlp = layer.attention, layer.mlp
        assert attention.condition is not None and mlp.condition is not None
        hidden = outer_context.shape[-1]
        self.cache, self.biases = cache, biases
        self.qkv_shape = (TILE, 3, attention.heads, attention.head_size)
        self.qkv, self.output = attention.qkv.weight, attention.output.weight
        self.expand, self.contract = mlp.expand, mlp.contract
        self.norms = (layer.attention_norm.normalize, layer.mlp_norm.normalize)
        self.norm_scales, self.norm_shifts = zip(
            *(mods[:, 0].chunk(2, dim=-1) for mods in (row.attention_norm, row.mlp_norm)), strict=True
        )
        modulation = row.attention + F.linear(outer_context, attention.condition.weight[:, hidden:])
        scale, shift = attention.split_modulation(modulation)  # (T, W, 3, heads, head size)
        self.scales, self.shifts = scale.flatten(2).unbind(1), shift.flatten(2).unbind(1)  # W times (T, 3D)
        shift, scale = (row.mlp + F.linear(outer_context, mlp.condition.weight[:, hidden:])).chunk(2, dim=-1)
        self.mlp_scales, self.mlp_shifts = scale.unbind(1), shift.unbind(1)  # W times (T, D)

    def run(self, x: Tensor, column: int) -> Tensor:
        """`(T, D)` to `(T, D)` at `column`, which is kept in the row's cache."""
        qkv = torch.addcmul(self.shifts[column], F.linear(x, self.qkv), self.scales[column])
        q, k, v = qkv.view(self.qkv_shape).unbind(1)  # (T, heads, head size)
        keys, values = self.cache.update(column, k, v)  # (T, heads, column + 1, head size)
        out = attend_one(q, keys, values, self.biases[column])
        x = self.norm(0, x + F.linear(out.view(x.shape), self.output))
        y = F.relu(F.linear(x, self.expand.weight, self.expand.bias))
        y = F.linear(y, self.contract.weight, self.contract.bias)
        return self.norm(1, x + torch.addcmul(self.mlp_shifts[column], y, self.mlp_scales[column]))

    def norm(self, index: int, x: Tensor) -> Tensor:
        """The conditional norm behind attention (0) or MLP (1)."""
        norm = self.norms[index]
        x = F.layer_norm(x, x.shape[1:], norm.weight, norm.bias, NORM_EPSILON)
        return torch.addcmul(self.norm_shifts[index], x, self.norm_scales[index])


@torch.inference_mode()
def draw_samples(
    core: ColTranCore,
    requests: Sequence[SampleRequest],
    temperature: float = 1.0,
    progress: Callable[[int], None] | None = None,
) -> list[CoarseSample]:
    """Draw every request, in order.

    Args:
        core: the model, in evaluation mode; its dtype and device are those of the work.
        requests: samples of one photo or of many.
        temperature: divides the logits; 0 takes the most likely colour of each pixel.
        progress: called with the number of rows finished, counted once for each request.
    """
    results: list[CoarseSample] = []
    for start in range(0, len(requests), TILE):
        tile = requests[start : start + TILE]
        sampler = TileSampler(core, tile, temperature)
        count = len(tile)
        for _ in sampler.rows():
            if progress is not None:
                progress(count)
        bins = sampler.bins.cpu().numpy().astype(np.int16)
        bits = (sampler.bits / core.config.resolution**2).tolist()
        results.extend(CoarseSample(bins[i], bits[i]) for i in range(count))
    return results
