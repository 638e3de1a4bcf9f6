"""The method as what anonymizes a job's batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.images.pixels import Pixels
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.method.pool import check_pool, choose_spec, find_pool
from faceanon_engine.engine.method.preset import alike
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.domain import Limits, limits_of
from faceanon_engine.engine.sessions.opening import Prepare
from faceanon_engine.engine.sessions.runs import settle
from faceanon_engine.engine.system.devices import resolve_for_torch
from faceanon_engine.engine.system.progress import Progress

if TYPE_CHECKING:
    from faceanon_engine.engine.method.anonymized import AnonymizedBatch, Results
    from faceanon_engine.engine.method.falco import Falco


class FalcoWorker:
    """`Falco` with the networks and the pool that a job's settings name, opened by `load`; see `Worker`."""

    def __init__(
        self, settings: JobSettings, recorded: Mapping[str, Any], inputs: int, *, prepare: Prepare | None = None
    ) -> None:
        """Find the bundle, the device and the pool's specification for a number of inputs.

        `recorded` is what an earlier run of this job recorded: an automatic pool size stays what it was. `prepare`
        builds what the backend lacks. Raises UserError when the bundle is missing, or when the device or the backend
        does not work here.
        """
        import torch

        from faceanon_engine.engine.method.falco import checked_proxy
        from faceanon_engine.engine.networks.precision import checked_precision

        self._settings = settings
        self._device = resolve_for_torch(settings.device)
        self._runs = settle(settings.backend, settings.precision, self._device)
        self._prepare = prepare
        self._optimise_precision = checked_precision(settings.optimise_precision, torch.device(self._device))
        self._bundle = Bundle.open(settings.bundle)
        self._preset = replace(
            checked_proxy(settings.resolved_preset, self._bundle.resolution), steps=settings.resolved_steps
        )
        size = settings.pool_size
        if size is None and recorded.get("bundle") == self._bundle.digest:
            size = recorded.get("pool_size")
        self._spec = choose_spec(self._bundle.digest, size, settings.truncation, settings.seed, inputs=inputs)
        self._opened: Falco | None = None

    @property
    def resolution(self) -> int:
        """Side of the generator's images in pixels."""
        return self._bundle.resolution

    @property
    def limits(self) -> Limits | None:
        preset = self._preset
        steps = preset.steps if preset.proxy_resolution is None else None
        return limits_of(self._bundle.domain, preset.name, steps, alike=alike(preset))

    def check(self) -> None:
        problems = self._bundle.verify()
        if problems:
            raise UserError(f"bundle {self._bundle.name} is damaged: {problems[0]}: import it again")
        check_pool(self._spec, self._preset.pairing_generated, self._runs.precision)

    def about(self) -> dict[str, str]:
        import torch

        device = self._device
        if device != "cpu":
            device += f" ({torch.cuda.get_device_name(device)})"
        spec = self._spec
        made = find_pool(spec, self._preset.pairing_generated, self._runs.precision) is not None
        return {
            "device": device,
            **self._runs.about(),
            **self._optimisation(),
            **({} if self.limits is None else {"trained on": self.limits.trained_on}),
            "threads": str(torch.get_num_threads()),
            "bundle": f"{self._bundle.name} ({self._bundle.digest[:12]}), {self.resolution} px",
            "pool": f"{spec.size} faces, truncation {spec.truncation_psi:g}, seed {spec.seed}"
            + ("" if made else " (will be made)"),
        }

    def _optimisation(self) -> dict[str, str]:
        preset = self._preset
        about: dict[str, str] = {"optimisation": self._optimise_precision}
        if preset.proxy_resolution is not None:
            about["proxy"] = f"{preset.proxy_resolution} px until the last {preset.proxy_finish} steps"
        if preset.stopping is not None:
            about["stopping"] = str(preset.stopping)
        return about

    def identity(self) -> dict[str, Any]:
        return {
            "bundle": self._bundle.digest,
            "pool_size": self._spec.size,
            "precision": self._runs.precision,
            "optimise_precision": self._optimise_precision,
            "proxy_resolution": self._preset.proxy_resolution,
            "stopping": None if self._preset.stopping is None else str(self._preset.stopping),
        }

    def load(self, progress: Progress) -> None:
        import torch

        from faceanon_engine.engine.method.falco import Falco

        if self._device != "cpu":
            torch.cuda.set_device(self._device)
        self._opened = Falco.open(
            self._bundle,
            self._runs,
            self._spec,
            self._preset,
            prepare=self._prepare,
            progress=progress,
            margin=self._settings.margin,
            metric=self._settings.metric,  # type: ignore[arg-type]
            optimise_precision=self._optimise_precision,
        )

    @property
    def _falco(self) -> Falco:
        if self._opened is None:
            raise RuntimeError("the worker was not loaded")
        return self._opened

    def choose_batch_size(self) -> int:
        return self._falco.choose_batch_size()

    def stream(self, groups: Iterable[Iterable[Pixels]], together: int, on_step: Callable[[int, int], None]) -> Results:
        first, lanes = 0, self._falco.lanes(together)
        for group in groups:
            last = -1
            for numbers, result in self._falco.run(group, lanes, on_step):
                last = max(last, *numbers)
                yield [first + number for number in numbers], result
            first += last + 1

    def anonymize(self, images: Pixels, on_step: Callable[[int], None]) -> AnonymizedBatch:
        return self._falco.anonymize(images, on_step=on_step)

    def first_loss(self, image: Pixels) -> float:
        return float(self._falco.before_steps(image[None]).attribute_before[0])

    def intermediates(self, images: Pixels, neighbour_ids: Sequence[int]) -> tuple[Pixels, Pixels]:
        return self._falco.intermediates(images, neighbour_ids)

    def fakes(self, count: int) -> Pixels:
        return self._falco.fakes(range(min(count, self._spec.size)))

    def release_memory(self) -> None:
        import gc

        import torch

        gc.collect()
        if self._device != "cpu":
            torch.cuda.empty_cache()
