"""What a job needs from the method: networks and a pool that are opened once, and batches that are anonymized.

A job talks to the `Worker` protocol alone, so that it can be tested, and killed, without any network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.settings import JobSettings
from faceanon_engine.engine.job.workers.worker import Images, Progress, Results

if TYPE_CHECKING:
    from faceanon_engine.engine.method.anonymized import AnonymizedBatch
    from faceanon_engine.engine.method.pool import Pool
    from faceanon_engine.engine.sessions.opening import Prepare


class FalcoWorker:
    """The method of `pipeline.py` with a bundle's networks."""

    def __init__(
        self, settings: JobSettings, recorded: Mapping[str, Any], inputs: int, *, prepare: Prepare | None = None
    ) -> None:
        """Find the bundle, the device and the pool's specification for a number of inputs.

        `recorded` is what an earlier run of this job recorded: an automatic pool size stays what it was. `prepare`
        builds what the backend lacks. Raises UserError when the bundle is missing, or when the device or the backend
        does not work here.
        """
        import torch

        from faceanon_engine.engine.method.pool import choose_spec
        from faceanon_engine.engine.method.stream import checked_proxy
        from faceanon_engine.engine.models.bundle import Bundle
        from faceanon_engine.engine.networks.precision import checked_precision
        from faceanon_engine.engine.sessions.runs import settle
        from faceanon_engine.engine.system.devices import resolve_for_torch

        self._settings = settings
        self._device = torch.device(resolve_for_torch(settings.device))
        self._runs = settle(settings.backend, settings.precision, str(self._device))
        self._prepare = prepare
        self._optimise_precision = checked_precision(settings.optimise_precision, self._device)
        self._bundle = Bundle.open(settings.bundle)
        size = settings.pool_size
        if size is None and recorded.get("bundle") == self._bundle.digest:
            size = recorded.get("pool_size")
        self._spec = choose_spec(self._bundle.digest, size, settings.truncation, settings.seed, inputs=inputs)
        checked_proxy(settings.resolved_preset, self.resolution)
        self._anonymizer: Any = None

    @property
    def resolution(self) -> int:
        """Side of the generator's images in pixels."""
        return self._bundle.resolution

    def check(self) -> None:
        problems = self._bundle.verify()
        if problems:
            raise UserError(f"bundle {self._bundle.name} is damaged: {problems[0]}: import it again")

    def about(self) -> dict[str, str]:
        import torch

        device = str(self._device)
        if self._device.type == "cuda":
            device += f" ({torch.cuda.get_device_name(self._device)})"
        return {
            "device": device,
            **self._runs.about(),
            **self._optimisation(),
            "threads": str(torch.get_num_threads()),
            "bundle": f"{self._bundle.name} ({self._bundle.digest[:12]}), {self.resolution} px",
            "pool": f"{self._spec.size} faces, truncation {self._spec.truncation_psi:g}, seed {self._spec.seed}"
            + ("" if self._existing_pool() else " (will be made)"),
        }

    def _optimisation(self) -> dict[str, str]:
        preset = self._settings.resolved_preset
        found: dict[str, str] = {"optimisation": self._optimise_precision}
        if preset.proxy_resolution is not None:
            found["proxy"] = f"{preset.proxy_resolution} px until the last {preset.proxy_finish} steps"
        if preset.stopping is not None:
            found["stopping"] = str(preset.stopping)
        return found

    def identity(self) -> dict[str, Any]:
        preset = self._settings.resolved_preset
        return {
            "bundle": self._bundle.digest,
            "pool_size": self._spec.size,
            "precision": self._runs.precision,
            "optimise_precision": self._optimise_precision,
            "proxy_resolution": preset.proxy_resolution,
            "stopping": None if preset.stopping is None else str(preset.stopping),
        }

    def load(self, progress: Progress) -> None:
        from faceanon_engine.engine.method.falco import Anonymizer, Stages

        if self._device.type == "cuda" and self._device.index is not None:
            import torch

            torch.cuda.set_device(self._device)  # which takes no "cuda" without a number
        preset = self._settings.resolved_preset
        chosen: dict[str, Any] = {
            "backend": self._runs.backend,
            "precision": self._runs.precision,
            "prepare": self._prepare,
        }
        stages = Stages(self._bundle, preset, str(self._device), **chosen)
        pool = self._existing_pool() or stages.pool(self._spec, progress=progress)
        self._anonymizer = Anonymizer(
            self._bundle,
            preset=preset,
            pool=pool,
            margin=self._settings.margin,
            steps=self._settings.steps,
            device=str(self._device),
            metric=self._settings.metric,  # type: ignore[arg-type]
            optimise_precision=self._optimise_precision,
            **chosen,
        )
        # Networks that were opened to make the pool serve on: they are cached properties.
        for name in ("generator", "attribute_encoder"):
            if name in vars(stages):
                vars(self._anonymizer)[name] = vars(stages)[name]
        self._anonymizer.forward.adopt(stages.forward)

    def _existing_pool(self) -> Pool | None:
        from faceanon_engine.engine.method.pool import Pool
        from faceanon_engine.engine.system.home import home

        try:
            pool = Pool.open(home().pools / self._spec.directory_name)
        except UserError:
            return None
        recipe = self._settings.resolved_preset.pairing_generated
        return pool if pool.spec == self._spec and pool.has_embedding(recipe, self._runs.precision) else None

    def choose_batch_size(self) -> int:
        stream = self._anonymizer.stream
        return int(self._anonymizer.choose_batch_size() if self._device.type == "cpu" else stream.measured_capacity())

    def stream(self, images: Iterable[Images], together: int, on_step: Callable[[int, int], None]) -> Results:
        stream = self._anonymizer.stream
        results: Results = stream.run(images, stream.lanes(together), on_step)
        return results

    def anonymize(self, images: Images, on_step: Callable[[int], None]) -> AnonymizedBatch:
        result: AnonymizedBatch = self._anonymizer.anonymize(_floats(images), on_step=on_step)
        return result

    def intermediates(self, images: Images, neighbour_ids: list[int]) -> tuple[Images, Images]:
        import torch

        anonymizer = self._anonymizer
        inversions = anonymizer.synthesise(anonymizer.invert(_floats(images)))
        w = torch.from_numpy(np.array(anonymizer.pool_used.w[neighbour_ids], np.float32)).to(self._device)
        return inversions, anonymizer.synthesise(anonymizer.generator.broadcast(w))

    def release_memory(self) -> None:
        import gc

        import torch

        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _floats(images: Images) -> Any:
    import torch

    from faceanon_engine.engine.images.pixels import from_uint8

    return from_uint8(torch.tensor(images))
