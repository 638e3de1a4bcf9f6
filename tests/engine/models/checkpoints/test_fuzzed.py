"""Whatever bytes a checkpoint has, it is read, or refused in one line about the file."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
from faceanon_engine.engine.networks.build import build
from tests.golden.stand_ins import write_nvidia_pickle
from tests.support.small_checkpoints import e4e_content, encoder_state, nvidia_state


@cache
def sound() -> dict[str, bytes]:
    """Small files of every layout that can be read."""
    identity = OrderedDict(encoder_state("identity_encoder"))
    attribute = encoder_state("attribute_encoder")
    visual = {f"visual.{key.replace('blocks.', 'transformer.resblocks.')}": value for key, value in attribute.items()}
    files = {"safetensors": save(encoder_state("identity_encoder"))}
    for name, content, new in (
        ("e4e", e4e_content(), True),
        ("arcface", identity, True),
        ("arcface of old", identity, False),
        ("farl", {"state_dict": visual}, False),
    ):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=new)
        files[name] = stream.getvalue()
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("files") / "file"
    write_nvidia_pickle(nvidia_state(), path)
    found = {**sound(), "nvidia": path.read_bytes()}
    for content in found.values():
        path.write_bytes(content)
        assert read_checkpoint(path)
    return found


def used(path: Path) -> None:
    try:
        networks = read_checkpoint(path)
    except UserError as error:
        said = str(error)
    else:
        for network in networks:
            build(network.role, network.config).load_state_dict(network.state_dict)
        return
    assert "\n" not in said
    assert str(path) in said
    assert len(said) < 600


def changed(data: st.DataObject, content: bytes) -> bytes:
    """The bytes with a few of them written over, left out, doubled or put in."""
    mutable = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, max(0, len(mutable) - 1)))
        width = data.draw(st.sampled_from([0, 1, 1, 1, 2, 4, 8, 64]))
        new = data.draw(
            st.one_of(
                st.binary(min_size=width, max_size=width),
                st.binary(max_size=8),
                st.sampled_from([b"\xff" * 8, bytes(8), b"\x80\0\0\0", mutable[first : first + 40]]),
            )
        )
        mutable[first : first + width] = new
    return bytes(mutable)


FUZZED = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("name", ["e4e", "arcface", "arcface of old", "farl", "nvidia", "safetensors"])
@FUZZED
@given(data=st.data())
def test_any_bytes_are_read_or_refused(name: str, data: st.DataObject, files: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(changed(data, files[name]))
    used(tmp_path / "file")


@pytest.mark.parametrize("name", ["e4e", "arcface"])
@FUZZED
@given(data=st.data())
def test_any_pickle_in_a_zip_is_read_or_refused(
    name: str, data: st.DataObject, files: dict[str, bytes], tmp_path: Path
) -> None:
    with zipfile.ZipFile(io.BytesIO(files[name])) as archive:
        records = {record: archive.read(record) for record in archive.namelist()}
    (pickled,) = (record for record in records if record.endswith("data.pkl"))
    records[pickled] = changed(data, records[pickled])
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    used(tmp_path / "file")


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=5),
        st.builds(lambda *shape: torch.ones(shape), st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda value: torch.tensor(value), st.one_of(st.booleans(), st.integers(-5, 5), st.floats(width=32))),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.none()), inner, max_size=3),
        st.tuples(inner),
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("name", ["e4e", "arcface", "farl"])
@FUZZED
@given(data=st.data())
def test_other_values_under_a_known_name_are_read_or_refused(
    name: str, data: st.DataObject, files: dict[str, bytes], tmp_path: Path
) -> None:
    content = torch.load(io.BytesIO(files[name]), weights_only=True)
    holder = content
    if "state_dict" in content and data.draw(st.integers(0, 3)):
        holder = content["state_dict"]
    key = data.draw(st.sampled_from(sorted(holder)))
    holder[key] = data.draw(VALUES)
    torch.save(content, tmp_path / "file", _use_new_zipfile_serialization=data.draw(st.booleans()))
    used(tmp_path / "file")


@FUZZED
@given(value=VALUES)
def test_another_value_of_nvidias_is_refused(value: Any, tmp_path: Path) -> None:
    for content in (
        value,
        {"G_ema": value},
        {"G_ema": {"state": value}},
        {"G_ema": {"_modules": {"synthesis": value}}},
    ):
        (tmp_path / "file").write_bytes(pickle.dumps(content))
        used(tmp_path / "file")
