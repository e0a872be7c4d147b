"""The core's two decoders one row at a time, for drawing (section 4.1 of the paper).

What the gray context alone decides is computed once for a photo; what the rows above decide, once for a row. A tile of
T samples passes as one matrix: `x` is `(T * W, D)` throughout. Logits are those of `ColTranCore.decode`: unlike in the
published sampling loop, the conditional norms average the gray context of the whole image, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_cli.config import NUM_COLORS
from colorize_cli.models.coarse import ColTranCore, ConditionalLayer
from colorize_cli.models.layers import NORM_EPSILON, AxialAttention, ConditionalNorm
from colorize_cli.models.packed import PackedLinear

ROWS_AT_ONCE = 16  # by which a column's cache grows


class Norms(NamedTuple):
    """Scale and shift `(D,)` after each of a layer's two norms, from one photo's gray context."""

    attention_scale: Tensor
    attention_shift: Tensor
    mlp_scale: Tensor
    mlp_shift: Tensor


class Modulations(NamedTuple):
    """Scales and shifts of a layer's q, k and v `(..., 3D)` and of its MLP `(..., D)`, from the contexts."""

    qkv_scale: Tensor
    qkv_shift: Tensor
    mlp_scale: Tensor
    mlp_shift: Tensor

    @classmethod
    def of(cls, together: Tensor) -> Modulations:
        """The parts of `(..., 8D)`."""
        hidden = together.shape[-1] // 8
        return cls(*torch.split(together, [3 * hidden, 3 * hidden, hidden, hidden], dim=-1))


class ContextProjections(NamedTuple):
    """Everything the two decoders need of one photo, computed once before drawing."""

    outer_input: Tensor  # (H, W, D): positions + gray context
    outer_qkv: Tensor  # (H, W, 3D): of `outer_input`, the first outer layer's
    inner_input: Tensor  # (H, W, D): positions + gray context
    outer: list[Tensor]  # (H, W, 8D): of each layer's `Modulations`, row and column layers in turn
    inner: list[Tensor]  # (H, W, 8D), the part of the gray context
    outer_norms: list[Norms]
    inner_norms: list[Norms]
    guide: Tensor  # (H, W, 512) float32: of `ColTranCore.guide`


def outer_layers(core: ColTranCore) -> list[ConditionalLayer]:
    """Row and column layers in turn, as they run."""
    pairs = zip(core.outer.row_layers, core.outer.column_layers, strict=True)
    return [layer for pair in pairs for layer in pair]


def conditions(layer: ConditionalLayer, inputs: slice) -> tuple[Tensor, Tensor]:
    """Weight `(8D, C)` and bias `(8D,)` that make a layer's `Modulations` of `inputs` of its context."""
    attention, mlp = layer.attention.condition, layer.mlp.condition
    assert attention is not None and mlp is not None
    scale, shift = layer.attention.split_modulation(attention.weight.T)  # (C, 3, heads, head size) each
    mlp_shift, mlp_scale = mlp.weight[:, inputs].chunk(2)
    weight = torch.cat((scale.flatten(1).T[:, inputs], shift.flatten(1).T[:, inputs], mlp_scale, mlp_shift))
    mlp_shift, mlp_scale = mlp.bias.chunk(2)
    return weight, torch.cat((attention.weight.new_zeros(attention.out_features), mlp_scale, mlp_shift))


def project_norms(layer: ConditionalLayer, gray_context: Tensor) -> Norms:
    """Those of the layer's norms for `gray_context` `(1, H, W, D)`, the gamma and beta of published ones included."""

    def folded(norm: ConditionalNorm) -> tuple[Tensor, Tensor]:
        scale, shift = norm.modulation(gray_context).flatten().chunk(2, dim=-1)
        return norm.normalize.weight * scale, torch.addcmul(shift, norm.normalize.bias, scale)

    return Norms(*folded(layer.attention_norm), *folded(layer.mlp_norm))


