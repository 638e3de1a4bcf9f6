"""A configuration file that nobody means well is one short line, at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.config_file import MOST_BYTES, read_config
from faceanon_engine.engine.job.settings import SETTINGS, JobSettings, job_settings

LAUGHS = "margin:\n - &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f" - &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{','.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
HOSTILE_YAML = {
    "laughs": (LAUGHS, "'margin' is a list"),
    "merge keys": (MERGES, "'a0' is a table"),
    "a merge": ("<<: {steps: 1}\n", "'<<'"),
    "a circle": ("margin: &a [*a]\n", "'margin' is a list"),
    "a circle of all": ("&a {*a : *a}\n", "*a, which stands for no value"),
    "depth": ("margin: " + "[" * 60_000, "nests deeper"),
    "depth of blocks": ("- " * 30_000, "holds no settings"),
    "depth of tables": ("margin: " + "{a: " * 16_000, "nests deeper"),
    "depth in a name": ("? " * 30_000, "nests deeper"),
    "digits": (f"steps: {'9' * 5000}\n", "'steps' is '999"),
    "hexadecimal digits": (f"steps: 0x{'f' * 5000}\n", "steps a number of about 6021 digits has more digits"),
    "digits of a number": (f"margin: {'9' * 400}\n", "margin a number of about 400 digits has more digits"),
    "digits as text": (f"batch-size: '{'9' * 5000}'\n", "batch-size is '999"),
    "digits of a base": (f"steps: 1{':00' * 20_000}\n", "has more digits"),
    "digits of a version": (f"%YAML {'1' * 5000}.1\n---\nsteps: 1\n", "not valid YAML"),
    "a huge number": ("margin: 1.0e+999\n", "margin inf is outside"),
    "an impossible date": ("seed: 2001-99-99\n", "'seed' is '2001-99-99', which is no value (month must be in 1..12)"),
    "an impossible time": ("seed: 2001-09-09 99:99:99\n", "'seed' is '2001-09-09 99:99:99', which is no value"),
    "a date": ("seed: 2001-09-09\n", "seed is datetime.date(2001, 9, 9), expected a whole number"),
    "a tag of Python": ("seed: !!python/object/apply:os.system [id]\n", "'seed' is a list"),
    "a name of Python": ("seed: !!python/name:os.system ''\n", "which is no value"),
    "a tag": ("seed: !mine 1\n", "which is no value"),
    "a wrong tag": ("save-codes: !!bool maybe\n", "which is no value"),
    "no time": ("seed: !!timestamp soon\n", "which is no value"),
    "bytes": ("seed: !!binary aGFsbG8=\n", "seed is b'hallo'"),
    "no bytes": ("seed: !!binary 'ä'\n", "which is no value"),
    "a set": ("seed: !!set {a, b}\n", "'seed' is a table"),
    "a list as name": ("? [a, b]\n: 1\n", "a name is a list"),
    "a table as name": ("? {a: b}\n: 1\n", "a name is a table"),
    "no text as name": ("null: 1\n", "unknown setting None"),
    "a letter that is none": ('device: "\\UFFFFFFFF"\n', "not valid YAML"),
    "half a letter": ('device: "\\uD800"\n', "is neither a name nor a path"),
    "a zero byte": ('bundle: "a\\0b"\n', "is neither a name nor a path"),
    "a zero byte outside": ("bundle: a\0b\n", "not valid YAML"),
    "a control character": ("bundle: a\x1bb\n", "not valid YAML"),
    "a long value": (f"device: {'x' * 60_000}\n", "device 'xxx"),
    "a long word": (f"preset: {'x' * 4000}\n", "unknown preset 'xxx"),
    "a long name": (f"? {'x' * 60_000}\n: 1\n", "unknown setting 'xxx"),
    "a long anchor": (f"seed: *{'x' * 60_000}\n", "stands for no value"),
    "many names": (
        "marign: 1\n" + "".join(f"key{n}: 1\n" for n in range(5000)),
        "unknown settings 'marign', 'key0', 'key1' and 4998 more: did you mean 'margin' by 'marign'?",
    ),
    "a name twice": ("steps: 1\n" * 5000, "'steps' is given twice"),
    "documents": ("steps: 1\n---\nsteps: 2\n", "more than one document"),
    "a text": ("steps\n", "holds no settings"),
    "too long": ("#" * (MOST_BYTES + 1), "has more than 64 KiB"),
}
HOSTILE_TOML = {
    "depth": ("margin = " + "[" * 60_000, "nests too deep"),
    "depth of tables": ("margin = " + "{a=" * 20_000, "nests too deep"),
    "depth of a name": (f"margin{'.a' * 30_000} = 1\n", "line 1 has names in more than 99 parts"),
    "depth of a table's name": (f"#\n[margin{'.a' * 30_000}]\n", "line 2 has names in more than 99 parts"),
    "digits": (f"steps = {'9' * 5000}\n", "not valid TOML"),
    "hexadecimal digits": (f"steps = 0x{'f' * 5000}\n", "has more digits"),
    "a huge number": ("margin = 1e999\n", "margin inf is outside"),
    "an impossible date": ("seed = 2001-99-99\n", "not valid TOML"),
    "a list": ("seed = [" + "1," * 30_000 + "]\n", "seed is [1, 1, 1, ...], expected a whole number"),
    "a letter that is none": ('device = "\\UFFFFFFFF"\n', "not valid TOML"),
    "a zero byte": ('bundle = "a\\u0000b"\n', "is neither a name nor a path"),
    "many names": ("".join(f"key{n} = 1\n" for n in range(4000)), "unknown settings 'key0', 'key1', 'key2' and 3997"),
}
CASES = [
    *(pytest.param("a.yaml", *case, id=f"yaml, {name}") for name, case in HOSTILE_YAML.items()),
    *(pytest.param("a.toml", *case, id=f"toml, {name}") for name, case in HOSTILE_TOML.items()),
]


def settings_in(file: Path) -> JobSettings:
    return job_settings("in", "out", read_config(file))


@pytest.mark.parametrize(("name", "text", "expected"), CASES)
def test_a_hostile_file_is_one_short_line_at_once(tmp_path: Path, name: str, text: str, expected: str) -> None:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        settings_in(file)
    message = str(raised.value)
    assert expected in message
    assert len(message.replace(str(file), "")) < 500
    assert message.isprintable()


@pytest.mark.parametrize("suffix", ["yaml", "toml"])
def test_what_is_no_text_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    for content in (b"\xff\xfe\0", b"\x80", bytes(range(256))):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is not UTF-8 text"):
            read_config(file)


def test_what_is_no_file_or_has_no_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "round.yaml").symlink_to("round.yaml")
    with open(tmp_path / "sparse.yaml", "wb") as file:
        file.truncate(2**40)
    for name, expected in {
        "pipe": "it is a pipe or a device",
        "device": "it is a pipe or a device",
        "folder": "it is a folder",
        "round": "Too many levels",
        "sparse": "has more than 64 KiB",
        "none": "No such file",
    }.items():
        with pytest.raises(UserError, match=expected):
            read_config(tmp_path / f"{name}.yaml")


def test_what_yaml_has_for_single_values_still_counts(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "%YAML 1.1\n---\n# ours\nsteps: &n 0x10\nlimit: *n\n? seed\n: !!int '7'\nmargin: .5\ndevice: >-\n  cpu\n"
        "'save-codes': on\npool-size: ~\nquality: 1_0\n...\n"
    )
    assert read_config(file) == {
        "steps": 16,
        "limit": 16,
        "seed": 7,
        "margin": 0.5,
        "device": "cpu",
        "save_codes": True,
        "pool_size": None,
        "quality": 10,
    }
    for text in ("", "\n# nothing\n", "---\n", "--- ~\n", "{}\n"):
        file.write_text(text)
        assert read_config(file) == {}


KEY = st.sampled_from([each.spelled for each in SETTINGS.values()]) | st.text(max_size=8)
YAML_VALUE = st.recursive(
    st.one_of(
        st.sampled_from(
            ["1", "0.5", "true", "auto", "~", "&a 1", "*a", "!!int x", "!!set", "2001-99-99", "1:99", "<<"]
        ),
        st.text(max_size=12),
        st.integers().map(str),
        st.floats().map(str),
    ),
    lambda each: (
        st.lists(each, max_size=3).map(lambda items: "[" + ", ".join(items) + "]")
        | st.lists(st.tuples(each, each), max_size=3).map(lambda two: "{" + ", ".join(map(": ".join, two)) + "}")
    ),
    max_leaves=6,
)
YAML = st.lists(st.tuples(KEY, YAML_VALUE).map(": ".join), max_size=5).map("\n".join)
TOML = st.lists(st.tuples(KEY, YAML_VALUE).map(" = ".join), max_size=5).map("\n".join)


def refusal(make: Callable[[], JobSettings]) -> str:
    """Why there are no settings; empty where there are some."""
    try:
        assert isinstance(make(), JobSettings)
    except UserError as error:
        return str(error)
    return ""


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(YAML, TOML, st.text()).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(),
    suffix=st.sampled_from(["yaml", "toml"]),
)
def test_any_bytes_are_settings_or_a_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(content)
    reason = refusal(lambda: settings_in(file))
    assert len(reason.replace(str(file), "")) < 600
    assert "\n" not in reason


VALUE: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**60, 2**70), st.floats(), st.text(), st.binary(),
    st.dates(), st.lists(st.integers()), st.just(10**5000), st.just("9" * 5000), st.just("x" * 10**6),
    st.sampled_from(["auto", "cpu"]),
)  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(list(SETTINGS)) | st.text(), VALUE, max_size=4))
def test_any_arguments_of_python_are_settings_or_a_line(values: dict[str, Any]) -> None:
    assert len(refusal(lambda: job_settings("in", "out", values))) < 600
