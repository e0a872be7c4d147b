"""The colour upsampler and the spatial upsampler (section 4.2 of the paper).

Both run one network once for each RGB channel, every pixel in parallel; the three channels are one batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_cli.config import LEVELS, NUM_LEVELS, ColorUpsamplerConfig, SpatialUpsamplerConfig
from colorize_cli.models.layers import AxialStack, Window, table_embedding
from colorize_cli.models.threads import spread

LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # BT.601
HEAD_PIXELS = 2048  # whose 256 logits are held at a time


class ChannelUpsampler(nn.Module):
    """One channel's symbols and the gray photo to 256 levels a pixel."""

    def __init__(self, config: ColorUpsamplerConfig | SpatialUpsamplerConfig, levels: int) -> None:
        super().__init__()
        self.config = config
        self.levels = levels
        hidden = config.hidden
        self.channel_embedding = table_embedding(3 * levels, hidden)
        self.gray_embedding = table_embedding(NUM_LEVELS, hidden)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.stack = AxialStack(hidden, config.feed_forward, config.heads, config.resolution, config.layers)
        self.head = nn.Linear(hidden, NUM_LEVELS)

    def hidden_states(self, symbols: Tensor, gray: Tensor, window: Window | None = None) -> Tensor:
        """What the head sees, `(B, h, w, D)`.

        Args:
            symbols: `(B, h, w)` int: `level + levels * channel`.
            gray: `(B, h, w)` int, 0..255.
            window: where on the canvas they are; the whole canvas if None.
        """
        # The merge of the two embeddings, done on the tables: a look-up a pixel and no matrix product.
        hidden = self.config.hidden
        by_symbol = F.linear(self.channel_embedding.weight, self.merge.weight[:, :hidden], self.merge.bias)
        by_gray = F.linear(self.gray_embedding.weight, self.merge.weight[:, hidden:])
        x = F.embedding(symbols, by_symbol) + F.embedding(gray, by_gray)
        out: Tensor = self.stack(x, window)
        return out

    def channel_logits(self, symbols: Tensor, gray: Tensor, window: Window | None = None) -> Tensor:
        """Logits `(B, h, w, 256)` of one channel a batch entry."""
        logits: Tensor = self.head(self.hidden_states(symbols, gray, window))
        return logits

    def symbols(self, levels: Tensor) -> Tensor:
        """Levels `(B, H, W, 3)` to symbols `(B, 3, H, W)`."""
        offset = torch.arange(3, device=levels.device) * self.levels
        return (levels + offset).permute(0, 3, 1, 2)

    def forward(self, levels: Tensor, gray: Tensor) -> Tensor:
        """Logits `(B, H, W, 3, 256)` of `levels` `(B, H, W, 3)` int and `gray` `(B, H, W)` int."""
        symbols = self.symbols(levels).flatten(0, 1)  # (B * 3, H, W)
        logits = self.channel_logits(symbols, gray.repeat_interleave(3, dim=0))
        return logits.view(-1, 3, *logits.shape[1:]).permute(0, 2, 3, 1, 4)

    def expected(self, symbols: Tensor, gray: Tensor) -> Tensor:
        """The expected levels `(B, C, H, W)` float32 of channels `symbols` `(B, C, H, W)` under `gray` `(B, H, W)`.

        The published code takes the most likely level. The mean of the same distribution has the smaller error, by
        about 0.8 dB at each stage, and no steps where two levels are nearly as likely.
        """
        states = self.hidden_states(symbols.flatten(0, 1), gray.repeat_interleave(symbols.shape[1], dim=0))
        values = torch.arange(NUM_LEVELS, dtype=torch.float32, device=gray.device)

        def mean(part: Tensor) -> Tensor:
            levels: Tensor = self.head(part).softmax(dim=-1, dtype=torch.float32) @ values
            return levels

        # A few pixels at a time: the logits of all would be the biggest tensor by far.
        parts = torch.split(states.flatten(0, 2), HEAD_PIXELS)
        return torch.cat(spread(mean, parts, gray.device)).view(symbols.shape)

    def upsample(self, levels: Tensor, gray: Tensor) -> Tensor:
        """RGB `(B, H, W, 3)` uint8 of `levels` `(B, H, W, 3)` int and `gray` `(B, H, W)` int."""
        return self.expected(self.symbols(levels), gray).round().to(torch.uint8).permute(0, 2, 3, 1)


class ColorUpsampler(ChannelUpsampler):
    """512 colours to full depth at the core's size; `levels` are the 8 coarse levels of each channel."""

    config: ColorUpsamplerConfig

    def __init__(self, config: ColorUpsamplerConfig) -> None:
        super().__init__(config, LEVELS)


class SpatialUpsampler(ChannelUpsampler):
    """256x256 RGB from the 64x64 RGB, enlarged; `levels` are its 256 levels of each channel."""

    config: SpatialUpsamplerConfig

    def __init__(self, config: SpatialUpsamplerConfig) -> None:
        super().__init__(config, NUM_LEVELS)

    def enlarge(self, rgb: Tensor, gray: Tensor) -> Tensor:
        """The stage's input: levels `(B, H, W, 3)` int64 from RGB `(B, h, w, 3)` and gray `(B, H, W)`, 0..255.

        As published every pixel becomes a block. "chroma" enlarges what is left of the colour without its luma, by
        bicubic, and adds it to the sharp gray: already a good picture, of which the stage has to mend the edges.
        """
        side = gray.shape[1] // rgb.shape[1]
        if self.config.enlargement == "blocks":
            return rgb.long().repeat_interleave(side, dim=1).repeat_interleave(side, dim=2)
        values = rgb.float()
        chroma = (values - (values @ values.new_tensor(LUMA_WEIGHTS))[..., None]).permute(0, 3, 1, 2)
        chroma = F.interpolate(chroma, scale_factor=side, mode="bicubic", align_corners=False)
        levels = gray[..., None] + chroma.permute(0, 2, 3, 1)
        return levels.round().clamp(0, NUM_LEVELS - 1).long()

    def upsample(self, levels: Tensor, gray: Tensor) -> Tensor:
        """RGB `(B, H, W, 3)` uint8 of `levels` `(B, H, W, 3)` int and `gray` `(B, H, W)` int.

        Fed with chroma, it is asked for red and blue alone: green is what is left of the gray. That saves a third of
        the work and costs 0.03 dB.
        """
        if self.config.enlargement == "blocks":
            return super().upsample(levels, gray)
        red, blue = self.expected(self.symbols(levels)[:, ::2], gray).unbind(1)
        of_red, of_green, of_blue = LUMA_WEIGHTS
        green = (gray - of_red * red - of_blue * blue) / of_green
        return torch.stack((red, green, blue), dim=-1).round().clamp(0, NUM_LEVELS - 1).to(torch.uint8)
