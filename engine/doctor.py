"""What this machine can do, found out by doing it."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from faceanon_engine.engine.system.cuda_driver import driver_version, gpus
from faceanon_engine.engine.system.machine import describe_gpus, describe_machine
from faceanon_engine.engine.system.memory import free_memory
from faceanon_engine.engine.system.packages import version_of, versions_of
from faceanon_engine.engine.system.printable import first_line

_PACKAGES = (
    ("torch", "torch"),
    ("onnxruntime", "onnxruntime"),
    ("faiss", "faiss-cpu"),
    ("PIL", "pillow"),
    ("tensorrt", "tensorrt"),
    ("tensorrt_rtx", "tensorrt-rtx"),
    ("pycuda.driver", "pycuda"),
)


def examine() -> dict[str, Any]:
    """Everything known of this machine as plain values, ready for JSON; never raises."""
    machine = describe_machine()
    return {
        **{name: machine[name] for name in ("faceanon_engine", "python", "system")},
        "cpu": {"cores": machine["cpu"]["cores"], "usable": machine["cpu"]["usable_cores"]},
        "packages": {name: _package(module) for module, name in _PACKAGES},
        "driver": _backend(lambda: f"CUDA {driver_version()}"),
        "gpus": _attempt(_gpus) or [],
        "backends": {name: _backend(trial) for name, trial in _BACKENDS.items()},
        "exporting": _backend(_exporting),
        "fused_kernels": _backend(_fused_kernels),
        "auto": {device: _backend(partial(_automatic, device)) for device in _devices()},
        "detector": _backend(_detector),
        "bundles": _bundles(),
        "memory": {"free": free_memory(), "total": machine["memory_bytes"]},
        "disk": _disk(),
    }


def _attempt(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception:
        return None


def _package(module: str) -> dict[str, Any]:
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        return {"works": False, "reason": first_line(error)}
    version = getattr(loaded, "__version__", None) or version_of(module.split(".")[0])
    return {"works": True, "version": str(version)}


def _gpus() -> list[dict[str, Any]]:
    """The GPUs that Torch can use, with their memory in bytes; raises whatever asking for what is free does."""
    return [
        {
            "name": gpu["name"],
            "capability": gpu["capability"],
            "free": free_memory(f"cuda:{index}"),
            "total": gpu["memory_bytes"],
        }
        for index, gpu in enumerate(describe_gpus())
    ]


def _torch(device: str) -> str:
    import torch

    x = torch.ones(1, 3, 8, 8, device=device)
    y = torch.nn.functional.conv2d(x, torch.ones(4, 3, 3, 3, device=device))
    if float(y.sum()) != 27.0 * 4 * 36:
        raise RuntimeError("a convolution gave a wrong result")
    return f"{torch.__version__}, {torch.get_num_threads()} threads" if device == "cpu" else torch.version.cuda or ""


def _onnxruntime(provider: str) -> str:
    import numpy as np
    import onnxruntime

    if provider not in onnxruntime.get_available_providers():
        raise RuntimeError(
            f"this onnxruntime is built without {provider}: install onnxruntime-gpu instead of onnxruntime"
        )
    from faceanon_engine.engine.images.centerface import WEIGHTS
    from faceanon_engine.engine.sessions.onnxruntime_session import open_strictly

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = open_strictly(str(WEIGHTS), options, provider)
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} was asked for and {session.get_providers()[0]} runs")
    session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 32, 32), np.float32)})
    return str(onnxruntime.__version__)


def _tensorrt(backend: str) -> str:
    """Build x + x, run it and look at the result."""
    import tempfile

    import numpy as np

    from faceanon_engine.engine.sessions.graphs import TensorSpec
    from faceanon_engine.engine.sessions.session import Profile
    from faceanon_engine.engine.sessions.tensorrt_session import TensorRTSession, load_module

    trt = load_module(backend)
    here = gpus()
    if not here and backend == "tensorrt":
        raise RuntimeError(f"{trt.__version__} is installed, and neither builds nor runs without an NVIDIA GPU")
    plan = _tiny_engine(trt)
    if not here:
        raise RuntimeError(f"{trt.__version__} builds engines for named GPUs; there is none here to run them")
    spec = TensorSpec("float32", ("N", 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.plan"
        path.write_bytes(plan)
        ends = {"input": ("x", spec), "output": ("y", spec)}
        with TensorRTSession(
            backend,
            path,
            graph="a trial",
            precision="fp32",
            profile=Profile(1, 2, 4),
            **ends,  # type: ignore[arg-type]
        ) as session:
            if not np.array_equal(session.run(np.ones((3, 4), np.float32)), np.full((3, 4), 2, np.float32)):
                raise RuntimeError("a sum gave a wrong result")
    return f"{trt.__version__} on {here[0].name}"


def _tiny_engine(trt: Any) -> bytes:
    """An engine for y = x + x with x [1 to 4, 4]; raises RuntimeError when it cannot be built."""
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    x = network.add_input("x", trt.float32, (-1, 4))
    y = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    y.name = "y"
    network.mark_output(y)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 4), (2, 4), (4, 4))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(f"{trt.__version__} is installed and could not build an engine")
    return bytes(plan)


def _exporting() -> str:
    """Whether `build` can make graphs of networks."""
    from faceanon_engine.engine.sessions.opening import why_not_prepared

    reason = why_not_prepared()
    if reason is not None:
        raise RuntimeError(reason)
    return ", ".join(f"{name} {version}" for name, version in versions_of(("torch", "onnx", "onnxscript")).items())


def _fused_kernels() -> str:
    """Run one of the optimisation's kernels and look at the result."""
    import torch

    from faceanon_engine.engine.system.home import home
    from faceanon_engine.kernels.cuda.launch import CudaLauncher
    from faceanon_engine.kernels.token_loss import token_loss, token_loss_reference

    if not torch.cuda.is_available():
        raise RuntimeError("no GPU that PyTorch can use; without one PyTorch's own operations run")
    launcher = CudaLauncher(torch.device("cuda"), home().kernels)
    tokens = torch.linspace(-1, 1, 2 * 5 * 24, device=launcher.device).view(2, 5, 24)
    reference = tokens.flip(1)
    computed, expected = token_loss(tokens, reference, launcher=launcher), token_loss_reference(tokens, reference)
    if not torch.allclose(computed, expected, rtol=1e-5):
        raise RuntimeError("a kernel gave a wrong result")
    return f"sm_{launcher.architecture}, launched by {'PyCUDA' if launcher.pycuda else 'the driver'}"


