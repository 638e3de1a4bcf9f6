"""Networks are opened when they are first needed, once, on the device that was named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.opened import OpenedNetworks
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is loaded from now on: role and device."""
    seen: list[tuple[str, str]] = []
    whole = Bundle.load

    def load(self: Bundle, role: str, device: Any = "cpu") -> Any:
        seen.append((role, str(device)))
        return whole(self, role, device)

    monkeypatch.setattr(Bundle, "load", load)
    return seen


@pytest.mark.parametrize("role", ROLES)
def test_a_network_is_loaded_when_it_is_asked_for_and_once(
    bundle: Bundle, loaded: list[tuple[str, str]], role: str
) -> None:
    networks = OpenedNetworks(bundle)
    assert loaded == []
    first = networks.of_role(role)
    assert networks.of_role(role) is first is getattr(networks, role)
    assert loaded == [(role, "cpu")]
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert {value.dtype for value in first.parameters()} == {torch.float32}


def test_networks_are_on_the_device_that_was_named(bundle: Bundle, loaded: list[tuple[str, str]]) -> None:
    networks = OpenedNetworks(bundle, "meta")
    devices = {value.device.type for role in ROLES for value in networks.of_role(role).parameters()}
    assert devices == {"meta"}
    assert loaded == [(role, "meta") for role in ROLES]


def test_a_damaged_file_is_noticed_when_its_network_is_needed_and_again(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    data = bytearray(bundle.file("inverter").read_bytes())
    data[-7] ^= 1
    bundle.file("inverter").write_bytes(data)
    networks = OpenedNetworks(bundle)
    assert networks.of_role("generator") is networks.generator
    for _ in range(2):
        with pytest.raises(UserError, match="is damaged"):
            _ = networks.inverter


def test_opening_loads_no_torch(bundle: Bundle) -> None:
    code = (
        "import sys; from faceanon_engine.engine.models.bundle import Bundle;"
        "from faceanon_engine.engine.models.opened import OpenedNetworks;"
        "OpenedNetworks(Bundle.open(sys.argv[1])); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(bundle.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
