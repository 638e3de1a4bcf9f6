"""Draws photographs beside what a job gave back of them: `python -m docs.draw_photos INPUT OUTPUT FILE.jpg`.

Each photograph has a row: the original on the left, the result on the right, both as they are or scaled down.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH = 800
"""Of each of the two, in pixels, at most."""
_GAP, _HEADER = 8, 26
_PAPER, _INK = (255, 255, 255), (60, 60, 60)


def side_by_side(originals: list[Image.Image], results: list[Image.Image]) -> Image.Image:
    """Rows of two pictures of one size, with a heading over each column."""
    rows = [
        [
            picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
            for picture in pair
        ]
        for pair in zip(originals, results, strict=True)
        for width in [min(_WIDTH, pair[0].width)]
    ]
    width = max(row[0].width for row in rows)
    height = _HEADER + sum(row[0].height + _GAP for row in rows) - _GAP
    sheet = Image.new("RGB", (2 * width + _GAP, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, title in enumerate(("photograph", "given back")):
        pen.text((column * (width + _GAP), 3), title, fill=_INK, font=ImageFont.load_default(17))
    top = _HEADER
    for row in rows:
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * (width + _GAP), top))
        top += row[0].height + _GAP
    return sheet


def main(source: str, output: str, file: str) -> None:
    names = sorted(path.name for path in Path(output, "release").iterdir())
    pictures = [
        [Image.open(folder / name).convert("RGB") for name in names]
        for folder in (Path(source), Path(output, "release"))
    ]
    side_by_side(*pictures).save(file, quality=88, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
