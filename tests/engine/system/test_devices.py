"""A device's name: what it means on a machine with these GPUs, and what is said of one that is not there."""

from __future__ import annotations

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.system import devices
from faceanon_engine.engine.system.cuda_driver import Gpu
from faceanon_engine.engine.system.devices import device_names, gpu_of, index_of, resolve, resolve_for_torch


def machine(monkeypatch: pytest.MonkeyPatch, gpus: int, torch_sees: bool = True) -> None:
    """A machine with so many GPUs, which the installed Torch can use or not."""
    there = tuple(Gpu(index, f"GPU {index}", (9, 0), 2**37) for index in range(gpus))
    monkeypatch.setattr(devices, "gpus", lambda: there)
    monkeypatch.setattr(devices, "torch_sees_gpus", lambda: torch_sees)


@pytest.mark.parametrize(
    ("gpus", "name", "device"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:01", "cuda:1"),
    ],
)
def test_a_name_means_one_device(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, device: str) -> None:
    machine(monkeypatch, gpus)
    assert resolve(name) == device
    assert resolve_for_torch(name) == device


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cpu:0", "cuda:x", "cuda:-1", "cuda:0,cuda:1", "cuda0"])
def test_an_unknown_name_is_refused_wherever_it_is_given(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    machine(monkeypatch, 2)
    with pytest.raises(UserError) as refused:
        resolve(name)
    assert str(refused.value) == f"unknown device {name!r}: use auto, cpu or cuda"


@pytest.mark.parametrize(
    ("gpus", "name", "why"),
    [
        (0, "cuda", "no usable NVIDIA GPU here"),
        (0, "cuda:3", "no usable NVIDIA GPU here"),
        (2, "cuda:2", "this machine has 2 GPUs, counted from cuda:0"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, gpus: int, name: str, why: str) -> None:
    machine(monkeypatch, gpus)
    with pytest.raises(UserError) as refused:
        resolve(name)
    assert str(refused.value) == f"device {name!r}: {why}, see 'faceanon-engine doctor'; use --device cpu"


def test_auto_asks_whether_the_gpu_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1)
    asked: list[str] = []
    assert resolve("auto", lambda device: bool(asked.append(device))) == "cpu"
    assert resolve("auto", lambda _: True) == "cuda:0"
    assert asked == ["cuda:0"]
    assert resolve("cuda", lambda _: False) == "cuda:0", "what is asked for by name is not second-guessed"


def test_a_gpu_that_torch_cannot_use_is_passed_over_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 1, torch_sees=False)
    assert resolve_for_torch("auto") == resolve_for_torch("cpu") == "cpu"
    with pytest.raises(UserError, match="device 'cuda': the installed torch cannot use it"):
        resolve_for_torch("cuda")
    assert resolve("cuda") == "cuda:0", "without Torch it can be used"


def test_a_device_has_a_number_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 3)
    assert [index_of(device) for device in ("cuda", "cuda:0", "cuda:2")] == [0, 0, 2]
    assert gpu_of("cuda:2").name == "GPU 2"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ()),
        ("cuda:1", ("cuda:1",)),
        ("cuda:0, cuda:00,cpu,cuda", ("cuda:0", "cuda:0", "cpu", "cuda:0")),
        ("auto,cpu", ("cuda:0", "cpu")),
        (",".join(["cpu"] * 64), ("cpu",) * 64),
        (" all ", ("cuda:0", "cuda:1")),
    ],
)
def test_the_devices_of_a_job(monkeypatch: pytest.MonkeyPatch, text: str | None, names: tuple[str, ...]) -> None:
    machine(monkeypatch, 2)
    assert device_names(text) == names


@pytest.mark.parametrize("text", ["", " , ,"])
def test_devices_that_name_none_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    machine(monkeypatch, 2)
    with pytest.raises(UserError, match="names none: give cuda:0,cuda:1 or all"):
        device_names(text)


@pytest.mark.parametrize(
    "text",
    [
        "cpu,x",
        "x,cpu",
        "cpu,,cpu",
        "cpu,",
        ",cpu",
        "cpu,cuda:2",
        "cpu,cuda:-1",
        "cpu,cuda:",
        "cpu,cuda:0x0",
        "cpu,gpu",
        "cpu,CPU",
        "cpu,all",
        "cpu;cpu",
        "cpu cpu",
        "cpu,c\u0440u",
        "cpu,cuda:\u0661",
        "cpu,cuda:\u00b9",
        "cpu,cu\0da",
        "cpu," + "x" * 10_000,
        "cpu,cuda:" + "9" * 10_000,
        "cpu,cuda:" + "0" * 10_000 + "7",
        ",".join(["cpu"] * 65),
        ",".join(["cpu"] * 100_000),
    ],
)
def test_an_unusable_name_among_several_is_refused_in_a_short_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    machine(monkeypatch, 2)
    with pytest.raises(UserError, match="device") as refused:
        device_names(text)
    assert len(str(refused.value)) < 200


def test_a_gpu_that_torch_cannot_use_is_refused_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2, torch_sees=False)
    with pytest.raises(UserError, match="device 'cuda:1': the installed torch cannot use it"):
        device_names("cpu,cuda:1")


@pytest.mark.parametrize(("gpus", "torch_sees"), [(0, True), (2, False)])
def test_all_devices_of_a_machine_without_usable_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, gpus: int, torch_sees: bool
) -> None:
    machine(monkeypatch, gpus, torch_sees)
    with pytest.raises(UserError, match="devices all: no usable NVIDIA GPU here"):
        device_names("all")
