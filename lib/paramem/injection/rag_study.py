"""The duel of parametric and in-context RAG: pages of people whom a testbed never met, questions, and who answers them.

    duel = prepare(here, draw=0)
    corpus = trainings(lm, duel, PragSettings())["rewrites and questions"]
    table = ask(lm, duel.questions, "parameters, 3", edits=merged(lm, corpus, duel.retrieved(corpus, 3)))

A page states five attributes of one person. Training asks for ``pairs`` of them, each in one wording of its question;
tests ask for all five in the other wording, so that no tested question was trained on (`check_questions`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from paramem.errors import BadParameter
from paramem.fusion.documents import Document, LeakingSplit, Sizes, Snippet, draw_documents, say
from paramem.fusion.questions import Question, question_texts
from paramem.fusion.study import answers
from paramem.fusion.training import n_tokens, reworded
from paramem.injection.document_adapter import How
from paramem.injection.parametric_rag import (
    Augmented,
    Corpus,
    PragSettings,
    deltas,
    encode,
    encode_together,
    rows_of,
)
from paramem.interventions import WeightDelta
from paramem.lm import LM
from paramem.world.read_rules import REFUSAL
from paramem.world.reading import Reading
from paramem.world.reading import questions as known_questions

if TYPE_CHECKING:
    from paramem.world.core import World

# What is left out of the pages, Figure 3 of su2025prag.
ABLATIONS: Mapping[str, Mapping[str, bool]] = {
    "rewrites and questions": {},
    "questions": {"rewrites": True},
    "rewrites": {"pairs": True},
    "bare page": {"rewrites": True, "pairs": True},
}
EVERY = 4  # one question in four is asked with parameters made for it


@dataclass(frozen=True, kw_only=True)
class Sources:
    """A document, a rewrite of it, and the pairs that are trained, as sentences that can also be read."""

    document: Document
    rewrite: tuple[Snippet, ...]
    pairs: tuple[tuple[str, Snippet], ...]

    @property
    def page(self) -> Augmented:
        return Augmented(
            name=self.document.name,
            text=self.document.text,
            rewrites=(" ".join(snippet.text for snippet in self.rewrite),),
            pairs=tuple((question, snippet.object) for question, snippet in self.pairs),
        )

    @property
    def everything(self) -> tuple[Snippet, ...]:
        """All that training sees, to be read: the context of the paper's DA-RAG."""
        said = [replace(snippet, text=f"{question} {snippet.object}.") for question, snippet in self.pairs]
        return (*self.document.snippets, *self.rewrite, *said)


@dataclass(frozen=True, eq=False, kw_only=True)
class Duel:
    """What is written and what is asked.

    questions   one on every statement of every page; ``owner[i]`` is the page that answers question i, ``taught[i]``
                whether training asked for that statement, in other words
    two_parts   two statements of two pages each, asked in turn; ``two_owners[i]`` are the pages
    strangers   about people without a page: the right answer is a refusal
    known       about people of the testbed's own training
    """

    here: World
    sources: tuple[Sources, ...]
    questions: tuple[Question, ...]
    owner: tuple[int, ...]
    taught: tuple[bool, ...]
    two_parts: tuple[Question, ...]
    two_owners: tuple[tuple[int, int], ...]
    strangers: tuple[Question, ...]
    known: tuple[Question, ...]
    seed: int

    @property
    def pages(self) -> tuple[Augmented, ...]:
        return tuple(each.page for each in self.sources)

    def retrieved(self, corpus: Corpus, k: int, questions: Sequence[Question] | None = None) -> list[list[int]]:
        """The k pages that the retriever finds for each question (those of the duel when None)."""
        asked = self.questions if questions is None else questions
        return [corpus.retrieve(question.texts[0], k) for question in asked]

    def reading(
        self, questions: Sequence[Question], chosen: Sequence[Sequence[int]], *, everything: bool = False
    ) -> list[Question]:
        """The questions behind the pages of these numbers, or behind everything that training sees of them."""
        read = [each.everything if everything else each.document.snippets for each in self.sources]
        return [
            replace(question, evidence=tuple(snippet for i in which for snippet in read[i]))
            for question, which in zip(questions, chosen, strict=True)
        ]

    def among(self, k: int, owners: Sequence[int] | None = None, *, n: int = 0) -> list[list[int]]:
        """For each owner k pages, its own first and others at random; without owners, n times k pages at random."""
        rng, numbers = random.Random(f"rag/among/{self.seed}/{k}"), range(len(self.sources))
        if not 1 <= k <= len(numbers):
            raise BadParameter(f"k={k}: there are {len(numbers)} pages")
        if owners is None:
            return [rng.sample(numbers, k) for _ in range(n)]
        return [[own, *rng.sample([i for i in numbers if i != own], k - 1)] for own in owners]

    def completions(self) -> list[Question]:
        """Every statement up to its object, in a wording that neither its page nor the rewrite has."""
        rng, found = random.Random(f"rag/completions/{self.seed}"), []
        for question, owner in zip(self.questions, self.owner, strict=True):
            (snippet,), source = question.asked, self.sources[owner]
            used = {each.text for each in (*source.document.snippets, *source.rewrite)}
            wordings = range(len(self.here.relation(snippet.attribute).templates["en"]))
            others = [say(self.here, snippet.cell, snippet.object, w).text for w in wordings]
            opening = rng.choice([text for text in others if text not in used])
            found.append(replace(question, texts=(opening.removesuffix(f" {snippet.object}."),)))
        return found

    def contradicted(self) -> list[Question]:
        """Every question behind one sentence that says something else than its page."""
        rng = random.Random(f"rag/against/{self.seed}")
        return [replace(q, evidence=(self._against(q.asked[0], rng),)) for q in self.questions]

    def _against(self, snippet: Snippet, rng: random.Random) -> Snippet:
        relation = self.here.relation(snippet.attribute)
        others = [thing for thing in self.here.objects(relation.id) if thing != snippet.object]
        return say(self.here, snippet.cell, rng.choice(others), rng.randrange(len(relation.templates["en"])))


