"""What is written has no metadata, and keeps every pixel where the format can."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.encode import encode_image

PICTURE = np.stack(np.meshgrid(np.arange(0, 240, 10), np.arange(0, 160, 10)), axis=-1).astype(np.uint8)
PICTURE = np.concatenate([PICTURE, 255 - PICTURE[..., :1]], axis=-1)  # [16, 24, 3]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_results_carry_no_metadata(kind: str) -> None:
    data = encode_image(PICTURE, kind, 90)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (24, 16)
        assert not image.getexif()
        assert not set(image.info) - {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "loop",
            "background",
            "timestamp",
        }
    assert b"Exif" not in data
    assert b"ICC" not in data


def test_png_is_lossless() -> None:
    with Image.open(io.BytesIO(encode_image(PICTURE, "png"))) as image:
        np.testing.assert_array_equal(np.asarray(image), PICTURE)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UserError, match="'gif': use png"):
        encode_image(PICTURE, "gif")
