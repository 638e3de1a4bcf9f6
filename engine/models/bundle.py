"""A bundle: the four networks of the method in one directory, `bundle.json` and a safetensors file each.

    {"format": 1, "name": ..., "description": ...,
     "networks": {ROLE: {"config": {...}, "file": "generator.safetensors", "sha256": ..., "bytes": ...,
                         "dtype": "float32" | "float16",
                         "source": {"format": ..., "file": ..., "sha256": ..., "url": ..., "licence": ...,
                                    "remark": ...}}},
     "domain": {...},
 "extra": {...}}

"domain" says what the networks know, where that was measured: see `domain.py`.
"extra" is free; an entry of it with "file" and "sha256" is a further file of the bundle and is verified like the
networks. Files are stored in one of two types and computed with in float32. The digest covers what decides a result:
the roles, the configurations and the files' checksums, neither names nor notes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.description import read_description
from faceanon_engine.engine.system.digests import sha256_of, sha256_of_values
from faceanon_engine.engine.system.home import home
from faceanon_engine.engine.system.printable import first_line

if TYPE_CHECKING:
    import torch

MANIFEST = "bundle.json"
DEMO = "demo"


def demo_path() -> Path:
    """Directory of the bundle that comes with the package."""
    from importlib.util import find_spec

    spec = find_spec("faceanon_engine.demo")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "bundle"


def installed_bundles() -> dict[str, Path]:
    """Directories of the installed bundles by name, sorted; the one that comes with the package is not among them.

    Whether they can be opened is not looked at. Raises UserError when their folder cannot be read.
    """
    root = home().bundles
    try:
        paths = sorted(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}): mend its rights") from None
    # Names that begin with a dot are bundles that were being written when the program was stopped.
    return {path.name: path for path in paths if not path.name.startswith(".") and _is_bundle(path)}


def _is_bundle(path: Path) -> bool:
    try:
        return (path / MANIFEST).is_file()
    except OSError:  # a folder that may not be looked into: whoever opens it says so
        return True


class Bundle:
    """An opened bundle; see the module's description for what it holds."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path = path
        self.content = content
        self.name: str = content["name"]
        self.networks: dict[str, dict[str, Any]] = content["networks"]

    @classmethod
    def open(cls, name_or_path: str | os.PathLike[str] | None = None, *, check_files: bool = True) -> Bundle:
        """Open a bundle by directory or name; None means the only installed one, or the demo bundle when none is.

        Raises UserError when there is no such bundle, when several are installed and none was named, when
        `bundle.json` is damaged or describes what no network is and, unless `check_files` is false, when a file is
        missing or of another size. Checksums are compared by `load` and `verify`.
        """
        path = Path(name_or_path) if name_or_path is not None else home().bundles
        try:
            path = cls._find(name_or_path)
            content = read_description(path / MANIFEST)
            bundle = cls(path, content)
            missing = [role for role in ROLES if role not in bundle.networks]
            if missing:
                raise UserError(f"bundle {path} lacks {', '.join(missing)}: import it again with all four networks")
            for role in ROLES:
                entry = bundle.networks[role]
                file = bundle.file(role)
                size = file.stat().st_size if check_files else entry["bytes"]
                if size != entry["bytes"]:
                    raise UserError(f"{file} has {size} bytes, bundle.json says {entry['bytes']}: import it again")
        except FileNotFoundError as error:
            raise UserError(f"bundle {path}: {Path(error.filename).name} is missing: import it again") from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"bundle {path}: bundle.json cannot be read ({first_line(error)[:160]}): import it again"
            ) from None
        return bundle

    @staticmethod
    def _find(name_or_path: str | os.PathLike[str] | None) -> Path:
        by_name = installed_bundles()
        if name_or_path is None:
            if len(by_name) > 1:
                raise UserError(f"several bundles are installed ({', '.join(by_name)}): choose one with --bundle")
            return next(iter(by_name.values()), demo_path())
        name = os.fspath(name_or_path)
        if name in by_name:
            return by_name[name]
        if name == DEMO:
            return demo_path()
        if (Path(name) / MANIFEST).is_file():
            return Path(name)
        known = ", ".join([*by_name, DEMO])
        raise UserError(f"no bundle {name!r}: known are {known}; a directory with a bundle.json will do as well")

    @property
    def resolution(self) -> int:
        """Side of the generator's images in pixels, to which faces are brought."""
        side: int = self.networks["generator"]["config"]["resolution"]
        return side

    @property
    def domain(self) -> dict[str, Any] | None:
        """What the networks know, as `domain.py` describes it; None where nobody has measured it."""
        section: dict[str, Any] | None = self.content.get("domain")
        return section

    def file(self, role: str) -> Path:
        """The role's safetensors file; raises UserError for a name or a link that leads out of the bundle."""
        return self._inside(self.networks[role]["file"])

    def _extra_files(self) -> dict[str, dict[str, Any]]:
        extra = self.content.get("extra") or {}
        return {
            name: entry for name, entry in extra.items() if isinstance(entry, dict) and {"file", "sha256"} <= {*entry}
        }

    def _inside(self, name: str) -> Path:
        file = self.path / name
        try:
            # A link may name any file of this machine, and a pipe or a device may be read for ever.
            inside = Path(name).name == name not in ("", ".", "..") and "\\" not in name
            inside = inside and file.resolve().parent == self.path.resolve()
            special = inside and file.exists() and not file.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, no name, a circle of links
            inside = special = False
        if not inside:
            raise UserError(
                f"bundle {self.path}: file name {name[:80]!r} leads out of the bundle: do not use this bundle"
            )
        if special:
            raise UserError(f"bundle {self.path}: {name!r} is no file: do not use this bundle")
        return file

    @property
    def digest(self) -> str:
        """sha256 over roles, configurations and files' checksums."""
        decisive = {role: [self.networks[role]["config"], self.networks[role]["sha256"]] for role in ROLES}
        return sha256_of_values(decisive)

    def verify(self) -> list[str]:
        """What is wrong with the files, a line each; empty when every checksum holds."""
        problems = []
        files = [(self.file(role), self.networks[role]["sha256"]) for role in ROLES]
        files += [(self._inside(entry["file"]), entry["sha256"]) for entry in self._extra_files().values()]
        for file, expected in files:
            try:
                checksum = sha256_of(file)
            except OSError as error:
                problems.append(f"{file}: cannot be read ({error.strerror})")
                continue
            if checksum != expected:
                problems.append(f"{file}: sha256 is {checksum}, bundle.json says {expected}")
        return problems

    def load(self, role: str, device: str | torch.device = "cpu") -> Any:
        """The role's network in float32 on the device, frozen.

        Raises UserError when the file is damaged, does not hold the network, or holds weights that are not finite. What
        it holds is compared with the configuration before any of it is read.
        """
        import torch
        from safetensors import SafetensorError

        from faceanon_engine.engine.models.weights import read_weights
        from faceanon_engine.engine.networks.build import build
        from faceanon_engine.engine.networks.stylegan2 import Generator

        file = self.file(role)
        try:
            # Results are labelled with the digest: weights other than the recorded ones must not make any.
            if sha256_of(file) != self.networks[role]["sha256"]:
                raise UserError(f"{file} is damaged, its sha256 is not the one in bundle.json: import the bundle again")
            with torch.device("meta"):
                network = build(role, self.networks[role]["config"])
            state = read_weights(file, network)
            network.load_state_dict(state, assign=True)
            network = _without_meta(network, role, self.networks[role]["config"], state)
        except (
            SafetensorError,
            OSError,
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            ArithmeticError,
        ) as error:
            raise UserError(
                f"{file} does not hold the {role} that bundle.json describes ({first_line(error)[:160]}): "
                "check it with 'models verify'"
            ) from None
        network = network.to(device).eval().requires_grad_(False)
        return network.freeze() if isinstance(network, Generator) else network


def _without_meta(network: Any, role: str, config: dict[str, Any], state: dict[str, Any]) -> Any:
    """The network itself, or a fully built one where buffers outside the state dict would have no values."""
    if not any(buffer.is_meta for buffer in network.buffers()):
        return network
    from faceanon_engine.engine.networks.build import build

    real = build(role, config)
    real.load_state_dict(state, assign=True)
    return real
