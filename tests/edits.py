"""Edit requests for the tiny models, and edits with a known effect: nothing at all, or one answer to everything."""

from __future__ import annotations

import torch

from paramem.facts import EditRequest, Probe
from paramem.interventions import Dense, WeightDelta
from paramem.models import LM

NAMES = ("Ann", "Anna", "Berg", "Paris", "Lyon", "France")


def probe(prompt: str, target: str, **more: object) -> Probe:
    return Probe.model_validate({"prompt": prompt, "target": target, **more})


def request(number: int, **changes: object) -> EditRequest:
    name, other = NAMES[number % 6], NAMES[(number + 1) % 6]
    base: dict[str, object] = {
        "id": f"r{number}",
        "subject": name,
        "template": "{} was born in",
        "target_new": "Lyon",
        "target_true": "the company",
        "paraphrases": [probe(f"In the company, {name} was born in", "Lyon")],
        "portability": {"reasoning": [probe(f"The capital of {name} is", "Paris")]},
        "locality": {
            "relation": [probe(f"{other} was born in", "the company"), probe(f"{other} Berg was born in", "Lyon")],
            "subject": [probe(f"{name} works for", "a company", aliases=("music",))],
            "out_of_distribution": [probe("music is in", "")],
        },
    }
    return EditRequest.model_validate(base | changes)


REQUESTS = tuple(request(number) for number in range(4))


def nothing(lm: LM) -> WeightDelta:
    found = lm.weight(1, "down")
    return WeightDelta({found.name: Dense(torch.zeros_like(found.parameter))})


def always(lm: LM, token: int) -> WeightDelta:
    """A change of the final norm and the head after which every answer is `token`, whatever was asked."""
    state = dict(lm.model.named_parameters())
    norm, bias, head = state["transformer.ln_f.weight"], state["transformer.ln_f.bias"], state["lm_head.weight"]
    wanted = torch.zeros_like(head)
    wanted[token] = 1.0
    return WeightDelta(
        {
            "transformer.ln_f.weight": Dense(-norm.detach()),
            "transformer.ln_f.bias": Dense(torch.ones_like(bias) - bias.detach()),
            "lm_head.weight": Dense(wanted - head.detach()),
        }
    )
