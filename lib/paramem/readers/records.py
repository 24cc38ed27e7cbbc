"""One record of a data file, read field by field, with errors that say where and with a memory of what was not read.

    row.text("subject")                  a text that must be there and not be blank
    row.row("requested_rewrite")         a record within the record
    row.answers("ground_truth")          "a", ["a", "b"] or [["a", "alias"], ["b"]], flattened
    row.ignore("relation_id")            known, and not needed

Whatever was neither read nor ignored when the record is done is reported as unread: a reader can lack a probe group,
but it cannot lose one in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from paramem.errors import BadRecord


class Row:
    """A record: its fields, where it stands, and which of its fields have been read."""

    def __init__(self, value: Any, *, file: str, index: int | str, path: str = "", unread: Counter[str]) -> None:
        self.file, self.index, self.path, self.unread = file, index, path, unread
        if not isinstance(value, Mapping):
            raise BadRecord(file, index, path or "(record)", f"expected an object with fields, found {_shown(value)}")
        self.value: Mapping[str, Any] = value
        self._read: set[str] = set()
        self._inner: dict[str, Row] = {}

    def __contains__(self, key: str) -> bool:
        return self.value.get(key) is not None

    def fail(self, key: str, reason: str) -> NoReturn:
        """Raise BadRecord for the field `key` of this record."""
        raise BadRecord(self.file, self.index, self._name(key), reason)

    def _name(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def get(self, key: str, default: Any = None) -> Any:
        """The raw value; a null counts as absent."""
        self._read.add(key)
        found = self.value.get(key)
        return default if found is None else found

    def ignore(self, *keys: str) -> None:
        """Mark fields as known and not needed, with everything below them."""
        self._read.update(keys)

    def text(self, key: str) -> str:
        """A text that must be there and not be blank."""
        found = self.get(key)
        if found is None:
            have = ", ".join(sorted(self.value)) or "no field at all"
            self.fail(key, f"this field is missing (the record has {have}); is it another format? Name it: format=...")
        return self._checked(key, found)

    def _checked(self, key: str, found: Any) -> str:
        if isinstance(found, bool) or not isinstance(found, str | int | float):
            self.fail(key, f"expected a text, found {_shown(found)}")
        if not (text := str(found).strip()):
            self.fail(key, "the text is empty; fill it in, or leave the record out with on_bad='skip'")
        return text

    def text_or(self, key: str, default: str | None = None) -> str | None:
        """A text, or `default` where it is absent or blank."""
        found = self.get(key)
        return default if found is None or found == "" else self._checked(key, found)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; empty where it is absent. A single text counts as a list of one."""
        found = self.get(key, [])
        items = [found] if isinstance(found, str) else found
        if not isinstance(items, list):
            self.fail(key, f"expected a list of texts, found {_shown(found)}")
        return tuple(self._checked(f"{key}[{place}]", item) for place, item in enumerate(items))

    def answers(self, key: str) -> tuple[str, ...]:
        """Every accepted answer, flattened in order and without repetitions; blank ones are dropped."""
        flat = tuple(dict.fromkeys(text for text in _flatten(self, key, self.get(key)) if text))
        if not flat:
            self.fail(key, "there is no answer; fill it in, or leave the record out with on_bad='skip'")
        return flat

    def row(self, key: str) -> Row:
        """A record within the record."""
        if self.get(key) is None:
            self.fail(key, f"this field is missing (the record has {', '.join(sorted(self.value))})")
        return self._child(self.value[key], key)

    def rows(self, key: str) -> tuple[Row, ...]:
        """A list of records within the record; empty where it is absent."""
        found = self.get(key, [])
        if not isinstance(found, list):
            self.fail(key, f"expected a list of records, found {_shown(found)}")
        return tuple(self._child(item, f"{key}[{place}]") for place, item in enumerate(found))

    def _child(self, value: Any, key: str) -> Row:
        # Asked for twice, it is the same child: what was read the first time stays read.
        if key not in self._inner:
            path = self._name(key)
            self._inner[key] = Row(value, file=self.file, index=self.index, path=path, unread=self.unread)
        return self._inner[key]

    def close(self) -> None:
        """Count what was not read, here and in every inner record that was opened."""
        for key in sorted(set(self.value) - self._read):
            self.unread[_without_places(self._name(key))] += 1
        for child in self._inner.values():
            child.close()

    def split(self, prompt: str, subject: str, key: str) -> tuple[str, str]:
        """(template, subject as it is written in the prompt): the first occurrence makes room for ``{}``.

        Raises BadRecord when the subject is not there, also when letter case is ignored.
        """
        if "{}" in prompt:
            if prompt.count("{}") > 1:
                self.fail(key, f"{prompt!r} holds {prompt.count('{}')} placeholders '{{}}'; one is expected")
            return prompt, subject
        start = prompt.find(subject)
        if start < 0:
            start = prompt.lower().find(subject.lower())
        if start < 0 or not subject:
            self.fail(
                key,
                f"the subject {subject!r} does not occur in {prompt!r}, so there is no template; correct one of them, "
                "or leave such records out with on_bad='skip'",
            )
        end = start + len(subject)
        return prompt[:start] + "{}" + prompt[end:], prompt[start:end]


def _flatten(row: Row, key: str, found: Any) -> Iterator[str]:
    if isinstance(found, list):
        for item in found:
            yield from _flatten(row, key, item)
    elif isinstance(found, str | int | float) and not isinstance(found, bool):
        yield str(found).strip()
    elif found is not None:
        row.fail(key, f"expected an answer or a list of answers, found {_shown(found)}")


def _without_places(path: str) -> str:
    """``locality.New[3].prompt`` -> ``locality.New.prompt``: one line of the report for a field of many records."""
    return "".join(part.partition("]")[2] if index else part for index, part in enumerate(path.split("[")))


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
