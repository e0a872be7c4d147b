"""Axial attention, its MLP, conditional norm and position embedding (sections 3.2 and 4.1 of the paper).

Tensors are `(B, H, W, D)` unless said otherwise. Blocks are post-norm: `x = norm(x + block(x))`.
A *window* is a rectangle of the canvas; positions and relative biases are cut to it, so that a stack
of a large canvas can be trained on small pieces.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_cli.models.packed import PackedLinear
from colorize_cli.models.threads import spread

NORM_EPSILON = 1e-3  # Keras' default, in every norm of the published model
MASKED = -1e6  # added to the score of a key in the future
PIXELS_AT_ONCE = 2048  # of a stack in inference: their numbers stay in the cache
BLOCK_SCALE = 0.1  # of every block's last weights at the start: a fresh post-norm stack is nearly the identity


class Window(NamedTuple):
    """A rectangle of the canvas, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, x: Tensor) -> Tensor:
        """The window's part of `(B, H, W, ...)`."""
        return x[:, self.top : self.top + self.height, self.left : self.left + self.width]

    def within(self, outer: Window) -> Window:
        """The same window, in pixels from the corner of `outer`, which holds it."""
        return self._replace(top=self.top - outer.top, left=self.left - outer.left)


def table_embedding(rows: int, hidden: int) -> nn.Embedding:
    """A look-up table of unit variance.

    Not torch's own start: its normal distribution, asked for on the meta device, costs a second of imports.
    """
    embedding = nn.Embedding(rows, hidden, _weight=torch.empty(rows, hidden))
    nn.init.uniform_(embedding.weight, -(3**0.5), 3**0.5)
    return embedding


class PositionEmbedding(nn.Module):
    """Factorised positions: a learned row vector plus a learned column vector."""

    def __init__(self, height: int, width: int, hidden: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(height, 1, hidden).uniform_(-0.03, 0.03))
        self.columns = nn.Parameter(torch.empty(width, hidden).uniform_(-0.03, 0.03))

    def forward(self, window: Window | None = None) -> Tensor:
        """Returns `(H, W, D)` of the window, or of the whole canvas."""
        if window is None:
            return self.rows + self.columns
        rows = self.rows[window.top : window.top + window.height]
        return rows + self.columns[window.left : window.left + window.width]


