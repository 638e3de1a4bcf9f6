"""What a checkpoint says of itself is checked against the bytes that it has, before anything is made of it."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
from tests.golden.stand_ins import state_dict, write_checkpoint, write_nvidia_pickle
from tests.support.small_checkpoints import write_encoders

FORMATS = ("zip", "legacy", "nvidia")


class Claimed:
    """A tensor of which a checkpoint says what it likes; `values` are what is stored."""

    def __init__(self, values: torch.Tensor, size: Any, stride: Any, offset: Any = 0) -> None:
        self.values, self.geometry = values, (offset, size, stride)

    def __reduce__(self) -> Any:
        arguments: Any = self.storage(), *self.geometry, False, OrderedDict()
        return torch._utils._rebuild_tensor_v2, arguments

    def storage(self) -> Any:
        untyped = self.values.untyped_storage()
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=self.values.dtype, _internal=True)


class ClaimedByNvidia(Claimed):
    def storage(self) -> Any:
        return _AsBytes(super().storage())


class _AsBytes:
    def __init__(self, storage: Any) -> None:
        self.stream = io.BytesIO()
        torch.save(storage, self.stream, _use_new_zipfile_serialization=False)

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.stream.getvalue(),)


def write(path: Path, layout: str, tensors: dict[Any, Claimed], modules: Any = None) -> None:
    """A file of that layout with these tensors in its state dict."""
    if layout == "nvidia":
        claimed = {
            key: ClaimedByNvidia(value.values, *value.geometry[1:], value.geometry[0]) for key, value in tensors.items()
        }
        path.write_bytes(pickle.dumps({"G_ema": {"_parameters": claimed, "_modules": modules or {}}}))
    else:
        torch.save({"g_ema": tensors}, path, _use_new_zipfile_serialization=layout == "zip")


def wrapped(layout: str, pickled: bytes) -> bytes:
    """A file of that layout around a pickle."""
    if layout == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("x/data.pkl", pickled)
        return file.getvalue()
    if layout == "legacy":
        parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        return b"".join(pickle.dumps(part, protocol=2) for part in parts) + pickled
    return pickled


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((64, 64), (64, 1), 0),
        ((5,), (1,), 0),
        ((2, 2), (1, 3), 0),
        ((4,), (1,), 1),
        ((1,), (1,), 4),
        ((1,), (1,), 2**62),
        ((), (), 4),
        ((1000,), (0,), 0),
        ((2, 2, 2), (1, 0, 1), 0),
        ((2**32, 2**32), (1, 1), 0),
        ((2**62, 2), (0, 1), 0),
        ((2**200,), (1,), 0),
        ((2,), (2**63,), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 1),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        (("2",), (1,), 0),
        (None, (1,), 0),
        ((1,) * 40, (1,) * 40, 0),
    ],
)
def test_a_tensor_is_no_longer_than_what_is_stored(
    layout: str, size: Any, stride: Any, offset: Any, tmp_path: Path
) -> None:
    write(tmp_path / "file", layout, {"input.input": Claimed(torch.ones(4), size, stride, offset)})
    assert "a tensor" in refusal(tmp_path / "file")


@pytest.mark.parametrize("layout", FORMATS)
def test_a_tensor_without_values_is_refused_by_name(layout: str, tmp_path: Path) -> None:
    write(tmp_path / "file", layout, {"input.input": Claimed(torch.ones(4), (0, 512), (512, 1))})
    assert "input.input is empty" in refusal(tmp_path / "file")


@pytest.mark.parametrize("layout", FORMATS)
def test_many_names_of_one_tensor_are_no_more_memory_than_the_file(layout: str, tmp_path: Path) -> None:
    one = Claimed(torch.ones(10_000), (10_000,), (1,))
    write(tmp_path / "file", layout, {f"noises.noise_{index}": one for index in range(200)})
    if layout == "nvidia":  # which wraps each, so that they have to be made one by hand
        one = ClaimedByNvidia(one.values, (10_000,), (1,))
        content = {"G_ema": {"_buffers": {f"noise_{index}": one for index in range(200)}}}
        (tmp_path / "file").write_bytes(pickle.dumps(content))
    assert "claim 8000000 bytes" in refusal(tmp_path / "file")


@pytest.mark.parametrize("layout", FORMATS)
def test_geometries_that_fit_are_read_as_torch_reads_them(layout: str, tmp_path: Path) -> None:
    """Transposed, a part of a storage, and 16-bit: what is refused is no more than what cannot be."""
    from faceanon_engine.engine.models.checkpoints.nvidia_pickle import generator_of, read_pickled
    from faceanon_engine.engine.models.checkpoints.plain_pickle import Steps
    from faceanon_engine.engine.models.checkpoints.stored_tensors import make_tensors
    from faceanon_engine.engine.models.checkpoints.torch_file import read_legacy, read_zip

    values = torch.arange(24.0)
    tensors = {
        "transposed": values.view(4, 6).T,
        "part": values[3:9],
        "one": values[5],
        "half": values.half(),
        "brain": values.bfloat16().view(2, 12)[:, 1:4],
        "long": torch.arange(3),
        "yes": torch.tensor([True, False]),
    }
    claimed = {
        key: Claimed(value, value.shape, value.stride(), value.storage_offset()) for key, value in tensors.items()
    }
    path = tmp_path / "file"
    write(path, layout, claimed)
    if layout == "nvidia":
        stored = generator_of(read_pickled(path.read_bytes()))
    else:
        content = read_zip(path) if layout == "zip" else read_legacy(path.read_bytes(), Steps())
        stored = content["g_ema"]
    made = make_tensors(stored, path.stat().st_size)
    assert set(made) == set(tensors)
    for key, value in tensors.items():
        assert torch.equal(made[key].to(value.dtype), value)


def _length(code: bytes, count: int, width: int) -> bytes:
    return code + count.to_bytes(width, "little")


def _many(count: int, once: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    return b"\x80\x04" + before + once * count + after + b"."


# A tuple of a tuple of a tuple..., each twice: as a key its hash takes 2^60 steps.
_HASHED_FOR_EVER = _many(60, b"2\x86", b"})", b"Ns")
_ORDERED = b"ccollections\nOrderedDict\n"
_COPIED = (
    b"\x80\x04" + _ORDERED + b"q\x00]q\x01(" + b"KaKb\x86" * 20_000 + b"e\x85q\x02" + b"h\x00h\x02R0" * 50_000 + b"}."
)
_COLLIDING = (
    b"\x80\x04}("
    + b"".join(b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") + b"N" for n in range(1, 30_000))
    + b"u."
)
BOMBS = {
    "memo of 268 million": b"\x80\x04}r\xff\xff\xff\x0f.",
    "memo of 4 billion": b"\x80\x04}r\xff\xff\xff\xff.",
    "memo in text": b"\x80\x04}p999999999999\n.",
    "memo below none": b"\x80\x04}p-1\n.",
    "bytes": b"\x80\x04" + _length(b"B", 2**31 - 1, 4) + b".",
    "many bytes": b"\x80\x04" + _length(b"\x8e", 2**62, 8) + b".",
    "text": b"\x80\x04" + _length(b"\x8d", 2**40, 8) + b".",
    "text of 4 bytes": b"\x80\x04" + _length(b"X", 2**32 - 1, 4) + b".",
    "byte array": b"\x80\x05" + _length(b"\x96", 2**40, 8) + b".",
    "frame": b"\x80\x04" + _length(b"\x95", 2**50, 8) + b"}.",
    "number": b"\x80\x04" + _length(b"\x8b", 2**31 - 1, 4) + b".",
    "a number that is there": b"\x80\x04" + _length(b"\x8b", 6_000_000, 4) + b"\x7f" * 6_000_000 + b".",
    "a number in text": b"\x80\x04I" + b"9" * 5000 + b"\n.",
    "text that is there": b"\x80\x04" + _length(b"X", 5_000_000, 4) + b"a" * 5_000_000 + b".",
    "marks": _many(200_000, b"("),
    "lists in lists": _many(30_000, b"]", after=b"a" * 29_999),
    "tuples in tuples": _many(30_000, b"\x85", b")"),
    "doubled": _many(30_000, b"2\x86", b"}"),
    "objects in objects": _many(20_000, b"h\x00)\x81", b"cdnnlib.util\nEasyDict\nq\x00", b"}" + b"b" * 20_000),
    "hashed": _HASHED_FOR_EVER,
    "copied": _COPIED,
    "colliding": _COLLIDING,
    "bytes of torch's": b"\x80\x04cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "a tensor of torch's": b"\x80\x04ctorch\nTensor\nJ\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86R.",
    "no value": b"\x80\x04s.",
    "no mark": b"\x80\x04]e.",
    "no end": b"\x80\x04}",
    "no such place": b"\x80\x04h\x07.",
    "called": b"\x80\x04K\x01)R.",
    "a class of extensions": b"\x80\x04\x82\x01.",
    "protocol": b"\x80\xff}.",
}


def test_no_pickle_takes_more_than_its_bytes_warrant(tmp_path: Path) -> None:
    """All in one process, whose memory is limited: none may reserve what it announces, or go on for ever."""
    for layout in FORMATS:
        for name, pickled in BOMBS.items():
            if layout == "nvidia" or len(pickled) < 1000:  # it is one reader: what takes a second is tried once
                (tmp_path / f"{name} ({layout})").write_bytes(wrapped(layout, pickled))
    names = sorted(path.name for path in tmp_path.iterdir())
    program = f"""
