"""Importing: official checkpoints become a bundle, each network from the file that is meant."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faceanon_engine.engine.choices import ROLES, StoredDtype
from faceanon_engine.engine.errors import UserError, refuse_single
from faceanon_engine.engine.models.bundle import DEMO, MANIFEST, Bundle
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
from faceanon_engine.engine.models.official import OFFICIAL
from faceanon_engine.engine.models.write import NetworkToWrite, write_bundle
from faceanon_engine.engine.system.digests import sha256_of
from faceanon_engine.engine.system.home import home
from faceanon_engine.engine.system.progress import Observer

_E4E = "e4e"
"""The layout whose file holds a generator beside its inverter."""


@dataclass(frozen=True)
class _Offer:
    """A network, and the file that holds it."""

    file: Path
    network: NetworkToWrite


def import_bundle(
    files: Iterable[Path | str],
    name: str,
    *,
    roles: Mapping[str, Path | str] | None = None,
    urls: Mapping[str, str] | None = None,
    dtype: StoredDtype = "float32",
    licence_note: str = "",
    force: bool = False,
    observer: Observer | None = None,
) -> Bundle:
    """Make an installed bundle of official checkpoints, recognised by what they hold; nothing in them is executed.

    e4e's file holds an inverter and a generator; a generator of its own file goes before that one. roles: the file of
    each network that several files hold. urls: by a file, where it is from. Both name a file by its path as in `files`
    or by its last part. dtype: what weights are stored as. licence_note: terms of the files, in place of those
    published; like the addresses it is kept in the bundle. force: replace a bundle of that name. `observer` is told of
    each file that is read.

    Raises UserError when `files` is one file and no list, when the name cannot be one, when there is such a bundle,
    when a file is damaged, unknown or not named in `files`, when a network is missing or held by several files, and
    when the bundle cannot be written.
    """
    refuse_single("files", files)
    paths = [Path(file) for file in files]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name == DEMO:
        raise UserError(f"{name!r} cannot name a bundle: use letters, digits, '-', '.' and '_', and not {DEMO!r}")
    target = home().bundles / name
    if (target / MANIFEST).exists() and not force:
        raise UserError(f"bundle {name!r} exists in {target}: choose another name, or replace it with --force")
    chosen = {role: _among(paths, file, f"--role {f'{role}={file}'!r}") for role, file in (roles or {}).items()}
    unknown = [role for role in chosen if role not in ROLES]
    if unknown:
        raise UserError(f"--role {unknown[0]}: a bundle holds {', '.join(ROLES)}")
    origins = {_among(paths, file, f"--url {f'{file}={url}'!r}"): url for file, url in (urls or {}).items()}
    offers = _read(paths, origins, licence_note, observer or Observer())
    networks = [_choose(role, of_role, chosen.get(role)) for role, of_role in offers.items()]
    for role, file in chosen.items():
        if role not in offers:
            raise UserError(f"--role {role}={file}: none of the files holds a {role}")
    return write_bundle(target, name, networks, dtype=dtype)


def _among(files: Sequence[Path], file: Path | str, option: str) -> str:
    """The path of the file that is named by its path or its last part, as text; raises UserError when it is none."""
    known = {str(path): str(path) for path in files} | {path.name: str(path) for path in files}
    if str(file) not in known:
        raise UserError(f"{option}: {file} is not among the files to import")
    return known[str(file)]


def _read(
    files: Sequence[Path], origins: Mapping[str, str], licence_note: str, observer: Observer
) -> dict[str, list[_Offer]]:
    """The networks of all files by role, each with where it is from."""
    published = {official.name: official for official in OFFICIAL}
    offers: dict[str, list[_Offer]] = {}
    for file in files:
        observer.note(f"reading {file}")
        networks = read_checkpoint(file)
        checksum = sha256_of(file)
        official = published.get(file.name)
        for network in networks:
            if network.remark:
                observer.note(f"{file}: {network.remark}")
            source = {
                "format": network.source_format,
                "file": file.name,
                "sha256": checksum,
                "url": origins.get(str(file)) or (official.addresses[0].url if official else ""),
                "licence": licence_note or (official.licence if official else "not stated"),
                **({"remark": network.remark} if network.remark else {}),
            }
            offer = _Offer(file, NetworkToWrite(network.role, network.config, network.state_dict, source))
            offers.setdefault(network.role, []).append(offer)
    return offers


def _choose(role: str, offers: list[_Offer], file: str | None) -> NetworkToWrite:
    """The network meant: of the file named, otherwise the only one, not counting the generator inside e4e's file."""
    if file is not None:
        offers = [offer for offer in offers if str(offer.file) == file]
        if not offers:
            raise UserError(f"--role {role}={file}: that file holds no {role}")
    elif role == "generator" and any(offer.network.source["format"] != _E4E for offer in offers):
        offers = [offer for offer in offers if offer.network.source["format"] != _E4E]
    if len(offers) > 1:
        names = " and ".join(str(offer.file) for offer in offers)
        raise UserError(f"{names} both hold the {role}: leave one of them out, or choose with --role {role}=FILE")
    return offers[0].network
