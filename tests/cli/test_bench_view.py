"""What `bench` shows, with a GPU's result that is made up and held to the schema: not every machine can measure one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image
from rich.console import Console

from faceanon_engine.cli.bench_view import WIDE, draw, milliseconds, rate, view, view_comparison
from faceanon_engine.engine.bench.compare import Change, Comparison

ROOT = Path(__file__).resolve().parents[2]


def summary(p50: float) -> dict[str, float]:
    shares = {"min": 0.9, "mean": 1.0, "p50": 1.0, "p90": 1.1, "p95": 1.2, "p99": 1.3, "max": 1.4}
    return {"count": 30, "standard_deviation": 0.1, "spread": 0.2} | {name: p50 * k for name, k in shares.items()}


def session(backend: str, batch: int, queued: bool, p50: float, **more: Any) -> dict[str, Any]:
    copies = None if queued else summary(0.25)
    about = {"backend": backend, "version": "11.0", "provider": backend, "precision": "fp16", "device": "cuda:0 (H)"}
    return {
        "graph": "attribute_tokens",
        "backend": backend,
        "precision": "fp16",
        "batch": batch,
        "queued": queued,
        "runs_on": about | {"graph": "attribute_tokens", "detail": "CUDA graphs"},
        "input": {"dtype": "float32", "shape": [batch, 3, 64, 64]},
        "images_per_second": batch * 1000 / p50,
        "total_ms": summary(p50),
        "compute_ms": summary(p50 * 0.75),
        "enqueue_ms": summary(p50 * 0.7),
        "host_to_device_ms": copies,
        "device_to_host_ms": copies,
        "speedup": {} if backend == "torch" else {"torch fp16": {"ratio": 4.25, "lowest": 4, "highest": 4.5}},
        "difference": None,
        "round_medians_ms": [p50],
        "samples_ms": [p50],
        "memory": {"host_bytes": 1, "opening_host_bytes": 1, "device_bytes": 123_000_000, "device_peak_bytes": 5},
        "notes": [{"kind": "host", "value": 0.93, "text": "bound by the host"}],
        **more,
    }


def result() -> dict[str, Any]:
    moment = {"cpu_clock_mhz": None, "load_average": [0.1, 0.1, 0.1], "memory_available_bytes": 1}
    gpu = {
        "sm_clock_mhz": 1980.0,
        "memory_clock_mhz": 2619.0,
        "max_sm_clock_mhz": 1980.0,
        "max_memory_clock_mhz": 2619.0,
        "power_w": 300.0,
        "power_limit_w": 700.0,
        "temperature_c": 40.0,
        "persistence_mode": "Enabled",
    }
    return {
        "schema": "faceanon-engine/bench",
        "schema_version": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "seconds": 12.5,
        "command": ["bench"],
        "mode": "all",
        "device": "cuda:0",
        "bundle": {"name": "demo", "digest": "d", "resolution": 64},
        "settings": {
            "warmup_seconds": 0.2,
            "min_seconds": 3.0,
            "min_iterations": 10,
            "max_seconds": 60.0,
            "rounds": 3,
            "seed": 0,
            "queue_depth": 8,
        },
        "machine": {
            "cpu": {"model": "C", "cores": 16, "usable_cores": 16, "instructions": "AVX512", "governor": None},
            "memory_bytes": 1,
            "gpus": [{"name": "NVIDIA H", "capability": "9.0", "memory_bytes": 1, "multiprocessors": 132}],
            "driver": "580.1",
            "system": "Linux",
            "python": "3.11.7",
            "faceanon_engine": "0.1.0",
            "versions": {"torch": "2.13.0"},
            "cuda": "13.0",
            "cudnn": 91000,
            "threads": {"torch": 16, "torch_interop": 16, "variables": {}},
        },
        "before": moment | {"gpus": [gpu]},
        "after": moment | {"gpus": [gpu]},
        "others_share": 0.01,
        "sessions": [
            session("torch", 1, False, 2.0, notes=[]),
            session("tensorrt-rtx", 1, False, 0.5),
            *(
                session(name, batch, True, batch / pace)
                for batch in (1, 8)
                for name, pace in (("torch", 1), ("tensorrt", 4))
            ),
        ],
        "steps": [
            {
                "batch": batch,
                "precision": "fp32",
                "preset": "falco",
                "captured": True,
                "steps_of_an_image": 50,
                "step_ms": summary(10.0 * batch),
                "forward_ms": summary(6.0 * batch),
                "backward_ms": summary(9.0 * batch),
                "plain_ms": summary(15.0 * batch),
                "step_ms_per_image": 10.0,
                "images_per_second_of_steps": 2.0,
                "round_medians_ms": [10.0],
                "samples_ms": [10.0],
                "memory": None,
                "notes": [],
            }
            for batch in (1, 8)
        ],
        "left_out": [
            {
                "kind": "session",
                "graph": graph,
                "backend": "onnxruntime",
                "precision": "fp16",
                "batch": None,
                "reason": "it is built without CUDA",
            }
            for graph in ("identity", "inverter")
        ],
        "notes": [],
    }


def shown(what: Any, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_the_made_up_result_keeps_to_the_schema() -> None:
    schema = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(result())


def test_a_wide_terminal_shows_every_statistic_and_a_gpus_parts() -> None:
    text = shown(view(result(), WIDE), WIDE)
    assert "…" not in text
    row = next(line.split() for line in text.splitlines() if "tensorrt-rtx" in line)
    # Of the first table: type, batch elided, min to p99, images a second, ratio, the GPU's memory, the note.
    assert row[1:] == [
        "fp16",
        "0.450",
        "0.500",
        "0.500",
        "0.550",
        "0.600",
        "0.650",
        "2,000",
        "4.25",
        "123",
        "host-bound",
    ]
    assert "gpu: NVIDIA H, driver 580.1, 1980 MHz" in text
    assert "to GPU" in text
    assert "networks, queued runs" in text
    assert "left out: onnxruntime fp16 of identity, inverter: it is built without CUDA" in text


def test_a_narrow_terminal_shows_fewer_but_whole_figures() -> None:
    text = shown(view(result(), 80), 80)
    tables = [line for line in text.splitlines() if "tensorrt" in line]
    assert not [line for line in tables if "…" in line]
    assert any(line.split()[-1] == "~" for line in tables)
    assert "~ is not certain" in text
    assert "p95" not in text


def test_curves_are_of_queued_runs_where_there_are_any() -> None:
    from faceanon_engine.cli.bench_view import _curves

    curves = _curves(result())
    assert set(curves) == {"attribute_tokens", "one optimisation step"}
    assert curves["attribute_tokens"]["tensorrt fp16"] == [(0.25, 4000, 1), (2.0, 4000, 8)]
    assert "tensorrt-rtx fp16" not in curves["attribute_tokens"]
    picture = Image.open(io.BytesIO(draw(result()) or b""))
    assert picture.format == "PNG"
    assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 50


def test_without_a_sweep_nothing_is_drawn() -> None:
    single = result()
    single["sessions"], single["steps"] = single["sessions"][:2], []
    assert draw(single) is None


def test_a_comparison_says_what_is_noise_and_what_fails() -> None:
    changes = (Change("a", 1.0, 1.5, 0.01), Change("b", 1.0, 1.04, 0.05), Change("c", 1.0, 0.5, 0.01))
    comparison = Comparison(changes, tuple("defgh"), (), ("torch 2.12 -> 2.13",))
    text = shown(view_comparison(comparison, 0.2, ["cpu: A then, B now"]), 100)
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "+50.0%" in lines["a"]
    assert "slower, above 20%" in lines["a"]
    assert "within noise (5%)" in lines["b"]
    assert "faster" in lines["c"]
    assert "only in the earlier result: d, e, f and 2 more" in text
    assert "other now: cpu: A then, B now" in text
    assert "other now: torch 2.12 -> 2.13" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.012"), (1.5, "1.500"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12346")]
)
def test_durations_have_three_figures_or_more(value: float, text: str) -> None:
    assert milliseconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.0301, "0.030"), (12.34, "12.3"), (1234.5, "1,234")])
def test_rates_are_short(value: float, text: str) -> None:
    assert rate(value) == text
