"""Reads a pickle as plain data: nothing in it runs, and what it costs is bounded by the bytes that it has.

Python's own readers trust a pickle's numbers: an index of the memo, or the length of a text, is reserved before it is
looked at, and a key of tuples within tuples is hashed for ever. So the opcodes are taken here one by one. Numbers,
texts and containers are made; every other name stands in a table of functions that build inert values, or is refused.
"""

from __future__ import annotations

import mmap
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

import numpy as np

from faceanon_engine.engine.system.printable import printable

# Of all steps of one file. The largest official files need a tenth; as many take two seconds and less than a gigabyte.
_STEPS = 1_000_000
_TEXT = 4 << 20  # bytes of one text; the source of a class, the longest there is, has 50 thousand


class Malformed(ValueError):
    """The bytes are no checkpoint that can be read; the message says why."""


class Damaged(Malformed):
    """The bytes begin as a checkpoint's and are too few or have been changed, as after a download that broke off."""


class Refused(Exception):
    """The pickle asks for a name that is neither a tensor nor a plain container; the message is the name."""


def shown(name: str) -> str:
    """A name as it can be shown, whatever the file calls it."""
    return printable(name if len(name) <= 80 else f"{name[:77]}...")


class Inert:
    """Stands for a value that no network needs, such as a set or NumPy's arrays, and for its type.

    Nothing of it is kept.
    """

    def __call__(self, *_: Any) -> Inert:
        return self


class Record(dict[str, Any]):
    """Stands for an object: its attributes, as inert data."""


class Steps:
    """How much reading a file may still cost, counted in opcodes and in copied items."""

    def __init__(self, left: int = _STEPS) -> None:
        self.left = left
        self.used = 0

    def take(self, count: int = 1) -> None:
        self.left -= count
        self.used += count
        if self.left < 0:
            raise Malformed("it takes more steps to read than any checkpoint")


class Stream:
    """The bytes from `at` on, as pickletools reads them; more than there are is refused before it is reserved."""

    def __init__(self, data: bytes | mmap.mmap, steps: Steps, at: int = 0) -> None:
        self.data = data
        self.steps = steps
        self.at = at
        self.limit = len(data)

    def read(self, count: int) -> bytes:
        self.need(count)
        if count > self.limit:
            raise Malformed(f"a text or number of {count} bytes")
        self.at += count
        return self.data[self.at - count : self.at]

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + self.limit) + 1
        if not end:
            raise Damaged(f"a line without end at byte {self.at}")
        return self.read(end - self.at)

    def need(self, count: int) -> None:
        """Raises Malformed when fewer bytes follow."""
        if not 0 <= count <= len(self.data) - self.at:
            raise Damaged(f"{count} bytes are announced at byte {self.at}, {len(self.data) - self.at} follow")


Names = Mapping[tuple[str, str], Any]
"""What a pickle's names stand for: a function that is called with plain values, or a value."""

