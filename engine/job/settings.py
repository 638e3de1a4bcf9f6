"""The settings of a job: made once at the edge from a file, flags or keyword arguments, checked, and passed down."""

# ruff: noqa: RUF009, as what `setting` gives is a field of the dataclass and no value that instances share

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from faceanon_engine.engine.choices import (
    Alignment,
    BackendOrAuto,
    ImageFormat,
    Metric,
    OptimisePrecision,
    Precision,
    PresetName,
    ResultKind,
    Unhandled,
)
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.layout import JobFolder
from faceanon_engine.engine.job.setting import Setting, is_usual, setting, settings_in
from faceanon_engine.engine.method.preset import DEFAULT_TRUNCATION, Preset, get_preset
from faceanon_engine.engine.system.printable import shown

MOST_IN_POOL = 100_000_000
"""Faces: more than any pool has, and few enough for a record that asks for more to be no honest one."""


@dataclass(frozen=True)
class JobSettings:
    """Everything the person asked for; None means "choose": see `docs/manifest.md` for what is recorded of it.

    A field is all there is to a setting: checks, configuration files, Python's arguments and the command line's
    options, in this order, follow from it. Raises UserError, naming the setting, for a value that cannot work.
    """

    input: Path
    """A folder of images (recursive), one image, or a text file of paths."""
    output: Path
    """The job's folder: results in `release/`, manifest, contact sheet and codes in `private/`."""
    bundle: str | Path | None = setting(
        None, "The networks.", chosen="the only one installed, the demo's where none is", metavar="NAME|PATH"
    )
    preset: PresetName = setting(
        "falco", "What the paper means, what the released code does, or the paper's with early stopping."
    )
    margin: float = setting(0.0, "Identity cosine that may remain, 0 to 1.", least=0, most=1)
    steps: int | None = setting(None, "Optimisation steps.", least=0, chosen="the preset's, 50", metavar="N")
    batch_size: int | None = setting(None, "Faces that are processed together.", least=1, chosen="auto")
    limit: int | None = setting(None, "Only the first N inputs.", least=1, chosen="all", metavar="N")
    """In the order of their paths."""
    device: str = setting("auto", "Where to run.", metavar="auto|cpu|cuda")
    backend: BackendOrAuto = setting(
        "torch",
        "What runs the stages without gradients; auto takes the fastest this machine can run, built at first use.",
    )
    """See docs/engines.md."""
    precision: Precision = setting("fp32", "What those stages compute in.")
    devices: str | None = setting(
        None,
        "Several devices, such as cuda:0,cuda:1: one process each.",
        chosen="one, --device",
        metavar="NAME,NAME,...|all",
    )
    """None: this process, on `device`."""
    optimise_precision: OptimisePrecision = setting(
        "fp32", "What the optimisation computes in; tf32 needs an NVIDIA GPU."
    )
    proxy_resolution: int | None = setting(
        None,
        "Optimise through the generator's picture at that side, finish at full resolution.",
        least=8,
        chosen="off",
        metavar="PIXELS",
    )
    """None takes the preset's, which is none."""
    align: Alignment = setting(
        "auto", "auto finds and aligns the faces of photos; never takes inputs as aligned crops."
    )
    min_face: int = setting(
        20,
        "Smallest face that is looked for: the longer side of its box, in the photograph's pixels.",
        least=8,
        most=10_000,
        metavar="PIXELS",
    )
    results: ResultKind = setting(
        "crops",
        "Give each face as a crop, or the photographs with other faces put into them.",
        spelled="output",
    )
    unhandled: Unhandled = setting(
        "blur",
        "With photos: what becomes of faces that cannot be replaced; fail withholds their photographs.",
    )
    allow_faceless: bool = setting(
        False, "With photos: give photographs in which no face was found, too; otherwise they are withheld."
    )
    match_colour: bool = setting(True, "With photos: match a face's colours to the skin around it.")
    keep: str | Path | None = setting(
        None,
        "With photos: leave the faces of the people in these pictures as they are, one picture or folder a person.",
        chosen="nobody",
        metavar="FOLDER",
    )
    boxes: str | Path | None = setting(
        None,
        "Your own boxes of faces, COCO JSON, WIDER text or CSV: those that were not found count, too, and the share of "
        "them that was found is said.",
        chosen="none",
        metavar="FILE",
    )
    format: ImageFormat | None = setting(
        None, "Of the results.", chosen="the preset's, png for falco; of photos, their own"
    )
    quality: int | None = setting(
        None, "Of jpeg and webp.", least=1, most=100, chosen="the preset's, 95 for falco", metavar="1..100"
    )
    save_codes: bool = setting(False, "Write each result's w+ code to OUTPUT/private/codes, as .w_plus.npy.")
    metric: Metric = setting("euclidean", "Distance of the pairing.")
    pool_size: int | None = setting(
        None,
        "Faces in the pool that originals are paired with; auto takes the largest there is, or makes one of at least "
        "two an original.",
        least=1,
        most=MOST_IN_POOL,
        chosen="auto",
    )
    truncation: float = setting(DEFAULT_TRUNCATION, "Psi of the pool, above 0, at most 1.", above=0, most=1)
    seed: int = setting(0, "Seed of the pool.", least=0, metavar="N")
    strict: bool = setting(
        False, "Refuse faces that the networks do not know, as far as the bundle records what they know."
    )
    contact_sheet: int = setting(
        16,
        "Show the first N results beside their ORIGINALS in OUTPUT/private/contact-sheet.png; 0 makes none.",
        least=0,
        metavar="N",
    )

    def __post_init__(self) -> None:
        for name, path in (("INPUT", self.input), ("OUTPUT", self.output)):
            if not is_usual(path):
                raise UserError(f"{name} {shown(str(path))} is no path: give a shorter, plain one")
        for each in SETTINGS.values():
            each.check(getattr(self, each.name))
        self._check_photos()

    @property
    def folder(self) -> JobFolder:
        """The places in `output`."""
        return JobFolder(self.output)

    @property
    def resolved_preset(self) -> Preset:
        """The constants of the named preset, with what was asked for instead of them."""
        preset = get_preset(self.preset)
        return preset if self.proxy_resolution is None else replace(preset, proxy_resolution=self.proxy_resolution)

    def _check_photos(self) -> None:
        if self.gives_photos:
            if self.align == "never":
                raise UserError("align never takes inputs as aligned crops, in which nothing is put back: leave it out")
            return
        if self.boxes is not None and self.align == "never":
            raise UserError("align never looks for no face, and boxes say where some are: leave one of them out")
        for name in _OF_PHOTOS:
            if getattr(self, name) != SETTINGS[name].default:
                raise UserError(f"{SETTINGS[name].spelled} is for photographs: add --output photos, or leave it out")

    @property
    def gives_photos(self) -> bool:
        """Whether results are photographs with other faces in them, not crops."""
        return self.results == "photos"

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


