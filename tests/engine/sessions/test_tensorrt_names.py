"""Every name that is asked of TensorRT's module is one of the real module: the stand-in would take any."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType
from typing import Any

import pytest

from faceanon_engine.engine.sessions import tensorrt_session
from faceanon_engine.export import inspect as inspecting
from faceanon_engine.export import tensorrt as building

trt: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

MEMBERS = {
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed", "get_engine_validity"),
    "ICudaEngine": ("create_execution_context", "create_runtime_config", "create_engine_inspector"),
    "IRuntimeConfig": (
        "create_runtime_cache",
        "set_runtime_cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
    ),
    "IRuntimeCache": ("deserialize", "serialize"),
    "IExecutionContext": ("set_input_shape", "set_tensor_address", "execute_async_v3"),
    "Refitter": ("refit_cuda_engine",),
    "OnnxParserRefitter": ("refit_from_file",),
    "EngineInspector": ("get_engine_information",),
    "Builder": (
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("desc", "node_name", "node_operator"),
    "IBuilderConfig": (
        "set_flag",
        "clear_flag",
        "hardware_compatibility_level",
        "builder_optimization_level",
        "set_memory_pool_limit",
        "profiling_verbosity",
        "num_compute_capabilities",
        "set_compute_capability",
        "add_optimization_profile",
        "progress_monitor",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    ),
    "IOptimizationProfile": ("set_shape",),
    "IProgressMonitor": ("phase_start", "step_complete", "phase_finish"),
    "ITimingCache": ("serialize",),
}


def names_asked(module: ModuleType) -> set[str]:
    """Dotted names below `trt` and `self._trt` in a module's source."""
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        parts: list[str] = []
        part: Any = node
        while isinstance(part, ast.Attribute) and part.attr != "_trt":
            parts.insert(0, part.attr)
            part = part.value
        root = (isinstance(part, ast.Name) and part.id == "trt") or (
            isinstance(part, ast.Attribute) and part.attr == "_trt"
        )
        if parts and root:
            names.add(".".join(parts))
    return names


@pytest.mark.parametrize("module", [tensorrt_session, building, inspecting])
def test_what_is_asked_of_the_module_is_there(module: ModuleType) -> None:
    asked = names_asked(module)
    assert asked
    for name in asked:
        value = trt
        for part in name.split("."):
            assert hasattr(value, part), f"{trt.__name__} has no {name}"
            value = getattr(value, part)


@pytest.mark.parametrize("kind", list(MEMBERS))
def test_what_is_asked_of_its_objects_is_there(kind: str) -> None:
    for name in MEMBERS[kind]:
        assert hasattr(getattr(trt, kind), name), f"{kind} has no {name}"


@pytest.mark.parametrize(
    "name", ["VERSION_COMPATIBLE", "REFIT", "STRIP_PLAN", "REFIT_IDENTICAL", "TF32"], ids=str.lower
)
def test_flags_are_called_so(name: str) -> None:
    assert hasattr(trt.BuilderFlag, name)
