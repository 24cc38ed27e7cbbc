"""T-Patcher: one neuron for each mistake, silent until trained, silent on memory afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edits import REQUESTS
from families import FAMILIES, make_lm
from paramem.editing.added_neurons import AddedNeurons
from paramem.editing.t_patcher import (
    PatcherSettings,
    memory_states,
    mistakes,
    t_patcher,
    t_patcher_each,
    train_neurons,
)
from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.facts import EditRequest
from paramem.interventions import load_intervention
from paramem.models import LM
from parity import GOLDEN, facts, tiny

SETTINGS = PatcherSettings(steps=60, memory=300, top=50)
TEXTS = tuple((GOLDEN / "second_moment_texts.txt").read_text().splitlines()[:40])


def request(i: int, target: str | None = None) -> EditRequest:
    rewrite = facts()[i]["requested_rewrite"]
    return EditRequest(
        id=str(i),
        subject=rewrite["subject"],
        template=rewrite["prompt"],
        target_new=target or rewrite["target_new"]["str"],
    )


def logits(lm: LM, edit: EditRequest) -> torch.Tensor:
    return lm.logits(lm.encode([edit.prompt], [edit.target_new]))


def wrong_tokens(lm: LM, edit: EditRequest) -> int:
    batch = lm.encode([edit.prompt], [edit.target_new])
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    return int((lm.logits(batch)[rows, columns - 1].argmax(-1) != batch.input_ids[rows, columns]).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_neurons_change_nothing_and_trained_ones_do(family: str) -> None:
    lm, texts = make_lm(family), ["Ann was born in Lyon.", "music is in the company"]
    before = logits(lm, REQUESTS[0])
    with t_patcher(lm, REQUESTS[:1], replace(SETTINGS, steps=0), texts).applied(lm) as edited:
        assert torch.equal(logits(edited, REQUESTS[0]), before)
    with t_patcher(lm, REQUESTS[:1], replace(SETTINGS, steps=3), texts).applied(lm) as edited:
        assert not torch.equal(logits(edited, REQUESTS[0]), before)


def test_each_mistaken_token_gets_one_neuron() -> None:
    lm, edits = tiny(), [request(0), request(1), request(2, "Berlin Delhi")]
    wanted = [wrong_tokens(lm, edit) for edit in edits]
    assert max(wanted) > 1, "one target has several tokens"
    assert [len(each) for each in t_patcher_each(lm, edits, SETTINGS, TEXTS)] == wanted
    in_sequence = t_patcher(lm, edits, SETTINGS, TEXTS)
    assert len(in_sequence.of([0])) == wanted[0]
    assert sum(len(in_sequence.of([edit])) for edit in range(3)) == len(in_sequence)
    assert in_sequence.size().parameters == len(in_sequence) * (2 * lm.d_model + 1)


def test_a_mistake_that_is_corrected_gets_no_second_neuron() -> None:
    lm, edit, long = tiny(), request(0), replace(SETTINGS, lr=3e-2)
    neurons = t_patcher(lm, [edit], long, TEXTS)
    with neurons.applied(lm) as edited:
        assert len(t_patcher(edited, [edit], long, TEXTS)) == 0
    assert len(neurons) == len(t_patcher(lm, [edit], long, TEXTS)) > 0, "the control: without the first ones"


def test_edits_are_made_together_and_in_sequence() -> None:
    lm, edits = tiny(), [request(i) for i in range(4)]
    prompts, targets = [e.prompt for e in edits], [e.target_new for e in edits]
    before = lm.score(prompts, targets).exact
    with t_patcher(lm, edits, replace(SETTINGS, lr=3e-2), TEXTS).applied(lm) as edited:
        assert bool(edited.score(prompts, targets).exact.all())
    assert not bool(before.any())


def test_edits_side_by_side_know_nothing_of_each_other() -> None:
    lm, edits = tiny(), [request(i) for i in range(3)]
    apart = t_patcher_each(lm, edits, SETTINGS, TEXTS)
    alone = t_patcher(lm, edits[1:2], SETTINGS, TEXTS)
    torch.testing.assert_close(apart[1].keys, alone.keys, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(apart[1].values, alone.values, rtol=1e-6, atol=1e-9)
    everywhere = replace(SETTINGS, memory=20, top=30)
    apart, together = t_patcher_each(lm, edits, everywhere, TEXTS), t_patcher(lm, edits, everywhere, TEXTS)
    torch.testing.assert_close(together.of([0]).keys, apart[0].keys, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(together.keys[-1], apart[2].keys[-1], rtol=1e-4), "the later ones know the earlier ones"


def test_memory_losses_hold_the_neurons_down_on_memory() -> None:
    lm, edits = tiny(), [request(0)]
    memory, places = memory_states(lm, TEXTS, 300), mistakes(tiny(), edits)
    usable = memory.without(edits[0].subject)[None]

    def loudest(**changes: float) -> float:
        neurons = train_neurons(lm, places, memory.states, usable, replace(SETTINGS, **changes)).neurons
        return float(neurons.inputs(memory.states).max())

    assert loudest(silence=10.0) < loudest(silence=0.0) - 0.5


def test_the_activation_loss_raises_the_input_at_the_mistake() -> None:
    lm, memory = tiny(), memory_states(tiny(), TEXTS, 300)
    places = mistakes(lm, [request(0)])
    usable = memory.without(request(0).subject)[None]

    def own(fire: float) -> float:
        once = replace(SETTINGS, fire=fire, silence=0.0, steps=1)  # v is zero, so l_e moves neither key nor bias
        found = train_neurons(lm, places, memory.states, usable, once)
        return float(found.neurons.inputs(found.own)[0, 0])

    assert own(0.0) == pytest.approx(1.0)
    assert own(1.0) > 1.05


def test_the_memory_leaves_out_texts_that_mention_the_subject() -> None:
    lm = tiny()
    texts = [f"{request(0).prompt} it.", "The rain fell all night."]
    memory = memory_states(lm, texts, 100)
    kept = memory.without(request(0).subject)
    assert set(memory.text[kept].tolist()) == {next(i for i, t in enumerate(memory.texts) if "rain" in t)}
    assert bool(memory.without("Nobody at all").all()), "the control"


def test_the_losses_fall() -> None:
    lm, memory = tiny(), memory_states(tiny(), TEXTS, 300)
    places, usable = mistakes(lm, [request(0)]), memory.without(request(0).subject)[None]
    losses = train_neurons(lm, places, memory.states, usable, SETTINGS).losses
    weights = losses.new_tensor([1.0, SETTINGS.fire, SETTINGS.silence, SETTINGS.silence])
    assert losses.shape == (60, 4)
    assert float((losses[-1] * weights).sum()) < 0.5 * float((losses[0] * weights).sum())


def test_it_survives_the_disk_and_fits_no_other_model(tmp_path: Path) -> None:
    lm = tiny()
    neurons = t_patcher(lm, [request(0)], SETTINGS, TEXTS)
    again = load_intervention(neurons.save(tmp_path / "neurons.safetensors"))
    assert isinstance(again, AddedNeurons)
    assert again.fingerprint() == neurons.fingerprint()
    with pytest.raises(IncompatibleIntervention, match="model"), neurons.applied(make_lm("llama")):
        pass


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="no texts"):
        t_patcher(tiny(), [request(0)], SETTINGS, ())
    with pytest.raises(BadParameter, match="top"):
        PatcherSettings(top=0)
