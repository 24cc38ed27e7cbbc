"""`papers.bib` as papers: types and their fields, years, addresses, names and titles without LaTeX.

The text is read by `paramem.bibtex`; what an entry says is checked here. All problems of the file are found at once.
"""

from __future__ import annotations

import codecs
import datetime
import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from paramem.bibtex import KEY, ORDER, TYPES, BibEntry, BibFile, format_entry, parse_bib
from paramem.errors import BadInput
from paramem.findings import Finding, nearest, refuse, unreadable
from paramem.project import Project
from paramem.urls import is_url
from paramem.yamls import read_without_hidden

MAX_BYTES = 2_000_000
_EPRINT = re.compile(r"(?P<year>\d\d)(?:0[1-9]|1[0-2])\.(?P<number>\d{4,5})")
_OLD_EPRINT = re.compile(r"[a-z-]+(?:\.[A-Z]{2})?/(?P<year>\d\d)(?:0[1-9]|1[0-2])\d{3}")  # until 2007
_VENUES = ("booktitle", "journal", "publisher", "school", "institution")
_YEAR = re.compile(r"(?:19|20)\d{2}")
_ACL = re.compile(r"(?:aclanthology\.org/|10\.18653/v1/)([a-z0-9][a-z0-9.-]*[a-z0-9])(?:\.pdf)?/?$")
_DOI = re.compile(r"10\.\d{4,9}/[^\s{}\\]+")
_KEY = re.compile(r"(?P<surname>[a-z]+)(?P<year>(?:19|20)\d\d)(?P<word>[a-z][a-z0-9]*)")
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d", "ı": "i", "ð": "d", "þ": "th"})


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One bibliography entry in plain text.

    Attributes:
        authors: ``Last, First``, in order; empty where the author is not known.
        year: of the version of record: the venue's year, or the preprint's where there is no venue.
        posted: the year of the preprint, read off its arXiv number; None without one.
        venue: proceedings, journal, publisher or school; empty for a preprint.
        eprint, doi, url: as they stand in the entry; `link` is the one to follow.
        entry: the entry itself.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str = ""
    url: str = ""
    doi: str = ""
    eprint: str = ""
    posted: int | None = None
    entry: BibEntry = field(repr=False)

    @property
    def link(self) -> str:
        """The paper's own address: the preprint's, or the url, or the doi's; empty where none is known."""
        if self.eprint:
            return f"https://arxiv.org/abs/{self.eprint}"
        return self.url or (f"https://doi.org/{self.doi}" if self.doi else "")

    @property
    def numbers(self) -> Mapping[str, str]:
        """What names the paper to others, in a form that compares: eprint, doi, url, and its number in the ACL
        Anthology, which follows from either of the last two."""
        found = {"eprint": self.eprint, "doi": self.doi.lower(), "url": self.url}
        acl = _ACL.search(self.doi.lower()) or _ACL.search(self.url.lower())
        return {**found, "number in the ACL Anthology": acl[1].rstrip("/") if acl else ""}

    @property
    def appeared(self) -> int:
        """The year it first appeared, which its key carries."""
        return self.posted or self.year

    @property
    def surnames(self) -> tuple[str, ...]:
        """The authors' last names."""
        return tuple(_surname(author) for author in self.authors if author != "others")

    @property
    def bibtex(self) -> str:
        """The entry as BibTeX, in the layout of `papers.bib`, without its comment."""
        return format_entry(replace(self.entry, comment=""))

    def cite(self) -> str:
        """``Meng et al. 2022``."""
        names = self.surnames
        if not names:
            return f"{self.title.split(':')[0]} {self.year}"
        several = len(names) > 2 or "others" in self.authors
        return f"{names[0]} et al. {self.year}" if several else f"{' and '.join(names)} {self.year}"


def _surname(author: str) -> str:
    return author.split(",")[0] if "," in author else author.split()[-1]


@dataclass(frozen=True, kw_only=True)
class Bibliography:
    """What could be read, and what could not.

    Attributes:
        papers: by key, in the order of the file.
        broken: keys whose entries are there but could not be read.
    """

    file: BibFile
    papers: Mapping[str, Paper]
    findings: tuple[Finding, ...] = ()
    broken: frozenset[str] = frozenset()


def load_papers(project: Project | None = None) -> dict[str, Paper]:
    """All papers by key, in the order of the file.

    Raises:
        BadInput: with the key, the field and the remedy, a line for each problem.
    """
    bibliography = read_papers(project or Project.find())
    refuse(bibliography.findings)
    return dict(bibliography.papers)


def read_papers(project: Project) -> Bibliography:
    """Read what can be read; read again only when the file changed."""
    path = project.bib
    if not path.is_file():
        raise BadInput(f"no bibliography at {path}")
    return _read(path, path.stat().st_mtime_ns, path.stat().st_size)


