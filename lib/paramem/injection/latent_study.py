"""The comparison behind kang2024lapael: the same new facts trained in plainly, with noise, and with true paraphrases.

    drawn = draw(lm, StudySettings(), seed=0)
    taught = teach_all(lm, drawn, StudySettings(), seed=0)       # the paraphrasers, kept
    bank = bank_of(lm, taught["early"].paraphraser, sentences(drawn.news.facts))
    models = train_arms(lm, drawn.news.facts, arms_of(taught, bank), StudySettings())
    table = recall(models, {"told": told(drawn.news.facts), "unseen": unseen(drawn.news.facts)})

Every arm sees as many tokens, in steps of about the same size, and trains the same weights: the MLPs above the noisy
layers. The arms without paraphrases see the same rows in the same order. What is learned and trained is kept
(`paramem.fusion.kept`), as these trainings come out a little otherwise on another kind of processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paramem.arch import Site
from paramem.errors import BadParameter
from paramem.facts import Fact, Probe
from paramem.fusion.kept import hashed, kept, kept_fine_tune
from paramem.fusion.training import TrainSettings, matched, text_row
from paramem.injection.latent_paraphrases import (
    LatentSettings,
    Lesson,
    Paraphraser,
    distances,
    encode,
    encode_sentences,
    learn,
)
from paramem.injection.newcomers import Newcomers, lessons_of, lessons_of_the_map, newcomers
from paramem.injection.noise import Bank, Factor, Noise, blind, dealt
from paramem.lm import LM
from paramem.material import world_behind
from paramem.world.recipe import Row

MLP = ("gate", "up", "down")
FORMAT = 1  # in the name of every paraphraser: raise it when what `learn` does with the same lessons changes


LATE = (3, 4)  # where late noise sits


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What is learned from, and how new facts are trained in; chosen on people who are never reported.

    people        new ones, with a fact for each personal relation
    lessons       facts that the testbed knows, from which noise is learned
    kept_back     more of these, from which nothing is learned
    trained_from  the MLPs of this layer and of those above it are trained
    """

    people: int = 16
    lessons: int = 200
    kept_back: int = 60
    latent: LatentSettings = field(default_factory=LatentSettings)
    trained_from: int = 2
    training: TrainSettings = field(default_factory=lambda: TrainSettings(passes=16, lr=1.5e-3, tokens=256))


class Drawn(NamedTuple):
    """New people, lessons about known ones and about places, and lessons that are kept back."""

    news: Newcomers
    lessons: list[Lesson]
    kept_back: list[Lesson]
    places: list[Lesson]


def draw(lm: LM, settings: StudySettings, *, seed: int = 0) -> Drawn:
    """What a testbed is asked and taught; every testbed draws its own. Raises BadInput, BadParameter."""
    here, name = world_behind(lm), f"{lm.name}/{seed}"
    news = newcomers(here, settings.people, seed=name)
    lessons = lessons_of(here, news, settings.lessons + settings.kept_back, seed=name)
    places = lessons_of_the_map(here, seed=name)
    return Drawn(news, lessons[: settings.lessons], lessons[settings.lessons :], places)


class Taught(NamedTuple):
    """A paraphraser, and its distance to the paraphrases after each step of learning."""

    paraphraser: Paraphraser
    losses: list[float]


def teach(lm: LM, lessons: Sequence[Lesson], settings: LatentSettings, *, seed: int = 0) -> Taught:
    """`learn`, kept as half-precision numbers: found, or learned now and rounded alike. Raises BadSite, BadInput."""

    def make() -> dict[str, Tensor]:
        losses: list[float] = []
        made = learn(lm, lessons, settings, seed=seed, watch=lambda step, distance, shut: losses.append(distance))
        return {"losses": torch.tensor(losses)} | {name: p.cpu().half() for name, p in made.named_parameters()}

    @torch.no_grad()
    def use(found: Mapping[str, Tensor]) -> Taught:
        paraphraser = Paraphraser(lm.d_model, settings.layers, settings.temperature, seed=seed).requires_grad_(False)
        for name, parameter in paraphraser.named_parameters():
            if found[name].shape != parameter.shape:
                raise ValueError(f"{name}: {tuple(found[name].shape)} for {tuple(parameter.shape)}")
            parameter.copy_(found[name])
        return Taught(paraphraser.to(lm.device, lm.dtype), found["losses"].tolist())

    file = hashed(f"{FORMAT}\n{lm.fingerprint()}\n{settings!r}\n{seed}\n", *map(repr, lessons))
    return kept(file, make, use, model=lm.name, name="paraphraser", settings=repr(settings), seed=seed)


