"""From the bytes of an image file to pixels: what comes from anywhere is not trusted.

Only formats that are nothing but pixels are opened (Pillow's EPS, say, starts a
program), and only after the header has told how many pixels there are: a small file
can hold billions.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

from pgembed.errors import ImageError, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final[tuple[str, ...]] = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MOST_PIXELS: Final = 80_000_000
"""Of an image: with transparency a third of a gigabyte, once."""

KEPT_PIXELS: Final = 2_000_000
"""A larger image is made smaller at once: models look at some hundred each way."""

_SMOOTHED: Final = 4
"""Times as many are made smaller smoothly, in copies; of more, that many are kept."""


def read_base64(text: str) -> bytes:
    """Give the bytes of an image that PostgreSQL's encode(…, 'base64') has written."""
    return base64.b64decode(text)


def open_image(data: bytes) -> Image:
    """Decode an image file to red, green and blue.

    The first picture of an animation, turned as its EXIF data says, CMYK and greys
    converted, what is transparent on white, and no larger than `KEPT_PIXELS`.

    Raises:
        ImageError: These are no image, a damaged one, or one with too many pixels.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as exc:
        raise MissingExtra("encoder") from exc

    try:
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]
        with Image.open(io.BytesIO(data), formats=known) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise _too_large(f"It has {width:,} × {height:,}.")
            image.draft("RGB", _wanted(width, height))  # JPEG can decode to less
            # What follows copies it several times.
            some = _wanted(*image.size, pixels=_SMOOTHED * KEPT_PIXELS)
            image.thumbnail(some, Image.Resampling.NEAREST)
            turned = ImageOps.exif_transpose(image)
            pixels = _as_rgb(turned)
    except UnidentifiedImageError as exc:
        raise ImageError(
            f"these {len(data):,} bytes are no image",
            detail=f"They begin with {data[:16]!r}.",
            hint=f"Formats are {', '.join(FORMATS)}.",
        ) from exc
    except Image.DecompressionBombError as exc:
        raise _too_large(str(exc)) from exc
    except (ImageError, MemoryError):
        raise
    # Decoders raise OSError, SyntaxError, ValueError, struct.error, and what not.
    except Exception as exc:
        raise ImageError(
            f"the image cannot be decoded: {type(exc).__name__}: {exc}",
            hint="The file is damaged or cut off: store it again.",
        ) from exc
    pixels.thumbnail(_wanted(*pixels.size))
    return pixels


def _too_large(detail: str) -> ImageError:
    return ImageError(
        f"the image has more than {MOST_PIXELS:,} pixels",
        detail=detail,
        hint="Store a smaller one.",
    )


def _wanted(width: int, height: int, pixels: int = KEPT_PIXELS) -> tuple[int, int]:
    """Give the size of an image with so many pixels at most, and the same shape."""
    scale = min(1.0, (pixels / max(1, width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _as_rgb(image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        # Conversion would cut all that is brighter than 255.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image)
    return image.convert("RGB")
