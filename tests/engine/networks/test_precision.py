"""What is called float32 is float32 on a GPU, too: PyTorch's switches say so while anything of a step is computed."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from faceanon_engine.engine.method.compare import real_targets
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.step import StepSettings, begin, look, step, with_view
from faceanon_engine.engine.networks.precision import _switches, computing
from tests.support.opened import Opened
from tests.support.tiny_bundle import write_tiny_bundle


def switches() -> list[Any]:
    return [getattr(place, name) for place, name in _switches()]


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switches are there without a GPU; only what asks for one is told that it is here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("on_a_gpu")
def test_switches_are_as_the_precision_says_and_then_as_before() -> None:
    before = switches()
    inside = {}
    for precision in ("fp32", "tf32", "fp16", "bf16"):
        with suppress(InterruptedError), computing(precision):  # type: ignore[arg-type]
            inside[precision] = switches()
            raise InterruptedError
        assert switches() == before
    assert inside["tf32"] != inside["fp32"] == inside["fp16"] == inside["bf16"]
    assert all(value in ("ieee", False) for value in inside["fp32"])
    assert torch.backends.cudnn.allow_tf32 in (True, False), "the older switches can be read afterwards"


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_everything_of_an_image_is_computed_as_its_precision_says(tmp_path: Path, precision: Any) -> None:
    networks = Opened(write_tiny_bundle(tmp_path / "tiny")).three
    seen: list[tuple[str, bool]] = []
    for name, network in networks._asdict().items():
        for layer in network.modules():
            layer.register_forward_pre_hook(lambda *_, name=name: seen.append((name, "tf32" in map(str, switches()))))
    settings = StepSettings(replace(PRESETS["falco"], trainable_rows=(3, 5)), precision=precision, resolution=16)
    random = torch.Generator().manual_seed(1)
    w_plus, real = torch.randn(1, 8, 16, generator=random), torch.rand(1, 3, 32, 32, generator=random) * 2 - 1
    with computing("fp32"):
        targets = real_targets(*networks[1:], real, settings.preset)
    with computing("tf32"):  # whatever was set before
        state = begin(networks.generator, w_plus, targets, settings)
        assert set(seen) == {(name, False) for name in networks._fields}, "what is computed once is computed well"
        seen.clear()
        state = with_view(networks, state, settings)
        step(networks, state, settings)
        look(networks, state, settings)
    assert {name for name, _ in seen} == set(networks._fields)
    assert {rounded for _, rounded in seen} == {precision == "tf32"}
