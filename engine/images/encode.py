"""Pictures to the bytes of a file, without any metadata of the original."""

from __future__ import annotations

import io

from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels


def encode_image(pixels: Pixels, image_format: str, quality: int = 95) -> bytes:
    """The file's bytes of pixels uint8 [H, W, 3]: "png", "jpeg" or "webp", without any metadata."""
    stream = io.BytesIO()
    image = Image.fromarray(pixels)
    if image_format == "png":
        image.save(stream, "PNG", compress_level=6)
    elif image_format == "jpeg":
        image.save(stream, "JPEG", quality=quality, subsampling=0 if quality >= 90 else 2, optimize=True)
    elif image_format == "webp":
        image.save(stream, "WEBP", quality=quality, method=4)
    else:
        raise UserError(f"unknown image format {image_format!r}: use png, jpeg or webp")
    return stream.getvalue()
