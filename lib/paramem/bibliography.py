"""`papers.bib`, read strictly: pybtex is the gate that refuses what is malformed, bibtexparser reads.

bibtexparser never raises and swallows a field after a missing comma; pybtex raises, but does not keep order and text.
Both see the file, and a paper exists only where they agree.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

from paramem.errors import BadInput
from paramem.project import Project
from paramem.taxonomy import KEY
from paramem.yamls import read_text

MAX_BYTES = 2_000_000
_EPRINT = re.compile(r"(\d{2})(\d{2})\.\d{4,5}")
_YEAR = re.compile(r"(19|20)\d{2}")
_KNOWN = frozenset(
    [
        "title",
        "author",
        "year",
        "booktitle",
        "journal",
        "volume",
        "number",
        "pages",
        "publisher",
        "eprint",
        "archiveprefix",
        "primaryclass",
        "url",
        "doi",
        "note",
        "editor",
        "address",
        "month",
        "school",
        "institution",
        "series",
    ]
)


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One bibliography entry.

    Attributes:
        year: of the version of record: the venue's year, or the preprint's where there is no venue.
        posted: the year of the preprint, read off its arXiv number; None without one.
        venue: proceedings or journal; empty for a preprint.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str = ""
    url: str = ""
    eprint: str = ""
    posted: int | None = None

    def cite(self) -> str:
        """``Meng et al. 2022``."""
        names = [author.split(",")[0] if "," in author else author.split()[-1] for author in self.authors]
        who = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
        return f"{who} {self.year}"


def load_papers(project: Project | None = None) -> dict[str, Paper]:
    """All papers by key, in the order of the file.

    Raises:
        BadInput: with the key, the field and the remedy.
    """
    path = (project or Project.find()).bib
    if not path.is_file():
        raise BadInput(f"no bibliography at {path}")
    return dict(_load(path, path.stat().st_mtime_ns, path.stat().st_size))


@functools.lru_cache(maxsize=4)
def _load(path: Path, mtime: int, size: int) -> tuple[tuple[str, Paper], ...]:
    text = read_text(path, MAX_BYTES)
    strict = _strict_fields(path, text)
    return tuple((key, _paper(path, key, fields)) for key, fields in _fields(path, text, strict).items())


def _strict_fields(path: Path, text: str) -> dict[str, set[str]]:
    """Key to field names as pybtex sees them; raises on anything malformed."""
    from pybtex.database import parse_bytes
    from pybtex.exceptions import PybtexError

    try:
        data = parse_bytes(text.encode(), "bibtex")
    except (PybtexError, RecursionError) as error:
        raise BadInput(f"{path}: {str(error) or 'nested too deeply'}") from error
    return {key: {name.lower() for name in (*entry.fields, *entry.persons)} for key, entry in data.entries.items()}


def _fields(path: Path, text: str, strict: dict[str, set[str]]) -> dict[str, dict[str, str]]:
    """Key to fields, in file order, as bibtexparser sees them."""
    import logging

    import bibtexparser
    from bibtexparser import middlewares

    logging.getLogger("bibtexparser").setLevel(logging.ERROR)  # failed blocks are reported below
    library = bibtexparser.parse_string(  # type: ignore[attr-defined]
        text, append_middleware=[middlewares.NormalizeFieldKeys()]
    )
    for block in library.failed_blocks:
        raise BadInput(f"{path}, line {(block.start_line or 0) + 1}: {block.error}")
    found = {entry.key: {field.key: str(field.value) for field in entry.fields} for entry in library.entries}
    for key in strict.keys() | found.keys():
        if strict.get(key) != set(found.get(key, ())):
            raise BadInput(f"{path}: entry {key} reads differently to two parsers; look for a missing comma or brace")
    return found


def _paper(path: Path, key: str, fields: dict[str, str]) -> Paper:
    def fail(field: str, reason: str) -> BadInput:
        return BadInput(f"{path}: entry {key}, field {field}, value {fields.get(field, '')!r:.60}: {reason}")

    if not KEY.fullmatch(key):
        raise BadInput(f"{path}: key {key!r}: lower-case letters, digits, '-', '_' and ':' only, like meng2022rome")
    for field in fields.keys() - _KNOWN:
        raise fail(field, "unknown field; remove it or correct its name")
    for field in ("title", "author", "year"):
        if not fields.get(field):
            raise fail(field, "the field is required")
    if not _YEAR.fullmatch(fields["year"]):
        raise fail("year", "give four digits")
    url, eprint = fields.get("url", ""), fields.get("eprint", "")
    if url and not re.fullmatch(r"https?://[^\s<>\"'\\]+", url):
        raise fail("url", "give an http or https address")
    match = _EPRINT.fullmatch(eprint)
    if eprint and not match:
        raise fail("eprint", "give an arXiv number without version, like 2202.05262")
    posted = 2000 + int(match[1]) if match else None
    if posted is not None and int(fields["year"]) < posted:
        raise fail("year", f"before the preprint's ({posted}); the year is that of the venue")
    return Paper(
        key=key,
        title=_plain(fields["title"]),
        authors=tuple(_plain(name) for name in re.split(r"\s+and\s+", fields["author"])),
        year=int(fields["year"]),
        venue=_plain(fields.get("booktitle") or fields.get("journal") or ""),
        url=url or (f"https://arxiv.org/abs/{eprint}" if eprint else ""),
        eprint=eprint,
        posted=posted,
    )


def _plain(text: str) -> str:
    """LaTeX accents decoded, braces dropped, white space folded."""
    if "\\" in text:
        import codecs

        import latexcodec  # noqa: F401 - registers the codec

        text = str(codecs.decode(text, "ulatex"))  # type: ignore[call-overload]
    return re.sub(r"\s+", " ", text.replace("{", "").replace("}", "")).strip()
