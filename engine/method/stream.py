"""The method as a stream: originals go in one by one, results come out as soon as they are done.

The stages before the optimisation (features, inversion, pairing) are made for a few originals at a time; the
optimisation itself is continuous, see `continuous.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import from_uint8, to_uint8
from faceanon_engine.engine.method.anonymized import AnonymizedBatch, joined
from faceanon_engine.engine.method.compare import Targets, compare, real_targets
from faceanon_engine.engine.method.continuous import Finished, Lane, Ticket, make_lanes, optimise_continuously
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.method.step import StepSettings, begin, mix_codes
from faceanon_engine.engine.networks.precision import Networks, checked_precision, compute_dtype, computing, lowered

if TYPE_CHECKING:
    from faceanon_engine.engine.method.falco import Anonymizer

Images = npt.NDArray[np.uint8]
PREPARED_TOGETHER = 8
"""How many originals the stages before the optimisation take at once: they are a hundredth of the work."""
DRAWN_TOGETHER = 4


class Stream:
    """Anonymizes originals continuously with an anonymizer's networks, pool and preset."""

    def __init__(self, anonymizer: Anonymizer, precision: str = "fp32") -> None:
        """Raises UserError for a precision that the device lacks and a proxy resolution that the generator lacks."""
        self._anonymizer = anonymizer
        self.settings = StepSettings(
            checked_proxy(anonymizer.preset, anonymizer.resolution),
            anonymizer.margin,
            checked_precision(precision, anonymizer.device),
        )

    @cached_property
    def _full(self) -> Networks:
        found = self._anonymizer
        return Networks(found.generator, found.identity_encoder, found.attribute_encoder)

    @cached_property
    def networks(self) -> Networks:
        """The networks that steps run: in 16 bits copies, otherwise the anonymizer's."""
        return lowered(self._full, self.settings.precision)

    def lanes(self, capacity: int) -> list[Lane]:
        """Slots for so many images, by CUDA graphs where there is a GPU."""
        from faceanon_engine.engine.method.cuda_graph import stepper_for

        return make_lanes(self.networks, self.settings, capacity, stepper_for(self._anonymizer.device))

    def run(
        self,
        originals: Iterable[Images | torch.Tensor],
        lanes: list[Lane],
        on_step: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[list[int], AnonymizedBatch]]:
        """Anonymize originals, uint8 [S, S, 3] or float tensors [3, S, S] in [-1, 1].

        Yields results as they finish, with the originals' numbers. `originals` is asked for more when a slot is about
        to be free. `on_step(images together, steps of the furthest)`.
        """
        pairs: dict[int, tuple[int, float]] = {}

        def arrivals() -> Iterator[Ticket]:
            numbered = enumerate(originals)
            while chunk := list(islice(numbered, min(lanes[0].capacity, PREPARED_TOGETHER))):
                started = time.monotonic()
                tickets = self._prepare([pixels for _, pixels in chunk], [key for key, _ in chunk], pairs)
                share = (time.monotonic() - started) / len(chunk)
                for ticket in tickets:
                    yield replace(ticket, seconds=share)

        for finished in optimise_continuously(self.networks, lanes, arrivals(), on_step):
            keys = [result.key for result in finished]
            yield keys, self._results(finished, [pairs.pop(key) for key in keys])

    def batch(self, originals: Images | torch.Tensor, on_step: Callable[[int], None] | None = None) -> AnonymizedBatch:
        """Results of originals as in `run`, N at least 1 of them, in their order; `on_step(steps done)`."""
        tell = None if on_step is None else lambda together, steps: on_step(steps)
        groups = list(self.run(originals, self.lanes(len(originals)), tell))
        order = np.argsort([key for keys, _ in groups for key in keys])
        return joined([results for _, results in groups], order)

    def measured_capacity(self) -> int:
        """How many images fit on the GPU, by the memory that the first steps take."""
        from faceanon_engine.engine.method.capacity import measured_capacity

        side = self._anonymizer.resolution
        (ticket,) = self._prepare([torch.zeros(3, side, side)], [0], {})
        lane = self.lanes(1)[-1]  # full resolution, which takes most
        return measured_capacity(self.networks, lane.settings, ticket.state)

    @torch.no_grad()
    def _prepare(self, originals: Sequence[Any], keys: list[int], pairs: dict[int, tuple[int, float]]) -> list[Ticket]:
        """The states of originals, all arrays or all tensors; whom they were paired with goes into `pairs`."""
        found, settings = self._anonymizer, self.settings
        if isinstance(originals[0], np.ndarray):
            # A quarter of the bytes goes to the device, and the conversion is made there.
            pixels = found.to_device(from_uint8(torch.from_numpy(np.stack(originals)).to(found.device)))
        else:
            pixels = found.to_device(torch.stack(list(originals)))
        neighbours = found.pair(found.embed_attributes(pixels))
        for number, key in enumerate(keys):
            pairs[key] = int(neighbours.ids[number, 0]), float(neighbours.distances[number, 0])
        w_plus_real = torch.as_tensor(found.invert(pixels)).to(found.device)
        fakes = torch.from_numpy(np.array(found.pool_used.w[neighbours.ids[:, 0]], np.float32)).to(found.device)
        w_plus = mix_codes(w_plus_real, found.generator.broadcast(fakes), settings.preset)
        with computing("fp32"):
            targets = real_targets(found.identity_encoder, found.attribute_encoder, pixels, settings.preset)
        state = begin(found.generator, w_plus, targets, settings)
        return [Ticket(key, state.part(number, 1)) for number, key in enumerate(keys)]

    @torch.no_grad()
    def _results(self, finished: list[Finished], pairs: list[tuple[int, float]]) -> AnonymizedBatch:
        def together(name: str) -> torch.Tensor:
            return torch.stack([getattr(result, name) for result in finished])

        codes, images = together("w_plus"), together("image")
        cosine, attribute = together("cosine"), together("attribute")
        if compute_dtype(self.settings.precision) != torch.float32:
            # The picture that is delivered, and what is said of it, are float32 whatever the steps were made in.
            targets = Targets(together("identity"), together("tokens"))
            images, cosine, attribute = self._exact(codes, targets)
        finite = torch.isfinite(images).all(dim=3).all(dim=2).all(dim=1) & torch.isfinite(codes).all(dim=2).all(dim=1)
        return AnonymizedBatch(
            images=to_uint8(images, self.settings.preset.output_scaling).cpu().numpy(),
            codes=codes.cpu().numpy(),
            neighbour_id=np.array([identity for identity, _ in pairs], np.int64),
            neighbour_distance=np.array([distance for _, distance in pairs], np.float64),
            identity_before=together("first_cosine").cpu().numpy(),
            identity_after=cosine.cpu().numpy(),
            attribute_before=together("first_attribute").cpu().numpy(),
            attribute_after=attribute.cpu().numpy(),
            finite=finite.cpu().numpy(),
            steps=np.array([result.steps for result in finished], np.int64),
            seconds=np.array([result.seconds for result in finished], np.float64),
        )

    def _exact(self, codes: torch.Tensor, targets: Targets) -> list[torch.Tensor]:
        """Pictures, identity cosines and attribute losses of codes in float32, few at a time to take little memory."""
        parts = []
        with computing("fp32"):
            for few in torch.arange(len(codes)).split(DRAWN_TOGETHER):
                images = self._full.generator.synthesis(codes[few])
                target = Targets(targets.identity[few], targets.tokens[few])
                parts.append((images, *compare(*self._full[1:], images, target, self.settings.preset)))
        return [torch.cat(values) for values in zip(*parts, strict=True)]


def checked_proxy(preset: Preset, resolution: int) -> Preset:
    """The preset, if its proxy resolution is one the generator passes on the way; raises UserError otherwise."""
    proxy = preset.proxy_resolution
    least = 2 ** ((preset.trainable_rows[1] + 3) // 2)  # the lowest side whose picture reads the last of the rows
    sides = [side for side in (2**power for power in range(3, 12)) if least <= side < resolution]
    if proxy is None or proxy in sides:
        return preset
    if not sides:
        raise UserError(f"proxy-resolution {proxy}: a generator of {resolution} px has none: leave it out")
    raise UserError(
        f"proxy-resolution {proxy} is no side of this generator of {resolution} px that all optimised rows have a part "
        f"in: use one of {', '.join(map(str, sides))}"
    )
