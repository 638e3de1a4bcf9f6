"""Checkpoints are known by what they hold, nothing in them runs, and what is wrong is said in one line."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.plain_pickle import Steps, Stream, read_pickle
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.networks.e4e import Inverter, InverterConfig
from tests.golden.stand_ins import state_dict, write_checkpoint, write_nvidia_pickle


class Attack:
    """Makes a file when it is unpickled by somebody who runs what a pickle asks for."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize(
    ("name", "role", "source"),
    [
        ("stylegan2-genforce-64", "generator", "genforce"),
        ("stylegan2-rosinality-32", "generator", "rosinality"),
        ("stylegan2-nvidia-64", "generator", "nvidia"),
    ],
)
def test_the_format_is_known_by_the_content_whatever_the_name(
    name: str, role: str, source: str, tmp_path: Path
) -> None:
    path = tmp_path / "holiday.jpg"
    write_checkpoint(name, path)
    (network,) = read_checkpoint(path)
    assert (network.role, network.source_format) == (role, source)
    build(network.role, network.config).load_state_dict(network.state_dict)


def test_e4es_file_gives_an_inverter_with_its_average_and_a_generator(tmp_path: Path) -> None:
    config = InverterConfig(input_size=32, rows=8, w_dim=64, units=(1, 1, 1, 1), widths=(8, 12, 16, 20), reduction=4)
    encoder = {f"encoder.{k}": v for k, v in Inverter(config).state_dict().items() if k != "latent_avg"}
    decoder = {f"decoder.{k}": v for k, v in state_dict("stylegan2-rosinality-32").items()}
    average = torch.randn(8, 64)
    path = tmp_path / "e4e.pt"
    opts = argparse.Namespace(device="cuda:0", stylegan_size=32)
    torch.save({"state_dict": {**encoder, **decoder}, "latent_avg": average, "opts": opts}, path)
    inverter, generator = read_checkpoint(path)
    assert inverter.config == config
    assert torch.equal(inverter.state_dict["latent_avg"], average)
    assert (generator.role, generator.config.resolution) == ("generator", 32)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"g_ema": x}, lambda x: {"G_ema": x}])
@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle", "nvidia"])
def test_nothing_in_a_checkpoint_runs(writer: str, wrap: Any, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "model.pth"
    content = wrap(Attack(proof))
    if writer == "zip":
        torch.save(content, path)
    elif writer == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if writer == "pickle" else 4))
    with pytest.raises(UserError, match="system") as caught:
        read_checkpoint(path)
    assert not proof.exists()
    assert "\n" not in str(caught.value)


def test_an_attack_inside_a_tensors_bytes_does_not_run(tmp_path: Path) -> None:
    import io

    proof, path = tmp_path / "proof", tmp_path / "model.pkl"
    inner = io.BytesIO()
    torch.save(Attack(proof), inner)
    # An opcode stream that calls torch.storage._load_from_bytes on them, as NVIDIA's tensors do.
    stream = b"\x80\x04ctorch.storage\n_load_from_bytes\nB" + len(inner.getvalue()).to_bytes(4, "little")
    path.write_bytes(stream + inner.getvalue() + b"\x85R.")
    with pytest.raises(UserError):
        read_checkpoint(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0 a photo", "not a readable checkpoint"),
        (b"PK\x03\x04 broken", "not a readable checkpoint"),
        (b"\x80\x04}.", "G_ema"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(content: bytes, word: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=word) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    write_checkpoint("stylegan2-genforce-64", path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"file\.pth"):
        read_checkpoint(path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    state = state_dict("stylegan2-genforce-64")
    del state["synthesis.layer3.style.bias"]
    torch.save({"generator_smooth": state}, path)
    with pytest.raises(UserError, match=r"layer3\.style\.bias"):
        read_checkpoint(path)


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(OrderedDict({"fc.weight": torch.zeros(3, 3)}), path)
    with pytest.raises(UserError, match="none of the known networks"):
        read_checkpoint(path)


def test_a_torchscript_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/constants.pkl", b"")
    with pytest.raises(UserError, match="state dict"):
        read_checkpoint(path)


class Shout:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run!",)


@pytest.mark.parametrize("old", [False, True])
def test_a_builtin_that_a_checkpoint_asks_for_is_named_and_not_run(
    tmp_path: Path, old: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": Shout()}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError, match=r"asks for print, .* refused"):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a photo", b"<html>sign in</html>"])
def test_nobody_is_told_to_load_a_file_unchecked(tmp_path: Path, content: bytes) -> None:
    """As Torch's own message does."""
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize(
    "value", [np.float64(0.0441), np.float32(-2), np.int64(7), np.dtype(">f8").type(3), np.bool_(1)]
)
def test_numbers_of_any_numpy_are_read_from_nvidias_pickles(module: bytes, value: Any) -> None:
    """The releases were written by NumPy 1, which called the module otherwise."""
    stored = pickle.dumps(value, protocol=3)
    stored = stored.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module)
    loaded = read_pickle(Stream(stored, Steps()), {})
    assert loaded == value
    assert type(loaded) in (float, int, bool)


@pytest.mark.parametrize(
    "stored",
    [
        b"\x80\x03cnumpy\ndtype\nX\x01\0\0\0O\x85R.",
        b"\x80\x03cnumpy\ndtype\nX\x05\0\0\0f8,O4\x85R.",
        b"\x80\x03cnumpy.core.multiarray\nscalar\nNC\x01a\x86R.",
        b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x85RN\x86R.",
        b"\x80\x03cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8\x85RC\x01a\x86R.",
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n.",
    ],
)
def test_other_things_of_numpys_are_refused(stored: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(stored)
    with pytest.raises(UserError, match=r"model\.pkl"):
        read_checkpoint(tmp_path / "model.pkl")


def test_a_generator_of_classes_is_refused_by_that_name(tmp_path: Path) -> None:
    """The label widens the mapping's first layer, which would be taken for a longer z."""
    path = tmp_path / "cifar10.pkl"
    write_nvidia_pickle(state_dict("stylegan2-nvidia-64") | {"mapping.embed.weight": torch.zeros(64, 10)}, path)
    with pytest.raises(UserError, match="classes"):
        read_checkpoint(path)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_state_dict_in_a_plain_pickle_is_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "file.pkl"
    state = state_dict("stylegan2-genforce-64")
    for content in (state, {"generator_smooth": state, "iter": np.int64(3)}):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        (network,) = read_checkpoint(path)
        assert (network.role, network.source_format) == ("generator", "genforce")
        assert torch.equal(network.state_dict["const"], state["synthesis.early_layer.const"])
