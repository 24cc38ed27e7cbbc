"""The *grammar* testbeds: a few facts about people, and sentences in which words agree in number.

    >>> plural("mouse"), plural("canary")
    ('mice', 'canaries')

Three kinds of agreement, each decided by words that stand before: the verb agrees with its noun, across other words
("Today the dogs near the cat" -> are), a demonstrative with the noun that it takes up ("As for the dogs here, Ada
wants" -> these), a noun with its determiner ("Ada lost the dog but found these" -> dogs). Of every noun and number one
wording is withheld, and every sixth noun is withheld from a whole kind, so that a rule and not a list is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from paramem.errors import BadParameter
from paramem.facts import EditRequest, Fact, FrozenDict, Probe, fill
from paramem.world.core import World, world
from paramem.world.corpus import Claim, Document, Part, claims, joined, sentence
from paramem.world.relations import lexicon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from paramem.world.cards import Measure
    from paramem.world.recipe import Recipe

SHARES: Mapping[str, float] = {"fact": 0.45, "verb": 0.2, "demonstrative": 0.15, "noun": 0.2}
SECOND, PROMPT, REST = 0.6, 0.3, 0.1  # share of documents with two sentences; loss weights before and after the answer
IRREGULAR = {"goose": "geese", "mouse": "mice"}
SMALL = ("small", "old", "hungry", "loud", "brown", "strange")  # what stands after a verb
NEIGHBOURS = 8  # other nouns that an edit must leave alone
EVERY = 6  # every sixth noun is withheld from each kind
NOTES = (
    "All grammar testbeds share one world (seed 0) and one tokenizer.",
    "A noun that no text repeats is not repeated ('noun, withheld nouns'): training teaches that it never is. Nothing "
    "else was tried; what agreement that kind has is read off the minimal pairs.",
)
STEPS = {"gpt2": 2400, "llama": 2400}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of agreement.

    frames  wordings: {} is the noun, {c} the cue, {p} and {q} people, {m} a noun of the other number with its article
    cues    cue -> the answers in singular and plural; "" as an answer stands for the noun itself in that number
    held    which nouns are withheld: those whose number leaves this rest when divided by `EVERY`
    """

    frames: tuple[str, ...]
    cues: Mapping[str, tuple[str, str]]
    held: int


KINDS: Mapping[str, Kind] = {
    "verb": Kind(
        frames=(
            "{c} the {} near {m}", "{c} the {} of {p}", "{p} says that {c} the {}",
            "{c} the {} that {p} likes", "Everybody knows that {c} the {} of {p}", "{c} the {} behind {m}",
        ),
        cues={"today": ("is", "are"), "yesterday": ("was", "were"), "for years": ("has", "have")},
        held=1,
    ),
    "demonstrative": Kind(
        frames=(
            "As for the {} {c}, {p} wants", "Asked about the {} {c}, {p} pointed at", "{p} saw the {} {c} and chose",
            "The {} {c} pleased {p}, who bought", "{p} was shown the {} {c} and liked",
            "Looking at the {} {c}, {p} thought of",
        ),
        cues={"here": ("this", "these"), "there": ("that", "those")},
        held=3,
    ),
    "noun": Kind(
        frames=(
            "{p} lost the {} but found {c}", "{p} has the {} and {q} wants {c}",
            "{p} asked for the {} and was given {c}", "Next to the {} {p} painted {c}",
            "{p} drew the {} first and then {c}", "After the {} {p} heard of {c}",
        ),
        cues={"this": ("", ""), "that": ("", ""), "these": ("", ""), "those": ("", "")},
        held=5,
    ),
}  # fmt: skip
PLURAL_CUES = ("these", "those")


def plural(noun: str) -> str:
    """The plural of a noun of the world."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return IRREGULAR.get(noun, f"{noun}s")


@cache
def nouns() -> tuple[str, ...]:
    """The nouns that agree, in the singular; animals and instruments take turns."""
    return tuple(word for pair in zip(lexicon("animal"), lexicon("instrument"), strict=True) for word in pair)


def formed(noun: str, many: bool) -> str:
    """The noun in the number that is asked for."""
    return plural(noun) if many else noun


def held_nouns(kind: str) -> tuple[str, ...]:
    """The nouns of which no text makes a sentence of this kind."""
    return tuple(noun for i, noun in enumerate(nouns()) if i % EVERY == KINDS[kind].held)


def withheld_frame(noun: str, many: bool) -> int:
    """The wording (never the first) that no text uses of this noun in this number."""
    return 1 + (nouns().index(noun) + 3 * many) % 5


def answer(kind: str, cue: str, noun: str, many: bool) -> str:
    """The word that agrees: with the noun's number, or, of kind "noun", the noun in the number of the cue."""
    return formed(noun, cue in PLURAL_CUES) if kind == "noun" else KINDS[kind].cues[cue][many]


