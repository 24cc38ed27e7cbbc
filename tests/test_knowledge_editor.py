"""KnowledgeEditor: gates of rank one, a text for each edit, and the bound that training keeps."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from grounds import LAYER, REQUEST, SECOND
from known import knowing
from learned import tiny_ke, training_edits
from paramem.editing.knowledge_editor import (
    Bound,
    KnowledgeEditorSettings,
    KnowledgeEditorTraining,
    Signals,
    conditions,
    edit_texts,
    gated,
    initial,
    knowledge_editor,
    knowledge_editor_each,
    signals,
    train,
    update,
)
from paramem.editing.meta_training import History, Losses, Schedule
from paramem.editing.outer_products import Place, Terms, edit_batch, gradient_terms
from paramem.editing.trained import Trained
from paramem.errors import BadParameter

PLACES = (Place(LAYER, "up"), Place(LAYER, "down"))
SMALL = KnowledgeEditorTraining(layers=(LAYER,), hidden=4, condition=5, inner=3, step_size=0.2)


@cache
def trained() -> Trained:
    return tiny_ke(knowing("gpt2"))


def test_the_gate_is_a_mask_of_rank_one_over_the_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    gradient, said = (
        Terms(draw(2, 4, 3), draw(2, 4, 5)),
        Signals(draw(2, 3), draw(2, 3), draw(2, 5), draw(2, 5), draw(2, 1)),
    )
    found = gated(gradient, said, 0.7).dense()
    for e in range(2):
        mask = torch.outer(3 * said.alpha[e].softmax(0), said.gamma[e])
        shift = torch.outer(3 * said.beta[e].softmax(0), said.delta[e])
        whole = 0.7 * said.eta[e].sigmoid() * (mask * gradient.dense()[e] + shift)
        torch.testing.assert_close(found[e], whole)
    no_gate = gated(gradient, said._replace(gamma=torch.zeros(2, 5, dtype=torch.float64))).dense()
    assert torch.linalg.matrix_rank(no_gate).tolist() == [1, 1], "what is added has rank one by itself"
    assert torch.linalg.matrix_rank(found).tolist() == [3, 3], "the control"


def test_at_first_the_update_is_a_step_along_the_gradient_and_noise() -> None:
    lm = knowing("gpt2")
    tensors, gradient = initial(lm, SMALL), gradient_terms(lm, edit_batch(lm, [REQUEST]), PLACES)
    found = update(tensors, *edit_texts(lm, [REQUEST], tensors["separator"]), gradient)
    for place, terms in gradient.items():
        gate = Terms(found[place].left[:, :-1], found[place].right[:, :-1]).dense()  # without what is added
        step = -0.2 * terms.dense()
        assert float((gate - step).norm() / step.norm()) < 0.35
        assert float((gate + step).norm() / step.norm()) > 1.5, "the control: the other direction"


def test_a_text_is_read_by_itself_and_in_both_directions() -> None:
    lm = knowing("llama")
    tensors = initial(lm, SMALL)
    both = conditions(tensors, *edit_texts(lm, [REQUEST, SECOND], tensors["separator"]))
    for row, request in zip(both, (REQUEST, SECOND), strict=True):
        alone = conditions(tensors, *edit_texts(lm, [request], tensors["separator"]))[0]
        torch.testing.assert_close(alone, row, rtol=1e-5, atol=1e-6)
    swapped = REQUEST.model_copy(update={"target_new": REQUEST.target_true, "target_true": REQUEST.target_new})
    other = conditions(tensors, *edit_texts(lm, [swapped], tensors["separator"]))[0]
    assert not torch.allclose(other, both[0], rtol=1e-3), "old and new answer are told apart"


def test_the_present_answer_is_asked_for_where_the_request_does_not_name_it() -> None:
    lm = knowing("gpt2")
    separator = torch.zeros(lm.d_model)
    unnamed = REQUEST.model_copy(update={"target_true": None})
    named, _ = edit_texts(lm, [REQUEST], separator)
    found, _ = edit_texts(lm, [unnamed], separator)
    answer = lm.generate([REQUEST.prompt], max_new_tokens=4)[0].strip()
    expected, _ = edit_texts(lm, [REQUEST.model_copy(update={"target_true": answer})], separator)
    assert torch.equal(found, expected)
    assert named.shape[0] == found.shape[0] == 1


def test_several_edits_at_once_are_summed_and_the_scale_multiplies() -> None:
    lm, settings = knowing("gpt2"), KnowledgeEditorSettings()
    both = knowledge_editor(lm, [REQUEST, SECOND], settings, trained())
    alone = knowledge_editor_each(lm, [REQUEST, SECOND], settings, trained())
    half = knowledge_editor(lm, [REQUEST], KnowledgeEditorSettings(scale=0.5), trained())
    assert set(both.parts) == {lm.weight(*place).name for place in PLACES}
    for name in both.parts:
        torch.testing.assert_close(both.dense(name), alone[0].dense(name) + alone[1].dense(name), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(half.dense(name), 0.5 * alone[0].dense(name), rtol=1e-3, atol=1e-6)
        assert not torch.allclose(both.dense(name), alone[0].dense(name), rtol=1e-2), "the control"
    with pytest.raises(BadParameter, match="scale=0"):
        KnowledgeEditorSettings(scale=0)


def test_the_multiplier_climbs_while_the_bound_is_broken_and_the_bound_tightens_after_success() -> None:
    bound = Bound(KnowledgeEditorTraining(bound=0.1, tightest=0.05, patience=2), torch.device("cpu"))
    for held, climbs in ((0.3, True), (0.01, False)):
        loss = bound(Losses(torch.tensor(1.0), torch.tensor(held), 1.0))
        (slope,) = torch.autograd.grad(loss, [bound.multiplier])
        assert bool(slope > 0) == climbs
    bound.after_step([(0, 0, 1.0), (0, 0, 0.7)])
    assert bound.bound == 0.1
    bound.after_step([(0, 0, 1.0), (0, 0, 1.0)])
    assert bound.bound == pytest.approx(0.08)
    for _ in range(9):
        bound.after_step([(0, 0, 1.0), (0, 0, 1.0)])
    assert bound.bound == 0.05
    with torch.no_grad():
        bound.multiplier.fill_(-1)
    bound.after_step([(0, 0, 0.0)])
    assert bound.multiplier == 0


def test_training_lowers_the_divergence_leaves_the_model_and_repeats_itself() -> None:
    lm = knowing("llama")
    before, history = lm.fingerprint(), History()
    schedule = Schedule(steps=30, edits=8, unrelated=2, lr=1e-2, warmup=5)
    settings = KnowledgeEditorTraining(layers=(LAYER,), hidden=4, condition=5, inner=3, bound=0.01, schedule=schedule)
    once = train(lm, training_edits(), settings, history=history)
    assert lm.fingerprint() == before
    lagrangian = [edit + unrelated for edit, unrelated, _ in history]
    assert sum(lagrangian[-8:]) < 0.9 * sum(lagrangian[:8])
    again = train(lm, training_edits(), settings)
    assert all(torch.equal(once.tensors[name], again.tensors[name]) for name in once.tensors)


def test_every_matrix_has_signals_of_its_own_sizes() -> None:
    lm = knowing("gpt2")
    tensors = initial(lm, SMALL)
    said = signals(tensors, PLACES[1], torch.zeros(3, 5), lm.d_mlp, lm.d_model)
    assert [part.shape[1] for part in said] == [lm.d_model, lm.d_model, lm.d_mlp, lm.d_mlp, 1]
