"""The core: gray encoder, outer decoder, inner decoder and the two heads (section 4.1 of the paper).

Decoding is written here for a whole image at once (teacher forcing); `sampling` runs the same modules
row by row and pixel by pixel against caches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from colorize_cli.config import NUM_COLORS, NUM_LEVELS, CoreConfig
from colorize_cli.models.backbone import EfficientNetLite2, Neck
from colorize_cli.models.layers import (
    MLP,
    NORM_EPSILON,
    AxialAttention,
    AxialStack,
    ConditionalNorm,
    PositionEmbedding,
    Window,
    table_embedding,
)
from colorize_cli.models.threads import spread

TABLE_SHARE = 0.7  # of the gray bias, in what drawing is guided by


class CoreLogits(NamedTuple):
    """Logits over the 512 colours, `(B, H, W, 512)` each."""

    autoregressive: Tensor
    parallel: Tensor


class ConditionalLayer(nn.Module):
    """An attention block and its MLP, both conditioned, each followed by a conditional norm."""

    attention: AxialAttention
    mlp: MLP
    attention_norm: ConditionalNorm
    mlp_norm: ConditionalNorm

    def __init__(self, config: CoreConfig, *, axis: int, causal: bool, context_size: int) -> None:
        super().__init__()
        hidden, size = config.hidden, config.resolution
        self.attention = AxialAttention(hidden, config.heads, size, axis=axis, causal=causal, context_size=context_size)
        self.mlp = MLP(hidden, config.feed_forward, context_size)
        # The norms see the gray context only: an average of colours would leak the future.
        self.attention_norm = ConditionalNorm(hidden, size, size, hidden)
        self.mlp_norm = ConditionalNorm(hidden, size, size, hidden)

    def forward(self, x: Tensor, context: Tensor, gray_context: Tensor, window: Window | None) -> Tensor:
        """Returns `(B, H, W, D)`; everything covers the window, or the canvas."""
        x = self.attention_norm(x + self.attention(x, context), gray_context, window)
        out: Tensor = self.mlp_norm(x + self.mlp(x, context), gray_context, window)
        return out


class ConditionalLayers(nn.ModuleList):
    """A list that knows what it holds."""

    def __iter__(self) -> Iterator[ConditionalLayer]:
        return cast(Iterator[ConditionalLayer], super().__iter__())


class GrayEncoder(nn.Module):
    """Gray levels (and what the backbone saw) to the context of both decoders."""

    neck: Neck | None

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.embedding = table_embedding(NUM_LEVELS, config.hidden)
        self.embedding_bias = nn.Parameter(torch.zeros(config.hidden))
        self.stack = AxialStack(
            config.hidden, config.feed_forward, config.heads, config.resolution, config.encoder_layers
        )
        self.neck: Neck | None = None
        if config.backbone is not None:
            self.neck = Neck(config.backbone, config.hidden, config.resolution)

    def forward(self, gray: Tensor, seen: Tensor | None = None, window: Window | None = None) -> Tensor:
        """Returns the gray context `(B, H, W, D)`, or a window's, as seen from that window alone.

        `seen` `(B, H, W, D)` is what the neck made of the backbone's maps, where there is one.
        """
        x = self.embedding(gray) + self.embedding_bias
        if self.neck is not None:
            assert seen is not None, "what the backbone saw is missing"
            x = x + seen
        context: Tensor = self.stack(x if window is None else window.cut(x), window)
        return context


class OuterDecoder(nn.Module):
    """Colours of all rows above: full row attention, then masked column attention, shifted down one row."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.positions = PositionEmbedding(config.resolution, config.resolution, config.hidden)
        layers = range(config.outer_layers)
        self.row_layers = ConditionalLayers(
            ConditionalLayer(config, axis=2, causal=False, context_size=config.hidden) for _ in layers
        )
        self.column_layers = ConditionalLayers(
            ConditionalLayer(config, axis=1, causal=True, context_size=config.hidden) for _ in layers
        )

    def forward(self, pixels: Tensor, gray_context: Tensor, window: Window | None = None) -> Tensor:
        """`pixels` `(B, H, W, D)` embedded colours. Returns the outer context `(B, H, W, D)`."""
        x = pixels + self.positions(window) + gray_context
        for row_layer, column_layer in zip(self.row_layers, self.column_layers, strict=True):
            x = row_layer(x, gray_context, gray_context, window)
            x = column_layer(x, gray_context, gray_context, window)
        return torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)


