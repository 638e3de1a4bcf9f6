"""Settings of a job from a YAML or TOML file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.job.settings import loose_settings
from faceanon_engine.engine.system.printable import first_line, shortened, shown
from faceanon_engine.engine.system.reading import read_text

MOST_BYTES = 64 * 1024
"""Of a file: every setting with a page of comments beside it takes less, and no parser is slow on so little."""
MOST_DEPTH = 16
"""Of lists and tables in YAML, of which none is a setting's value."""
MOST_PARTS = 99
"""Of a dotted name in TOML."""


def read_config(path: Path) -> dict[str, Any]:
    """Settings of a YAML (.yaml, .yml) or TOML (.toml) file, by name with underscores, types checked.

    Raises UserError for a file that cannot be read, unknown keys (with the nearest known one) or a wrong value.
    """
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml"):
        raise UserError(f"configuration file {path} is neither .yaml, .yml nor .toml: rename it to what it is")
    text = read_text(path, "configuration file", MOST_BYTES)
    kind, pairs = ("TOML", _toml_pairs) if suffix == ".toml" else ("YAML", _yaml_pairs)
    try:
        return loose_settings(pairs(text))
    except UserError as error:
        raise UserError(f"configuration file {path}: {error}") from None
    except Exception as error:
        # Besides errors of their own the parsers raise what Python does for numbers, letters and dates that cannot be.
        reason = shortened(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"configuration file {path} is not valid {kind}: {reason}") from None


def _toml_pairs(text: str) -> Iterator[tuple[object, object]]:
    import tomllib

    for number, line in enumerate(text.split("\n"), 1):
        # The library's time grows with the square of a name's parts.
        if line.count(".") > MOST_PARTS and not line.lstrip().startswith("#"):
            raise UserError(f"line {number} has names in more than {MOST_PARTS} parts: write one 'name = value' a line")
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise UserError("it nests too deep: write one 'name = value' a line") from None
    yield from content.items()


def _yaml_pairs(text: str) -> Iterator[tuple[object, object]]:
    """The names and values of one flat mapping, as they stand there.

    Read from the parser's events, one by one: nothing is built but single values, so that neither nesting nor aliases,
    which may multiply what they stand for without end, take memory or time.
    """
    import yaml

    # The file's kinds of values without its tree: a loader is made of a parser and these.
    loader = yaml.SafeLoader(text)
    values: dict[str, object] = {}  # by the anchors that they have

    def pass_over(whose: str) -> None:
        depth = 1
        while depth:
            event = loader.get_event()
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:  # the library's time grows with the square of it
                raise UserError(f"{whose} nests deeper than {MOST_DEPTH} lists: give one value")

    def value_of(event: Any, whose: str) -> object:
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in values:
                raise UserError(
                    f"{whose} is *{shortened(str(event.anchor), 80)}, which stands for no value: write the value"
                )
            return values[event.anchor]
        if not isinstance(event, yaml.ScalarEvent):
            pass_over(whose)
            kind = "a list" if isinstance(event, yaml.SequenceStartEvent) else "a table"
            raise UserError(f"{whose} is {kind}: give one value")
        tag = event.tag
        if tag is None or tag == "!":
            tag = loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        try:
            value = loader.construct_object(yaml.ScalarNode(tag, event.value))
        except Exception as error:  # numbers and dates that cannot be, and tags that are not known
            problem = first_line(error, getattr(error, "problem", None)).split(";")[0]
            raise UserError(f"{whose} is {shown(event.value)}, which is no value ({shortened(problem)})") from None
        if event.anchor is not None:
            values[event.anchor] = value
        return value

    loader.get_event()  # the stream begins
    if isinstance(loader.peek_event(), yaml.StreamEndEvent):
        return
    loader.get_event()  # the document begins
    start = loader.get_event()
    if isinstance(start, yaml.ScalarEvent) and value_of(start, "all of it") is None:
        pass  # an empty document
    elif not isinstance(start, yaml.MappingStartEvent):
        raise UserError("it holds no settings: write one 'name: value' a line")
    else:
        while not isinstance(event := loader.get_event(), yaml.MappingEndEvent):
            key = value_of(event, "a name")
            yield key, value_of(loader.get_event(), shown(key))
    loader.get_event()  # the document ends
    if not isinstance(loader.get_event(), yaml.StreamEndEvent):
        raise UserError("it holds more than one document (---): keep one")
