"""From bytes to pixels: what is right, and what is put aside with its reason."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pgembed.encoders import images
from pgembed.encoders.images import open_image, read_base64
from pgembed.errors import ImageError
from tests.fixtures.image_model import bomb, picture


def saved(image: Image.Image, name: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **more)
    return buffer.getvalue()


def halves(left: Any = (255, 0, 0), right: Any = (0, 0, 255), mode: str = "RGB") -> Any:
    """Draw an image of 40 × 20 pixels with a left and a right half."""
    image = Image.new(mode, (40, 20), right)
    ImageDraw.Draw(image).rectangle((0, 0, 19, 19), fill=left)
    return image


def near(pixel: Any, wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 6 for a, b in zip(pixel, wanted, strict=True))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_usual_formats_are_read(format: str) -> None:
    image = open_image(saved(halves(), format))
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert near(image.getpixel((3, 10)), (255, 0, 0))
    assert near(image.getpixel((36, 10)), (0, 0, 255))


def test_cmyk_is_converted() -> None:
    cyan, yellow = (255, 0, 0, 0), (0, 0, 255, 0)
    image = open_image(saved(halves(cyan, yellow, "CMYK"), "JPEG"))
    assert near(image.getpixel((3, 10)), (0, 255, 255))
    assert near(image.getpixel((36, 10)), (255, 255, 0))


def test_an_image_is_turned_as_its_exif_data_say() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # what is on the left belongs to the top
    image = open_image(saved(halves(), "JPEG", exif=exif))
    assert image.size == (20, 40)
    assert near(image.getpixel((10, 3)), (255, 0, 0))
    assert near(image.getpixel((10, 36)), (0, 0, 255))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_counts(format: str) -> None:
    first, second = (Image.new("RGB", (20, 20), name) for name in ("red", "blue"))
    data = saved(first, format, save_all=True, append_images=[second], duration=100)
    assert near(open_image(data).getpixel((10, 10)), (255, 0, 0))


def test_what_is_transparent_is_on_white() -> None:
    image = open_image(saved(halves((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"), "PNG"))
    assert image.getpixel((3, 10)) == (255, 255, 255)
    assert image.getpixel((36, 10)) == (0, 0, 0)


def test_greys_of_sixteen_bits_keep_their_brightness() -> None:
    image = open_image(saved(halves(128 << 8, 255 << 8, "I;16"), "PNG"))
    assert image.getpixel((3, 10)) == (128, 128, 128)
    assert image.getpixel((36, 10)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_large_image_is_made_smaller(format: str) -> None:
    image = open_image(saved(halves().resize((4000, 2000)), format))
    assert image.width * image.height <= images.KEPT_PIXELS
    assert image.width == 2 * image.height
    assert near(image.getpixel((50, 50)), (255, 0, 0))


@pytest.mark.parametrize(("side", "said"), [(9_000, "9,000 × 9,000"), (50_000, "bomb")])
def test_a_decompression_bomb_is_refused_by_its_header(side: int, said: str) -> None:
    with pytest.raises(ImageError, match="more than 80,000,000 pixels") as caught:
        open_image(bomb(side))
    assert said in str(caught.value.detail)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"hello, no image", "15 bytes are no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "are no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "are no image"),
        (picture("red", "circle")[:-200], "cannot be decoded"),
        (picture("red", "circle", format="JPEG")[:-600], "cannot be decoded"),
        (picture("red", "circle").replace(b"IDAT", b"IDxT"), "are no image"),
        (bomb(400), "cannot be decoded"),
    ],
)
def test_what_is_no_whole_image_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        open_image(data)


def test_any_damage_is_an_error_of_the_image() -> None:
    """Decoders raise what they like; nothing but ImageError comes out."""
    for name in ("PNG", "JPEG", "GIF", "WEBP", "TIFF"):
        data = picture("red", "circle", format=name)
        for place in range(0, len(data), max(1, len(data) // 60)):
            broken = data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
            with contextlib.suppress(ImageError):
                assert open_image(broken).mode == "RGB"


def test_base64_is_read_with_its_line_breaks() -> None:
    assert read_base64("aGVs\nbG8=\n") == b"hello"


_MEMORY = """
import re, sys
from pathlib import Path
from pgembed.encoders.images import open_image
def most():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024
data = Path(sys.argv[1]).read_bytes()
import PIL.Image; PIL.Image.init()
before = most()
open_image(data)
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "L", "CMYK"])
def test_a_large_image_is_in_memory_once(tmp_path: Path, mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    file = tmp_path / "large"
    Image.new(mode, (5000, 4000)).save(file, kind)
    megabytes = 20_000_000 * 4 / (1 << 20)  # at four bytes a pixel
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(file)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) < 1.5 * megabytes + 50
