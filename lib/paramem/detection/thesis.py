r"""The knowledge-neuron thesis put to the test: are the neurons of facts special, and do edits change knowledge?
(niu2024thesis)

1. ``government``     grammatical choices in the same texts: which preposition a verb governs
2. ``thesis``         find neurons of facts and of such choices in the same way, suppress both, compare with random ones
3. ``concentration``  how much of the attribution a few neurons hold
4. ``carried_over``   whether an edit reaches the inverse statement and the subject's other name

==========================  ====================  ==========================================================
paper                       code                  what
==========================  ====================  ==========================================================
effect on probability       ``drop``              1 - p(answer | suppressed) / p(answer)
effect on the prediction    ``flipped``           whether the most probable token is another one
level of localisation       ``concentration``     share of positive attribution in the k largest neurons
symmetry                    group ``logical``     the inverse of the edited statement, with the new object
synonymy                    group ``alias``       the edited statement about the subject's other name
==========================  ====================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.detection.knowledge_neurons import (
    Item,
    KnowledgeNeuronSettings,
    ask_items,
    integrated_gradients,
    item_of,
    neuron_sets,
    shared_neurons,
)
from paramem.detection.neurons import Asked, Neuron, answer_logits, random_like, require_known
from paramem.errors import BadParameter
from paramem.evaluation import Baseline, evaluate
from paramem.facts import EditRequest, Fact, fill
from paramem.interventions import Intervention
from paramem.interventions.hidden import Where
from paramem.models import LM

DEPARTURES = {
    "phenomenon": (
        "minimal pairs of determiner-noun agreement and of other paradigms of BLiMP",
        "agreement of verbs, demonstratives and nouns in sentences of the grammar worlds (`paramem.detection.syntax`); "
        "here, for any world, the preposition that a verb or noun governs in the templates that facts are stated in",
        "the testbeds never saw sentences of BLiMP; prepositions are no agreement, so claims on them are ours",
    ),
    "localisation": (
        "a similarity of the neurons found in samples of different size",
        "the share of positive attribution that the largest neurons hold",
        "it needs no fit and is read off the attributions themselves",
    ),
    "synonymy": (
        "objects of edits said in other words",
        "another name of the subject",
        "objects have one name in the world, and many people have two",
    ),
}

GROUPS = ("edit", "paraphrase", "alias", "logical")
PREPOSITIONS = ("about", "at", "by", "for", "from", "in", "of", "on", "to", "with", "without")


@dataclass(frozen=True, kw_only=True)
class ThesisSettings:
    """neurons: how neurons are found. subjects: prompts of a grammatical choice. largest: neurons that count for the
    concentration. where: the tokens at which neurons are suppressed. seed: of the random control neurons."""

    neurons: KnowledgeNeuronSettings = field(default_factory=KnowledgeNeuronSettings)
    subjects: int = 5
    largest: int = 10
    where: Where = "last"
    seed: int = 0
    rows: int = 4096

    def __post_init__(self) -> None:
        if self.subjects < 2 or self.largest < 1 or self.rows < 1:
            raise BadParameter(
                f"subjects={self.subjects}, largest={self.largest}, rows={self.rows}: at least two subjects to refine "
                "over, one neuron and one row"
            )


def government(facts: Sequence[Fact], subjects: int = 5) -> list[Item]:
    """Cues that call for a preposition ("Ada comes" -> "from"), each with several subjects, from the facts' templates.

    A cue is a template up to the preposition that it ends with. Cues that fewer than ``subjects`` facts share are left
    out.
    """
    found: dict[str, dict[str, None]] = {}
    for fact in facts:
        for template in (fact.template, *fact.paraphrases):
            cue, _, word = template.rpartition(" ")
            if word in PREPOSITIONS and "{}" in cue and not cue.endswith("{}"):
                found.setdefault(template, {})[fact.subject] = None
    return [
        Item(template, "government", tuple(fill(cue, name) for name in list(names)[:subjects]), word)
        for template, names in sorted(found.items())
        for cue, _, word in [template.rpartition(" ")]
        if len(names) >= subjects
    ]


def known_items(lm: LM, items: Sequence[Item], *, rows: int = 1024) -> list[Item]:
    """The items whose every prompt the model completes with the answer."""
    if not items:
        return []
    asked = ask_items(lm, items)
    said = answer_logits(lm, asked, rows=rows).argmax(-1)
    right = torch.split(said == asked.answers, [len(item.prompts) for item in items])
    return [item for item, each in zip(items, right, strict=True) if bool(each.all())]


def concentration(scores: Tensor, largest: int) -> Tensor:
    """The share of the positive attribution (prompts, layers, d_mlp) that the ``largest`` neurons hold, (prompts,)."""
    positive = scores.flatten(1).clamp(min=0)
    return positive.topk(min(largest, positive.shape[1]), dim=1).values.sum(1) / positive.sum(1).clamp(min=1e-30)


def suppressed(
    lm: LM, asked: Asked, neurons: Sequence[Sequence[Neuron]], *, where: Where = "last", rows: int = 1024
) -> pd.DataFrame:
    """Every prompt with its own neurons at zero: before, after (p(answer)), flipped (another most probable token)."""
    clean, held = answer_logits(lm, asked, rows=rows), answer_logits(lm, asked, neurons, where=where, rows=rows)
    before, after = (
        logits.double().softmax(-1).gather(1, asked.answers[:, None])[:, 0].tolist() for logits in (clean, held)
    )
    return pd.DataFrame({"before": before, "after": after, "flipped": (clean.argmax(-1) != held.argmax(-1)).tolist()})


def thesis(lm: LM, facts: Sequence[Fact], settings: ThesisSettings | None = None) -> pd.DataFrame:
    """Facts and grammatical choices side by side, one row each: kind ("fact" or "government"), item, neurons (how
    many), before, after, flipped, drop and drop_random (suppressing as many random neurons of the same layers), halved
    (the drop is at least one half), flipped_where_halved (nan where no prompt's is), all means over the item's prompts,
    and concentration.

    Choices that the model does not make itself are left out. Raises BadInput for facts that it does not know.
    """
    settings = settings or ThesisSettings()
    require_known(lm, facts, rows=settings.rows)
    parts = {
        "fact": [item_of(fact) for fact in facts],
        "government": known_items(lm, government(facts, settings.subjects), rows=settings.rows),
    }
    tables = [compared(lm, kind, items, settings) for kind, items in parts.items() if items]
    return pd.concat(tables, ignore_index=True)


def compared(
    lm: LM, kind: str, items: Sequence[Item], settings: ThesisSettings | None = None, *, scores: Tensor | None = None
) -> pd.DataFrame:
    """The rows of `thesis` for items of one kind; ``scores`` as in `shared_neurons`."""
    settings, asked = settings or ThesisSettings(), ask_items(lm, items)
    generator, how = np.random.default_rng(settings.seed), replace(settings.neurons, rows=settings.rows)
    scores = integrated_gradients(lm, asked, how) if scores is None else scores
    sets = neuron_sets(shared_neurons(lm, items, how, scores=scores), items)
    controls = [random_like(lm, neurons, generator) for neurons in sets]
    lengths = [len(item.prompts) for item in items]

    def repeated(neurons: Sequence[Sequence[Neuron]]) -> list[Sequence[Neuron]]:
        return [each for each, n in zip(neurons, lengths, strict=True) for _ in range(n)]

    rows = suppressed(lm, asked, repeated(sets), where=settings.where, rows=settings.rows)
    random = suppressed(lm, asked, repeated(controls), where=settings.where, rows=settings.rows)
    rows["drop"] = 1 - rows["after"] / rows["before"]
    rows["drop_random"] = 1 - random["after"] / random["before"]
    rows["halved"] = rows["drop"] >= 0.5
    rows["flipped_where_halved"] = rows["flipped"].where(rows["halved"]).astype(float)
    rows["concentration"] = concentration(scores, settings.largest).tolist()
    means = rows.groupby(np.repeat(np.arange(len(items)), lengths)).mean()
    means.insert(0, "neurons", [len(neurons) for neurons in sets])
    means.insert(0, "item", [item.id for item in items])
    means.insert(0, "kind", kind)
    return means.reset_index(drop=True)


def carried_over(
    lm: LM,
    requests: Sequence[EditRequest],
    edits: Mapping[str, Sequence[Intervention]],
    *,
    before: Baseline,
    groups: Sequence[str] = GROUPS,
) -> pd.DataFrame:
    """Where each editor's edits, each made alone, are answered: editor, request, group ("edit", "paraphrase", "alias",
    "logical"), correct (teacher-forced, every token; mean over the request's probes of the group).

    edits: editor -> one intervention a request. before: ``baseline(lm, requests)``. groups: which probes to ask.
    """
    tables = []
    for name, deltas in edits.items():
        table = evaluate(lm, requests, list(deltas), before=before, name=name)
        table = table[(table["state"] == "after") & (table["protocol"] == "teacher_forced")]
        tables.append(table[table["subgroup"].isin(groups)].assign(editor=name))
    grouped = pd.concat(tables).groupby(["editor", "request", "subgroup"], sort=False)["correct"]
    return grouped.mean().reset_index().rename(columns={"subgroup": "group"})
