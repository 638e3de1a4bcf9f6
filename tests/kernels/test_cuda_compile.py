"""The CUDA sources compile for every architecture without spills, once, and the reports are read rightly."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from faceanon_engine.kernels.cuda import compile as compiler
from faceanon_engine.kernels.cuda.compile import (
    ARCHITECTURES,
    CompileError,
    FatBinary,
    compile_source,
    find_compiled,
    find_nvcc,
    parse_report,
    report,
    source_names,
)

needs_nvcc = pytest.mark.skipif(find_nvcc() is None, reason="nvcc is not installed: it compiles the CUDA sources")
# The oldest and one of the newest stand for the others, which take as long each; all of them on request.
ARCHITECTURES_TRIED = ARCHITECTURES if os.environ.get("FACEANON_ALL_ARCHS") else (75, 90)

REMARKS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_75'
ptxas info    : Function properties for one
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, used 0 barriers, 376 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_120'
ptxas info    : Function properties for two
    16 bytes stack frame, 8 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 16 bytes cumulative stack size, 4096 bytes smem
"""


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> list[FatBinary]:
    folder = tmp_path_factory.mktemp("fat")
    jobs = len(os.sched_getaffinity(0))
    return [compile_source(name, ARCHITECTURES_TRIED, folder=folder, jobs=jobs) for name in source_names()]


