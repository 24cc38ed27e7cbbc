r"""Agreement in number put to the tests that facts are put to (niu2024thesis).

A choice of a word that agrees ("Today the dogs near the cat" -> are) is written down like a fact, by
`paramem.world.grammar.agreements`: so neurons are found for it, suppressed and edited by the code that does it for
facts, and stands beside them in one table.

1. ``ask_pairs``       prompts, the word that agrees and the one in the wrong number
2. ``pair_effects``    what other activations of some neurons do to its probability, to the pair and to the prediction
3. ``layer_shares``    in which layers the neurons of facts and of agreement lie
4. ``edit_rates``      which of an editor's edits succeed, reach other wordings and cues, and leave other subjects alone

=============================  ===================  =====================================================
paper                          code                 what
=============================  ===================  =====================================================
minimal pair                   ``Pairs``            a prompt with the right word and the wrong one
effect on probability          ``drop``             1 - p(right | changed) / p(right)
categorical prediction         ``overturned``       whether the wrong word has become the likelier of the two
plural neuron                  `relation_neurons`   neurons that many nouns share for one plural determiner
=============================  ===================  =====================================================

Departures from the paper stand in `paramem.detection.thesis`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.detection.neurons import Asked, Neuron, answer_logits, ask_prompts
from paramem.errors import BadInput
from paramem.facts import EditRequest, Fact, fill
from paramem.interventions.hidden import Where
from paramem.models import LM

EDIT_GROUPS = ("edit", "paraphrase", "logical", "relation")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Minimal pairs: prompts with the right word's first token (``asked``), the wrong word's, `[B]`, and the place of
    each prompt's choice among those that were given."""

    asked: Asked
    wrong: Tensor
    owner: np.ndarray

    def __len__(self) -> int:
        return len(self.asked)


def ask_pairs(lm: LM, choices: Sequence[Fact], wrong: Sequence[str], *, withheld: bool = False) -> Pairs:
    """Every choice in its template and its paraphrases, or in the wordings that were withheld.

    wrong: for each choice the word that does not agree. Raises BadInput where the two words begin with the same token.
    """
    if len(choices) != len(wrong):
        raise BadInput(f"{len(choices)} choices and {len(wrong)} wrong words: give one for each")
    forms = [choice.withheld if withheld else (choice.template, *choice.paraphrases) for choice in choices]
    owner = [place for place, each in enumerate(forms) for _ in each]
    prompts = [fill(form, choice.subject) for choice, each in zip(choices, forms, strict=True) for form in each]
    asked = ask_prompts(lm, prompts, [choices[place].object for place in owner])
    other = ask_prompts(lm, prompts, [wrong[place] for place in owner]).answers
    if bool((same := asked.answers == other).any()):
        place = owner[int(same.nonzero()[0])]
        raise BadInput(
            f"{choices[place].object!r} and {wrong[place]!r} begin with the same token for {lm.name}: the pair cannot "
            "be told apart by the next token"
        )
    return Pairs(asked=asked, wrong=other, owner=np.array(owner))


def pair_effects(
    lm: LM,
    pairs: Pairs,
    neurons: Sequence[Iterable[Neuron]],
    *,
    scale: float = 0.0,
    where: Where = "last",
    rows: int = 4096,
) -> pd.DataFrame:
    """Every prompt with its choice's neurons multiplied by ``scale``.

    neurons: one set for each choice. Tidy rows: choice (its place), prompt, before and after (p(right word)), drop,
    odds_before and odds_after (log p(right) - log p(wrong)), overturned (the wrong word has become the likelier of the
    two), flipped (another token is the most probable one).
    """
    sets = [list(neurons[place]) for place in pairs.owner]
    plain = answer_logits(lm, pairs.asked, rows=rows).double()
    changed = answer_logits(lm, pairs.asked, sets, scale=scale, where=where, rows=rows).double()
    (before, odds_before), (after, odds_after) = (_read(pairs, logits) for logits in (plain, changed))
    flipped = (plain.argmax(-1) != changed.argmax(-1)).cpu().numpy()
    return pd.DataFrame(
        {
            "choice": pairs.owner,
            "prompt": range(len(pairs)),
            "before": before,
            "after": after,
            "drop": 1 - after / before,
            "odds_before": odds_before,
            "odds_after": odds_after,
            "overturned": (odds_before > 0) & (odds_after < 0),
            "flipped": flipped,
        }
    )


def _read(pairs: Pairs, logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """p(right) and log p(right) - log p(wrong), each `[B]`."""
    right, wrong = (logits.gather(1, tokens[:, None])[:, 0] for tokens in (pairs.asked.answers, pairs.wrong))
    chance = torch.exp(right - logits.logsumexp(-1))
    return chance.cpu().numpy(), (right - wrong).cpu().numpy()


def with_words(pairs: Pairs, right: Tensor, wrong: Tensor) -> Pairs:
    """The same prompts, read for other words: token ids `[B]`."""
    return replace(pairs, asked=replace(pairs.asked, answers=right), wrong=wrong)


def layer_shares(lm: LM, sets: Mapping[str, Sequence[Sequence[Neuron]]]) -> pd.DataFrame:
    """For each kind of item the share of its neurons in each layer: kind, layer, share. A kind without any has none."""
    parts = []
    for kind, found in sets.items():
        layers = np.array([layer for neurons in found for layer, _ in neurons], dtype=int)
        if len(layers):
            share = np.bincount(layers, minlength=lm.n_layers) / len(layers)
            parts.append(pd.DataFrame({"kind": kind, "layer": range(lm.n_layers), "share": share}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["kind", "layer", "share"])


def edit_rates(table: pd.DataFrame, requests: Sequence[EditRequest]) -> pd.DataFrame:
    """A table of `thesis.carried_over` with the groups ``EDIT_GROUPS``, one row an edit: request, subject, and for each
    group the share of its probes that are right (nan where it has none)."""
    wide = table.pivot(index="request", columns="group", values="correct").reindex([each.id for each in requests])
    wide = wide.reindex(columns=list(EDIT_GROUPS))
    wide.insert(0, "subject", [each.subject for each in requests])
    return wide.reset_index().rename_axis(columns=None)
