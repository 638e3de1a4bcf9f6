"""Networks that resemble the method's are told from them, and wrapped ones are read as what they are."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
from tests.golden.stand_ins import state_dict, write_nvidia_pickle
from tests.support.small_checkpoints import e4e_content, encoder_state, nvidia_state

ONE = torch.ones(1)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message


@pytest.mark.parametrize(
    ("opts", "words"),
    [
        ({"encoder_type": "GradualStyleEncoder"}, "a pSp encoder"),
        ({"encoder_type": "BackboneEncoderUsingLastLayerIntoW"}, "an encoder into W"),
        ({"encoder_type": "SingleStyleCodeEncoder"}, "an encoder into W"),
        ({"encoder_type": "BackboneEncoder"}, "a ReStyle encoder"),
        ({"encoder_type": "ProgressiveBackboneEncoder"}, "a ReStyle encoder"),
        ({"encoder_type": "ResNetProgressiveBackboneEncoder"}, "a ReStyle encoder"),
        ({"n_iters_per_batch": 5}, "a ReStyle encoder"),
        ({"encoder_type": "Mine\n" * 100}, "another encoder than e4e's"),
    ],
)
@pytest.mark.parametrize("kind", [dict, lambda opts: Namespace(**opts)])
def test_an_encoder_with_e4es_tensors_is_known_by_its_options(
    opts: dict[str, Any], words: str, kind: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    content = e4e_content(**opts)
    options = kind(content.pop("opts"))
    for key in ("opts", "hparams"):
        torch.save({**content, key: options}, tmp_path / "file.pt")
        message = refusal(tmp_path / "file.pt")
        assert words in message
        assert "e4e_ffhq_encode.pt" in message


@pytest.mark.parametrize("opts", [None, {}, {"encoder_type": 3}, "missing", [1]])
def test_without_options_it_is_said_what_the_encoder_was_taken_for(opts: Any, tmp_path: Path) -> None:
    content = e4e_content()
    if opts == "missing":
        del content["opts"]
    else:
        content["opts"] = opts
    torch.save(content, tmp_path / "file.pt")
    (network,) = read_checkpoint(tmp_path / "file.pt")
    assert (network.role, network.source_format) == ("inverter", "e4e")
    assert "taken for e4e's" in network.remark
    torch.save(e4e_content(), tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt")[0].remark == ""


@pytest.mark.parametrize("relative", [True, False])
def test_codes_are_relative_to_the_average_where_the_options_say_so(relative: bool, tmp_path: Path) -> None:
    torch.save(e4e_content(start_from_latent_avg=relative), tmp_path / "file.pt")
    (network,) = read_checkpoint(tmp_path / "file.pt")
    assert torch.equal(network.state_dict["latent_avg"], torch.full((8, 2), float(relative)))


@pytest.mark.parametrize(("channels", "word"), [(6, "ReStyle"), (1, "1 channels"), (19, "19 channels")])
@pytest.mark.parametrize("opts", [{}, {"encoder_type": "GradualStyleEncoder"}])
def test_an_encoder_of_other_inputs_is_known_by_its_first_layer(
    channels: int, word: str, opts: dict[str, Any], tmp_path: Path
) -> None:
    content = e4e_content(**opts)
    for key in ("encoder.input_layer.0.weight", "module.encoder.input_layer.0.weight"):
        content["state_dict"].pop("encoder.input_layer.0.weight", None)
        content["state_dict"][key] = torch.ones(1, channels, 3, 3)
        torch.save(content, tmp_path / "file.pt")
        assert word in refusal(tmp_path / "file.pt")
        del content["state_dict"][key]


def _stylegan3(kind: str) -> dict[str, torch.Tensor]:
    one = {"synthesis.input.freqs": torch.ones(2, 2)} if kind == "input" else {}
    layers = {"synthesis.L0_36_512.weight": torch.ones(1, 1, 1, 1), "synthesis.L14_1024_3.bias": ONE}
    return {"mapping.w_avg": ONE, "mapping.embed.weight": torch.ones(1, 1), **(one or layers)}


def _resnet() -> dict[str, torch.Tensor]:
    state = {key: value for key, value in nvidia_state().items() if not key.startswith("synthesis.b4.torgb")}
    return {**state, "synthesis.b8.skip.weight": torch.ones(1, 1, 1, 1)}


def _without(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(prefix)}


GENFORCE = state_dict("stylegan2-genforce-64")
OTHERS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "StyleGAN3's input": (_stylegan3("input"), "StyleGAN3-T or StyleGAN3-R"),
    "StyleGAN3's layers": (_stylegan3("layers"), "StyleGAN3-T or StyleGAN3-R"),
    "resnet": (_resnet(), "resnet architecture"),
    "orig": (_without("synthesis.b4.torgb", nvidia_state()), "orig or resnet architecture"),
    "classes": ({**nvidia_state(), "mapping.embed.weight": torch.ones(2, 2)}, "labelled classes"),
    "EG3D": ({"backbone.synthesis.b4.const": ONE, "decoder.net.0.weight": ONE}, "3D scenes"),
    "GenForce's resnet": ({**GENFORCE, "synthesis.skip_layer0.weight": ONE}, "resnet architecture"),
    "GenForce's origin": (_without("synthesis.output0", GENFORCE), "orig or resnet architecture"),
    "GenForce's classes": ({**GENFORCE, "mapping.label_weight": ONE}, "labelled classes"),
    "StyleGAN of GenForce": ({"synthesis.lod": ONE, "synthesis.layer0.apply_noise.weight": ONE}, "the first StyleGAN"),
    "StyleGAN": ({"g_synthesis.blocks.4x4.const": ONE}, "the first StyleGAN"),
    "GFPGAN": ({"style_conv1.modulated_conv.weight": ONE, "constant_input.weight": ONE}, "BasicSR"),
    "a bundle's": ({"layers.0.conv.affine.weight": ONE}, "of a bundle"),
    "CLIP of ResNet": ({"visual.conv1.weight": ONE, "visual.layer1.0.conv1.weight": ONE}, "CLIP with a ResNet"),
    "CLIP of Hugging Face": ({"vision_model.encoder.layers.0.mlp.fc1.weight": ONE}, "Hugging Face"),
    "InsightFace": ({"conv1.weight": ONE, "layer1.0.prelu.weight": ONE}, "InsightFace"),
    "into W": ({"encoder.input_layer.0.weight": torch.ones(1, 3, 3, 3), "encoder.linear.weight": ONE}, "into W"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_another_network_is_named_with_what_is_needed(name: str, prefix: str, tmp_path: Path) -> None:
    state, words = OTHERS[name]
    state = {f"{prefix}{key}": value for key, value in state.items()}
    path = tmp_path / "file"
    for content in (state, {"state_dict": state}, {"g_ema": state}, {"models": {"generator_smooth": state}}):
        torch.save(content, path)
        message = refusal(path)
        assert f"{path} holds " in message
        assert words in message
    if not prefix:
        write_nvidia_pickle(state, path)
        assert words in refusal(path)


def test_a_stylegan3_pickle_with_numpys_arrays_is_named(tmp_path: Path) -> None:
    """Its layers keep sizes as arrays, which no generator of the StyleGAN2 architecture does."""
    import pickle

    content = {"G_ema": {"_buffers": {}, "_modules": {"synthesis": {"size": np.array([36, 36])}}}}
    (tmp_path / "file").write_bytes(pickle.dumps(content))
    assert "numpy" not in refusal(tmp_path / "file")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize(
    ("role", "layout", "content"),
    [
        ("inverter", "e4e", e4e_content()),
        ("identity_encoder", "arcface", {"state_dict": encoder_state("identity_encoder")}),
        ("generator", "nvidia", {"G_ema": nvidia_state()}),
        ("generator", "nvidia", {"state_dict": nvidia_state()}),
        ("generator", "genforce", {"generator_smooth": GENFORCE}),
        ("generator", "genforce", {"models": {"generator_smooth": GENFORCE, "discriminator": {}}, "optimizers": {}}),
    ],
)
def test_a_wrapped_network_is_read_as_the_network(
    prefix: str, role: str, layout: str, content: dict[str, Any], tmp_path: Path
) -> None:
    def wrapped(value: Any) -> Any:
        if isinstance(value, dict) and any(isinstance(item, torch.Tensor) for item in value.values()):
            return {f"{prefix}{key}": item for key, item in value.items()}
        return {key: wrapped(item) for key, item in value.items()} if isinstance(value, dict) else value

    networks = []
    for saved in (content, {**wrapped({**content, "latent_avg": None}), "latent_avg": content.get("latent_avg")}):
        torch.save(saved, tmp_path / "file.pt")
        (network,) = read_checkpoint(tmp_path / "file.pt")
        assert (network.role, network.source_format) == (role, layout)
        networks.append(network.state_dict)
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


def test_an_encoder_that_is_wrapped_within_another_network_is_read(tmp_path: Path) -> None:
    content = e4e_content()
    content["state_dict"] = {k.replace("encoder.", "encoder.module.", 1): v for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt")[0].role == "inverter"


def test_a_tensor_that_is_there_wrapped_and_unwrapped_is_refused(tmp_path: Path) -> None:
    state = nvidia_state()
    torch.save({"G_ema": {**state, "module.mapping.w_avg": ONE}}, tmp_path / "file.pt")
    assert "mapping.w_avg twice" in refusal(tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"models": {"generator_smooth": {"synthesis.layer0.weight": ONE}}, "optimizers": {}}, "in GenForce's layout"),
        ({"models": {"discriminator": {}}, "optimizers": {}}, "no tensors of Torch's under names (but discriminator)"),
        ({"a.weight": ONE, "b": ONE}, "none of the known networks (but a.weight, b)"),
        ({"g_ema": {"input.input": ONE}}, "in rosinality's layout"),
        ({"a": np.ones(3)}, "no tensors of Torch's under names (but a)"),
        ({"optimizer": {}}, "no tensors of Torch's under names (but optimizer)"),
    ],
)
def test_what_is_there_is_said_where_a_network_is_not(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pt")
    assert words in refusal(tmp_path / "file.pt")
