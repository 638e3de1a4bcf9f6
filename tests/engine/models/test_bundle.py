"""A bundle is whole, says what it is, and notices damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models import bundle as bundle_module
from faceanon_engine.engine.models.bundle import Bundle, demo_path
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "tiny")


@pytest.mark.parametrize("role", ROLES)
def test_a_network_comes_back_with_its_weights_frozen(bundle: Bundle, role: str) -> None:
    first, second = bundle.load(role), Bundle.open(bundle.path).load(role)
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert sum(value.abs().sum() for value in first.state_dict().values() if value.is_floating_point()) > 0


@pytest.mark.parametrize("role", ROLES)
def test_a_flipped_byte_is_detected(bundle: Bundle, role: str) -> None:
    assert bundle.verify() == []
    data = bytearray(bundle.file(role).read_bytes())
    data[-7] ^= 1
    bundle.file(role).write_bytes(data)
    (problem,) = Bundle.open(bundle.path).verify()
    assert str(bundle.file(role)) in problem


def test_a_truncated_or_missing_file_is_refused(bundle: Bundle) -> None:
    file = bundle.file("inverter")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="inverter"):
        Bundle.open(bundle.path)
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        Bundle.open(bundle.path)


def test_a_file_of_another_shape_is_refused_by_name(bundle: Bundle) -> None:
    content = json.loads((bundle.path / "bundle.json").read_text())
    content["networks"]["generator"]["config"]["w_dim"] = 24
    (bundle.path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="generator"):
        Bundle.open(bundle.path).load("generator")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1}', '{"format": 99, "name": "x", "networks": {}}'])
def test_a_damaged_description_is_one_line(bundle: Bundle, text: str) -> None:
    (bundle.path / "bundle.json").write_text(text)
    with pytest.raises(UserError) as caught:
        Bundle.open(bundle.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", [None, [], {}, {"resolution": "x"}, {"resolution": None}])
def test_a_generator_without_a_shape_is_one_line(bundle: Bundle, config: object) -> None:
    content = json.loads((bundle.path / "bundle.json").read_text())
    content["networks"]["generator"]["config"] = config
    (bundle.path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="cannot be read"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    ("role", "change"),
    [("generator", {"w_dim": 0}), ("inverter", {"widths": []}), ("identity_encoder", {"reduction": 0})],
)
def test_a_shape_that_no_network_has_is_one_line(bundle: Bundle, role: str, change: dict[str, object]) -> None:
    content = json.loads((bundle.path / "bundle.json").read_text())
    content["networks"][role]["config"] |= change
    (bundle.path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{role}: {next(iter(change))}"):
        Bundle.open(bundle.path)


def test_a_file_name_that_leads_out_is_refused(bundle: Bundle) -> None:
    bundle.networks["generator"]["file"] = "../generator.safetensors"
    with pytest.raises(UserError, match="leads out"):
        bundle.file("generator")


def test_which_bundle_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path))
    monkeypatch.setattr(bundle_module, "demo_path", lambda: write_tiny_bundle(tmp_path / "built-in").path)
    assert Bundle.open(None).name == "built-in"
    write_tiny_bundle(tmp_path / "bundles" / "mine")
    assert Bundle.open(None).name == "mine"
    assert Bundle.open("demo").name == "built-in"
    write_tiny_bundle(tmp_path / "bundles" / "other")
    assert Bundle.open("other").name == "other"
    with pytest.raises(UserError, match="mine, other"):
        Bundle.open(None)
    with pytest.raises(UserError, match="no bundle 'nothing'"):
        Bundle.open("nothing")


def test_the_bundle_that_comes_along_is_as_recorded() -> None:
    bundle = Bundle.open(demo_path())
    assert bundle.verify() == []
    assert bundle.load("generator").config.rows == bundle.load("inverter").config.rows
