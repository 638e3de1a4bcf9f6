"""Results get the names of their inputs, and no two the same one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from PIL import Image

from faceanon_engine.engine.job.settings import JobSettings
from tests.support.fake_worker import make_inputs
from tests.support.jobs import items, run


def test_names_that_meet_are_kept_apart(settings: JobSettings) -> None:
    make_inputs(settings.input, 1)
    for name in ("photo-00.bmp", "photo-00.jpg", "PHOTO-00.webp"):
        Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / name)
    folder = settings.input / "a.png"
    make_inputs(folder, 1)
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / "a.bmp")
    result = run(settings)
    assert (result.done, result.failed) == (6, 0)
    outputs = [str(row.output) for row in items(settings)]
    assert len({name.casefold() for name in outputs}) == 6
    assert {"a.png/photo-00.png", "a.bmp.png"} <= set(outputs)
    before = {row.input: row.output for row in items(settings)}
    again = replace(settings, output=settings.output.with_name("again"))
    run(again)
    assert {row.input: row.output for row in items(again)} == before


def test_a_strange_file_name_is_kept_and_recorded(settings: JobSettings) -> None:
    settings.input.mkdir()
    name = os.fsdecode(b"caf\xe9 [bold] \n.png")
    Image.new("RGB", (32, 32), (9, 9, 9)).save(settings.input / name)
    assert run(settings).done == 1
    (row,) = items(settings)
    assert row.input == "caf\\xe9 [bold] \n.png"
    assert run(settings).done_before == 1


def test_a_list_may_name_files_of_one_name_in_different_places(tmp_path: Path, settings: JobSettings) -> None:
    make_inputs(tmp_path / "here", 1)
    make_inputs(tmp_path / "there", 1, {0: (1, 2, 3)})
    listed = tmp_path / "here" / "list.txt"
    listed.write_text(f"photo-00.png\n../photo-00.png\n# a remark\n{tmp_path / 'there' / 'photo-00.png'}\n")
    (tmp_path / "photo-00.png").write_bytes((tmp_path / "there" / "photo-00.png").read_bytes())
    result = run(replace(settings, input=listed))
    assert (result.inputs, result.done) == (3, 3)
    assert {"photo-00.png", "photo-00~2.png"} <= {row.input for row in items(settings)}
    assert all(
        (settings.folder.release / str(row.output)).resolve().is_relative_to(settings.output) for row in items(settings)
    )


def test_names_as_long_as_they_may_be_get_results(settings: JobSettings) -> None:
    settings = replace(settings, format="webp", save_codes=True, contact_sheet=1)
    (picture,) = make_inputs(settings.input, 1)
    folder = settings.input / os.fsdecode(b"\xe9" * 255)  # four times as long when it is spelled
    folder.mkdir()
    long = ["a" * 251 + ".png", "a" * 250 + "b.png", "\u5730" * 83 + ".png"]
    for place in (settings.input, folder):
        for name in long:
            (place / name).write_bytes(picture.read_bytes())
    result = run(settings)
    assert (result.done, result.failed) == (7, 0)
    outputs = [str(row.output) for row in items(settings)]
    assert len(set(outputs)) == 7
    assert all((settings.folder.release / name).is_file() for name in outputs)
    assert run(settings).done_before == 7