@functools.lru_cache(maxsize=4)
def _read(path: Path, mtime: int, size: int) -> Bibliography:
    try:
        text, hidden = read_without_hidden(path, MAX_BYTES)
        file = parse_bib(text)
    except BadInput as error:
        return Bibliography(
            file=BibFile(header="", entries=()), papers={}, findings=tuple(unreadable(error, path, path.parent)),
            broken=frozenset([path.name]),
        )  # fmt: skip
    findings = [Finding(where=path.name, what=problem) for problem in hidden]
    findings += [_finding(path, problem.line, problem.key, problem.text) for problem in file.problems]
    broken = {problem.key for problem in file.problems if problem.key}
    if file.problems:  # what stands in an entry that could not be read is there all the same
        broken |= set(re.findall(r"@\w+\s*[{(]\s*([a-z0-9:_-]+)\s*,", text)) - {entry.key for entry in file.entries}
    papers: dict[str, Paper] = {}
    lines: dict[str, int] = {}
    for entry in file.entries:
        problems = list(entry_problems(entry))
        twin = lines.setdefault(entry.key.lower(), entry.line)
        if twin != entry.line:
            problems.append(f"the key stands in line {twin} too; keep one")
        findings += [_finding(path, entry.line, entry.key, text) for text in problems]
        if problems:
            broken.add(entry.key)
        else:
            papers[entry.key] = paper_of(entry)
    return Bibliography(file=file, papers=papers, findings=tuple(findings), broken=frozenset(broken))


def _finding(path: Path, line: int, key: str, text: str) -> Finding:
    return Finding(where=f"{path.name}, line {line}" + (f": entry {key}" if key else ""), what=text)


def paper_of(entry: BibEntry) -> Paper:
    """The paper that a correct entry describes."""
    fields = entry.fields
    venue = next((fields[name] for name in _VENUES if name in fields), "")
    return Paper(
        key=entry.key,
        title=plain(fields["title"]),
        authors=tuple(plain(name) for name in _authors(fields.get("author", ""))),
        year=int(fields["year"]),
        venue=plain(venue),
        url=fields.get("url", ""),
        doi=fields.get("doi", ""),
        eprint=fields.get("eprint", ""),
        posted=year_of_eprint(fields.get("eprint", "")),
        entry=entry,
    )


def entry_problems(entry: BibEntry) -> Iterator[str]:
    """Everything that is wrong with an entry on its own."""
    fields = entry.fields

    def told(name: str, remedy: str) -> str:
        return f"field {name}, value {fields[name]!r:.60}: {remedy}"

    if not KEY.fullmatch(entry.key):
        yield f"key {entry.key!r}: lower-case letters and digits only, like meng2022rome"
    if entry.type not in TYPES:
        yield f"unknown type @{entry.type}; {nearest(entry.type, TYPES)} known: {', '.join(TYPES)}".replace("  ", " ")
    for name in [name for name in fields if name not in ORDER]:
        yield told(name, f"unknown field; {nearest(name, ORDER) or 'remove it'}")
    for name in ("title", "year", *TYPES.get(entry.type, ())):
        if not fields.get(name):
            yield f"field {name}: @{entry.type} needs it"
    for name, value in fields.items():
        if not value:
            yield f"field {name}: it is empty; remove it or fill it in"
        elif name in _WRITTEN:
            yield from (told(name, text) for text in _latex_problems(value))
    yield from (told(name, text) for name, text in _form_problems(fields))


_WRITTEN = frozenset(ORDER) - {"url", "doi", "eprint", "year"}


