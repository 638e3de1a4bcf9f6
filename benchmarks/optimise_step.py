"""How long one optimisation step takes at 1024 px, and how much memory it holds, against the plain loop.

    python -m benchmarks.optimise_step --output benchmarks/results/optimise_step-cpu.json

Both sides run the same FFHQ-shaped networks on the same stand-in weights (times do not depend on the values), in one
run; each case is a process of its own, so that its peak memory is its own. Cases alternate, so that a change of the
machine's pace falls on all. The plain loop takes one image at a time whatever the batch. The engine runs as its command
line does, which has the C library keep freed memory; `plain-kept` is the plain loop with that and nothing else of ours.

    python -m benchmarks.optimise_step --against ../other-checkout --rounds 6

times the engine alone, here and in another checkout by turns, such as one of an earlier commit. It is run by the Python
of its `.venv` where there is one.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if not __package__:  # started as a file, which leaves the repository's root off the path
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.result import ROOT, commit, new_result, new_row, table, timing, write


def load(golden: Path) -> dict[str, Any]:
    """Stand-in checkpoints imported as the product imports them, and rosinality's state dict for the plain loop."""
    import tempfile

    import torch

    from faceanon_engine.engine.models.checkpoints.reading import read_checkpoint
    from faceanon_engine.engine.networks.build import build
    from tests.golden.weights import make_state_dict

    networks: dict[str, Any] = {}
    for role, manifest, wrap in (
        ("generator", "stylegan2-rosinality-1024", lambda state: {"g_ema": state}),
        ("identity_encoder", "arcface-irse50-112", lambda state: state),
        ("attribute_encoder", "farl-vit-b16", lambda state: {"state_dict": state}),
    ):
        rows = json.loads((golden / "manifests" / f"{manifest}.json").read_text())
        state = {key: torch.as_tensor(value) for key, value in make_state_dict(rows).items()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "checkpoint"
            torch.save(wrap(state), file)
            (imported,) = read_checkpoint(file)
        module = build(role, imported.config)
        module.load_state_dict(imported.state_dict)
        networks[role] = module.eval()
        if role == "generator":
            networks["rosinality"] = state
    return networks


def time_engine(golden: Path, batch: int, steps: int, precision: str) -> list[float]:
    import torch

    from faceanon_engine.engine.method.compare import real_targets
    from faceanon_engine.engine.method.preset import PRESETS
    from faceanon_engine.engine.method.step import StepSettings, begin, step
    from faceanon_engine.engine.networks.precision import Networks, lowered

    loaded = load(golden)
    full = Networks(loaded["generator"], loaded["identity_encoder"], loaded["attribute_encoder"])
    del loaded  # with the plain loop's weights, which would count as memory held
    for network in full:
        network.requires_grad_(False)
    full.generator.freeze()
    preset = PRESETS["falco"]
    settings = StepSettings(preset, precision=precision)  # type: ignore[arg-type]
    torch.manual_seed(0)
    real = torch.rand(batch, 3, 1024, 1024) * 2 - 1
    w_plus = torch.randn(batch, 18, 512) * 0.7
    targets = real_targets(full.identity_encoder, full.attribute_encoder, real, preset)
    del real
    state = begin(full.generator, w_plus, targets, settings)
    networks = lowered(full, settings.precision)
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        step(networks, state, settings)
        times.append(time.perf_counter() - started)
    return times


def time_plain(golden: Path, steps: int) -> list[float]:
    import torch

    from benchmarks.plain_loop import PlainGenerator, plain_step

    networks = load(golden)
    generator = PlainGenerator(networks["rosinality"])
    identity, attribute = networks["identity_encoder"], networks["attribute_encoder"]
    for network in (identity, attribute):
        network.requires_grad_(True)
    torch.manual_seed(0)
    real = torch.rand(1, 3, 1024, 1024) * 2 - 1
    w_plus = torch.randn(1, 18, 512) * 0.7
    rows = w_plus[:, 3:8].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([rows], lr=0.01)

    def tokens(image: Any) -> Any:
        return attribute.encode(attribute.preprocess(image)).tokens

    times = []
    for _ in range(steps):
        started = time.perf_counter()
        plain_step(generator, identity, tokens, real, w_plus, rows, optimiser)
        times.append(time.perf_counter() - started)
    return times


def run_case(golden: Path, case: str, steps: int) -> dict[str, Any]:
    """Time a case in a process of its own; the first step is warm-up and left out."""
    command = [sys.executable, "-m", "benchmarks.optimise_step", "--case", case, "--steps", str(steps)]
    command += ["--golden", str(golden.resolve())]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare_checkouts(other: Path, golden: Path, steps: int, rounds: int) -> dict[str, Any]:
    """The step of one image in float32 in two checkouts, by turns; the ratio is the median of the rounds' ratios."""
    own = Path(".venv", "bin", "python")
    pythons = {root: root / own if (root / own).exists() else Path(sys.executable) for root in (other, ROOT)}
    result = new_result(
        "optimise_step",
        "seconds of one optimisation step at 1024 px beside those of another checkout",
        resolution=1024,
        steps=steps,
        rounds=rounds,
        against=commit(other),
    )
    seconds: dict[Path, list[list[float]]] = {other: [], ROOT: []}
    for _ in range(rounds):
        for root, python in pythons.items():
            command = [str(python), str(root / "benchmarks" / "optimise_step.py"), "--case", "1-fp32"]
            command += ["--steps", str(steps), "--golden", str(golden.resolve())]
            done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
            seconds[root].append(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])
    for name, root in (("against", other), ("here", ROOT)):
        samples = [value for each in seconds[root] for value in each]
        result["rows"].append(new_row({"checkout": name}, timings={"step": timing(samples)}, commit=commit(root)))
    pairs = zip(seconds[other], seconds[ROOT], strict=True)
    ratios = [statistics.median(here) / statistics.median(before) for before, here in pairs]
    result["values"] |= {"ratio": statistics.median(ratios), "ratios_of_rounds": ratios}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a case in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="time the engine here and there by turns")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.case:
        if arguments.case != "plain":
            from faceanon_engine.engine.system.allocator import keep_freed_memory

            keep_freed_memory()
        if arguments.case.startswith("plain"):
            times = time_plain(arguments.golden, arguments.steps + 1)
        else:
            batch, _, precision = arguments.case.partition("-")
            times = time_engine(arguments.golden, int(batch), arguments.steps + 1, precision)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": times[1:], "peak_bytes": peak}))
        return
    if arguments.against:
        result = compare_checkouts(arguments.against.resolve(), arguments.golden, arguments.steps, arguments.rounds)
        print(table(result["rows"]), f"\nratio {result['values']['ratio']:.3f}")
        if arguments.output:
            write(arguments.output, result)
        return

    result = new_result(
        "optimise_step",
        "seconds and memory of one optimisation step at 1024 px against the plain one-image loop",
        resolution=1024,
        steps=arguments.steps,
        rounds=arguments.rounds,
    )
    cases: dict[str, dict[str, Any]] = {}
    for _ in range(arguments.rounds):
        for case in ("plain", "plain-kept", "1-fp32", "4-fp32", "1-bf16"):
            measured = run_case(arguments.golden, case, arguments.steps)
            kept = cases.setdefault(case, {"seconds": [], "peak_bytes": 0})
            kept["seconds"] += measured["seconds"]
            kept["peak_bytes"] = max(kept["peak_bytes"], measured["peak_bytes"])
            print(f"{case:>10}: {statistics.median(measured['seconds']):.2f} s a step", file=sys.stderr)
    plain = statistics.median(cases["plain"]["seconds"])
    for case, kept in cases.items():
        plainly = case.startswith("plain")
        batch = 1 if plainly else int(case.partition("-")[0])
        step = timing(kept["seconds"])
        result["rows"].append(
            new_row(
                {
                    "loop": case if plainly else "engine",
                    "precision": "fp32" if plainly else case.partition("-")[2],
                    "batch": batch,
                },
                timings={"step": step},
                median_seconds_per_image_step=step["median"] / batch,
                ratio_to_plain=plain / (step["median"] / batch),
                peak_memory_gb=kept["peak_bytes"] / 1e9,
            )
        )
    print(table(result["rows"], ["median_seconds_per_image_step", "ratio_to_plain", "peak_memory_gb"]))
    if arguments.output:
        write(arguments.output, result)


if __name__ == "__main__":
    main()