class InnerDecoder(nn.Module):
    """Colours to the left in the row: masked row attention on pixels shifted right by one."""

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.positions = PositionEmbedding(config.resolution, config.resolution, config.hidden)
        self.layers = ConditionalLayers(
            ConditionalLayer(config, axis=2, causal=True, context_size=2 * config.hidden)
            for _ in range(config.inner_layers)
        )

    def forward(
        self, pixels: Tensor, gray_context: Tensor, outer_context: Tensor, window: Window | None = None
    ) -> Tensor:
        """Returns `(B, H, W, D)`."""
        shifted = torch.cat((torch.zeros_like(pixels[:, :, :1]), pixels[:, :, :-1]), dim=2)
        x = shifted + self.positions(window) + gray_context + outer_context
        both = torch.cat((gray_context, outer_context), dim=-1)
        for layer in self.layers:
            x = layer(x, both, gray_context, window)
        out: Tensor = x
        return out


class ColTranCore(nn.Module):
    """The autoregressive colorizer, and the parallel head that regularises its encoder."""

    backbone: EfficientNetLite2 | None
    encoder: GrayEncoder
    outer: OuterDecoder
    inner: InnerDecoder

    def __init__(self, config: CoreConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite2() if config.backbone is not None else None
        self.encoder = GrayEncoder(config)
        self.pixel_embedding = table_embedding(NUM_COLORS, config.hidden)
        self.outer = OuterDecoder(config)
        self.inner = InnerDecoder(config)
        self.norm = nn.LayerNorm(config.hidden, eps=NORM_EPSILON)
        self.head = nn.Linear(config.hidden, NUM_COLORS)
        self.parallel_head = nn.Linear(config.hidden, NUM_COLORS, bias=False)
        self.gray_bias: nn.Parameter | None = None
        if config.gray_bias:
            self.gray_bias = nn.Parameter(torch.zeros(NUM_LEVELS, NUM_COLORS))

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype`, but for the backbone: rounded to bfloat16 it sees worse, and in float32 costs little."""
        backbone, self.backbone = self.backbone, None
        self.to(dtype)
        self.backbone = backbone

    def encode(self, gray: Tensor, backbone_gray: Tensor | None = None) -> Tensor:
        """The gray context `(B, H, W, D)`.

        Args:
            gray: `(B, H, W)` int, 0..255, at the core's resolution.
            backbone_gray: `(B, 224, 224)` uint8, 0..255; required where the model has a backbone.
        """
        seen = None
        if self.backbone is not None:
            assert backbone_gray is not None, "the backbone's photo is missing"
            # By one thread: float32 convolutions round otherwise where several share the work.
            (seen,) = spread(self.see, [backbone_gray], gray.device)
        context: Tensor = self.encoder(gray, seen)
        return context

    def see(self, backbone_gray: Tensor) -> Tensor:
        """What the backbone and its neck see in a photo, `(B, H, W, D)`."""
        assert self.backbone is not None and self.encoder.neck is not None
        seen: Tensor = self.encoder.neck(self.backbone(backbone_gray))
        return seen

    def parallel_logits(self, gray_context: Tensor, gray: Tensor) -> Tensor:
        """Logits `(B, H, W, 512)` from the encoder alone."""
        logits: Tensor = self.parallel_head(gray_context)
        if self.gray_bias is not None:
            logits = logits + self.gray_bias[gray]
        return logits

    def guide(self, gray_context: Tensor, gray: Tensor) -> Tensor:
        """What to draw towards, scores `(B, H, W, 512)` float32: the parallel head's log-probabilities, less most of
        what a pixel's own gray says already.

        Without the second term colours that are likely anywhere, grays above all, would only become likelier.
        """
        scores = self.parallel_logits(gray_context, gray).float().log_softmax(dim=-1)
        if self.gray_bias is not None:
            scores = scores - TABLE_SHARE * self.gray_bias.float().log_softmax(dim=-1)[gray]
        return scores

    def decode(self, gray_context: Tensor, bins: Tensor, window: Window | None = None) -> Tensor:
        """Teacher-forced logits `(B, H, W, 512)`.

        Args:
            gray_context: `(B, H, W, D)`.
            bins: `(B, H, W)` int, 0..511.
            window: where both lie on the canvas; the whole of it if None.
        """
        pixels = self.pixel_embedding(bins)
        outer_context = self.outer(pixels, gray_context, window)
        x = self.inner(pixels, gray_context, outer_context, window)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def forward(self, gray: Tensor, bins: Tensor, backbone_gray: Tensor | None = None) -> CoreLogits:
        """The naive full forward: `gray` and `bins` `(B, H, W)`."""
        context = self.encode(gray, backbone_gray)
        return CoreLogits(self.decode(context, bins), self.parallel_logits(context, gray))