def _form_problems(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Fields whose text has a form: years, numbers, addresses, names."""
    eprint, year, url = fields.get("eprint", ""), fields.get("year", ""), fields.get("url", "")
    posted = year_of_eprint(eprint)
    if eprint and posted is None:
        yield "eprint", "give an arXiv number without version, like 2202.05262"
    if eprint and fields.get("archiveprefix") != "arXiv":
        name = "archiveprefix" if "archiveprefix" in fields else "eprint"
        yield name, "an eprint goes with archiveprefix = {arXiv}"
    if year and not _YEAR.fullmatch(year):
        yield "year", "give four digits"
    elif year and posted is not None and int(year) < posted:
        yield "year", f"before the preprint's ({posted}); the year is that of the venue"
    elif year and int(year) > datetime.date.today().year + 1:
        yield "year", "this is in the future"
    if url and not is_url(url):
        yield "url", "give an http or https address"
    elif eprint and re.match(r"https?://(?:www\.)?arxiv\.org/", url):
        yield "url", "the address at arXiv follows from eprint; remove it"
    elif re.match(r"https?://(?:dx\.)?doi\.org/", url):
        yield "url", "give the doi in the field doi, without https://doi.org/"
    if "doi" in fields and not _DOI.fullmatch(fields["doi"]):
        yield "doi", "give the bare number, like 10.18653/v1/2024.findings-emnlp.236"
    if re.search(r"\barxiv\b", fields.get("journal", ""), re.I):
        yield "journal", "a preprint is @misc with eprint and without journal"
    for author in _authors(fields.get("author", "")):
        if not author or author.count(",") > 2 or author.startswith(","):
            yield "author", "write each name as Last, First and join them with ' and '"
            break


def year_of_eprint(eprint: str) -> int | None:
    """The year in an arXiv number; None where it is none."""
    old = _OLD_EPRINT.fullmatch(eprint)
    if old is not None:
        return (1900 if old["year"] > "90" else 2000) + int(old["year"])
    match = _EPRINT.fullmatch(eprint)
    if match is None or len(match["number"]) != (5 if match["year"] >= "15" else 4):
        return None
    return 2000 + int(match["year"])


def _authors(text: str) -> list[str]:
    """The names of a list, at each ``and`` outside of braces."""
    names, depth, start = [], 0, 0
    for match in re.finditer(r"[{}]|\s+and\s+", text):
        if match[0] in "{}":
            depth += 1 if match[0] == "{" else -1
        elif depth == 0:
            names.append(text[start : match.start()].strip())
            start = match.end()
    return [*names, text[start:].strip()] if text else []


def expected_key(paper: Paper) -> str:
    """How a paper's key begins: the first author's last name in plain letters, and the year it first appeared."""
    names = paper.surnames
    return f"{ascii_letters(names[0]) if names else 'anon'}{paper.appeared}"


def key_problem(paper: Paper) -> str | None:
    """What is wrong with a paper's key; None where it follows the scheme."""
    wanted, match = expected_key(paper), _KEY.fullmatch(paper.key)
    if match and f"{match['surname']}{match['year']}" == wanted:
        return None
    remedy = f"the key should be {wanted} and one telling word in lower-case letters and digits, like meng2022rome"
    if not match:
        return f"key {paper.key!r}: {remedy}"
    dated = "eprint" if paper.posted else "year"  # where the year of the key comes from
    field = dated if match["surname"] == wanted[:-4] else "author"
    said = paper.entry.fields.get(field, "")
    return f"field {field}, value {said!r:.60}: does not go with the key; correct the field, or {remedy}"


def ascii_letters(text: str) -> str:
    """A name in lower-case ASCII letters, the rest left out."""
    text = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS))
    return "".join(character for character in text if "a" <= character <= "z")


def title_letters(title: str) -> str:
    """A title by its letters and digits alone, to compare titles by."""
    return "".join(character for character in title.lower() if character.isalnum())


def _latex_problems(text: str) -> Iterator[str]:
    if text.count("{") != text.count("}"):
        yield "unbalanced brace"
    if len(re.findall(r"(?<!\\)\$", text)) % 2:
        yield "unbalanced $; write \\$ for a dollar sign"
    for bare in dict.fromkeys(re.findall(r"(?<!\\)[&%#_]", re.sub(r"\$[^$]*\$", "", text))):
        yield f"a bare {bare} breaks LaTeX; write \\{bare}"
    for unread in dict.fromkeys(re.findall(r"\\(?!\$)(?:[A-Za-z]+|.)", _decoded(text))):
        yield f"LaTeX that cannot be read: {unread}; write the character itself"


@functools.lru_cache(maxsize=4096)
def _decoded(text: str) -> str:
    if "\\" not in text:
        return text
    import latexcodec  # noqa: F401 - registers the codec

    try:
        return str(codecs.decode(text, "ulatex"))  # type: ignore[call-overload]
    except ValueError:
        return text


def plain(text: str) -> str:
    """LaTeX accents, quotes and dashes decoded, braces and dollar signs dropped, white space folded."""
    text = _decoded(text).replace("``", "“").replace("''", "”").replace("---", "\u2014").replace("--", "\u2013")
    text = re.sub(r"(?<!\\)[{}$]", "", text).replace("\\$", "$").replace("~", " ")
    return re.sub(r"\s+", " ", text).strip()


def key_of(name: str, papers: Mapping[str, Paper]) -> str:
    """The key of the paper that a text names: by an arXiv number or a doi, alone or as an address; else the text.

    >>> key_of("anything else", {})
    'anything else'
    """
    bare = re.sub(
        r"^(?:https?://)?(?:www\.)?(?:arxiv\.org/(?:abs|pdf)/|(?:dx\.)?doi\.org/|arxiv:|doi:)", "", name.lower()
    )
    bare = re.sub(r"(?:v\d+)?(?:\.pdf)?$", "", bare) if _EPRINT.match(bare) else bare
    for key, paper in papers.items():
        if bare and bare in (paper.eprint, paper.doi.lower()):
            return key
    return name
