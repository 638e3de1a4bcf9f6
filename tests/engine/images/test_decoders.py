"""What decoders say of strange files reaches nobody's terminal, and what they only say is an error all the same."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decode import read_image
from tests.engine.images.test_whole import PIXELS, encoded

FORMATS = {
    "png": encoded("PNG"),
    "png, palette": encoded("PNG", mode="P"),
    "jpeg": encoded("JPEG"),
    "jpeg, progressive": encoded("JPEG", progressive=True),
    "gif": encoded("GIF", mode="P"),
    "bmp": encoded("BMP"),
    "webp": encoded("WEBP"),
    "webp, lossless": encoded("WEBP", lossless=True, mode="RGBA"),
    "tga": encoded("TGA", compression="tga_rle"),
    "ppm": encoded("PPM"),
    "jpeg 2000": encoded("JPEG2000"),
    "avif": encoded("AVIF"),
    "tiff": encoded("TIFF"),
    "tiff, floats": encoded("TIFF", mode="F", pixels=PIXELS[..., 0]),
    **{
        f"tiff, {name}": encoded("TIFF", compression=name, tiffinfo={278: 16})
        for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "lzma", "zstd")
    },
    "tiff, fax": encoded("TIFF", mode="1", compression="group4"),
}

READ = """
import sys
from pathlib import Path
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.decode import read_image
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_image(path)
    except InputError:
        pass
"""


def test_nothing_is_said_of_damaged_files(tmp_path: Path) -> None:
    choose = np.random.default_rng(0)
    for name, content in FORMATS.items():
        for number in range(12):
            edit = bytearray(content)
            for place in choose.integers(0, len(edit), 4) if number % 2 else choose.integers(0, min(200, len(edit)), 4):
                edit[place] = choose.integers(0, 256)
            (tmp_path / f"{name} {number}").write_bytes(edit)
        (tmp_path / f"{name} cut").write_bytes(content[: len(content) * 9 // 10])
    # In a process of its own: libraries write to the descriptor, and pytest hears warnings itself.
    run = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)


def test_what_libtiff_only_tells_of_is_damaged(tmp_path: Path) -> None:
    content = bytearray(FORMATS["tiff, fax"])
    content[30:34] = bytes(4)
    (tmp_path / "fax.tif").write_bytes(content)
    with pytest.raises(InputError, match="Fax") as raised:
        read_image(tmp_path / "fax.tif")
    assert raised.value.reason == "damaged"
    (tmp_path / "fax.tif").write_bytes(FORMATS["tiff, fax"])
    assert read_image(tmp_path / "fax.tif").format == "TIFF", "the error is of another file"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_mutated_files_are_pictures_or_refused_for_a_reason(data: st.DataObject) -> None:
    content = bytearray(FORMATS[data.draw(st.sampled_from(sorted(FORMATS)))])
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(60, len(content) - 1)))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    content = content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))]
    with tempfile.NamedTemporaryFile() as file:
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
    assert len(line) < 400


def test_a_picture_is_the_same_in_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from faceanon_engine.engine.images import decode

    path = tmp_path / "picture"
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "F", "I", "I;16"):
        for orientation in range(1, 9):
            grey = PIXELS[:50, :, 0]
            image = Image.fromarray(PIXELS[:50]).convert("L" if mode in ("F", "I", "I;16") else mode)
            if mode in ("F", "I", "I;16"):
                image = Image.fromarray(grey.astype({"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode]) * 99)
            exif = Image.Exif()
            exif[0x0112] = orientation
            stream = io.BytesIO()
            image.save(stream, "TIFF" if mode in ("F", "I", "CMYK") else "PNG", exif=exif)
            path.write_bytes(stream.getvalue())
            with monkeypatch.context() as smaller:
                whole = read_image(path).pixels
                smaller.setattr(decode, "_BAND_PIXELS", 300)
                np.testing.assert_array_equal(read_image(path).pixels, whole)
