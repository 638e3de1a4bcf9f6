"""Whatever people have is read or refused with a reason."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images import decode
from faceanon_engine.engine.images.decode import read_image

# What decoders warn of is what these tests give them.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")
PICTURE = np.stack(np.meshgrid(np.arange(0, 240, 10), np.arange(0, 160, 10)), axis=-1).astype(np.uint8)
PICTURE = np.concatenate([PICTURE, 255 - PICTURE[..., :1]], axis=-1)  # [16, 24, 3]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    if mode in ("I;16", "I"):
        image = Image.fromarray((PICTURE[..., 0].astype(np.uint16) * 257).astype(np.uint16))
        image = image if mode == "I;16" else image.convert("I")
    elif mode == "F":
        image = Image.fromarray(PICTURE[..., 0].astype(np.float32))
    else:
        image = Image.fromarray(PICTURE).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    pixels = read_image(path).pixels
    assert (pixels.shape, pixels.dtype) == ((16, 24, 3), np.uint8)
    # Red rises from left to right, and grey follows it far enough.
    assert pixels[:, -4:, 0].mean() > pixels[:, :4, 0].mean() + 20


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((16, 16), 32896, np.uint16)).save(path)
    assert set(read_image(path).pixels.flatten()) == {128}


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    path = tmp_path / "clear.png"
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(path)
    assert set(read_image(path).pixels.flatten()) == {255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    turns = {2: 0, 3: 1, 4: 2, 5: 3, 6: 4, 7: 5, 8: 6}
    kinds = [
        Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270,
    ]  # fmt: skip
    stored = Image.fromarray(PICTURE)
    if orientation > 1:
        stored = stored.transpose(kinds[turns[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png").pixels, PICTURE)


def broken(tmp_path: Path) -> dict[str, Path]:
    good = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(good, "JPEG")
    contents = {
        "empty": b"",
        "truncated": good.getvalue()[: len(good.getvalue()) // 2],
        "not-an-image": b"this is a letter, not a picture" * 10,
    }
    paths = {}
    for reason, content in contents.items():
        paths[reason] = tmp_path / f"{reason}.jpg"
        paths[reason].write_bytes(content)
    Image.new("1", (5000, 5000)).save(tmp_path / "bomb.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "tiny.png")
    (tmp_path / "folder.png").mkdir()
    return {
        **paths,
        "too-large": tmp_path / "bomb.png",
        "too-small": tmp_path / "tiny.png",
        "missing": tmp_path / "nothing.png",
        "unreadable": tmp_path / "folder.png",
    }


def test_what_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    for reason, path in broken(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read_image(path, max_pixels=1_000_000)
        assert caught.value.reason == reason
        assert "\n" not in caught.value.message


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "really.jpg", "PNG")
    decoded = read_image(tmp_path / "really.jpg")
    assert decoded.format == "PNG"
    np.testing.assert_array_equal(decoded.pixels, PICTURE)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_file_never_gives_anything_but_an_input_error(data: st.DataObject) -> None:
    import tempfile

    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "TGA", "PPM"]))
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(InputError):
            assert read_image(Path(file.name)).pixels.ndim == 3


def test_a_path_that_cannot_be_opened_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "round.png").symlink_to("round.png")
    for name in ("round.png", "x" * 300 + ".png"):
        with pytest.raises(InputError) as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == "unreadable"


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damaged_exif_data_spoil_no_picture(data: st.DataObject) -> None:
    import tempfile

    exif = Image.Exif()
    exif[0x010E], exif[0x011A], exif[0x8825] = "a name", 72.0, {1: "N", 2: (48.0, 51.0, 29.0)}
    content = bytearray(exif.tobytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(6, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.NamedTemporaryFile(suffix=".webp") as file:
        Image.fromarray(PICTURE).save(file, "WEBP", lossless=True, exif=bytes(content))
        file.flush()
        assert sorted(read_image(Path(file.name)).pixels.shape) == [3, 16, 24]


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_image(tmp_path)
    assert (caught.value.reason, caught.value.message) == ("unreadable", "it is a folder")
    with pytest.raises(InputError) as caught:
        read_image(Path("/dev/zero"))
    assert (caught.value.reason, caught.value.message) == ("unreadable", "it is a pipe or a device, not a file")


def test_exif_data_that_are_none_spoil_no_picture(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "a.png", exif=b"Exif\0\0these are none")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, PICTURE)


MEASURE = """
import sys
from pathlib import Path
from faceanon_engine.engine.images.decode import read_image
def status(name):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
read_image(Path(sys.argv[2]))
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
read_image(Path(sys.argv[1]))
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured on Linux")
@pytest.mark.parametrize("mode", ["RGBA", "I;16"])
def test_a_large_picture_takes_little_more_than_its_decoder_and_its_pixels(mode: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 4), np.uint8).repeat(100, 0).repeat(100, 1)
    image = Image.fromarray(pixels) if mode == "RGBA" else Image.fromarray(pixels[..., 0].astype(np.uint16))
    image.save(tmp_path / "large.png", compress_level=1)
    image.crop((0, 0, 20, 20)).save(tmp_path / "small.png")
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large.png"), str(tmp_path / "small.png")]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken / (pixels.size // 4) < 11, "4 bytes a pixel in the library, 3 in the array, and a band of 1 megapixel"


@pytest.mark.parametrize(("kind", "suffix"), [("WEBP", ".webp"), ("JPEG2000", ".jp2")])
def test_formats_whose_decoders_take_much_memory_have_a_limit_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str
) -> None:
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(PICTURE).save(path)
    assert read_image(path).format == kind
    monkeypatch.setitem(decode._MOST_PIXELS_OF, kind, PICTURE.shape[0] * PICTURE.shape[1] - 1)
    with pytest.raises(
        InputError, match=r"24 x 16 pixels take too much memory as .*: save it as PNG or JPEG"
    ) as caught:
        read_image(path)
    assert caught.value.reason == "too-large"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_pictures_the_first_is_used_and_all_are_counted(kind: str, tmp_path: Path) -> None:
    first = Image.fromarray(PICTURE)
    others = [Image.new("RGB", first.size, colour) for colour in ("red", "blue")]
    options = {} if kind in ("GIF", "TIFF") else {"lossless": True} if kind == "WEBP" else {"quality": 100}
    first.save(tmp_path / "alone", kind, **options)
    first.save(tmp_path / "several", kind, save_all=True, append_images=others, **options)
    alone, several = read_image(tmp_path / "alone"), read_image(tmp_path / "several")
    assert (alone.pictures, several.pictures) == (1, 3)
    assert np.abs(alone.pixels.astype(int) - several.pixels).mean() < 2
    # Where the others are damaged or missing, the first is as it was.
    content = bytearray((tmp_path / "several").read_bytes())
    if kind == "GIF":
        (tmp_path / "several").write_bytes(content[: len(content) - 20])
        np.testing.assert_array_equal(read_image(tmp_path / "several").pixels, several.pixels)


def test_what_stands_behind_a_jpeg_is_no_animation(tmp_path: Path) -> None:
    first = Image.fromarray(PICTURE)
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[first])
    assert read_image(tmp_path / "a.jpg").pictures == 1


def test_pages_without_an_end_are_not_counted_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Image.fromarray(PICTURE)
    first.save(tmp_path / "a.tif", save_all=True, append_images=[first] * 9)
    assert read_image(tmp_path / "a.tif").pictures == 10
    monkeypatch.setattr(decode, "_MOST_COUNTED", 4)
    decoded = read_image(tmp_path / "a.tif")
    assert decoded.pictures == 4
    np.testing.assert_array_equal(decoded.pixels, PICTURE)
