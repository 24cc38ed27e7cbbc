"""New people trained into a finished model that answers questions already (allenzhu2023extraction).

    people = newcomers(world("read"), 16, seed=0)
    after = injected(lm, people, "all three", seed=0)
    stored(after, people, "all three", seed=0), answered(after, people)

The model was taught facts and questions about its own people together. Of the newcomers it reads texts alone, in one of
the tellings, always as many tokens, and is then asked without further training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from paramem.errors import BadParameter
from paramem.fusion.kept import kept_fine_tune
from paramem.fusion.training import TrainSettings, matched, text_row
from paramem.injection import reversal
from paramem.injection.biographies import TELLINGS, People, biographies, draw_people, told
from paramem.lm import LM
from paramem.material import world_behind
from paramem.world.read_rules import Rules
from paramem.world.recipe import Row

if TYPE_CHECKING:
    from paramem.world.core import World

PEOPLE = 16  # newcomers of a draw
INJECTED = TrainSettings(passes=40, lr=2e-3)  # of one text about everybody; chosen on a draw that is never reported


def newcomers(here: World, n: int, seed: int) -> People:
    """People by names that the testbed met in no text."""
    return draw_people(here, n, seed, names=Rules(here).new_strangers)


def corpus(lm: LM, people: People, telling: str, seed: int) -> list[Row]:
    """Every text about everybody. Raises BadParameter for a telling with pronouns, which no testbed has read."""
    if telling not in TELLINGS or not TELLINGS[telling].full_names:
        raise BadParameter(f"telling={telling!r}: the testbeds read names, so take one of {list(named())}")
    return [text_row(lm, text) for texts in biographies(people, TELLINGS[telling], seed) for text in texts]


def named() -> tuple[str, ...]:
    """The tellings in which each sentence names the person."""
    return tuple(name for name, telling in TELLINGS.items() if telling.full_names)


def injected(lm: LM, people: People, telling: str, *, seed: int, settings: TrainSettings = INJECTED) -> LM:
    """The model after continued training on the texts: as many tokens for every telling."""
    rows, one = corpus(lm, people, telling, seed), corpus(lm, people, "full names", seed)
    return kept_fine_tune(lm, rows, matched(settings, rows, one), seed=seed, name=telling)


def stored(lm: LM, people: People, telling: str, *, seed: int) -> NDArray[np.bool_]:
    """``[people * relations]``: whether the model says the object behind all that its first text says before it."""
    prompts, objects = [], []
    for person in people.names:
        before = ""
        for relation, sentence in zip(people.relations, told(people, person, TELLINGS[telling], seed)[0], strict=True):
            thing = people.values[person][relation.id]
            prompts.append(f"{before}{sentence.removesuffix(f' {thing}.')}")
            objects.append(thing)
            before += f"{sentence} "
    exact: NDArray[np.bool_] = lm.score(prompts, objects, batch_size=64).exact.cpu().numpy()
    return exact


def answered(lm: LM, people: People) -> NDArray[np.bool_]:
    """``[questions]``: whether the model says the answer, in the order of `People.questions` about everybody."""
    questions, answers = zip(*people.questions(people.names), strict=True)
    exact: NDArray[np.bool_] = lm.score(list(questions), list(answers), batch_size=64).exact.cpu().numpy()
    return exact


def train_shipped(lm: LM) -> None:
    """Train all models that the notebook on continued training asks of draw 0."""
    here = world_behind(lm)
    people = newcomers(here, PEOPLE, 0)
    for telling in named():
        injected(lm, people, telling, seed=0)
    reversal.taught(lm, reversal.draw_identities(here, 0), seed=0)
