"""A bundle is somebody else's file: what cannot be is refused in one line, before anything is built of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from faceanon_engine.engine.choices import ROLES
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.system.digests import sha256_of
from tests.support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("whole") / "tiny").path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A bundle to be spoiled."""
    return Path(shutil.copytree(whole, tmp_path / "tiny"))


def described(path: Path) -> Any:
    return json.loads((path / "bundle.json").read_text())


def describe(path: Path, content: Any) -> None:
    (path / "bundle.json").write_text(content if isinstance(content, str) else json.dumps(content))


def refusal(path: Path, role: str | None = None, *, check_files: bool = True) -> str:
    """The line that opening the bundle, or loading that network, is refused with."""
    if role is None:
        with pytest.raises(UserError) as caught:
            Bundle.open(path, check_files=check_files)
    else:
        opened = Bundle.open(path, check_files=check_files)
        with pytest.raises(UserError) as caught:
            opened.load(role)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + 2 * len(str(path))
    return message


HUGE: list[Any] = [0, -1, True, False, 10**9, 10**18, 2**64, 10**400, 1.5, "8", None, [], {}, [8], "9" * 10_000]
KEYS = {
    "generator": ("resolution", "z_dim", "w_dim", "channel_base", "channel_max", "mapping_layers"),
    "inverter": ("input_size", "rows", "w_dim", "reduction", "middle_row"),
    "identity_encoder": ("input_size", "reduction", "embedding_dim"),
    "attribute_encoder": ("input_size", "patch", "width", "layers", "heads", "embedding_dim"),
}
NUMBERS = [("generator", "mapping_lr_multiplier"), ("identity_encoder", "dropout")]