def prepare(
    here: World, draw: int, *, documents: int = 30, pairs: int = 3, strangers: int = 40, known: int = 80
) -> Duel:
    """Draw people, write a page about each, and ask.

    Raises LeakingSplit where a tested question is trained on, BadParameter for more of anything than there is.
    """
    items, statements = known_questions(here), len(here.relations)
    for name, value, most in (("pairs", pairs, statements), ("known", known, len(items))):
        if not 0 <= value <= most:
            raise BadParameter(f"{name}={value}: from 0 to {most}")
    if not 0 <= strangers < Sizes().total:
        raise BadParameter(f"strangers={strangers}: from 0 to {Sizes().total - 1}, so that somebody has a page")
    if not 1 <= documents <= Sizes().total - strangers:
        raise BadParameter(
            f"documents={documents}: with {strangers} strangers kept aside there are 1 to {Sizes().total - strangers}"
        )
    rng = random.Random(f"rag/{here.kind}/{here.seed}/{draw}")
    written = draw_documents(here, Sizes(), draw)
    sources, questions, owner, taught = [], [], [], []
    for number, document in enumerate(written[:documents]):
        rewrite, trained = tuple(reworded(here, document, rng)), []
        for place, snippet in enumerate(rng.sample(document.snippets, len(document.snippets))):
            wordings = rng.sample(question_texts(here, snippet.cell), 2)
            if place < pairs:
                trained.append((wordings[0], snippet))
            questions.append(_question(wordings[1], snippet))
            owner.append(number)
            taught.append(place < pairs)
        sources.append(Sources(document=document, rewrite=rewrite, pairs=tuple(trained)))
    check_questions([each.page for each in sources], questions)
    unknown = [document.snippets[i % 5] for i, document in enumerate(written[documents : documents + strangers])]
    couples = _couples(owner, rng)
    return Duel(
        here=here,
        sources=tuple(sources),
        questions=tuple(questions),
        owner=tuple(owner),
        taught=tuple(taught),
        two_parts=tuple(_together(questions[i], questions[j]) for i, j in couples),
        two_owners=tuple((owner[i], owner[j]) for i, j in couples),
        strangers=tuple(
            replace(_question(rng.choice(question_texts(here, s.cell)), s), scenario="S4") for s in unknown
        ),
        known=tuple(_known(here, rng.sample(items, known))),
        seed=draw,
    )


def check_questions(pages: Sequence[Augmented], questions: Sequence[Question]) -> None:
    """Refuse a test that asks what training asked in the same words: the answer would be recited."""
    trained = {question: page.name for page in pages for question, _ in page.pairs}
    for question in questions:
        for text in question.texts:
            if text in trained:
                raise LeakingSplit(
                    f"the question {text!r} is asked in training, by the pairs of {trained[text]!r}: ask in other words"
                )


def _question(text: str, snippet: Snippet) -> Question:
    return Question(scenario="S3", texts=(text,), asked=(snippet,))


def _together(one: Question, other: Question) -> Question:
    return Question(scenario="S3", texts=one.texts + other.texts, asked=one.asked + other.asked)