import resource, sys
from pathlib import Path
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (in_use + (1 << 30), in_use + (1 << 30)))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(path.name, "read", read_checkpoint(path))
    except UserError as error:
        print(path.name, "refused", "\\n" in str(error), len(str(error)) < 600)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.stderr == ""
    assert answer.stdout.splitlines() == [f"{name} refused False True" for name in names]


@pytest.mark.parametrize("layout", FORMATS)
def test_a_memo_index_that_cannot_be_is_said(layout: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(wrapped(layout, BOMBS["memo of 268 million"]))
    assert "memo" in refusal(tmp_path / "file")


def module(**parts: Any) -> dict[str, Any]:
    return {"_parameters": {}, "_buffers": {}, "_modules": {}, **parts}


def _cyclic() -> dict[str, Any]:
    root = module()
    root["_modules"]["again"] = module(_modules={"root": root})
    return root


def _shared() -> dict[str, Any]:
    """A graph of 40 modules with 2^40 paths."""
    root = module()
    for _ in range(40):
        root = module(_modules={"a": root, "b": root})
    return root


def _deep() -> dict[str, Any]:
    root = module()
    for _ in range(60):
        root = module(_modules={"a": root})
    return root


@pytest.mark.parametrize(
    "network",
    [
        _cyclic(),
        _shared(),
        _deep(),
        module(_modules={1: module()}),
        module(_modules={"a": 1}),
        module(_modules=[module()]),
        module(_parameters={1: None}),
        module(_parameters=3),
        {"state": 3},
        {"state": {"_modules": {"a": {"state": [1]}}}},
    ],
)
def test_modules_are_a_tree_of_names(network: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(pickle.dumps({"G_ema": network}))
    assert "module in it" in refusal(tmp_path / "file")


def repacked(path: Path, change: Any, compression: int = zipfile.ZIP_STORED) -> None:
    """The zip archive with other records: `change` gets them by name."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda records: records.pop("file/data/0"), "missing"),
        (lambda records: records.update({"file/data/0": b"1234"}), "another size"),
        (lambda records: records.update({"file/data/0": b"1" * 400}), "another size"),
        (lambda records: records.pop("file/data.pkl"), "data.pkl"),
        (lambda records: records.update({"other/data.pkl": b"."}), "data.pkl"),
        (lambda records: records.update({"file/byteorder": b"big"}), "order of bytes"),
        (lambda records: records.update({f"file/{n:0>9000}": b"" for n in range(500)}), "list of records"),
    ],
)
def test_the_records_of_a_zip_are_those_of_its_pickle(change: Any, word: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    torch.save({"g_ema": {"input.input": torch.ones(4)}}, path)
    repacked(path, change)
    assert word in refusal(path)


def test_a_compressed_record_is_not_expanded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    torch.save({"g_ema": {"input.input": torch.zeros(1000)}}, path)
    repacked(path, lambda records: None, zipfile.ZIP_DEFLATED)
    assert "announce" in refusal(path)


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """The trick of a zip bomb without compression: many entries of the list that point at one place."""
    path = tmp_path / "file"
    torch.save({"g_ema": {"input.input": torch.zeros(50_000)}}, path)
    with zipfile.ZipFile(path, "a") as archive:
        big = archive.getinfo("file/data/0")
        for number in range(1, 50):
            archive.filelist.append(other := zipfile.ZipInfo(f"file/data/{number}"))
            other.header_offset, other.file_size, other.compress_size = big.header_offset, big.file_size, big.file_size
            other.CRC = big.CRC
        archive._didModify = True  # type: ignore[attr-defined]
    assert "announce" in refusal(path)


@pytest.mark.parametrize("change", [-1, 1, 2**40, 2**62])
def test_a_legacy_storage_of_another_size_is_refused(change: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    torch.save({"g_ema": {"input.input": torch.ones(4)}}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.endswith(struct.pack("<q4f", 4, 1, 1, 1, 1))
    path.write_bytes(content[:-24] + struct.pack("<q4f", 4 + change, 1, 1, 1, 1))
    assert "are stored" in refusal(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["stylegan2-genforce-64", "stylegan2-nvidia-64"])
def test_a_weight_that_is_no_number_is_named(name: str, value: float, tmp_path: Path) -> None:
    state = state_dict(name)
    key = next(key for key in state if key.endswith("layer2.weight") or "conv1.weight" in key)
    state[key].view(-1)[7] = value
    if "nvidia" in name:
        write_nvidia_pickle(state, tmp_path / "file")
    else:
        torch.save({"generator_smooth": state}, tmp_path / "file")
    assert "no finite numbers" in refusal(tmp_path / "file")


def test_a_double_beyond_float32_is_no_weight(tmp_path: Path) -> None:
    state = state_dict("stylegan2-genforce-64")
    state["truncation.w_avg"] = state["truncation.w_avg"].double() * 1e300
    torch.save({"generator_smooth": state}, tmp_path / "file")
    assert "no finite numbers" in refusal(tmp_path / "file")


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_no_weights(kind: torch.dtype, tmp_path: Path) -> None:
    state = state_dict("stylegan2-genforce-64")
    state["truncation.w_avg"] = torch.ones_like(state["truncation.w_avg"], dtype=kind)
    torch.save({"generator_smooth": state}, tmp_path / "file")
    assert "w_avg is of type" in refusal(tmp_path / "file")


@pytest.mark.parametrize("key", [0, None, b"conv", ("a", 1), 1.5])
def test_a_key_that_is_no_text_is_no_weight(key: Any, tmp_path: Path) -> None:
    state: dict[Any, Any] = {**state_dict("stylegan2-genforce-64"), key: torch.ones(3)}
    torch.save({"generator_smooth": state}, tmp_path / "file")
    (network,) = read_checkpoint(tmp_path / "file")
    assert network.role == "generator"


def _units(count: int) -> dict[str, torch.Tensor]:
    return {
        f"body.{index}.res_layer.1.weight": torch.ones(4 * index // count + 1, 1, 3, 3) for index in range(count)
    } | {
        "input_layer.0.weight": torch.ones(1),
        "output_layer.3.weight": torch.ones(1, 4),
        "body.0.res_layer.5.fc2.weight": torch.ones(1, 1, 1, 1),
    }


def _styles(count: int) -> dict[str, torch.Tensor]:
    heads = {f"encoder.styles.{row}.linear.weight": torch.ones(2, 2) for row in range(count)}
    depths = {f"encoder.styles.{row}.convs.{2 * n}.weight": torch.ones(1) for row in range(4) for n in range(row + 1)}
    return heads | depths | {f"encoder.{key}": value for key, value in _units(4).items()}


def _layers(count: int) -> dict[str, torch.Tensor]:
    """Layers of a generator as GenForce names them; the side doubles with every other one."""
    one = torch.ones(1)
    state = {"synthesis.early_layer.const": one, "truncation.w_avg": one, "mapping.dense0.weight": torch.ones(1, 1)}
    state |= {"mapping.dense0.bias": one}
    for index in range(count):
        name = f"synthesis.layer{index}"
        state |= {f"{name}.weight": torch.ones(1, 1, 3, 3), f"{name}.style.weight": torch.ones(1, 1)}
        state |= {f"{name}.{part}": one for part in ("style.bias", "bias", "noise", "noise_strength")}
    return state


def _convs(count: int) -> dict[str, torch.Tensor]:
    """Layers of a generator as rosinality names them, without noise maps: those are made, of the layer's side."""
    one = torch.ones(1)
    state = {"input.input": one, "style.1.weight": torch.ones(1, 1), "style.1.bias": one}
    for name in ("conv1", *(f"convs.{index}" for index in range(count - 1))):
        state |= {f"{name}.conv.weight": torch.ones(1, 1, 1, 3, 3), f"{name}.conv.modulation.weight": torch.ones(1, 1)}
        state |= {f"{name}.{part}": one for part in ("conv.modulation.bias", "activate.bias", "noise.weight")}
    return state


@pytest.mark.parametrize(
    "content",
    [
        {"g_ema": _convs(25)},
        {"g_ema": _convs(400)},
        _units(600),
        {"state_dict": _styles(600), "latent_avg": torch.ones(2)},
        {"generator": _layers(99)},
        {"generator": _layers(400)},
        {"conv1.weight": torch.ones(1, 3, 100, 1), "class_embedding": torch.ones(1), "proj": torch.ones(1, 1)}
        | {"positional_embedding": torch.ones(3000, 1)}
        | {f"transformer.resblocks.{index}.ln_1.weight": torch.ones(1) for index in range(600)},
    ],
)
def test_more_layers_than_any_network_has_are_not_built(content: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from faceanon_engine.engine.models.checkpoints import reading

    monkeypatch.setattr(reading, "build", lambda *_: pytest.fail("a network was built"))
    torch.save(content, tmp_path / "file")
    assert "not a whole number from" in refusal(tmp_path / "file")


def test_official_layouts_are_still_read(tmp_path: Path) -> None:
    """A reader beside Torch's: the same tensors come out."""
    for name in write_encoders(tmp_path):
        content = torch.load(name, weights_only=True)
        (network,) = read_checkpoint(Path(name))
        state = content.get("state_dict", content)
        stored = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
        for value in network.state_dict.values():
            assert any(torch.equal(value, other) for other in stored.values()) or not value.any()
    write_checkpoint("stylegan2-rosinality-32", tmp_path / "file")
    assert read_checkpoint(tmp_path / "file")[0].source_format == "rosinality"


def test_what_checkpoints_hold_beside_tensors_is_let_pass(tmp_path: Path) -> None:
    state = state_dict("stylegan2-genforce-64")
    state["truncation.w_avg"].note = 3  # type: ignore[attr-defined]
    beside = {
        "opts": Namespace(device=torch.device("cuda:0"), dtype=torch.float16),
        "kinds": {1, 2},
        "counts": Counter("abc"),
        "size": torch.Size([1, 2]),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.99)}]},
        "bytes": b"abc",
        "number": np.float32(3),
        "weight": torch.nn.Parameter(torch.ones(2)),
    }
    for new in (True, False):
        torch.save({"generator_smooth": state, **beside}, tmp_path / "file", _use_new_zipfile_serialization=new)
        assert read_checkpoint(tmp_path / "file")[0].role == "generator"


@pytest.mark.parametrize("kind", ["folder", "nothing", "pipe"])
def test_what_is_no_file_is_one_line_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    refusal(path)
