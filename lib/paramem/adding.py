"""A new paper, and a new notebook for it: what goes into which file, and writing all of it or nothing.

Files are extended, never rewritten: the new taxonomy entry is placed after the last one of its category, and every
other byte of the file stays, comments and order too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paramem.bibliography import (
    Paper,
    entry_problems,
    expected_key,
    key_problem,
    load_papers,
    paper_of,
    read_papers,
    title_letters,
)
from paramem.bibtex import format_bib
from paramem.errors import BadInput, BadParameter
from paramem.fetching import Found
from paramem.findings import nearest
from paramem.formatting import in_order
from paramem.notebook_template import notebook_source
from paramem.project import Project
from paramem.taxonomy import KEY, Entry, Taxonomy, load_taxonomy
from paramem.taxonomy.validation import validated

TODO = "TODO"
_DULL = frozenset(
    re.findall(
        r"\w+",
        """about after and are between beyond can does for from has have how into its knowledge language large learning
        model models neural not our paper really study survey than that the their them then there these this through
        towards transformer transformers understanding using via what when where which while with without you""",
    )
)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What cannot be derived from the bibliography; what is left empty is marked to be filled in.

    Attributes:
        word: the key's last part; empty for a word of the title.
        status: without a notebook: ``planned``, ``survey`` or ``out of reach``.
        notebook: the name of a notebook to begin, as in ``editing/rome``; empty for none.
    """

    category: str
    summary: str = ""
    computes: str = ""
    tags: Sequence[str] = ()
    word: str = ""
    status: str = "planned"
    reason: str = ""
    notebook: str = ""


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What would be written: every file with its new text."""

    key: str
    paper: Paper
    files: Mapping[Path, str]


def prepare(project: Project, found: Found, description: Description) -> Addition:
    """Everything that adding a paper writes, checked, and nothing written yet.

    Raises:
        BadInput: the paper is there already, or what is known about it is wrong or too little.
        BadParameter: the description names something that does not exist, or a file that does.
    """
    taxonomy, papers = load_taxonomy(project), load_papers(project)
    paper = new_paper(found, description.word, papers)
    entry = _entry(paper.key, description, taxonomy)
    files = dict(_bib_and_entry(project, taxonomy, papers, paper, entry))
    if description.notebook:
        files |= _notebook_files(project, taxonomy, paper, description)
    return Addition(key=paper.key, paper=paper, files=files)


def new_paper(found: Found, word: str, papers: Mapping[str, Paper]) -> Paper:
    """The paper under its new key.

    Raises:
        BadInput: it is there already, or its entry has problems.
    """
    problems = list(entry_problems(found.entry("anon2000draft")))
    if problems:
        raise BadInput("\n".join(["the bibliography entry cannot stay as it is:", *problems]))
    paper = paper_of(found.entry("anon2000draft"))
    for key, other in papers.items():
        same = any(value and value == other.numbers[field] for field, value in paper.numbers.items())
        if same or title_letters(paper.title) == title_letters(other.title):
            raise BadInput(f"this paper is there already: {key}, {other.cite()}. {other.title}")
    prefix = expected_key(paper)
    key = prefix + word if word else next((k for k in _keys(prefix, paper.title) if k not in papers), "")
    if not key:
        raise BadInput(f"no word of the title makes a key of its own after {prefix}; name one: --word")
    if key in papers:
        raise BadInput(f"there is a paper {key} already; name another word: --word")
    paper = paper_of(found.entry(key))
    problem = key_problem(paper)
    if problem is not None:
        raise BadParameter(f"--word {word!r}: {problem}")
    return paper


def _keys(prefix: str, title: str) -> list[str]:
    """Keys that the words of a title suggest: a name before the colon first, dull words not at all."""
    head, colon, rest = title.partition(":")
    words = re.findall(r"[A-Za-z][A-Za-z0-9]*", f"{head} {rest}" if colon and len(head.split()) < 3 else title)
    telling = [word.lower() for word in words if len(word) > 2 and word.lower() not in _DULL]
    return [prefix + word for word in telling]


def _entry(key: str, description: Description, taxonomy: Taxonomy) -> Entry:
    categories = dict(taxonomy.category_names())
    if description.category not in categories:
        raise BadParameter(
            f"no category {description.category!r}; "
            + (nearest(description.category, categories) or f"there are: {', '.join(categories)}")
        )
    for tag in description.tags:
        if tag not in taxonomy.tags:
            hint = nearest(tag, taxonomy.tags) or "add it to taxonomy/tags.yaml with its meaning first"
            raise BadParameter(f"no tag {tag!r}; {hint}")
    data: dict[str, object] = {"category": description.category}
    if not description.notebook:
        data |= {"status": description.status, **({"reason": description.reason} if description.reason else {})}
    data["summary"] = description.summary or f"{TODO}: one sentence, in your own words."
    if description.computes or description.status != "survey":
        data["computes"] = description.computes or f"{TODO}: what it computes, from which input to which output."
    if description.tags:
        data["tags"] = list(description.tags)
    if description.notebook:
        data |= {"notebooks": [description.notebook], "claims": {"first-claim": _stub(description.notebook)}}
    entry, problems = validated(Entry, data, f"the new entry {key}")
    if entry is None:
        raise BadParameter("\n".join(str(problem) for problem in problems))
    return entry


def _stub(notebook: str) -> dict[str, object]:
    return {
        "says": f"{TODO}: one sentence that can turn out false, in your own words.",
        "where": f"{TODO}: section, table or figure",
        "notebook": notebook,
        "measured": ["value"],
    }


def _bib_and_entry(
    project: Project, taxonomy: Taxonomy, papers: Mapping[str, Paper], paper: Paper, entry: Entry
) -> dict[Path, str]:
    file = project.taxonomy / f"{entry.category.split('/')[0]}.yaml"
    old = file.read_text(encoding="utf-8") if file.is_file() else f"# {_title(taxonomy, entry)}\n"
    before = _last_of(entry.category, file.name, taxonomy)
    entries = dict(taxonomy.entries)
    order = list(entries)
    order.insert(order.index(before) + 1 if before else len(order), paper.key)
    entries[paper.key] = entry
    grown = dataclasses.replace(taxonomy, entries={key: entries[key] for key in order})
    bib = read_papers(project).file
    bib = dataclasses.replace(bib, entries=tuple(in_order([*bib.entries, paper.entry], grown)))
    return {project.bib: format_bib(bib), file: spliced(old, entry_text(paper.key, entry), before)}


def _title(taxonomy: Taxonomy, entry: Entry) -> str:
    top = dict(taxonomy.category_names())[entry.category.split("/")[0]]
    return f"{top.title}. Fields: lib/paramem/taxonomy/schema.py. Statements are in our own words."


def _last_of(category: str, file: str, taxonomy: Taxonomy) -> str:
    """The entry to stand after: the last one of the category in its file, else the last of the file."""
    inside = [key for key in taxonomy.entries if taxonomy.homes[key] == file]
    same = [key for key in inside if taxonomy.entries[key].category == category]
    return (same or inside or [""])[-1]


def spliced(text: str, addition: str, after: str) -> str:
    """A YAML file with an entry put after another one (at the end where that is empty); the rest stays as it is."""
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if re.match(r"[a-z0-9]", line)]
    place = len(lines)
    if after:
        own = next(number for number in starts if lines[number].startswith(f"{after}:"))
        place = next((number for number in starts if number > own), len(lines))
        while place > own + 1 and (lines[place - 1].startswith("#") or not lines[place - 1].strip()):
            place -= 1  # comments above the next entry belong to it
    head, tail = "".join(lines[:place]).rstrip("\n"), "".join(lines[place:]).lstrip("\n")
    return f"{head}\n\n{addition}" + (f"\n{tail}" if tail else "")


def entry_text(key: str, entry: Entry) -> str:
    """A taxonomy entry as YAML, fields in the schema's order."""
    data = entry.model_dump(mode="json", exclude_unset=True)
    return f"{key}:\n" + "".join(_field(name, data[name], 2) for name in type(entry).model_fields if name in data)


