"""Networks that are blind, or give what is no number, stop a job before it writes anything; poor ones do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.run import run_job
from faceanon_engine.engine.job.settings import job_settings
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.self_check import check_networks
from faceanon_engine.engine.method.step import StepSettings
from faceanon_engine.engine.models.bundle import Bundle
from faceanon_engine.engine.models.opened import OpenedNetworks
from faceanon_engine.engine.networks.irse import IdentityEncoder
from faceanon_engine.engine.networks.stylegan2 import Generator
from faceanon_engine.engine.sessions.runs import Runs, Sessions, sessions_of_bundle
from tests.support.fake_worker import make_inputs
from tests.support.tiny_bundle import write_tiny_bundle

Change = Callable[[Any], None]
RUNS = Runs("torch", "fp32", "cpu")
SETTINGS = StepSettings(PRESETS["falco"])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def opened(bundle: Bundle) -> tuple[OpenedNetworks, Sessions]:
    networks = OpenedNetworks(bundle)
    return networks, sessions_of_bundle(bundle, RUNS, networks=networks)


def zero_weights(encoder: IdentityEncoder) -> None:
    for parameter in encoder.output_layer.parameters():
        parameter.zero_()


def constant_bias(encoder: IdentityEncoder) -> None:
    encoder.output_layer[3].weight.zero_()
    encoder.output_layer[3].bias.fill_(0.3)


def nearly_constant(encoder: IdentityEncoder) -> None:
    encoder.output_layer[3].weight.mul_(1e-6)
    encoder.output_layer[3].bias.fill_(0.3)


def drowned_by_its_bias(encoder: IdentityEncoder) -> None:
    """Answers a hundredth of which is the face."""
    encoder.output_layer[3].weight.mul_(0.05)
    encoder.output_layer[3].bias.fill_(0.3)


def on_one_line(encoder: IdentityEncoder) -> None:
    weight = encoder.output_layer[3].weight
    weight.copy_(weight[:1].expand_as(weight).clone())
    encoder.output_layer[3].bias.zero_()
    encoder.output_layer[4].running_mean.zero_()
    encoder.output_layer[4].bias.zero_()


def blind_from_the_start(network: Any) -> None:
    network.input_layer[0].weight.zero_()


def one_nan(encoder: IdentityEncoder) -> None:
    encoder.output_layer[3].weight[2, 1] = torch.nan


def infinite(encoder: IdentityEncoder) -> None:
    encoder.output_layer[4].running_var.fill_(-1.0)


def empty_tokens(encoder: Any) -> None:
    for parameter in encoder.parameters():
        parameter.zero_()


def same_picture(generator: Generator) -> None:
    for layer in generator.layers:
        layer.conv.modulation.weight.zero_()  # type: ignore[union-attr]


def no_picture(generator: Generator) -> None:
    generator.const.fill_(torch.nan)


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        ("identity_encoder", zero_weights, "identity encoder gives embeddings of length 0 instead of 1"),
        ("identity_encoder", constant_bias, "identity encoder is blind, it gives different faces the same embeddings"),
        ("identity_encoder", nearly_constant, "identity encoder is blind"),
        ("identity_encoder", drowned_by_its_bias, "identity encoder is blind"),
        ("identity_encoder", on_one_line, "identity encoder is blind"),
        ("identity_encoder", blind_from_the_start, "identity encoder is blind"),
        ("identity_encoder", one_nan, "identity encoder gives embeddings that are not finite"),
        ("identity_encoder", infinite, "identity encoder gives embeddings that are not finite"),
        ("attribute_encoder", empty_tokens, "attribute encoder is blind"),
        ("inverter", blind_from_the_start, "inverter is blind, it gives different faces the same codes"),
        ("generator", no_picture, "generator gives pictures that are not finite"),
    ],
)
@torch.no_grad()
def test_a_network_that_is_blind_is_named(bundle: Bundle, role: str, change: Change, words: str) -> None:
    networks, sessions = opened(bundle)
    change(networks.of_role(role))
    with pytest.raises(UserError, match=f"bundle tiny: the {words}") as refused:
        check_networks(networks, sessions, SETTINGS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_random_weights_are_poor_and_not_blind(bundle: Bundle, preset: str, precision: Any) -> None:
    check_networks(*opened(bundle), StepSettings(PRESETS[preset], precision=precision))


def test_the_demo_sees() -> None:
    check_networks(*opened(Bundle.open("demo")), SETTINGS)


@torch.no_grad()
def test_what_the_steps_precision_breaks_is_seen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, sessions = opened(bundle)
    whole = IdentityEncoder.embed

    def overflowing(self: IdentityEncoder, pixels: torch.Tensor) -> torch.Tensor:
        return whole(self, pixels) * (torch.nan if torch.is_autocast_enabled("cpu") else 1)

    monkeypatch.setattr(IdentityEncoder, "embed", overflowing)
    check_networks(networks, sessions, SETTINGS)
    with pytest.raises(UserError, match="identity encoder gives cosines that are not finite in bf16"):
        check_networks(networks, sessions, replace(SETTINGS, precision="bf16"))


def test_what_a_sessions_backend_breaks_is_seen(bundle: Bundle) -> None:
    networks, sessions = opened(bundle)

    class Zeros:
        def __init__(self, graph: str) -> None:
            self._graph = graph

        def run(self, images: Any) -> torch.Tensor:
            return 0 * sessions.session(self._graph).run(images)

    broken: Any = Sessions(Zeros, Runs("onnxruntime", "fp16", "cpu"), sessions.attribute_config)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"attribute encoder is blind, .* by onnxruntime in fp16"):
        check_networks(networks, broken, SETTINGS)


@pytest.mark.parametrize("devices", [None, "cpu,cpu"])
def test_a_job_with_a_blind_encoder_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: str | None
) -> None:
    """The bundle is whole, its checksums hold: it was made of a blind encoder."""
    from safetensors.torch import load_file, save_file

    monkeypatch.setenv("FACEANON_HOME", str(tmp_path / "home"))
    bundle = write_tiny_bundle(tmp_path / "tiny")
    file = bundle.file("identity_encoder")
    state = load_file(file)
    save_file({key: 0 * value if key.startswith("output_layer") else value for key, value in state.items()}, file)
    content = json.loads((bundle.path / "bundle.json").read_text())
    entry = content["networks"]["identity_encoder"]
    entry["sha256"], entry["bytes"] = _checksum(file), file.stat().st_size
    (bundle.path / "bundle.json").write_text(json.dumps(content))
    make_inputs(tmp_path / "in", 2)
    values = {"bundle": str(bundle.path), "pool_size": 8, "align": "never", "steps": 1, "devices": devices}
    settings = job_settings(tmp_path / "in", tmp_path / "out", {**values, "device": "cpu"})
    with pytest.raises(UserError, match="bundle tiny: the identity encoder gives embeddings of length 0"):
        run_job(settings)
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "home").rglob("*.npy")), "no pool is made for it either"


def _checksum(file: Path) -> str:
    from faceanon_engine.engine.system.digests import sha256_of

    return sha256_of(file)