def project_context(core: ColTranCore, gray: Tensor, backbone_gray: Tensor | None = None) -> ContextProjections:
    """Encode one photo and project its context: `gray` `(1, H, W)`, `backbone_gray` `(1, 224, 224)`."""
    gray_context = core.encode(gray, backbone_gray)
    outer, inner = outer_layers(core), list(core.inner.layers)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        flat = x.flatten(0, 2)  # (H * W, D): torch copies the weight for every row of a longer shape
        return F.linear(flat, weight, bias).view(*x.shape[1:3], -1)

    def project(layer: ConditionalLayer) -> Tensor:
        return linear(gray_context, *conditions(layer, slice(0, core.config.hidden)))  # it comes before the outer one

    outer_input = gray_context + core.outer.positions()
    return ContextProjections(
        outer_input[0],
        linear(outer_input, outer[0].attention.qkv.weight),
        (gray_context + core.inner.positions())[0],
        [project(layer) for layer in outer],
        [project(layer) for layer in inner],
        [project_norms(layer, gray_context) for layer in outer],
        [project_norms(layer, gray_context) for layer in inner],
        core.guide(gray_context, gray)[0],
    )


def stack_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Those of a tile below one another: a view of one, a copy of several."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


def stack_norms(photos: Sequence[Norms]) -> Norms:
    """A layer's norms of every photo, `(T, D)` each."""
    return Norms(*(torch.stack(parts) for parts in zip(*photos, strict=True)))


class RowLayer:
    """A conditional layer on a row of every sample of a tile, its weights packed for that many rows."""

    def __init__(self, layer: ConditionalLayer, rows: int) -> None:
        self.heads, self.hidden = layer.attention.heads, layer.attention.qkv.in_features
        self.to_qkv = PackedLinear.of(layer.attention.qkv, rows)
        self.output = PackedLinear.of(layer.attention.output, rows)
        self.expand = PackedLinear.of(layer.mlp.expand, rows)
        self.contract = PackedLinear.of(layer.mlp.contract, rows)

    def modulated(self, qkv: Tensor, by: Modulations) -> Tensor:
        """`(T * W, 3D)`, scaled and shifted, of every head: `(T * W, 3, heads, head size)`."""
        return torch.addcmul(by.qkv_shift, qkv, by.qkv_scale).view(qkv.shape[0], 3, self.heads, -1)

    def finish(self, x: Tensor, attended: Tensor, by: Modulations, norms: Norms) -> Tensor:
        """Output projection, residual, norm, MLP, residual, norm."""
        x = self.norm(self.output.add(attended, x), norms.attention_scale, norms.attention_shift)
        y = self.contract(self.expand.relu(x))
        x = x.add_(by.mlp_shift).addcmul_(y, by.mlp_scale)
        return self.norm(x, norms.mlp_scale, norms.mlp_shift)

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """The plain norm, then each sample's own scale and shift `(T, D)`."""
        size = (self.hidden,)
        if len(scale) == 1:
            return F.layer_norm(x, size, scale[0], shift[0], NORM_EPSILON)
        y = F.layer_norm(x, size, eps=NORM_EPSILON).view(len(scale), -1, self.hidden)
        return torch.addcmul(shift[:, None], y, scale[:, None]).view_as(x)


class RowAttention:
    """Attention within the rows of a tile; what it saw of a row stays, for when only the right of it is seen anew."""

    def __init__(self, attention: AxialAttention, bias: Tensor, tile: int) -> None:
        """`bias` `(T * heads, W, W)` is the attention's own, repeated for the tile."""
        self.tile, self.bias, self.scale = tile, bias, attention.head_size**-0.5
        self.qkv = bias.new_zeros((3, tile, attention.heads, attention.length, attention.head_size))

    def __call__(self, qkv: Tensor, start: int = 0) -> Tensor:
        """`(T * (W - start), 3, heads, head size)` of the columns from `start` on to `(T * (W - start), D)`."""
        by_sample = qkv.view(self.tile, -1, *qkv.shape[1:])  # (T, W - start, 3, heads, head size)
        self.qkv[:, :, :, start:] = by_sample.permute(2, 0, 3, 1, 4)
        q, k, v = self.qkv.flatten(1, 2).unbind(0)  # (T * heads, W, head size) each
        scores = torch.bmm(q[:, start:], k.transpose(1, 2))
        weights = torch.add(self.bias[:, start:], scores, alpha=self.scale)
        out = torch.bmm(weights.softmax(dim=-1), v).view(self.tile, -1, weights.shape[1], v.shape[2])
        return out.transpose(1, 2).reshape(qkv.shape[0], -1)


