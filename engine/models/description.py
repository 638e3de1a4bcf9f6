"""`bundle.json`, read and checked: somebody else's file, by whose values networks are opened and built."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from faceanon_engine.engine.choices import ROLES, STORED_DTYPES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.domain import check_domain
from faceanon_engine.engine.networks.configs import GeneratorConfig, InverterConfig, make_config

FORMAT = 1
_BYTES = 4 << 20  # the demo's, with notes on its training, has 4 thousand
_NAME = 255


def read_description(file: Path) -> dict[str, Any]:
    """What the file says, every value of the type that it has to be, and each configuration that of a network.

    Raises OSError, and ValueError saying what is wrong: with the file, or with networks that do not fit each other.
    """
    with open(file, "rb") as stream:
        data = stream.read(_BYTES + 1)
    if len(data) > _BYTES:
        raise ValueError("it is longer than any description of a bundle")
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    except ValueError as error:
        # Python's advice on numbers of thousands of digits is not for whoever has this file.
        raise ValueError("a number in it is too long" if "digits" in str(error) else str(error)) from None
    _check(content)
    return content


def check_fit(generator: GeneratorConfig, inverter: InverterConfig) -> None:
    """Raises UserError when the inverter's codes are not those that the generator takes."""
    if (inverter.rows, inverter.w_dim) != (generator.rows, generator.w_dim):
        raise UserError(
            f"the inverter gives {inverter.rows} rows of {inverter.w_dim}, the generator takes {generator.rows} of "
            f"{generator.w_dim}: use an inverter that was trained for this generator"
        )


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"a number in it is {constant}")


def _check(content: Any) -> None:
    version = _typed(content, "format", int)
    if version != FORMAT:
        raise ValueError(f"it has format {version if abs(version) < 1000 else '...'}, this version reads {FORMAT}")
    name = _typed(content, "name", str)
    if not 0 < len(name) <= _NAME:
        raise ValueError(f"its name has {len(name)} characters")
    networks = _typed(content, "networks", dict)
    unknown = [role for role in networks if role not in ROLES]
    if unknown:
        raise ValueError(f"it has a network {unknown[0][:40]!r}, which no bundle has")
    configs = {}
    for role in networks:
        entry = _typed(networks, role, dict)
        config = _typed(entry, "config", dict)
        configs[role] = make_config(role, config, whole=True)
        _typed(entry, "file", str)
        _checksum(entry)
        size = _typed(entry, "bytes", int)
        if not 0 < size < 2**62:
            raise ValueError(f"{role}: no file has as many bytes as it says")
        if entry.get("dtype", "float32") not in STORED_DTYPES:
            raise ValueError(f"{role}: dtype is none of {', '.join(STORED_DTYPES)}")
        source = _typed(entry, "source", dict) if "source" in entry else entry.setdefault("source", {})
        if not all(isinstance(value, str) for value in source.values()):
            raise ValueError(f"{role}: what it says of the source is no text")
    if "generator" in configs and "inverter" in configs:
        try:
            check_fit(configs["generator"], configs["inverter"])
        except UserError as error:
            raise ValueError(str(error)) from None
    if content.get("domain") is not None:
        check_domain(content["domain"])
    extra = content.get("extra") or {}
    for entry in _typed({"extra": extra}, "extra", dict).values():
        if isinstance(entry, dict) and {"file", "sha256"} <= {*entry}:
            _typed(entry, "file", str)
            _checksum(entry)


def _typed(content: Any, key: str, kind: type) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__} where names and values should be")
    if key not in content:
        raise ValueError(f"it lacks {key!r}")
    value = content[key]
    if type(value) is not kind:  # True is an int to Python
        raise ValueError(f"{key!r} in it is a {type(value).__name__}")
    return value


def _checksum(entry: dict[str, Any]) -> None:
    if not re.fullmatch(r"[0-9a-f]{64}", _typed(entry, "sha256", str)):
        raise ValueError("a sha256 in it is none")
