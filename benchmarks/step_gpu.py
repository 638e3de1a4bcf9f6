"""Times the optimisation step on a GPU at one side of the picture, over precisions and batch sizes.

    python -m benchmarks.step_gpu --side 1024 --output step-1024.json

Networks have the shapes of the FFHQ ones at that side and random weights; times do not depend on the values. Each
setting is timed as the engine runs it (one CUDA graph a step) and without the graph, beside a plain loop that takes one
image at a time, as one would first write it (`plain_loop.py`), in Torch's own defaults. With `--device cpu` it runs the
same code at any size, to find mistakes before GPU time is spent.
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.attempts import attempted
from benchmarks.plain_loop import PlainGenerator, plain_step
from benchmarks.result import leave_out, new_result, new_row, timing, write
from benchmarks.roofline import data_sheet, floors, measured_rates
from faceanon_engine.engine.choices import OptimisePrecision
from faceanon_engine.engine.method.capacity import measured_capacity
from faceanon_engine.engine.method.compare import Targets, compare, real_targets
from faceanon_engine.engine.method.continuous import PlainStepper, Ticket, make_lanes, optimise_continuously
from faceanon_engine.engine.method.cuda_graph import GraphStepper, stepper_for
from faceanon_engine.engine.method.preset import PRESETS
from faceanon_engine.engine.method.step import State, StepSettings, begin, draw
from faceanon_engine.engine.networks.build import build
from faceanon_engine.engine.networks.irse import IdentityEncoderConfig
from faceanon_engine.engine.networks.precision import Networks, computing, lowered
from faceanon_engine.engine.networks.stylegan2 import GeneratorConfig
from faceanon_engine.engine.networks.vit import AttributeEncoderConfig

PRECISIONS: tuple[OptimisePrecision, ...] = ("bf16", "tf32", "fp16", "fp32")
STEPS = 50


def configurations(side: int, tiny: bool) -> tuple[Any, Any, Any]:
    """Shapes of generator, identity and attribute encoder; `tiny` ones run anywhere."""
    if not tiny:
        return GeneratorConfig(resolution=side), IdentityEncoderConfig(), AttributeEncoderConfig()
    return (
        GeneratorConfig(resolution=side, z_dim=16, w_dim=16, channel_base=512, channel_max=16, mapping_layers=1),
        IdentityEncoderConfig(16, None, None, (1, 1, 1, 1), (8, 8, 16, 16), 4, 16),
        AttributeEncoderConfig(16, 8, 16, 1, 2, 16),
    )


def make_networks(configs: tuple[Any, Any, Any], device: torch.device) -> Networks:
    """Frozen networks with random weights, the same every time."""
    torch.manual_seed(0)
    roles = ("generator", "identity_encoder", "attribute_encoder")
    networks: list[Any] = [build(role, config) for role, config in zip(roles, configs, strict=True)]
    with torch.no_grad():
        for layer in networks[0].layers:
            layer.noise_strength.fill_(0.1)
    for network in networks:
        network.to(device).eval().requires_grad_(False)
    return Networks(networks[0].freeze(), *networks[1:])


def rosinality(generator: Any) -> dict[str, torch.Tensor]:
    """The generator's weights in the layout that the plain loop reads."""
    state: dict[str, torch.Tensor] = {"input.input": generator.const}
    for row, layer in enumerate(generator.layers):
        name = "conv1" if row == 0 else f"convs.{row - 1}"
        state |= modulated(f"{name}.conv", layer.conv)
        state[f"{name}.noise.weight"] = layer.noise_strength.view(1)
        state[f"{name}.activate.bias"] = layer.bias
        state[f"noises.noise_{row}"] = layer.noise
    for block, to_rgb in enumerate(generator.to_rgbs):
        name = f"to_rgbs.{block - 1}" if block else "to_rgb1"
        state |= modulated(f"{name}.conv", to_rgb.conv)
        state[f"{name}.bias"] = to_rgb.bias.view(1, 3, 1, 1)
    return {key: value.detach().clone() for key, value in state.items()}


def modulated(name: str, conv: Any) -> dict[str, torch.Tensor]:
    return {
        f"{name}.weight": conv.weight[None],
        f"{name}.modulation.weight": conv.affine.weight,
        f"{name}.modulation.bias": conv.affine.bias,
    }