def _devices() -> list[str]:
    return ["cpu", *(f"cuda:{gpu.index}" for gpu in gpus())]


def _automatic(device: str) -> str:
    """What --backend auto takes on a device, and why nothing that would be faster."""
    from faceanon_engine.engine.sessions.opening import choose

    choice = choose(device, "fp32")
    passed = "; ".join(f"not {backend}: {reason}" for backend, reason in choice.passed_over.items())
    return choice.backend + (f" ({passed})" if passed else "")


def _detector() -> str:
    import numpy as np

    from faceanon_engine.engine.images.detect import FaceDetector

    FaceDetector().detect(np.zeros((64, 64, 3), np.uint8))
    return "CenterFace"


_BACKENDS: dict[str, Callable[[], str]] = {
    "torch cpu": lambda: _torch("cpu"),
    "torch cuda": lambda: _torch("cuda"),
    "onnxruntime cpu": lambda: _onnxruntime("CPUExecutionProvider"),
    "onnxruntime cuda": lambda: _onnxruntime("CUDAExecutionProvider"),
    "tensorrt": lambda: _tensorrt("tensorrt"),
    "tensorrt-rtx": lambda: _tensorrt("tensorrt-rtx"),
}


def _backend(trial: Callable[[], str]) -> dict[str, Any]:
    """Whether a tiny computation really ran, and why not."""
    try:
        return {"works": True, "version": trial()}
    except Exception as error:
        return {"works": False, "reason": first_line(error)}


def _bundles() -> list[dict[str, Any]]:
    from faceanon_engine.engine.errors import UserError
    from faceanon_engine.engine.models.bundle import DEMO, Bundle, demo_path, installed_bundles

    bundles = []
    for name, path in [*installed_bundles().items(), (DEMO, demo_path())]:
        try:
            bundle = Bundle.open(path)
            bundles.append({"name": name, "works": True, "pixels": bundle.resolution})
        except UserError as error:
            bundles.append({"name": name, "works": False, "reason": str(error)})
    return bundles


def _disk() -> dict[str, Any]:
    from faceanon_engine.engine.system.home import home

    path = home().pools
    while not path.exists() and path != path.parent:
        path = path.parent
    usage = shutil.disk_usage(path)
    return {"path": str(Path(path)), "free": usage.free, "total": usage.total}
