"""The parameters a notebook takes, read off its tagged cell without running it, and the values a user gives for them.

Papermill runs a notebook with its defaults when a parameter's name is misspelt, and lets any type through. Here a name
or a type that does not fit is refused before anything runs.
"""

from __future__ import annotations

import ast
import difflib
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from paramem.errors import BadInput, BadParameter

_TYPES = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "dict": dict,
    "None": None,
}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: its name, its default and the type that its annotation (or else its default) says."""

    name: str
    default: Any
    type: Any

    def type_name(self) -> str:
        """The type as written in Python."""
        return self.type.__name__ if isinstance(self.type, type) and not get_args(self.type) else str(self.type)

    def read(self, given: Any) -> Any:
        """The value for what a user gave; text from a command line becomes what the type asks for.

        Raises:
            BadParameter: the value does not fit the type.
        """
        for candidate in _candidates(given, self.type):
            if _fits(candidate, self.type):
                return float(candidate) if self.type is float else candidate
        raise BadParameter(
            f"parameter {self.name}={given!r}: expected {self.type_name()} (its default is {self.default!r})"
        )


def _candidates(given: Any, kind: Any) -> list[Any]:
    """What a value may stand for, the type's own reading first."""
    if not isinstance(given, str) or kind is str:
        return [given]
    readings: list[Any] = []
    if given.lower() in ("true", "false"):
        readings.append(given.lower() == "true")
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        readings.append(ast.literal_eval(given))
    return [*readings, given]


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(kind))
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    origin = get_origin(kind) or kind
    if not isinstance(value, origin):
        return False
    inner = [option for option in get_args(kind) if option is not Ellipsis]
    if origin in (list, tuple) and inner:
        return all(_fits(item, inner[0]) for item in value)
    return True


def read_parameters(cells: list[dict[str, Any]], where: str) -> dict[str, Parameter]:
    """The parameters of a notebook: the assignments of literals in its cell tagged ``parameters``.

    Args:
        cells: nbformat cells, ``source`` joined.
        where: the notebook's name, for messages.

    Raises:
        BadInput: two such cells, or one that holds anything but assignments of literals.
    """
    tagged = [cell for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", ())]
    if not tagged:
        return {}
    if len(tagged) > 1:
        raise BadInput(f"{where}: {len(tagged)} cells are tagged 'parameters'; keep one")
    found = {}
    try:
        body = ast.parse(tagged[0]["source"]).body
    except SyntaxError as error:
        raise BadInput(f"{where}: the parameters cell does not parse: {error}") from error
    for statement in body:
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue  # a docstring
        parameter = _parameter(statement)
        if parameter is None:
            raise BadInput(
                f"{where}: line {statement.lineno} of the parameters cell is not 'name: type = literal'; "
                "derived values belong in the next cell"
            )
        found[parameter.name] = parameter
    return found


def _parameter(statement: ast.stmt) -> Parameter | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        name, value, annotation = statement.target.id, statement.value, ast.unparse(statement.annotation)
    elif (
        isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name)
    ):
        name, value, annotation = statement.targets[0].id, statement.value, ""
    else:
        return None
    try:
        default = ast.literal_eval(value)
        kind = eval(annotation, {"__builtins__": {}}, dict(_TYPES)) if annotation else type(default)
    except (ValueError, NameError, TypeError, SyntaxError):
        return None
    return Parameter(name=name, default=default, type=kind)


def check_parameters(known: Mapping[str, Parameter], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The given values, read by their types.

    Raises:
        BadParameter: an unknown name, with the known ones and the nearest; or a value of the wrong type.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            listed = ", ".join(f"{each.name}: {each.type_name()} = {each.default!r}" for each in known.values())
            raise BadParameter(f"{where} has no parameter {name!r}.{hint} Known: {listed or 'none'}")
    try:
        return {name: known[name].read(value) for name, value in given.items()}
    except BadParameter as error:
        raise BadParameter(f"{where}: {error}") from None
