"""The eye on the gray photo: EfficientNet-Lite2 (Tan & Le 2019) with its batch norms folded, and a neck.

Convolutions and ReLU6 only. Padding is TensorFlow's SAME. Tensors are `(B, C, H, W)` here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from colorize_cli.config import BackboneConfig

MAP_CHANNELS = (48, 120, 352)  # of its maps at strides 8, 16 and 32
MAP_SCALES = (8.0, 4.0, 2.0)  # their rough standard deviations
STEM_CHANNELS = 32
# (repeats, kernel, stride, expansion, output channels); width 1.1 and depth 1.2 of Lite0
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
    (5, 5, 2, 6, 208),
    (1, 3, 1, 6, 352),
)
MAP_STAGES = (2, 4, 6)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: what is odd goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, C, ceil(H / stride), ceil(W / stride))`."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        if height % 2 == 0 and width % 2 == 0:
            padding = (height // 2, width // 2)
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand = SameConv(inputs, width, 1) if expansion != 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, outputs, H / stride, W / stride)`."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.residual else y
        return out


class EfficientNetLite2(nn.Module):
    """The classifier without its head; ImageNet weights, 4.8M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM_CHANNELS, 3, 2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks = []
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, kernel, stride if index == 0 else 1, expansion))
                channels = outputs
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps at strides 8, 16 and 32 of a photo, gray `(B, H, W)` or RGB `(B, H, W, 3)`, 0..255 in any dtype."""
        x = (photo.to(self.stem.weight.dtype) - 127) / 128
        # A gray photo has three equal channels.
        x = x.permute(0, 3, 1, 2) if x.ndim == 4 else x[:, None].expand(-1, 3, -1, -1)
        x = x.contiguous(memory_format=torch.channels_last)  # all maps after it follow; its kernels are faster
        x = F.relu6(self.stem(x))
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in MAP_STAGES:
                maps.append(x)
        return maps[0], maps[1], maps[2]


class ResidualBlock(nn.Module):
    """`x + conv(relu(conv(relu(x))))`, both 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `(B, C, H, W)`."""
        y: Tensor = x + self.second(F.relu(self.first(F.relu(x))))
        return y


class Neck(nn.Module):
    """Projects the backbone's maps, merges them from coarse to fine, enlarges them to the core's canvas."""

    projections: nn.ModuleList

    def __init__(self, config: BackboneConfig, hidden: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.projections = nn.ModuleList(nn.Conv2d(c, config.channels, 1) for c in MAP_CHANNELS)
        self.merges = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(config.channels) for _ in range(config.blocks))) for _ in MAP_CHANNELS
        )
        self.output = nn.Conv2d(config.channels, hidden, 1)

    def forward(self, maps: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Returns `(B, resolution, resolution, D)`, of maps in any dtype."""
        x: Tensor | None = None
        for index in (2, 1, 0):
            y = self.projections[index](maps[index].to(self.output.weight.dtype))
            if x is not None:
                y = y + F.interpolate(x, size=y.shape[-2:], mode="bilinear", align_corners=False)
            x = self.merges[index](y)
        assert x is not None
        size = (self.resolution, self.resolution)
        x = F.interpolate(self.output(x), size=size, mode="bilinear", align_corners=False)
        return x.permute(0, 2, 3, 1)
