"""What a job needs from a method: images in, other people out, a few at a time.

A job talks to this protocol alone, so that it can be tested, and killed, without any network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.models.domain import Limits
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.method.anonymized import AnonymizedBatch, Results


class Worker(Protocol):
    """One way to anonymize batches. Constructing it is cheap and checks what can be checked without the networks."""

    @property
    def resolution(self) -> int:
        """Side of the images that go in and come out, in pixels."""

    @property
    def limits(self) -> Limits | None:
        """The losses of faces that the networks know; None where nobody has measured them."""

    def about(self) -> dict[str, str]:
        """What really runs, for people: device, backend, precision, threads, bundle, pool."""

    def identity(self) -> dict[str, Any]:
        """What decides the results besides the settings: the bundle's digest, the pool's size. JSON values."""

    def check(self) -> None:
        """Raise UserError when what `load` would open is damaged; slower than constructing, quicker than loading."""

    def load(self, progress: Progress) -> None:
        """Open the networks and the pool, which is made where it is missing; `progress` counts faces."""

    def choose_batch_size(self) -> int:
        """How many images fit at once."""

    def stream(self, groups: Iterable[Iterable[Pixels]], together: int, on_step: Callable[[int, int], None]) -> Results:
        """Anonymize originals uint8 [S, S, 3], at most so many at once, asking for the next as one is done.

        Only originals of one group share steps: the next group is asked for when all of one are done. Yields the
        numbers of originals that finished together, counted from 0 as they came, with their results. `on_step(images
        together, steps of the furthest)`.
        """

    def anonymize(self, images: Pixels, on_step: Callable[[int], None]) -> AnonymizedBatch:
        """Anonymize originals uint8 [N, S, S, 3] at once."""

    def first_loss(self, image: Pixels) -> float:
        """Attribute loss of an original uint8 [S, S, 3] before the first step."""

    def intermediates(self, images: Pixels, neighbour_ids: Sequence[int]) -> tuple[Pixels, Pixels]:
        """Pictures uint8 [N, S, S, 3] of the originals' inversions and of the fakes with these ids."""

    def fakes(self, count: int) -> Pixels:
        """Pictures uint8 [N, S, S, 3] of the pool's first faces, as many as asked for or as there are."""

    def release_memory(self) -> None:
        """Give back what a batch that ran out of memory left cached."""
