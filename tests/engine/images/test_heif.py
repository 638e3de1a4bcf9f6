"""HEIC is read as whole and as upright as JPEG is, and without the extra a line says what to install."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images import decode, heif
from faceanon_engine.engine.images.decode import memory_to_read, read_image

PHOTO = Path(__file__).parents[3] / "demo" / "samples" / "photo-of-two.jpg"


@pytest.fixture(scope="module", autouse=True)
def extra() -> None:
    pytest.importorskip("pillow_heif", reason="the extra is not installed: pip install '.[heic]'")
    heif.register_heif()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    with Image.open(PHOTO) as image:
        return image.convert("RGB").resize((330, 250))


def encoded(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "HEIF", quality=80, **options)
    return stream.getvalue()


def written(folder: Path, content: bytes) -> Path:
    (folder / "IMG_1.HEIC").write_bytes(content)
    return folder / "IMG_1.HEIC"


@pytest.mark.parametrize("tiles", [0, 64])
def test_a_telephones_picture_is_read(tmp_path: Path, photo: Image.Image, tiles: int) -> None:
    path = written(tmp_path, encoded(photo, tile_size=tiles))
    decoded = read_image(path)
    assert (decoded.format, decoded.pictures, decoded.pixels.shape) == ("HEIF", 1, (250, 330, 3))
    assert np.abs(decoded.pixels.astype(int) - np.asarray(photo)).mean() < 3
    assert memory_to_read(path) > 330 * 250 * 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright_and_turned_once(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "a.png", exif=exif)
    expected = read_image(tmp_path / "a.png").pixels
    pixels = read_image(written(tmp_path, encoded(photo, exif=exif.tobytes()))).pixels
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3


def test_of_several_pictures_the_main_one_is_used(tmp_path: Path, photo: Image.Image) -> None:
    other = Image.new("RGB", (64, 64), (200, 0, 0))
    content = encoded(photo, save_all=True, append_images=[other, other], primary_index=1)
    decoded = read_image(written(tmp_path, content))
    assert (decoded.pictures, decoded.pixels.shape) == (3, (64, 64, 3))
    assert decoded.pixels[..., 0].min() > 180


def test_transparent_and_deep_ones_are_read(tmp_path: Path, photo: Image.Image) -> None:
    clear = photo.copy()
    clear.putalpha(0)
    assert read_image(written(tmp_path, encoded(clear))).pixels.min() > 250
    grey = photo.convert("L")
    pixels = read_image(written(tmp_path, encoded(grey))).pixels
    assert np.abs(pixels[..., 0].astype(int) - np.asarray(grey)).mean() < 3


@pytest.mark.parametrize("tiles", [0, 64])
@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.99])
def test_what_is_cut_off_is_refused(tmp_path: Path, photo: Image.Image, tiles: int, kept: float) -> None:
    content = encoded(photo, tile_size=tiles)
    with pytest.raises(InputError) as caught:
        read_image(written(tmp_path, content[: int(len(content) * kept)]))
    assert caught.value.reason in ("damaged", "truncated")
    assert "\n" not in caught.value.message


def test_missing_tiles_are_seen(tmp_path: Path, photo: Image.Image) -> None:
    content = bytearray(encoded(photo, tile_size=64))
    at = len(content) * 2 // 3
    content[at : at + 3000] = bytes(3000)
    with pytest.raises(InputError, match="parts of its picture are missing") as caught:
        read_image(written(tmp_path, bytes(content)))
    assert caught.value.reason == "damaged"
    # What is green all over was so, and other things may stand behind the picture.
    green = encoded(Image.new("RGB", (200, 200), (20, 150, 30))) + b"SEFT" + bytes(50)
    assert read_image(written(tmp_path, green)).pixels.shape == (200, 200, 3)


def test_its_size_is_bounded(tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, encoded(photo))
    with pytest.raises(InputError, match="330 x 250 pixels are more than the 1000 allowed"):
        read_image(path, max_pixels=1000)
    monkeypatch.setattr(decode, "MOST_BYTES", 1000)
    with pytest.raises(InputError, match="allowed as HEIC: save it as JPEG") as caught:
        read_image(path)
    assert caught.value.reason == "too-large"
    assert memory_to_read(path) == 0


def test_a_small_header_before_a_large_picture_takes_no_memory(tmp_path: Path) -> None:
    content = bytearray(encoded(Image.new("RGB", (6000, 6000), (90, 90, 90))))
    at = content.find(b"ispe")
    while at >= 0:
        content[at + 8 : at + 16] = (64).to_bytes(4, "big") * 2
        at = content.find(b"ispe", at + 1)
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        read_image(written(tmp_path, bytes(content)))
    assert caught.value.reason == "damaged"


def test_without_the_extra_a_line_names_it(tmp_path: Path, photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, encoded(photo))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heif.register_heif.cache_clear()
    try:
        with pytest.raises(InputError, match=r"pip install 'faceanon-engine\[heic\]', or convert it") as caught:
            read_image(path)
        assert caught.value.reason == "not-an-image"
        photo.save(tmp_path / "a.avif")
        content = bytearray((tmp_path / "a.avif").read_bytes())
        content[8:12] = b"mif1"  # AVIF may call itself by the container's name
        (tmp_path / "a.avif").write_bytes(content)
        assert read_image(tmp_path / "a.avif").format == "AVIF"
    finally:
        heif.register_heif.cache_clear()


CONTENTS: dict[int, bytes] = {}


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_damaged_ones_are_pictures_or_refused(data: st.DataObject) -> None:
    import tempfile

    tiles = data.draw(st.sampled_from([0, 64]))
    if tiles not in CONTENTS:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 12, 3), np.uint8)).resize((150, 130))
        CONTENTS[tiles] = encoded(image, tile_size=tiles)
    content = bytearray(CONTENTS[tiles])
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 900))
        content[place : place + 1] = data.draw(st.binary(max_size=2))
    with tempfile.NamedTemporaryFile(suffix=".heic") as file:
        file.write(content)
        file.flush()
        line = "it is a picture"
        try:
            pixels = read_image(Path(file.name), max_pixels=10**6).pixels
            assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8)
        except InputError as error:
            line = error.message
    assert line
    assert "\n" not in line