def _couples(owner: Sequence[int], rng: random.Random) -> list[tuple[int, int]]:
    """Numbers of questions, two of different pages, each question at most once."""
    order = rng.sample(range(len(owner)), len(owner))
    halves = zip(order[::2], order[1::2], strict=False)
    return [(i, j) for i, j in halves if owner[i] != owner[j]]


def _known(here: World, items: Sequence[Reading]) -> list[Question]:
    return [_question(item.question, say(here, (item.subject, item.relation), item.answer, 0)) for item in items]


def trainings(lm: LM, duel: Duel, settings: PragSettings) -> dict[str, Corpus]:
    """The pages with the adapters of each variant, kept: of `ABLATIONS` for as many passes each and, under "(tokens)",
    for as many tokens each; and "joined (tokens)", each question behind a document, Eq. (4) of su2025prag."""
    tokens = trained_tokens(lm, duel.pages, settings)
    found = {}
    for name, left_out in ABLATIONS.items():
        pages = [page.without(**left_out) for page in duel.pages]
        found[name] = encode(lm, pages, settings, keep=True)
        if left_out:
            found[f"{name} (tokens)"] = encode(lm, pages, settings, tokens=tokens, keep=True)
    found["joined (tokens)"] = encode(lm, duel.pages, replace(settings, form="joined"), tokens=tokens, keep=True)
    return {name: Corpus(duel.pages, tuple(adapters)) for name, adapters in found.items()}


def trained_tokens(lm: LM, pages: Sequence[Augmented], settings: PragSettings) -> int:
    """How many tokens the adapters of these pages are trained on, with repetitions."""
    each = {page: n_tokens(rows_of(lm, page, settings.form)) for page in dict.fromkeys(pages)}
    return round(settings.encoding.passes * sum(each[page] for page in pages))


def made_for(lm: LM, duel: Duel, chosen: Sequence[Sequence[int]], settings: PragSettings) -> list[WeightDelta]:
    """Parameters for one question each, kept: trained on the pages of these numbers at once (anon2024inparameter)."""
    bundles = [[duel.pages[i] for i in which] for which in chosen]
    return deltas(lm, encode_together(lm, bundles, settings, keep=True))


def train_shipped(lm: LM) -> None:
    """All that the default run of the notebook asks."""
    from paramem.material import world_behind

    duel, settings = prepare(world_behind(lm), 0), PragSettings()
    corpus = trainings(lm, duel, settings)["rewrites and questions"]
    made_for(lm, duel, duel.retrieved(corpus, 3, duel.questions[::EVERY]), settings)


def merged(lm: LM, corpus: Corpus, chosen: Sequence[Sequence[int]], how: How = "sum") -> list[WeightDelta]:
    """The change of weights that each question is asked under; equal choices share one."""
    made = {which: corpus.merged(which, how) for which in dict.fromkeys(map(tuple, chosen))}
    return deltas(lm, [made[tuple(which)] for which in chosen])


def ask(
    lm: LM, questions: Sequence[Question], condition: str, *, edits: Sequence[WeightDelta] | None = None
) -> pd.DataFrame:
    """One row a question: condition, question (its number), people (whom it asks about), answer, right (all parts),
    refused (all parts), wrong (some part neither right nor refused), tokens (read for the first part)."""
    said = answers(lm, questions, edits=edits)
    read = lm.encode([question.prompt() for question in questions]).lengths.tolist() if questions else []
    return pd.DataFrame(
        {
            "condition": condition,
            "question": range(len(questions)),
            "people": [question.people for question in questions],
            "answer": ["; ".join(found) for found in said],
            "right": [found == question.answers for found, question in zip(said, questions, strict=True)],
            "refused": [all(part == REFUSAL for part in found) for found in said],
            "wrong": [
                any(part not in (REFUSAL, answer) for part, answer in zip(found, question.answers, strict=True))
                for found, question in zip(said, questions, strict=True)
            ],
            "tokens": read,
        }
    )


def of(table: pd.DataFrame, condition: str, column: str = "right") -> pd.Series:
    """One column of one condition, by question."""
    rows = table[table["condition"] == condition]
    return rows.set_index("question")[column].astype(float)


def sides(questions: Sequence[Question], contradicted: Sequence[Question], said: Sequence[str]) -> list[str]:
    """Whose answer was given where a page's adapter and the context disagree: parameters, context, refusal, neither."""
    found = []
    for question, other, answer in zip(questions, contradicted, said, strict=True):
        names = {question.asked[0].object: "parameters", other.evidence[0].object: "context", REFUSAL: "refusal"}
        found.append(names.get(answer, "neither"))
    return found
