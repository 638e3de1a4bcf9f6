"""What is to be done: inputs that are new, changed, lost, gone, or whose name is taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from PIL import Image

from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import make_inputs
from tests.support.jobs import run, stamps


def test_new_inputs_join_and_a_larger_limit_goes_on(settings: JobSettings) -> None:
    make_inputs(settings.input, 4)
    assert run(replace(settings, limit=2)).done == 2
    before = stamps(settings.output)
    assert run(replace(settings, limit=3)).done == 3
    make_inputs(settings.input / "more", 1)
    assert run(settings).done == 5
    assert before.items() <= stamps(settings.output).items()


def test_a_missing_result_is_made_again(settings: JobSettings) -> None:
    make_inputs(settings.input, 3)
    run(settings)
    before = stamps(settings.output)
    (settings.output / "photo-01.png").unlink()
    result = run(settings)
    assert (result.done, result.done_before) == (3, 2)
    after = stamps(settings.output)
    assert {name for name in after if after[name] != before[name]} == {"photo-01.png"}


def test_a_changed_input_is_done_again(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 2)
    run(settings)
    before = stamps(settings.output)
    Image.new("RGB", (32, 32), (200, 0, 200)).save(paths[0])
    os.utime(paths[0], ns=(1, 1))
    assert run(settings).done == 2
    after = stamps(settings.output)
    assert after["photo-00.png"][1] != before["photo-00.png"][1]
    assert after["photo-01.png"] == before["photo-01.png"]


def test_a_file_of_somebody_else_is_never_overwritten(settings: JobSettings) -> None:
    make_inputs(settings.input, 2)
    settings.output.mkdir()
    theirs = settings.output / "photo-00.png"
    theirs.write_text("mine")
    result = run(settings)
    assert theirs.read_text() == "mine"
    assert [failure.reason for failure in result.failures] == ["output-exists"]
    assert result.done == 1
    theirs.unlink()
    assert run(settings).done == 2


def test_an_original_beside_the_output_is_never_overwritten(tmp_path: Path, settings: JobSettings) -> None:
    (path,) = make_inputs(settings.input, 1)
    before = path.read_bytes()
    result = run(replace(settings, input=path, output=settings.input))
    assert path.read_bytes() == before
    assert [failure.reason for failure in result.failures] == ["output-exists"]


def test_codes_that_are_not_ours_are_left_alone(settings: JobSettings) -> None:
    settings = replace(settings, save_codes=True)
    make_inputs(settings.input, 1)
    theirs = settings.output / "photo-00.w_plus.npy"
    theirs.parent.mkdir()
    theirs.write_bytes(b"a year of work")
    assert [failure.reason for failure in run(settings).failures] == ["output-exists"]
    assert theirs.read_bytes() == b"a year of work"


def test_an_input_that_was_listed_and_is_gone_says_so(settings: JobSettings) -> None:
    paths = make_inputs(settings.input, 3)
    paths[1].write_bytes(b"broken")
    run(settings)
    paths[0].unlink()
    paths[1].unlink()
    result = run(settings)
    assert [(failure.input, failure.reason) for failure in result.failures] == [("photo-01.png", "missing")]
    assert result.done == 2, "what is done stays done"
