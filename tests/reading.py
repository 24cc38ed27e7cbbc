"""Tiny models that know the facts of `known` and answer from what stands in front of a prompt, also against them; and
what SERAC learns from the same facts."""

from __future__ import annotations

import random
from functools import cache

import torch
from transformers import AutoModelForCausalLM

from families import make_lm, make_model, tokenizer
from known import FACTS
from paramem.editing.serac_training import ScopeShape, SeracShape, train
from paramem.editing.trained import Trained
from paramem.facts import EditRequest, Fact
from paramem.models import LM

CONTEXT, WIDTH = 256, 48
ROWS = 12  # in a step; nine of ten passages are then read and answered
FORMS = ("{}. ", "Imagine that {}. ", "New Fact: {}\nPrompt: ")
OBJECTS = {
    fact.relation: sorted({other.object for other in FACTS if other.relation == fact.relation}) for fact in FACTS
}


def _row(rng: random.Random) -> tuple[str, str]:
    """A fact with a random object, said once or several times, then the same fact asked, or another one."""
    asked, said = rng.sample(FACTS, 2)
    said = asked if rng.random() < 0.9 else said
    new = rng.choice(OBJECTS[said.relation])
    form = rng.choice(FORMS)
    passage = "".join(form.format(f"{said.prompt} {new}") for _ in range(rng.choice((0, 1, 1, 1, 3))))
    return passage + asked.prompt, new if passage and said == asked else asked.object


@cache
def reader(family: str, *, steps: int = 250, seed: int = 0) -> LM:
    """The shared model of a family, wider than the random ones; it must be left as it is."""
    config = make_model(family, hidden_size=WIDTH, max_position_embeddings=CONTEXT).config
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lm = LM.of(model, tokenizer(), name=f"reading-{family}")
    rng = random.Random(seed)
    lm.model.requires_grad_(True)
    optimiser = torch.optim.Adam(lm.model.parameters(), lr=0.004)
    for _ in range(steps):
        rows = [_row(rng) for _ in range(ROWS)]
        loss = -lm.score_batch(lm.encode([p for p, _ in rows], [t for _, t in rows])).mean_logprob.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    lm.model.requires_grad_(False)
    return lm


def edit_of(fact: Fact, new: str) -> EditRequest:
    """An edit with the fact's other wordings as paraphrases."""
    return EditRequest(
        id=fact.id,
        subject=fact.subject,
        relation=fact.relation,
        template=fact.template,
        target_new=new,
        target_true=fact.object,
        paraphrases=tuple(fact.probe(form).model_copy(update={"target": new}) for form in fact.paraphrases),
    )


def _other(fact: Fact) -> str:
    """Another object of the relation, in turn, so that every object is new in some edit."""
    others = [thing for thing in OBJECTS[fact.relation] if thing != fact.object]
    turn = [one.id for one in FACTS if one.relation == fact.relation].index(fact.id)
    return others[turn % len(others)]


EDITS = tuple(edit_of(fact, _other(fact)) for fact in FACTS if len(OBJECTS[fact.relation]) > 1)
GATE = ScopeShape(width=16, compared=10, steps=300)
SHAPE = SeracShape(hidden=32, edits=16, steps=300, embedding=GATE, cross=GATE)


@cache
def learned_serac() -> Trained:
    """Both classifiers and the counterfactual model, learned from `EDITS`. They depend on the tokenizer alone, which
    all tiny models share, so that they are learned once for all of them."""
    return train(make_lm("gpt2"), EDITS, SHAPE)


def serac_of(lm: LM) -> Trained:
    """What SERAC needs beside that tiny model."""
    return learned_serac()
