"""People whose faces stay in their photographs, because they said so: recognised by pictures of them.

Whoever is taken for one of them by mistake stays as well, so the recogniser's threshold is such that this befalls a
share of strangers that is fixed, whatever the number of people: measured on the job's own strangers, generated faces.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from faceanon_engine.engine.datasets.folder import find_inputs
from faceanon_engine.engine.datasets.reader import Reader, prefetch, thread_count, threads
from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.errors import InputError, UserError
from faceanon_engine.engine.images.faceres import FaceRes
from faceanon_engine.engine.images.pixels import Floats, Pixels
from faceanon_engine.engine.job.workers.worker import Worker
from faceanon_engine.engine.system.digests import sha256_of
from faceanon_engine.engine.system.printable import shown

logger = logging.getLogger(__name__)

FALSE_ACCEPTS = 0.001
"""Share of strangers' faces that may be taken for any of the people."""
STRANGERS = 400
"""Generated faces that are compared with each other, two by two."""
_FEWEST_ABOVE = 10
"""Pairs of strangers that have to lie above a threshold for it to be measured; below that, the nearest pair is it."""


@dataclass(frozen=True, eq=False)
class KnownPeople:
    """People who are kept; safe to use from several threads."""

    names: Sequence[str]
    """Of each picture, whom it shows."""
    embeddings: Floats
    """float32 [N, D] of unit length: of each picture."""
    threshold: float
    """Cosine from which on a face is one of theirs."""
    recogniser: FaceRes

    def who(self, crops: Sequence[Pixels]) -> list[str | None]:
        """Whom each crop uint8 [S, S, 3] shows; None for strangers."""
        cosines = self.recogniser.embed(crops) @ self.embeddings.T
        return [self.names[int(row.argmax())] if row.max() >= self.threshold else None for row in cosines]


def people_digest(folder: Path) -> str:
    """What the pictures of the people are, for whoever wants to know whether they are still the same."""
    return sha256_of(*(sample.path for sample in _pictures(folder)))


def known_people(folder: Path, min_face: int, worker: Worker) -> KnownPeople:
    """The people in a folder: a folder of pictures for each, or one picture each, of which the largest face counts.

    The loaded worker's generated faces are the strangers. Raises UserError for a folder without pictures, for a picture
    in which no face is found, and where the recogniser cannot tell the strangers apart.
    """
    pictures = _pictures(folder)
    reader = Reader("auto", worker.resolution, min_face)
    recogniser = FaceRes()
    crops, names = [], []
    with threads() as executor:
        for sample, future in prefetch(executor, reader.read, pictures, thread_count()):
            try:
                read = future.result()
            except InputError as error:
                said = "no face was found in it" if error.reason == "no-face" else error.message
                raise UserError(f"{sample.path} cannot be used to keep somebody: {said}") from None
            crops.append(read.faces[0].pixels)
            names.append(sample.relative.parts[0] if len(sample.relative.parts) > 1 else sample.relative.stem)
    threshold = threshold_of(recogniser.embed(worker.fakes(STRANGERS)), len(set(names)))
    if threshold >= 1 - 1e-6:
        raise UserError("the recogniser cannot tell generated faces apart: nobody can be kept with these networks")
    logger.info("%d people are kept from a cosine of %.3f on", len(set(names)), threshold)
    return KnownPeople(names, recogniser.embed(crops), threshold, recogniser)


def threshold_of(strangers: Floats, people: int) -> float:
    """The cosine that `FALSE_ACCEPTS` of strangers reach with any of so many people.

    strangers float [N, D] of unit length: each pair of them is one of a stranger and somebody who is not that one. Each
    person gets an equal part of the share, so that all together do not exceed it (Bonferroni).
    """
    cosines = np.sort((strangers @ strangers.T)[np.triu_indices(len(strangers), 1)])
    above = int(FALSE_ACCEPTS / max(1, people) * len(cosines))
    return float(cosines[-above]) if above >= _FEWEST_ABOVE else float(cosines[-1])


def _pictures(folder: Path) -> list[Sample]:
    if not folder.is_dir():
        raise UserError(f"keep: {shown(str(folder))} is no folder: give one with pictures of the people to keep")
    pictures = list(find_inputs(folder))
    if not pictures:
        raise UserError(f"keep: there are no pictures in {folder}: put one of everybody who is kept there")
    return pictures
