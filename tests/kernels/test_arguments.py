"""What a launch packs is what its kernel unpacks: the structs of the CUDA sources beside those of Python, by name."""

from __future__ import annotations

import ctypes
import re

import pytest

from faceanon_engine.kernels import resize_crop, styled_epilogue, token_loss, up_epilogue
from faceanon_engine.kernels.cuda.compile import SOURCES, source_names

# Source and struct: the class that is passed as it.
STRUCTS: dict[tuple[str, str], type[ctypes.Structure]] = {
    ("styled_epilogue", "EpilogueForward"): styled_epilogue._Forward,
    ("styled_epilogue", "EpilogueBackward"): styled_epilogue._Backward,
    ("styled_epilogue", "SkipBackward"): styled_epilogue._SkipBackward,
    ("up_epilogue", "UpForward"): up_epilogue._Forward,
    ("up_epilogue", "UpBackward"): up_epilogue._Backward,
    ("token_loss", "TokenForward"): token_loss._Forward,
    ("token_loss", "TokenBackward"): token_loss._Backward,
    ("resize_crop", "Axis"): resize_crop._AxisArguments,
    ("resize_crop", "View"): resize_crop._ViewArguments,
    ("resize_crop", "ResizeForward"): resize_crop._Forward,
    ("resize_crop", "ResizeBackward"): resize_crop._Backward,
}


def declared(source: str, struct: str) -> list[tuple[str, type]]:
    """Names and types of a struct's fields, in their order, as the source declares them."""
    text = re.sub(r"//[^\n]*", "", (SOURCES / f"{source}.cu").read_text(encoding="utf-8"))
    (body,) = re.findall(rf"struct {struct} \{{(.*?)\n\}};", text, re.DOTALL)
    plain: dict[str, type] = {"int": ctypes.c_int, "float": ctypes.c_float}
    nested: dict[str, type] = {name: of for (file, name), of in STRUCTS.items() if file == source}
    fields: list[tuple[str, type]] = []
    for kind, names in re.findall(r"([\w ]+\*?) ([\w, \[\]]+);", body):
        kind = kind.strip().removeprefix("const ")
        for name in names.split(", "):
            of = ctypes.c_void_p if kind.endswith("*") else (plain | nested)[kind]
            array = re.fullmatch(r"(\w+)\[(\d+)\]", name)
            fields.append((array[1], of * int(array[2])) if array else (name, of))
    return fields


@pytest.mark.parametrize(("source", "struct"), STRUCTS, ids=lambda name: name)
def test_a_struct_has_the_fields_of_its_kernels(source: str, struct: str) -> None:
    assert [(name, of) for name, of, *_ in STRUCTS[source, struct]._fields_] == declared(source, struct)


def test_every_kernels_struct_is_among_them() -> None:
    for source in source_names():
        text = (SOURCES / f"{source}.cu").read_text(encoding="utf-8")
        taken = set(re.findall(r"KERNEL\([\w#]+, \d, (\w+),", text))
        assert taken
        assert taken <= {struct for file, struct in STRUCTS if file == source}
