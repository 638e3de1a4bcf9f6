"""Runs the CUDA sources on the host: the very same files, compiled by g++ under host/emulation.h."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from faceanon_engine.kernels.cuda.compile import SOURCES

HOST = Path(__file__).resolve().parent / "host"
COMPILER = shutil.which("g++")


class HostLauncher:
    """A launcher for tensors in ordinary memory; `launched` counts the kernels that ran."""

    def __init__(self, folder: Path, options: tuple[str, ...] = ("-O1",)) -> None:
        self.folder = folder
        self.options = options
        self.launched: Counter[str] = Counter()
        self._libraries: dict[str, ctypes.CDLL] = {}

    def library(self, source: str) -> ctypes.CDLL:
        """The source's kernels as ordinary functions."""
        if source not in self._libraries:
            assert COMPILER is not None
            path = self.folder / f"{source}.so"
            program = f'#include "emulation.h"\n#include "{SOURCES / source}.cu"\n'
            flags = ["-std=c++17", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-fPIC", "-shared", *self.options]
            command = [COMPILER, *flags, f"-I{HOST}", f"-I{SOURCES}", "-x", "c++", "-", "-o", str(path)]
            done = subprocess.run(command, input=program, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            self._libraries[source] = ctypes.CDLL(str(path))
        return self._libraries[source]

    def launch(
        self,
        source: str,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        arguments: ctypes.Structure,
        shared: int = 0,
    ) -> None:
        library = self.library(source)
        size = getattr(library, f"size_of_{kernel}")
        size.restype = ctypes.c_size_t
        assert size() == ctypes.sizeof(arguments), f"{type(arguments).__name__} is laid out otherwise in {source}.cu"
        function = getattr(library, kernel)
        function.restype = ctypes.c_char_p
        wrong = function((ctypes.c_uint * 6)(*grid, *block), ctypes.c_uint(shared), ctypes.byref(arguments))
        assert wrong is None, f"{kernel}: {wrong.decode()}"
        self.launched[kernel] += 1