def _field(name: str, value: object, indent: int) -> str:
    pad = " " * indent
    if isinstance(value, dict):
        return f"{pad}{name}:\n" + "".join(_field(inner, each, indent + 2) for inner, each in value.items())
    if isinstance(value, list):
        return f"{pad}{name}: [{', '.join(scalar(str(each)) for each in value)}]\n"
    if name in ("summary", "computes", "says"):
        import textwrap

        text = textwrap.fill(" ".join(str(value).split()), 118 - indent, break_long_words=False, break_on_hyphens=False)
        return f"{pad}{name}: >-\n" + textwrap.indent(text, pad + "  ") + "\n"
    return f"{pad}{name}: {scalar(str(value))}\n"


def scalar(text: str) -> str:
    """A text that YAML reads back as it is: plain where that is safe, quoted otherwise."""
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9 ./_()'-]*", text) and text == text.strip()
    return text if plain and text not in ("true", "false", "null") else json.dumps(text, ensure_ascii=False)


def _notebook_files(project: Project, taxonomy: Taxonomy, paper: Paper, description: Description) -> dict[Path, str]:
    name = description.notebook
    if not all(KEY.fullmatch(part) for part in name.split("/")) or "/" not in name:
        raise BadParameter(f"--notebook {name!r}: lower-case names joined by '/', as in editing/rome")
    path = project.notebook_path(name)
    for there in (path, path.with_suffix(".py")):
        if there.exists() or name in taxonomy.notebooks:
            raise BadParameter(f"--notebook {name}: there is one of that name; nothing is overwritten")
    source = notebook_source(paper, name, f"{paper.key}.first-claim")
    file = project.taxonomy / "notebooks.yaml"
    sets = list(taxonomy.testbed_sets)
    listed = (
        f"  {name}:\n    title: {scalar(paper.title)}\n"
        + (f"    testbeds: {sets[0]}\n" if sets else "")
        + f"    papers: [{paper.key}]\n"
    )
    return {
        path.with_suffix(".py"): source,
        path: paired(project, name, source),
        file: file.read_text(encoding="utf-8").rstrip("\n") + "\n" + listed,
    }