_OF_PHOTOS = ("unhandled", "allow_faceless", "match_colour", "keep")
SETTINGS: dict[str, Setting] = settings_in(JobSettings)
"""By name with underscores, in the order in which they are shown."""


class StageOptions(TypedDict, total=False):
    """The settings that the stages take, too, as Python's keyword arguments."""

    bundle: str | Path | None
    preset: PresetName
    batch_size: int | None
    limit: int | None
    device: str
    backend: BackendOrAuto
    precision: Precision
    align: Alignment
    min_face: int


class PoolOptions(TypedDict, total=False):
    """The settings of pairing and of the pool, as Python's keyword arguments."""

    metric: Metric
    pool_size: int | None
    truncation: float
    seed: int


class JobOptions(StageOptions, PoolOptions, total=False):
    """All settings as Python's keyword arguments: the names and types of the fields of `JobSettings`.

    A type checker cannot derive the one from the other; a test holds that they are the same.
    """

    margin: float
    steps: int | None
    devices: str | None
    optimise_precision: OptimisePrecision
    proxy_resolution: int | None
    results: ResultKind
    unhandled: Unhandled
    allow_faceless: bool
    match_colour: bool
    keep: str | Path | None
    boxes: str | Path | None
    format: ImageFormat | None
    quality: int | None
    save_codes: bool
    strict: bool
    contact_sheet: int


def job_settings(input: Path | str, output: Path | str, values: Mapping[str, Any]) -> JobSettings:
    """Settings from loose values, as a caller gives them; raises UserError for unknown names and wrong types."""
    return JobSettings(input=Path(input), output=Path(output), **loose_settings(values.items()))


def loose_settings(pairs: Iterable[tuple[object, object]]) -> dict[str, Any]:
    """Loose values in their settings' kinds, by name with underscores; their ranges are not looked at.

    Names have hyphens or underscores. Raises UserError for unknown ones, with the nearest one, for a name that is given
    twice, and for a value of another kind.
    """
    converted: dict[str, Any] = {}
    unknown: list[object] = []
    for key, value in pairs:
        named = _named(key) if isinstance(key, str) else None
        if named is None:
            unknown.append(key)
        elif named.name in converted:
            raise UserError(f"setting {key!r} is given twice")
        else:
            converted[named.name] = named.converted(value)
    if unknown:
        raise UserError(_unknown(unknown))
    return converted


def _unknown(keys: Sequence[object]) -> str:
    first = ", ".join(shown(key, 40) for key in keys[:_NAMED])
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    key = keys[0]
    near = difflib.get_close_matches(key.replace("-", "_"), SETTINGS, n=1) if isinstance(key, str) else []
    if near:
        advice = f"did you mean {SETTINGS[near[0]].spelled!r}" + (f" by {shown(key, 40)}?" if len(keys) > 1 else "?")
    else:
        advice = f"known are {', '.join(known.spelled for known in SETTINGS.values())}"
    return f"unknown setting{'s' if len(keys) > 1 else ''} {first}{more}: {advice}"


def _named(key: str) -> Setting | None:
    """The setting of that name, as Python or as files spell it."""
    return SETTINGS.get(key.replace("-", "_")) or next(
        (each for each in SETTINGS.values() if each.spelled == key), None
    )


_NAMED = 3
"""Unknown names that a message gives; the others are counted."""
