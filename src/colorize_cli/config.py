"""Frozen dataclasses: the architecture of each stage, and what one sampling request asks for.

The defaults of the three stage configs are the published model (ColTran, ICLR 2021, appendix B).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from colorize_cli.errors import ModelError, OptionError

DEFAULT_MODEL = "coltran-small"
LEVELS = 8  # coarse levels a channel: 3 bits
NUM_COLORS = LEVELS**3  # 512, the core's alphabet
NUM_LEVELS = 256  # fine levels a channel, and of gray
CORE_SIZE = 64  # side of the core's image, in pixels
FULL_SIZE = 256  # side of the spatial upsampler's image, in pixels
LARGEST_SIZE = 2**16  # of anything in an architecture: what is above is a slip of the pen
ENLARGEMENTS = ("blocks", "chroma")
MOST_GUIDANCE = 8
DEFAULT_MAX_PIXELS = 200_000_000  # of a photo, in all its pages
JPEG_LONGEST = 65_500  # pixels a side
FORMAT_NAMES = ("jpeg", "png", "tiff", "webp", "avif", "heic", "jp2", "bmp", "ppm")  # that can be written
BACKBONE_SIZE = 224  # side of the gray photo that the backbone sees, in pixels
# The same in training: whole photos show smaller what random crops show (FixRes, Touvron et al. 2019).
LEARNING_SIZE = 192


def _from_dict(cls: type, values: dict[str, Any]) -> Any:
    known = {field.name for field in fields(cls)}
    wrong = sorted(set(values) - known)
    if wrong:
        raise ModelError(f"{cls.__name__} has no field {', '.join(wrong)}; it has {', '.join(sorted(known))}")
    return cls(**values)


def _check_positive(config: Any, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST_SIZE:
            raise ModelError(
                f"{type(config).__name__}.{name} is {value!r}; it must be a whole number, 1..{LARGEST_SIZE}"
            )


@dataclass(frozen=True)
class BackboneConfig:
    """The eye on the gray photo: a pretrained EfficientNet-Lite2 and the neck that merges its maps.

    Not part of the published model; the idea of an embedding network is Royer et al. 2017.
    """

    channels: int = 160  # of the neck
    blocks: int = 2  # residual 3x3 blocks after each merge

    def __post_init__(self) -> None:
        _check_positive(self, "channels", "blocks")


@dataclass(frozen=True)
class _StackConfig:
    """Sizes that every axial stack shares."""

    resolution: int = CORE_SIZE
    hidden: int = 512
    feed_forward: int = 512
    heads: int = 4

    def __post_init__(self) -> None:
        _check_positive(self, *(f.name for f in fields(self) if f.name not in {"backbone", "gray_bias", "enlargement"}))
        if self.hidden % self.heads:
            raise ModelError(f"{type(self).__name__}: hidden {self.hidden} is no multiple of heads {self.heads}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from the JSON of a `model.json`; unknown fields raise `ModelError`."""
        values = dict(values)
        if values.get("backbone") is not None:
            values["backbone"] = _from_dict(BackboneConfig, values["backbone"])
        config: Self = _from_dict(cls, values)
        return config

    def to_dict(self) -> dict[str, Any]:
        """The JSON of a `model.json`."""
        return asdict(self)


@dataclass(frozen=True)
class CoreConfig(_StackConfig):
    """The autoregressive colorizer (section 4.1): gray encoder, outer decoder, inner decoder."""

    encoder_layers: int = 4
    outer_layers: int = 2
    inner_layers: int = 2
    backbone: BackboneConfig | None = None
    gray_bias: bool = False  # a (256, 512) table added to the parallel head's logits

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gray_bias, bool):
            raise ModelError(f"{type(self).__name__}.gray_bias is {self.gray_bias!r}; it must be true or false")


@dataclass(frozen=True)
class ColorUpsamplerConfig(_StackConfig):
    """The colour upsampler (section 4.2): 512 colours to 256 levels a channel at the core's size."""

    layers: int = 4


@dataclass(frozen=True)
class SpatialUpsamplerConfig(_StackConfig):
    """The spatial upsampler (section 4.2): 64x64 to 256x256 RGB."""

    resolution: int = FULL_SIZE
    layers: int = 3
    enlargement: str = "blocks"  # how 64x64 RGB becomes its input: "blocks" of 4x4, or smooth "chroma" under the gray

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.enlargement not in ENLARGEMENTS:
            known = ", ".join(ENLARGEMENTS)
            raise ModelError(f"{type(self).__name__}.enlargement is {self.enlargement!r}; it must be one of {known}")


StageConfig = CoreConfig | ColorUpsamplerConfig | SpatialUpsamplerConfig

STAGES: dict[str, type[CoreConfig] | type[ColorUpsamplerConfig] | type[SpatialUpsamplerConfig]] = {
    "core": CoreConfig,
    "color_upsampler": ColorUpsamplerConfig,
    "spatial_upsampler": SpatialUpsamplerConfig,
}

# What `colorize bench` times; from the fourth on every sample costs it.
BENCH_STAGES = (
    "load",
    "decode file",
    "encode",
    "coarse",
    "color upsampler",
    "spatial upsampler",
    "join",
    "encode file",
    "whole photo",
)


@dataclass(frozen=True)
class SamplingOptions:
    """One request: how many samples of a photo, drawn how.

    Raises `OptionError` for `samples` below 1, a temperature that is negative or not finite, a negative
    seed, or a negative or non-finite saturation.
    """

    samples: int = 3
    temperature: float | None = None  # None: what the model recommends; 0: argmax
    seed: int = 0
    saturation: float = 1.0
    guidance: float | None = None  # weight of the parallel head in the drawing; None: what the model recommends

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples is {self.samples}; it must be at least 1")
        if self.temperature is not None and not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise OptionError(f"temperature is {self.temperature}; it must be a finite number of at least 0")
        if self.guidance is not None and not 0 <= self.guidance <= MOST_GUIDANCE:
            raise OptionError(f"guidance is {self.guidance}; it must be a number from 0 to {MOST_GUIDANCE}")
        if self.seed < 0:
            raise OptionError(f"seed is {self.seed}; it must be at least 0")
        if not (math.isfinite(self.saturation) and self.saturation >= 0):
            raise OptionError(f"saturation is {self.saturation}; it must be a finite number of at least 0")


@dataclass(frozen=True)
class OutputOptions:
    """How pictures are written. Raises `OptionError` for a quality outside 1..100 or an unknown format."""

    format: str | None = None  # one of FORMAT_NAMES; None: the photo's own where it holds colour
    quality: int | None = None  # 1..100, of lossy formats; None: high
    strip_metadata: bool = False  # leave out EXIF, XMP, IPTC and comments
    provenance: bool = True  # say in XMP what made the picture

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMAT_NAMES:
            raise OptionError(f"format is {self.format!r}; it must be one of {', '.join(FORMAT_NAMES)}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise OptionError(f"quality is {self.quality}; it must be from 1 to 100")
