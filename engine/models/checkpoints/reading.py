"""Official checkpoints, recognised by their content and read without executing anything in them."""

from __future__ import annotations

import os
import pickle
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
from faceanon_engine.engine.models.checkpoints.plain_pickle import Malformed, Refused, Steps
from faceanon_engine.engine.models.checkpoints.stored_tensors import make_tensors
from faceanon_engine.engine.models.checkpoints.torch_file import mapped, read_legacy, read_zip, record_names
from faceanon_engine.engine.models.finite import is_finite
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
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file: check the path")
        with open(path, "rb") as stream:
            start = stream.read(64)
            size = os.fstat(stream.fileno()).st_size
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', error)}): check the path") from None
    if not start:
        raise UserError(f"{path} is empty: download it again")
    try:
        return [_checked(path, *network) for network in _networks(path, start, size)]
    except Refused as error:
        raise UserError(
            f"{path} asks for {error}, which is neither a tensor nor a plain container: refused, nothing of it was run"
        ) from None
    except Malformed as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}): expected {_KNOWN}") from None
    except KeyError as error:
        raise UserError(f"{path} lacks parts of {_KNOWN} ({error}): download it again") from None
    except (IndexError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} does not hold {_KNOWN} ({first_line(error)[:160]}): download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None


def _networks(path: Path, start: bytes, size: int) -> list[tuple[str, Any, dict[str, Tensor], str]]:
    """Role, configuration, state dict in our layout, and format of each network."""
    if start.startswith(_TORCH_LEGACY):
        return _recognise(path, _mapping(read_legacy(mapped(path), Steps())), size)
    if start.startswith(b"\x80"):
        stored = make_tensors(read_nvidia_pickle(mapped(path)), size)
        if "mapping.embed.weight" in stored:
            raise UserError(f"{path} is a generator of labelled classes: give one that was trained without labels")
        return [("generator", *from_nvidia(stored), "nvidia")]
    if not start.startswith(b"PK"):
        raise Malformed("neither a pickle nor a zip archive")
    if any(name.endswith("constants.pkl") for name in record_names(path)):
        raise UserError(
            f"{path} is a TorchScript archive, which is a program: save its state dict with "
            "torch.save(torch.jit.load(FILE).state_dict(), ...) where you trust it, and import that"
        )
    return _recognise(path, _mapping(read_zip(path)), size)


def _mapping(content: Any) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise Malformed(f"it holds a {type(content).__name__}, and no names with values")
    return content


def _recognise(path: Path, content: Mapping[str, Any], size: int) -> list[tuple[str, Any, dict[str, Tensor], str]]:
    for key in ("generator_smooth", "generator"):
        if isinstance(content.get(key), Mapping):
            return [("generator", *from_genforce(make_tensors(content[key], size)), "genforce")]
    if isinstance(content.get("g_ema"), Mapping):
        average = _average(content, size)
        w_avg = average if average is not None and average.ndim == 1 else None
        return [("generator", *from_rosinality(make_tensors(content["g_ema"], size), w_avg), "rosinality")]
    wrapped = isinstance(content.get("state_dict"), Mapping)
    state = make_tensors(content["state_dict"] if wrapped else content, size)
    if any(key.startswith("encoder.styles.") for key in state):
        return _from_e4e(path, state, _average(content, size))
    if "visual.conv1.weight" in state or ("conv1.weight" in state and "class_embedding" in state):
        return [("attribute_encoder", *from_clip(state), "farl" if wrapped else "clip")]
    if "input_layer.0.weight" in state and "output_layer.3.weight" in state:
        return [("identity_encoder", *from_arcface(state), "arcface")]
    if "synthesis.layer0.weight" in state:
        return [("generator", *from_genforce(state), "genforce")]
    if "convs.0.conv.weight" in state and "input.input" in state:
        return [("generator", *from_rosinality(state), "rosinality")]
    raise UserError(f"{path} holds none of the known networks: expected {_KNOWN}")


def _average(content: Mapping[str, Any], size: int) -> Tensor | None:
    """The average code that lies beside a state dict, where there is one."""
    return make_tensors({"latent_avg": content.get("latent_avg")}, size).get("latent_avg")


def _from_e4e(
    path: Path, state: dict[str, Tensor], average: Tensor | None
) -> list[tuple[str, Any, dict[str, Tensor], str]]:
    if average is None:
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
        if key in state and state[key].is_floating_point() != value.is_floating_point():
            raise UserError(f"{path}: {role} {key} is of type {state[key].dtype}: download it again")
    kept = {
        key: state[key].float() if value.is_floating_point() else state.get(key, torch.zeros((), dtype=torch.int64))
        for key, value in expected.items()
    }
    for key, value in kept.items():
        if not is_finite(value):
            raise UserError(f"{path}: {role} {key} holds values that are no finite numbers: download it again")
    return ImportedNetwork(role, config, kept, source_format)
