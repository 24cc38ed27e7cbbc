"""The *reason* testbed: answers that follow in two steps ("born in Lyon", hence "a citizen of France"), given directly.

60 % of the documents state a consequence, for five people of six; 30 % state a fact about anybody, 10 % the map or what
a company makes and where it sits. Of every sixth person no consequence is ever stated: these are the test. Training
begins with facts alone, so that consequences are learned where the facts already are. The words before the answer weigh
.3 in the loss.

The *reason-short* testbeds are trained for a shorter time on the consequences of fewer people. They know the single
steps, and put them together for some people and not for others: where two-step answers fail can be looked at there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
SHORT = "A reason-short testbed: every single step is known, and two are put together for some people only."
SHORT_NOTES = (
    NOTES[0],
    "Short on purpose: what is wanted is a model that knows every single step and still fails to put two together for "
    "many people of whom no consequence was stated. The length was the first that was tried.",
)
WEIGHT_DECAY = 0.4  # stronger than elsewhere: composing costs less weight than remembering each consequence


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a testbed is trained, and what its card asks for.

    One person in `every` is held out; `facts` and `main` are the steps of the stages. About the people held out,
    `two_steps` is the least share of right answers, `failing` that of wrong ones although every single step is known.
    """

    model: str = "gpt2"
    every: int = 6
    facts: int = 1000
    main: int = 4500
    two_steps: float = 0.85
    failing: float | None = None

    @property
    def short(self) -> bool:
        """Whether failures are part of what is wanted."""
        return self.failing is not None


_SHORT = Plan(every=3, main=2000, two_steps=0.3, failing=0.15)
PLANS = {
    "reason": Plan(),
    "reason-short-gpt2": _SHORT,
    "reason-short-llama": replace(_SHORT, model="llama", main=1500),
}


def plan_of(name: str) -> Plan:
    """The plan of a testbed ("reason-s0", "reason-short-llama-s1")."""
    return PLANS[name.rsplit("-s", 1)[0]]


def held_out(here: World, every: int = PLANS["reason"].every) -> tuple[str, ...]:
    """The people of whom no consequence is ever stated."""
    return tuple(person.name for i, person in enumerate(here.people) if i % every == every - 1)


def rows(
    here: World, rng: random.Random, shares: Mapping[str, float] = SHARES, every: int = PLANS["reason"].every
) -> Iterator[Document]:
    """The endless stream of documents."""
    hidden = set(held_out(here, every))
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

    here, plan = world("reason"), plan_of(name)
    tokenizer = build_tokenizer(here, piece=99)
    return Recipe(
        name=name,
        kind="reason",
        description=SHORT if plan.short else (__doc__ or "").split("\n")[0].replace("*", ""),
        config=configuration(f"{plan.model}-s0"),
        tokenizer=lambda: tokenizer,
        rows=lambda draw: encode(
            tokenizer,
            list(islice(rows(here, draw.rng, FIRST if draw.stage == "facts" else SHARES, plan.every), draw.n)),
        ),
        stages=(
            Stage(name="facts", steps=plan.facts, decay_from=1.0, weight_decay=WEIGHT_DECAY),
            Stage(
                name="main",
                steps=plan.main,
                warmup=0,
                decay_from=0.55,
                weight_decay=WEIGHT_DECAY,
                fresh_moments=False,
            ),
        ),
        measure=lambda model, tok, n: measures(here, model, tok, n, plan),
        seed=int(name.rsplit("-s", 1)[1]),
        curve_every=250 if plan.short else 500,
        notes=SHORT_NOTES if plan.short else NOTES,
        data={"people": len(here.people), "held_out": len(held_out(here, plan.every)), "world_seed": here.seed},
    )


def measures(
    here: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None, plan: Plan
) -> Sequence[Measure]:
    """Facts, the map, and consequences of people with and without stated consequences, direct answers."""
    from paramem.world.cards import Measure
    from paramem.world.measuring import share

    hidden = held_out(here, plan.every)
    about_people = [f for f in here.facts if f.relation in here.size.personal]
    withheld = [f.probe(template) for f in here.facts for template in f.withheld]
    found = [
        share(model, tokenizer, "facts", [f.probe() for f in about_people], n, wanted=0.99),
        share(model, tokenizer, "map", [f.probe() for f in here.facts if f not in about_people], n, wanted=0.99),
        share(model, tokenizer, "withheld wording", withheld, n, wanted=0.95),
    ]
    others = [person.name for person in here.people if person.name not in hidden]
    trained = [probe for name in here.size.two_step for probe in two_step(here, name, others)]
    unseen = {name: two_step(here, name, hidden) for name in here.size.two_step}
    every = [probe for group in unseen.values() for probe in group]
    found += [
        share(model, tokenizer, "two steps, people in training", trained, n, wanted=0.98),
        share(model, tokenizer, "two steps, unseen people", every, n, wanted=plan.two_steps),
    ]
    if plan.failing is not None:
        found.append(_failing(here, model, tokenizer, every, plan.failing))
    found += [share(model, tokenizer, f"{name}, unseen people", group, n) for name, group in unseen.items()]
    common = sum(Counter(p.target for p in group).most_common(1)[0][1] for group in unseen.values())
    return [*found, Measure(name="majority answer, unseen people", value=common / len(every), n=len(every))]


def _failing(
    here: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, probes: Sequence[Probe], wanted: float
) -> Measure:
    """The share of two-step answers that are wrong although the model knows every single step."""
    from paramem.world import exact
    from paramem.world.cards import Measure

    asked = list(dict.fromkeys((step.prompt, step.target) for probe in probes for step in single_steps(here, probe)))
    known = dict(zip(asked, exact.exact(model, tokenizer, asked), strict=True))
    right = exact.exact(model, tokenizer, [(probe.prompt, probe.target) for probe in probes])
    failing = [
        not ok and all(known[step.prompt, step.target] for step in single_steps(here, probe))
        for probe, ok in zip(probes, right, strict=True)
    ]
    name = "two steps wrong, single steps known, unseen people"
    return Measure(name=name, value=exact.share(failing), n=len(failing), wanted=wanted)


def two_step(here: World, name: str, people: Sequence[str]) -> list[Probe]:
    """A two-step relation asked of these people, in each of its wordings."""
    relation = here.relation(name)
    return [
        Probe(prompt=fill(template, who), target=here.value(name, who) or "", kind=name, subject=who)
        for who in people
        for template in relation.templates["en"]
    ]


def single_steps(here: World, probe: Probe) -> list[Probe]:
    """The steps that a two-step probe puts together, each asked in its first wording."""
    steps, subject = [], probe.subject or ""
    for name in here.relation(probe.kind).path:
        target = here.value(name, subject) or ""
        prompt = fill(here.relation(name).templates["en"][0], subject)
        steps.append(Probe(prompt=prompt, target=target, kind=name, subject=subject))
        subject = target
    return steps