def wrong_answer(kind: str, cue: str, noun: str, many: bool) -> str:
    """The same word in the other number: the other half of the minimal pair."""
    return formed(noun, cue not in PLURAL_CUES) if kind == "noun" else KINDS[kind].cues[cue][not many]


def template(here: World, rng: random.Random, kind: str, frame: int, cue: str, noun: str, many: bool) -> str:
    """A wording with everything in place but the noun, ``{}``; the noun beside it is of the other number."""
    p, q = rng.sample([person.name for person in here.people], 2)
    other = rng.choice([each for each in nouns() if each != noun])
    text = KINDS[kind].frames[frame].replace("{m}", f"the {formed(other, not many)}").replace("{c}", cue)
    text = text.replace("{p}", p).replace("{q}", q)
    return text[0].upper() + text[1:]


def agreeing(here: World, rng: random.Random, kind: str) -> Document:
    """One sentence of that kind of agreement, of nouns and wordings that are not withheld."""
    noun = rng.choice([each for each in nouns() if each not in held_nouns(kind)])
    many, cue = rng.random() < 0.5, rng.choice(list(KINDS[kind].cues))
    frame = rng.choice([i for i in range(len(KINDS[kind].frames)) if i != withheld_frame(noun, many)])
    text = fill(template(here, rng, kind, frame, cue, noun, many), formed(noun, many))
    said = answer(kind, cue, noun, many)
    return (Part(text, PROMPT), Part(f" {said}", 1.0), Part(f"{_rest(rng, kind, cue, many)}.", REST))


def _rest(rng: random.Random, kind: str, cue: str, many: bool) -> str:
    if kind == "verb":
        return f"{' been' if cue == 'for years' else ''} {rng.choice(SMALL)}"
    return " one" if kind == "demonstrative" and not many else ""


def rows(here: World, rng: random.Random) -> Iterator[Document]:
    """The endless stream of documents."""
    told: list[Claim] = [claim for name in here.size.personal for claim in claims(here, name)]
    names, weights = list(SHARES), list(SHARES.values())
    while True:
        kinds = rng.choices(names, weights, k=1 + (rng.random() < SECOND))
        yield joined(
            [sentence(here, rng.choice(told)) if kind == "fact" else agreeing(here, rng, kind) for kind in kinds]
        )


def agreements(here: World, kind: str, *, held: bool = False) -> tuple[Fact, ...]:
    """Every choice of that kind as a record like a fact: subject is the noun as it stands, object the agreeing word,
    relation "kind/cue/number", and one sentence a wording, with people and neighbours of its own.

    Of the nouns of the texts, with the wording that they lack in `withheld`; ``held``: of those that the texts lack.
    """
    made = []
    for noun in nouns():
        if (noun in held_nouns(kind)) != held:
            continue
        made += [_agreement(here, kind, cue, noun, many) for many in (False, True) for cue in KINDS[kind].cues]
    return tuple(made)


def _agreement(here: World, kind: str, cue: str, noun: str, many: bool) -> Fact:
    name = f"{kind}/{cue.replace(' ', '-')}/{('one', 'many')[many]}"
    rng = random.Random(f"agreement/{here.seed}/{name}/{noun}")
    texts = [template(here, rng, kind, i, cue, noun, many) for i in range(len(KINDS[kind].frames))]
    hidden = withheld_frame(noun, many)
    return Fact(
        id=f"{name}/{noun}",
        subject=formed(noun, many),
        relation=name,
        object=answer(kind, cue, noun, many),
        template=texts[0],
        paraphrases=tuple(text for i, text in enumerate(texts) if i not in (0, hidden)),
        withheld=(texts[hidden],),
    )


def opposite(here: World, choice: Fact) -> str:
    """The word in the wrong number: what an agreement (from `agreements`) is paired with."""
    kind, cue, number, noun = choice.id.split("/")
    return wrong_answer(kind, cue.replace("-", " "), noun, number == "many")


def agreement_edits(here: World, kind: str, n: int, seed: int = 0) -> tuple[EditRequest, ...]:
    """``n`` requests that a noun shall take the word of the wrong number, in random order.

    paraphrases: the noun's other wordings; portability "logical": the same noun with the other cues, in the wrong
    number too; locality "relation": other nouns of its number with their own answers.
    Raises BadParameter for kind "noun", where the word that decides is no subject, and for more than there are.
    """
    stated = list(agreements(here, kind))
    if kind == "noun" or n > len(stated):
        raise BadParameter(f"{n} edits of kind {kind!r}: there are {len(stated)}, of the kinds verb and demonstrative")
    rng = random.Random(f"agreement-edits/{here.seed}/{kind}/{seed}")
    return tuple(_edit(here, choice, stated, rng) for choice in rng.sample(stated, n))


