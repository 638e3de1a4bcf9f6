"""How much memory reading large pictures takes: one of 100 megapixels of every kind, and sixteen of 25 at once.

    python -m benchmarks.read_memory

A photograph is enlarged and written in every format that is read. Each case is read in a process of its own as a job
reads it, faces found and cut out at 1024 px, with as many threads as pictures; its value is the largest resident
memory on the way less that before, when a small photograph had been read. Needs Linux. Writes one JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.result import RESULTS, ROOT, leave_out, new_result, new_row, table, write
from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import sample_at
from faceanon_engine.engine.errors import InputError
from faceanon_engine.engine.images.heif import register_heif
from faceanon_engine.engine.system.allocator import keep_freed_memory

PHOTO = ROOT / "demo" / "samples" / "photo-of-two.jpg"
SIZE = 1024
"""Of the faces; that of the official generators."""

# Kind: (format, mode, arguments of the encoder).
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {"quality": 90}),
    "jpeg, progressive": ("JPEG", "RGB", {"quality": 90, "progressive": True}),
    "jpeg, progressive, full chroma": ("JPEG", "RGB", {"quality": 90, "progressive": True, "subsampling": 0}),
    "jpeg, turned": ("JPEG", "RGB", {"quality": 90, "exif": {0x0112: 6}}),
    "jpeg, cmyk": ("JPEG", "CMYK", {"quality": 90}),
    "png": ("PNG", "RGB", {"compress_level": 1}),
    "png, transparent": ("PNG", "RGBA", {"compress_level": 1}),
    "png, palette": ("PNG", "P", {"compress_level": 1}),
    "png, 16 bits": ("PNG", "I;16", {"compress_level": 1}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff, lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff, float": ("TIFF", "F", {}),
    "bmp": ("BMP", "RGB", {}),
    "gif": ("GIF", "P", {}),
    "tga": ("TGA", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "webp": ("WEBP", "RGB", {"quality": 80, "method": 0}),
    "avif": ("AVIF", "RGB", {"quality": 60, "speed": 10}),
    "jpeg 2000": ("JPEG2000", "RGB", {"quality_mode": "rates", "quality_layers": [20]}),
    "jpeg 2000, tiles": (
        "JPEG2000",
        "RGB",
        {"quality_mode": "rates", "quality_layers": [20], "tile_size": (1024, 1024)},
    ),
    "heic": ("HEIF", "RGB", {"quality": 60}),
    "heic, tiles": ("HEIF", "RGB", {"quality": 60, "tile_size": 512}),
}
MANY = ("jpeg", "png, transparent", "webp")


def make(path: Path, kind: str, megapixels: float) -> None:
    """Write the photograph as this kind of file in that size."""
    form, mode, arguments = KINDS[kind]
    arguments = dict(arguments)
    if form == "HEIF":
        register_heif()
    with Image.open(PHOTO) as photo:
        side = round((megapixels * 1e6) ** 0.5) - 1
        image = photo.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    if mode in ("I;16", "F"):
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16 if mode == "I;16" else np.float32))
    elif mode != "RGB":
        image = image.convert(mode)
    if "exif" in arguments:
        exif = Image.Exif()
        exif.update(arguments["exif"])
        arguments["exif"] = exif
    image.save(path, form, **arguments)


def memory_of(paths: list[Path]) -> dict[str, Any]:
    """What reading the pictures at once takes, in bytes and seconds, in this process."""
    keep_freed_memory()  # as the command line does
    reader = Reader("auto", SIZE)
    reader.read(sample_at(PHOTO))
    with ThreadPoolExecutor(len(paths)) as executor:
        list(executor.map(time.sleep, [0.01] * len(paths)))  # all threads are there
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        started = time.perf_counter()
        faces = [len(sample.faces) for sample in executor.map(reader.read, map(sample_at, paths))]
        seconds = time.perf_counter() - started
    return {"bytes": _status("VmHWM") - before, "seconds": seconds, "faces": faces[0]}


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _in_a_process(*arguments: object) -> str:
    command = [sys.executable, "-m", "benchmarks.read_memory", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", type=float, default=100, help="megapixels of the one picture")
    parser.add_argument("--many", type=float, default=25, help="megapixels of each of sixteen")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), help="what to read")
    parser.add_argument("--keep", type=Path, help="folder in which the pictures are kept, and taken from")
    parser.add_argument("--output", type=Path, default=RESULTS / "read_memory.json")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs="+", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        return make(Path(arguments.make[0]), arguments.make[1], float(arguments.make[2]))
    if arguments.read:
        try:
            print(json.dumps(memory_of(arguments.read)))
        except InputError as error:
            sys.exit(f"{error.reason}: {error.message}")
        return None
    started = time.perf_counter()
    result = new_result(
        "read_memory",
        "how much memory reading large pictures takes",
        large=arguments.large,
        many=arguments.many,
        pictures=16,
        face_size=SIZE,
    )
    cases = [(kind, 1, arguments.large) for kind in arguments.kinds]
    cases += [(kind, 16, arguments.many) for kind in MANY if kind in arguments.kinds]
    with tempfile.TemporaryDirectory() as folder:
        for kind, count, megapixels in cases:
            case = {"kind": kind, "pictures": count, "megapixels": megapixels}
            path = Path(arguments.keep or folder, f"{kind} {megapixels:g}".replace(" ", "-"))
            try:
                if not path.exists():
                    _in_a_process("--make", path, kind, megapixels)
                measured = json.loads(_in_a_process("--read", *[path] * count))
            except (RuntimeError, OSError) as error:
                leave_out(result, f"{count} x {megapixels} megapixels of {kind}", error)
                continue
            finally:
                if arguments.keep is None:
                    path.unlink(missing_ok=True)
            row = new_row(case, gigabytes=measured.pop("bytes") / 1e9, **measured)
            result["rows"].append(row)
            result["seconds"] = time.perf_counter() - started
            write(arguments.output, result)
            print(json.dumps(row["case"] | row["values"]), flush=True)
    result["seconds"] = time.perf_counter() - started
    write(arguments.output, result)
    print(table(result["rows"], ["gigabytes", "seconds", "faces"]))
    return None


if __name__ == "__main__":
    main()
