"""Several processes on one job: each input once, whoever dies."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from faceanon_engine.engine.datasets.reader import Reader, thread_count
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job import beginning
from faceanon_engine.engine.job.dry_run import plan_job
from faceanon_engine.engine.job.manifest import InputRow, ItemRow, Manifest
from faceanon_engine.engine.job.run import run_part
from faceanon_engine.engine.job.settings import JobSettings, job_settings
from tests.support.fake_worker import GREEN, FakeWorker, make_inputs
from tests.support.jobs import Told, items, run
from tests.support.samples import with_faces
from tests.support.shared_worker import CannotLoad, KilledWorker, SharedWorker

SUPPORT = Path(__file__).resolve().parents[2] / "support"


@pytest.fixture
def settings(settings: JobSettings) -> JobSettings:
    return replace(settings, devices="cpu,cpu")


def ends(pid: int, patience: float = 20) -> bool:
    """Whether the process stops running; its entry may stay for as long as nobody asks how it ended.

    An orphan is left to the first process of the machine, which in a container often does not ask.
    """
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("devices", ["cpu,x", "", "cpu,,cpu", "cpu,cuda:9"])
def test_devices_that_cannot_be_used_are_refused_before_anything_starts(settings: JobSettings, devices: str) -> None:
    make_inputs(settings.input, 1)
    settings = replace(settings, devices=devices)
    for refusing in (lambda: plan_job(settings, make_worker=SharedWorker), lambda: run(settings, None, SharedWorker)):
        with pytest.raises(UserError, match="device"):
            refusing()
    assert not settings.output.exists()


def test_a_device_that_devices_overrule_is_refused_as_well(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    settings = replace(settings, device="x", devices="cpu,cpu")
    for refusing in (lambda: plan_job(settings, make_worker=SharedWorker), lambda: run(settings, None, SharedWorker)):
        with pytest.raises(UserError, match="unknown device 'x'"):
            refusing()


def test_a_device_on_which_the_job_cannot_run_is_refused_before_anything_starts(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 1)
    monkeypatch.setattr(beginning, "device_names", lambda _: ("cpu", "cuda:1"))

    def make_worker(settings: JobSettings, recorded: Mapping[str, Any], inputs: int) -> SharedWorker:
        if settings.device == "cuda:1":
            raise UserError("backend x cannot run on cuda:1 here")
        return SharedWorker(settings, recorded, inputs)

    with pytest.raises(UserError, match="cannot run on cuda:1 here"):
        run(settings, None, make_worker)
    assert not settings.output.exists()


def test_inputs_are_claimed_once_and_go_back_when_their_process_ends(tmp_path: Path) -> None:
    with Manifest.open(tmp_path / "a.sqlite") as one, Manifest.open(tmp_path / "a.sqlite") as other:
        names = [f"{number}.png" for number in range(7)]

        def three(name: str) -> list[str]:
            first = names.index(name) // 3 * 3
            return names[first : first + 3]

        one.fill_queue(names)
        assert one.claim(0, three) == (names[:3], {name: [] for name in names[:3]})
        assert other.claim(1, three)[0] == names[3:6]
        one.leave_queue("1.png")
        assert one.queued() == 6
        other.release(0)
        assert other.claim(1, three) == (["0.png", "2.png"], {name: [] for name in names[:3]})
        assert other.claim(1, three)[0] == ["6.png"]
        assert other.claim(1, three) == ([], {})


def test_two_processes_share_a_job(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_STEP", "0.03")
    make_inputs(settings.input, 20, {5: GREEN})
    observer = Told()
    result = run(settings, observer, SharedWorker)
    assert (result.done, result.failed, result.about["device"]) == (19, 1, "cpu, cpu")
    assert sorted(observer.finished) == [(f"photo-{number:02d}.png", number == 5) for number in range(20)]
    processes = {row.neighbour_id for row in items(settings, "done")}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert not list(settings.folder.private.glob("process-*")), "locks of processes that ended are taken away"


def test_what_a_killed_process_had_claimed_is_done_by_the_other(
    settings: JobSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_STEP", "0.02")
    flag = tmp_path / "kill"
    flag.touch()
    monkeypatch.setenv("FAKE_KILL", str(flag))
    make_inputs(settings.input, 16)
    observer = Told()
    result = run(settings, observer, SharedWorker)
    assert (result.done, result.failed) == (16, 0)
    assert not flag.exists()
    assert any("ended with code -9: the others go on" in note for note in observer.notes)
    assert result.exit_code == 0


def test_when_every_process_is_killed_work_is_left_and_that_is_no_error(settings: JobSettings) -> None:
    make_inputs(settings.input, 9)
    observer = Told()
    result = run(settings, observer, KilledWorker)
    assert (result.exit_code, result.done, result.left) == (1, 0, 9)
    assert len([note for note in observer.notes if "ended with code -9" in note]) == 2
    assert not list(settings.output.glob(".faceanon*"))
    result = run(settings, None, SharedWorker)
    assert (result.exit_code, result.done, result.left) == (0, 9, 0)


def test_processes_that_cannot_be_started_leave_the_work(
    settings: JobSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_inputs(settings.input, 2)

    def start(self: SpawnProcess) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    observer = Told()
    monkeypatch.setattr(SpawnProcess, "start", start)
    result = run(settings, observer, SharedWorker)
    assert (result.exit_code, result.done, result.left) == (1, 0, 2)
    assert len([note for note in observer.notes if "cannot be started (Resource temporarily" in note]) == 2


def test_when_all_processes_end_the_person_is_told_and_can_go_on(settings: JobSettings) -> None:
    make_inputs(settings.input, 4)
    with pytest.raises(UserError, match=r"^CannotLoad: networks.bin cannot be read"):
        run(settings, None, CannotLoad)
    assert not settings.output.exists(), "before a job is begun this process has tried"
    run(replace(settings, limit=1), None, SharedWorker)
    with pytest.raises(UserError, match=r"3 inputs are left: .*CannotLoad"):
        run(settings, None, CannotLoad)
    assert run(settings, None, SharedWorker).done == 4


def test_two_processes_give_no_two_faces_one_name(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FACES", "photo")
    from PIL import Image

    make_inputs(settings.input, 8)
    for path in sorted(settings.input.glob("*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))  # a.jpg and a.png both want a-face1.png
    assert run(settings, None, SharedWorker).done == 32
    outputs = [str(row.output) for row in items(settings)]
    assert len(set(outputs)) == 32
    assert all((settings.folder.release / name).is_file() for name in outputs)


def test_a_name_costs_no_reading_of_the_whole_manifest(settings: JobSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hundred thousand photos of several people that would take longer than anonymizing them."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    monkeypatch.setattr(Reader, "read", lambda reader, sample: with_faces(sample, pixels, pixels, pixels))
    make_inputs(settings.input, 6)
    run(replace(settings, devices=None, limit=1), None, SharedWorker)
    settings = replace(settings, devices=None)
    with Manifest.open(settings.folder.manifest) as manifest:
        names = [f"photo-{number:02d}.png" for number in range(1, 6)]
        manifest.add_inputs([InputRow(name, 1, 1) for name in names], [ItemRow(name, 0, output=name) for name in names])
        manifest.fill_queue(names)
        reads: list[str | None] = []
        everything = manifest.items
        monkeypatch.setattr(manifest, "items", lambda state=None: reads.append(state) or everything(state))
        run_part(settings, 0, manifest, Told(), together=4, make_worker=FakeWorker)
        assert len(reads) == 1
        assert manifest.counts() == {"done": 18, "failed": 0, "pending": 0}
        assert manifest.has_output("PHOTO-01-face2.png")
        assert not manifest.has_output("photo-01-face3.png")


def test_when_the_first_process_is_killed_the_others_end_and_a_new_run_finishes(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 30)
    arguments = ["anonymize", tmp_path / "in", tmp_path / "out", "--align", "never", "--steps", "2"]
    command = [sys.executable, SUPPORT / "shared_worker.py", *arguments, "--contact-sheet", "0", "--devices", "cpu,cpu"]
    slow = os.environ | {"FAKE_STEP": "0.3"}
    process = subprocess.Popen(list(map(str, command)), env=slow, stderr=subprocess.DEVNULL)
    settings = job_settings(tmp_path / "in", tmp_path / "out", {})
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        time.sleep(0.05)
        if (settings.folder.manifest).exists() and len(items(settings, "done")) >= 4:
            break
    workers = {row.neighbour_id for row in items(settings, "done")}
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {
        row.output: (settings.folder.release / str(row.output)).stat().st_mtime_ns for row in items(settings, "done")
    }
    assert 4 <= len(before) < 30
    again = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert len(items(settings, "done")) == 30
    for output, stamp in before.items():
        assert (settings.folder.release / str(output)).stat().st_mtime_ns == stamp
    assert all(ends(int(pid)) for pid in workers)


@pytest.mark.parametrize(
    ("devices", "signals"),
    [
        (["--devices", "cpu,cpu"], [signal.SIGINT]),
        (["--devices", "cpu,cpu"], [signal.SIGINT] * 5),
        (["--device", "cpu"], [signal.SIGINT] * 5),
        (["--device", "cpu"], [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]),
    ],
)
def test_ctrl_c_however_often_ends_all_processes_in_one_line(
    tmp_path: Path, devices: list[str], signals: list[signal.Signals]
) -> None:
    make_inputs(tmp_path / "in", 30)
    arguments = ["anonymize", tmp_path / "in", tmp_path / "out", "--align", "never", "--steps", "2", *devices]
    command = [sys.executable, SUPPORT / "shared_worker.py", *arguments, "--contact-sheet", "0"]
    process = subprocess.Popen(
        list(map(str, command)),
        env=os.environ | {"FAKE_STEP": "0.3"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    settings = job_settings(tmp_path / "in", tmp_path / "out", {})
    patience = time.monotonic() + 60
    while time.monotonic() < patience:
        time.sleep(0.05)
        if (settings.folder.manifest).exists() and items(settings, "done"):
            break
    children = psutil.Process(process.pid).children(recursive=True)
    for number in signals:
        # As a terminal does; a process that has ended by itself meanwhile is told nothing.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        time.sleep(0.03)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted: ")
    assert "Traceback" not in said
    assert "Exception" not in said
    assert 0 < len(items(settings, "done")) < 30
    assert all(ends(child.pid) for child in children)
    assert not list(settings.output.rglob(".faceanon*")), "neither locks nor temporaries stay"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processors cannot be taken from a process here")
def test_no_more_files_are_read_at_once_than_processors_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores in (1, 3, 64):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert thread_count() == min(cores, 16)
