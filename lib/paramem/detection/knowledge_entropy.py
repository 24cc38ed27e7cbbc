r"""Knowledge entropy: over how many of its memories a model spreads (kim2024entropy).

1. ``text_coefficients``: how strongly each memory answers a text, averaged over its tokens; ``average`` over texts;
2. ``entropy``: of the averages, as a distribution over the memories of a layer (equation 2);
3. ``continual_learning``: train a checkpoint on facts that it was never told; what it takes up (equation 4) and what
   it loses of the old ones (equation 5);
4. ``resuscitate``: scale the keys of the least active memories up (algorithm 1).

==============  =====================  =====================================================
paper           code                   shape
==============  =====================  =====================================================
C_{n,j}         state ``mlp_hidden``   (texts, tokens, memories), absolute value
C-bar^l         ``average``            (layers, memories)
H(theta^l)      ``entropy``            (layers,), nats
A(theta)        ``acquisition``        relative rise of the new facts' log-probability
F(theta)        ``forgetting``         relative fall of the old facts' accuracy
p, q, u         ``share, factor, u``   (layers, memories) for u, 1 where a key stays
==============  =====================  =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.detection.neurons import at_a_time
from paramem.detection.tuning import TuneSettings, tune
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact, Probe, fill
from paramem.interventions import Dense, WeightDelta
from paramem.models import LM

DEPARTURES = {
    "corpus": (
        "new facts are slipped into a new corpus (PubMed abstracts)",
        "the statements of the new facts are the whole of the new corpus",
        "a world has no second corpus; what is forgotten is therefore forgotten for the new facts alone",
    ),
    "old knowledge": (
        "accuracy on six downstream tasks",
        "the share of old facts completed exactly",
        "the testbeds know facts and solve no tasks",
    ),
    "sign of acquisition": (
        "the change of the mean log-probability is divided by its value before, which is negative",
        "it is divided by the absolute value before",
        "as printed, equation 4 makes an improvement negative; the figures show improvements as positive",
    ),
    "activation function": (
        "in gated layers a coefficient is proportional to its key, so scaling brings it to q times the mean",
        "the keys are scaled by the same rule where there is no gate, and the function turns the scaled product",
        "half of the testbeds have GELU layers; there the coefficients come near the mean, not onto it",
    ),
    "biases": (
        "only the up projection's matrix is scaled; the models have no biases",
        "the key's bias is scaled with it, where there is one",
        "the coefficient before the activation function is then scaled by exactly u",
    ),
}


@dataclass(frozen=True, kw_only=True)
class EntropySettings:
    """coefficient: the magnitude of a coefficient, or its positive part. rows: most texts in one forward."""

    coefficient: Literal["absolute", "positive"] = "absolute"
    rows: int = 64

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise BadParameter(f"rows={self.rows}: at least one text goes through the model at once")


@torch.no_grad()
def text_coefficients(lm: LM, texts: Sequence[str], settings: EntropySettings | None = None) -> Tensor:
    """1/T_n sum_j C_{n,j}: each text's coefficients averaged over its tokens (texts, layers, memories), float64.

    The start token is no part of the text. Raises BadInput without texts, PromptTooLong.
    """
    settings = settings or EntropySettings()
    if not texts:
        raise BadInput("no texts: the entropy is an average over at least one")
    sites = [Site("mlp_hidden", layer) for layer in range(lm.n_layers)]
    every, parts = lm.encode(list(texts)), []
    for index in at_a_time(lm, every, settings.rows):
        batch = every.rows(index)
        real = batch.attention_mask.double()
        if int(batch.input_ids[0, 0]) in lm.tokenizer.all_special_ids:
            real[:, 0] = 0
        weight = (real / real.sum(1, keepdim=True))[:, None]  # [texts, 1, tokens]
        states = lm.states(batch, sites)
        size = [_magnitude(states[site], settings.coefficient).double() for site in sites]
        parts.append(torch.stack([(weight @ each)[:, 0] for each in size], 1))
    return torch.cat(parts)


def _magnitude(state: Tensor, kind: str) -> Tensor:
    return state.abs() if kind == "absolute" else state.clamp(min=0)


def entropy(average: Tensor) -> Tensor:
    """H(theta^l) = - sum_i prob_i log prob_i, prob = average / its sum: (..., memories) to (...)."""
    prob = average / average.sum(-1, keepdim=True)  # Eq. (2)
    terms: Tensor = torch.special.entr(prob)
    return terms.sum(-1)


def knowledge_entropy(lm: LM, texts: Sequence[str], settings: EntropySettings | None = None) -> pd.DataFrame:
    """One row per layer: entropy (nats) and ``effective``, the share of memories of a uniform use with that entropy.

    H(theta) is the sum of the column ``entropy``.
    """
    found = entropy(text_coefficients(lm, texts, settings).mean(0)).cpu().numpy()
    return pd.DataFrame({"layer": range(lm.n_layers), "entropy": found, "effective": np.exp(found) / lm.d_mlp})


def resampled_entropy(coefficients: Tensor, generator: np.random.Generator, *, resamples: int = 200) -> np.ndarray:
    """H(theta) of bootstrap samples of the texts, (resamples,); the same generator state gives the same samples."""
    n = len(coefficients)
    drawn = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = torch.from_numpy(drawn / n).to(coefficients)
    return entropy(torch.einsum("rn,nlm->rlm", weights, coefficients)).sum(1).cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class ResuscitationSettings:
    """share: of the memories of a layer, the least active, whose keys are scaled (the paper's p, as a share).

    factor: q. which: the least active memories; or the control, which deals their multipliers out to random ones of the
        others (to as many as there are others, where these are fewer).
    """

    share: float = 0.5
    factor: float = 1.0
    which: Literal["inactive", "random"] = "inactive"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.factor <= 0:
            raise BadParameter(f"share={self.share}, factor={self.factor}: a share in (0, 1] and a positive factor")


def multipliers(average: Tensor, settings: ResuscitationSettings) -> Tensor:
    """u for one layer's memories (memories,): mean / own average x q for the least active, 1 for the others.

    Raises BadInput where a memory to be raised is never active at all.
    """
    u = torch.ones_like(average)
    low = average <= average.quantile(settings.share)
    if bool((average[low] == 0).any()):
        raise BadInput(f"{int((average[low] == 0).sum())} memories are never active: no factor can raise them")
    u[low] = average.mean() / average[low] * settings.factor  # Algorithm 1, steps 3 to 5
    if settings.which == "inactive":
        return u
    generator = torch.Generator().manual_seed(settings.seed)
    raised, active = (places[torch.randperm(len(places), generator=generator).to(u.device)] for places in _split(low))
    n = min(len(raised), len(active))
    control = torch.ones_like(u)
    control[active[:n]] = u[raised[:n]]
    return control


def _split(low: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the memories that are low and of the others."""
    return low.nonzero()[:, 0], (~low).nonzero()[:, 0]


def resuscitate(lm: LM, average: Tensor, settings: ResuscitationSettings | None = None) -> WeightDelta:
    """Scale the keys (rows of the up projection) by their multipliers; average: (layers, memories)."""
    settings = settings or ResuscitationSettings()
    parts = {}
    for layer in range(lm.n_layers):
        name, weight, transposed = lm.weight(layer, "up")
        extra = (multipliers(average[layer], settings) - 1).to(weight)
        parts[name] = Dense((weight * (extra if transposed else extra[:, None])).detach())
        bias = getattr(lm.arch.linear(layer, "up"), "bias", None)
        if bias is not None:
            parts[name.removesuffix("weight") + "bias"] = Dense((bias * extra).detach())
    return WeightDelta(parts)


@dataclass(frozen=True, kw_only=True)
class LearningSettings:
    """Continual learning of new facts: every fact in ``wordings`` of its templates, ``epochs`` times.

    The learning rate peaks where pre-training's did (2e-3 for the testbeds), warm-up and decay are linear.
    """

    wordings: int = 4
    epochs: int = 2
    batch: int = 32
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.wordings, self.epochs, self.batch) < 1:
            raise BadParameter(f"wordings={self.wordings}, epochs={self.epochs}, batch={self.batch}: at least 1 each")


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """What continual learning did.

    new: one row per new fact: fact, subject, ``before`` and ``after``, its object's mean log-probability over probes.
    old: one row per old fact: fact, subject, ``before`` and ``after``, whether it is completed exactly.
    """

    new: pd.DataFrame
    old: pd.DataFrame

    @property
    def acquisition(self) -> float:
        """A(theta), relative rise of the mean log-probability of new facts."""
        before, after = self.new["before"].mean(), self.new["after"].mean()
        return float((after - before) / abs(before))  # Eq. (4), see DEPARTURES

    @property
    def forgetting(self) -> float:
        """F(theta), relative fall of the share of old facts that are completed."""
        before, after = self.old["before"].mean(), self.old["after"].mean()
        if before == 0:
            raise BadInput("no old fact was known before: nothing can be forgotten")
        return float((before - after) / before)  # Eq. (5)

    def resampled(self, generator: np.random.Generator, *, resamples: int = 2000) -> pd.DataFrame:
        """Both rates for bootstrap samples of the subjects, each with all its facts: columns acquisition, forgetting.

        ``log_p_new_after`` is the new facts' mean log-probability in the same samples. Two models asked the same facts
        get the same samples from generators of the same seed, so their rates can be compared sample by sample.
        """
        rates = {}
        for name, table in (("acquisition", self.new), ("forgetting", self.old)):
            groups = table.groupby("subject", sort=False)[["before", "after"]]
            sums, sizes = groups.sum().to_numpy(float), groups.size().to_numpy(float)
            drawn = generator.integers(0, len(sums), size=(resamples, len(sums)))
            means = sums[drawn].sum(1) / sizes[drawn].sum(1)[:, None]
            change = (means[:, 1] - means[:, 0]) / np.maximum(np.abs(means[:, 0]), 1e-12)
            rates[name] = change if name == "acquisition" else -change
            if name == "acquisition":
                rates["log_p_new_after"] = means[:, 1]
        return pd.DataFrame(rates)


