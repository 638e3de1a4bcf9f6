"""The pool that somebody needs: opened where it is there, and otherwise made. Torch is loaded only to make one."""

from __future__ import annotations

from pathlib import Path

from faceanon_engine.engine.method.pool import Pool, PoolSpec, find_pool
from faceanon_engine.engine.method.preset import Preset
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.sessions.runs import Sessions
from faceanon_engine.engine.system.progress import Progress


def open_or_make_pool(
    spec: PoolSpec,
    networks: OpenedNetworks,
    sessions: Sessions,
    preset: Preset,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    root: Path | None = None,
) -> Pool:
    """The pool of that specification with the features the preset pairs by; it is made, or completed, where missing.

    Networks are loaded only where something has to be made; `progress` counts its faces. Raises ValueError for a
    specification of another bundle, UserError when the folder cannot be written.
    """
    if spec.bundle != networks.bundle.digest:
        raise ValueError("the pool's specification names another bundle")
    recipe = preset.pairing_generated
    pool = find_pool(spec, recipe, sessions.runs.precision, root)
    if pool is not None:
        return pool
    from faceanon_engine.engine.method.pool_making import make_pool

    return make_pool(spec, networks, sessions, recipe, batch_size=batch_size, progress=progress, root=root)
