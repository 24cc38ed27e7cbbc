"""YAML that cannot surprise: no duplicate keys, no guessed types, no aliases, no hidden characters, bounded size.

YAML 1.1 reads `NO` as false, `012` as ten, `3:25` as 205 and keeps the last of two equal keys in silence. Here a scalar
is true, false, null, a plain decimal number, or the text as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml

from paramem.errors import BadInput

MAX_BYTES = 200_000
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def read_text(path: Path, limit: int = MAX_BYTES) -> str:
    """A small UTF-8 text file without control or direction-changing characters.

    Raises:
        BadInput: the file is missing, too large, not UTF-8, or holds a hidden character.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    if len(raw) > limit:
        raise BadInput(f"{path} has {len(raw):,} bytes, more than the {limit:,} allowed; split it")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    for number, line in enumerate(text.splitlines(), start=1):
        for character in line:
            if character in _BIDI or (unicodedata.category(character) == "Cc" and character != "\t"):
                raise BadInput(f"{path}, line {number}: hidden character U+{ord(character):04X}; remove it")
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of the module's docstring."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: an expanded alias bomb is exponential, and data reads better without them."""
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not used here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, and keys that are not text."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem=f"key {getattr(key, 'value', key)!r:.40} is not text; quote it", problem_mark=key.start_mark
                )
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:0|[1-9][0-9]*)?(?:\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def load_yaml(path: Path) -> Any:
    """Parse a YAML file under the rules above.

    Raises:
        BadInput: with file, line and reason.
    """
    text = read_text(path)
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise BadInput(f"{path}{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from error
    except RecursionError as error:
        raise BadInput(f"{path}: nested too deeply") from error