@needs_nvcc
def test_no_kernel_spills(binaries: list[FatBinary], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        seconds = sum(binary.seconds for binary in binaries)
        table = f"\n{report(binaries)}" if os.environ.get("FACEANON_ALL_ARCHS") else ""
        print(f"{table}\n{len(binaries)} CUDA sources for {len(ARCHITECTURES_TRIED)} architectures in {seconds:.1f} s")
    for binary in binaries:
        assert not binary.spills, binary.source
        kernels = _kernels(binary.source)
        for architecture in ARCHITECTURES_TRIED:
            assert {use.kernel for use in binary.uses if use.architecture == architecture} == kernels


def _kernels(source: str) -> set[str]:
    """The names that the source's macros make."""
    text = (compiler.SOURCES / f"{source}.cu").read_text(encoding="utf-8")
    names = set(re.findall(r"^\s*KERNEL\((\w+)(?:##suffix)?,", text, re.MULTILINE))
    suffixes = [f"{kind}{ending}" for kind in ("f32", "f16", "bf16") for ending in ("", "_any")]
    if "OF_EVERY_LAYOUT" not in text:
        suffixes = ["f32", "f16", "bf16"]
    return {name + end for name in names for end in (suffixes if name.endswith("_") else [""])}


@needs_nvcc
def test_two_blocks_fit_a_multiprocessor(binaries: list[FatBinary]) -> None:
    for use in (use for binary in binaries for use in binary.uses):
        assert use.static_shared == 0
        assert use.registers <= (255 if "rgb_sums" in use.kernel else 128), use


@needs_nvcc
def test_a_source_is_compiled_once(binaries: list[FatBinary], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, name = binaries[0].path.parent, binaries[0].source
    monkeypatch.setattr(compiler, "parse_report", lambda _: pytest.fail("compiled again"))
    again = compile_source(name, ARCHITECTURES_TRIED, folder=folder)
    assert again == binaries[0]
    assert again.path.stat().st_size > 1000
    for architecture in ARCHITECTURES_TRIED:
        assert find_compiled(name, architecture, folder) == binaries[0]
    assert find_compiled(name, 61, folder) is None


@needs_nvcc
def test_another_source_is_another_binary(binaries: list[FatBinary], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "source_hash", lambda name: "0" * 16)
    assert find_compiled(binaries[0].source, ARCHITECTURES_TRIED[0], binaries[0].path.parent) is None


@needs_nvcc
def test_a_refused_source_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuda").mkdir()
    (tmp_path / "bad.cu").write_text("__global__ void k() { this is no C++; }\n", encoding="utf-8")
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    with pytest.raises(CompileError, match=r"nvcc refused bad\.cu(.|\n)*error"):
        compile_source("bad", [90], folder=tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix]


def test_without_a_compiler_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    with pytest.raises(CompileError, match="nvcc was not found"):
        compile_source(source_names()[0], folder=tmp_path)


def test_the_assemblers_remarks_are_read() -> None:
    one, two = parse_report(REMARKS)
    assert dataclasses.astuple(one) == ("one", 75, 12, 0, 0, 0, 0)
    assert dataclasses.astuple(two) == ("two", 120, 128, 16, 8, 24, 4096)
    binary = FatBinary("x", Path("x.fatbin"), (75, 120), "nvcc", 1.0, (one, two))
    assert binary.spills == (two,)
    assert "128!" in report([binary])


def test_the_report_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.fatbin").write_bytes(b"12345")
    binary = FatBinary("resize_crop", tmp_path / "x.fatbin", (75, 120), "nvcc", 1.25, parse_report(REMARKS))
    monkeypatch.setattr(compiler, "source_names", lambda: ("resize_crop",))
    monkeypatch.setattr(compiler, "compile_source", lambda *_, **__: binary)
    assert compiler.main(["--folder", str(tmp_path), "--json", str(tmp_path / "report.json")]) == 1, "a kernel spills"
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert written["total"] == {
        "kernels": 2,
        "registers_of_a_thread_at_most": 128,
        "kernels_that_spill": 1,
        "spilled_bytes": 32,
        "stack_bytes_at_most": 16,
        "static_shared_bytes_at_most": 4096,
        "compiler_processor_seconds": 1.2,
    }
    assert written["architectures"]["sm_75"]["registers_of_a_thread_at_most"] == 12
    assert written["sources"]["resize_crop"]["registers"] == {"one": {"sm_75": 12}, "two": {"sm_120": 128}}
    assert str(tmp_path) not in json.dumps(written)


def test_the_readme_says_what_the_committed_report_says() -> None:
    root = compiler.SOURCES.parent
    if not (root / "benchmarks").is_dir():
        pytest.skip("the report lies in the repository alone")
    committed = json.loads((root / "benchmarks/results/kernels-compile.json").read_text(encoding="utf-8"))["values"]
    for name in source_names():
        assert committed["sources"][name]["hash"] == compiler.source_hash(name), "the source has changed: write it anew"
    text = (root / "kernels/README.md").read_text(encoding="utf-8")
    total = committed["total"]
    assert f"{total['kernels']} kernels" in text
    for what in ("kernels_that_spill", "stack_bytes_at_most", "static_shared_bytes_at_most"):
        assert total[what] == 0
    assert f"takes {total['compiler_processor_seconds']:.0f} s of one core" in " ".join(text.split())
    (header,) = re.findall(r"^\| bfloat16 / float32 \| (.*) \|$", text, re.MULTILINE)
    registers = {kernel: of for source in committed["sources"].values() for kernel, of in source["registers"].items()}
    rows = re.findall(r"^\| `(\w+)` \| (\d.*) \|$", text, re.MULTILINE)
    assert len(rows) == 12
    for kernel, cells in rows:
        each = zip(*(registers[f"{kernel}_{kind}"].items() for kind in ("bf16", "f32")), strict=True)
        assert cells == " | ".join(f"{wide} / {narrow}" for (_, wide), (_, narrow) in each), kernel
        assert header == " | ".join(registers[f"{kernel}_bf16"])


def test_a_record_that_cannot_be_read_is_compiled_anew(tmp_path: Path) -> None:
    name = source_names()[0]
    for number, text in enumerate(('{"half', "[]", '{"uses": [{"of": "another version"}], "architectures": [90]}')):
        (tmp_path / f"{name}-{compiler.source_hash(name)}-{number}.json").write_text(text, encoding="utf-8")
        (tmp_path / f"{name}-{compiler.source_hash(name)}-{number}.fatbin").write_bytes(b"binary")
    assert find_compiled(name, 90, tmp_path) is None


def test_a_compiler_that_does_not_run_is_told(tmp_path: Path) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho broken >&2\nexit 3\n", encoding="utf-8")
    nvcc.chmod(0o755)
    with pytest.raises(CompileError, match="nvcc does not run: broken"):
        compile_source(source_names()[0], [90], folder=tmp_path / "out", nvcc=nvcc)


def test_a_gpu_takes_what_suits_it_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def binary(*architectures: int) -> FatBinary:
        return FatBinary("x", tmp_path, architectures, "nvcc", 1.0, ())

    every = binary(*ARCHITECTURES)
    assert [compiler.runs_on(each, every) for each in (90, 103, 121, 130, 70)] == [3, 2, 2, 1, 0]
    assert compiler.runs_on(87, binary(80)) == 2
    assert compiler.runs_on(86, binary(89)) == 0


def test_the_hash_depends_on_source_and_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cuda").mkdir()
    monkeypatch.setattr(compiler, "SOURCES", tmp_path)
    hashes = set()
    for source, header in (("a", "b"), ("ab", ""), ("a", "c"), ("a", "b")):
        (tmp_path / "k.cu").write_text(source, encoding="utf-8")
        (tmp_path / "cuda" / "h.cuh").write_text(header, encoding="utf-8")
        hashes.add(compiler.source_hash("k"))
    assert len(hashes) == 3
