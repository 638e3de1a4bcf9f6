"""Named settings of the method: what the paper means, and what the released code does.

Source: FALCO (Barattin, Tzelepis, Patras, Sebe, CVPR 2023, arXiv 2303.11296) and its public release. The two
differ in the range and normalisation of what the feature networks see, and in how the picture is saved; both are
kept, by name, so that results can be compared with either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.networks.recipe import PixelRecipe

OutputScaling = Literal["clamp", "stretch"]

DEFAULT_TRUNCATION = 0.7
"""Psi of the pool of generated faces, whatever the preset."""


@dataclass(frozen=True)
class StoppingRule:
    """When an image needs no more steps: the identity is where it should be, and the attributes get no closer.

    tolerance: largest distance of the identity cosine from the margin.
    improvement, patience: the attribute loss has not fallen below (1 - improvement) times its best for that many steps.
    """

    tolerance: float
    improvement: float
    patience: int

    def __str__(self) -> str:
        return (
            f"cosine within {self.tolerance:g} of the margin and attribute loss improved by less than "
            f"{100 * self.improvement:g} % in {self.patience} steps"
        )


@dataclass(frozen=True)
class Preset:
    """Every constant of the optimisation and every choice in which the release departs from the paper."""

    name: str
    identity_real: PixelRecipe
    identity_generated: PixelRecipe
    attribute_real: PixelRecipe
    attribute_generated: PixelRecipe
    pairing_real: PixelRecipe
    pairing_generated: PixelRecipe
    output_scaling: OutputScaling
    output_format: str
    output_quality: int
    steps: int = 50
    learning_rate: float = 0.01
    learning_rate_decay: float = 0.8
    decay_at: tuple[float, ...] = (0.75, 0.9)
    identity_weight: float = 10.0
    attribute_weight: float = 0.1
    trainable_rows: tuple[int, int] = (3, 8)
    """Half-open range of the w+ rows that come from the fake and are optimised."""
    stopping: StoppingRule | None = None
    """None: every image takes all the steps."""
    proxy_resolution: int | None = None
    """Side of the picture that the losses see in all but the last steps; None: the generator's own."""
    proxy_finish: int = 10
    """Number of steps at full resolution that follow those at the proxy's."""


_SIGNED = PixelRecipe(unit_range=False, normalise=False)
_UNIT = PixelRecipe(unit_range=True, normalise=False)
_CLIP = PixelRecipe(unit_range=True, normalise=True)

PRESETS: dict[str, Preset] = {
    "falco": Preset(
        name="falco",
        identity_real=_SIGNED,
        identity_generated=_SIGNED,
        attribute_real=_CLIP,
        attribute_generated=_CLIP,
        pairing_real=_CLIP,
        pairing_generated=_CLIP,
        output_scaling="clamp",
        output_format="png",
        output_quality=95,
    ),
    "falco-released": Preset(
        name="falco-released",
        identity_real=_UNIT,
        identity_generated=_SIGNED,
        attribute_real=_UNIT,
        attribute_generated=_SIGNED,
        pairing_real=_CLIP,
        pairing_generated=PixelRecipe(unit_range=False, normalise=True),
        output_scaling="stretch",
        output_format="jpeg",
        output_quality=75,
    ),
}


# On the demo bundle (benchmarks/results/stopping-demo.json): 38 % of the steps saved for 10 % more attribute loss.
PRESETS["fast"] = replace(
    PRESETS["falco"], name="fast", stopping=StoppingRule(tolerance=0.02, improvement=0.03, patience=5)
)


def get_preset(name: str) -> Preset:
    """The preset of that name; raises UserError naming the known ones."""
    try:
        return PRESETS[name]
    except (KeyError, TypeError):  # a value that is no text may be one that no dictionary takes
        raise UserError(f"unknown preset {name!r}: use one of {', '.join(sorted(PRESETS))}") from None


def alike(preset: Preset) -> frozenset[str]:
    """Names of the presets by which the networks see the same pixels, and which begin from the same codes."""

    def seen(each: Preset) -> tuple[object, ...]:
        recipes = tuple(value for value in vars(each).values() if isinstance(value, PixelRecipe))
        return (*recipes, each.trainable_rows)

    return frozenset(name for name, each in PRESETS.items() if seen(each) == seen(preset))