def paired(project: Project, name: str, source: str) -> str:
    """The ``.ipynb`` half that `make sync` would make of a ``.py`` half."""
    from paramem.notebooks import sync

    with tempfile.TemporaryDirectory() as folder:
        shadow = Project(root=Path(folder))
        path = shadow.notebook_path(name)
        path.parent.mkdir(parents=True)
        path.with_suffix(".py").write_text(source, encoding="utf-8")
        if (project.root / "jupytext.toml").is_file():
            (shadow.root / "jupytext.toml").write_bytes((project.root / "jupytext.toml").read_bytes())
        sync(shadow, [name])
        return path.read_text(encoding="utf-8")


def write_all(files: Mapping[Path, str]) -> None:
    """Write all files or none: what was replaced before something failed is put back, whatever it was.

    Ctrl-C waits until the files are in place, or back in theirs.

    Raises:
        BadInput: a file cannot be written; everything is as it was.
    """
    before = {path: path.read_bytes() if path.is_file() else None for path in files}
    parts: list[Path] = []
    done: list[Path] = []
    with _uninterrupted():
        try:
            for path, text in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".{path.name}.part")
                parts.append(part)
                part.write_text(text, encoding="utf-8")
            for path, part in zip(files, parts, strict=True):
                done.append(path)
                part.replace(path)
        except BaseException as error:
            for path in done:
                _put_back(path, before[path])
            if isinstance(error, OSError):
                raise BadInput(f"cannot write {error.filename}: {error.strerror}; nothing was changed") from error
            raise
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals to stop are kept until the end (only the main thread gets any)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for each in came:
            signal.raise_signal(each)
