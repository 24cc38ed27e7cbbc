"""What a model says with and without a passage, how sure it is, and when it is better to look something up.

    alone = asked(lm, here, beliefs, [belief.context(here, "none", rng) for belief in beliefs])
    alone["refused"].mean()                                                   # how much is beyond the boundary
    looked_up(alone["confidence"], alone["right"], passage["right"], alone["entity"])["right"].mean()

Every answer of the world is one token, so one forward gives what the model says and how probable everything else was.
Three probabilities are kept apart: that of the best object (`confidence`), that of not refusing (`known`, in place of
what kadavath2022know calls P(IK)), and that of the best object among the objects of the question's kind alone
(`choice_confidence`), as in a multiple choice.

Looking up by frequency is mallen2022trust's adaptive retrieval: a passage is fetched where the entity's frequency is
below a threshold, which is chosen on other entities. The same with `confidence` in place of frequency asks the model
itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from paramem.editing.targets import of_like_length
from paramem.errors import BadInput
from paramem.evaluation.intervals import chosen_on_the_other_half
from paramem.fusion.conflicts import Belief, Trial, rules_of, source
from paramem.lm import LM
from paramem.world.read_rules import REFUSAL

if TYPE_CHECKING:
    from paramem.world.core import World

# Where we do something else than the papers say: topic -> (what they say, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "frequency": (
        "page views of an entity, or documents that hold question and answer, counted in what was trained on",
        "statements of a fact in one continued training, of people who differ in nothing else",
        "frequency is then the cause, and nothing that comes with it",
    ),
    "unknown": (
        "what a model answers wrong, or whose answer it rarely samples",
        "what was never stated: all facts of some people, one relation of everybody else",
        "the world is known, so that what was never said is no estimate",
    ),
    "P(IK)": (
        "a head trained to predict whether an answer will be right",
        "one minus the probability of the refusal that the testbed was taught",
        "it was taught to refuse names that it never met, and needs no head",
    ),
    "multiple choice": (
        "a question with lettered options",
        "the probabilities of all objects of the question's kind, made to add up to one",
        "the testbeds read no options",
    ),
    "retriever": (
        "BM25, Contriever or a search engine over documents",
        "a sentence on the very fact, right with a stated probability and otherwise about another object",
        "the quality of retrieval is then a number to be varied",
    ),
}


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens that answers begin with. Raises BadInput where two objects begin alike."""

    lm: LM
    here: World

    @cached_property
    def refusal(self) -> int:
        return self._first(REFUSAL)

    @cached_property
    def objects(self) -> Mapping[str, dict[str, int]]:
        """Attribute -> object -> token."""
        found = {}
        for attribute, things in rules_of(self.here).objects.items():
            found[attribute] = {thing: self._first(thing) for thing in things}
            if len({*found[attribute].values(), self.refusal}) <= len(things):
                raise BadInput(
                    f"two answers to {attribute!r} begin with the same token: their first tokens tell nothing"
                )
        return found

    def _first(self, answer: str) -> int:
        return int(self.lm.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"][0])


def asked(lm: LM, here: World, beliefs: Sequence[Belief], trials: Sequence[Trial]) -> pd.DataFrame:
    """One row for each fact: what is said in its trial, and how probable that and everything else was.

    Columns: entity, attribute; answer, from (memory, context, refusal or neither), refused, right (whether it is the
    fact's own object); known (the probability of not refusing), confidence (that of the best object), chosen_right and
    choice_confidence (the best object, and its probability among objects alone), odds (log odds of the fact's object
    against its rival). Raises BadInput, PromptTooLong.
    """
    if len(beliefs) != len(trials) or not trials:
        raise BadInput(f"{len(beliefs)} facts and {len(trials)} trials: one trial for each fact, and at least one")
    words = Words(lm, here)
    found = _next(lm, [trial.prompt for trial in trials])
    return pd.DataFrame([_answer(words, *each) for each in zip(beliefs, trials, found, strict=True)])


def _answer(words: Words, belief: Belief, trial: Trial, p: NDArray[np.float64]) -> dict[str, object]:
    tokens = words.objects[belief.attribute]
    first, among = int(p.argmax()), p[list(tokens.values())]
    said = {token: thing for thing, token in tokens.items()} | {words.refusal: REFUSAL}
    answer = said.get(first) or str(words.lm.tokenizer.decode([first])).strip()
    return {
        "entity": belief.entity,
        "attribute": belief.attribute,
        "answer": answer,
        "from": source(trial, answer),
        "refused": answer == REFUSAL,
        "right": answer == belief.memory,
        "known": float(1 - p[words.refusal]),
        "confidence": float(among.max()),
        "chosen_right": list(tokens)[int(among.argmax())] == belief.memory,
        "choice_confidence": float(among.max() / among.sum()),
        "odds": float(np.log(p[tokens[belief.memory]]) - np.log(p[tokens[belief.against]])),
    }


def _next(lm: LM, prompts: Sequence[str], *, rows: int = 128) -> Iterator[NDArray[np.float64]]:
    """Probabilities of the token after each prompt; prompts of like length go through the model together."""
    parts = list(of_like_length([len(prompt) for prompt in prompts], rows))
    found: list[Tensor] = [lm.next_logprobs([prompts[i] for i in part]) for part in parts]
    order = torch.tensor([i for part in parts for i in part])
    yield from torch.cat(found)[order.argsort()].double().exp().numpy()


def looked_up(
    score: ArrayLike, alone: ArrayLike, with_passage: ArrayLike, people: ArrayLike, *, thresholds: int = 20
) -> pd.DataFrame:
    """Answers where a passage is fetched for scores up to a threshold, chosen on the other half of the people.

    score, alone, with_passage, people [n]: by fact what is compared with the threshold, whether it is answered right
    without and with a passage, and whose it is. Columns: right, fetched. Never and always are among the choices.
    """
    s, without, with_, whose = (np.asarray(x) for x in (score, alone, with_passage, people))
    if not len(s) == len(without) == len(with_) == len(whose):
        raise BadInput("score, alone, with_passage and people have different lengths: one of each for every fact")
    inner = np.unique(np.quantile(s.astype(float), np.linspace(0, 1, thresholds), method="lower"))
    limits = np.array([-np.inf, *inner])
    fetch = s[:, None] <= limits  # [n, choices]
    right = np.where(fetch, with_[:, None], without[:, None]).astype(float)
    names, number = np.unique(whose, return_inverse=True)
    by_person = np.stack([right[number == i].mean(0) for i in range(len(names))])
    chosen = chosen_on_the_other_half(by_person)[number]
    rows = np.arange(len(s))
    return pd.DataFrame({"right": right[rows, chosen], "fetched": fetch[rows, chosen]})
