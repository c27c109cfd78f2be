"""The text of a tariff file: YAML as lists, mappings and plain texts, each with the line that it stands on. Pure.

Nothing but text is ever built of a value, so no number passes through a float, and what a value may be is one place's
business (``standpipe.tariffs.files``). Read from the parser's events, which need no recursion: however deep a file is
nested, it is refused at the line where that becomes too deep.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from standpipe.platform.errors import InvalidInputError
from standpipe.platform.units import is_storable

MAX_BYTES = 256_000
_MAX_DEPTH = 6
_SHOWN = 60
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_SENTENCES = {
    "missing": "this is missing",
    "extra_forbidden": "there is no such field",
    "tuple_type": "a list is needed here, such as [a, b]",
    "model_type": "fields are needed here, each as name: value",
    "model_attributes_type": "fields are needed here, each as name: value",
    "string_type": "a text is needed here",
    "decimal_type": "a number is needed here",
    "date_type": "a day is needed here, such as 2027-01-31",
    "bool_parsing": "yes or no is needed here",
    "bool_type": "yes or no is needed here",
    "int_parsing": "a whole number is needed here",
    "int_type": "a whole number is needed here",
    "string_too_short": "this is empty",
    "string_too_long": "at most {max_length} characters are taken here",
    "too_long": "at most {max_length} are taken here",
    "greater_than": "this must be more than {gt}",
    "greater_than_equal": "this must not be below {ge}",
    "less_than_equal": "this must not be above {le}",
    "literal_error": "one of these is needed here: {expected}",
}
Path = tuple[int | str, ...]


@dataclass
class TariffFileError(InvalidInputError):
    """A tariff file is wrong; one line each, as ``file:line: what``."""

    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(self.lines)


def load(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """A file's values, and the line of each by its path. Raises TariffFileError at the first that is no such thing."""
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise _error(name, 1, f"a tariff file has at most {MAX_BYTES // 1000} kB")
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _error(name, line, "there is a character that no text has") from None
    return _Builder(loader, name).document()


def line_of(path: Path, places: Mapping[Path, int]) -> int:
    """The line of the nearest thing that stands in the file."""
    while path and path not in places:
        path = path[:-1]
    return places.get(path, 1)


def words(item: ErrorDetails) -> str:
    """Turn pydantic's findings into words for those who write tariffs."""
    where = ".".join(_shown(step) if isinstance(step, str) else str(step + 1) for step in item["loc"])
    sentence = _SENTENCES.get(item["type"])
    said = sentence.format_map(item.get("ctx", {})) if sentence else re.sub(r"^Value error, ", "", item["msg"])
    return f"{where}: {said}" if where else said


class _Builder:
    """Builds a file's values from its events, noting lines."""

    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self._loader = loader
        self._name = name
        self._places: dict[Path, int] = {}

    def document(self) -> tuple[Any, dict[Path, int]]:
        self._next()  # The stream's start.
        if isinstance(self._next(), yaml.StreamEndEvent):
            raise _error(self._name, 1, "the file is empty")
        event = self._next()
        if not isinstance(event, yaml.MappingStartEvent):
            raise _error(self._name, _line(event), "a tariff is a list of `name: value` lines")
        found = self._value(event, ())
        self._next()  # The document's end.
        after = self._next()
        if not isinstance(after, yaml.StreamEndEvent):
            raise _error(self._name, _line(after), "one file holds one tariff; another begins here")
        return found, self._places

    def _next(self) -> yaml.Event:
        try:
            event: yaml.Event = self._loader.get_event()  # type: ignore[no-untyped-call]  # The stubs leave it out.
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else self._loader.line + 1
            raise _error(self._name, line, _shown(error.problem or "this is not YAML")) from None
        except (ValueError, OverflowError):  # PyYAML trusts the digits of an escape.
            raise _error(self._name, self._loader.line + 1, "there is a character that no text has") from None
        return event

    def _value(self, event: yaml.Event, path: Path) -> Any:
        line = self._places[path] = _line(event)
        if isinstance(event, yaml.AliasEvent):
            raise _error(self._name, line, "write it out; aliases (*) are not taken")
        if getattr(event, "tag", None) is not None:
            raise _error(self._name, line, "tags (!) are not taken")
        if isinstance(event, yaml.ScalarEvent):
            return self._text(event)
        if len(path) > _MAX_DEPTH:
            raise _error(self._name, line, "this is nested too deeply")
        return self._list(path) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(path)

    def _list(self, path: Path) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _mapping(self, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
                raise _error(self._name, line, "the name of a field is a plain word")
            self._text(event)
            key = event.value
            if key in found:
                raise _error(self._name, line, f"{_shown(key)} stands here twice")
            found[key] = self._value(self._next(), (*path, key))
            self._places[*path, key] = line
        return found

    def _text(self, event: yaml.ScalarEvent) -> str | None:
        value: str = event.value
        if not is_storable(value):
            raise _error(self._name, _line(event), "there is a character that no text has")
        return None if event.implicit[0] and value in _NULLS else value


def _line(event: yaml.Event) -> int:
    mark = event.start_mark
    return mark.line + 1 if mark else 1


def _error(name: str, line: int, what: str) -> TariffFileError:
    return TariffFileError("The tariff file has mistakes.", lines=(f"{name}:{line}: {what}",))


def _shown(text: str) -> str:
    """A name as a message can hold it: on one line, and not a page long."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
