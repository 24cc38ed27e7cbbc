"""KN edit: whose neurons are found, what happens to their slots and to no others."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
import torch

from grounds import REQUEST, UNTOUCHED
from known import FACTS, knowing
from paramem.detection.ablation import value_vectors
from paramem.detection.knowledge_neurons import KnowledgeNeuronSettings, activations
from paramem.detection.neurons import Asked, ask_prompts, random_like
from paramem.editing import knowledge_neuron_edit as module
from paramem.editing.knowledge_neuron_edit import (
    KnowledgeNeuronEditSettings,
    Located,
    knowledge_neuron_edit,
    located,
    rewritten,
    wordings,
)
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.interventions import WeightDelta
from paramem.models import LM

ALL = KnowledgeNeuronEditSettings(relation_share=None)
by_family = pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])


def new_probability(lm: LM) -> float:
    return float(lm.score([REQUEST.prompt], [REQUEST.target_new]).logprob.exp()[0])


def slots(lm: LM, delta: WeightDelta, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Value vectors of a layer (d_mlp, d_model) before and after."""
    before = value_vectors(lm, layer).detach().clone()
    with delta.applied(lm) as edited:
        return before, value_vectors(edited, layer).detach().clone()


def test_wordings_are_those_of_other_facts_of_the_relation() -> None:
    assert wordings(REQUEST, FACTS) == ("Ann Lyon was born in", "In France Ann Lyon was born in")
    assert wordings(REQUEST, ()) == ("Ann Lyon was born in",)
    own = [fact for fact in FACTS if fact.subject == REQUEST.subject]
    assert wordings(REQUEST, own) == ("Ann Lyon was born in",), "the edited fact itself is no source of wordings"
    other = FACTS[0].model_copy(update={"subject": "Anna", "language": "es", "template": "{} en", "paraphrases": ()})
    assert "Ann Lyon en" not in wordings(REQUEST, (*FACTS, other)), "nor is another language"


@by_family
def test_a_slot_loses_the_old_direction_and_gains_the_new_one(family: str) -> None:
    lm = knowing(family)
    head = torch.nn.functional.normalize(cast(torch.Tensor, lm.arch.head.weight).detach(), dim=1)
    old = int(lm.next_logprobs([REQUEST.prompt]).argmax())
    new = int(ask_prompts(lm, [REQUEST.prompt], [REQUEST.target_new]).answers)
    delta = rewritten(lm, REQUEST, Located([(1, 3)], [(1, 7), (2, 5)]), KnowledgeNeuronEditSettings(take=1.5, give=4.0))
    change = 4.0 * head[new] - 1.5 * head[old]
    before, after = slots(lm, delta, 1)
    torch.testing.assert_close(after[3] - before[3], change * before[3].norm())
    torch.testing.assert_close(after[7] - before[7], -change * before[7].norm(), msg="a negative neuron: the opposite")
    untouched = [i for i in range(len(before)) if i not in (3, 7)]
    assert torch.equal(after[untouched], before[untouched])
    assert set(delta.parts) == {lm.weight(layer, "down").name for layer in (1, 2)}


@by_family
def test_the_fact_changes_and_random_neurons_do_less(family: str) -> None:
    lm = knowing(family)
    [found] = located(lm, [REQUEST], ALL, UNTOUCHED)
    with knowledge_neuron_edit(lm, [REQUEST], ALL, UNTOUCHED).applied(lm) as edited:
        edited_to = new_probability(edited)
    drawn = random_like(lm, found.positive + found.negative, np.random.default_rng(0))
    with rewritten(lm, REQUEST, Located(drawn, []), ALL).applied(lm) as edited:
        assert new_probability(edited) < edited_to, "the control: as many random neurons of the same layers"
    assert edited_to > new_probability(lm)


def test_signs_follow_the_activation_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = knowing("llama")
    found = located(lm, [REQUEST], ALL, UNTOUCHED)[0]
    neurons = sorted(found.positive + found.negative)
    monkeypatch.setattr(module, "activations", lambda lm, asked: -activations(lm, asked))
    again = located(lm, [REQUEST], ALL, UNTOUCHED)[0]
    assert (again.positive, again.negative) == (found.negative, found.positive)
    unsigned = KnowledgeNeuronEditSettings(relation_share=None, signed=False)
    plain = located(lm, [REQUEST], unsigned, UNTOUCHED)[0]
    assert (sorted(plain.positive), plain.negative) == (neurons, [])