class Clock:
    """Seconds of single calls on a device."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self.repeats = repeats

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def times(self, work: Callable[[], object], warm_up: int = 2) -> list[float]:
        """Seconds of each of some calls."""
        for _ in range(warm_up):
            work()
        seconds = []
        for _ in range(self.repeats):
            self.wait()
            started = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return seconds


def pace(timed: dict[str, Any], batch: int) -> float:
    """Images a second that a step's timing allows, when an image takes 50 of them and as much as one more beside."""
    return float(batch / (timed["median"] * (STEPS + 1)))


def image_state(networks: Networks, settings: StepSettings, device: torch.device) -> State:
    """One image at its first code, with targets of a random picture."""
    config = networks.generator.config
    random = torch.Generator(device="cpu").manual_seed(1)
    w_plus = torch.randn(1, config.rows, config.w_dim, generator=random).to(device) * 0.7
    real = torch.rand(1, 3, config.resolution, config.resolution, generator=random).to(device) * 2 - 1
    targets = real_targets(networks.identity_encoder, networks.attribute_encoder, real, settings.preset)
    return begin(networks.generator, w_plus, targets, settings)


def filled(image: State, batch: int) -> State:
    state = image.blank(batch)
    for slot in range(batch):
        state.place(slot, image)
    return state


def time_step(
    networks: Networks, low: Networks, settings: StepSettings, batch: int, clock: Clock, rates: dict[str, Any]
) -> dict[str, Any]:
    """One row: the captured step and the plain one at a batch size."""
    on_gpu = clock.device.type == "cuda"
    values: dict[str, Any] = {}
    image = image_state(networks, settings, clock.device)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(clock.device)
    state = filled(image, batch)
    plain = PlainStepper(low, settings)
    timings = {"without_graph": timing(clock.times(lambda: plain(state, batch, False)))}
    if on_gpu:
        gc.collect()
        torch.cuda.empty_cache()
        graphed = stepper_for(clock.device)(low, settings)
        assert isinstance(graphed, GraphStepper)
        timings["graph"] = timing(clock.times(lambda: graphed(state, batch, False)))
        values["graph_refused"] = graphed.refused
        values["peak_memory_gb"] = torch.cuda.max_memory_allocated(clock.device) / 1e9
        del graphed
    values["finite"] = bool(torch.isfinite(state.rows).all())
    best = timings.get("graph", timings["without_graph"])
    configs = [network.config for network in networks]
    values["seconds_per_image_step"] = best["median"] / batch
    values["images_per_second_at_50_steps"] = pace(best, batch)
    values["images_per_second_without_graph"] = pace(timings["without_graph"], batch)
    for name, known in rates.items():
        if known is not None:
            limit = floors(*configs, settings.precision, known)
            values[f"share_of_roofline_{name}"] = limit["step"] * batch / best["median"]
            values[f"floor_{name}"] = limit
    case = {"loop": "engine", "precision": settings.precision, "batch": batch}
    return new_row(case, timings=timings, **values)


def time_parts(
    networks: Networks, low: Networks, settings: StepSettings, batch: int, clock: Clock
) -> list[dict[str, Any]]:
    """Rows of the step's parts, forward and backward, one by one and without a graph."""
    state = filled(image_state(networks, settings, clock.device), batch)
    rows = state.rows.detach().requires_grad_(True)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(settings.precision)

    def generator() -> None:
        images = draw(low, state, rows, settings)
        torch.autograd.grad(images.sum(), [rows])

    with torch.no_grad():
        picture = draw(low, state, rows, settings)
    picture.requires_grad_(True)

    def encode(network: Any) -> Callable[[], None]:
        def work() -> None:
            with torch.autocast(clock.device.type, dtype, enabled=dtype is not None, cache_enabled=False):
                features = network(picture)
            features = features if isinstance(features, torch.Tensor) else features.tokens
            torch.autograd.grad(features.float().sum(), [picture])

        return work

    works = {
        "generator": generator,
        "identity_encoder": encode(low.identity_encoder),
        "attribute_encoder": encode(low.attribute_encoder),
    }
    case = {"loop": "engine", "precision": settings.precision, "batch": batch}
    with computing(settings.precision):
        return [
            new_row({"part": part, **case}, timings={"without_graph": timing(clock.times(work))})
            for part, work in works.items()
        ]


