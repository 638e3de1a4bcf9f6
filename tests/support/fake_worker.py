"""A worker without networks: deterministic, quick, and able to misbehave on request.

Run as a script it is the command line with this worker in place of the real one: the processes that tests kill.
The colour of an image's first pixel says what happens to it: red runs out of memory when it is not alone, green fails
always, blue fails when it is not alone, white gives values that are not finite.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from faceanon_engine.engine.models.domain import Limits

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


class FakeWorker:
    resolution = 32
    loads = 0
    batches: list[int] = []  # noqa: RUF012

    def __init__(self, settings: Any, recorded: Mapping[str, Any], inputs: int) -> None:
        self.settings = settings
        self.pool_size = settings.pool_size or recorded.get("pool_size") or 2 * inputs

    @property
    def limits(self) -> Limits | None:
        limit = os.environ.get("FAKE_LIMIT")
        return None if limit is None else Limits("grey squares", float(limit))

    def first_loss(self, image: np.ndarray) -> float:
        return float(image.mean()) / 10

    def about(self) -> dict[str, str]:
        return {"device": "cpu", "backend": "fake"}

    def identity(self) -> dict[str, Any]:
        return {"bundle": os.environ.get("FAKE_BUNDLE", "b" * 64), "pool_size": self.pool_size}

    def check(self) -> None:
        pass

    def load(self, progress: Callable[[int, int], None]) -> None:
        type(self).loads += 1
        progress(self.pool_size, self.pool_size)

    def choose_batch_size(self) -> int:
        return 4

    def anonymize(self, images: np.ndarray, on_step: Callable[[int], None]) -> Any:
        type(self).batches.append(len(images))
        for step in range(self.settings.resolved_steps):
            time.sleep(float(os.environ.get("FAKE_STEP", "0")))
            on_step(step + 1)
        first = [tuple(int(value) for value in image[0, 0]) for image in images]
        if len(images) > 1 and RED in first:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        if GREEN in first or (len(images) > 1 and BLUE in first):
            raise ValueError("this image\nbreaks the method")
        means = images.reshape(len(images), -1).mean(axis=1)
        return SimpleNamespace(
            images=255 - images,
            codes=np.repeat(means[:, None, None], 8, axis=2).astype(np.float32),
            neighbour_id=means.astype(np.int64),
            neighbour_distance=means / 255,
            identity_before=means / 300,
            identity_after=means / 3000,
            attribute_before=means / 10,
            attribute_after=means / 20,
            finite=np.array([pixel != WHITE for pixel in first]),
            steps=np.full(len(images), self.settings.resolved_steps),
            seconds=np.full(len(images), 0.5),
        )

    def stream(
        self, groups: Iterable[Iterable[np.ndarray]], together: int, on_step: Callable[[int, int], None]
    ) -> Iterator[Any]:
        number = 0
        for images in groups:
            source = iter(images)
            while chunk := list(itertools.islice(source, together)):
                tell = functools.partial(on_step, len(chunk))
                yield list(range(number, number + len(chunk))), self.anonymize(np.stack(chunk), tell)
                number += len(chunk)

    def intermediates(self, images: np.ndarray, neighbour_ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
        return images // 2, np.stack([np.full(images.shape[1:], value % 256, np.uint8) for value in neighbour_ids])

    def release_memory(self) -> None:
        pass


class ContinuousWorker(FakeWorker):
    """Keeps its slots full; an image of number n takes 1 + n % 3 steps."""

    under_way: list[int] = []  # noqa: RUF012
    fail_at: int | None = None

    def stream(
        self, groups: Iterable[Iterable[np.ndarray]], together: int, on_step: Callable[[int, int], None]
    ) -> Iterator[Any]:
        numbers = itertools.count()
        for images in groups:
            yield from self.stream_group(((next(numbers), each) for each in images), together, on_step)

    def stream_group(self, source: Iterator[Any], together: int, on_step: Callable[[int, int], None]) -> Iterator[Any]:
        slots: dict[int, Any] = {}
        while True:
            while len(slots) < together:
                number, pixels = next(source, (None, None))
                if number is None:
                    break
                if number == self.fail_at:
                    type(self).fail_at = None
                    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
                slots[number] = [0, pixels]
            if not slots:
                return
            type(self).under_way.append(len(slots))
            for slot in slots.values():
                slot[0] += 1
            on_step(len(slots), max(slot[0] for slot in slots.values()))
            done = [number for number, slot in slots.items() if slot[0] > number % 3]
            if done:
                result = self.anonymize(np.stack([slots[number][1] for number in done]), lambda _: None)
                result.steps = np.array([slots[number][0] for number in done])
                for number in done:
                    del slots[number]
                yield done, result


def make_inputs(folder: Path, count: int, colours: Mapping[int, tuple[int, int, int]] | None = None) -> list[Path]:
    """Write photo-00.png, ...: grey squares, each of its own brightness, or of the colour given for their number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"photo-{number:02d}.png"
        Image.new("RGB", (32, 32), (colours or {}).get(number, (20 + number, 30, 40))).save(path)
        paths.append(path)
    return paths


if __name__ == "__main__":
    from faceanon_engine.cli.main import main
    from faceanon_engine.engine.job import beginning

    beginning.FalcoWorker = FakeWorker  # type: ignore[misc, assignment]
    main()