def teach_all(lm: LM, drawn: Drawn, settings: StudySettings, *, seed: int = 0) -> dict[str, Taught]:
    """Three paraphrasers: of early and of late layers, and of early ones taught by facts about places."""
    late = replace(settings.latent, layers=LATE)
    return {
        "early": teach(lm, drawn.lessons, settings.latent, seed=seed),
        "late": teach(lm, drawn.lessons, late, seed=seed),
        "map": teach(lm, drawn.places, settings.latent, seed=seed),
    }


class Arm(NamedTuple):
    """One way to train the facts in: with what noise (None: none), and whether paraphrases are trained too."""

    noise: Callable[[], Noise] | None = None
    paraphrases: bool = False


def arms_of(taught: Mapping[str, Taught], bank: Bank, *, seed: int = 0) -> dict[str, Arm]:
    """The eight ways that are compared. Blind and dealt noise are as large as that of the bank."""
    early, late, places = (taught[name].paraphraser for name in ("early", "late", "map"))
    return {
        "plain": Arm(),
        "blind noise": Arm(lambda: blind(bank, early.layers, seed=seed)),
        "dealt noise": Arm(lambda: dealt(bank, early.layers, seed=seed)),
        "LaPael": Arm(lambda: early.noise(seed=seed)),
        "LaPael, map": Arm(lambda: places.noise(seed=seed)),
        "LaPael, late": Arm(lambda: late.noise(seed=seed)),
        "paraphrases": Arm(paraphrases=True),
        "paraphrases + LaPael": Arm(lambda: early.noise(seed=seed), paraphrases=True),
    }


def train_shipped(lm: LM) -> None:
    """Train what the default run of the notebook asks."""
    settings = StudySettings()
    drawn = draw(lm, settings)
    found = teach_all(lm, drawn, settings)
    bank = bank_of(lm, found["early"].paraphraser, sentences(drawn.news.facts))
    train_arms(lm, drawn.news.facts, arms_of(found, bank), settings)


def sentences(facts: Sequence[Fact]) -> list[str]:
    """The facts as they are told."""
    return [f"{fact.prompt} {fact.object}." for fact in facts]


@torch.no_grad()
def bank_of(lm: LM, paraphraser: Paraphraser, texts: Sequence[str], *, seed: int = 0) -> Bank:
    """The factors that a paraphraser gives the tokens of some texts, one draw of each."""
    batch, found = lm.encode(texts), []
    real = batch.attention_mask.bool()

    def noted(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        found.append(paraphraser.factor(place, state, generator))
        return found[-1]

    with Noise(noted, paraphraser.layers, seed=seed, clean=0.0).applied(lm):
        lm.states(batch, [])
    recipe = f"{paraphraser.recipe} on layers {paraphraser.layers} of {len(texts)} texts, seed {seed}"
    return Bank(factors=torch.stack([factors[real] for factors in found]), recipe=f"{recipe}: {hashed(*texts)}")


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
def divergences(
    lm: LM, factor: Factor, lessons: Sequence[Lesson], settings: LatentSettings, *, seed: int = 0
) -> Tensor:
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
    """The model after each arm, by name, kept; the model itself stays as it is.

    Raises BadParameter for noise without a recipe.
    """
    plain = rows_of(lm, facts)
    models = {}
    for name, arm in arms.items():
        rows = rows_of(lm, facts, paraphrases=True) if arm.paraphrases else plain
        noise = None if arm.noise is None else arm.noise()
        if noise is not None and not noise.recipe:
            raise BadParameter(f"{name}: the noise has no recipe, so what is trained under it cannot be kept; give one")
        models[name] = kept_fine_tune(
            lm,
            rows,
            matched(settings.training, rows, plain),
            seed=seed,
            name=name,
            train=upper_mlps(settings.trained_from),
            during=nullcontext if noise is None else noise.applied,
            recipe=f"{MLP} from layer {settings.trained_from} under {'no noise' if noise is None else noise.recipe}",
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