def kernel_table(networks: Networks, low: Networks, settings: StepSettings, batch: int, device: torch.device) -> Any:
    """The kernels that a step spends most time in, by Torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    state = filled(image_state(networks, settings, device), batch)
    plain = PlainStepper(low, settings)
    plain(state, batch, False)
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        plain(state, batch, False)
        if on_gpu:
            torch.cuda.synchronize(device)
    events = profiler.key_averages()

    def cost(event: Any) -> float:
        return float(getattr(event, "self_device_time_total", 0.0) if on_gpu else event.self_cpu_time_total)

    total = sum(cost(event) for event in events) or 1.0
    rows = sorted(events, key=cost, reverse=True)[:20]
    return [
        {
            "kernel": event.key[:160],
            "calls": event.count,
            "milliseconds": cost(event) / 1e3,
            "share": cost(event) / total,
        }
        for event in rows
    ]


def time_plain_loop(networks: Networks, clock: Clock) -> dict[str, Any]:
    """The yardstick's row, after a check that it draws the same picture."""
    generator = PlainGenerator(rosinality(networks.generator)).to(clock.device)
    identity, attribute = networks.identity_encoder, networks.attribute_encoder
    config = networks.generator.config
    w_plus = torch.randn(1, config.rows, config.w_dim, device=clock.device) * 0.7
    with torch.no_grad():
        ours, theirs = networks.generator.synthesis(w_plus), generator(w_plus)
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
    for network in (identity, attribute):
        network.requires_grad_(True)
    real = torch.rand(1, 3, config.resolution, config.resolution, device=clock.device) * 2 - 1
    rows = w_plus[:, 3:8].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([rows], lr=0.01)

    def tokens(image: torch.Tensor) -> torch.Tensor:
        return attribute.encode(attribute.preprocess(image)).tokens

    try:
        times = clock.times(lambda: plain_step(generator, identity, tokens, real, w_plus, rows, optimiser))
    finally:
        for network in (identity, attribute):
            network.requires_grad_(False)
            network.zero_grad(set_to_none=True)
    timed = timing(times)
    case = {"loop": "plain", "precision": "fp32", "batch": 1}
    values = {"images_per_second_at_50_steps": pace(timed, 1), "picture_difference": difference}
    return new_row(case, timings={"without_graph": timed}, **values)


def capacity(networks: Networks, low: Networks, settings: StepSettings, device: torch.device) -> int:
    """How many images the engine finds to fit."""
    return measured_capacity(low, settings, image_state(networks, settings, device), limit=1024)


