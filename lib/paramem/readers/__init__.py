"""Data sets of facts and edits: one reader per published schema, one record type out.

    requests = read_requests("counterfact.json", limit=100)            # the format is recognised by its fields
    requests = read_requests("owner/name:folder/recent_test.json")     # from the hub
    facts = read_facts("known_1000.json")
    reading = read("zsre_mend_eval.json", on_bad="skip")               # with what was skipped and what was not read
    print(reading.describe())

A file that does not follow its schema raises BadRecord with file, record, field and reason. Fields that a reader does
not know are never dropped in silence: `read` lists them, `read_requests` and `read_facts` warn.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from paramem.errors import BadInput, BadParameter, BadRecord
from paramem.facts import EditRequest, Fact
from paramem.readers import counterfact, files, knowedit, others, ripple
from paramem.readers.formats import Context, Format, fact_of
from paramem.readers.records import Row

__all__ = ["FORMATS", "Format", "Reading", "UnreadFields", "read", "read_facts", "read_requests", "write"]

FORMATS: Mapping[str, Format] = {
    entry.name: entry
    for module in (counterfact, knowedit, ripple, others)
    for entry in sorted(module.FORMATS, key=lambda entry: entry.name)
}
_SAMPLE = 50  # records that are looked at to recognise a format
_NEAREST = 3  # formats named to who has records of none


class UnreadFields(UserWarning):
    """A file has fields that its reader does not know."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What came out of one file.

    unread   field path -> number of records that have it and whose reader does not know it
    skipped  the errors of the records that were left out
    """

    file: Path
    format: str
    requests: tuple[EditRequest, ...] = ()
    facts: tuple[Fact, ...] = ()
    unread: Mapping[str, int]
    skipped: tuple[BadRecord, ...] = ()

    def describe(self) -> str:
        """A few lines: how much was read, what was skipped and why, which fields were not read."""
        count, what = (len(self.requests), "edit requests") if self.requests else (len(self.facts), "facts")
        lines = [f"{self.file.name}: {count} {what} ({FORMATS[self.format].title})"]
        lines += [f"skipped {error}" for error in self.skipped]
        lines += [f"not read: {field} ({count} records)" for field, count in sorted(self.unread.items())]
        return "\n".join(lines)


def read(
    source: str | os.PathLike[str],
    *,
    format: str | None = None,
    limit: int | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    want: Literal["requests", "facts"] | None = None,
    max_bytes: int = files.MAX_BYTES,
) -> Reading:
    """Read a local file, a folder with one data file, or a hub id.

    format  one of FORMATS; recognised by the fields of the first records when None
    limit   at most so many records of the file
    on_bad  "raise" the first BadRecord, or "skip" such records and list them in the reading
    want    edit requests or facts; whatever the format holds when None
    """
    if on_bad not in ("raise", "skip"):
        raise BadParameter(f"on_bad is {on_bad!r}; it is 'raise' or 'skip'")
    if limit is not None and limit < 1:
        raise BadParameter(f"limit is {limit}; it is a number of records, at least 1")
    path = files.locate(source)
    raw = files.load(path, limit, max_bytes)
    chosen, records, around = _open(path, raw, format)
    wanted = want or ("requests" if chosen.requests else "facts")
    unread: Counter[str] = Counter()
    context = Context(records=records, around=around)
    found, skipped = _collect(_reader(chosen, wanted), path, records[:limit], context, unread, on_bad)
    parts: dict[str, Any] = {wanted: tuple(found)}
    return Reading(file=path, format=chosen.name, unread=+unread, skipped=tuple(skipped), **parts)


def read_requests(
    source: str | os.PathLike[str],
    format: str | None = None,
    limit: int | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
) -> tuple[EditRequest, ...]:
    """The edit requests of a file; warns of fields that were not read and of records that were skipped."""
    return _warned(read(source, format=format, limit=limit, on_bad=on_bad, want="requests")).requests


def read_facts(
    source: str | os.PathLike[str],
    format: str | None = None,
    limit: int | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
) -> tuple[Fact, ...]:
    """The facts of a file; of a file of edits, the facts that held before them."""
    return _warned(read(source, format=format, limit=limit, on_bad=on_bad, want="facts")).facts


def write(path: str | os.PathLike[str], *, facts: Iterable[Fact] = (), requests: Iterable[EditRequest] = ()) -> None:
    """Write records as JSON that `read_facts` and `read_requests` read back."""
    content = {
        "facts": [fact.model_dump(mode="json", exclude_defaults=True) for fact in facts],
        "requests": [request.model_dump(mode="json", exclude_defaults=True) for request in requests],
    }
    Path(path).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _warned(reading: Reading) -> Reading:
    if reading.unread or reading.skipped:
        warnings.warn(reading.describe(), UnreadFields, stacklevel=3)
    return reading


def _open(path: Path, raw: Any, name: str | None) -> tuple[Format, Sequence[Any], Mapping[str, Any]]:
    """(format, its records, the fields around them)."""
    if name is not None and name not in FORMATS:
        raise BadParameter(f"there is no format {name!r}; the formats are {', '.join(FORMATS)}")
    if not isinstance(raw, list | dict):
        raise BadRecord(path, "(file)", "(content)", f"expected a list of records, found {type(raw).__name__}")
    if not raw:
        raise BadRecord(path, "(file)", "(content)", "the file holds no record")
    chosen = FORMATS[name] if name else _guess(path, raw)
    around = raw if isinstance(raw, dict) else {}
    records = _held(raw, chosen)
    if not isinstance(records, list):
        where = " or ".join(map(repr, chosen.holds)) or "a list"
        raise BadRecord(path, "(file)", "(content)", f"{chosen.title} keeps its records in {where}; there is none")
    if not records:
        raise BadRecord(path, "(file)", "(content)", "the file holds no record")
    return chosen, records, around


def _held(raw: Any, entry: Format) -> Any:
    if isinstance(raw, list):
        return raw
    return next((raw[key] for key in entry.holds if isinstance(raw.get(key), list) and raw[key]), None)


def _guess(path: Path, raw: Any) -> Format:
    """The one format that all of the first records have."""
    fitting = [entry for entry in FORMATS.values() if entry.guessed and _fits(entry, _held(raw, entry))]
    if len(fitting) == 1:
        return fitting[0]
    first = raw[0] if isinstance(raw, list) and raw else raw
    fields = ", ".join(sorted(map(str, first))) if isinstance(first, dict) else type(first).__name__
    if fitting:
        names = ", ".join(entry.name for entry in fitting)
        reason = f"the records (fields {fields}) fit more than one format; say which: format= one of {names}"
    else:
        known = "; ".join(f"{entry.name}: {', '.join(entry.keys)}" for entry in FORMATS.values())
        reason = (
            f"no format has records like these (fields {fields or 'none'}){_nearest(first)}; formats and their fields: "
        )
        reason += known
    raise BadRecord(path, 0, "(format)", reason)


def _nearest(record: Any) -> str:
    """What the formats that the record comes closest to still want of it; nothing where it has a field of none."""
    there = set(record) if isinstance(record, dict) else set()
    sharing = [(set(entry.keys) - there, entry) for entry in FORMATS.values() if there & set(entry.keys)]
    sharing = [(lacking, entry) for lacking, entry in sharing if lacking]
    closest = sorted(sharing, key=lambda each: (len(each[0]), -len(each[1].keys)))[:_NEAREST]
    wants = [
        f"{entry.name} without {', '.join(key for key in entry.keys if key in lacking)}" for lacking, entry in closest
    ]
    return f": it could be {', or '.join(wants)}. Add what is missing" if wants else ""


def _fits(entry: Format, records: Any) -> bool:
    return isinstance(records, list) and bool(records) and all(map(entry.recognises, records[:_SAMPLE]))


def _reader(chosen: Format, wanted: str) -> Callable[[Row, Context], Iterable[Any]]:
    if wanted == "requests":
        if chosen.requests is None:
            raise BadInput(f"{chosen.title} holds facts and no edits; read it with read_facts")
        return chosen.requests
    if chosen.facts is not None:
        return chosen.facts
    requests = chosen.requests
    assert requests is not None
    return lambda row, context: [fact for request in requests(row, context) if (fact := fact_of(request))]


def _collect(
    reader: Callable[[Row, Context], Iterable[Any]],
    path: Path,
    records: Sequence[Any],
    context: Context,
    unread: Counter[str],
    on_bad: str,
) -> tuple[list[Any], list[BadRecord]]:
    found: list[Any] = []
    skipped: list[BadRecord] = []
    seen: dict[str, int] = {}
    for index, record in enumerate(records):
        try:
            new = _one(reader, path, index, record, context, unread)
            for item in new:
                if item.id in seen:
                    reason = f"{item.id!r} is also the id of record {seen[item.id]}; ids must differ"
                    raise BadRecord(path, index, "id", reason)
            seen.update((item.id, index) for item in new)
            found += new
        except BadRecord as error:
            if on_bad == "raise":
                raise
            skipped.append(error)
    return found, skipped


def _one(
    reader: Callable[[Row, Context], Iterable[Any]],
    path: Path,
    index: int,
    record: Any,
    context: Context,
    unread: Counter[str],
) -> list[Any]:
    row = Row(record, file=str(path), index=index, unread=unread)
    try:
        items = list(reader(row, context))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "(record)"
        raise BadRecord(path, index, field, first["msg"].removeprefix("Value error, ")) from error
    row.close()
    return items
