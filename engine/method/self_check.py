"""Whether opened networks can do the method at all, found out on a few generated faces before anything is made.

A network that is blind, that gives every face the same answer or numbers that are none, would let a job run to its end
and call everything done. What runs here is what runs later: the sessions' graphs by their backend in their precision,
the losses' encoders in float32, and the first look of an optimisation in its precision.

Blind is not poor: answers of networks with random weights differ by 0.06 of their length at least in the tests' tiny
ones, by 0.3 in ones of the official shapes; what rounding does to constant answers is 1e-6 at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.method.compare import encode_originals
from faceanon_engine.engine.method.pool import sample_z
from faceanon_engine.engine.method.stages import embed_attributes, invert_images
from faceanon_engine.engine.method.step import begin, look
from faceanon_engine.engine.networks.precision import compute_dtype, computing, lowered
from faceanon_engine.engine.system.tensors import as_array

if TYPE_CHECKING:
    from faceanon_engine.engine.method.step import StepSettings
    from faceanon_engine.engine.models.opened import OpenedNetworks
    from faceanon_engine.engine.sessions.runs import Sessions

FACES = 3
"""Of three answers that lie on one line, as those of an encoder of rank one do, two are the same."""
LEAST_DIFFERENCE = 1e-2
"""What any two answers have to differ by, as a share of the longer one's length."""
_UNIT_TOLERANCE = 1e-2
"""bfloat16 rounds a length of 1 by up to 4e-3."""


@torch.no_grad()
def check_networks(networks: OpenedNetworks, sessions: Sessions, settings: StepSettings) -> None:
    """Raise UserError, naming the network, where one is blind on generated faces, or gives what is no number.

    Pictures, codes and embeddings have to be finite and to differ, identity embeddings to be of unit length, too. Costs
    about a step of three images.
    """
    check = _Check(networks.bundle.name)
    generator, preset = networks.generator, settings.preset
    with computing("fp32"):
        z = torch.from_numpy(sample_z(0, 0, FACES, generator.config.z_dim)).to(networks.device)
        codes = generator.broadcast(generator.mapping(z))
        check.answers("generator", "codes", codes)
        drawn = generator.synthesis(codes)
        check.finite("generator", "pictures", drawn)
        pictures = drawn.clamp(-1, 1)
        check.answers("generator", "pictures", pictures)
        targets, _ = encode_originals(*networks.for_steps[1:], pictures, preset)
    check.answers("identity_encoder", "embeddings", targets.identity, unit=True)
    check.answers("attribute_encoder", "features", targets.tokens)
    runs = sessions.runs
    where = f" by {runs.backend} in {runs.precision}"
    check.answers("attribute_encoder", "embeddings", embed_attributes(sessions, pictures, preset.pairing_real), where)
    inversions = torch.as_tensor(invert_images(sessions, pictures)).to(pictures.device)
    check.answers("inverter", "codes", inversions, where)
    where, dtype = f" in {settings.precision}", compute_dtype(settings.precision)
    lower = lowered(networks.for_steps, settings.precision)
    outcome = look(lower, begin(generator, codes, targets, settings), settings)
    check.answers("generator", "pictures", outcome.images, where)
    check.finite("identity_encoder", "cosines", outcome.cosine, where)
    check.finite("attribute_encoder", "losses", outcome.attribute, where)
    if dtype != torch.float32:
        with torch.autocast(pictures.device.type, dtype, cache_enabled=False):
            targets, _ = encode_originals(*lower[1:], outcome.images, preset)
        check.answers("identity_encoder", "embeddings", targets.identity.float(), where, unit=True)
        check.answers("attribute_encoder", "features", targets.tokens.float(), where)


class _Check:
    def __init__(self, bundle: str) -> None:
        self._bundle = bundle

    def answers(self, role: str, what: str, values: Any, where: str = "", *, unit: bool = False) -> None:
        """Values [N, ...], one for each of several faces, have to be finite and to differ."""
        self.finite(role, what, values, where)
        rows = as_array(values).reshape(len(values), -1).astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1)
        if unit and np.abs(lengths - 1).max() > _UNIT_TOLERANCE:
            self._refuse(
                role, f"gives {what} of length {lengths[np.abs(lengths - 1).argmax()]:.3g} instead of 1", where
            )
        nearest = min(np.linalg.norm(rows[one] - rows[two]) for one in range(len(rows)) for two in range(one))
        if nearest <= LEAST_DIFFERENCE * lengths.max():
            self._refuse(role, f"is blind, it gives different faces the same {what}", where)

    def finite(self, role: str, what: str, values: Any, where: str = "") -> None:
        if not np.isfinite(as_array(values)).all():
            self._refuse(role, f"gives {what} that are not finite", where)

    def _refuse(self, role: str, what: str, where: str) -> NoReturn:
        raise UserError(
            f"bundle {self._bundle}: the {role.replace('_', ' ')} {what}{where}: import it from a checkpoint that was "
            "trained, or choose another precision or backend"
        )
