"""Reading the folder `taxonomy/`: everything that can be read, and everything that is wrong, at once."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramem.bibtex import KEY
from paramem.errors import BadInput
from paramem.findings import Finding, refuse, unreadable
from paramem.project import Project
from paramem.taxonomy.schema import Category, Claim, Entry, NotebookEntry, NotebookFile, TagFile
from paramem.taxonomy.validation import validated
from paramem.yamls import parse_yaml, read_without_hidden

TREE, NOTEBOOKS, TAGS = "taxonomy.yaml", "notebooks.yaml", "tags.yaml"


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One paper against another, in a sentence."""

    by: str
    against: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """The whole folder, read and checked file by file (`paramem.checks` checks what they say about each other)."""

    categories: tuple[Category, ...]
    entries: Mapping[str, Entry]
    homes: Mapping[str, str]  # bib key -> the file of its entry
    notebooks: Mapping[str, NotebookEntry]
    testbed_sets: Mapping[str, tuple[str, ...]]
    tags: Mapping[str, str] = field(default_factory=dict)  # tag -> what it means

    @functools.cached_property
    def claims(self) -> dict[str, Claim]:
        """Every claim by its full id, ``key.claim``; where a paper has no notebook, its status says so of each."""
        return {
            f"{key}.{name}": _with_status(claim, entry)
            for key, entry in self.entries.items()
            for name, claim in entry.claims.items()
        }

    def claims_of(self, notebook: str, testbed: str | None = None) -> tuple[str, ...]:
        """The ids of the claims that a notebook has to measure; with a testbed, of those that are asked there."""
        return tuple(
            claim_id
            for claim_id, claim in self.claims.items()
            if claim.notebook == notebook and claim.status is None
            if testbed is None or not claim.testbeds or testbed in claim.testbeds
        )

    def testbeds_asked(self, claim_id: str) -> tuple[str, ...]:
        """The testbeds that a claim is counted over, in the order of its notebook, whatever they can tell."""
        claim = self.claims[claim_id]
        return tuple(each for each in self.testbeds_of(claim.notebook or "") if each in (claim.testbeds or (each,)))

    def testbeds_of(self, notebook: str) -> tuple[str, ...]:
        """The testbeds a notebook runs on in the full profile, the default one first."""
        entry = self.notebooks.get(notebook)
        if entry is None:
            return ()
        return self.testbed_sets[entry.testbeds] if isinstance(entry.testbeds, str) else entry.testbeds

    def category_names(self) -> Iterator[tuple[str, Category]]:
        """Every category with its full name, in reading order."""

        def walk(nodes: tuple[Category, ...], prefix: str) -> Iterator[tuple[str, Category]]:
            for node in nodes:
                yield prefix + node.id, node
                yield from walk(node.children, f"{prefix}{node.id}/")

        return walk(self.categories, "")

    def papers_in(self, category: str, *, below: bool = True, also: bool = True) -> tuple[str, ...]:
        """The papers of a category, in the order of their files.

        Args:
            below: with those of the categories below it.
            also: with those that stand there only as their second place.
        """

        def inside(name: str) -> bool:
            return name == category or (below and name.startswith(f"{category}/"))

        return tuple(
            key
            for key, entry in self.entries.items()
            if any(inside(name) for name in (entry.category, *(entry.also if also else ())))
        )

    @functools.cached_property
    def reading_order(self) -> tuple[str, ...]:
        """All papers: by category in reading order, within it as their file has them; unknown categories last."""
        place = {name: number for number, (name, _) in enumerate(self.category_names())}
        return tuple(sorted(self.entries, key=lambda key: place.get(self.entries[key].category, len(place))))

    def related(self, key: str) -> tuple[str, ...]:
        """The neighbours of a paper, whichever side names them."""
        named_by = (other for other, entry in self.entries.items() if key in entry.related)
        return tuple(dict.fromkeys([*self.entries[key].related, *named_by]))

    def disagreements(self, key: str) -> tuple[Disagreement, ...]:
        """Who disagrees with whom around a paper: what it says against others, then what others say against it."""
        own = [
            Disagreement(by=key, against=other, about=about) for other, about in self.entries[key].contradicts.items()
        ]
        others = [
            Disagreement(by=other, against=key, about=entry.contradicts[key])
            for other, entry in self.entries.items()
            if key in entry.contradicts
        ]
        return (*own, *others)


