"""Official checkpoints, recognised by their content and read without executing anything in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.encoders import from_arcface, from_clip, from_e4e_encoder
from faceanon_engine.engine.models.checkpoints.foreign import START, Foreign, OtherNetwork, check_start, of_pickled_name
from faceanon_engine.engine.models.checkpoints.generators import from_genforce, from_nvidia, from_rosinality
from faceanon_engine.engine.models.checkpoints.nvidia_pickle import generator_of, read_pickled
from faceanon_engine.engine.models.checkpoints.other_networks import check_encoder_type, check_names
from faceanon_engine.engine.models.checkpoints.plain_pickle import Damaged, Malformed, Refused, Steps, shown
from faceanon_engine.engine.models.checkpoints.safetensors_file import is_safetensors, read_safetensors
from faceanon_engine.engine.models.checkpoints.stored_tensors import StoredTensor, make_tensors
from faceanon_engine.engine.models.checkpoints.torch_file import mapped, read_legacy, read_zip, record_names
from faceanon_engine.engine.models.finite import is_finite
from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.system.printable import first_line

_KNOWN = "a StyleGAN2 generator (GenForce, rosinality or NVIDIA), e4e, ArcFace IR-SE, or a CLIP/FaRL vision transformer"
_AUTHORS = {"genforce": "GenForce's", "nvidia": "NVIDIA's", "rosinality": "rosinality's"}
_MARKS = {"synthesis.layer0.weight": "genforce", "synthesis.b4.const": "nvidia", "input.input": "rosinality"}
"""A tensor that tells a generator's layout."""
_WRAPPERS = {"module", "_orig_mod"}
_OPTIONS = ("opts", "options", "args", "hparams", "hyper_parameters", "config")
"""Where an encoder's options lie; the releases have the first."""
_TAKEN_FOR_E4E = (
    "its options do not say which encoder it is, and it was taken for e4e's; pSp's has the same tensors and would give "
    "wrong codes"
)
# What torch.save of old wrote first; NVIDIA's pickles start with something else.
_TORCH_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)


@dataclass(frozen=True)
class ImportedNetwork:
    """A network found in a checkpoint.

    role: "generator", "inverter", "identity_encoder" or "attribute_encoder". config: its frozen dataclass.
    state_dict: float32 tensors in our layout. source_format: the layout it was found in. remark: what was assumed
    because the file does not say it; empty where nothing was.
    """

    role: str
    config: Any
    state_dict: dict[str, Tensor]
    source_format: str
    remark: str = ""


@dataclass(frozen=True)
class _Found:
    """A network that was recognised, in our layout; nothing of it is compared with its class yet."""

    role: str
    config: Any
    state: dict[str, Tensor]
    source_format: str
    remark: str = ""


