"""Official checkpoints, recognised by their content and read without executing anything in them."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.encoders import from_arcface, from_clip, from_e4e_encoder
from faceanon_engine.engine.models.checkpoints.generators import from_genforce, from_nvidia, from_rosinality
from faceanon_engine.engine.models.checkpoints.nvidia_pickle import read_nvidia_pickle
from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.system.printable import first_line

_KNOWN = "a StyleGAN2 generator (GenForce, rosinality or NVIDIA), e4e, ArcFace IR-SE, or a CLIP/FaRL vision transformer"
# What torch.save of old wrote first; NVIDIA's pickles start with something else.
_TORCH_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


@dataclass(frozen=True)
class ImportedNetwork:
    """A network found in a checkpoint.

    role: "generator", "inverter", "identity_encoder" or "attribute_encoder". config: its frozen dataclass.
    state_dict: float32 tensors in our layout. source_format: the layout it was found in.
    """

    role: str
    config: Any
    state_dict: dict[str, Tensor]
    source_format: str


def read_checkpoint(path: Path) -> list[ImportedNetwork]:
    """All networks of a checkpoint file; raises UserError naming the file when it is damaged, unknown or unsafe."""
    try:
        with open(path, "rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None
    if not start:
        raise UserError(f"{path} is empty: download it again")
    try:
        if start[:1] == b"\x80" and not start.startswith(_TORCH_LEGACY):
            stored = read_nvidia_pickle(path)
            if "mapping.embed.weight" in stored:
                raise UserError(f"{path} is a generator of labelled classes: give one that was trained without labels")
            config, state = from_nvidia(stored)
            networks = [("generator", config, state, "nvidia")]
        else:
            networks = _recognise(path, _load(path, start))
        return [_checked(path, *network) for network in networks]
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{path} lacks parts of {_KNOWN} ({error}): download it again") from None


def _load(path: Path, start: bytes) -> Mapping[str, Any]:
    if start.startswith(b"PK") and _is_torchscript(path):
        raise UserError(
            f"{path} is a TorchScript archive, which is a program: save its state dict with "
            "torch.save(torch.jit.load(FILE).state_dict(), ...) where you trust it, and import that"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        name = re.search(r"(?:GLOBAL|instantiate|class) `?([A-Za-z_]\w*(?:\.\w+)*)", text)
        if name and "weights_only" in text.lower().replace(" ", "_"):
            raise UserError(
                f"{path} asks for {name[1]}, which is neither a tensor nor a plain container: "
                "refused, nothing of it was run"
            ) from None
        # What comes before is advice to load the file without this check.
        text = text.rpartition("WeightsUnpickler error:")[2].strip()
        line = first_line(error, text)
        raise UserError(f"{path} is not a readable checkpoint ({line[:160]}): expected {_KNOWN}") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a checkpoint: expected {_KNOWN}")
    return content


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _recognise(path: Path, content: Mapping[str, Any]) -> list[tuple[str, Any, dict[str, Tensor], str]]:
    for key in ("generator_smooth", "generator"):
        if isinstance(content.get(key), Mapping):
            return [("generator", *from_genforce(_tensors(content[key])), "genforce")]
    if isinstance(content.get("g_ema"), Mapping):
        average = content.get("latent_avg")
        w_avg = average if isinstance(average, Tensor) and average.ndim == 1 else None
        return [("generator", *from_rosinality(_tensors(content["g_ema"]), w_avg), "rosinality")]
    wrapped = isinstance(content.get("state_dict"), Mapping)
    state = _tensors(content["state_dict"] if wrapped else content)
    if any(key.startswith("encoder.styles.") for key in state):
        return _from_e4e(path, content, state)
    if "visual.conv1.weight" in state or ("conv1.weight" in state and "class_embedding" in state):
        return [("attribute_encoder", *from_clip(state), "farl" if wrapped else "clip")]
    if "input_layer.0.weight" in state and "output_layer.3.weight" in state:
        return [("identity_encoder", *from_arcface(state), "arcface")]
    if "synthesis.layer0.weight" in state:
        return [("generator", *from_genforce(state), "genforce")]
    if "convs.0.conv.weight" in state and "input.input" in state:
        return [("generator", *from_rosinality(state), "rosinality")]
    raise UserError(f"{path} holds none of the known networks: expected {_KNOWN}")


def _from_e4e(
    path: Path, content: Mapping[str, Any], state: dict[str, Tensor]
) -> list[tuple[str, Any, dict[str, Tensor], str]]:
    average = content.get("latent_avg")
    if not isinstance(average, Tensor):
        raise UserError(f"{path} is an e4e checkpoint without 'latent_avg': download the released file")
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    inverter = ("inverter", *from_e4e_encoder(encoder, average), "e4e")
    if not decoder:
        return [inverter]
    w_avg = average if average.ndim == 1 else average[0]
    return [inverter, ("generator", *from_rosinality(decoder, w_avg), "e4e")]


def _checked(path: Path, role: str, config: Any, state: dict[str, Tensor], source_format: str) -> ImportedNetwork:
    """The network with exactly the tensors that its class has; raises UserError naming what does not fit."""
    with torch.device("meta"):
        expected = build(role, config).state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise UserError(f"{path}: the {role} lacks {missing[0]} (and {len(missing) - 1} more): download it again")
    for key, value in expected.items():
        if key in state and state[key].shape != value.shape:
            raise UserError(f"{path}: {role} {key} has shape {tuple(state[key].shape)}, expected {tuple(value.shape)}")
    kept = {
        key: state[key].float() if value.is_floating_point() else state.get(key, torch.zeros((), dtype=torch.int64))
        for key, value in expected.items()
    }
    return ImportedNetwork(role, config, kept, source_format)
