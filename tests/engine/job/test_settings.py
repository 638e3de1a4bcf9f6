"""Settings are checked where they enter, and say which of them is wrong."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from faceanon_engine.engine.choices import PresetName
from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.config_file import read_config
from faceanon_engine.engine.job.settings import SETTINGS, JobOptions, JobSettings, job_settings
from faceanon_engine.engine.method.preset import PRESETS


def test_python_takes_the_settings_as_the_fields_name_and_type_them() -> None:
    hints = get_type_hints(JobSettings)
    del hints["input"], hints["output"]
    assert get_type_hints(JobOptions) == hints
    assert list(SETTINGS) == list(hints)


def test_the_presets_named_are_those_there_are() -> None:
    assert list(get_args(PresetName)) == sorted(PRESETS)


def test_every_default_can_work_and_converts_to_itself() -> None:
    for field in fields(JobSettings):
        if field.name in SETTINGS:
            SETTINGS[field.name].check(field.default)
            assert SETTINGS[field.name].converted(field.default) == field.default


def test_yaml_and_toml_give_the_same_settings(tmp_path: Path) -> None:
    yaml, toml = tmp_path / "job.yaml", tmp_path / "job.toml"
    yaml.write_text("margin: 0.5\nbatch-size: auto\nsteps: 10\nsave_codes: true\npreset: falco-released\n")
    toml.write_text('margin = 0.5\nbatch-size = "auto"\nsteps = 10\nsave_codes = true\npreset = "falco-released"\n')
    assert read_config(yaml) == read_config(toml)
    settings = job_settings("in", "out", read_config(yaml))
    assert (settings.margin, settings.batch_size, settings.steps, settings.save_codes) == (0.5, None, 10, True)
    assert (settings.resolved_format, settings.resolved_quality) == ("jpeg", 75)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.yaml", "marign: 0.5\n", "did you mean 'margin'"),
        ("a.toml", "zzz = 1\n", "unknown setting 'zzz'"),
        ("a.yaml", "margin: [1\n", "not valid YAML"),
        ("a.toml", "margin = \n", "not valid TOML"),
        ("a.yaml", "- margin\n", "holds no settings"),
        ("a.yaml", "steps: 1.5\n", "steps is 1.5, expected a whole number"),
        ("a.yaml", "steps: true\n", "expected a whole number"),
        ("a.yaml", "save-codes: maybe\n", "expected true or false"),
        ("a.yaml", "batch-size: 1\nbatch_size: 2\n", "given twice"),
        ("a.yaml", "steps: 1\nmargin: 0.5\nsteps: 2\n", "'steps' is given twice"),
        ("a.txt", "margin: 1\n", "neither .yaml, .yml nor .toml"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, name: str, text: str, expected: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        read_config(file)
    assert expected in str(raised.value)
    assert str(file) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_an_empty_file_holds_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("")
    assert job_settings("in", "out", read_config(file)) == JobSettings(Path("in"), Path("out"))


@pytest.mark.parametrize(
    "values",
    [
        {"margin": 1.1},
        {"margin": float("nan")},
        {"steps": -1},
        {"batch_size": 0},
        {"limit": 0},
        {"quality": 0},
        {"quality": 101},
        {"truncation": 0.0},
        {"seed": -1},
        {"contact_sheet": -1},
        {"preset": "falcon"},
        {"format": "gif"},
        {"align": "always"},
        {"metric": "manhattan"},
        {"pool_size": "many"},
        {"device": None},
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        job_settings("in", "out", values)
    assert next(iter(values)).replace("_", "-") in str(raised.value)


@pytest.mark.parametrize(("name", "text"), [("a.yaml", "\ufeffsteps: 3\n"), ("a.toml", "\ufeffsteps = 3\n")])
def test_a_byte_order_mark_does_not_matter(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_config(tmp_path / name) == {"steps": 3}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_settings_made_directly_refuse_another_kind_by_name(name: str) -> None:
    for wrong in ({}, 1j):
        with pytest.raises(UserError, match=SETTINGS[name].spelled):
            JobSettings(Path("in"), Path("out"), **{name: wrong})