class ColumnCache:
    """Keys `(T * W, heads, head size, R)` and values `(T * W, heads, R, head size)` of a column attention's first R
    rows, as a product with one row reads them fastest, and the attention of one row to them.

    The last of the R rows are still to come, and count for nothing: a part of the cache would be copied to be
    multiplied.
    """

    def __init__(self, attention: AxialAttention, columns: int, like: Tensor) -> None:
        self.length, self.scale = attention.length, attention.head_size**-0.5
        self.keys = like.new_zeros((columns, attention.heads, attention.head_size, 0))
        self.values = self.keys.transpose(-1, -2)
        self.bias = attention.bias().to(like.dtype)[None]  # (1, heads, H, H)

    def grow(self) -> None:
        """Make place for more rows."""
        more = min(ROWS_AT_ONCE, self.length - self.keys.shape[-1])
        self.keys = F.pad(self.keys, (0, more))
        self.values = F.pad(self.values, (0, 0, 0, more))

    def attend(self, qkv: Tensor, row: int) -> Tensor:
        """`(T * W, 3, heads, head size)` of row `row` to `(T * W, D)`: its attention to all rows up to it.

        Not torch's fused attention: for a single query in float32 its rounding depends on the thread that works on it.
        """
        if row == self.keys.shape[-1]:
            self.grow()
        query, self.keys[..., row], self.values[:, :, row] = qkv.unbind(1)
        scores = torch.matmul(query[:, :, None], self.keys)  # (T * W, heads, 1, R)
        bias = self.bias[:, :, row : row + 1, : scores.shape[-1]]
        weights = torch.add(bias, scores, alpha=self.scale).softmax(dim=-1)
        return torch.matmul(weights, self.values).reshape(qkv.shape[0], -1)


class RowDecoder:
    """Both decoders of a core, their weights arranged for rows of a tile of T samples."""

    def __init__(self, core: ColTranCore, tile: int) -> None:
        self.core, self.tile, self.like = core, tile, core.head.weight
        rows = tile * core.config.resolution
        self.outer = [RowLayer(layer, rows) for layer in outer_layers(core)]
        self.inner = [RowLayer(layer, rows) for layer in core.inner.layers]
        self.outer_biases = [self.row_bias(layer) for layer in core.outer.row_layers]
        self.inner_biases = [self.row_bias(layer) for layer in core.inner.layers]
        # The outer context comes after the gray one.
        weights = (conditions(layer, slice(core.config.hidden, None))[0] for layer in core.inner.layers)
        self.outer_conditions = [PackedLinear(weight, rows=rows) for weight in weights]
        self.head = PackedLinear.of(core.head, rows)
        # Row 512 is what stands left of the first pixel: nothing.
        self.embedding = F.pad(core.pixel_embedding.weight, (0, 0, 0, 1))
        # Each colour's share of the first layers' q, k and v, which are linear in it: (513, 3D).
        self.outer_colors = self.outer[0].to_qkv(self.embedding)
        self.inner_colors = self.inner[0].to_qkv(self.embedding)

    def row_bias(self, layer: ConditionalLayer) -> Tensor:
        """`(T * heads, W, W)` of a row attention."""
        return layer.attention.bias().to(self.like.dtype).repeat(self.tile, 1, 1)