def whole_runs(
    networks: Networks, precisions: list[OptimisePrecision], count: int, steps: int, device: torch.device
) -> Any:
    """Where whole optimisations of a few images end in each precision, judged in float32, against those in fp32."""
    config = networks.generator.config
    random = torch.Generator(device="cpu").manual_seed(2)
    w_plus = (torch.randn(count, config.rows, config.w_dim, generator=random) * 0.7).to(device)
    real = (torch.rand(count, 3, config.resolution, config.resolution, generator=random) * 2 - 1).to(device)
    preset = replace(PRESETS["falco"], steps=steps)
    targets = real_targets(networks.identity_encoder, networks.attribute_encoder, real, preset)
    ends: dict[str, Any] = {}
    for precision in ["fp32", *(each for each in precisions if each != "fp32")]:
        settings = StepSettings(preset, precision=precision)  # type: ignore[arg-type]
        low = lowered(networks, settings.precision)
        state = begin(networks.generator, w_plus, targets, settings)
        tickets = [Ticket(number, state.part(number, 1)) for number in range(count)]
        groups = list(
            optimise_continuously(low, make_lanes(low, settings, min(count, 2), stepper_for(device)), tickets)
        )
        results = sorted((result for group in groups for result in group), key=lambda result: result.key)
        with torch.no_grad(), computing("fp32"):
            parts = []
            for number, result in enumerate(results):
                images = networks.generator.synthesis(result.w_plus[None])
                target = Targets(targets.identity[number : number + 1], targets.tokens[number : number + 1])
                parts.append(compare(*networks[1:], images, target, preset))
        cosine, attribute = (torch.cat([part[index] for part in parts]).cpu() for index in (0, 1))
        ends[precision] = {"identity_cosine": cosine.tolist(), "attribute_loss": attribute.tolist()}
        exact = ends["fp32"]
        pairs = list(zip(attribute.tolist(), exact["attribute_loss"], strict=True))
        ends[precision]["attribute_loss_change_largest"] = max(abs(a / b - 1) for a, b in pairs)
        cosines = zip(cosine.tolist(), exact["identity_cosine"], strict=True)
        ends[precision]["identity_cosine_change_largest"] = max(abs(a - b) for a, b in cosines)
    return ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 1, 32, 4, 8, 2], help="what tells most first")
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300, help="begin nothing new after so long")
    parser.add_argument("--ends", type=int, default=4, help="images of the comparison of whole runs")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of those runs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the script itself")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    started = time.monotonic()
    clock = Clock(device, arguments.repeats)
    configs = configurations(arguments.side, arguments.tiny)
    networks = make_networks(configs, device)
    rates: dict[str, Any] = {}
    result = new_result(
        "step_gpu",
        "how long one optimisation step takes, and how near that is to the roofline",
        side=arguments.side,
        tiny=arguments.tiny,
        device=arguments.device,
        repeats=arguments.repeats,
        ends=arguments.ends,
        steps=arguments.steps,
    )
    best_of: dict[str, Any] = {}
    result["values"] |= {"rates": rates, "best": best_of}

    def save() -> None:
        result["seconds"] = time.monotonic() - started
        write(arguments.output, result)

    def attempt(name: str, work: Callable[..., Any], *with_these: Any) -> Any:
        """What the work gives, or None and a note: what fails costs no other figure."""
        if time.monotonic() - started > arguments.seconds:
            leave_out(result, name, "out of time")
            return None

        def failed(why: str) -> None:
            leave_out(result, name, why)

        return attempted(name, lambda: work(*with_these), failed, save)

    on_gpu = device.type == "cuda"
    rates["measured"] = attempt("rates", measured_rates, str(device), 8192 if on_gpu else 64)
    rates["data_sheet"] = data_sheet(torch.cuda.get_device_name(device)) if on_gpu else None
    plain = None
    plain_loop = attempt("plain loop", time_plain_loop, networks, clock)
    if plain_loop is not None:
        result["rows"].append(plain_loop)
        plain = plain_loop["values"]["images_per_second_at_50_steps"]
        print(f"{arguments.side} px, plain loop: {plain:.3f} images/s", flush=True)
    wanted = [each for each in arguments.precisions if each != "tf32" or device.type == "cuda"]
    for precision in wanted:
        settings = StepSettings(PRESETS["falco"], precision=precision)
        low = lowered(networks, precision)
        best: tuple[float, int] = (0.0, 0)
        too_many: float = math.inf
        for batch in arguments.batches:
            if batch >= too_many:
                continue
            name = f"{precision} batch {batch}"
            timed = attempt(name, time_step, networks, low, settings, batch, clock, rates)
            if timed is None:
                too_many = min(too_many, batch if result["left_out"][-1]["why"] == "out of memory" else math.inf)
                continue
            speed = timed["values"]["images_per_second_at_50_steps"]
            timed["values"]["times_plain_loop"] = speed / plain if plain else None
            result["rows"].append(timed)
            best = max(best, (speed, batch))
            share = timed["values"].get("share_of_roofline_measured")
            print(
                f"{arguments.side} px {name:>13}: {speed:8.3f} images/s"
                + (f", {speed / plain:6.1f} x plain" if plain else "")
                + (f", {100 * share:.0f} % of the measured roofline" if share else ""),
                flush=True,
            )
            save()
        if best[1]:
            best_of[precision] = {"images_per_second": best[0], "batch": best[1]}
            about = (networks, low, settings, best[1])
            result["rows"] += attempt(f"{precision} parts", time_parts, *about, clock) or []
            if precision in ("bf16", "fp32"):
                best_of[precision]["kernels"] = attempt(f"{precision} kernels", kernel_table, *about, device)
            if device.type == "cuda":
                best_of[precision]["capacity_by_memory"] = attempt(
                    f"{precision} capacity", capacity, networks, low, settings, device
                )
        del low
        if arguments.ends and precision == wanted[0]:
            # Behind the first precision, which is the one that is recommended: they take as long as one.
            result["values"]["ends"] = attempt(
                "ends", whole_runs, networks, wanted, arguments.ends, arguments.steps, device
            )
    save()
    print(f"written to {arguments.output}")


if __name__ == "__main__":
    main()