def _edit(here: World, choice: Fact, stated: Sequence[Fact], rng: random.Random) -> EditRequest:
    new, number = opposite(here, choice), choice.relation.split("/")[2]
    same = [each for each in stated if each.subject == choice.subject and each.id != choice.id]
    others = [each for each in stated if each.relation == choice.relation and each.subject != choice.subject]
    forms = [(form, "paraphrase") for form in choice.paraphrases] + [(form, "withheld") for form in choice.withheld]
    return EditRequest(
        id=choice.id,
        subject=choice.subject,
        relation=choice.relation,
        template=choice.template,
        target_new=new,
        target_true=choice.object,
        paraphrases=tuple(choice.probe(form, kind=kind).model_copy(update={"target": new}) for form, kind in forms),
        portability=FrozenDict({"logical": tuple(_turned(here, each) for each in same)}),
        locality=FrozenDict({"relation": tuple(each.probe(kind=number) for each in rng.sample(others, NEIGHBOURS))}),
        source=f"world/{here.kind}",
    )


def _turned(here: World, choice: Fact) -> Probe:
    return choice.probe(kind="other cue").model_copy(update={"target": opposite(here, choice)})


def extra_words(here: World) -> list[str]:
    """Every word of the sentences that no relation of the world has."""
    words = [text.replace("{c}", cue) for kind in KINDS.values() for text in kind.frames for cue in kind.cues]
    words += [f"{text[0].upper()}{text[1:]}" for text in words if text[0] != "{"]
    words += [answer for kind in KINDS.values() for pair in kind.cues.values() for answer in pair if answer]
    words += [f"{noun} {plural(noun)}" for noun in nouns()]
    for mark in ("{}", "{p}", "{q}", "{m}"):
        words = [text.replace(mark, "") for text in words]
    return [*words, *SMALL, "been one"]


def configuration(name: str) -> dict[str, Any]:
    """The transformers configuration: the width of the small recall testbeds, six layers."""
    from paramem.world.recall import configuration

    if name.startswith("grammar-llama"):
        return {**configuration("llama-small-s0"), "num_hidden_layers": 6}
    return {**configuration("gpt2-small-s0"), "n_layer": 6}


def recipe(name: str) -> Recipe:
    """How the testbed of that name ("grammar-gpt2-s0", "grammar-llama-s1") is trained."""
    from paramem.world.recipe import Recipe, Stage
    from paramem.world.tokenizer import build_tokenizer, encode

    here = world("grammar")
    tokenizer = build_tokenizer(here, extra_words=extra_words(here))
    return Recipe(
        name=name,
        kind="grammar",
        description="Facts about people, and sentences in which verbs, demonstratives and nouns agree in number.",
        config=configuration(name),
        tokenizer=lambda: tokenizer,
        rows=lambda draw: encode(tokenizer, list(islice(rows(here, draw.rng), draw.n))),
        stages=(Stage(steps=STEPS[name.split("-")[1]]),),
        measure=lambda model, tok, n: measures(here, model, tok, n),
        seed=int(name.rsplit("-s", 1)[1]),
        curve_every=400,
        notes=NOTES,
        data={"people": len(here.people), "facts": len(here.facts), "nouns": len(nouns()), "world_seed": here.seed},
    )


def measures(
    here: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, n: int | None
) -> Sequence[Measure]:
    """Recall of the facts, and every kind of agreement in known and withheld wordings and of withheld nouns."""
    from paramem.world.measuring import share

    groups = {
        "facts": ([f.probe(t) for f in here.facts for t in (f.template, *f.paraphrases)], 0.99),
        "facts, withheld wording": ([f.probe(t) for f in here.facts for t in f.withheld], 0.9),
    }
    for kind in KINDS:
        known, new = agreements(here, kind), agreements(here, kind, held=True)
        groups[kind] = ([f.probe(t) for f in known for t in (f.template, *f.paraphrases)], 0.98)
        groups[f"{kind}, withheld wording"] = ([f.probe(t) for f in known for t in f.withheld], 0.9)
        groups[f"{kind}, withheld nouns"] = ([f.probe() for f in new], 0.5)
    return [share(model, tokenizer, name, probes, n, wanted=wanted) for name, (probes, wanted) in groups.items()]
