"""What a method returns: data that can be applied to a model and always comes off again.

    with intervention.applied(lm) as edited:
        edited.score(prompts, targets)
    # lm is what it was, bit for bit, also when the body raised

`WeightDelta` changes weights, `HiddenStatePatch`, `NeuronPatch` and the subclasses of `ModulePatch` hidden states,
`PromptRewrite` and `MemoryPrompt` the prompt, `LogitsMix` and `Routed` the output. They compose (`a + b`: `a` is put on
first), have a size, and are saved and loaded as one safetensors file.
"""

from __future__ import annotations

from paramem.interventions.base import Composed, Intervention, Size
from paramem.interventions.delta import Dense, LowRank, WeightDelta
from paramem.interventions.hidden import HiddenStatePatch
from paramem.interventions.logits import LogitsMix
from paramem.interventions.module import ModulePatch
from paramem.interventions.neurons import NeuronPatch
from paramem.interventions.prompt import MemoryPrompt, PromptRewrite, Rewriting
from paramem.interventions.routed import Routed
from paramem.interventions.storage import load_intervention

__all__ = [
    "Composed",
    "Dense",
    "HiddenStatePatch",
    "Intervention",
    "LogitsMix",
    "LowRank",
    "MemoryPrompt",
    "ModulePatch",
    "NeuronPatch",
    "PromptRewrite",
    "Rewriting",
    "Routed",
    "Size",
    "WeightDelta",
    "load_intervention",
]
