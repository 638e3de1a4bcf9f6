"""How pixels are handed to a feature network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PixelRecipe:
    """How an image of the pipeline, in [-1, 1], is handed to a feature network.

    unit_range: mapped to [0, 1] first; otherwise left in [-1, 1].
    normalise: the network's own mean and standard deviation are applied afterwards (attribute encoder only).
    """

    unit_range: bool
    normalise: bool

    @property
    def tag(self) -> str:
        """A short stable name, used where features are stored."""
        return f"{'unit' if self.unit_range else 'signed'}{'-normalised' if self.normalise else ''}"
