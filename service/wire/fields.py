"""Reading the fields of a request: what is wrong is told by its place. Knows no format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.errors import ApiError


def wrong(where: str, what: str) -> ApiError:
    return ApiError(400, f"{where}: {what}", param=where, code="invalid_value")


def text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise wrong(where, f"a text is needed; got {value!r}")
    return value


def flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(where, f"true or false; got {value!r}")
    return value


def fields(value: Any, where: str) -> dict[str, Any]:
    """An object, without the fields that are null."""
    if not isinstance(value, dict):
        raise wrong(where, "an object is needed")
    return {name: field for name, field in value.items() if field is not None}


def objects(value: Any, where: str) -> list[tuple[str, dict[str, Any]]]:
    """A list of objects, each behind its place."""
    if not isinstance(value, list):
        raise wrong(where, "a list is needed")
    places = [f"{where}.{i}" for i in range(len(value))]
    return [(place, fields(one, place)) for place, one in zip(places, value, strict=True)]


def refuse(body: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Raises for a field that cannot be honoured, with its reason."""
    for name, reason in reasons.items():
        if body.get(name) not in (None, False, [], {}):
            raise wrong(name, reason)


def only(value: Mapping[str, Any], known: set[str], where: str) -> None:
    """Raises for a field beside the ``known``."""
    for name in value:
        if name not in known:
            raise wrong(f"{where}.{name}", "this field is not known here")


def some(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the fields that are there."""
    return {name: value[name] for name in names if name in value}