@pytest.mark.parametrize(("role", "key"), [(role, key) for role, keys in KEYS.items() for key in keys])
def test_a_size_that_cannot_be_is_refused_when_the_bundle_is_opened(
    role: str, key: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = described(path)
    for value in HUGE:
        if (key, value) == ("middle_row", 0) and value is not False:
            continue  # an inverter without a coarse level is odd, and can be
        content["networks"][role]["config"][key] = value
        describe(path, content)
        assert key in refusal(path), value


@pytest.mark.parametrize(("role", "key"), NUMBERS)
def test_a_number_that_cannot_be_is_refused(role: str, key: str, path: Path) -> None:
    content = described(path)
    for value in (-1, True, 1e30, 10**400, "1", None, []):
        content["networks"][role]["config"][key] = value
        describe(path, content)
        assert key in refusal(path), value


@pytest.mark.parametrize("role", ["inverter", "identity_encoder"])
@pytest.mark.parametrize("key", ["units", "widths"])
@pytest.mark.parametrize(
    "value",
    [[], [1, 1, 1], [1] * 5, [1, 1, 1, 10**9], [1, 1, 1, 0], [1, 1, 1, "1"], [[1]] * 4, [1] * 100_000, 4, "1111"],
)
def test_stages_that_cannot_be_are_refused(role: str, key: str, value: Any, path: Path) -> None:
    content = described(path)
    content["networks"][role]["config"][key] = value
    describe(path, content)
    assert key in refusal(path)


@pytest.mark.parametrize(
    ("role", "change", "word"),
    [
        ("generator", {"resolution": 48}, "power of two"),
        ("generator", {"channel_base": 8}, "channel_base"),
        ("generator", {"w_dim": 24}, "inverter gives"),
        ("inverter", {"rows": 10}, "inverter gives"),
        ("inverter", {"reduction": 9}, "reduction"),
        ("identity_encoder", {"input_size": 24}, "multiple of 16"),
        ("identity_encoder", {"resize": 0}, "resize"),
        ("identity_encoder", {"crop": [0, 8, 8, 8]}, "crop"),
        ("identity_encoder", {"crop": [0, 10**9, 0, 8]}, "crop"),
        ("identity_encoder", {"crop": [0, 8]}, "crop"),
        ("identity_encoder", {"crop": "0808"}, "crop"),
        ("attribute_encoder", {"heads": 3}, "heads"),
        ("attribute_encoder", {"patch": 17}, "patch"),
        ("attribute_encoder", {"std": [0.5, 0, 0.5]}, "std"),
        ("attribute_encoder", {"std": [0.5]}, "std"),
        ("attribute_encoder", {"mean": None}, "mean"),
        ("attribute_encoder", {"mean": [0, 0, "0"]}, "mean"),
        ("generator", {"colour": 3}, "colour"),
        ("generator", {"x" * 10_000: 3}, "unknown"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(role: str, change: dict[str, Any], word: str, path: Path) -> None:
    content = described(path)
    content["networks"][role]["config"] |= change
    describe(path, content)
    assert word in refusal(path)


@pytest.mark.parametrize("role", ROLES)
def test_every_key_has_to_be_there(role: str, path: Path) -> None:
    for key in described(path)["networks"][role]["config"]:
        content = described(path)
        del content["networks"][role]["config"][key]
        describe(path, content)
        assert key in refusal(path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content.update(format=True), "format"),
        (lambda content: content.update(format=10**4000), "format"),
        (lambda content: content.update(name=3), "name"),
        (lambda content: content.update(name=""), "name"),
        (lambda content: content.update(name="x" * 10_000), "name"),
        (lambda content: content.update(networks=[]), "networks"),
        (lambda content: content.update(networks={}), "lacks generator"),
        (lambda content: content.update(extra=[1]), "extra"),
        (lambda content: content.update(extra={"a": {"file": 1, "sha256": "0" * 64}}), "file"),
        (lambda content: content.update(extra={"a": {"file": "a", "sha256": 3}}), "sha256"),
        (lambda content: content["networks"].update(inverter=[]), "inverter"),
        (lambda content: content["networks"].update(more={"config": {}}), "more"),
        (lambda content: content["networks"]["inverter"].pop("file"), "file"),
        (lambda content: content["networks"]["inverter"].update(file=["inverter.safetensors"]), "file"),
        (lambda content: content["networks"]["inverter"].update(sha256=None), "sha256"),
        (lambda content: content["networks"]["inverter"].update(sha256="abc"), "sha256"),
        (lambda content: content["networks"]["inverter"].update(bytes=True), "bytes"),
        (lambda content: content["networks"]["inverter"].update(bytes=-1), "bytes"),
        (lambda content: content["networks"]["inverter"].update(bytes=0), "bytes"),
        (lambda content: content["networks"]["inverter"].update(bytes=1e3), "bytes"),
        (lambda content: content["networks"]["inverter"].update(bytes=2**70), "bytes"),
        (lambda content: content["networks"]["inverter"].update(dtype=["float32"]), "dtype"),
        (lambda content: content["networks"]["inverter"].update(source="here"), "source"),
        (lambda content: content["networks"]["inverter"].update(source={"format": 3}), "source"),
    ],
)
@pytest.mark.parametrize("check_files", [True, False])
def test_a_description_of_other_types_is_refused(change: Any, word: str, check_files: bool, path: Path) -> None:
    content = described(path)
    change(content)
    describe(path, content)
    assert word in refusal(path, check_files=check_files)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "too deep"),
        ('{"a":' * 100_000, "too deep"),
        ('{"format": 1' + "0" * 5000 + "}", "too long"),
        ('{"format": NaN}', "NaN"),
        ('{"format": 1, "name": "x", "networks": {}, "extra": {"a": -Infinity}}', "Infinity"),
        ("null", "NoneType"),
        (" " * (5 << 20), "longer than any"),
    ],
)
def test_json_that_python_stumbles_over_is_refused(text: str, word: str, path: Path) -> None:
    describe(path, text)
    assert word in refusal(path)


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    (path / "bundle.json").write_bytes(b'{"name": "\xff\xfe"}')
    assert "no text" in refusal(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "a\0b", "x" * 300])
def test_a_file_is_named_within_the_bundle(name: str, path: Path) -> None:
    content = described(path)
    content["networks"]["inverter"]["file"] = name
    describe(path, content)
    assert "do not use this bundle" in refusal(path)
    content = described(path)
    content["networks"]["inverter"]["file"] = "inverter.safetensors"
    content["extra"] = {"head": {"file": name, "sha256": "0" * 64}}
    describe(path, content)
    with pytest.raises(UserError, match="do not use this bundle"):
        Bundle.open(path).verify()


@pytest.mark.parametrize("kind", ["link", "links in a circle", "pipe", "folder", "device"])
def test_a_file_is_a_file_of_the_bundle(kind: str, path: Path, tmp_path: Path) -> None:
    file = path / "inverter.safetensors"
    if kind == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.unlink()
        if kind == "pipe":
            os.mkfifo(file)
        elif kind == "folder":
            file.mkdir()
        else:
            file.symlink_to("/dev/zero" if kind == "device" else file.name)
    for check_files in (True, False):
        assert "do not use this bundle" in refusal(path, check_files=check_files)


def test_a_link_within_the_bundle_is_followed(path: Path) -> None:
    (path / "inverter.safetensors").rename(path / "real")
    (path / "inverter.safetensors").symlink_to("real")
    assert Bundle.open(path).load("inverter") is not None


