"""Writing a bundle: four networks that fit each other, in a directory that is written atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faceanon_engine.engine.choices import ROLES, STORED_DTYPES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import MANIFEST, Bundle
from faceanon_engine.engine.models.description import FORMAT, check_fit, read_description
from faceanon_engine.engine.models.domain import check_domain
from faceanon_engine.engine.system.digests import sha256_of
from faceanon_engine.engine.system.files import atomic_folder, failures_explained, write_atomic


@dataclass(frozen=True)
class NetworkToWrite:
    """A network on its way into a bundle: role, configuration dataclass, state dict in our layout, origin."""

    role: str
    config: Any
    state_dict: dict[str, Any]
    source: dict[str, str] = field(default_factory=dict)


def write_bundle(
    path: Path,
    name: str,
    networks: Iterable[NetworkToWrite],
    *,
    dtype: str = "float32",
    description: str = "",
    extra: dict[str, Any] | None = None,
    extra_files: dict[str, Path] | None = None,
) -> Bundle:
    """Write a bundle's directory, replacing a bundle that is there, and open it.

    `extra_files` are copied into it and become entries of "extra". The directory is written atomically. Raises
    UserError when a role is missing, given twice or unknown, when the networks do not fit each other, when something
    else than a bundle is there, and when the directory cannot be written.
    """
    if dtype not in STORED_DTYPES:
        raise UserError(f"unknown dtype {dtype!r}: use one of {', '.join(STORED_DTYPES)}")
    by_role: dict[str, NetworkToWrite] = {}
    for network in networks:
        if network.role not in ROLES:
            raise UserError(f"unknown network {network.role!r}: a bundle holds {', '.join(ROLES)}")
        if network.role in by_role:
            raise UserError(f"{network.role} is given twice: leave one of the files out")
        by_role[network.role] = network
    missing = [role for role in ROLES if role not in by_role]
    if missing:
        raise UserError(f"bundle {name!r} lacks {', '.join(missing)}: give a checkpoint of each")
    check_fit(by_role["generator"].config, by_role["inverter"].config)
    if path.exists() and not (path / MANIFEST).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} is there and is no bundle: move it away, or choose another name")
    try:
        with atomic_folder(path) as folder:
            entries = {role: _write_network(folder, by_role[role], dtype) for role in ROLES}
            further = dict(extra or {})
            for key, source in (extra_files or {}).items():
                file = folder / f"{key}{source.suffix}"
                shutil.copyfile(source, file)
                further[key] = {"file": file.name, "sha256": sha256_of(file)}
            content = {
                "format": FORMAT,
                "name": name,
                "description": description,
                "networks": entries,
                "extra": further,
            }
            (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"bundle {path} cannot be written ({error.strerror or error}): free space, check rights"
        ) from None
    return Bundle.open(path)


def write_domain(bundle: Bundle, section: dict[str, Any]) -> None:
    """Put what the networks know into a bundle's record, in place of what it said; `domain.py` describes the section.

    The rest of the record stays as the file has it. Raises UserError when it cannot be written, or is no section.
    """
    file = bundle.path / MANIFEST
    try:
        check_domain(section)
        content = {**read_description(file), "domain": section}
        with failures_explained(file, "check the folder's rights, or use a copy of the bundle"):
            write_atomic(file, (json.dumps(content, indent=1) + "\n").encode("utf-8"))
    except ValueError as error:
        raise UserError(f"bundle {bundle.path} cannot be added to: {error}") from None
    bundle.content["domain"] = section


def _write_network(folder: Path, network: NetworkToWrite, dtype: str) -> dict[str, Any]:
    """Store a network's weights; returns its entry of bundle.json."""
    import torch
    from safetensors.torch import save_file

    from faceanon_engine.engine.models.finite import is_finite

    kind = getattr(torch, dtype)
    state = {
        key: value.detach().to("cpu", kind).contiguous().clone()
        for key, value in network.state_dict.items()
        if value.is_floating_point()
    }
    bad = [key for key, value in state.items() if not is_finite(value)]
    if bad:
        raise UserError(f"{network.role}: {bad[0]} is not finite as {dtype}: store it as float32")
    file = folder / f"{network.role}.safetensors"
    save_file(state, file)
    file.chmod(0o644)
    return {
        "config": asdict(network.config),
        "file": file.name,
        "sha256": sha256_of(file),
        "bytes": file.stat().st_size,
        "dtype": dtype,
        "source": network.source,
    }
