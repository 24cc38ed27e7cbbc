"""Documents about people whom a testbed never met, split by date into what is read and what is trained in.

    documents = draw_documents(world("read"), Sizes(), seed=0)
    split = split_by_date(documents, cutoff=Sizes().parametric)      # raises LeakingSplit
    split.parametric[0].text

Step 1 of zhang2024fusion's pipeline: older documents become parametric knowledge K_p, the latest ones external
knowledge K_e, with "no information overlap between them" (a footnote there). A document is the page of one person, a
snippet one sentence of it, about one attribute.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from paramem.errors import BadInput, BadParameter
from paramem.world.read_rules import Rules

if TYPE_CHECKING:
    from paramem.world.core import World

Cell: TypeAlias = tuple[str, str]  # (entity, attribute)
PARTS = ("train", "dev", "test")


class LeakingSplit(BadInput):
    """A document of one side of a split says something that belongs to the other side."""


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """One sentence that says what one attribute of one entity is."""

    entity: str
    attribute: str
    object: str
    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise BadInput(
                f"the snippet on {self.attribute!r} of {self.entity!r} has no text: an empty passage says nothing; "
                "leave it out, or ask without context"
            )

    @property
    def cell(self) -> Cell:
        return self.entity, self.attribute


@dataclass(frozen=True, kw_only=True)
class Document:
    """A page: its name, when it was written (larger is later), and its sentences in order."""

    name: str
    written: int
    snippets: tuple[Snippet, ...]

    def __post_init__(self) -> None:
        if not self.snippets:
            raise BadInput(f"document {self.name!r} is empty: leave it out")

    @property
    def text(self) -> str:
        return " ".join(snippet.text for snippet in self.snippets)

    @property
    def entities(self) -> frozenset[str]:
        return frozenset(snippet.entity for snippet in self.snippets)


@dataclass(frozen=True, kw_only=True)
class Split:
    """K_e and K_p. Raises LeakingSplit where they overlap."""

    external: tuple[Document, ...]
    parametric: tuple[Document, ...]

    def __post_init__(self) -> None:
        check_split(self.external, self.parametric)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many people are written about, on either side and for questions of either part (train, dev, test).

    With five sentences a page that is 340 of external and 300 of parametric knowledge; the paper has 900 and 800
    paragraphs.
    """

    external: tuple[int, int, int] = (28, 12, 28)
    parametric: tuple[int, int, int] = (20, 12, 28)

    def __post_init__(self) -> None:
        if min(*self.external, *self.parametric) < 2:
            raise BadParameter(f"{self}: every part needs two people, or nobody can be confused with anybody")

    @property
    def total(self) -> int:
        return sum(self.external) + sum(self.parametric)

    @property
    def cutoff(self) -> int:
        """The date from which documents count as external: as many are older as K_p has."""
        return sum(self.parametric)


def draw_documents(here: World, sizes: Sizes, seed: int) -> tuple[Document, ...]:
    """Pages of people with names that the testbed met in no text, one sentence for each relation, oldest first."""
    rules, rng = Rules(here), random.Random(f"fusion/documents/{here.kind}/{here.seed}/{seed}")
    names = rules.new_strangers
    if sizes.total > len(names):
        raise BadParameter(f"{sizes.total} people are asked for, and the world has {len(names)} unused names")
    return tuple(
        Document(name=f"page of {name}", written=date, snippets=_page(here, rules, name, rng))
        for date, name in enumerate(rng.sample(names, sizes.total))
    )


def _page(here: World, rules: Rules, name: str, rng: random.Random) -> tuple[Snippet, ...]:
    snippets = []
    for relation in here.relations:
        thing, wording = rng.choice(rules.objects[relation.id]), rng.randrange(len(relation.templates["en"]))
        snippets.append(say(here, (name, relation.id), thing, wording))
    return tuple(snippets)


def say(here: World, cell: Cell, thing: str, wording: int) -> Snippet:
    """The sentence that states it, in one of the relation's wordings."""
    entity, attribute = cell
    text = here.relation(attribute).templates["en"][wording].replace("{}", entity)
    return Snippet(entity=entity, attribute=attribute, object=thing, text=f"{text} {thing}.")


def split_by_date(documents: Sequence[Document], cutoff: int) -> Split:
    """What was written before the cutoff is parametric, the rest external. Raises LeakingSplit."""
    return Split(
        external=tuple(each for each in documents if each.written >= cutoff),
        parametric=tuple(each for each in documents if each.written < cutoff),
    )


def check_split(external: Sequence[Document], parametric: Sequence[Document]) -> None:
    """Refuse a split in which a document of one side speaks of an entity of the other, in a statement or by name."""
    sides = {"external": external, "parametric": parametric}
    for side, other in (("external", "parametric"), ("parametric", "external")):
        owner = {entity: document for document in sides[other] for entity in document.entities}
        for document in sides[side]:
            shared = sorted(document.entities & owner.keys())
            named = shared or [entity for entity in owner if entity in document.text]
            if named:
                raise LeakingSplit(
                    f"the split leaks: document {document.name!r}, which is {side} knowledge, speaks of {named[0]!r}, "
                    f"as does {owner[named[0]].name!r}, which is {other} knowledge. Put both on one side, or drop one."
                )


def parts_of(documents: Sequence[Document], sizes: tuple[int, int, int]) -> dict[str, tuple[Document, ...]]:
    """The documents that questions for training, for choices (dev) and for tests are about. Parts share no document."""
    if sum(sizes) != len(documents):
        raise BadParameter(f"parts of {sizes} documents do not make {len(documents)}")
    ends = [sum(sizes[: i + 1]) for i in range(3)]
    return {
        part: tuple(documents[end - size : end]) for part, size, end in zip(PARTS, sizes, ends, strict=True)
    }  # fmt: skip
