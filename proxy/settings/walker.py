"""From YAML nodes to typed values: one walk over the declared types, with every mistake reported at its line.

What belongs here: the walk, which knows types but no setting. What a type says of itself is all it goes by:
its constraints (``msgspec.Meta``), and in ``Meta.extra`` a ``form`` (forms.py), the word for ``none``, or
that it is ``secret`` and must not be quoted. What does not: checks between settings (checks.py).
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, TypeVar

import yaml
from msgspec import inspect

from proxy.settings.document import Document, Place, place_of
from proxy.settings.forms import FORMS
from proxy.settings.mistakes import KeyPath, did_you_mean, shown

T = TypeVar("T")

_NULL: Final = "tag:yaml.org,2002:null"
_WHOLE: Final = re.compile(r"[+-]?(0|[1-9][0-9]*(_[0-9]+)*)")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?")
_WHOLE_CHARS_MAX: Final = 40


class _Wrong(Enum):
    WRONG = "wrong"


_WRONG: Final = _Wrong.WRONG
"""Stands for a value that could not be made; its mistake has been reported."""


def read(document: Document, node: yaml.Node, shape: type[T]) -> T | None:
    """Make a value of a struct type from a file's root node.

    A wrong value with a default becomes its default, and a wrong item of a list or mapping is left out, so
    that checks can go on: nothing may be used when ``document.mistakes`` is not empty.

    Returns:
        The value, or None when too little of it is sound.
    """
    value = _walk(document, node, inspect.type_info(shape), (), {})
    return value if isinstance(value, shape) else None


def _walk(document: Document, node: yaml.Node, kind: inspect.Type, path: KeyPath, extra: dict[str, Any]) -> object:
    document.places.setdefault(path, place_of(node.start_mark))
    if isinstance(kind, inspect.Metadata):
        return _walk(document, node, kind.type, path, extra | (kind.extra or {}))
    if isinstance(kind, inspect.UnionType):
        return _optional(document, node, kind, path, extra)
    if isinstance(kind, inspect.StructType):
        return _struct(document, node, kind, path)
    if isinstance(kind, inspect.DictType):
        return _mapping(document, node, kind, path)
    if isinstance(kind, inspect.VarTupleType):
        return _list(document, node, kind, path)
    return _scalar(document, node, kind, path, extra)


def _optional(
    document: Document, node: yaml.Node, kind: inspect.UnionType, path: KeyPath, extra: dict[str, Any]
) -> object:
    """A value or none; none is written as nothing at all, or as the word that the setting has for it."""
    (inner,) = (member for member in kind.types if not isinstance(member, inspect.NoneType))
    word = extra.get("none")
    if isinstance(node, yaml.ScalarNode):
        if word is None and node.tag == _NULL:
            return None
        if word is not None and node.value == word:
            return None
    return _walk(document, node, inner, path, extra)


def _struct(document: Document, node: yaml.Node, kind: inspect.StructType, path: KeyPath) -> object:
    if not isinstance(node, yaml.MappingNode):
        document.add(path, f"expected settings, got {_found(node)}", place_of(node.start_mark))
        return _WRONG
    fields = {field.name: field for field in kind.fields}
    values: dict[str, object] = {}
    written = set()
    for key, key_node, value_node in _items(document, node, path):
        written.add(key)
        if key in fields:
            value = _walk(document, value_node, fields[key].type, (*path, key), {})
            if value is not _WRONG:
                values[key] = value
        else:
            near = did_you_mean(key, fields.keys() - values.keys())
            document.add((*path, key), f"unknown key{near}", place_of(key_node.start_mark))
    for name, field in fields.items():
        if field.required and name not in written:
            document.add((*path, name), "missing", document.places[path])
    if any(field.required and name not in values for name, field in fields.items()):
        return _WRONG
    return kind.cls(**values)


def _mapping(document: Document, node: yaml.Node, kind: inspect.DictType, path: KeyPath) -> object:
    if not isinstance(node, yaml.MappingNode):
        document.add(path, f"expected a mapping from names, got {_found(node)}", place_of(node.start_mark))
        return _WRONG
    values: dict[object, object] = {}
    for key, key_node, value_node in _items(document, node, path):
        name = _walk(document, key_node, kind.key_type, (*path, key), {})
        value = _walk(document, value_node, kind.value_type, (*path, key), {})
        if name is not _WRONG and value is not _WRONG:
            values[name] = value
    if len(node.value) < (kind.min_length or 0):
        document.add(path, "expected a mapping that is not empty", place_of(node.start_mark))
    return values


def _list(document: Document, node: yaml.Node, kind: inspect.VarTupleType, path: KeyPath) -> object:
    if not isinstance(node, yaml.SequenceNode):
        document.add(path, f"expected a list, got {_found(node)}", place_of(node.start_mark))
        return _WRONG
    values = [_walk(document, item, kind.item_type, (*path, at), {}) for at, item in enumerate(node.value)]
    if len(values) < (kind.min_length or 0):
        document.add(path, "expected a list that is not empty", place_of(node.start_mark))
    if kind.max_length is not None and len(values) > kind.max_length:
        document.add(path, f"expected a list of at most {kind.max_length}", place_of(node.start_mark))
    document.kept[path] = tuple(at for at, value in enumerate(values) if value is not _WRONG)
    return tuple(value for value in values if value is not _WRONG)


def _items(
    document: Document, node: yaml.MappingNode, path: KeyPath
) -> Iterator[tuple[str, yaml.ScalarNode, yaml.Node]]:
    """Yield a mapping's items; a key that is no text, or comes again, is reported instead."""
    first: dict[str, Place] = {}
    for key_node, value_node in node.value:
        place = place_of(key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            document.add(path, f"expected a name as key, got {_found(key_node)}", place)
        elif key_node.value in first:
            message = f"written twice: first in line {first[key_node.value][0]}"
            document.add((*path, key_node.value), message, place)
        else:
            first[key_node.value] = place
            document.places[(*path, key_node.value)] = place
            yield key_node.value, key_node, value_node


def _scalar(document: Document, node: yaml.Node, kind: inspect.Type, path: KeyPath, extra: dict[str, Any]) -> object:
    try:
        return _parse(node, kind, extra)
    except ValueError as exc:
        word = f", or {extra['none']!r}" if "none" in extra else ""
        got = "a value that is not shown here" if extra.get("secret") else _found(node)
        document.add(path, f"expected {exc}{word}, got {got}", place_of(node.start_mark))
        return _WRONG


def _parse(node: yaml.Node, kind: inspect.Type, extra: dict[str, Any]) -> object:
    """Return the value of a scalar; a ValueError completes "expected …"."""
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise ValueError(_expected(kind, extra))
    text: str = node.value
    if "form" in extra:
        return FORMS[extra["form"]](text)
    if isinstance(kind, inspect.StrType):
        if len(text) < (kind.min_length or 0):
            raise ValueError("a text that is not empty")
        return text
    if isinstance(kind, inspect.EnumType) and text in _names(kind):
        return kind.cls(text)
    is_plain = node.style is None  # a number in quotes is a text
    if isinstance(kind, inspect.BoolType) and is_plain and text in ("true", "false"):
        return text == "true"
    if isinstance(kind, inspect.IntType) and is_plain and _WHOLE.fullmatch(text) and len(text) <= _WHOLE_CHARS_MAX:
        return _within(kind, int(text))
    if isinstance(kind, inspect.FloatType) and is_plain and _DECIMAL.fullmatch(text):
        return _within(kind, float(text))
    raise ValueError(_expected(kind, extra))


def _names(kind: inspect.EnumType) -> list[str]:
    return [str(member.value) for member in kind.cls]


def _within(kind: inspect.IntType | inspect.FloatType, number: float) -> float:
    bounds = (
        (kind.ge is None or number >= kind.ge, f"at least {kind.ge}"),
        (kind.gt is None or number > kind.gt, f"a number greater than {kind.gt}"),
        (kind.le is None or number <= kind.le, f"at most {kind.le}"),
        (kind.lt is None or number < kind.lt, f"a number less than {kind.lt}"),
    )
    for holds, expected in bounds:
        if not holds:
            raise ValueError(expected)
    return number


def _expected(kind: inspect.Type, extra: dict[str, Any]) -> str:
    """What a setting wants, for a node that has no text to be tried."""
    if "form" in extra:
        try:
            FORMS[extra["form"]]("")
        except ValueError as exc:
            return str(exc)
    if isinstance(kind, inspect.EnumType):
        return f"one of {', '.join(_names(kind))}"
    names = {
        inspect.IntType: "a whole number",
        inspect.FloatType: "a number",
        inspect.BoolType: "true or false",
    }
    return names.get(type(kind), "a text")


def _found(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if node.tag == _NULL or not isinstance(node, yaml.ScalarNode):
        return "nothing"
    quoted = "the quoted text " if node.style in ("'", '"') and node.value else ""
    return f"{quoted}{shown(node.value)!r}"
