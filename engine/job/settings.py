"""The settings of a job: made once at the edge from a file, flags or keyword arguments, checked, and passed down."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from faceanon_engine.engine.choices import ALIGNMENTS, BACKENDS, IMAGE_FORMATS, METRICS, OPTIMISE_PRECISIONS, PRECISIONS
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.preset import Preset, get_preset


@dataclass(frozen=True)
class JobSettings:
    """Everything the person asked for; None means "choose": see `docs/manifest.md` for what is recorded of it.

    Raises UserError, naming the setting, for a value that cannot work.
    """

    input: Path
    """A folder of images (recursive), one image, or a text file of paths."""
    output: Path
    """The job's folder: results, manifest, contact sheet."""
    bundle: str | None = None
    """Name or path of the networks; None takes the only installed bundle."""
    preset: str = "falco"
    margin: float = 0.0
    """Cosine that the result's identity keeps with the original's, 0 to 1."""
    steps: int | None = None
    """Optimisation steps; None takes the preset's."""
    batch_size: int | None = None
    limit: int | None = None
    """Only the first so many inputs, in the order of their paths."""
    device: str = "auto"
    devices: str | None = None
    """Names of devices with commas between them, or "all": one process each. None: this process, on `device`."""
    backend: str = "torch"
    """What runs the stages without gradients; auto takes the fastest that the machine can run. See docs/engines.md."""
    precision: str = "fp32"
    """What those stages compute in."""
    optimise_precision: str = "fp32"
    """What the optimisation computes in; tf32 needs an NVIDIA GPU."""
    proxy_resolution: int | None = None
    """Side of the picture that the losses see in all but the last steps; None takes the preset's, which is none."""
    align: str = "auto"
    format: str | None = None
    """png, jpeg or webp; None takes the preset's."""
    quality: int | None = None
    """1 to 100, of jpeg and webp; None takes the preset's."""
    save_codes: bool = False
    metric: str = "euclidean"
    pool_size: int | None = None
    truncation: float = 0.7
    seed: int = 0
    contact_sheet: int = 16
    """Number of results on the contact sheet, which shows originals; 0 makes none."""

    def __post_init__(self) -> None:
        get_preset(self.preset)
        _one_of("align", self.align, ALIGNMENTS)
        _one_of("metric", self.metric, METRICS)
        _one_of("backend", self.backend, ("auto", *BACKENDS))
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("optimise-precision", self.optimise_precision, OPTIMISE_PRECISIONS)
        if self.format is not None:
            _one_of("format", self.format, IMAGE_FORMATS)
        _within("margin", self.margin, 0, 1)
        if not 0 < self.truncation <= 1:
            raise UserError(f"truncation {self.truncation} is outside (0, 1]: 0.7 is usual")
        if self.quality is not None:
            _within("quality", self.quality, 1, 100)
        for name, least in (
            ("steps", 0),
            ("batch_size", 1),
            ("limit", 1),
            ("pool_size", 1),
            ("seed", 0),
            ("proxy_resolution", 8),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{_spelled(name)} {value} is too small: give {least} or more")
        if self.contact_sheet < 0:
            raise UserError(f"contact-sheet {self.contact_sheet} is too small: give 0 or more")

    @property
    def resolved_preset(self) -> Preset:
        """The constants of the named preset, with what was asked for instead of them."""
        preset = get_preset(self.preset)
        return preset if self.proxy_resolution is None else replace(preset, proxy_resolution=self.proxy_resolution)

    @property
    def resolved_steps(self) -> int:
        """Steps that will run."""
        return self.resolved_preset.steps if self.steps is None else self.steps

    @property
    def resolved_format(self) -> str:
        """Format that will be written."""
        return self.format or self.resolved_preset.output_format

    @property
    def resolved_quality(self) -> int:
        """Quality that will be used where the format has one."""
        return self.resolved_preset.output_quality if self.quality is None else self.quality


# What each setting takes, where it takes more than "choose".
TYPES: dict[str, type] = {
    name: next(kind for kind in (get_args(hint) or (hint,)) if kind is not NoneType)
    for name, hint in get_type_hints(JobSettings).items()
    if name not in ("input", "output")
}
_AUTO = ("batch_size", "pool_size")
_OPTIONAL = tuple(field.name for field in fields(JobSettings) if field.default is None)


def job_settings(input: Path | str, output: Path | str, values: Mapping[str, Any]) -> JobSettings:
    """Settings from loose values, as a caller gives them; raises UserError for unknown names and wrong types."""
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in TYPES:
            raise UserError(f"unknown setting {key!r}{suggestion(name)}")
        checked[name] = converted(name, value)
    return JobSettings(input=Path(input), output=Path(output), **checked)


def converted(name: str, value: Any) -> Any:
    """The value in the setting's type; "auto" and None choose where the setting can be chosen."""
    wanted = TYPES[name]
    if (value is None and name in _OPTIONAL) or (value == "auto" and name in _AUTO):
        return None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is int and isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if wanted is str and isinstance(value, Path):
        return str(value)
    if isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    kind = {str: "a text", float: "a number", int: "a whole number", bool: "true or false"}[wanted]
    raise UserError(f"{_spelled(name)} is {value!r}, expected {kind}{' or auto' if name in _AUTO else ''}")


def suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, TYPES, n=1)
    return f": did you mean {_spelled(near[0])!r}?" if near else f": known are {', '.join(map(_spelled, TYPES))}"


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value, known, n=1)
        raise UserError(
            f"unknown {name} {value!r}: " + (f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}")
        )


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise UserError(f"{name} {value} is outside {least} to {most}")
