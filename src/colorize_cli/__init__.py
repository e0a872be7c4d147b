"""Colour old photographs with the Colorization Transformer (ColTran, ICLR 2021).

The public names are imported when first used, so that `import colorize_cli` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from colorize_cli.openmp import spin_briefly

if TYPE_CHECKING:
    from colorize_cli.colorizer import Colorization, Colorizer
    from colorize_cli.config import SamplingOptions
    from colorize_cli.errors import ColorizeError, ModelError, OptionError, PhotoError

__version__ = "0.1.0"

_HOMES = {
    "Colorization": "colorizer",
    "ColorizeError": "errors",
    "Colorizer": "colorizer",
    "ModelError": "errors",
    "OptionError": "errors",
    "PhotoError": "errors",
    "SamplingOptions": "config",
}
__all__ = [
    "Colorization",
    "ColorizeError",
    "Colorizer",
    "ModelError",
    "OptionError",
    "PhotoError",
    "SamplingOptions",
    "__version__",
]


spin_briefly()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