def test_neurons_of_the_relation_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = knowing("gpt2")
    everything = located(lm, [REQUEST], ALL, UNTOUCHED)[0]
    neurons = everything.positive + everything.negative
    assert len(neurons) > 1, "the test needs a fact of several neurons"
    monkeypatch.setattr(module, "_shared", lambda *_: dict.fromkeys(neurons[1:], 0.5))
    strict = located(lm, [REQUEST], KnowledgeNeuronEditSettings(), UNTOUCHED)[0]
    assert strict.positive + strict.negative == neurons[:1]
    monkeypatch.setattr(module, "_shared", lambda *_: {**dict.fromkeys(neurons, 0.5), neurons[1]: 0.3})
    least = located(lm, [REQUEST], KnowledgeNeuronEditSettings(), UNTOUCHED)[0]
    assert least.positive + least.negative == [neurons[1]], "where all are shared, the least shared stay"
    loose = located(lm, [REQUEST], KnowledgeNeuronEditSettings(relation_share=0.6), UNTOUCHED)[0]
    assert loose.positive + loose.negative == neurons, "the control: a share that none of them exceeds"


def test_sharing_is_counted_over_other_facts_of_the_relation() -> None:
    lm = knowing("gpt2")
    counts = module._shared(lm, "born", UNTOUCHED, KnowledgeNeuronEditSettings())
    peers = [fact for fact in UNTOUCHED if fact.relation == "born"]
    assert len(peers) > 1
    assert min(counts.values()) == pytest.approx(1 / len(peers)), "a neuron that one of them has"
    assert max(counts.values()) <= 1 + 1e-9
    assert module._shared(lm, "born", (), KnowledgeNeuronEditSettings()) == {}
    assert module._shared(lm, "born", UNTOUCHED, ALL) == {}


def test_what_the_model_says_is_taken_out_and_not_what_the_request_calls_true() -> None:
    lm = knowing("gpt2")
    lies = REQUEST.model_copy(update={"target_true": "music"})
    made = [knowledge_neuron_edit(lm, [each], ALL, UNTOUCHED).fingerprint() for each in (REQUEST, lies)]
    assert made[0] == made[1]
    other = REQUEST.model_copy(update={"target_new": "France"})
    assert knowledge_neuron_edit(lm, [other], ALL, UNTOUCHED).fingerprint() != made[0], "the control"


def test_an_edit_without_other_facts_is_located_from_its_prompt_alone() -> None:
    lm = knowing("gpt2")
    bare = REQUEST.model_copy(update={"relation": None})
    assert located(lm, [bare], ALL, UNTOUCHED) == located(lm, [REQUEST], ALL, ())
    assert located(lm, [REQUEST], ALL, UNTOUCHED) != located(lm, [REQUEST], ALL, ()), "the control: wordings refine"


def test_an_answer_that_no_neuron_speaks_for_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = knowing("gpt2")

    def nothing(lm: LM, asked: Asked, settings: KnowledgeNeuronSettings) -> torch.Tensor:
        return torch.zeros(len(asked), lm.n_layers, lm.d_mlp)

    monkeypatch.setattr(module, "integrated_gradients", nothing)
    with pytest.raises(BadInput, match="no neuron of knowing-gpt2 speaks for what it answers 'Ann Lyon was born in'"):
        knowledge_neuron_edit(lm, [REQUEST], ALL)


def test_settings_are_checked() -> None:
    with pytest.raises(BadParameter, match=r"relation_share=1\.5"):
        KnowledgeNeuronEditSettings(relation_share=1.5)
    with pytest.raises(BadParameter, match="peers=0"):
        KnowledgeNeuronEditSettings(peers=0)


def test_facts_of_another_relation_change_nothing() -> None:
    lm = knowing("gpt2")
    related: list[Fact] = [fact for fact in UNTOUCHED if fact.relation == "born"]
    assert located(lm, [REQUEST], ALL, related) == located(lm, [REQUEST], ALL, UNTOUCHED)
