"""Photographs given back: new faces pasted, others redacted, looked at once more, and withheld where a face is left."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from faceanon_engine.engine.datasets.reader import Reader
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, Reason, UserError
from faceanon_engine.engine.images.align import Frame, crop_at
from faceanon_engine.engine.images.decode import read_image
from faceanon_engine.engine.images.encode import FORMATS_OF_SUFFIXES, LOSSLESS, encode_image
from faceanon_engine.engine.images.paste import Pasted, Piece, of_size, outline, paste
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.images.redact import cover, redact, shows, uncovered
from faceanon_engine.engine.job.layout import kept_private, released
from faceanon_engine.engine.job.manifest import InputRow, ItemRow
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.system.below import remove_below, write_below
from faceanon_engine.engine.system.printable import counted

logger = logging.getLogger(__name__)

_TIMES_READING = 1.25
"""Memory that giving back takes, as a multiple of reading: 20 bytes a pixel of 43 megapixels were measured."""


@dataclass(frozen=True)
class Settled:
    """What became of a photograph, and why it is not given back."""

    state: Literal["done", "failed", "withheld"]
    reason: Reason | None = None
    message: str | None = None


class Photos:
    """Gives back the photographs of a job; safe to use from several threads."""

    def __init__(self, settings: JobSettings, inputs: Mapping[str, InputRow], reader: Reader) -> None:
        """inputs: what the manifest says of them, by key; reader: with whose detector they are looked at again."""
        self._settings = settings
        self._inputs = inputs
        self._reader = reader

    def name(self, key: str) -> str:
        """The name of the photograph, relative to `release/`; raises InputError where it could have none."""
        row = self._inputs[key]
        if row.output is None:
            raise InputError("output-exists", row.message or "a file that this job did not make has its name")
        return row.output

    def give_back(self, sample: Sample, rows: Sequence[ItemRow]) -> Settled:
        """Write a photograph all of whose faces are settled, or say why not: then there is no file.

        Raises UserError when it cannot be written.
        """
        try:
            settled = self._give_back(sample, rows)
        except UserError:
            raise
        except InputError as error:
            settled = Settled("failed", error.reason, error.message)
        except MemoryError:
            settled = Settled("failed", "out-of-memory", "the photograph does not fit into memory")
        except Exception as error:  # one photograph never stops a job
            logger.debug("%s", sample.path, exc_info=True)
            settled = Settled("failed", "unexpected", f"{type(error).__name__}: {error}")
        if settled.state != "done":
            # What a run that was killed may have written before it was recorded.
            remove_below(self._settings.output, released(self.name(sample.key)))
        return settled

    def _give_back(self, sample: Sample, rows: Sequence[ItemRow]) -> Settled:
        failed = [row for row in rows if row.state in ("failed", "pending")]
        if failed:
            reasons = ", ".join(sorted({row.reason or "pending" for row in failed}))
            return Settled("withheld", "unhandled", f"{counted(len(failed), 'face')} could not be replaced ({reasons})")
        if not rows and not self._settings.allow_faceless:
            return Settled("withheld", "no-face", "no face was found: --allow-faceless gives it back as it is")
        frames = {row.face: Frame.from_json(json.loads(row.frame)) for row in rows if row.frame is not None}
        lost = [row for row in rows if row.face not in frames or frames[row.face].box is None]
        if lost:
            # As no run of ours leaves it: what cannot be found again cannot be redacted either.
            return Settled(
                "withheld", "unhandled", f"of {counted(len(lost), 'face')} the manifest does not say where it lies"
            )
        with self._reader.room_for(sample.path, _TIMES_READING):
            photo = read_image(sample.path).pixels
            outside = [row for row in rows if row.state == "redacted" and not shows(photo, frames[row.face].box)]
            if outside:
                # Boxes of a photograph of another size or orientation lie nowhere, and nothing would be redacted.
                height, width = photo.shape[:2]
                message = f"of {counted(len(outside), 'face')} nothing lies within its {width} x {height} pixels"
                return Settled("withheld", "unhandled", f"{message}: give boxes in those of the upright photograph")
            given = self._anonymized(photo, rows, frames)
            del photo
            suffix = released(self.name(sample.key)).rpartition(".")[2].lower()
            kind = FORMATS_OF_SUFFIXES[f".{suffix}"]
            encoded = encode_image(given.pixels, kind, self._settings.resolved_quality)
            # Looked at as whoever gets it sees it.
            seen = given.pixels if kind in LOSSLESS else _decoded(encoded)
            left = uncovered(self._reader.faces_of(seen), given.covered)
        if left:
            return Settled(
                "withheld", "uncovered", f"a second look found {counted(len(left), 'face')} that nothing covers"
            )
        folder = self._settings.folder
        write_below(folder.root, released(self.name(sample.key)), encoded, folder.private)
        return Settled("done")

    def _anonymized(self, photo: Pixels, rows: Sequence[ItemRow], frames: Mapping[int, Frame]) -> Pasted:
        """The photograph with what became of its faces, and where nothing of what was there counts any more.

        frames: of the faces, by their numbers, each with its box.
        """
        pasted = paste(photo, [self._piece(photo, row, frames[row.face]) for row in rows if row.state == "done"])
        boxes = {
            state: [np.asarray(frames[row.face].box) for row in rows if row.state == state]
            for state in ("redacted", "kept")
        }
        if boxes["redacted"]:
            how: Literal["blur", "black"] = "black" if self._settings.unhandled == "black" else "blur"
            redacted = redact(pasted.pixels, boxes["redacted"], how)
            pasted = Pasted(redacted.pixels, pasted.covered | redacted.covered)
        for box in boxes["kept"]:
            cover(pasted.covered, box)
        return pasted

    def _piece(self, photo: Pixels, row: ItemRow, frame: Frame) -> Piece:
        new = read_image(self._settings.output / kept_private(str(row.crop))).pixels
        size, own = new.shape[0], self._reader.resolution
        was = crop_at(photo, frame, own)
        mesh = self._reader.mesh
        around = outline(size, (mesh.look(was), own), (mesh.look(new), size))
        return Piece(new, of_size(frame.affine, own, size), around, self._settings.match_colour)


def _decoded(encoded: bytes) -> Pixels:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"), np.uint8)
