"""A photo's file: in, at full depth, and out again with colour and all that it said beside its pixels."""

from __future__ import annotations

from colorize_cli.photo.luma import Page, to_8_bits
from colorize_cli.photo.metadata import Metadata
from colorize_cli.photo.reading import Photo, open_photo
from colorize_cli.photo.squares import backbone_view, joined_squares, square_grays, squares, squash
from colorize_cli.photo.writing import (
    FORMATS,
    check_size,
    format_of,
    likely_suffix,
    output_suffix,
    save_photo,
    write_photo,
)

__all__ = [
    "FORMATS",
    "Metadata",
    "Page",
    "Photo",
    "backbone_view",
    "check_size",
    "format_of",
    "joined_squares",
    "likely_suffix",
    "open_photo",
    "output_suffix",
    "save_photo",
    "square_grays",
    "squares",
    "squash",
    "to_8_bits",
    "write_photo",
]