class AxialAttention(nn.Module):
    """Multi-head self-attention along one axis, with a relative bias, optionally causal and conditioned.

    Conditioned (section 4.1, conditional self-attention): each of q, k and v is scaled and shifted by a
    projection of the context.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        length: int,
        *,
        axis: int,
        causal: bool = False,
        context_size: int | None = None,
    ) -> None:
        super().__init__()
        assert axis in (1, 2)
        self.heads, self.length, self.axis, self.causal = heads, length, axis, causal
        self.head_size = hidden // heads
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.output = nn.Linear(hidden, hidden, bias=False)
        self.output.weight.data.mul_(BLOCK_SCALE)
        self.relative_bias = nn.Parameter(torch.zeros(heads, 2 * length))
        self.condition: nn.Linear | None = None
        if context_size is not None:
            # Outputs (3 of q k v, heads, 2 of scale shift, head size), flattened.
            self.condition = nn.Linear(context_size, 6 * hidden, bias=False)
            self.condition.weight.data.mul_(0.25)  # about Keras' start

    def bias(self, length: int | None = None) -> Tensor:
        """Scores to add for query i and key j, `(heads, L, L)`: the table's entry `j - i + length - 1`."""
        length = length or self.length
        position = torch.arange(length, device=self.relative_bias.device)
        index = position[None, :] - position[:, None] + self.length - 1  # (L, L)
        bias = self.relative_bias[:, index]  # (heads, L, L)
        if self.causal:
            bias = bias.masked_fill(position[None, :] > position[:, None], MASKED)
        return bias

    def project(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """q, k, v of `(..., D)`, scaled and shifted by `modulation` `(..., 6D)`: `(..., 3, heads, head size)`."""
        qkv: Tensor = self.qkv(x.reshape(-1, x.shape[-1]))  # of more than two sides torch may copy the weight for each
        qkv = qkv.view(*x.shape[:-1], 3, self.heads, self.head_size)
        if modulation is not None:
            scale, shift = self.split_modulation(modulation)
            qkv = torch.addcmul(shift, qkv, scale)
        return qkv

    def split_modulation(self, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift `(..., 3, heads, head size)` of a projected `(..., 6D)`."""
        shape = (*modulation.shape[:-1], 3, self.heads, 2, self.head_size)
        scale, shift = modulation.reshape(shape).unbind(-2)
        return scale, shift

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns `(B, H, W, D)`; `context` `(B, H, W, C)` where the attention is conditioned."""
        if self.axis == 1:  # columns become rows
            context = None if context is None else context.transpose(1, 2)
            return self.lines(x.transpose(1, 2), context).transpose(1, 2)
        return self.lines(x, context)

    def lines(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attention within the lines of `(B, lines, L, D)`, rows or columns; returns the same shape."""
        modulation = self.condition(context) if self.condition is not None and context is not None else None
        q, k, v = self.by_head(self.project(x, modulation))
        bias = self.bias(q.shape[-2]).to(q.dtype)
        out = F.scaled_dot_product_attention(q * self.head_size**-0.5, k, v, attn_mask=bias[None], scale=1.0)
        return self.merged(out, x.shape)

    def by_head(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v `(B * lines, heads, L, head size)` of `(B, lines, L, 3, heads, head size)`."""
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).flatten(1, 2).unbind(0)
        return q, k, v

    def merged(self, out: Tensor, shape: torch.Size) -> Tensor:
        """The output projection `(B, lines, L, D)` of every head's result `(B * lines, heads, L, head size)`."""
        projected: Tensor = self.output(out.transpose(1, 2).reshape(-1, shape[-1]))
        return projected.view(shape)


class MLP(nn.Module):
    """Two layers with a ReLU; conditioned, its output is scaled and shifted by a projection of the context."""

    def __init__(self, hidden: int, feed_forward: int, context_size: int | None = None) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden, feed_forward)
        self.contract = nn.Linear(feed_forward, hidden)
        self.contract.weight.data.mul_(BLOCK_SCALE)
        self.condition: nn.Linear | None = None
        if context_size is not None:
            self.condition = nn.Linear(context_size, 2 * hidden)  # outputs (shift, scale), in this order
            with torch.no_grad():  # starts as the plain MLP
                self.condition.weight.mul_(0.1)
                self.condition.bias[:hidden].zero_()
                self.condition.bias[hidden:].fill_(1.0)

    def modulated(self, x: Tensor, modulation: Tensor | None) -> Tensor:
        """`(..., D)` with `modulation` `(..., 2D)` already projected."""
        x = self.contract(F.relu(self.expand(x)))
        if modulation is None:
            return x
        shift, scale = modulation.chunk(2, dim=-1)
        return torch.addcmul(shift, x, scale)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns `(..., D)`."""
        conditioned = self.condition is not None and context is not None
        return self.modulated(x, self.condition(context) if conditioned and self.condition else None)


class ConditionalNorm(nn.Module):
    """LayerNorm whose scale and shift come from a learned spatial average of the context."""

    def __init__(self, hidden: int, height: int, width: int, context_size: int) -> None:
        super().__init__()
        # Published checkpoints have a gamma and beta here that never learnt.
        self.normalize = nn.LayerNorm(hidden, eps=NORM_EPSILON).requires_grad_(False)
        self.spatial_average = nn.Parameter(torch.full((1, height, width, 1), 1.0))
        self.condition = nn.Linear(context_size, 2 * hidden)  # outputs (scale, shift)
        with torch.no_grad():  # starts as the plain norm
            self.condition.weight.mul_(0.1)
            self.condition.bias[:hidden].fill_(1.0)
            self.condition.bias[hidden:].zero_()

    def modulation(self, context: Tensor, window: Window | None = None) -> Tensor:
        """Scale and shift `(B, 1, 1, 2D)` from the whole context `(B, H, W, C)` of the canvas, or of a window."""
        weights = self.spatial_average if window is None else window.cut(self.spatial_average)
        average = (weights * context).mean(dim=(1, 2), keepdim=True)
        modulation: Tensor = self.condition(average)
        return modulation

    def modulated(self, x: Tensor, modulation: Tensor) -> Tensor:
        """`(B, ..., D)` with a modulation that broadcasts to it."""
        scale, shift = modulation.chunk(2, dim=-1)
        return torch.addcmul(shift, self.normalize(x), scale)

    def forward(self, x: Tensor, context: Tensor, window: Window | None = None) -> Tensor:
        """Returns `(B, H, W, D)`."""
        return self.modulated(x, self.modulation(context, window))


class LineBlock:
    """Attention and MLP along an axis, in inference in bfloat16 on a CPU: a few lines at a time.

    Plain products into the same memory: torch's fused attention is slower there, and so is memory that is asked for
    anew each time. With a single head, what makes the queries and what makes the keys is one product, and so is what
    makes the values and the output.
    """

    def __init__(self, attention: AxialAttention, mlp: MLP, norms: tuple[nn.Module, nn.Module], bias: Tensor) -> None:
        """`bias` `(lines * heads, L, L)` is the attention's own, repeated for the most lines it is given."""
        self.attention, self.heads, self.scale, self.bias = attention, attention.heads, attention.head_size**-0.5, bias
        self.norms = norms
        if self.heads == 1:
            query, key, value = attention.qkv.weight.float().chunk(3)
            self.query = PackedLinear((key.T @ query).to(bias.dtype), rows=PIXELS_AT_ONCE)
            self.value = PackedLinear((attention.output.weight.float() @ value).to(bias.dtype), rows=PIXELS_AT_ONCE)
        else:
            self.qkv = PackedLinear.of(attention.qkv, PIXELS_AT_ONCE)
            self.output = PackedLinear.of(attention.output, PIXELS_AT_ONCE)
        self.expand = PackedLinear.of(mlp.expand, PIXELS_AT_ONCE)
        self.contract = PackedLinear.of(mlp.contract, PIXELS_AT_ONCE)

    def __call__(self, lines: Tensor, scores: Tensor) -> Tensor:
        """`(N, L, D)` to the same; `scores`, of the shape of `bias`, is memory to work in."""
        first, second = self.norms
        x = lines.flatten(0, 1)  # (N * L, D)
        if self.heads == 1:
            weights = self.weights(self.query(x).view_as(lines), lines, scores)
            attended = torch.baddbmm(lines, weights, self.value(x).view_as(lines)).view_as(x)
        else:
            by_head = self.attention.by_head(self.qkv(x).view(1, *lines.shape[:2], 3, self.heads, -1))
            q, k, v = (part.flatten(0, 1) for part in by_head)  # (N * heads, L, head size)
            out = torch.bmm(self.weights(q, k, scores), v).view(len(lines), self.heads, *v.shape[1:])
            attended = self.output.add(out.transpose(1, 2).reshape(x.shape), x)
        y = first(attended)
        done: Tensor = second(self.contract.add(self.expand.relu(y), y))
        return done.view_as(lines)

    def weights(self, q: Tensor, k: Tensor, scores: Tensor) -> Tensor:
        """Of the values, `(N * heads, L, L)`."""
        scores = scores[: len(q)]
        torch.baddbmm(self.bias[: len(q)], q, k.transpose(1, 2), alpha=self.scale, out=scores)
        return torch.softmax(scores, dim=-1, out=scores)


class AxialLayer(nn.Module):
    """Row attention, MLP, column attention, MLP, each post-norm (section 3.2)."""

    def __init__(self, hidden: int, feed_forward: int, heads: int, height: int, width: int) -> None:
        super().__init__()
        self.row_attention = AxialAttention(hidden, heads, width, axis=2)
        self.row_mlp = MLP(hidden, feed_forward)
        self.column_attention = AxialAttention(hidden, heads, height, axis=1)
        self.column_mlp = MLP(hidden, feed_forward)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, eps=NORM_EPSILON) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, H, W, D)`."""
        x = self.along_lines(x, self.row_attention, self.row_mlp, 0)
        return self.along_lines(x.transpose(1, 2), self.column_attention, self.column_mlp, 2).transpose(1, 2)

    def along_lines(self, x: Tensor, attention: AxialAttention, mlp: MLP, norm: int) -> Tensor:
        """Attention and MLP along the lines of `(B, lines, L, D)`; in inference a few lines at a time."""
        first, second = self.norms[norm], self.norms[norm + 1]

        def block(lines: Tensor) -> Tensor:
            y = first(lines + attention.lines(lines))
            out: Tensor = second(y + mlp(y))
            return out

        if torch.is_grad_enabled() or x.device.type != "cpu":
            return block(x)
        count = max(1, PIXELS_AT_ONCE // x.shape[2])
        bias = attention.bias(x.shape[2]).to(x.dtype).repeat(count, 1, 1)
        done = torch.empty(x.shape, dtype=x.dtype)
        fast = LineBlock(attention, mlp, (first, second), bias) if x.dtype == torch.bfloat16 else None

        def fill(places: list[tuple[int, int]]) -> None:
            scores = torch.empty_like(bias)
            for image, start in places:
                lines = x[image, start : start + count].contiguous()
                done[image, start : start + count] = fast(lines, scores) if fast is not None else block(lines[None])[0]

        places = [(image, start) for image in range(len(x)) for start in range(0, x.shape[1], count)]
        shares = torch.get_num_threads()
        spread(fill, [places[share::shares] for share in range(min(shares, len(places)))], x.device)
        return done


class AxialStack(nn.Module):
    """Positions added once, then axial layers."""

    def __init__(self, hidden: int, feed_forward: int, heads: int, resolution: int, layers: int) -> None:
        super().__init__()
        self.positions = PositionEmbedding(resolution, resolution, hidden)
        self.layers = nn.ModuleList(
            AxialLayer(hidden, feed_forward, heads, resolution, resolution) for _ in range(layers)
        )

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """Returns `(B, H, W, D)`."""
        x = x + self.positions(window)
        for layer in self.layers:
            x = layer(x)
        return x
