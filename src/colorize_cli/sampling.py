"""How the core's image is drawn: row by row, each row as the fixed point of its own noise (section 4.1).

The outer decoder runs one row at a time against its columns' key/value cache. A row is drawn by parallel decoding:
guess its colours, run the inner decoder on all its pixels at once, draw again with the same noise, until nothing
changes. Every pass makes at least one more pixel final, so this is exactly the row that drawing pixel by pixel gives,
in far fewer passes where colours are predictable; what lies left of the first change need not be looked at again.

All work is that of a tile of `tile_size` samples, however many are drawn, and how much of a row is looked at again
never depends on another sample: a sample does not depend on what it is drawn with. `models.rows` has the decoders, a
row at a time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from colorize_cli.config import NUM_COLORS
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.rows import ContextProjections, RowDecoder, Tile
from colorize_cli.models.threads import spread

CUDA_TILE = 16  # samples in flight on a device that needs much work at once
GUESS_CHANGE = 1.5  # of the guide from row to row, in the guess of a row: any gives the same row, this one soonest
LEAST_EXPONENTIAL = np.float32(2**-24)  # what numpy gives as nought lies between nought and twice this
STRIDE = 16  # columns: what is looked at again starts at a multiple of it, as products of few shapes are fast


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
    passes: float  # of the inner decoder over a row, all rows together, parts of rows as such


def tile_size(device: torch.device) -> int:
    """How many samples are drawn at once, whatever was asked for.

    One on a CPU: a row of 64 pixels is a matrix large enough for its kernels, and no row waits for another to settle.
    """
    return CUDA_TILE if device.type == "cuda" else 1


def decoder_of(core: ColTranCore) -> RowDecoder:
    """A core's decoders as `draw_samples` takes them, of the core's weights as they are now."""
    return RowDecoder(core, tile_size(core.head.weight.device))


def noise_stream(seed: int, sample: int, gray_256: np.ndarray) -> np.random.Generator:
    """The noise of sample `sample` (from 0) of a photo: Philox keyed by seed, sample and the 256x256 gray bytes."""
    digest = hashlib.sha256(f"{seed}:{sample}:".encode() + np.ascontiguousarray(gray_256).tobytes()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def gumbel_row(noise: np.random.Generator, width: int) -> np.ndarray:
    """The next row's Gumbel noise, `(W, 512)` float32."""
    exponential = noise.standard_exponential((width, NUM_COLORS), dtype=np.float32)
    np.maximum(exponential, LEAST_EXPONENTIAL, out=exponential)
    return np.negative(np.log(exponential, out=exponential), out=exponential)


