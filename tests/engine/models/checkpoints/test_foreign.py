"""What is taken for a checkpoint and is none is named for what it is, with what to do, whatever its name."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
from tests.golden.stand_ins import write_nvidia_pickle
from tests.support.small_checkpoints import e4e_content, encoder_state, nvidia_state

SUFFIXES = (".pt", ".pth", ".pkl", ".safetensors", "")


def saved(content: Any, new: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=new)
    return stream.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


def tar(names: list[str], layout: int = tarfile.GNU_FORMAT, mode: str = "w:") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=layout) as archive:  # type: ignore[call-overload]
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            content = b"" if name.endswith("/") else b"x" * 700
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zipped(records: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return stream.getvalue()


def array(value: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value)
    return stream.getvalue()


FALCO = ["e4e/", "e4e/shape_predictor_68_face_landmarks.dat", "e4e/e4e_ffhq_encode.pt", "e4e/model_ir_se50.pth"]
PAGE = "<!DOCTYPE html><html><head><title>Drive - Quota exceeded</title></head><body>made up</body></html>"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 381624121\n"
ARCHIVE = zipped({"files/a.txt": b"", "files/ffhq.pkl": b"1" * 99, "files/e4e.pt": b""})

FOREIGN: dict[str, tuple[bytes, list[str]]] = {
    "page": (PAGE.encode(), ["a web page ('Drive - Quota exceeded')", "download"]),
    "page without a title": (b"\n\n  <HTML lang=en><body>sign in", ["a web page", "browser"]),
    "page after a mark": (b"\xef\xbb\xbf" + PAGE.encode(), ["a web page", "browser"]),
    "page in UTF-16": (PAGE.encode("utf-16"), ["a web page ('Drive", "browser"]),
    "page in Latin-1": ("<html><title>Zugriff verweigert für</title>".encode("latin-1"), ["a web page", "browser"]),
    "page cut within a letter": (("<html>" + "x" * 4089 + "é").encode(), ["a web page", "browser"]),
    "page with a comment first": (b"<!-- saved --><html><head></head>", ["a web page", "browser"]),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', ["XML", "download"]),
    "JSON": (b'{"error": "not found"}', ["JSON", "download"]),
    "text": (b"Entry not found", ["a text, beginning 'Entry not found'", "download"]),
    "blanks": (b" \n", ["blanks", "download it again"]),
    "pointer of LFS": (POINTER.encode(), ["a pointer of Git LFS to a file of 381624121 bytes", "git lfs pull"]),
    "pointer of annex": (b"/annex/objects/SHA256E-s3--abc.pt\n", ["git-annex", "git annex get"]),
    "zeros": (bytes(9000), ["zeros", "download it again"]),
    "tar": (tar(FALCO), ["a tar archive with e4e/e4e_ffhq_encode.pt, e4e/model_ir_se50.pth", "unpack it first"]),
    "tar of POSIX": (tar(FALCO, tarfile.PAX_FORMAT), ["a tar archive with e4e/e4e_ffhq", "unpack it first"]),
    "tar of many": (tar([f"{n}.pt" for n in range(9)]), ["with 0.pt, 1.pt, 2.pt and 6 more", "unpack it first"]),
    "tar with a long name": (tar(["x" * 300 + "\x1b.pt"]), ["a tar archive", "unpack it first"]),
    "tar cut off": (tar(FALCO)[:900], ["a tar archive", "unpack it first"]),
    "tar of gzip": (tar(FALCO, mode="w:gz"), ["gzip", "unpack it first"]),
    "gzip": (gzip.compress(saved({})), ["gzip", "unpack it first"]),
    "bzip2": (bz2.compress(b"x"), ["bzip2", "unpack it first"]),
    "xz": (lzma.compress(b"x"), ["xz", "unpack it first"]),
    "zip of checkpoints": (ARCHIVE, ["a zip archive with files/ffhq.pkl, files/e4e.pt", "unpack it first"]),
    "zip of an unpacked one": (
        zipped({"a/b/data.pkl": b"", "a/b/data/0": b""}),
        ["an unpacked checkpoint", "download"],
    ),
    "arrays": (zipped({"a.npy": b"", "b.npy": b""}, zipfile.ZIP_STORED), ["NumPy's arrays", "PyTorch checkpoints"]),
    "array": (array(np.ones(3)), ["NumPy", "PyTorch checkpoints"]),
    "ONNX": (b"\x08\x0a\x12\x07pytorch\x1a\x062.13.0:\x8c\xaf\x0d", ["an ONNX graph", "PyTorch checkpoints"]),
    "ONNX without a producer": (b"\x08\x08:\x8c\xaf\x0d\n\x10", ["an ONNX graph", "PyTorch checkpoints"]),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), ["HDF5", "PyTorch checkpoints"]),
    "image": (b"\xff\xd8\xff\xe0" + bytes(99), ["a JPEG image", "give a checkpoint"]),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_file_is_named_with_what_to_do(kind: str, tmp_path: Path) -> None:
    content, words = FOREIGN[kind]
    for suffix in SUFFIXES:
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        message = refusal(path)
        assert "is not a readable checkpoint but" in message
        assert all(word in message for word in words), message
        assert "weights_only" not in message


def _nvidia(path: Path) -> None:
    write_nvidia_pickle(nvidia_state(), path)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(saved(e4e_content())),
        lambda path: path.write_bytes(saved(encoder_state("identity_encoder"), new=False)),
        lambda path: path.write_bytes(save(encoder_state("identity_encoder"))),
        _nvidia,
    ],
)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_what_is_cut_off_is_to_be_downloaded_again(write: Callable[[Path], Any], share: float, tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    message = refusal(path)
    assert "cut off or damaged" in message
    assert "download it again" in message


def _pickle(module: str, name: str, protocol: bytes = b"\x80\x03") -> bytes:
    """An object of a class, as it is pickled."""
    return protocol + f"c{module}\n{name}\n".encode() + b")\x81}X\x07\0\0\0versionK\x04sb."


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dnnlib.tflib.network", "Network"),
        ("tfutil", "Network"),
        ("keras.engine.sequential", "Sequential"),
        ("tensorflow.python.framework.ops", "Tensor"),
    ],
)
def test_a_tensorflow_pickle_is_named_with_the_file_to_take(module: str, name: str, tmp_path: Path) -> None:
    network = _pickle(module, name)
    for content in (
        network,
        b"\x80\x03" + network[2:-1] * 3 + b"\x87.",
        b"\x80\x03}X\x01\0\0\0G" + network[2:-1] + b"s.",
    ):
        (tmp_path / "ffhq.pkl").write_bytes(content)
        message = refusal(tmp_path / "ffhq.pkl")
        assert f"a TensorFlow pickle (it asks for {module}.{name})" in message
        assert "stylegan2-ffhq-1024x1024.pkl" in message


def test_a_whole_model_is_named_with_what_to_save(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), tmp_path / "file.pt")
    message = refusal(tmp_path / "file.pt")
    assert "a whole model" in message
    assert "state_dict" in message


def test_safetensors_are_read_whatever_their_name_and_so_is_torch_s_under_theirs(tmp_path: Path) -> None:
    state = {
        key: value.half() if value.ndim == 4 else value for key, value in encoder_state("identity_encoder").items()
    }
    networks = []
    for name, content in (("file.pt", save(state)), ("file.safetensors", saved(state))):
        (tmp_path / name).write_bytes(content)
        (network,) = read_checkpoint(tmp_path / name)
        assert (network.role, network.source_format) == ("identity_encoder", "arcface")
        networks.append(network.state_dict)
    for key, value in networks[0].items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, networks[1][key])
        if key in state:
            assert torch.equal(value, state[key].to(value.dtype))


def test_e4e_saved_as_safetensors_is_read_and_said_to_be_taken_for_it(tmp_path: Path) -> None:
    content = e4e_content()
    (tmp_path / "e4e.safetensors").write_bytes(save({**content["state_dict"], "latent_avg": content["latent_avg"]}))
    (network,) = read_checkpoint(tmp_path / "e4e.safetensors")
    assert (network.role, network.source_format) == ("inverter", "e4e")
    assert "taken for e4e's" in network.remark


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**ENTRY, "shape": [2]}},
        {"a": {**ENTRY, "shape": [-1]}},
        {"a": {**ENTRY, "shape": [2**50, 2**50]}},
        {"a": {**ENTRY, "shape": "1"}},
        {"a": {**ENTRY, "shape": [1] * 40}},
        {"a": {**ENTRY, "dtype": "F8"}},
        {"a": {**ENTRY, "dtype": None}},
        {"a": {**ENTRY, "data_offsets": [4, 0]}},
        {"a": {**ENTRY, "data_offsets": [0, 3]}},
        {"a": {**ENTRY, "data_offsets": [-4, 0]}},
        {"a": {**ENTRY, "data_offsets": [0, 2**62]}},
        {"a": {**ENTRY, "data_offsets": [0.0, 4.0]}},
        {"a": {**ENTRY, "data_offsets": [0]}},
        {"a": {**ENTRY, "shape": [0], "data_offsets": [0, 0]}},
        {str(n): ENTRY for n in range(100)},
        {"a": 3},
    ],
)
def test_safetensors_that_lie_are_refused(header: Any, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    refusal(tmp_path / "file")


@pytest.mark.parametrize("text", [b"{" * 200_000, b"{]", b"{}" + b" " * (5 << 20), b'{"a": ' + b"9" * 5000 + b"}"])
def test_a_header_of_safetensors_that_is_none_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text)
    refusal(tmp_path / "file")


def test_numpys_values_beside_weights_are_no_attack(tmp_path: Path) -> None:
    import datetime
    from collections import defaultdict

    counts: defaultdict[str, int] = defaultdict(int)
    counts["a"] = 3
    beside = {
        "array": np.arange(6.0).reshape(2, 3),
        "empty": np.zeros((0, 3)),
        "objects": np.array([None, "a", 3], dtype=object),
        "texts": np.array(["a", "bc"]),
        "structure": np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
        "numbers": [np.float64(3), np.float32(1), np.int64(2), np.bool_(True), np.complex64(1j)],
        "text": np.str_("abc"),
        "bytes": np.bytes_(b"abc"),
        "date": np.datetime64("2020-01-01"),
        "type": np.float32,
        "dtype": np.dtype("f8"),
        "random": np.random.RandomState(3),
        "generator": np.random.default_rng(3),
        "state": np.random.get_state(),
        "path": Path("a/b"),
        "when": datetime.datetime(2020, 1, 1),
        "counts": counts,
        "kinds": {int: float},
        "range": range(3),
        "namespace": types.SimpleNamespace(a=np.float64(2)),
    }
    content = {**e4e_content(lr=np.float64(1e-4)), "optimizer": {"state": beside}}
    for new in (True, False):
        for protocol in (2, 4, 5):
            torch.save(content, tmp_path / "file", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
            if not new and protocol != 2:
                continue  # no Torch wrote these unasked
            (network,) = read_checkpoint(tmp_path / "file")
            assert network.role == "inverter"


def test_numpys_text_tells_the_encoder_as_pythons_does(tmp_path: Path) -> None:
    for protocol in (2, 4):
        torch.save(
            e4e_content(encoder_type=np.str_("GradualStyleEncoder")), tmp_path / "file", pickle_protocol=protocol
        )
        assert "a pSp encoder" in refusal(tmp_path / "file")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_an_attack_within_an_array_is_still_refused(protocol: int, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "proof",)

    content = {"G_ema": np.array([Attack()], dtype=object)}
    (tmp_path / "file").write_bytes(pickle.dumps(content, protocol=protocol))
    assert "refused" in refusal(tmp_path / "file")
    assert not (tmp_path / "proof").exists()
