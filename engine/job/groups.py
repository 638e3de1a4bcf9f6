"""Which inputs are optimised together: fixed by their order, whatever is done already and whoever does the rest.

No image has a part in another's result, but in how its sums are rounded. Inputs that are next to each other in the
listing are a group, and faces share steps only within one. A run that goes on with a job, or the process that takes
over from another, has the same groups as a run that nothing stopped, and gives the same bytes: of a group that is
partly done, what is done is optimised along with the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from faceanon_engine.engine.datasets.sample import Sample
from faceanon_engine.engine.job.listing import Listing
from faceanon_engine.engine.job.manifest import ItemRow, Manifest
from faceanon_engine.engine.job.settings import JobSettings

RECORDED = "together"
"""Key of the table `job`: how many faces are optimised together, by the kind of device, as the first run chose."""
_BATCHES_OF_A_GROUP = 4
"""Where images stop early: slots that are free get the group's next, so that few are empty, and those at its end."""


@dataclass(frozen=True)
class Listed:
    """An input on its way, and its rows."""

    sample: Sample
    rows: Sequence[ItemRow]
    group: int
    """The number of its group."""
    is_done: bool = False
    """Whether it is here for the sake of others in its group: nothing of it is written or recorded."""


class Groups:
    """The inputs of a job in groups."""

    def __init__(self, samples: Sequence[Sample], settings: JobSettings, together: int) -> None:
        """`together`: how many faces are optimised together."""
        # Where all take the same steps, images come and go together.
        self.mixes = settings.resolved_preset.stopping is not None
        """Whether all faces of a group share steps, or only so many that follow each other."""
        self._size = together * _BATCHES_OF_A_GROUP if self.mixes else together
        self._samples = samples
        self._places = {sample.key: place for place, sample in enumerate(samples)}

    def number(self, key: str) -> int:
        """Which group the input with that key is in; raises KeyError for one that is not listed."""
        return self._places[key] // self._size

    def find(self, key: str) -> int | None:
        """As `number`; None for an input that is not listed."""
        return self.number(key) if key in self._places else None

    def members(self, number: int) -> Sequence[Sample]:
        """The inputs of that group, in their order."""
        return self._samples[number * self._size : (number + 1) * self._size]

    def keys_with(self, key: str) -> list[str]:
        """The keys of the group that the input is in; of an input that is not listed, its own."""
        return [sample.key for sample in self.members(self.number(key))] if key in self._places else [key]


def settled_together(settings: JobSettings, manifest: Manifest, device: str, choose: Callable[[], int]) -> int:
    """How many faces are optimised together: what was asked for, else what is recorded, else what `choose` says.

    It is recorded for the kind of the device, as it decides how sums are rounded.
    """
    known: dict[str, int] = manifest.get(RECORDED) or {}
    kind = device.partition(":")[0]
    earlier = known.get(kind)
    size = settings.batch_size or earlier or choose()
    if size != earlier:
        manifest.put({RECORDED: {**known, kind: size}})
    return size


def claimed_inputs(manifest: Manifest, process: int, groups: Groups) -> Iterator[Listed]:
    """Inputs that this process claims, a group at a time, with the group's others, until there are no more."""
    while True:
        claimed, rows = manifest.claim(process, groups.keys_with)
        if not claimed:
            return
        number = groups.find(claimed[0])
        if number is None:
            for key in claimed:
                manifest.leave_queue(key)  # it vanished since it was listed: the next run says so
            continue
        for sample in groups.members(number):
            yield Listed(sample, rows[sample.key], number, is_done=sample.key not in claimed)


def inputs_to_do(listing: Listing, groups: Groups) -> Iterator[Listed]:
    """The inputs that are not done, with the others of their groups."""
    todo = {sample.key for sample in listing.todo}
    for number in sorted({groups.number(key) for key in todo}):
        for sample in groups.members(number):
            yield Listed(sample, listing.rows[sample.key], number, is_done=sample.key not in todo)
