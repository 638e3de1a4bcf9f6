"""The modules made for export are the networks' own functions, to float64's last digits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.networks.resize import resize_and_crop
from faceanon_engine.engine.sessions.graphs import GRAPHS
from faceanon_engine.export.wrappers import average_matrix, resize_and_crop_matrix, run_network, wrap

CONFIGS: dict[str, dict[str, Any]] = {
    "generator": {"resolution": 32, "z_dim": 12, "w_dim": 16, "channel_base": 256, "channel_max": 16},
    "inverter": {"input_size": 32, "rows": 8, "w_dim": 16, "units": (1, 2, 1, 1), "widths": (8, 8, 16, 16)},
    "identity_encoder": {"input_size": 32, "resize": 40, "crop": (3, 39, 2, 38), "units": (2, 1, 1, 1)},
    "attribute_encoder": {"input_size": 32, "patch": 8, "width": 32, "layers": 2, "heads": 4, "embedding_dim": 8},
}
CONFIGS["identity_encoder"] |= {"widths": (8, 8, 16, 16), "embedding_dim": 16, "reduction": 4}
CONFIGS["inverter"]["reduction"] = 4
# Images smaller than, as large as and larger than the network sees.
SIDES = {name: [24, 32, 40, 75] if graph.takes_image else [0] for name, graph in GRAPHS.items()}


def network(role: str, **changes: Any) -> torch.nn.Module:
    """A random network whose normalisations, noise and averages do something."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = build(role, CONFIGS[role] | changes)
        for module in made.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                torch.nn.init.normal_(module.running_mean, 0, 0.3)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
                torch.nn.init.normal_(module.weight, 1, 0.2)
                torch.nn.init.normal_(module.bias, 0, 0.2)
        for name, value in (*made.named_parameters(), *made.named_buffers()):
            if name.endswith(("noise_strength", "latent_avg", "bias")) and "affine" not in name:
                torch.nn.init.normal_(value, 0, 0.3)
    return made.eval().requires_grad_(False)


def inputs(graph: str, made: Any, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if graph == "mapping":
        return torch.randn(3, made.config.z_dim, generator=generator, dtype=torch.float64)
    if graph == "synthesis":
        return torch.randn(3, made.config.rows, made.config.w_dim, generator=generator, dtype=torch.float64) * 2
    return torch.rand(3, 3, side, side, generator=generator, dtype=torch.float64) * 2 - 1


def share(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.square().mean().sqrt())


@pytest.mark.parametrize(("graph", "side"), [(graph, side) for graph, sides in SIDES.items() for side in sides])
def test_a_wrapper_is_its_network(graph: str, side: int) -> None:
    """Images both as float32 and as uint8."""
    known = GRAPHS[graph]
    made = network(known.role).double()
    value = inputs(graph, made, side)
    assert share(wrap(made, graph, side=side)(value), run_network(made, graph, value)) < 1e-12
    if known.takes_image:
        pixels = (value * 127.5 + 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        seen = pixels.permute(0, 3, 1, 2).double() / 127.5 - 1
        found = wrap(made, graph, side=side, image_input="uint8")(pixels)
        assert share(found, run_network(made, graph, seen)) < 1e-12


@pytest.mark.parametrize(("resize", "crop"), [(None, None), (40, (4, 36, 0, 32)), (64, (5, 61, 3, 59))])
def test_every_crop_of_the_identity_encoder_is_kept(resize: int | None, crop: tuple[int, ...] | None) -> None:
    made = network("identity_encoder", resize=resize, crop=crop).double()
    value = inputs("identity", made, 64)
    assert share(wrap(made, "identity", side=64)(value), run_network(made, "identity", value)) < 1e-12


@pytest.mark.parametrize(("side", "size"), [(64, 64), (100, 64), (1024, 224), (37, 64), (65, 64)])
def test_resizing_is_a_matrix(side: int, size: int) -> None:
    image = torch.rand(1, 2, side, side, dtype=torch.float64)
    matrix = resize_and_crop_matrix(side, size)
    torch.testing.assert_close(matrix @ image @ matrix.t(), resize_and_crop(image, size), rtol=0, atol=1e-12)
    # Constants stay what they are: recipes that scale and shift pixels may be applied before.
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size, dtype=torch.float64))


def test_averaging_is_a_matrix() -> None:
    image = torch.rand(1, 2, 188, 188, dtype=torch.float64)
    matrix = average_matrix(188, 112)
    expected = torch.nn.functional.adaptive_avg_pool2d(image, 112)
    torch.testing.assert_close(matrix @ image @ matrix.t(), expected, rtol=0, atol=1e-12)


def test_weights_are_shared_and_the_network_stays_as_it_was() -> None:
    made: Any = network("inverter")
    before = {key: value.clone() for key, value in made.state_dict().items()}
    wrapped: Any = wrap(made, "inverter", side=32, dtype=torch.float32)
    assert wrapped.latlayer1.weight.data_ptr() == made.latlayer1.weight.data_ptr()
    wrap(made, "inverter", side=32, dtype=torch.float64)
    for key, value in made.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_modulation_keeps_convolutions_within_the_range_of_their_outputs(scale: float) -> None:
    """Styles are at most 1, and nothing between them and the demodulated output is larger than that output."""
    made: Any = network("generator")
    for layer in made.layers:
        layer.conv.affine.weight *= scale
    wrapped: Any = wrap(made, "synthesis")
    w = torch.randn(5, made.config.w_dim, dtype=torch.float64)
    for layer in wrapped.layers:
        styles, demodulation = layer.modulation(w)
        assert float(styles.abs().max()) <= 1
        # With the activation's gain in it, it is at least sqrt 2.
        assert float(demodulation.min()) >= 1.414
