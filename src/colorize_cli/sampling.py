"""How the core's image is drawn: row by row, each row as the fixed point of its own noise (section 4.1).

The outer decoder runs one row at a time against its columns' key/value cache. A row is drawn by parallel decoding:
guess its colours, run the inner decoder on all its pixels at once, draw again with the same noise, until nothing
changes. Every pass makes at least one more pixel final, so this is exactly the row that drawing pixel by pixel gives,
in far fewer passes where colours are predictable.

All work has one fixed shape, a tile of `TILE` samples and whole rows, so that a sample depends neither on its guesses
nor on how many others are drawn with it. Unlike the published sampling loop, the conditional norms average the gray
context of the whole image, as in training: drawing gives the teacher-forced logits.
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
from colorize_cli.models.layers import AxialAttention

TILE = 4  # samples in flight; never another number, whatever was asked for


class ColumnCache:
    """Keys and values of one column attention, preallocated: `(T * W, heads, H, head size)`."""

    def __init__(self, attention: AxialAttention, width: int, like: Tensor) -> None:
        shape = (TILE * width, attention.heads, attention.length, attention.head_size)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.bias = attention.bias().to(like.dtype)[None]  # (1, heads, H, H)

    def attend(self, row: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of row `row` over all rows up to it: `(T * W, heads, head size)` each, and returned.

        Not torch's fused attention: for a single query in float32 its rounding depends on the thread that works on it.
        """
        self.keys[:, :, row] = key
        self.values[:, :, row] = value
        keys, values = self.keys[:, :, : row + 1], self.values[:, :, : row + 1]
        scores = torch.matmul(query[:, :, None] * query.shape[-1] ** -0.5, keys.transpose(-1, -2))
        scores = scores + self.bias[:, :, row : row + 1, : row + 1]
        return torch.matmul(scores.softmax(dim=-1), values)[:, :, 0]


