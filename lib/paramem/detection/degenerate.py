r"""Language-independent and degenerate knowledge neurons (chen2023journey).

1. ``shared_across_languages``  the knowledge neurons that a fact has in every language that states it
2. ``suppressed_sets``          p(answer) of one prompt with each of many sets of neurons at zero
3. ``pair_drops``               what the neurons of a pair do alone, and what they do together
4. ``degenerate_neurons``       pairs of which either neuron is dispensable and both are not

==========================  ===================  =============================================================
paper                       code                 what
==========================  ===================  =============================================================
knowledge neurons of l      ``neuron_sets``      refined neurons of the fact in language l
language-independent        ``shared_across_languages``  their intersection over languages
degenerate pair (A, B)      ``degenerate``       drop(A), drop(B) < ``low`` and drop(A and B) > ``high``
drop                        ``pair_drops``       1 - p(answer | suppressed) / p(answer)
==========================  ===================  =============================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import pandas as pd
import torch
from torch import Tensor

from paramem.detection.knowledge_neurons import KnowledgeNeuronSettings, item_of, neuron_sets, shared_neurons
from paramem.detection.neurons import Asked, Neuron, require_known, row_patches
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.last_token import LastToken, last_token
from paramem.models import LM

DEPARTURES = {
    "baseline": (
        "integrated gradients start from a vector made for the architecture (a masked, or an uninformative, sentence)",
        "they start from zero activations, as those of dai2021neurons do",
        "so that these neurons and the knowledge neurons of the other notebook are the same kind of thing",
    ),
    "thresholds": (
        "a pair counts when suppressing either neuron leaves the probability about where it was and both lower it",
        "either lowers it by less than `low`, both by more than `high`, relative to its value: 0.2 and 0.25",
        "these are the defaults of the authors' released code",
    ),
    "fact checking": (
        "attributions of degenerate neurons are used to tell true statements from false ones",
        "left out: what is looked at is what suppressing the neurons does to the answer",
        "it needs thresholds that are tuned on part of the statements, and says little about the neurons themselves",
    ),
}


@dataclass(frozen=True, kw_only=True)
class DegenerateSettings:
    """neurons: how candidates are found; more of them than dai2021neurons keeps, so that there are pairs. candidates:
    most neurons of a fact that are paired. low, high: relative falls of p(answer) that one neuron of a pair stays
    below and both exceed."""

    neurons: KnowledgeNeuronSettings = field(
        default_factory=lambda: KnowledgeNeuronSettings(sharing=0.3, fewest=2.0, most=20.0)
    )
    candidates: int = 20
    low: float = 0.2
    high: float = 0.25
    rows: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < 1:
            raise BadParameter(f"low={self.low}, high={self.high}: 0 < low <= high < 1")
        if self.candidates < 2 or self.rows < 1:
            raise BadParameter(f"candidates={self.candidates}, rows={self.rows}: at least two neurons and one row")


def across_languages(facts: Sequence[Fact], languages: Sequence[str] = ("en", "es")) -> list[tuple[Fact, ...]]:
    """Facts that are stated in all the languages, one version each, in the languages' order.

    The id of a version in another language than the first ends with its name ("born_in/ada-lovelace/es").
    """
    versions: dict[str, dict[str, Fact]] = {}
    for fact in facts:
        versions.setdefault(fact.id.removesuffix(f"/{fact.language}"), {})[fact.language] = fact
    found = [tuple(each[name] for name in languages) for each in versions.values() if set(languages) <= each.keys()]
    if not found:
        raise BadInput(
            f"none of {len(facts)} facts is stated in {' and '.join(languages)}: give both versions of facts"
        )
    return found


def shared_across_languages(sets: Sequence[Iterable[Neuron]]) -> list[Neuron]:
    """The neurons in every one of a fact's sets, in the order of the first."""
    rest = [set(each) for each in sets[1:]]
    return [neuron for neuron in sets[0] if all(neuron in each for each in rest)]


