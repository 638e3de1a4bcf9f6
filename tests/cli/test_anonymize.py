"""The command as a process: exit codes, messages, and what is left after it is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.support import fake_worker
from tests.support.fake_worker import make_inputs


def command(*arguments: object, fake: bool = True) -> list[str]:
    program = [str(fake_worker.__file__)] if fake else ["-m", "faceanon_engine.cli.main"]
    return [sys.executable, *program, *map(str, arguments)]


def environment(step: float = 0.0) -> dict[str, str]:
    return os.environ | {"FAKE_STEP": str(step), "OMP_NUM_THREADS": "1"}


def call(*arguments: object, fake: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, fake=fake), capture_output=True, text=True, env=environment(), check=False, cwd=cwd
    )


def job(folder: Path, *more: object) -> list[object]:
    common = ("--align", "never", "--steps", "5", "--batch-size", "3", "--contact-sheet", "2")
    return ["anonymize", folder / "in", folder / "out", *common, *more]


def done_rows(output: Path) -> dict[str, str]:
    """Outputs that the manifest says are done, by input, as any other program would read them."""
    path = output / "private" / "manifest.sqlite"
    if not path.exists():
        return {}
    connection = sqlite3.connect(path, timeout=30)
    try:
        if not connection.execute("pragma user_version").fetchone()[0]:
            return {}
        return dict(connection.execute("select input, output from items where state = 'done'").fetchall())
    finally:
        connection.close()


def stamp(path: Path) -> tuple[int, int, bytes]:
    return path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes()


def assert_only_whole_images(output: Path) -> None:
    for path in output.rglob("*.png"):
        if not path.name.startswith("."):
            with Image.open(path) as image:
                image.load()


def test_killed_again_and_again_it_finishes_and_redoes_nothing(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 48)
    output = tmp_path / "out"
    dice = random.Random(20240521)
    kept: dict[str, tuple[int, int, bytes]] = {}
    kills = 0
    for _ in range(5):
        process = subprocess.Popen(
            command(*job(tmp_path)), env=environment(0.1), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Wait until this run has got somewhere, so that the kill falls at a random moment of the work itself.
        before, patience = len(done_rows(output)), time.monotonic() + 30
        while len(done_rows(output)) == before and process.poll() is None and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.12))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        released = {path.name for path in (output / "release").iterdir()}
        assert released <= {f"photo-{n:02d}.png" for n in range(48)}, "nothing half-written lies among the results"
        assert_only_whole_images(output)
        rows = done_rows(output)
        for name, earlier in kept.items():
            assert stamp(output / "release" / name) == earlier, f"{name} was done before and has been touched"
        kept = {name: stamp(output / "release" / name) for name in rows.values()}
    assert kills >= 3, "the job was over before it could be killed"
    assert 0 < len(kept) < 48
    finished = call(*job(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert len(done_rows(output)) == 48
    for name, earlier in kept.items():
        assert stamp(output / "release" / name) == earlier
    assert_only_whole_images(output)
    assert {path.name for path in output.iterdir()} == {"release", "private"}
    assert {path.name for path in (output / "release").iterdir()} == {f"photo-{n:02d}.png" for n in range(48)}
    left = {path.name for path in (output / "private").iterdir()}
    assert left <= {"manifest.sqlite", "contact-sheet.png", "job.lock"}, "temporaries are gone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_cleanly_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    make_inputs(tmp_path / "in", 48)
    process = subprocess.Popen(
        command(*job(tmp_path)),
        env=environment(0.2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background is told to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    patience = time.monotonic() + 30
    while not done_rows(tmp_path / "out") and time.monotonic() < patience:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("interrupted: "), err
    assert "Traceback" not in err
    assert out == ""
    assert 0 < len(done_rows(tmp_path / "out")) < 48
    assert [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".tmp"] == []
    assert call(*job(tmp_path)).returncode == 0
    assert len(done_rows(tmp_path / "out")) == 48


def test_two_runs_on_one_output_refuse_each_other(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 4)
    process = subprocess.Popen(command(*job(tmp_path)), env=environment(0.5), stderr=subprocess.DEVNULL)
    try:
        patience = time.monotonic() + 30
        while not (tmp_path / "out" / "private" / "manifest.sqlite").exists() and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(0.2)
        second = call(*job(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert second.returncode == 2
    assert "another run is working on" in second.stderr
    assert call(*job(tmp_path)).returncode == 0, "a killed run's lock does not stay"


def test_json_is_one_object_on_stdout_and_progress_is_elsewhere(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 3)
    (tmp_path / "in" / "bad.jpg").write_bytes(b"")
    run = call(*job(tmp_path, "--json"))
    assert run.returncode == 1
    result = json.loads(run.stdout)
    assert (result["done"], result["failed"], result["exit_code"]) == (3, 1, 1)
    assert result["failures"][0]["input"] == "bad.jpg"
    assert "device: cpu" in run.stderr
    assert "\r" not in run.stderr
    assert "\x1b" not in run.stderr + run.stdout
    plan = call(*job(tmp_path, "--json", "--dry-run"))
    assert (plan.returncode, json.loads(plan.stdout)["items"][0]["action"]) == (1, "fail")


def test_status_shows_every_row_and_only_the_failed_on_request(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 3)
    (tmp_path / "in" / "bad [red].jpg").write_bytes(b"")
    assert call(*job(tmp_path)).returncode == 1
    output = tmp_path / "out"
    shown = call("status", output)
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in ("photo-00.png", "photo-02.png", "bad [red].jpg"))
    assert "3 done, 1 failed, 0 pending" in shown.stdout
    failed = call("status", output, "--failed")
    assert "bad [red].jpg" in failed.stdout
    assert "photo-00.png" not in failed.stdout
    listed = json.loads(call("status", output, "--json").stdout)
    assert listed["counts"] == {"done": 3, "failed": 1, "pending": 0}
    assert len(listed["items"]) == 4
    missing = call("status", tmp_path)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def test_flags_come_before_the_configuration_file(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    config = tmp_path / "job.toml"
    config.write_text('align = "never"\nsteps = 4\nmargin = 0.25\ncontact-sheet = 0\n')
    run = call("anonymize", tmp_path / "in", tmp_path / "out", "--config", config, "--steps", 3)
    assert run.returncode == 0, run.stderr
    settings = json.loads(call("status", tmp_path / "out", "--json").stdout)["settings"]
    assert (settings["steps"], settings["margin"], settings["align"]) == (3, 0.25, "never")
    assert not (tmp_path / "out" / "private" / "contact-sheet.png").exists()


def _usage_errors(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    config = tmp_path / "bad.yaml"
    config.write_text("marign: 1\n")
    pictures, out = tmp_path / "in", tmp_path / "out"
    return {
        "unknown key": (["anonymize", pictures, out, "--config", config], "did you mean 'margin'"),
        "unknown option": (["anonymize", pictures, out, "--margn", "1"], "--margin"),
        "unknown command": (["anonymise", pictures, out], "anonymise"),
        "missing argument": (["anonymize", pictures], "OUTPUT"),
        "bad batch size": (["anonymize", pictures, out, "--batch-size", "lots"], "neither auto nor"),
        "margin out of range": (["anonymize", pictures, out, "--margin", "2"], "margin 2.0 is outside"),
        "missing input": (["anonymize", tmp_path / "none", out], "none"),
        "missing bundle": (["anonymize", pictures, out, "--bundle", "nowhere"], "no bundle 'nowhere'"),
        "wrong device": (["anonymize", pictures, out, "--device", "abacus"], "unknown device 'abacus'"),
        "output is a file": (["anonymize", pictures, config], "is a file"),
        "stage out": (["extract", pictures, tmp_path / "x.csv"], "neither .npz nor .safetensors"),
    }


CASES = (
    "unknown key",
    "unknown option",
    "unknown command",
    "missing argument",
    "bad batch size",
    "margin out of range",
    "missing input",
    "missing bundle",
    "wrong device",
    "output is a file",
    "stage out",
)


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_work_is_one_line_and_exit_code_2(tmp_path: Path, case: str) -> None:
    make_inputs(tmp_path / "in", 1)
    arguments, expected = _usage_errors(tmp_path)[case]
    run = call(*arguments, fake=False)
    assert run.returncode == 2
    assert expected in run.stderr
    assert run.stderr.count("\n") == 1, run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "out").exists()


def _obey_permissions() -> None:
    """Take from a process that is about to start root's right to read everything; others have none to lose."""
    import ctypes

    drop_from_bounding_set, override, read_search = 24, 1, 2
    for capability in (override, read_search):
        ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="takes capabilities away as Linux does")
