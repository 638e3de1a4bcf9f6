"""The networks, losses and optimisation compute what the original programs computed, values and gradients.

The checkpoints are written in the official layouts and go through the importer, so its conversions are part of it.
Tolerances are those of tests/golden/README.md: 1e-4 of the largest magnitude at 1024 px and for the trajectory, else
1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from faceanon_engine.engine.method.compare import real_targets
from faceanon_engine.engine.method.losses import attribute_loss, identity_cosine, identity_loss
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.reference import optimise
from faceanon_engine.engine.method.step import mix_codes
from faceanon_engine.engine.networks.features import attribute_features, identity_embedding
from tests.golden import stand_ins
from tests.golden.stand_ins import arrays, error, latent, mixed_image, network, smooth_image

SMALL = {"stylegan2-genforce-64": ("genforce64", 3, 10), "stylegan2-rosinality-32": ("rosinality32", 2, 8)}
SMALL["stylegan2-nvidia-64"] = ("nvidia64", 2, 10)


@pytest.fixture(autouse=True, scope="module")
def _forget_networks() -> Iterator[None]:
    yield
    stand_ins.imported.cache_clear()


@pytest.mark.parametrize("name", SMALL)
def test_a_small_generator_gives_the_originals_images_gradients_and_codes(name: str) -> None:
    stem, count, rows = SMALL[name]
    generator, expected = network(name), arrays(name)
    w_plus = torch.from_numpy(latent(f"{stem}.wp", (count, rows, 64))).requires_grad_(True)
    image = generator.synthesis(w_plus)
    assert error(image, expected["image"]) < 1e-5
    cotangent = torch.from_numpy(latent(f"{stem}.cotangent", tuple(image.shape)))
    (gradient,) = torch.autograd.grad((image * cotangent).sum(), [w_plus])
    assert error(gradient, expected["grad_wp"]) < 1e-5
    w = generator.mapping(torch.from_numpy(latent(f"{stem}.z", (4, 64))))
    assert error(w, expected["mapping_w"]) < 1e-5
    if "truncated_wp" in expected:
        assert error(generator.broadcast(generator.truncate(w, 0.7)), expected["truncated_wp"]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["genforce", "rosinality", "nvidia"])
def test_the_1024_px_generator_gives_the_originals_image(layout: str) -> None:
    name = f"stylegan2-{layout}-1024"
    generator, expected = network(name), arrays(name)
    stand_ins.imported.cache_clear()
    w_plus = 0.7 * torch.from_numpy(latent(f"{layout}1024.wp", (1, 18, 512)))
    with torch.no_grad():
        image = generator.synthesis(w_plus)
    area = F.avg_pool2d(image, 8)
    assert error(area, expected["image_area128"].reshape(area.shape)) < 1e-4
    crop = image[:, :, 480:544, 480:544]
    assert error(crop, expected["crop64"].reshape(crop.shape)) < 1e-4
    stats = np.array([image.mean(), image.std(), image.min(), image.max()])
    assert error(stats, expected["stats"].reshape(-1)) < 1e-4


@pytest.mark.slow
def test_e4e_gives_the_originals_codes() -> None:
    with torch.no_grad():
        codes = network("e4e-encoder-1024")(torch.from_numpy(2 * smooth_image("e4e", 2, 256) - 1))
    assert error(codes, arrays("e4e-encoder-1024")["codes"]) < 1e-5


def test_arcface_gives_the_originals_embeddings() -> None:
    encoder, expected = network("arcface-irse50-112"), arrays("arcface-irse50-112")
    with torch.no_grad():
        small = encoder.embed(torch.from_numpy(2 * smooth_image("arcface", 2, 112) - 1))
        large = encoder(torch.from_numpy(2 * smooth_image("arcface.full", 2, 1024) - 1))
    assert error(small, expected["embedding112"]) < 1e-5
    assert error(large, expected["embedding_from_1024"]) < 1e-5


def test_farl_gives_the_originals_features() -> None:
    encoder, expected = network("farl-vit-b16"), arrays("farl-vit-b16")
    with torch.no_grad():
        small = encoder(torch.from_numpy(2 * smooth_image("farl", 2, 224) - 1))
        large = encoder(torch.from_numpy(2 * smooth_image("farl.full", 2, 1024) - 1))
    assert error(small.embedding, expected["cls"]) < 1e-5
    assert error(small.tokens[:, ::14], expected["tokens"]) < 1e-5
    assert error(small.tokens.abs().mean(dim=(0, 2)), expected["tokens_mean_abs"]) < 1e-5
    assert error(large.embedding, expected["cls_from_1024"]) < 1e-5


def test_both_presets_losses_are_the_originals() -> None:
    identity, attribute, expected = network("arcface-irse50-112"), network("farl-vit-b16"), arrays("losses")
    columns = [str(name) for name in expected["columns"]]
    for row in expected["rows"]:
        wanted = dict(zip(columns, (float(value) for value in row), strict=True))
        size, margin = int(wanted.pop("size")), wanted.pop("margin")
        real = torch.from_numpy(2 * smooth_image("loss.real", 1, size) - 1)
        generated = torch.from_numpy(2 * mixed_image("loss.real", "loss.other", 0.35, 1, size) - 1)
        for name, preset in (("released", PRESETS["falco-released"]), ("corrected", PRESETS["falco"])):
            with torch.no_grad():
                targets = real_targets(identity, attribute, real, preset)
                cosine = identity_cosine(
                    identity_embedding(identity, generated, preset.identity_generated), targets.identity
                )
                tokens = attribute_features(attribute, generated, preset.attribute_generated).tokens
            found = {"id": float(identity_loss(cosine, margin)), "att": float(attribute_loss(tokens, targets.tokens))}
            for kind, value in found.items():
                (column,) = [c for c in wanted if kind in c and name in c]
                assert value == pytest.approx(wanted[column], rel=1e-5, abs=1e-5), (column, size, margin)


@pytest.mark.parametrize(("preset", "name"), [("falco", "corrected"), ("falco-released", "released")])
def test_the_optimisation_takes_the_originals_steps(preset: str, name: str) -> None:
    expected = arrays("trajectory")
    generator = network("stylegan2-genforce-64")
    identity, attribute = network("arcface-irse50-112"), network("farl-vit-b16")
    real = torch.from_numpy(2 * smooth_image("trajectory.real", 1, 64) - 1)
    codes = [0.7 * torch.from_numpy(latent(f"trajectory.w_{kind}", (1, 10, 64))) for kind in ("real", "fake")]
    result = optimise(
        generator,
        identity,
        attribute,
        mix_codes(codes[0], codes[1], PRESETS[preset]),
        real_targets(identity, attribute, real, PRESETS[preset]),
        PRESETS[preset],
        steps=5,
        schedule_steps=50,
    )
    losses = np.array([[float(step.identity), float(step.attribute)] for step in result.history])
    for column in range(2):
        assert error(losses[:, column], expected[f"{name}_losses"][:, column]) < 1e-4
    assert error(result.w_plus[:, 3:8], expected[f"{name}_code"]) < 1e-4