@dataclass(frozen=True, kw_only=True, eq=False)
class Orders:
    """The same learning several times, each time with another order of the texts."""

    runs: tuple[Learned, ...]

    @property
    def acquisition(self) -> float:
        """A(theta), mean over the orders."""
        return float(np.mean([run.acquisition for run in self.runs]))

    @property
    def forgetting(self) -> float:
        """F(theta), mean over the orders."""
        return float(np.mean([run.forgetting for run in self.runs]))

    def mean(self, table: Literal["new", "old"], column: Literal["before", "after"]) -> float:
        """Mean of a column over facts and orders."""
        return float(np.mean([getattr(run, table)[column].mean() for run in self.runs]))

    def resampled(self, generator: np.random.Generator, *, resamples: int = 2000) -> pd.DataFrame:
        """`Learned.resampled` for samples of the subjects and of the orders, rates averaged over the orders drawn.

        Subjects are drawn alike in every order. Two models that learned the same facts in the same orders get the same
        samples from generators of the same seed, so the comparison is paired by order and by subject.
        """
        seed = int(generator.integers(2**62))
        tables = [run.resampled(np.random.default_rng(seed), resamples=resamples) for run in self.runs]
        drawn = generator.integers(0, len(tables), size=(len(tables), resamples))
        values = np.stack([table.to_numpy() for table in tables])  # (orders, resamples, rates)
        return pd.DataFrame(values[drawn, np.arange(resamples)].mean(0), columns=tables[0].columns)