def restored(path: Path, role: str, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes a network's weights, and the record of them as somebody would who means it."""
    file = path / f"{role}.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    record(path, role)


def record(path: Path, role: str) -> None:
    file, content = path / f"{role}.safetensors", described(path)
    content["networks"][role] |= {"sha256": sha256_of(file), "bytes": file.stat().st_size}
    describe(path, content)


def _set(key: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda state: state[key].view(-1)[-1:].fill_(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("role", "key"),
    [
        ("generator", "const"),
        ("generator", "layers.0.noise_strength"),
        ("inverter", "latent_avg"),
        ("identity_encoder", "body.0.res_layer.0.running_mean"),
        ("attribute_encoder", "proj"),
    ],
)
def test_a_weight_that_is_no_number_is_named(role: str, key: str, value: float, path: Path) -> None:
    restored(path, role, _set(key, value))
    assert f"{key} holds values that are no finite numbers" in refusal(path, role)


def test_a_variance_below_zero_is_named(path: Path) -> None:
    restored(path, "inverter", _set("input_layer.1.running_var", -1))
    assert "variances below zero" in refusal(path, "inverter")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.pop("proj"), "lacks proj"),
        (lambda state: state.update(more=torch.ones(3)), "none of its own"),
        (lambda state: state.update(proj=torch.ones(3)), "proj has shape"),
        (lambda state: state.update(proj=state["proj"].T.contiguous().view(2, -1)), "proj has shape"),
        (lambda state: state.update(proj=torch.ones(0)), "proj has shape"),
        (lambda state: state.update(proj=state["proj"].int()), "proj is of type I32"),
        (lambda state: state.update(proj=state["proj"].bool()), "proj is of type BOOL"),
        (lambda state: state.clear(), "lacks"),
    ],
)
def test_weights_are_those_of_the_configuration(change: Any, word: str, path: Path) -> None:
    restored(path, "attribute_encoder", change)
    assert word in refusal(path, "attribute_encoder")


def _with_header(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "data",
    [
        b"1234567",
        _with_header(b"{}", 2**63),
        _with_header(b"{}", 2**31),
        _with_header(b"{}", 0),
        _with_header(b"{}"),
        _with_header(b"["),
        _with_header(b"[" * 200_000),
        _with_header(b'{"proj":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}') + bytes(4),
        _with_header(b'{"proj":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,0]}}'),
        _with_header(b'{"proj":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}') + bytes(4),
        _with_header(b'{"proj":{"dtype":"F32","shape":[1],"data_offsets":[0,400000000]}}') + bytes(4),
        _with_header(b'{"proj":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}') + bytes(4),
        _with_header(b'{"proj":{"dtype":"X","shape":[1],"data_offsets":[0,4]}}') + bytes(4),
        _with_header(b'{"proj":3}'),
        _with_header(b" " * (5 << 20)),
    ],
)
def test_a_list_of_tensors_that_lies_is_refused(data: bytes, path: Path) -> None:
    (path / "attribute_encoder.safetensors").write_bytes(data)
    record(path, "attribute_encoder")
    refusal(path, "attribute_encoder")


def _places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(further for key, item in items for further in _places(item, (*place, key)))]


def _used(path: Path) -> None:
    """What the program does with a bundle, from a file that is not ours: it works, or is refused in one line."""
    try:
        bundle = Bundle.open(path)
        assert bundle.resolution > 0
        assert len(bundle.digest) == 64
        assert [str(entry["source"]) for entry in bundle.networks.values()]
        bundle.verify()
        for role in ROLES:
            bundle.load(role)
    except UserError as error:
        said = str(error)
    else:
        return
    assert "\n" not in said
    assert len(said) < 1000


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 16, 2**31, 2**63, 10**30, 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-1, 99), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_description_works_or_is_refused(data: st.DataObject, path: Path, whole: Path) -> None:
    content = described(whole)
    place = data.draw(st.sampled_from(_places(content)[1:]))
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    if isinstance(holder, dict) and data.draw(st.integers(0, 4)) == 0:
        del holder[place[-1]]
    else:
        holder[place[-1]] = data.draw(ODD)
    describe(path, content)
    _used(path)


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_bytes_of_a_description_or_of_weights_work_or_are_refused(
    data: st.DataObject, path: Path, whole: Path
) -> None:
    name = data.draw(st.sampled_from(["bundle.json", "attribute_encoder.safetensors"]))
    content = bytearray((whole / name).read_bytes())
    first = data.draw(st.integers(0, min(len(content), 4000) - 1))
    content[first : first + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    shutil.copyfile(whole / "bundle.json", path / "bundle.json")
    (path / name).write_bytes(content)
    if name != "bundle.json":
        record(path, "attribute_encoder")
    _used(path)
    shutil.copyfile(whole / name, path / name)