@pytest.mark.parametrize("closed", ["in", "in/deeper"])
def test_an_unreadable_folder_is_one_line_and_exit_code_2(tmp_path: Path, closed: str) -> None:
    make_inputs(tmp_path / "in", 1)
    make_inputs(tmp_path / "in" / "deeper", 1)
    (tmp_path / closed).chmod(0)
    try:
        run = subprocess.run(
            command(*job(tmp_path)),
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
            preexec_fn=_obey_permissions,
        )
    finally:
        (tmp_path / closed).chmod(0o755)
    assert run.returncode == 2, run.stdout
    assert run.stderr.count("\n") == 1, run.stderr
    assert str(tmp_path / closed) in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="takes capabilities away as Linux does")
def test_an_unreadable_image_is_a_row_and_an_unwritable_output_is_not(tmp_path: Path) -> None:
    paths = make_inputs(tmp_path / "in", 2)
    paths[0].chmod(0)
    arguments = {"capture_output": True, "text": True, "env": environment(), "preexec_fn": _obey_permissions}
    run = subprocess.run(command(*job(tmp_path, "--json")), check=False, **arguments)  # type: ignore[call-overload]
    assert run.returncode == 1, run.stderr
    assert [failure["reason"] for failure in json.loads(run.stdout)["failures"]] == ["unreadable"]
    (tmp_path / "closed").mkdir(mode=0o555)
    for output in (tmp_path / "closed", tmp_path / "closed" / "new"):
        for more in ((), ("--dry-run",)):
            refused = subprocess.run(
                command("anonymize", tmp_path / "in", output, "--align", "never", *more),
                check=False,
                **arguments,  # type: ignore[call-overload]
            )
            assert refused.returncode == 2, refused.stderr
            assert refused.stderr.count("\n") == 1, refused.stderr