_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_BYTES = {"SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_OTHERS = {
    *("MARK", "STOP", "POP", "POP_MARK", "DUP", "PROTO", "FRAME", "MEMOIZE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"),
    *("TUPLE", "LIST", "DICT", "FROZENSET", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
}
_OPCODES = {
    op.code.encode("latin-1"): op
    for op in pickletools.opcodes
    if op.name in _VALUES | _OTHERS | {*_CONSTANTS, *_TUPLES} | _PUT | _GET
}


def read_pickle(stream: Stream, names: Names, stored: Callable[[Any], Any] | None = None) -> Any:
    """The next pickle's value; raises Malformed, and Refused for a name that is not in `names`.

    Dictionaries of any kind come as dict. stored: makes a value of what a pickle says of one that lies outside of it
    (a persistent id); None when there are none.
    """
    try:
        return _Reader(stream, names, stored).run()
    except (IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(f"its pickle is damaged near byte {stream.at}") from None


class _Reader:
    def __init__(self, stream: Stream, names: Names, stored: Callable[[Any], Any] | None) -> None:
        self.stream = stream
        self.steps = stream.steps
        self.names = names
        self.stored = stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        stream, first = self.stream, self.steps.used
        whole = stream.limit
        while True:
            self.steps.take()
            code = stream.read(1)
            op = _OPCODES.get(code)
            if op is None:
                raise Malformed(f"byte {stream.at - 1} is no instruction that checkpoints are made of")
            if op.name not in _BYTES:
                stream.limit = _TEXT
            argument: Any = op.arg.reader(cast(IO[bytes], stream)) if op.arg is not None else None
            stream.limit = whole
            if op.name == "STOP":
                return self.stack.pop()
            if op.name in _PUT and not 0 <= argument <= self.steps.used - first:
                # Pickles count what they remember from 0 on: there cannot be more than there were instructions.
                raise Malformed(f"its memo is asked for place {argument} after {self.steps.used - first} instructions")
            self.step(op.name, argument)

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case _ if name in _VALUES:
                if isinstance(argument, str):
                    self.steps.take(len(argument) // 64)
                stack.append(argument)
            case _ if name in _PUT:
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case _ if name in _GET:
                stack.append(self.memo[argument])
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _TUPLES:
                first = len(stack) - _TUPLES[name]
                if first < 0:
                    raise IndexError
                stack[first:] = [tuple(stack[first:])]
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_SET":
                stack.append(Inert())
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "TUPLE":
                items = self.marked()
                self.stack.append(tuple(items))
            case "LIST":
                items = self.marked()
                self.stack.append(items)
            case "DICT":
                items = self.marked()
                self.stack.append({})
                self.put(items)
            case "FROZENSET":
                self.marked()
                self.stack.append(Inert())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.put([key, value])
            case "SETITEMS":
                self.put(self.marked())
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self.extend(self.marked())
            case "GLOBAL":
                stack.append(self.named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(self.named(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.made(function, arguments))
            case "BUILD":
                self.build(stack.pop(), stack[-1])
            case "BINPERSID":
                if self.stored is None:
                    raise Malformed("it holds values that lie outside of it")
                stack.append(self.stored(stack.pop()))
            case "POP":
                # Without a value above it, the mark itself.
                _ = stack.pop() if stack else self.marked()
            case "POP_MARK":
                self.marked()
            case "DUP":
                stack.append(stack[-1])
            case "FRAME":
                self.stream.need(argument)  # read ahead by other readers; here it is a promise of bytes
            case "PROTO":
                if argument > 5:
                    raise Malformed(f"its pickle is of protocol {argument}")

    def marked(self) -> list[Any]:
        """What was put on the stack since the last mark, which goes."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def put(self, items: list[Any]) -> None:
        """Keys and values in turn, into the dictionary on the stack."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed("items are put into what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, Inert):
                target[_key(key)] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise Malformed("items are put into what is no list")

    def named(self, module: Any, attribute: Any) -> Any:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Malformed("a name in it is no text")
        if (module, attribute) in self.names:
            return self.names[module, attribute]
        if (module, attribute) in PLAIN:
            return PLAIN[module, attribute]
        raise Refused(shown(f"{module}.{attribute}".removeprefix("builtins.").removeprefix("__builtin__.")))

    def made(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple) or not callable(function):
            raise Malformed("something is called that is no function")
        if function is _ordered and arguments:
            self.steps.take(len(arguments[0]))  # these are copied, as often as the pickle says so
        return function(*arguments)

    def build(self, state: Any, target: Any) -> None:
        if isinstance(target, _NumberType):
            target.set_state(state)
        elif isinstance(target, Record):
            if not isinstance(state, dict):
                raise Malformed("an object's attributes are no dictionary")
            self.steps.take(len(state))
            target.update(state)
        # Attributes of containers, such as the versions of a state dict, are not read.


def _key(key: Any) -> Any:
    """The key itself where hashing it is quick, and no collision can be made on purpose."""
    parts = key if isinstance(key, tuple) and len(key) <= 16 else (key,)
    for part in parts:
        if not isinstance(part, str | bytes | int | float | None) or (isinstance(part, int) and abs(part) >= 2**61 - 1):
            raise Malformed(f"a key in it is a {type(part).__name__}, no name")
    return key


class _NumberType:
    """Stands for the type of NumPy's values: a letter and its bytes, such as f8, and the byte order.

    name: as NumPy takes it; None for a type, such as a date's, of which no value is needed.
    """

    def __init__(self, code: Any, *_: Any) -> None:
        numbers = isinstance(code, str) and re.fullmatch(r"b1|[iu][1248]|f[248]|U[1-9][0-9]{0,3}", code)
        self.name = f"<{code}" if numbers else None

    def set_state(self, state: Any) -> None:
        if self.name is not None and isinstance(state, tuple) and state[1:2] == (">",):
            self.name = f">{self.name[1:]}"


def _number(kind: Any, data: Any) -> Any:
    """A number or text of NumPy's as Python's."""
    if not isinstance(kind, _NumberType) or kind.name is None or not isinstance(data, bytes):
        return Inert()
    return np.frombuffer(data, kind.name, count=1)[0].item()


def _ordered(items: Any = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}


def _record(*_: Any) -> Record:
    return Record()


def _size(*sizes: Any) -> Any:
    return sizes[0] if sizes else ()


def _encoded(text: Any, coding: Any = "") -> Any:
    """Bytes, as protocol 2 spells them; more than a number or a word has are not copied."""
    return text.encode("latin-1") if isinstance(text, str) and len(text) <= 256 and coding == "latin1" else Inert()


def _defaulting(*_: Any) -> dict[Any, Any]:
    return {}


_NUMPY = (
    "bool",
    "bool_",
    "intc",
    "longlong",
    "void",
    "datetime64",
    "timedelta64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
)
_INERT = Inert()
_WITHOUT_VALUE = {
    "builtins": (
        *("set", "frozenset", "slice", "complex", "bytearray", "range"),
        *("int", "float", "bool", "str", "bytes", "list", "tuple", "dict", "object"),
        *("long", "unicode", "xrange"),  # as protocol 2 spells them
    ),
    "collections": ("Counter", "deque"),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"),
    "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"),
    "uuid": ("UUID",),
    # Arrays: no network of these stores its weights as NumPy's.
    "numpy": ("ndarray", *_NUMPY, "float64", "complex64", "complex128", "str_", "bytes_"),
    **{f"numpy.{core}.multiarray": ("_reconstruct",) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": ("_frombuffer",) for core in ("core", "_core")},
    # The state of a generator of random numbers, which training continues with.
    "numpy.random._pickle": ("__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"),
    **{f"numpy.random._{name}": (name.upper(),) for name in ("mt19937", "pcg64", "sfc64")},
    "numpy.random._philox": ("Philox",),
    "numpy.random.bit_generator": ("SeedSequence", "__pyx_unpickle_SeedSequence"),
    "torch": (
        "device",
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "bool",
    ),
}
_RECORDS = (
    *(("argparse", "Namespace"), ("types", "SimpleNamespace"), ("dnnlib.util", "EasyDict"), ("easydict", "EasyDict")),
    *(("addict.addict", "Dict"), ("munch", "Munch"), ("yacs.config", "CfgNode"), ("fvcore.common.config", "CfgNode")),
    *((f"{library}.utilities.parsing", "AttributeDict") for library in ("pytorch_lightning", "lightning.pytorch")),
)
PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): _defaulting,
    **dict.fromkeys(_RECORDS, _record),
    ("torch", "Size"): _size,
    ("_codecs", "encode"): _encoded,
    ("numpy", "dtype"): _NumberType,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
    **{(module, name): _INERT for module, names in _WITHOUT_VALUE.items() for name in names},
    **{("__builtin__", name): _INERT for name in _WITHOUT_VALUE["builtins"]},
}
"""What checkpoints hold besides tensors."""
