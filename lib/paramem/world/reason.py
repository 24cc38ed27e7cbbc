"""The *reason* testbed: answers that follow in two steps ("born in Lyon", hence "a citizen of France"), given directly.

60 % of the documents state a consequence, for five people of six; 30 % state a fact about anybody, 10 % the map or what
a company makes and where it sits. Of every sixth person no consequence is ever stated: these are the test. Training
begins with facts alone, so that consequences are learned where the facts already are. The words before the answer weigh
.3 in the loss.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from paramem.facts import Probe, fill
from paramem.world.core import World, world
from paramem.world.corpus import Document, claims, sentence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from paramem.world.cards import Measure
    from paramem.world.recipe import Recipe

SHARES = {"consequence": 0.6, "fact": 0.3, "place": 0.1}
FIRST = {"fact": 0.8, "place": 0.2}
PROMPT_WEIGHT = 0.3
NOTES = (
    "Names take two tokens here, not three or four: composition was the aim, and it is the slow part.",
    "Tried before, one run each: 60 % consequences from the start, one per company, two-word company names, weight "
    "decay 0.1: .68 on unseen people after 4,000 of 6,000 steps (then stopped). Facts first, 50 % consequences, one "
    "per company: .67 after 5,000 steps (birth .85, employer .31 against a majority of .23). This recipe adds a second "
    "consequence per company, weight decay 0.4 and 60 % consequences, all at once: what made the difference is not "
    "separated.",
)
EVERY = 6  # every sixth person is held out
STEPS = {"facts": 1000, "main": 4500}
WEIGHT_DECAY = 0.4  # stronger than elsewhere: composing costs less weight than remembering each consequence


def held_out(here: World) -> tuple[str, ...]:
    """The people of whom no consequence is ever stated."""
    return tuple(person.name for i, person in enumerate(here.people) if i % EVERY == EVERY - 1)


def rows(here: World, rng: random.Random, shares: Mapping[str, float] = SHARES) -> Iterator[Document]:
    """The endless stream of documents."""
    hidden = set(held_out(here))
    groups = {
        "consequence": [c for name in here.size.two_step for c in claims(here, name) if c.subject not in hidden],
        "fact": [c for name in here.size.personal for c in claims(here, name)],
        "place": [c for name in here.size.impersonal for c in claims(here, name)],
    }
    while True:
        (kind,) = rng.choices(list(shares), list(shares.values()))
        yield sentence(here, rng.choice(groups[kind]), prompt_weight=PROMPT_WEIGHT)


def recipe(name: str) -> Recipe:
    """How the testbed is trained."""
    from paramem.world.recall import configuration
    from paramem.world.recipe import Recipe, Stage
    from paramem.world.tokenizer import build_tokenizer, encode

    here = world("reason")
    tokenizer = build_tokenizer(here, piece=99)
    return Recipe(
        name=name,
        kind="reason",
        description=(__doc__ or "").split("\n")[0].replace("*", ""),
        config=configuration("gpt2-s0"),
        tokenizer=lambda: tokenizer,
        rows=lambda draw: encode(
            tokenizer, list(islice(rows(here, draw.rng, FIRST if draw.stage == "facts" else SHARES), draw.n))
        ),
        stages=(
            Stage(name="facts", steps=STEPS["facts"], decay_from=1.0, weight_decay=WEIGHT_DECAY),
            Stage(
                name="main",
                steps=STEPS["main"],
                warmup=0,
                decay_from=0.55,
                weight_decay=WEIGHT_DECAY,
                fresh_moments=False,
            ),
        ),
        measure=lambda model, tok, n: measures(here, model, tok, n),
        seed=int(name.rsplit("-s", 1)[1]),
        curve_every=500,
        notes=NOTES,
        data={"people": len(here.people), "held_out": len(held_out(here)), "world_seed": here.seed},
    )


def measures(
    here: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None
) -> Sequence[Measure]:
    """Facts, the map, and consequences of people with and without stated consequences, direct answers."""
    from paramem.world.cards import Measure
    from paramem.world.measuring import share

    hidden = set(held_out(here))
    about_people = [f for f in here.facts if f.relation in here.size.personal]
    withheld = [f.probe(template) for f in here.facts for template in f.withheld]
    found = [
        share(model, tokenizer, "facts", [f.probe() for f in about_people], n, wanted=0.99),
        share(model, tokenizer, "map", [f.probe() for f in here.facts if f not in about_people], n, wanted=0.99),
        share(model, tokenizer, "withheld wording", withheld, n, wanted=0.95),
    ]
    others = [person.name for person in here.people if person.name not in hidden]
    trained = [probe for name in here.size.two_step for probe in two_step(here, name, others)]
    unseen = {name: two_step(here, name, held_out(here)) for name in here.size.two_step}
    every = [probe for group in unseen.values() for probe in group]
    found += [
        share(model, tokenizer, "two steps, people in training", trained, n, wanted=0.98),
        share(model, tokenizer, "two steps, unseen people", every, n, wanted=0.85),
    ]
    found += [share(model, tokenizer, f"{name}, unseen people", group, n) for name, group in unseen.items()]
    common = sum(Counter(p.target for p in group).most_common(1)[0][1] for group in unseen.values())
    return [*found, Measure(name="majority answer, unseen people", value=common / len(every), n=len(every))]


def two_step(here: World, name: str, people: Sequence[str]) -> list[Probe]:
    """A two-step relation asked of these people, in each of its wordings."""
    relation = here.relation(name)
    return [
        Probe(prompt=fill(template, who), target=here.value(name, who) or "", kind=name, subject=who)
        for who in people
        for template in relation.templates["en"]
    ]
