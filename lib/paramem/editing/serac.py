r"""SERAC: keep edits beside a frozen model, decide whether an input is in the scope of one, and only then let a small
counterfactual model answer, which reads that edit (mitchell2022serac).

1. memory                 every edit z_e, its prompt and its new object
2. ``ScopeClassifier``    g(z_e, x): how likely the input x is in the scope of z_e; the likeliest edit z* is retrieved
3. ``small_model``        h(z*, x): the counterfactual model reads z* in front of x and answers
4. ``Routed``             g(z*, x) >= 0.5: h's answer; else the base model's own, bit for bit

==============  ==================  ==============================================================
paper           code                what it is
==============  ==================  ==============================================================
f_base          ``lm``              the model that is edited; nothing in it changes
g_phi           ``Routed.scope``    scope classifier, "embedding" or "cross", see ``editing.scope``
h_psi           ``Routed.config``   counterfactual model, here two layers of width 64
Z_e             ``Routed.keys``     the memory
==============  ==================  ==============================================================

Both networks are learned apart from each other, and from the base model, on edits of training subjects
(``editing.serac_training``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from paramem.editing.in_context import statement
from paramem.editing.requests import check_requests
from paramem.editing.scope import Kind
from paramem.editing.trained import Trained
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Routed
from paramem.interventions.prompt import PLACE
from paramem.interventions.routed import part
from paramem.models import LM

DEPARTURES = {
    "scope classifier": (
        "a pretrained encoder is fine-tuned, as an embedding model or with cross-attention between edit and input",
        "token vectors learned from scratch: their sums are compared, or attention goes both ways once ('cross')",
        "the bundled world has no pretrained encoder; a word that training never saw counts as a different word",
    ),
    "counterfactual model": (
        "a small pretrained model of the same kind as the base model is fine-tuned",
        "a Llama of two layers and width 64, trained from scratch, with the base model's tokenizer",
        "there is no smaller pretrained model of the world; a shared vocabulary lets the rows of a batch be mixed",
    ),
    "what the classifier reads of an edit": (
        "the edit's input and its label; the released code leaves the label out for autoregressive models",
        "the edit's prompt without the new object",
        "as the released code does for models like these",
    ),
    "end of an answer": (
        "log-probability of the label",
        "the full stop and the end of the text behind it as well",
        "a model that never learned to stop repeats the object when its answers are generated",
    ),
    "tokens that training never saw": (
        "every token of a pretrained model has been trained",
        "their vectors stay as they were drawn, and are drawn again and not stored; matrices are kept in eight bits",
        "a word without a meaning is still another word, and can be copied; one network for each testbed stays small",
    ),
    "training edits": (
        "the new answers of training edits are given by the data set",
        "each is redrawn at every step: a new object of a training edit of its relation, or a random word or two",
        "a few hundred edits are otherwise learned by heart instead of being read",
    ),
    "scope": (
        "scope includes what an edit implies, where the data set has such examples",
        "other wordings and other names of the subject are in scope, implied facts are not trained on",
        "a model that copies what it reads cannot answer what follows in two steps",
    ),
    "routing": (
        "hard at test time: one of the two models answers",
        "the same, row by row of a batch",
        "the rows of a batch need not be of one kind",
    ),
}


@dataclass(frozen=True, kw_only=True)
class SeracSettings:
    """scope: the kind of classifier that was trained, see `paramem.editing.scope`. threshold: probability from which an
    input counts as in scope."""

    scope: Kind = "embedding"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise BadParameter(f"threshold={self.threshold}: a probability above 0, at most 1.")


def serac(lm: LM, requests: Sequence[EditRequest], settings: SeracSettings, trained: Trained) -> Routed:
    """Edits in a memory. trained: what ``serac_training.learn`` made for a model with this tokenizer."""
    many = check_requests(lm, requests)
    card = trained.card.settings
    missing = [name for name in ("scopes", "config", "vocabulary") if name not in card]
    if missing:
        raise BadInput(
            f"what was given as trained was learned for {trained.card.method}, not for SERAC: no {missing[0]}"
        )
    if settings.scope not in card["scopes"]:
        raise BadInput(f"scope={settings.scope!r}: classifiers that were trained are {', '.join(card['scopes'])}")
    scope = {f"scope/{name}": tensor for name, tensor in part(trained.tensors, settings.scope).items()}
    model = {f"model/{name}": tensor for name, tensor in part(trained.tensors, "model").items()}
    return Routed(
        keys=tuple(request.prompt for request in many),
        templates=tuple(context(request) + PLACE for request in many),
        threshold=settings.threshold,
        scope=card["scopes"][settings.scope],
        config=card["config"],
        tensors=scope | model,
        vocabulary=card["vocabulary"],
    )


def context(request: EditRequest) -> str:
    """The edit as the counterfactual model reads it in front of an input."""
    return f"{statement(request)}. "


def let_in(lm: LM, requests: Sequence[EditRequest], settings: SeracSettings, trained: Trained) -> pd.DataFrame:
    """What the classifier says to every probe of each edit, that edit alone in memory.

    A row per probe: request, subgroup, kind, prompt, probability, and whether it is let in, so that the counterfactual
    model answers.
    """
    rows = []
    for request in requests:
        gate = serac(lm, [request], settings, trained).gate(lm)
        found = list(request.groups())
        chances = gate.probabilities([probe.prompt for _, _, probe in found])
        for (_, subgroup, probe), (chance, _) in zip(found, chances, strict=True):
            row = {"request": request.id, "subgroup": subgroup, "kind": probe.kind, "prompt": probe.prompt}
            rows.append({**row, "probability": chance, "in": chance >= settings.threshold})
    return pd.DataFrame(rows)
