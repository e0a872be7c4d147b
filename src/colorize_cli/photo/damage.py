"""What the readers of a damaged file forgive without a word: its pixels are there, but not all as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tifffile

DEFLATE = frozenset({8, 32946})


def of_jpeg(content: bytes, mode: str) -> str:
    """What is wrong with the data of a JPEG that Pillow reads in `mode`; nothing where no reader finds anything."""
    import simplejpeg  # not sooner: other photos do without

    space = "CMYK" if mode == "CMYK" else "GRAY"
    try:
        simplejpeg.decode_jpeg(content, space, min_factor=8)
    except ValueError as error:
        try:
            simplejpeg.decode_jpeg(content, space, min_factor=8, strict=False)
        except ValueError:  # of a kind that only Pillow reads
            return ""
        return str(error)
    return ""


def of_tiff(page: tifffile.TiffPage) -> str:
    """What is wrong with a page's deflated data."""
    if int(page.compression) not in DEFLATE:
        return ""
    try:
        for _ in page.segments(maxworkers=1):
            pass
    except NotImplementedError:  # a layout that only Pillow reads
        return ""
    except (RuntimeError, ValueError) as error:  # as the decoders' errors are
        return str(error)
    return ""
