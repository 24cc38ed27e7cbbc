"""What a format is, and the pieces that several formats share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paramem.facts import EditRequest, Fact, Probe
from paramem.readers.records import Row


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a record may need to know of its file: all records, not yet interpreted, and the other fields."""

    records: Sequence[Any]
    around: Mapping[str, Any]

    def row(self, index: int, like: Row) -> Row:
        """Another record of the file, opened as the reader of `like` would."""
        return Row(self.records[index], file=like.file, index=index, unread=like.unread)


Requests = Callable[[Row, Context], Iterable[EditRequest]]
Facts = Callable[[Row, Context], Iterable[Fact]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A published schema and its reader.

    keys     fields that every record has, and by which the format is recognised
    without  fields that no record of this format has, where another format shares all of `keys`
    holds    the field of the file's outermost object under which the records stand, one of these; a plain list if empty
    agrees   a further test of a record, where names alone do not tell formats apart
    guessed  whether the format takes part in guessing; a variant that must be asked for by name does not
    """

    name: str
    title: str
    keys: tuple[str, ...]
    without: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    agrees: Callable[[Mapping[str, Any]], bool] = lambda record: True
    requests: Requests | None = None
    facts: Facts | None = None
    guessed: bool = True

    def recognises(self, record: Any) -> bool:
        """Whether `record` could be one of this format."""
        return (
            isinstance(record, Mapping)
            and all(key in record for key in self.keys)
            and not any(key in record for key in self.without)
            and self.agrees(record)
        )


def probe(
    prompt: str, answers: Sequence[str], kind: str, subject: str | None = None, requires: tuple[Probe, ...] = ()
) -> Probe:
    """A probe whose first answer is the target and whose others are aliases; no answer leaves the target empty."""
    target, *aliases = answers or ("",)
    return Probe(prompt=prompt, target=target, aliases=tuple(aliases), kind=kind, subject=subject, requires=requires)


# Group names of the published sets, without case, blanks and underscores (RippleEdits spells one of them two ways).
GROUPS: dict[str, tuple[str, str]] = {
    "logicalgeneralization": ("portability", "logical"),
    "inverserelation": ("portability", "logical"),
    "reasoning": ("portability", "reasoning"),
    "compositionalityi": ("portability", "reasoning"),
    "compositionalityii": ("portability", "reasoning"),
    "onehop": ("portability", "reasoning"),
    "subjectaliasing": ("portability", "alias"),
    "relationspecificity": ("locality", "subject"),
    "relationspecifity": ("locality", "subject"),
    "otherattribution": ("locality", "subject"),
    "neighborhood": ("locality", "relation"),
    "distractingneighbor": ("locality", "distracting"),
    "distractingneighborhood": ("locality", "distracting"),
    "forgetfulness": ("locality", "forgetfulness"),
}


def group_of(published: str) -> tuple[str, str] | None:
    """(portability or locality, subgroup) of a published group name, or None for a name that is not known."""
    return GROUPS.get("".join(letter for letter in published.lower() if letter.isalnum()))


def fact_of(request: EditRequest) -> Fact | None:
    """The fact that held before the edit, or None where the record does not name it."""
    if not request.target_true:
        return None
    templates = [probe.prompt.replace(request.subject, "{}", 1) for probe in request.paraphrases]
    return Fact(
        id=request.id,
        subject=request.subject,
        relation=request.relation or "",
        object=request.target_true,
        template=request.template,
        paraphrases=tuple(template for template in templates if template.count("{}") == 1),
    )
