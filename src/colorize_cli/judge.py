"""A classifier of colour photographs, to judge by what it recognises whether drawn colours mean anything.

A small residual network that has seen nothing but small colour photographs, and so leans on their colours. It is never
part of a model: it only judges.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from colorize_cli.atomic import replacing
from colorize_cli.errors import ModelError
from colorize_cli.photo import squash

JUDGE_SIZE = 64  # side of the picture it sees, in pixels
CHANNELS = (32, 64, 128, 192)
FEATURES = 128
MEAN, DEVIATION = 118.0, 64.0  # of a photograph's levels, roughly


def halving(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    """A convolution to half the side, its norm and ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same."""
        y = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(y)))


class Judge(nn.Module):
    """Pictures to features and to logits of the classes it was trained on."""

    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.classes = classes
        first, second, third, last = CHANNELS
        self.body = nn.Sequential(
            halving(3, first, kernel=5),
            halving(first, second),
            Residual(second),
            halving(second, third),
            Residual(third),
            halving(third, last),
        )
        self.hidden = nn.Linear(last, FEATURES)
        self.output = nn.Linear(FEATURES, len(classes))

    def features(self, pictures: Tensor) -> Tensor:
        """`(N, 3, 64, 64)` float, 0..255, to the features `(N, 128)` whose distribution is compared."""
        maps = self.body((pictures - MEAN) / DEVIATION)
        return F.relu(self.hidden(maps.mean(dim=(2, 3))))

    def forward(self, features: Tensor) -> Tensor:
        """Logits `(N, classes)` of features `(N, 128)`."""
        logits: Tensor = self.output(features)
        return logits

    @torch.no_grad()
    def look(self, rgb: np.ndarray) -> Tensor:
        """The features `(128,)` of one picture `(H, W, 3)` uint8."""
        return self.features(as_input([rgb]))[0]


def as_input(pictures: list[np.ndarray]) -> Tensor:
    """Pictures `(H, W, 3)` uint8, squashed to `(N, 3, 64, 64)` float32."""
    small = np.stack([squash(rgb, JUDGE_SIZE) for rgb in pictures])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)


def class_of(name: str) -> str:
    """The class in a photo's name: what stands before its last underscore (`n02480495_73` -> `n02480495`)."""
    return name.rpartition("_")[0]


def save_judge(judge: Judge, path: Path) -> None:
    """Write a judge and the names of its classes, its matrices in bfloat16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: (value.bfloat16() if value.ndim > 1 else value).contiguous()
        for name, value in judge.state_dict().items()
        if value.is_floating_point()
    }
    with replacing(path) as file:
        file.write(save(tensors, metadata={"classes": json.dumps(judge.classes)}))


def load_judge(path: Path) -> Judge:
    """A judge that `save_judge` wrote; raises `ModelError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            judge = Judge(json.loads((file.metadata() or {})["classes"]))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        counts = {name: value for name, value in judge.state_dict().items() if not value.is_floating_point()}
        judge.load_state_dict({**counts, **tensors}, strict=True)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} cannot be read as a judge ({reason}); colorize train judge makes one") from error
    return judge.eval()