class TileSampler:
    """Draws one tile of samples, row by row."""

    def __init__(
        self, decoder: RowDecoder, requests: Sequence[SampleRequest], temperature: float, guidance: float = 0.0
    ) -> None:
        assert 1 <= len(requests) <= decoder.tile
        self.requests, self.temperature, self.guidance = requests, temperature, guidance
        # The padding draws once more what the last request draws; its results are thrown away.
        self.padding = decoder.tile - len(requests)
        self.tile = Tile(decoder, [request.projections for request in [*requests, *[requests[-1]] * self.padding]])
        self.size, device = decoder.core.config.resolution, decoder.like.device
        self.bins = torch.zeros((decoder.tile, self.size, self.size), dtype=torch.int64, device=device)
        self.bits = torch.zeros(decoder.tile, dtype=torch.float64)  # not on a device: MPS has no float64
        self.pixels = 0  # that the inner decoder looked at, of one sample

    def rows(self) -> Iterator[Tensor]:
        """Draw the whole tile into `bins` and `bits`, one row a step; yields each row's logits `(T, W, 512)`."""
        likely = self.tile.guide_row(0)  # as good as any, before the first row
        for row in range(self.size):
            choose = self.chooser(row)
            above = self.bins[:, row - 1] if row > 0 else None
            logits_of = self.tile.inner_row(row, self.tile.outer_row(row, above))
            drawn, logits = self.settle(logits_of, choose(likely, 0), choose)
            if row + 1 < self.size:
                # A good guess, most of all where colours are hard to predict: as if the next row were like this one,
                # but for what its gray says.
                change = self.tile.guide_row(row + 1) - self.tile.guide_row(row)
                likely = torch.add(logits, change, alpha=GUESS_CHANGE)
            self.bins[:, row] = drawn
            nats = logits.log_softmax(dim=-1).gather(-1, drawn[..., None]).cpu().double().sum(dim=(1, 2))
            self.bits -= nats / math.log(2)
            yield logits

    def chooser(self, row: int) -> Callable[[Tensor, int], Tensor]:
        """How the colours of row `row` from a column on follow from their logits `(T, W - column, 512)`."""
        noise, guide = self.noise(), self.tile.guide_row(row)

        def choose(logits: Tensor, start: int) -> Tensor:
            here = None if noise is None else noise[:, start:]
            return draw(guided(logits, guide[:, start:], self.guidance), self.temperature, here)

        return choose

    def noise(self) -> Tensor | None:
        """The next row's, `(T, W, 512)`."""
        if self.temperature == 0:
            return None
        rows = [gumbel_row(request.noise, self.size) for request in self.requests]
        rows.extend([rows[-1]] * self.padding)
        return torch.from_numpy(np.stack(rows)).to(self.bins.device)

    def settle(
        self, logits_of: Callable[[Tensor, int], Tensor], guess: Tensor, choose: Callable[[Tensor, int], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The row `(T, W)` that draws itself again, and its logits `(T, W, 512)`."""
        start, logits = 0, logits_of(guess, 0)
        for _ in range(self.size + 1):  # each pass makes a pixel more final; one more finds nothing to change
            self.pixels += self.size - start
            drawn = torch.cat((guess[:, :start], choose(logits[:, start:], start)), dim=1)
            if torch.equal(drawn, guess):
                return drawn, logits
            start, guess = self.unsettled(drawn, guess), drawn
            logits = torch.cat((logits[:, :start], logits_of(guess, start)), dim=1)
        raise AssertionError("a row pass looked at a pixel that it must not see")

    def unsettled(self, drawn: Tensor, guess: Tensor) -> int:
        """The column to start from, where a row `(T, W)` was drawn other than guessed: right of the first change.

        Samples of one tile would start where another does, so they start at the left.
        """
        if len(drawn) > 1:
            return 0
        first = int((drawn != guess)[0].int().argmax())
        return min(first + 1, self.size - 1) // STRIDE * STRIDE

    def results(self) -> list[CoarseSample]:
        """Of each request."""
        bins = self.bins.cpu().numpy().astype(np.int16)
        bits = (self.bits / self.size**2).tolist()
        return [CoarseSample(bins[i], bits[i], self.pixels / self.size) for i in range(len(self.requests))]


def guided(logits: Tensor, guide: Tensor, guidance: float) -> Tensor:
    """Logits `(..., 512)` drawn towards what the parallel head says, as in guided diffusion (Ho & Salimans 2022).

    The parallel head sees the whole gray photo and no colours: it cannot repeat a wrong pixel.
    """
    return torch.add(logits, guide, alpha=guidance) if guidance > 0 else logits


def draw(logits: Tensor, temperature: float, noise: Tensor | None) -> Tensor:
    """The colours `(...)` of the best of `(..., 512)` scores: by the Gumbel-max trick, or just the most likely."""
    scores = logits if noise is None else torch.add(noise, logits, alpha=1 / temperature)
    if scores.device.type == "cpu":  # numpy's is six times as fast
        return torch.from_numpy(np.asarray(scores.numpy().argmax(axis=-1)))
    return scores.argmax(dim=-1)


def samples_at_once(decoder: RowDecoder) -> int:
    """How many samples `draw_samples` has in the making: as many as it is worth to give it together."""
    return decoder.tile if decoder.like.device.type != "cpu" else decoder.tile * torch.get_num_threads()


@torch.inference_mode()
def draw_samples(
    decoder: RowDecoder,
    requests: Sequence[SampleRequest],
    temperature: float = 1.0,
    guidance: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> list[CoarseSample]:
    """Draw every request, in order.

    On a CPU every sample has a thread of its own: rows are too small to share.

    Args:
        decoder: of the model's core; its dtype and device are those of the work.
        requests: samples of one photo or of many.
        temperature: divides the logits; 0 takes the most likely colour of each pixel.
        guidance: the weight of the parallel head beside the core, at least 0.
        progress: called with the number of rows finished, counted once for each request, by the thread that draws.
    """
    tiles = [requests[start : start + decoder.tile] for start in range(0, len(requests), decoder.tile)]

    def draw_tile(tile: Sequence[SampleRequest]) -> list[CoarseSample]:
        sampler = TileSampler(decoder, tile, temperature, guidance)
        for _ in sampler.rows():
            if progress is not None:
                progress(len(tile))
        return sampler.results()

    drawn = spread(draw_tile, tiles, decoder.like.device)
    return [sample for samples in drawn for sample in samples]


@torch.inference_mode()
def draw_naively(
    core: ColTranCore,
    gray: Tensor,
    backbone_gray: Tensor | None,
    noise: np.random.Generator,
    temperature: float = 1.0,
    guidance: float = 0.0,
) -> Iterator[Tensor]:
    """The reference: the outer decoder over the whole canvas for every row, the inner over the row for every pixel.

    `gray` and `backbone_gray` are those of `ColTranCore.encode`, of one photo. Yields each row `(1, W)` as it is drawn.
    """
    context = core.encode(gray, backbone_gray)
    size = core.config.resolution
    guide = core.guide(context, gray)[0]
    bins = torch.zeros((1, size, size), dtype=torch.int64, device=gray.device)
    inner_input = context + core.inner.positions()
    for row in range(size):
        here = slice(row, row + 1)
        outer_context = core.outer(core.pixel_embedding(bins), context)[:, here]
        both = torch.cat((context[:, here], outer_context), dim=-1)
        gumbel = torch.from_numpy(gumbel_row(noise, size)).to(gray.device) if temperature > 0 else None
        for column in range(size):
            pixels = core.pixel_embedding(bins[:, here])
            x = torch.cat((torch.zeros_like(pixels[:, :, :1]), pixels[:, :, :-1]), dim=2)
            x = x + inner_input[:, here] + outer_context
            for layer in core.inner.layers:
                x = layer(x, both, context, None)
            logits = guided(core.head(core.norm(x))[0, 0, column].float(), guide[row, column], guidance)
            bins[0, row, column] = draw(logits, temperature, None if gumbel is None else gumbel[column])
        yield bins[:, row]
