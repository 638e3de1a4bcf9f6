"""What this machine is, in words that mean something on another one: of measurements, reports and `doctor`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from faceanon_engine.engine.system.cores import cpu_model, usable_cores
from faceanon_engine.engine.system.cuda_driver import gpus
from faceanon_engine.engine.system.packages import our_version, versions_of

# Distributions whose version changes a figure; those that are not installed are left out.
_PACKAGES = (
    "torch",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-rtx-cu13",
    "pycuda",
)
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_AFFINITY", "CUDA_VISIBLE_DEVICES")
# Field of nvidia-smi: its name here. Clocks in MHz, power in W, temperature in degrees Celsius.
_GPU_FIELDS = {
    "clocks.sm": "sm_clock_mhz",
    "clocks.mem": "memory_clock_mhz",
    "clocks.max.sm": "max_sm_clock_mhz",
    "clocks.max.mem": "max_memory_clock_mhz",
    "power.draw": "power_w",
    "power.limit": "power_limit_w",
    "temperature.gpu": "temperature_c",
    "persistence_mode": "persistence_mode",
}


def describe_machine() -> dict[str, Any]:
    """What stays the same while measuring: hardware, driver, versions, threads; ready for JSON.

    Memory in bytes; the instructions are those that Torch uses. What Torch alone knows is null where it does not load.
    """
    import psutil

    torch = _torch()
    return {
        "cpu": {
            "model": cpu_model(),
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "instructions": torch.backends.cpu.get_cpu_capability() if torch else None,
            "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        },
        "memory_bytes": int(psutil.virtual_memory().total),
        "gpus": describe_gpus(),
        "driver": _driver(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "faceanon_engine": our_version(),
        "versions": versions_of(_PACKAGES),
        "cuda": torch.version.cuda if torch else None,
        "cudnn": torch.backends.cudnn.version() if torch and torch.cuda.is_available() else None,
        "threads": {
            "torch": torch.get_num_threads() if torch else None,
            "torch_interop": torch.get_num_interop_threads() if torch else None,
            "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        },
    }


def describe_gpus() -> list[dict[str, Any]]:
    """Name, compute capability such as "9.0", memory in bytes and multiprocessors of the GPUs that CUDA shows, in its
    order; none where Torch is there and cannot use them, since nothing runs on them then.
    """
    torch = _torch()
    if torch and not torch.cuda.is_available():
        return []
    return [
        {
            "name": gpu.name,
            "capability": f"{gpu.capability[0]}.{gpu.capability[1]}",
            "memory_bytes": gpu.total,
            "multiprocessors": gpu.multiprocessors,
        }
        for gpu in gpus()
    ]


def describe_moment() -> dict[str, Any]:
    """What changes while measuring: clocks, load, temperatures; ready for JSON, null for what nobody says."""
    import psutil

    clock = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "cpu_clock_mhz": round(clock.current, 1) if clock else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "memory_available_bytes": int(psutil.virtual_memory().available),
        "gpus": _gpu_moments(),
    }


def fingerprint(machine: dict[str, Any]) -> dict[str, Any]:
    """The part of a description that has to agree before two measurements can be compared."""
    return {
        "cpu": machine["cpu"]["model"],
        "usable cores": machine["cpu"]["usable_cores"],
        "threads": machine["threads"]["torch"],
        "gpus": [gpu["name"] for gpu in machine["gpus"]],
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _torch() -> Any:
    """Torch, or None where it cannot be loaded: a machine is asked about where something is broken, too."""
    try:
        import torch
    except Exception:
        return None
    return torch


def _nvidia_smi(fields: str) -> list[list[str]]:
    """Rows of nvidia-smi's answer, empty where it cannot be asked."""
    if sys.platform == "darwin" or shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _driver() -> str | None:
    rows = _nvidia_smi("driver_version")
    return rows[0][0] if rows else None


def _gpu_moments() -> list[dict[str, Any]]:
    """Of the GPUs that CUDA shows, in its order: nvidia-smi's is another one, and it shows all."""
    rows = {_place(row[0]): row[1:] for row in _nvidia_smi(",".join(("pci.bus_id", *_GPU_FIELDS)))}
    unknown = ["[N/A]"] * len(_GPU_FIELDS)
    shown = [rows.get(_place(gpu.bus), unknown) for gpu in (gpus() if rows else ())]
    return [{name: _number(cell) for name, cell in zip(_GPU_FIELDS.values(), row, strict=False)} for row in shown]


def _place(bus: str) -> tuple[int, ...]:
    """A place on the bus as numbers: the domain is written with four digits or with eight."""
    return tuple(int(digits, 16) for digits in re.findall(r"[0-9a-fA-F]+", bus))


def _number(cell: str) -> float | str | None:
    try:
        return float(cell)
    except ValueError:
        return None if cell.startswith("[") or cell == "N/A" else cell
