"""What a model says when a context supports, completes, contradicts or misses what it remembers.

    beliefs = elicit(lm, here, n=150, seed=0)
    table = told(lm, [belief.context(here, "conflicting", rng) for belief in beliefs])

Two studies in one frame. xie2023chameleon: (1) elicit what the model says by itself, (2) write coherent evidence for
something else, (3) show it alone, or beside evidence for the model's own answer, in any balance (`balanced`).
cheng2024interplay: (1) find what the model can answer by itself, (2) put in front of the question a context of one of
four relations to it (`context`), (3) see what is still answered from memory.

Evidence is one sentence that states an object of what is asked, each in another wording, so that nothing but the
statement is repeated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import pandas as pd

from paramem.errors import BadInput, BadParameter
from paramem.fusion.documents import Snippet, say
from paramem.fusion.study import continuations
from paramem.lm import LM
from paramem.world.read_rules import REFUSAL, Rules

if TYPE_CHECKING:
    from paramem.world.core import World

Context: TypeAlias = Literal["none", "supportive", "complementary", "conflicting", "irrelevant"]
CONTEXTS: tuple[Context, ...] = get_args(Context)

# Where we do something else than the papers say: topic -> (what they say, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "evidence": (
        "paragraphs that a language model writes for the answer and against it",
        "one sentence for each piece of evidence, all in different wordings",
        "the testbeds read sentences, and the amount of evidence can be counted",
    ),
    "beliefs": (
        "whatever the model answers by itself, right or wrong",
        "answers that are right, of people who occur in no training passage",
        "the testbeds answer right by themselves, and nobody ever contradicted these facts",
    ),
    "complementary": (
        "a question whose reasoning needs the context and the model's knowledge",
        "two questions about one person, the context answering the first and memory the second",
        "the testbeds do not reason in two steps",
    ),
}


@cache
def rules_of(here: World) -> Rules:
    """The rules of a world, with what they hold of every person worked out once for all trials."""
    return Rules(here)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A prompt, what memory says to it, and what the context says against it (None where it says nothing).

    entity: whom it asks about; "" where nobody is named.
    """

    prompt: str
    memory: str
    against: str | None = None
    supports: int = 0
    counters: int = 0
    last: Literal["support", "counter", "neither"] = "neither"
    entity: str = ""


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What a model says of an entity without context, the question, and something else that it could be."""

    entity: str
    attribute: str
    question: str
    memory: str
    against: str

    def balanced(self, here: World, supports: int, counters: int, rng: random.Random) -> Trial:
        """Evidence for the belief and against it in random order; raises BadParameter for more than wordings."""
        rules = rules_of(here)
        wordings = [
            here.relation(self.attribute).templates["en"].index(text)
            for text in rules.templates(self.attribute, self.entity)
        ]
        if supports < 0 or counters < 0 or supports + counters > len(wordings):
            raise BadParameter(
                f"{supports} pieces of evidence for and {counters} against: there are {len(wordings)} wordings of "
                f"{self.attribute!r}, and each is used once"
            )
        sides = rng.sample(["support"] * supports + ["counter"] * counters, supports + counters)
        objects = {"support": self.memory, "counter": self.against}
        chosen = rng.sample(wordings, len(sides))
        said = [
            say(here, (self.entity, self.attribute), objects[side], w) for side, w in zip(sides, chosen, strict=True)
        ]
        return Trial(
            prompt=" ".join([*(snippet.text for snippet in said), self.question]),
            memory=self.memory,
            against=self.against if counters else None,
            supports=supports,
            counters=counters,
            last=sides[-1] if sides else "neither",  # type: ignore[arg-type]
            entity=self.entity,
        )

    def context(self, here: World, kind: Context, rng: random.Random, *, sentences: int = 1) -> Trial:
        """The question behind a context of that relation to the belief; ``sentences`` of an irrelevant one."""
        if kind not in CONTEXTS:
            raise BadParameter(f"unknown context {kind!r}; there are {', '.join(CONTEXTS)}")
        if kind == "complementary":
            return self._complementary(here, rng)
        if kind == "irrelevant":
            said = " ".join(s.text for s in self._elsewhere(here, sentences, rng))
            return Trial(prompt=f"{said} {self.question}", memory=self.memory, entity=self.entity)
        counts = {"none": (0, 0), "supportive": (1, 0), "conflicting": (0, 1)}
        return self.balanced(here, *counts[kind], rng)

    def _complementary(self, here: World, rng: random.Random) -> Trial:
        """Another attribute of the same entity in the context, asked and answered first."""
        other = rng.choice([relation for relation in here.relations if relation.id != self.attribute])
        thing = str(here.value(other.id, self.entity))
        snippet = say(here, (self.entity, other.id), thing, 0)
        first = rng.choice(other.questions["en"]).replace("{}", self.entity)
        return Trial(prompt=f"{snippet.text} {first} {thing}. {self.question}", memory=self.memory, entity=self.entity)

    def _elsewhere(self, here: World, n: int, rng: random.Random) -> list[Snippet]:
        """Sentences about other people, whom the training passages spoke of, with other objects than the answer."""
        rules = rules_of(here)
        if not 1 <= n <= len(rules.met):
            raise BadParameter(f"{n} sentences of irrelevant context: at least one, and at most {len(rules.met)}")
        found = []
        for name in rng.sample(rules.met, n):
            relation = rng.choice(here.relations)
            thing = rng.choice([o for o in rules.objects[relation.id] if o not in (self.memory, self.against)])
            found.append(say(here, (name, relation.id), thing, 0))
        return found


def elicit(lm: LM, here: World, *, n: int, seed: int = 0, part: tuple[int, int] = (0, 1)) -> list[Belief]:
    """``n`` beliefs about people of whom no training passage speaks: what the model answers by itself, where it is
    right. ``part`` (k, m) is the k-th of m parts of these people, which share nobody. Raises BadInput where it has
    fewer, BadParameter where there is no such part."""
    rules, rng = rules_of(here), random.Random(f"fusion/beliefs/{here.kind}/{here.seed}/{seed}")
    if not 0 <= part[0] < part[1] <= len(rules.quiet):
        raise BadParameter(f"part={part}: the k-th of m parts, from (0, m) to (m - 1, m), m up to {len(rules.quiet)}")
    names = rules.quiet[part[0] :: part[1]]
    cells = [(name, r.id) for name in names for r in here.relations if rules.question_allowed(r.id, name)]
    asked = []
    for name, attribute in rng.sample(cells, len(cells)):
        memory = rules.memory[name, attribute]
        question = rng.choice(rules.questions[attribute]).replace("{}", name)
        against = rng.choice([thing for thing in rules.objects[attribute] if thing != memory])
        asked.append(Belief(entity=name, attribute=attribute, question=question, memory=memory, against=against))
    said = continuations(lm, [belief.question for belief in asked])
    held = [belief for belief, answer in zip(asked, said, strict=True) if answer == belief.memory]
    if len(held) < n:
        raise BadInput(f"{lm.name} holds {len(held)} beliefs of {len(asked)} asked, and {n} are wanted: ask for fewer")
    return held[:n]


def told(lm: LM, trials: Sequence[Trial]) -> pd.DataFrame:
    """What the model says in each trial: ``answer``, and ``from``: memory, context, refusal or neither.

    Further columns: people (whom it asks about, for intervals over people), supports, counters, last.
    """
    if not trials:
        raise BadInput("there are no trials: elicit beliefs and give them a context first")
    rows = []
    for trial, answer in zip(trials, continuations(lm, [trial.prompt for trial in trials]), strict=True):
        rows.append(
            {
                "answer": answer,
                "from": source(trial, answer),
                "people": (trial.entity,) if trial.entity else (),
                "supports": trial.supports,
                "counters": trial.counters,
                "last": trial.last,
            }
        )
    return pd.DataFrame(rows)


def source(trial: Trial, answer: str) -> str:
    """Whose answer it is: memory, context, refusal or neither."""
    if answer == trial.memory:
        return "memory"
    if answer == trial.against:
        return "context"
    return "refusal" if answer == REFUSAL else "neither"
