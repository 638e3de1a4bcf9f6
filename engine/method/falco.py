"""The method: originals go in, other people with the same attributes come out as soon as they are done.

The stages before the optimisation (features, inversion, pairing) are made for a few originals at a time; the
optimisation itself is continuous, see `continuous.py`. Source: FALCO, section 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from faceanon_engine.engine.choices import Metric, OptimisePrecision
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Floats, Pixels, from_uint8, to_uint8
from faceanon_engine.engine.method.anonymized import AnonymizedBatch, Results, joined
from faceanon_engine.engine.method.capacity import (
    measured_capacity,
    operations_of_a_step,
    steps_in_time,
    steps_that_fit,
)
from faceanon_engine.engine.method.compare import Targets, compare, encode_originals
from faceanon_engine.engine.method.continuous import Finished, Lane, Ticket, make_lanes, optimise_continuously
from faceanon_engine.engine.method.cuda_graph import stepper_for
from faceanon_engine.engine.method.pairing import NearestNeighbours
from faceanon_engine.engine.method.pool import Pool, PoolSpec
from faceanon_engine.engine.method.pool_opening import open_or_make_pool
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.method.self_check import check_networks
from faceanon_engine.engine.method.stages import embed_attributes, invert_images, synthesise
from faceanon_engine.engine.method.step import StepSettings, begin, mix_codes
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.networks.precision import Networks, checked_precision, compute_dtype, computing, lowered
from faceanon_engine.engine.sessions.opening import Prepare
from faceanon_engine.engine.sessions.runs import Runs, Sessions, sessions_of_bundle
from faceanon_engine.engine.system.progress import Progress
from faceanon_engine.engine.system.tensors import as_tensor, is_uint8

PREPARED_TOGETHER = 8
"""How many originals the stages before the optimisation take at once: they are a hundredth of the work."""
DRAWN_TOGETHER = 4


class Pair(NamedTuple):
    """The generated face that an original was paired with: its row in the pool, and how far away it is."""

    neighbour_id: int
    distance: float


class Falco:
    """The method with opened networks, sessions and a pool."""

    def __init__(
        self,
        networks: OpenedNetworks,
        sessions: Sessions,
        pool: Pool,
        preset: Preset,
        *,
        margin: float = 0.0,
        metric: Metric = "euclidean",
        optimise_precision: OptimisePrecision = "fp32",
    ) -> None:
        """`sessions` run the same bundle as `networks`; the optimisation computes in `optimise_precision`.

        margin: identity cosine that may remain, 0 to 1. Raises UserError when the pool belongs to another bundle, a
        value is out of range, the device lacks the precision, or the generator has no image of the proxy's side.
        """
        bundle = networks.bundle
        if pool.spec.bundle != bundle.digest:
            raise UserError(
                f"pool {pool.path} was made by another bundle than {bundle.name!r}: make one with 'pool create'"
            )
        if not 0 <= margin <= 1:
            raise UserError(f"margin {margin} is outside 0 to 1: 0 asks for unrelated identities, 1 for the same")
        self.networks = networks
        self.sessions = sessions
        self.pool = pool
        self.preset = checked_proxy(preset, bundle.resolution)
        self.device = torch.device(networks.device)
        self.settings = StepSettings(self.preset, margin, checked_precision(optimise_precision, self.device))
        self._index = NearestNeighbours(pool.embedding(preset.pairing_generated, sessions.runs.precision), metric)

    @classmethod
    def open(
        cls,
        bundle: Bundle,
        runs: Runs,
        spec: PoolSpec,
        preset: Preset,
        *,
        prepare: Prepare | None = None,
        progress: Progress | None = None,
        margin: float = 0.0,
        metric: Metric = "euclidean",
        optimise_precision: OptimisePrecision = "fp32",
    ) -> Falco:
        """The method with a bundle's networks and the pool of that specification, which is made where it is missing.

        `runs` says what runs the stages without gradients, and on which device everything runs; `prepare` makes what
        that backend lacks; `progress` counts faces of the pool. Raises UserError as making one does, for networks that
        are blind (see `self_check`), and for a damaged pool.
        """
        networks = OpenedNetworks(bundle, runs.device)
        sessions = sessions_of_bundle(bundle, runs, prepare=prepare, networks=networks)
        precision = checked_precision(optimise_precision, torch.device(networks.device))
        check_networks(networks, sessions, StepSettings(checked_proxy(preset, bundle.resolution), margin, precision))
        pool = open_or_make_pool(spec, networks, sessions, preset, progress=progress)
        pool.check_columns(networks.generator.config.w_dim)
        return cls(
            networks,
            sessions,
            pool,
            preset,
            margin=margin,
            metric=metric,
            optimise_precision=optimise_precision,
        )

    def close(self) -> None:
        """Close the sessions."""
        self.sessions.close()

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that go in and come out: the generator's."""
        return self.networks.bundle.resolution

    @cached_property
    def _full(self) -> Networks:
        return self.networks.for_steps

    @cached_property
    def step_networks(self) -> Networks:
        """The networks that steps run: in 16 bits copies, otherwise the opened ones."""
        return lowered(self._full, self.settings.precision)

    # -- how many at once ----------------------------------------------------------------------------------------

    def choose_batch_size(self) -> int:
        """How many images fit at once: on a GPU by the memory that the first steps take, else by estimates.

        On a CPU so few that results come often, see `capacity.steps_in_time`.
        """
        (ticket,) = self._prepare([torch.zeros(3, self.resolution, self.resolution)], [0], {})
        lane = self.lanes(1)[-1]  # full resolution, which takes most
        if self.device.type == "cpu":
            operations = operations_of_a_step(self.step_networks, lane.settings, ticket.state)
            fitting = steps_that_fit(self._full.generator.config, "cpu")
            return min(fitting, steps_in_time(operations, self.preset.steps))
        return measured_capacity(self.step_networks, lane.settings, ticket.state)

    def lanes(self, capacity: int) -> list[Lane]:
        """Slots for so many images, by CUDA graphs where there is a GPU."""
        return make_lanes(self.step_networks, self.settings, capacity, stepper_for(self.device))

    # -- from originals to results -------------------------------------------------------------------------------

    def run(
        self,
        originals: Iterable[Pixels | Tensor],
        lanes: list[Lane],
        on_step: Callable[[int, int], None] | None = None,
    ) -> Results:
        """Anonymize originals, uint8 [S, S, 3] or float tensors [3, S, S] in [-1, 1].

        Yields results as they finish, with the originals' numbers. `originals` is asked for more when a slot is about
        to be free. `on_step(images together, steps of the furthest)`.
        """
        pairs: dict[int, Pair] = {}

        def arrivals() -> Iterator[Ticket]:
            numbered = enumerate(originals)
            while chunk := list(islice(numbered, min(lanes[0].capacity, PREPARED_TOGETHER))):
                started = time.monotonic()
                tickets = self._prepare([pixels for _, pixels in chunk], [key for key, _ in chunk], pairs)
                share = (time.monotonic() - started) / len(chunk)
                for ticket in tickets:
                    yield replace(ticket, seconds=share)

        for finished in optimise_continuously(self.step_networks, lanes, arrivals(), on_step):
            keys = [result.key for result in finished]
            yield keys, self._results(finished, [pairs.pop(key) for key in keys])

    def anonymize(
        self,
        originals: Pixels | Floats | Tensor,
        *,
        include_intermediates: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> AnonymizedBatch:
        """Anonymize originals, uint8 [N, S, S, 3] or float32 [N, 3, S, S] in [-1, 1], N at least 1, in their order.

        `include_intermediates` adds the pictures of the inversion and of the paired fake. `on_step(steps done)`.
        """
        if not len(originals):
            raise ValueError("there are no originals: give at least one")
        batch: Any = originals if isinstance(originals, np.ndarray) else torch.as_tensor(originals)
        tell = None if on_step is None else lambda together, steps: on_step(steps)
        groups = list(self.run(batch, self.lanes(len(batch)), tell))
        order = np.argsort([key for keys, _ in groups for key in keys])
        result = joined([results for _, results in groups], order)
        if not include_intermediates:
            return result
        inversions, neighbours = self.intermediates(batch, result.neighbour_id.tolist())
        return replace(result, inversions=inversions, neighbours=neighbours)

    def before_steps(self, originals: Pixels | Floats | Tensor) -> AnonymizedBatch:
        """What is known of originals before the first step: whom they are paired with, and the losses there.

        As `anonymize` gives it for no steps.
        """
        preset = replace(self.preset, steps=0, proxy_resolution=None)
        batch: Any = originals if isinstance(originals, np.ndarray) else torch.as_tensor(originals)
        lanes = make_lanes(self.step_networks, replace(self.settings, preset=preset), PREPARED_TOGETHER)
        groups = list(self.run(batch, lanes))
        return joined([results for _, results in groups], np.argsort([key for keys, _ in groups for key in keys]))

    def intermediates(self, originals: Pixels | Floats | Tensor, neighbour_ids: Sequence[int]) -> tuple[Pixels, Pixels]:
        """Pictures uint8 [N, S, S, 3] of the originals' inversions and of the pool's faces with these ids."""
        codes = torch.as_tensor(invert_images(self.sessions, self._on_device(originals))).to(self.device)
        drawn = (codes, self._fakes(neighbour_ids))
        inversions, neighbours = (synthesise(self.sessions, each, self.preset.output_scaling) for each in drawn)
        return inversions, neighbours

    def fakes(self, ids: Sequence[int]) -> Pixels:
        """Pictures uint8 [N, S, S, 3] of the pool's faces with these ids."""
        parts = [
            synthesise(self.sessions, self._fakes(ids[start : start + DRAWN_TOGETHER]), self.preset.output_scaling)
            for start in range(0, len(ids), DRAWN_TOGETHER)
        ]
        return np.concatenate(parts)

    def _fakes(self, ids: Sequence[int]) -> Tensor:
        """Codes w+ [N, rows, w_dim] of the pool's faces with these ids."""
        w = torch.from_numpy(np.array(self.pool.w[list(ids)], np.float32)).to(self.device)
        return self._full.generator.broadcast(w)

    def _on_device(self, images: Any) -> Tensor:
        """Pictures as a float32 tensor [N, 3, S, S] in [-1, 1] on the device; raises ValueError on another shape."""
        # Bytes are converted on the device: a quarter goes there.
        tensor = as_tensor(images).to(self.device)
        tensor = from_uint8(tensor) if is_uint8(tensor) else tensor.float()
        expected = (3, self.resolution, self.resolution)
        if tensor.ndim != 4 or tuple(tensor.shape[1:]) != expected:
            raise ValueError(f"images have shape {tuple(tensor.shape)}, expected [N, {', '.join(map(str, expected))}]")
        return tensor

    @torch.no_grad()
    def _prepare(self, originals: Sequence[Any], keys: list[int], pairs: dict[int, Pair]) -> list[Ticket]:
        """The states of originals, all arrays or all tensors; whom they were paired with goes into `pairs`."""
        stack = np.stack if isinstance(originals[0], np.ndarray) else torch.stack
        pixels = self._on_device(stack(list(originals)))
        embeddings, targets = self._look_at(pixels)
        neighbours = self._index.search(embeddings)
        for number, key in enumerate(keys):
            pairs[key] = Pair(int(neighbours.ids[number, 0]), float(neighbours.distances[number, 0]))
        w_plus_real = torch.as_tensor(invert_images(self.sessions, pixels)).to(self.device)
        w_plus = mix_codes(w_plus_real, self._fakes(neighbours.ids[:, 0].tolist()), self.preset)
        state = begin(self._full.generator, w_plus, targets, self.settings)
        return [Ticket(key, state.part(number, 1)) for number, key in enumerate(keys)]

    def _look_at(self, pixels: Tensor) -> tuple[Floats, Targets]:
        """Attribute embeddings [N, E] that originals [N, 3, S, S] are paired by, and what the losses compare with.

        Both come from one pass through the attribute encoder where they would be the same: where the preset shows it
        the same pixels for both, and sessions are this very network in float32. Originals are embedded as the pool's
        faces were, whatever runs the sessions.
        """
        with computing("fp32"):
            targets, embeddings = encode_originals(*self._full[1:], pixels, self.preset)
        runs = self.sessions.runs
        shared = (runs.backend, runs.precision) == ("torch", "fp32")
        if shared and self.preset.pairing_real == self.preset.attribute_real:
            return embeddings.float().cpu().numpy(), targets
        return embed_attributes(self.sessions, pixels, self.preset.pairing_real), targets

    @torch.no_grad()
    def _results(self, finished: list[Finished], pairs: list[Pair]) -> AnonymizedBatch:
        def together(name: str) -> Tensor:
            return torch.stack([getattr(result, name) for result in finished])

        codes, images = together("w_plus"), together("image")
        cosine, attribute = together("cosine"), together("attribute")
        if compute_dtype(self.settings.precision) != torch.float32:
            # The picture that is delivered, and what is said of it, are float32 whatever the steps were made in.
            images, cosine, attribute = self._exact(codes, Targets(together("identity"), together("tokens")))
        finite = torch.isfinite(images).all(dim=3).all(dim=2).all(dim=1) & torch.isfinite(codes).all(dim=2).all(dim=1)
        return AnonymizedBatch(
            images=to_uint8(images, self.preset.output_scaling).cpu().numpy(),
            codes=codes.cpu().numpy(),
            neighbour_id=np.array([pair.neighbour_id for pair in pairs], np.int64),
            neighbour_distance=np.array([pair.distance for pair in pairs], np.float64),
            identity_before=together("first_cosine").cpu().numpy(),
            identity_after=cosine.cpu().numpy(),
            attribute_before=together("first_attribute").cpu().numpy(),
            attribute_after=attribute.cpu().numpy(),
            finite=finite.cpu().numpy(),
            steps=np.array([result.steps for result in finished], np.int64),
            seconds=np.array([result.seconds for result in finished], np.float64),
        )

    def _exact(self, codes: Tensor, targets: Targets) -> list[Tensor]:
        """Pictures, identity cosines and attribute losses of codes in float32, few at a time to take little memory."""
        parts = []
        with computing("fp32"):
            for few in torch.arange(len(codes)).split(DRAWN_TOGETHER):
                images = self._full.generator.synthesis(codes[few])
                target = Targets(targets.identity[few], targets.tokens[few])
                parts.append((images, *compare(*self._full[1:], images, target, self.preset)))
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
