"""A bundle is written whole or not at all, and what cannot be one is refused before anything is written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models import write
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.write import NetworkToWrite, write_bundle
from faceanon_engine.engine.networks.build import NETWORKS, build
from faceanon_engine.engine.system.digests import sha256_of
from tests.support.tiny_bundle import CONFIGS, write_tiny_bundle


@pytest.fixture(scope="module")
def networks() -> list[NetworkToWrite]:
    torch.manual_seed(3)
    return [
        NetworkToWrite(
            role, NETWORKS[role][0](**config), build(role, config).state_dict(), {"file": f"{role}.pth", "url": ""}
        )
        for role, config in CONFIGS.items()
    ]


def test_a_bundle_holds_what_it_was_given(networks: list[NetworkToWrite], tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "deep" / "b", "mine", networks, description="of a test", extra={"seed": 3})
    assert bundle.path == tmp_path / "deep" / "b"
    assert bundle.verify() == []
    assert bundle.content == Bundle.open(bundle.path).content
    about = {key: bundle.content[key] for key in ("format", "name", "description", "extra")}
    assert about == {"format": 1, "name": "mine", "description": "of a test", "extra": {"seed": 3}}
    for network in networks:
        assert bundle.networks[network.role]["source"] == network.source
        stored = bundle.load(network.role).state_dict()
        for key, value in network.state_dict.items():
            if value.is_floating_point() and key in stored:
                assert torch.equal(stored[key], value), key


def test_the_digest_is_of_the_content_and_not_of_the_name(tmp_path: Path) -> None:
    assert write_tiny_bundle(tmp_path / "one").digest == write_tiny_bundle(tmp_path / "two").digest


def test_weights_are_stored_in_the_type_asked_for(networks: list[NetworkToWrite], tmp_path: Path) -> None:
    whole = write_bundle(tmp_path / "whole", "b", networks)
    half = write_bundle(tmp_path / "half", "b", networks, dtype="float16")
    for role in ROLES:
        assert half.networks[role]["dtype"] == "float16"
        assert half.networks[role]["bytes"] < 0.7 * whole.networks[role]["bytes"]
        assert {value.dtype for value in half.load(role).parameters()} == {torch.float32}
    assert half.digest != whole.digest


def test_further_files_are_copied_and_verified(networks: list[NetworkToWrite], tmp_path: Path) -> None:
    (tmp_path / "card.txt").write_text("what it was trained on")
    bundle = write_bundle(tmp_path / "b", "b", networks, extra_files={"notes": tmp_path / "card.txt"})
    checksum = sha256_of(tmp_path / "card.txt")
    assert bundle.content["extra"] == {"notes": {"file": "notes.txt", "sha256": checksum}}
    assert bundle.verify() == []
    (bundle.path / "notes.txt").write_text("something else")
    (problem,) = bundle.verify()
    assert "notes.txt" in problem


def test_a_bundle_that_is_there_is_replaced_as_a_whole(networks: list[NetworkToWrite], tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "b", "first", networks)
    (first.path / "left.txt").touch()
    assert write_bundle(tmp_path / "b", "second", networks).name == "second"
    assert sorted(os.listdir(tmp_path / "b")) == sorted(["bundle.json", *(f"{role}.safetensors" for role in ROLES)])
    assert os.listdir(tmp_path) == ["b"]


def test_an_empty_folder_is_taken_and_anything_else_is_left_alone(
    networks: list[NetworkToWrite], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert write_bundle(tmp_path / "empty", "b", networks).verify() == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("mine", "file"):
        with pytest.raises(UserError, match="is there and is no bundle: move it away"):
            write_bundle(tmp_path / name, "b", networks)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "a file"


def _with_rows(inverter: NetworkToWrite, rows: int) -> NetworkToWrite:
    return replace(inverter, config=replace(inverter.config, rows=rows))


Change = Callable[[list[NetworkToWrite]], list[NetworkToWrite]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda networks: networks[:2], "bundle 'b' lacks identity_encoder, attribute_encoder: give a checkpoint"),
        (lambda networks: [*networks, networks[1]], "inverter is given twice: leave one of the files out"),
        (lambda networks: [*networks, replace(networks[0], role="mouth")], "unknown network 'mouth': a bundle holds"),
        (
            lambda networks: [networks[0], _with_rows(networks[1], 10), *networks[2:]],
            "the inverter gives 10 rows of 16, the generator takes 8 of 16",
        ),
    ],
)
def test_networks_that_make_no_bundle_are_refused(
    networks: list[NetworkToWrite], tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(UserError) as refused:
        write_bundle(tmp_path / "deep" / "b", "b", change(networks))
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_of_weights_is_refused(networks: list[NetworkToWrite], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown dtype 'float64': use one of float32, float16"):
        write_bundle(tmp_path / "b", "b", networks, dtype="float64")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_the_type_cannot_hold_are_refused_and_what_was_there_stays(
    networks: list[NetworkToWrite], tmp_path: Path
) -> None:
    before = write_bundle(tmp_path / "b", "before", networks)
    key, value = next((key, value) for key, value in networks[2].state_dict.items() if value.is_floating_point())
    large = replace(networks[2], state_dict=networks[2].state_dict | {key: torch.full_like(value, 1e6)})
    changed = [*networks[:2], large, networks[3]]
    with pytest.raises(UserError) as refused:
        write_bundle(tmp_path / "b", "b", changed, dtype="float16")
    assert str(refused.value) == f"identity_encoder: {key} is not finite as float16: store it as float32"
    assert os.listdir(tmp_path) == ["b"]
    assert Bundle.open(before.path).name == "before"
    assert before.verify() == []
    assert write_bundle(tmp_path / "b", "after", changed).name == "after"


def test_a_disk_that_fills_up_leaves_what_was_there(
    networks: list[NetworkToWrite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write_bundle(tmp_path / "b", "before", networks)
    (tmp_path / "card.txt").touch()

    def full(source: Path, target: Path) -> None:
        target.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError) as refused:
        write_bundle(tmp_path / "b", "b", networks, extra_files={"notes": tmp_path / "card.txt"})
    assert str(refused.value) == (
        f"bundle {tmp_path / 'b'} cannot be written (No space left on device): free space, check rights"
    )
    assert sorted(os.listdir(tmp_path)) == ["b", "card.txt"]
    assert Bundle.open(tmp_path / "b").name == "before"
    assert before.verify() == []


def test_a_bundle_has_its_name_only_when_it_is_whole(
    networks: list[NetworkToWrite], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "bundles" / "b", []
    whole = write.sha256_of

    def digest(file: Path) -> str:
        seen.append((file.name, path.exists(), (file.parent / "bundle.json").exists()))
        return whole(file)

    monkeypatch.setattr(write, "sha256_of", digest)
    write_bundle(path, "b", networks)
    assert seen == [(f"{role}.safetensors", False, False) for role in ROLES]
    assert os.listdir(path.parent) == ["b"]
