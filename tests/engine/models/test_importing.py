"""Checkpoints become a bundle: each network from the file that is meant, with where it is from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.importing import import_bundle
from faceanon_engine.engine.models.official import OFFICIAL
from faceanon_engine.engine.system.progress import Observer
from tests.golden.stand_ins import write_checkpoint
from tests.support.small_checkpoints import write_encoders


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoint("stylegan2-genforce-64", folder / "gan.pth")
    return [*write_encoders(folder), str(folder / "gan.pth")]


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))


class Notes(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


def test_every_network_says_where_it_is_from(checkpoints: list[str], tmp_path: Path) -> None:
    published = next(file for file in OFFICIAL if file.holds == "identity encoder")
    shutil.copyfile(checkpoints[1], tmp_path / published.name)
    files = [checkpoints[0], str(tmp_path / published.name), *checkpoints[2:]]
    notes = Notes()
    urls = {"gan.pth": "https://example.org/gan", checkpoints[0]: "https://example.org/e4e"}
    bundle = import_bundle(files, "mine", urls=urls, dtype="float16", observer=notes)
    assert bundle.path == tmp_path / "home" / "bundles" / "mine"
    assert bundle.verify() == []
    sources = {role: bundle.networks[role]["source"] for role in ROLES}
    assert {role: (source["url"], source["licence"]) for role, source in sources.items()} == {
        "generator": ("https://example.org/gan", "not stated"),
        "inverter": ("https://example.org/e4e", "not stated"),
        "identity_encoder": (published.addresses[0].url, published.licence),
        "attribute_encoder": ("", "not stated"),
    }
    assert {bundle.networks[role]["dtype"] for role in ROLES} == {"float16"}
    assert notes.said == [f"reading {file}" for file in files]


def test_what_an_encoder_was_taken_for_is_said_and_recorded(checkpoints: list[str], tmp_path: Path) -> None:
    content = torch.load(checkpoints[0], weights_only=True)
    torch.save({**content, "opts": {}}, tmp_path / "e4e.pt")
    notes = Notes()
    bundle = import_bundle([tmp_path / "e4e.pt", *checkpoints[1:]], "mine", observer=notes)
    assert any("e4e.pt: its options do not say" in said for said in notes.said)
    assert "taken for e4e's" in Bundle.open(bundle.path).networks["inverter"]["source"]["remark"]
    assert "remark" not in bundle.networks["generator"]["source"]


def test_a_bundle_is_replaced_only_by_force(checkpoints: list[str]) -> None:
    import_bundle(checkpoints, "mine")
    with pytest.raises(UserError, match="exists in"):
        import_bundle(checkpoints, "mine", licence_note="ours")
    replaced = import_bundle(checkpoints, "mine", licence_note="ours", force=True)
    assert {replaced.networks[role]["source"]["licence"] for role in ROLES} == {"ours"}


@pytest.mark.parametrize("by_name", [True, False])
def test_of_several_files_the_one_named_is_taken(checkpoints: list[str], tmp_path: Path, by_name: bool) -> None:
    other = tmp_path / "other.pth"
    write_checkpoint("stylegan2-genforce-64", other)
    files = [*checkpoints, other]
    with pytest.raises(UserError, match="both hold the generator"):
        import_bundle(files, "mine")
    bundle = import_bundle(files, "mine", roles={"generator": other.name if by_name else other})
    assert bundle.networks["generator"]["source"]["file"] == "other.pth"


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("a/b", {}, "'a/b' cannot name a bundle"),
        ("demo", {}, "'demo' cannot name a bundle"),
        ("x", {"roles": {"generator": "none.pth"}}, "--role 'generator=none.pth': none.pth is not among the files"),
        ("x", {"roles": {"mouth": "gan.pth"}}, "--role mouth: a bundle holds generator, inverter"),
        ("x", {"roles": {"inverter": "gan.pth"}}, "gan.pth: that file holds no inverter"),
        ("x", {"urls": {"none.pth": "https://a/b=c"}}, "--url 'none.pth=https://a/b=c': none.pth is not among"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    checkpoints: list[str], tmp_path: Path, name: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as raised:
        import_bundle(checkpoints, name, **more)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "home" / "bundles").exists()


def test_a_role_that_no_file_holds_is_named(checkpoints: list[str]) -> None:
    encoders, gan = checkpoints[:3], checkpoints[3]
    with pytest.raises(UserError) as raised:
        import_bundle(encoders, "mine", roles={"generator": encoders[0]})
    assert str(raised.value) == f"--role generator={encoders[0]}: none of the files holds a generator"
    with pytest.raises(UserError, match="lacks inverter"):
        import_bundle([*encoders[1:], gan], "mine")


@pytest.mark.parametrize("kind", [str, Path])
def test_one_file_is_no_list_of_its_letters(kind: type[str | Path], checkpoints: list[str]) -> None:
    with pytest.raises(UserError, match=r"files is .*e4e.* alone: give a list"):
        import_bundle(kind(checkpoints[0]), "mine")  # type: ignore[arg-type]