def read_checkpoint(path: Path) -> list[ImportedNetwork]:
    """All networks of a checkpoint file.

    Raises UserError naming the file when it is damaged, unknown or unsafe, and where it is known to be something else,
    what that is and what to do.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the checkpoint files themselves, as they were downloaded")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no file: check the path")
        with open(path, "rb") as stream:
            start = stream.read(START)
            size = os.fstat(stream.fileno()).st_size
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', error)}): check the path") from None
    if not start:
        raise UserError(f"{path} is empty: download it again")
    try:
        return [_checked(path, network) for network in _networks(path, start, size)]
    except OtherNetwork as error:
        raise UserError(f"{path} holds {error}") from None
    except Foreign as error:
        raise UserError(f"{path} is not a readable checkpoint but {error}") from None
    except Refused as error:
        other = of_pickled_name(str(error))
        if other is not None:
            raise UserError(f"{path} is not a readable checkpoint but {other}") from None
        raise UserError(
            f"{path} asks for {error}, which is neither a tensor nor a plain container: refused, nothing of it was run"
        ) from None
    except Damaged as error:
        raise UserError(
            f"{path} is not a readable checkpoint, it is cut off or damaged ({error}): download it again"
        ) from None
    except Malformed as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}): expected {_KNOWN}") from None
    except KeyError as error:
        raise UserError(f"{path} lacks parts of {_KNOWN} ({error}): download it again") from None
    except (IndexError, ValueError, RuntimeError, TypeError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} does not hold {_KNOWN} ({first_line(error)[:160]}): download it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from None


def _networks(path: Path, start: bytes, size: int) -> list[_Found]:
    if start.startswith(_TORCH_LEGACY):
        return _recognise(path, _mapping(read_legacy(mapped(path), Steps())), size)
    if start.startswith(b"\x80"):
        content = read_pickled(mapped(path))
        if isinstance(content, Mapping) and content and "G_ema" not in content:
            return _recognise(path, content, size)
        return [_generator(path, "nvidia", generator_of(content), size)]
    if is_safetensors(start):
        return _recognise(path, read_safetensors(mapped(path)), size)
    if not start.startswith(b"PK"):
        check_start(mapped(path))
        raise Malformed("neither a pickle nor a zip archive nor safetensors")
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


def _recognise(path: Path, content: Mapping[str, Any], size: int) -> list[_Found]:
    """The networks of a mapping: a state dict, or values of which one is."""
    training = content.get("models")
    if isinstance(training, Mapping) and any(isinstance(network, Mapping) for network in training.values()):
        content = training  # GenForce's own, with optimisers and counters around the networks
    for key in ("generator_smooth", "generator"):
        if isinstance(content.get(key), Mapping):
            return [_generator(path, "genforce", content[key], size)]
    for key in ("g_ema", "G_ema"):
        if isinstance(content.get(key), Mapping):
            layout = "rosinality" if key == "g_ema" else "nvidia"
            return [_generator(path, layout, content[key], size, _average(content, size))]
    wrapped = isinstance(content.get("state_dict"), Mapping)
    stored = _stored(content["state_dict"] if wrapped else content)
    if any(key.startswith("encoder.styles.") for key in stored):
        return _from_e4e(path, stored, content, size)
    if "visual.conv1.weight" in stored or ("conv1.weight" in stored and "class_embedding" in stored):
        return [_encoder(path, "attribute_encoder", "farl" if wrapped else "clip", from_clip, stored, size)]
    if "input_layer.0.weight" in stored and "output_layer.3.weight" in stored:
        return [_encoder(path, "identity_encoder", "arcface", from_arcface, stored, size)]
    if any(key in stored for key in _MARKS):
        return [_generator(path, "", stored, size)]
    names = sorted(stored) or sorted(key for key in content if isinstance(key, str)) or ["nothing"]
    what = "none of the known networks" if stored else "no tensors of Torch's under names"
    raise UserError(f"{path} holds {what} (but {', '.join(map(shown, names[:3]))}): expected {_KNOWN}")


def _stored(content: Mapping[Any, Any]) -> dict[str, StoredTensor]:
    """The tensors of a state dict, without what wrapping a network (DataParallel, torch.compile) puts into names.

    Raises Foreign where they are those of another network, and Malformed where two get one name.
    """
    stored: dict[str, StoredTensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, StoredTensor):
            continue
        plain = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if plain in stored:
            raise Malformed(f"it holds {shown(plain)} twice, wrapped and unwrapped")
        stored[plain] = value
    check_names(stored)
    return stored


def _generator(path: Path, layout: str, content: Mapping[Any, Any], size: int, average: Tensor | None = None) -> _Found:
    """layout: where no tensor tells. average: the code that lies beside the state dict in rosinality's files."""
    stored = _stored(content)
    layout = next((named for key, named in _MARKS.items() if key in stored), layout)
    state = make_tensors(stored, size)
    try:
        if layout == "genforce":
            config, ours = from_genforce(state)
        elif layout == "nvidia":
            config, ours = from_nvidia(state)
        else:
            config, ours = from_rosinality(state, average if average is not None and average.ndim == 1 else None)
    except KeyError as error:
        raise _lacking(path, f"a StyleGAN2 generator in {_AUTHORS[layout]} layout", error) from None
    return _Found("generator", config, ours, layout)


def _encoder(
    path: Path,
    role: str,
    layout: str,
    convert: Callable[[Mapping[str, Tensor]], tuple[Any, dict[str, Tensor]]],
    stored: Mapping[str, StoredTensor],
    size: int,
) -> _Found:
    try:
        config, ours = convert(make_tensors(stored, size))
    except KeyError as error:
        raise _lacking(path, f"the {role}, as it is called in {layout} files,", error) from None
    return _Found(role, config, ours, layout)


def _lacking(path: Path, what: str, error: KeyError) -> UserError:
    return UserError(f"{path} holds {what} without {shown(str(error.args[0]))}: download it again")


def _average(content: Mapping[str, Any], size: int) -> Tensor | None:
    """The average code that lies beside a state dict, where there is one."""
    return make_tensors({"latent_avg": content.get("latent_avg")}, size).get("latent_avg")


def _from_e4e(path: Path, stored: dict[str, StoredTensor], content: Mapping[str, Any], size: int) -> list[_Found]:
    """The inverter of e4e's file, and the generator where one is in it."""
    options: Mapping[Any, Any] = next((content[key] for key in _OPTIONS if isinstance(content.get(key), Mapping)), {})
    remark = "" if check_encoder_type(options) else _TAKEN_FOR_E4E
    state, average = make_tensors(stored, size), _average(content, size)
    if average is None:
        raise UserError(f"{path} is an e4e checkpoint without 'latent_avg': download the released file")
    encoder = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    decoder = {k.removeprefix("decoder."): v for k, v in state.items() if k.startswith("decoder.")}
    # Codes are relative to the average only where the encoder was trained so.
    start = torch.zeros_like(average) if options.get("start_from_latent_avg") is False else average
    try:
        found = [_Found("inverter", *from_e4e_encoder(encoder, start), "e4e", remark)]
        if decoder:
            w_avg = average if average.ndim == 1 else average[0]
            found.append(_Found("generator", *from_rosinality(decoder, w_avg), "e4e"))
    except KeyError as error:
        raise _lacking(path, "a part of e4e's file", error) from None
    return found


def _checked(path: Path, network: _Found) -> ImportedNetwork:
    """The network with exactly the tensors that its class has; raises UserError naming what does not fit."""
    role, config, state = network.role, network.config, network.state
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
    return ImportedNetwork(role, config, kept, network.source_format, network.remark)
