"""The comparison behind kang2024lapael: the same new facts trained in plainly, with noise, and with true paraphrases.

    models = train_arms(lm, news, noises, StudySettings(), seed=0)
    table = recall(models, {"told": told(news), "unseen": unseen(news), "old": old})

Every arm sees as many tokens, in steps of about the same size, and trains the same weights: the MLPs above the noisy
layers. The arms without paraphrases see the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paramem.arch import Site
from paramem.errors import BadParameter
from paramem.facts import Fact, Probe
from paramem.fusion.training import TrainSettings, fine_tune, matched, text_row
from paramem.injection.latent_paraphrases import (
    LatentSettings,
    Lesson,
    Paraphraser,
    distances,
    encode,
    encode_sentences,
)
from paramem.injection.noise import Factor, Noise
from paramem.lm import LM
from paramem.world.recipe import Row

MLP = ("gate", "up", "down")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How new facts are trained in; chosen on people who are never reported.

    trained_from  the MLPs of this layer and of those above it are trained
    """

    trained_from: int = 2
    training: TrainSettings = field(default_factory=lambda: TrainSettings(passes=16, lr=1.5e-3, tokens=256))


class Arm(NamedTuple):
    """One way to train the facts in: with what noise (None: none), and whether paraphrases are trained too."""

    noise: Callable[[], Noise] | None = None
    paraphrases: bool = False


@torch.no_grad()
def bank_of(lm: LM, paraphraser: Paraphraser, texts: Sequence[str], *, seed: int = 0) -> Tensor:
    """The factors [L, N, d] that a paraphraser gives the N tokens of some texts, one draw of each."""
    batch, found = lm.encode(texts), []
    real = batch.attention_mask.bool()

    def kept(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        found.append(paraphraser.factor(place, state, generator))
        return found[-1]

    with Noise(kept, paraphraser.layers, generator=torch.Generator().manual_seed(seed), clean=0.0).applied(lm):
        lm.states(batch, [])
    return torch.stack([factors[real] for factors in found])


@torch.no_grad()
def masks(lm: LM, paraphraser: Paraphraser, facts: Sequence[Fact]) -> pd.DataFrame:
    """The probability of the mask at every token of the facts' sentences: one row for each layer, sentence and token.

    part: whether the token is of a "name" (subject or object) or "other". No noise acts on layers below.
    """
    batch, names = encode_sentences(lm, [Lesson(fact.prompt, fact.object, fact.subject, ()) for fact in facts])
    rows, columns = batch.attention_mask.nonzero(as_tuple=True)
    ids = batch.input_ids[rows, columns].tolist()
    sites = [Site("mlp_in", layer) for layer in paraphraser.layers]
    states = lm.states(batch, sites)
    tokens = {
        "sentence": [facts[row].id for row in rows.tolist()],
        "token": [str(lm.tokenizer.decode([i])).strip() for i in ids],
        "part": ["name" if named else "other" for named in names[rows, columns].tolist()],
    }
    open_ = [torch.sigmoid(paraphraser[place].s(states[site][rows, columns]))[:, 0] for place, site in enumerate(sites)]
    parts = [
        pd.DataFrame({**tokens, "layer": site.layer, "mask": p.tolist()}) for site, p in zip(sites, open_, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


@torch.no_grad()
def apart(lm: LM, factor: Factor, lessons: Sequence[Lesson], settings: LatentSettings, *, seed: int = 0) -> Tensor:
    """How far each sentence [F] is from its paraphrases under some noise, averaged over the layers compared."""
    task = encode(lm, lessons, settings)
    return distances(lm, factor, task, settings, torch.Generator().manual_seed(seed)).mean(1)


def rows_of(lm: LM, facts: Sequence[Fact], *, paraphrases: bool = False) -> list[Row]:
    """Each fact as a sentence of its own in the wording it is told in, and in its paraphrases."""
    return [
        text_row(lm, f"{fact.probe(wording).prompt} {fact.object}.")
        for fact in facts
        for wording in (fact.template, *(fact.paraphrases if paraphrases else ()))
    ]


def upper_mlps(start: int) -> Callable[[LM], list[nn.Parameter]]:
    """Picks the weight matrices of the MLPs of layer ``start`` and of those above it."""

    def pick(lm: LM) -> list[nn.Parameter]:
        if not 0 <= start < lm.n_layers:
            raise BadParameter(f"trained_from={start}: {lm.name} has layers 0..{lm.n_layers - 1}")
        roles = [role for role in MLP if role in lm.arch.layout.weights]
        return [lm.weight(layer, role).parameter for layer in range(start, lm.n_layers) for role in roles]

    return pick


def train_arms(
    lm: LM, facts: Sequence[Fact], arms: Mapping[str, Arm], settings: StudySettings, *, seed: int = 0
) -> dict[str, LM]:
    """The model after each arm, by name; the model itself stays as it is."""
    plain = rows_of(lm, facts)
    models = {}
    for name, arm in arms.items():
        rows = rows_of(lm, facts, paraphrases=True) if arm.paraphrases else plain
        models[name] = fine_tune(
            lm,
            rows,
            matched(settings.training, rows, plain),
            seed=seed,
            name=name,
            train=upper_mlps(settings.trained_from),
            during=nullcontext if arm.noise is None else arm.noise().applied,
        )
    return models


def told(facts: Sequence[Fact]) -> list[Probe]:
    """The facts in the wording that they were trained in."""
    return [fact.probe(kind=fact.id) for fact in facts]


def unseen(facts: Sequence[Fact]) -> list[Probe]:
    """The facts in every wording that was kept for asking."""
    return [fact.probe(wording, kind=fact.id) for fact in facts for wording in fact.withheld]


def recall(models: Mapping[str, LM], questions: Mapping[str, Sequence[Probe]]) -> pd.DataFrame:
    """One row for every arm, kind of question and fact: the share of its wordings that are answered, every token of the
    object the likeliest, and the log-probability of the object."""
    parts = []
    for arm, lm in models.items():
        for kind, probes in questions.items():
            scores = lm.score([probe.prompt for probe in probes], [probe.target for probe in probes], batch_size=256)
            found = pd.DataFrame(
                {
                    "fact": [probe.kind for probe in probes],
                    "exact": scores.exact.double().tolist(),
                    "logprob": scores.logprob.tolist(),
                }
            )
            parts.append(found.groupby("fact", sort=False).mean().reset_index().assign(arm=arm, asked=kind))
    return pd.concat(parts, ignore_index=True)


def of(table: pd.DataFrame, arm: str, asked: str = "unseen", column: str = "exact") -> NDArray[np.float64]:
    """A column of an arm, fact by fact in a fixed order, so that two arms can be paired."""
    return table[(table["arm"] == arm) & (table["asked"] == asked)][column].to_numpy(dtype=np.float64)
