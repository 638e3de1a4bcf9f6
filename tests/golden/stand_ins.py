"""Checkpoints in the official layouts, made of stand-in weights, and what the importer finds in them."""

from __future__ import annotations

import json
import pickle
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceanon_engine.engine.models.checkpoints.reading import ImportedNetwork, read_checkpoint
from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.networks.stylegan2 import Generator
from tests.golden.inputs import latent, mixed_image, smooth_image
from tests.golden.weights import make_state_dict

__all__ = ["arrays", "error", "imported", "latent", "mixed_image", "network", "smooth_image", "write_checkpoint"]

HERE = Path(__file__).resolve().parent


def arrays(name: str) -> dict[str, np.ndarray]:
    """The original's outputs."""
    with np.load(HERE / f"{name}.npz") as data:
        return dict(data)


def error(actual: torch.Tensor | np.ndarray, expected: np.ndarray) -> float:
    """Largest difference as a share of the largest magnitude expected."""
    if isinstance(actual, torch.Tensor):
        actual = actual.detach().numpy()
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def state_dict(manifest: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Stand-in weights; names lose the prefix before the weights are drawn, as in weights.py."""
    rows = json.loads((HERE / "manifests" / f"{manifest}.json").read_text())
    return {key: torch.as_tensor(np.asarray(value)) for key, value in make_state_dict(rows, prefix).items()}


def write_checkpoint(name: str, path: Path) -> None:
    """Write the checkpoint of that golden as its authors' program would have written it."""
    if name.startswith("stylegan2-genforce"):
        torch.save({"generator_smooth": state_dict(name), "discriminator": {}}, path)
    elif name.startswith("stylegan2-rosinality"):
        torch.save({"g_ema": state_dict(name)}, path, _use_new_zipfile_serialization=False)
    elif name.startswith("stylegan2-nvidia"):
        write_nvidia_pickle(state_dict(name), path)
    elif name == "arcface-irse50-112":
        torch.save(state_dict(name), path, _use_new_zipfile_serialization=False)
    elif name == "farl-vit-b16":
        visual = {f"visual.{key}": value for key, value in state_dict(name, "visual.").items()}
        text = {"transformer.resblocks.0.ln_1.weight": torch.ones(4), "logit_scale": torch.ones(())}
        torch.save({"state_dict": {**visual, **text}, "epoch": 64}, path)
    elif name == "e4e-encoder-1024":
        encoder = {f"encoder.{key}": value for key, value in state_dict(name).items()}
        torch.save({"state_dict": encoder, "latent_avg": torch.zeros(18, 512), "opts": {"device": "cuda:0"}}, path)
    else:
        raise ValueError(name)


def write_nvidia_pickle(state: dict[str, torch.Tensor], path: Path) -> None:
    """A pickle as NVIDIA's persistence writes it: for every module a record of its class's source and its state."""
    persistence = types.ModuleType("torch_utils.persistence")
    util = types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("only names are pickled")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]

    class EasyDict(dict):  # type: ignore[type-arg]
        pass

    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    util.EasyDict = EasyDict  # type: ignore[attr-defined]

    class Module:
        def __init__(self) -> None:
            self.parameters: dict[str, torch.Tensor] = {}
            self.modules: dict[str, Module] = {}

        def __reduce__(self) -> Any:
            content = {
                "training": False,
                "weight_gain": 0.01 / np.sqrt(512),  # a NumPy number, as in every layer of the release
                "init_kwargs": EasyDict(widths={64}, first=slice(0, 1)),
                "_parameters": {k: torch.nn.Parameter(v) for k, v in self.parameters.items() if "noise_const" not in k},
                "_buffers": {k: v for k, v in self.parameters.items() if "noise_const" in k},
                "_modules": self.modules,
            }
            source = "raise SystemExit('the source of a class was run')"
            meta = EasyDict(type="class", version=6, module_src=source, class_name="Generator", state=content)
            return _reconstruct_persistent_obj, (meta,)

    root = Module()
    for key, value in state.items():
        *folders, leaf = key.split(".")
        module = root
        for folder in folders:
            module = module.modules.setdefault(folder, Module())
        module.parameters[leaf] = value
    parent, dnnlib = types.ModuleType("torch_utils"), types.ModuleType("dnnlib")
    made = {"torch_utils": parent, "torch_utils.persistence": persistence, "dnnlib": dnnlib, "dnnlib.util": util}
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        with open(path, "wb") as stream:
            pickle.dump({"G": None, "D": None, "G_ema": root, "training_set_kwargs": EasyDict(size=3)}, stream)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


@cache
def imported(name: str) -> ImportedNetwork:
    """The network that the importer finds in that golden's checkpoint."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.bin"
        write_checkpoint(name, path)
        (only,) = read_checkpoint(path)
    return only


def network(name: str) -> Any:
    """That network, frozen."""
    read = imported(name)
    module = build(read.role, read.config)
    module.load_state_dict(read.state_dict)
    module.eval().requires_grad_(False)
    return module.freeze() if isinstance(module, Generator) else module