def _with_status(claim: Claim, entry: Entry) -> Claim:
    if claim.status is not None or entry.status is None:
        return claim
    status, reason = {
        "planned": ("not attempted", "Its notebook is planned."),
        "survey": ("not attempted", "A survey; no notebook is planned for it."),
        "out of reach": ("not at this scale", entry.reason),
    }[entry.status]
    return claim.model_copy(update={"status": status, "reason": reason})


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What could be read, and what could not.

    Attributes:
        broken: keys and file names that are there but could not be read: what refers to them is no second finding.
        unread: files of entries of which nothing could be read.
    """

    taxonomy: Taxonomy
    findings: tuple[Finding, ...] = ()
    broken: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()


def load_taxonomy(project: Project | None = None) -> Taxonomy:
    """Read the taxonomy of a checkout; read again only when a file changed.

    Raises:
        BadInput: a file breaks its schema, with file, entry, field, value and remedy, one line for each problem.
    """
    reading = read_taxonomy(project or Project.find())
    refuse(reading.findings)
    return reading.taxonomy


def read_taxonomy(project: Project) -> Reading:
    """Read what can be read; read again only when a file changed."""
    files = tuple(sorted(project.taxonomy.glob("*.yaml")))
    return _read(project.root, tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files))


@functools.lru_cache(maxsize=4)
def _read(root: Path, files: tuple[tuple[Path, int, int], ...]) -> Reading:
    reader = _Reader(root)
    folder = root / "taxonomy"
    for file, _, _ in files:
        if file.name not in (TREE, NOTEBOOKS, TAGS):
            reader.papers(file)
    categories = reader.tree(folder / TREE)
    tags = reader.named(folder / TAGS, lambda data, where: validated(TagFile, {"tags": data or {}}, where)) or TagFile()
    listed = reader.named(folder / NOTEBOOKS, lambda data, where: validated(NotebookFile, data or {}, where))
    listed = listed or NotebookFile()
    taxonomy = Taxonomy(
        categories=categories,
        entries=reader.entries,
        homes=reader.homes,
        notebooks=listed.notebooks,
        testbed_sets=listed.testbeds,
        tags=tags.tags,
    )
    broken = frozenset(reader.broken | (reader.glimpsed - reader.homes.keys()))
    return Reading(
        taxonomy=taxonomy, findings=tuple(reader.findings), broken=broken, unread=tuple(sorted(reader.unread))
    )


class _Reader:
    """Collects entries and findings over the files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.entries: dict[str, Entry] = {}
        self.homes: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.broken: set[str] = set()
        self.glimpsed: set[str] = set()  # words where a key would stand, in what could not be read
        self.unread: set[str] = set()

    def find(self, where: str, what: str) -> None:
        self.findings.append(Finding(where=where, what=what))

    def load(self, file: Path) -> Any:
        """The file's data; None, and the file among the broken ones, where it cannot be read."""
        try:
            return None if (text := self.text(file)) is None else parse_yaml(text, file)
        except BadInput as error:
            self.fail(error, file)
            return None

    def text(self, file: Path) -> str | None:
        """The file's text without hidden characters, each of which is a finding; None where it cannot be read."""
        try:
            text, problems = read_without_hidden(file)
        except BadInput as error:
            self.fail(error, file)
            return None
        self.findings += [Finding(where=f"taxonomy/{file.name}", what=problem) for problem in problems]
        return text

    def fail(self, error: BadInput, file: Path) -> None:
        """The file is of no use, and why."""
        self.findings += unreadable(error, file, self.root)
        self.broken.add(file.name)

    def papers(self, file: Path) -> None:
        """The entries of one file."""
        where, text = f"taxonomy/{file.name}", self.text(file)
        if text is None or not text:
            self.unread.add(file.name)
            if text is not None:
                self.find(where, "it is empty; get its entries back, or remove the file")
                self.broken.add(file.name)
            return
        try:
            data = parse_yaml(text, file)
        except BadInput as error:
            data = self.pieces(file, text, error)
        if data is None:
            return
        if not isinstance(data, dict):
            self.unread.add(file.name)
            self.find(where, f"expected a mapping of bib keys to entries, found a {type(data).__name__}")
            self.broken.add(file.name)
            return
        for key, value in data.items():
            if not KEY.fullmatch(key):
                self.find(where, f"key {key!r} is not a bib key; lower-case letters, digits, '-', '_' and ':' only")
                continue
            if key in self.homes and key not in self.broken:
                self.find(f"{where}: entry {key}", f"stands in {self.homes[key]} too; keep one")
                continue
            entry, problems = validated(Entry, value, f"{where}: entry {key}")
            self.findings += problems
            self.homes[key] = file.name
            if entry is None:
                self.broken.add(key)
            else:
                self.entries[key] = entry

    def pieces(self, file: Path, text: str, error: BadInput) -> dict[str, Any]:
        """The entries of a file that is no YAML as a whole, each read on its own; what cannot be read is a finding."""
        told, data = len(self.findings), dict[str, Any]()
        starts = [match.start() for match in re.finditer(r"^[^\s#]", text, re.M)]
        if re.search(r"^[ \t]+[^\s#]", text[: starts[0] if starts else None], re.M):
            starts.insert(0, 0)  # something indented that belongs to no key
        for start, end in itertools.pairwise([*starts, len(text)]):
            piece, line = text[start:end], text.count("\n", 0, start)
            key = re.match(r"[a-z0-9][a-z0-9:_-]*(?=:)", piece)
            if key and (key[0] in data or (key[0] in self.broken and self.homes.get(key[0]) == file.name)):
                self.find(f"taxonomy/{file.name}", f"line {line + 1}: key {key[0]!r} stands twice; keep one")
                data.pop(key[0], None)
                self._unread(file, key[0], piece)
                continue
            try:
                read = parse_yaml("\n" * line + piece, file)
            except BadInput as problem:
                self.findings += unreadable(problem, file, self.root)
                self._unread(file, key[0] if key else "", piece)
            else:
                data |= read if isinstance(read, dict) else {}
                if not isinstance(read, dict):
                    self.find(f"taxonomy/{file.name}", f"line {line + 1}: {piece.strip()!r:.40} begins no entry")
        if len(self.findings) == told:  # each piece is YAML, the whole is not
            self.findings += unreadable(error, file, self.root)
        self.broken.add(file.name)
        return data

    def _unread(self, file: Path, key: str, piece: str) -> None:
        """What cannot be read is there all the same: nothing else may miss it."""
        if key:
            self.broken.add(key)
            self.homes.setdefault(key, file.name)
        self.glimpsed |= set(re.findall(r"^[ \t]*([a-z0-9][a-z0-9:_-]*):", piece, re.M))

    def tree(self, file: Path) -> tuple[Category, ...]:
        """The categories."""
        data, where = self.load(file), f"taxonomy/{file.name}"
        if file.name in self.broken:
            return ()
        if not isinstance(data, list):
            self.find(where, "expected a list of categories")
            self.broken.add(file.name)
            return ()
        found = [validated(Category, node, f"{where}: category {number}") for number, node in enumerate(data, start=1)]
        self.findings += [finding for _, problems in found for finding in problems]
        categories = tuple(category for category, _ in found if category is not None)
        if len(categories) < len(found):
            self.broken.add(file.name)
        for name, text in _tree_problems(categories):
            self.find(f"{where}: category {name}", text)
        return categories

    def named(self, file: Path, validate: Callable[[Any, str], tuple[Any, list[Finding]]]) -> Any:
        """The data of a file with a schema of its own; a missing file of tags is an empty one."""
        if file.name == TAGS and not file.is_file():
            return None
        data = self.load(file)
        if file.name in self.broken:
            return None
        value, problems = validate(data, f"taxonomy/{file.name}")
        self.findings += problems
        if value is None:
            self.broken.add(file.name)
        return value


def _tree_problems(categories: tuple[Category, ...]) -> Iterator[tuple[str, str]]:
    """Parts stand at the top only and in one piece; sisters have different names."""
    parts = [category.part for category in categories]
    for number, category in enumerate(categories):
        if category.part is None:
            yield category.id, "field part: the field is required at the top of the tree"
        elif category.part in parts[:number] and parts[number - 1] != category.part:
            yield category.id, f"field part, value {category.part!r}: keep the categories of a part together"
        yield from _inner_problems(category, category.id)
    yield from _twins(categories, "")


def _inner_problems(category: Category, name: str) -> Iterator[tuple[str, str]]:
    for child in category.children:
        if child.part is not None:
            yield f"{name}/{child.id}", "field part: only a category at the top has one; remove it"
        yield from _inner_problems(child, f"{name}/{child.id}")
    yield from _twins(category.children, f"{name}/")


def _twins(categories: tuple[Category, ...], prefix: str) -> Iterator[tuple[str, str]]:
    ids = [category.id for category in categories]
    for each in dict.fromkeys(ids):
        if ids.count(each) > 1:
            yield prefix + each, "stands twice; keep one"