def learning_orders(
    lm: LM, new: Sequence[Fact], old: Sequence[Fact], settings: LearningSettings | None = None, *, orders: int = 3
) -> Orders:
    """`continual_learning` with ``orders`` seeds, from that of the settings on. Raises BadParameter for none."""
    settings = settings or LearningSettings()
    if orders < 1:
        raise BadParameter(f"orders={orders}: at least one order of the texts")
    seeds = range(settings.seed, settings.seed + orders)
    return Orders(runs=tuple(continual_learning(lm, new, old, replace(settings, seed=seed)) for seed in seeds))


def continual_learning(
    lm: LM, new: Sequence[Fact], old: Sequence[Fact], settings: LearningSettings | None = None
) -> Learned:
    """Train a copy of the weights on the new facts' statements and measure both kinds of fact before and after.

    New facts are probed in every template, those of the statements and the others. The model is as before on return.
    """
    settings = settings or LearningSettings()
    texts = [f"{fill(form, f.subject)} {f.object}." for f in new for form in _forms(f)[: settings.wordings]]
    steps = max(1, settings.epochs * len(texts) // settings.batch)
    training = TuneSettings(steps=steps, lr=settings.lr, batch=settings.batch, weight_decay=0.1, seed=settings.seed)
    probes = [f.probe(form) for f in new for form in _forms(f)]
    owner = [f.id for f in new for _ in _forms(f)]

    def measured() -> tuple[pd.Series, list[bool]]:
        return _logprobs(lm, probes).groupby(owner, sort=False).mean(), _exact(lm, [f.probe() for f in old])

    before, known = measured()
    with tune(lm, lm.encode(texts), training).applied(lm):
        after, kept = measured()
    return Learned(
        new=_table(new, before.to_numpy(), after.to_numpy()),
        old=_table(old, known, kept),
    )


def _table(
    facts: Sequence[Fact], before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray
) -> pd.DataFrame:
    names = {"fact": [f.id for f in facts], "subject": [f.subject for f in facts]}
    return pd.DataFrame({**names, "before": before, "after": after})


def _forms(fact: Fact) -> tuple[str, ...]:
    return (fact.template, *fact.paraphrases, *fact.withheld)


def _logprobs(lm: LM, probes: Sequence[Probe]) -> pd.Series:
    scores = lm.score([p.prompt for p in probes], [p.target for p in probes], batch_size=256)
    return pd.Series(scores.logprob.double().cpu().numpy())


def _exact(lm: LM, probes: Sequence[Probe]) -> list[bool]:
    found: list[bool] = lm.score([p.prompt for p in probes], [p.target for p in probes], batch_size=256).exact.tolist()
    return found
