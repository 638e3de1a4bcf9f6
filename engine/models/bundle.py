"""A bundle: the four networks of the method in one directory, `bundle.json` and a safetensors file each.

    {"format": 1, "name": ..., "description": ...,
     "networks": {ROLE: {"config": {...}, "file": "generator.safetensors", "sha256": ..., "bytes": ...,
                         "dtype": "float32" | "float16",
                         "source": {"format": ..., "file": ..., "sha256": ..., "url": ..., "licence": ...}}},
     "extra": {...}}

"extra" is free; an entry of it with "file" and "sha256" is a further file of the bundle and is verified like the
networks. Files are stored in one of two types and computed with in float32. The digest covers what decides a result:
the roles, the configurations and the files' checksums, neither names nor notes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system.digests import sha256_of, sha256_of_values
from faceanon_engine.engine.system.home import home
from faceanon_engine.engine.system.printable import first_line

if TYPE_CHECKING:
    import torch

FORMAT = 1
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
    """Directories of the installed bundles by name, sorted; the one that comes with the package is not among them."""
    root = home().bundles
    if not root.is_dir():
        return {}
    # Names that begin with a dot are bundles that were being written when the program was stopped.
    return {
        path.name: path
        for path in sorted(root.iterdir())
        if not path.name.startswith(".") and (path / MANIFEST).is_file()
    }


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
        `bundle.json` is damaged and, unless `check_files` is false, when a file is missing or of another size.
        Checksums are compared by `load` and `verify`.
        """
        path = Path(name_or_path) if name_or_path is not None else home().bundles
        try:
            path = cls._find(name_or_path)
            content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise UserError(
                    f"bundle {path} has format {content['format']}, this version reads {FORMAT}: import it again"
                )
            bundle = cls(path, content)
            missing = [role for role in ROLES if role not in bundle.networks]
            if missing:
                raise UserError(f"bundle {path} lacks {', '.join(missing)}: import it again with all four networks")
            for role in ROLES:
                entry = bundle.networks[role]
                file = bundle.file(role)
                entry["config"], entry["sha256"]  # each has to be there
                size = file.stat().st_size if check_files else entry["bytes"]
                if size != entry["bytes"]:
                    raise UserError(f"{file} has {size} bytes, bundle.json says {entry['bytes']}: import it again")
            _ = bundle.resolution
        except FileNotFoundError as error:
            raise UserError(f"bundle {path}: {Path(error.filename).name} is missing: import it again") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"bundle {path}: bundle.json cannot be read ({error}): import it again") from None
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
        return int(self.networks["generator"]["config"]["resolution"])

    def file(self, role: str) -> Path:
        """The role's safetensors file; raises UserError for a name that leads out of the bundle."""
        return self._inside(self.networks[role]["file"])

    def _extra_files(self) -> dict[str, dict[str, Any]]:
        extra = self.content.get("extra") or {}
        return {
            name: entry for name, entry in extra.items() if isinstance(entry, dict) and {"file", "sha256"} <= {*entry}
        }

    def _inside(self, name: str) -> Path:
        if name in ("", ".", "..") or "/" in name or "\\" in name:
            raise UserError(f"bundle {self.path}: file name {name!r} leads out of the bundle: do not use this bundle")
        return self.path / name

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

        Raises UserError when the file is damaged or does not hold the network.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from faceanon_engine.engine.networks.build import build
        from faceanon_engine.engine.networks.stylegan2 import Generator

        file = self.file(role)
        try:
            # Results are labelled with the digest: weights other than the recorded ones must not make any.
            if sha256_of(file) != self.networks[role]["sha256"]:
                raise UserError(f"{file} is damaged, its sha256 is not the one in bundle.json: import the bundle again")
            state = {key: value.float() for key, value in load_file(file).items()}
            with torch.device("meta"):
                network = build(role, self.networks[role]["config"])
            for key, value in network.state_dict().items():
                # A counter that inference never reads; it is not stored.
                if key.endswith("num_batches_tracked"):
                    state[key] = torch.zeros_like(value, device="cpu")
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
                f"{file} does not hold the {role} that bundle.json describes ({first_line(error)}): "
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