def attend_row(qkv: Tensor, bias: Tensor) -> Tensor:
    """Attention within rows: `qkv` `(T, W, 3, heads, head size)`, `bias` `(T * heads, W, W)`; returns `(T, W, D)`."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)  # (T * heads, W, head size)
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(dim=-1)
    out = torch.bmm(weights, v).view(qkv.shape[0], -1, *v.shape[1:])  # (T, heads, W, head size)
    return out.transpose(1, 2).flatten(-2)


def row_bias(attention: AxialAttention, like: Tensor) -> Tensor:
    """Of a row attention, for a tile: `(T * heads, W, W)`."""
    return attention.bias().to(like.dtype).repeat(TILE, 1, 1)


class Modulation(NamedTuple):
    """A scale and a shift from the context."""

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)


class LayerProjections(NamedTuple):
    """What a conditional layer takes from the gray context alone."""

    qkv: Modulation  # (H, W, 3D), the gray part where the layer sees the outer context too
    mlp: Modulation  # (H, W, D), likewise
    attention_norm: Modulation  # (H, 1, D), every row the same
    mlp_norm: Modulation  # (H, 1, D), likewise


class ContextProjections(NamedTuple):
    """Everything the two decoders need of one photo, computed once before drawing."""

    outer_input: Tensor  # (H, W, D): positions + gray context
    inner_input: Tensor  # (H, W, D): positions + gray context
    outer_rows: list[LayerProjections]
    outer_columns: list[LayerProjections]
    inner: list[LayerProjections]
    first_row: Tensor  # (W, 512): the parallel head's logits, to guess from where there is no row above


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


def modulations(layer: ConditionalLayer, context: Tensor, inputs: slice) -> tuple[Modulation, Modulation]:
    """Of q, k, v and of the MLP, its bias left out: what `inputs` of their conditions make of `(..., W, D)`."""
    attention, mlp = layer.attention.condition, layer.mlp.condition
    assert attention is not None and mlp is not None
    scale, shift = layer.attention.split_modulation(F.linear(context, attention.weight[:, inputs]))
    qkv = Modulation(scale.flatten(-3), shift.flatten(-3))
    shift, scale = F.linear(context, mlp.weight[:, inputs]).chunk(2, dim=-1)
    return qkv, Modulation(scale.contiguous(), shift.contiguous())


def project_context(core: ColTranCore, gray: Tensor, backbone_gray: Tensor | None = None) -> ContextProjections:
    """Encode one photo and project its context: `gray` `(1, H, W)`, `backbone_gray` `(1, 192, 192)`."""
    gray_context = core.encode(gray, backbone_gray)
    hidden = core.config.hidden

    def project(layer: ConditionalLayer) -> LayerProjections:
        # The first `hidden` inputs of a condition are the gray context; any others are the outer context.
        qkv, mlp = modulations(layer, gray_context[0], slice(0, hidden))
        norms = []
        for norm in (layer.attention_norm, layer.mlp_norm):
            scale, shift = norm.modulation(gray_context)[0].expand(gray.shape[1], -1, -1).chunk(2, dim=-1)
            norms.append(Modulation(scale, shift))
        bias = layer.mlp.condition.bias if layer.mlp.condition is not None else None
        assert bias is not None
        shift, scale = bias.chunk(2)
        return LayerProjections(qkv, Modulation(mlp.scale + scale, mlp.shift + shift), norms[0], norms[1])

    return ContextProjections(
        (gray_context + core.outer.positions())[0],
        (gray_context + core.inner.positions())[0],
        [project(layer) for layer in core.outer.row_layers],
        [project(layer) for layer in core.outer.column_layers],
        [project(layer) for layer in core.inner.layers],
        core.parallel_logits(gray_context[:, 0], gray[:, 0])[0].float(),
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
        self.column_caches = [ColumnCache(layer.attention, self.size, like) for layer in core.outer.column_layers]
        self.outer_biases = [row_bias(layer.attention, like) for layer in core.outer.row_layers]
        self.inner_biases = [row_bias(layer.attention, like) for layer in core.inner.layers]
        # Row 512 is what stands left of the first pixel: nothing.
        self.embedding = F.pad(core.pixel_embedding.weight, (0, 0, 0, 1))
        self.bins = torch.zeros((TILE, self.size, self.size), dtype=torch.int64, device=like.device)
        self.bits = torch.zeros(TILE, dtype=torch.float64, device=like.device)
        self.passes = 0  # of the inner decoder over a row, all rows together

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
            out = attend_row(self.qkv(row_layer, x, mods), self.outer_biases[index])
            x = self.finish_layer(row_layer, x, out, mods)
            mods = self.layer_row([p.outer_columns[index] for p in self.photos], row)
            q, k, v = self.qkv(column_layer, x, mods).flatten(0, 1).unbind(1)  # (T * W, heads, head size)
            out = self.column_caches[index].attend(row, q, k, v)
            x = self.finish_layer(column_layer, x, out.reshape(x.shape), mods)
        context: Tensor = x
        return context

    def layer_row(self, slots: list[LayerProjections], row: int) -> LayerProjections:
        """A layer's projections at one row, `(T, W, .)`; its norms' `(T, 1, D)`."""
        gathered = []
        for parts in zip(*slots, strict=True):
            scale = self.gather([part.scale[row] for part in parts])
            gathered.append(Modulation(scale, self.gather([part.shift[row] for part in parts])))
        return LayerProjections(*gathered)

    def qkv(self, layer: ConditionalLayer, x: Tensor, mods: LayerProjections) -> Tensor:
        """Queries, keys and values `(T, W, 3, heads, head size)` of `x` `(T, W, D)`."""
        return mods.qkv(layer.attention.qkv(x)).view(*x.shape[:-1], 3, layer.attention.heads, -1)

    def finish_layer(self, layer: ConditionalLayer, x: Tensor, attended: Tensor, mods: LayerProjections) -> Tensor:
        """Output projection, residual, norm, MLP, residual, norm on `(T, W, D)`."""
        x = mods.attention_norm(layer.attention_norm.normalize(x + layer.attention.output(attended)))
        y = mods.mlp(layer.mlp.modulated(x, None))
        return mods.mlp_norm(layer.mlp_norm.normalize(x + y))

    def inner_row(self, row: int, outer_context: Tensor) -> Tensor:
        """Draw one row; returns its logits `(T, W, 512)`."""
        noise: Tensor | None = None
        guess = self.bins[:, row - 1]
        if row == 0:
            guess = self.gather([p.first_row for p in self.photos])
        if self.temperature > 0:
            rows = [gumbel_row(stream, self.size) for stream in self.streams]
            rows.extend([rows[-1]] * (TILE - len(rows)))
            noise = torch.from_numpy(np.stack(rows)).to(outer_context.device)  # (T, W, 512)
        if row == 0:
            guess = self.draw(guess, noise)
        logits_of = self.row_pass(row, outer_context)
        while True:
            logits = logits_of(guess)
            drawn = self.draw(logits, noise)
            self.passes += 1
            if torch.equal(drawn, guess):
                break
            guess = drawn
        self.bins[:, row] = drawn
        nats = logits.log_softmax(dim=-1).gather(-1, drawn[..., None]).double().sum(dim=(1, 2))
        self.bits -= nats / math.log(2)
        return logits

    def draw(self, logits: Tensor, noise: Tensor | None) -> Tensor:
        """The colours `(T, W)` of the best scores: the Gumbel-max trick, or the most likely ones without noise."""
        scores = logits if noise is None else torch.add(noise, logits, alpha=1 / self.temperature)
        return scores.argmax(dim=-1)

    def row_pass(self, row: int, outer_context: Tensor) -> Callable[[Tensor], Tensor]:
        """The inner decoder over the whole of row `row`: colours `(T, W)` to logits `(T, W, 512)` float32.

        The logits at a pixel depend on the colours left of it alone. What the colours do not change is computed here.
        """
        core = self.core
        base = self.gather([p.inner_input[row] for p in self.photos]) + outer_context
        hidden = outer_context.shape[-1]
        rows = []
        for index, layer in enumerate(core.inner.layers):
            mods = self.layer_row([p.inner[index] for p in self.photos], row)
            qkv, mlp = modulations(layer, outer_context, slice(hidden, None))
            rows.append(
                mods._replace(
                    qkv=Modulation(mods.qkv.scale + qkv.scale, mods.qkv.shift + qkv.shift),
                    mlp=Modulation(mods.mlp.scale + mlp.scale, mods.mlp.shift + mlp.shift),
                )
            )

        def logits_of(bins: Tensor) -> Tensor:
            x = F.embedding(F.pad(bins[:, :-1], (1, 0), value=NUM_COLORS), self.embedding) + base
            for layer, mods, bias in zip(core.inner.layers, rows, self.inner_biases, strict=True):
                x = self.finish_layer(layer, x, attend_row(self.qkv(layer, x, mods), bias), mods)
            logits: Tensor = core.head(core.norm(x))
            return logits.float()

        return logits_of


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