@torch.no_grad()
def suppressed_sets(lm: LM, asked: Asked, sets: Sequence[Sequence[Neuron]], *, rows: int = 4096) -> Tensor:
    """p(answer) of one prompt with each set of neurons at zero at its last token, (sets,).

    The tokens before the last one are read once for all sets. Raises BadInput for several prompts.
    """
    if len(asked) != 1:
        raise BadInput(f"{len(asked)} prompts: give one, with as many sets of neurons as you like")
    there, rows = last_token(lm, asked.batch), lm.fitting_rows(rows, 1)
    parts = [_suppressed(lm, there, int(asked.answers[0]), sets[i : i + rows]) for i in range(0, len(sets), rows)]
    return torch.cat(parts)


def _suppressed(lm: LM, there: LastToken, answer: int, sets: Sequence[Sequence[Neuron]]) -> Tensor:
    start = min((layer for neurons in sets for layer, _ in neurons), default=0)
    hidden = there.states[start].repeat(len(sets), 1)
    hidden = there.forward(hidden, start, patch=row_patches(lm, sets))
    return lm.unembed(hidden).softmax(-1)[:, answer]


def pair_drops(
    lm: LM, asked: Asked, pairs: Sequence[tuple[Neuron, Neuron]], *, odds: bool = False, rows: int = 4096
) -> Tensor:
    """Relative fall of one prompt's p(answer) without the first neuron, the second, and both: (pairs, 3).

    odds: the fall of its log-odds instead. A probability near 1 hides small losses and shows large ones, so falls of
    probability can exceed their sum where those of the log-odds just add up.
    """
    singles = sorted({neuron for pair in pairs for neuron in pair})
    sets: list[list[Neuron]] = [[], *([neuron] for neuron in singles), *(list(pair) for pair in pairs)]
    said = suppressed_sets(lm, asked, sets, rows=rows).double()
    drop = said[0].logit(1e-12) - said.logit(1e-12) if odds else 1 - said / said[0]
    alone: Mapping[Neuron, Tensor] = dict(zip(singles, drop[1 : len(singles) + 1], strict=True))
    both = drop[len(singles) + 1 :]
    return torch.stack([torch.stack([alone[a], alone[b], d]) for (a, b), d in zip(pairs, both, strict=True)])


def is_degenerate(drops: Tensor, low: float, high: float) -> Tensor:
    """Which pairs (..., 3) are degenerate: either neuron alone below ``low``, both above ``high``."""
    return (drops[..., 0] < low) & (drops[..., 1] < low) & (drops[..., 2] > high)


def degenerate_neurons(lm: LM, facts: Sequence[Fact], settings: DegenerateSettings | None = None) -> pd.DataFrame:
    """Every pair of each fact's candidate neurons, in its own template: fact, language, layer_a, neuron_a, layer_b,
    neuron_b, drop_a, drop_b, drop_both, degenerate.

    Raises BadInput when the model does not know a fact, or when a fact has no paraphrases.
    """
    settings = settings or DegenerateSettings()
    asked = require_known(lm, facts, rows=settings.rows)
    items = [item_of(fact) for fact in facts]
    sets = neuron_sets(shared_neurons(lm, items, replace(settings.neurons, rows=settings.rows)), items)
    parts = [
        _pairs(lm, fact, asked.rows(torch.tensor([row])), neurons[: settings.candidates], settings)
        for row, (fact, neurons) in enumerate(zip(facts, sets, strict=True))
        if len(neurons) > 1
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))


COLUMNS = (
    "fact", "language", "layer_a", "neuron_a", "layer_b", "neuron_b", "drop_a", "drop_b", "drop_both", "degenerate",
)  # fmt: skip


def _pairs(lm: LM, fact: Fact, asked: Asked, neurons: Sequence[Neuron], settings: DegenerateSettings) -> pd.DataFrame:
    pairs = list(combinations(neurons, 2))
    drops = pair_drops(lm, asked, pairs, rows=settings.rows)
    flags = is_degenerate(drops, settings.low, settings.high).tolist()
    rows = [
        (fact.id, fact.language, *a, *b, *three, flag)
        for (a, b), three, flag in zip(pairs, drops.tolist(), flags, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
