"""faceanon-engine: other people's faces, the same attributes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from faceanon_engine.engine.errors import UserError

if TYPE_CHECKING:
    from faceanon_engine.engine.job.report import JobObserver, JobResult

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "anonymize"]


def anonymize(
    input: str | Path,
    output: str | Path,
    *,
    bundle: str | Path | None = None,
    preset: Literal["falco", "falco-released", "fast"] = "falco",
    margin: float = 0.0,
    steps: int | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    device: str = "auto",
    devices: str | None = None,
    backend: Literal["auto", "torch", "onnxruntime", "tensorrt", "tensorrt-rtx"] = "torch",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    optimise_precision: Literal["fp32", "tf32", "fp16", "bf16"] = "fp32",
    proxy_resolution: int | None = None,
    align: Literal["auto", "never"] = "auto",
    format: Literal["png", "jpeg", "webp"] | None = None,
    quality: int | None = None,
    save_codes: bool = False,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    pool_size: int | None = None,
    truncation: float = 0.7,
    seed: int = 0,
    contact_sheet: int = 16,
    observer: JobObserver | None = None,
) -> JobResult:
    """Anonymize a folder of images, one image, or a text file of paths into the folder `output`.

    The same as `faceanon-engine anonymize`: see there for the settings; None chooses. A bad image raises nothing: it is
    counted in the result and has a row with a reason in the manifest. Interrupted and called again, it goes on where it
    was. `observer`, an `JobObserver` of `faceanon_engine.engine.job`, is told of the progress. With `devices` the caller's
    file is loaded once more in every process: call it below `if __name__ == "__main__":`.

    Raises UserError for what the caller can mend: settings, missing files, a bundle, the device, a full disk.
    """
    from faceanon_engine.engine.job.run import run_job
    from faceanon_engine.engine.job.settings import job_settings

    settings = job_settings(
        input,
        output,
        {
            "bundle": bundle,
            "preset": preset,
            "margin": margin,
            "steps": steps,
            "batch_size": batch_size,
            "limit": limit,
            "device": device,
            "devices": devices,
            "backend": backend,
            "precision": precision,
            "optimise_precision": optimise_precision,
            "proxy_resolution": proxy_resolution,
            "align": align,
            "format": format,
            "quality": quality,
            "save_codes": save_codes,
            "metric": metric,
            "pool_size": pool_size,
            "truncation": truncation,
            "seed": seed,
            "contact_sheet": contact_sheet,
        },
    )
    return run_job(settings, observer=observer)