class Tile:
    """T images in the making, of one photo each; a fixed shape, so that none depends on its neighbours."""

    def __init__(self, decoder: RowDecoder, photos: Sequence[ContextProjections]) -> None:
        assert len(photos) == decoder.tile
        self.decoder, self.photos = decoder, photos
        columns = decoder.tile * decoder.core.config.resolution
        layers = decoder.core.outer.column_layers
        self.columns = [ColumnCache(layer.attention, columns, decoder.like) for layer in layers]
        self.outer_rows = [
            RowAttention(layer.attention, bias, decoder.tile)
            for layer, bias in zip(decoder.core.outer.row_layers, decoder.outer_biases, strict=True)
        ]
        self.inner_rows = [
            RowAttention(layer.attention, bias, decoder.tile)
            for layer, bias in zip(decoder.core.inner.layers, decoder.inner_biases, strict=True)
        ]
        self.outer_norms = [stack_norms(layer) for layer in zip(*(p.outer_norms for p in photos), strict=True)]
        self.inner_norms = [stack_norms(layer) for layer in zip(*(p.inner_norms for p in photos), strict=True)]

    def gather(self, part: Callable[[ContextProjections], Tensor]) -> Tensor:
        """`(T * W, ...)` of every photo's `(W, ...)`."""
        return stack_rows([part(photo) for photo in self.photos])

    def guide_row(self, row: int) -> Tensor:
        """What row `row` is drawn towards, scores `(T, W, 512)` that need no colours."""
        return torch.stack([photo.guide[row] for photo in self.photos])

    def outer_row(self, row: int, bins: Tensor | None) -> Tensor:
        """The outer context `(T * W, D)` of row `row`, after the colours `bins` `(T, W)` of the row above, if any."""
        if bins is None:  # of the first row: nought
            return torch.zeros_like(self.gather(lambda photo: photo.outer_input[0]))
        decoder, above = self.decoder, row - 1
        colors = bins.flatten()
        x = F.embedding(colors, decoder.embedding).add_(self.gather(lambda photo: photo.outer_input[above]))
        qkv = F.embedding(colors, decoder.outer_colors).add_(self.gather(lambda photo: photo.outer_qkv[above]))
        for index, (layer, norms) in enumerate(zip(decoder.outer, self.outer_norms, strict=True)):
            by = Modulations.of(stack_rows([photo.outer[index][above] for photo in self.photos]))
            qkv = layer.modulated(qkv if index == 0 else layer.to_qkv(x), by)
            if index % 2 == 0:
                attended = self.outer_rows[index // 2](qkv)
            else:
                attended = self.columns[index // 2].attend(qkv, above)
            x = layer.finish(x, attended, by, norms)
        return x

    def inner_row(self, row: int, outer_context: Tensor) -> Callable[[Tensor, int], Tensor]:
        """The inner decoder over row `row`: colours `(T, W)` and a column to logits `(T, W - column, 512)` float32.

        The logits at a pixel depend on the colours left of it alone. Those left of the column must be what they were
        in the call before. What no colour changes is computed here.
        """
        decoder = self.decoder
        base = self.gather(lambda photo: photo.inner_input[row]) + outer_context
        base_qkv = decoder.inner[0].to_qkv(base)
        modulations = [
            condition.add(outer_context, stack_rows([photo.inner[index][row] for photo in self.photos]))
            for index, condition in enumerate(decoder.outer_conditions)
        ]

        def logits_of(bins: Tensor, start: int) -> Tensor:
            left = F.pad(bins[:, :-1], (1, 0), value=NUM_COLORS)[:, start:]

            def right(part: Tensor) -> Tensor:
                return part.view(decoder.tile, bins.shape[1], -1)[:, start:].flatten(0, 1)

            colors = left.flatten()
            x = F.embedding(colors, decoder.embedding).add_(right(base))
            qkv = F.embedding(colors, decoder.inner_colors).add_(right(base_qkv))
            layers = zip(decoder.inner, self.inner_rows, modulations, self.inner_norms, strict=True)
            for index, (layer, attention, modulation, norms) in enumerate(layers):
                by = Modulations.of(right(modulation))
                qkv = layer.modulated(qkv if index == 0 else layer.to_qkv(x), by)
                x = layer.finish(x, attention(qkv, start), by, norms)
            logits: Tensor = decoder.head(decoder.core.norm(x))
            return logits.float().view(*left.shape, NUM_COLORS)

        return logits_of