def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the manifest, then an image, cannot grow."""
    resource = pytest.importorskip("resource")
    make_inputs(tmp_path / "in", 2)

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    run = subprocess.run(
        command(*job(tmp_path)), capture_output=True, text=True, env=environment(), check=False, preexec_fn=small_disk
    )
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1].startswith("error: ")
    assert call(*job(tmp_path)).returncode == 0


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["anonymize", "--help"], ["status", "--help"], ["pair", "--help"]]
)
def test_help_is_there(arguments: list[str]) -> None:
    run = call(*arguments, fake=False)
    assert run.returncode == (0 if arguments else 2)
    assert "Usage" in run.stdout + run.stderr


def test_with_json_an_error_is_an_object_too(tmp_path: Path) -> None:
    make_inputs(tmp_path / "in", 1)
    for arguments in (
        job(tmp_path, "--json", "--margin", "2"),
        ["anonymize", "--json"],
        ["status", tmp_path, "--json"],
    ):
        run = call(*arguments)
        assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
        told = json.loads(run.stdout)
        assert told["exit_code"] == 2
        assert run.stderr.startswith(f"error: {told['error']}")


def test_names_that_are_no_text_can_be_said(tmp_path: Path) -> None:
    strange = [b"caf\xe9.png", b"two\nlines.png", b"[red]\x1b[31m:smile:.png", "\u5730.png".encode()]
    make_inputs(tmp_path / "in", 1)
    picture = (tmp_path / "in" / "photo-00.png").read_bytes()
    for name in strange:
        Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(picture)
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/bad\n\xe9.png")).write_bytes(b"")
    output = tmp_path / os.fsdecode(b"out\xe9 put")
    common = ("anonymize", tmp_path / "in", output, "--align", "never", "--steps", "1")
    env = environment() | {"PYTHONIOENCODING": "ascii"}
    for arguments in (
        common,
        (*common, "--dry-run"),
        (*common, "--json"),
        ("status", output),
        ("status", output, "--json"),
    ):
        run = subprocess.run(command(*arguments), capture_output=True, env=env, check=False)
        assert run.returncode in (0, 1), run.stderr
        assert b"\x1b" not in run.stdout
        if "--json" in arguments:
            assert json.loads(run.stdout)
        elif "--dry-run" not in arguments:
            assert rb"bad\n\xe9.png" in run.stdout
        if arguments[0] == "status" and "--json" not in arguments:
            assert rb"[red]\x1b[31m:smile:.png" in run.stdout
    assert len(done_rows(output)) == 5
