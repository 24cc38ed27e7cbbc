"""MEND: what the networks may do, where they start, and that training is training."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from grounds import LAYER, REQUEST, SECOND
from known import knowing
from learned import tiny_mend, training_edits
from paramem.editing.mend import (
    MendSettings,
    MendTraining,
    fit_normalisation,
    initial,
    learned,
    mend,
    mend_each,
    normalised,
    train,
    transformed,
    update,
    updates,
)
from paramem.editing.meta_training import Examples, History, Schedule
from paramem.editing.outer_products import Place, Update, edit_batch, gradient_terms, sizes
from paramem.editing.trained import Trained, new_card
from paramem.errors import BadInput, BadParameter
from paramem.models import LM
from parity import tiny

PLACES = (Place(LAYER, "up"), Place(LAYER, "down"))


@cache
def trained() -> Trained:
    return tiny_mend(knowing("gpt2"))


def fresh(lm: LM, seed: int = 0) -> tuple[dict[str, torch.Tensor], Update]:
    """Networks at initialisation with the normalisation of two edits, and the gradients of these."""
    gradient = gradient_terms(lm, edit_batch(lm, [REQUEST, SECOND]), PLACES)
    tensors = initial(sizes(lm, PLACES), rank=3, step_size=0.01, seed=seed)
    fit_normalisation(tensors, gradient)
    return tensors, gradient


def test_at_first_the_update_is_the_normalised_gradient_step() -> None:
    tensors, gradient = fresh(knowing("gpt2"))
    for place, (left, right) in update(tensors, gradient).items():
        delta, u = gradient[place]
        used = delta.ne(0).any(-1)
        for got, raw, factor in ((left, delta, -0.01), (right, u, 1.0)):
            mean, std = raw[used].float().mean(0), raw[used].float().std(0)
            torch.testing.assert_close(
                got[used].float(), factor * (raw[used].float() - mean) / (std + 1e-7), rtol=1e-4, atol=1e-4
            )
        assert not torch.allclose(left[used].float(), -0.01 * delta[used].float(), rtol=1e-2), "the control"


def test_without_normalisation_it_is_the_gradient_step() -> None:
    lm = knowing("llama")
    gradient = gradient_terms(lm, edit_batch(lm, [REQUEST]), PLACES)
    found = update(initial(sizes(lm, PLACES), rank=3, step_size=0.01, seed=0), gradient)
    for place, terms in gradient.items():
        torch.testing.assert_close(found[place].dense(), -0.01 * terms.dense(), rtol=1e-4, atol=1e-7)


def test_the_network_is_equation_3() -> None:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    d, r = 7, 2
    p = {"V1": draw(r, d), "U1": draw(d, r), "V2": draw(r, d), "U2": draw(d, r)}
    p |= {name: draw(d) for name in ("b", "s1", "o1", "s2", "o2")}
    z = draw(4, d)
    for row, got in zip(z, transformed(z, p), strict=True):
        h = row + torch.relu(p["s1"] * (p["U1"] @ p["V1"] @ row + p["b"]) + p["o1"])
        torch.testing.assert_close(got, h + torch.relu(p["s2"] * (p["U2"] @ p["V2"] @ h) + p["o2"]))
    assert not torch.allclose(transformed(z, p), z)


def test_where_training_starts_everything_gets_a_gradient() -> None:
    tensors, gradient = fresh(knowing("gpt2"))
    free = learned(tensors)
    for tensor in free.values():
        tensor.requires_grad_(True)
    total = sum(terms.dense().pow(2).sum() for terms in update(tensors, gradient).values())
    slopes = torch.autograd.grad(total, list(free.values()), allow_unused=True)
    moving = {name for name, slope in zip(free, slopes, strict=True) if slope is not None and slope.any()}
    # V_1 and V_2 wait until U_1 and U_2 have left zero, as do the scales of what these say
    waiting = {name for name in free if name.endswith(("V1", "V2", "s1", "s2"))}
    assert moving == set(free) - waiting


def test_each_dimension_is_normalised() -> None:
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 0, 2]) + 3
    found = normalised(values, values.mean(0), values.std(0))
    torch.testing.assert_close(found.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.std(0), torch.tensor([1.0, 1, 0, 1]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_has_rank_one_for_each_token_and_touches_its_matrices_alone(family: str) -> None:
    lm = knowing(family)
    learnt = tiny_mend(lm)
    edit = mend(lm, [REQUEST], MendSettings(), learnt)
    assert set(edit.parts) == {lm.weight(*place).name for place in learnt.places("mend", lm)}
    tokens = int(edit_batch(lm, [REQUEST]).lengths[0])
    for part in edit.parts.values():
        assert 0 < part.rank <= tokens  # type: ignore[union-attr]
        assert torch.linalg.matrix_rank(part.dense().double()) <= part.rank  # type: ignore[union-attr]


def test_several_edits_at_once_are_summed() -> None:
    lm = knowing("gpt2")
    both = mend(lm, [REQUEST, SECOND], MendSettings(), trained())
    alone = mend_each(lm, [REQUEST, SECOND], MendSettings(), trained())
    for name in both.parts:
        torch.testing.assert_close(both.dense(name), alone[0].dense(name) + alone[1].dense(name), rtol=1e-4, atol=1e-6)
        assert not torch.allclose(both.dense(name), alone[0].dense(name), rtol=1e-2), "the control"
    single = mend(lm, [SECOND], MendSettings(), trained())
    for name in single.parts:
        torch.testing.assert_close(single.dense(name), alone[1].dense(name), rtol=1e-4, atol=1e-6)


def test_the_step_multiplies_the_update() -> None:
    lm = knowing("gpt2")
    one, half = (updates(lm, [REQUEST], MendSettings(step=step), trained()) for step in (1.0, 0.5))
    for place in one:
        torch.testing.assert_close(half[place].dense(), 0.5 * one[place].dense())
    with pytest.raises(BadParameter, match="step=0"):
        MendSettings(step=0)


def test_training_lowers_the_loss_leaves_the_model_and_repeats_itself() -> None:
    lm = knowing("gpt2")
    before = lm.fingerprint()
    settings = MendTraining(layers=(LAYER,), rank=3, step_size=0.003, schedule=Schedule(steps=30, edits=8, lr=5e-3))
    history: History = []
    once = train(lm, training_edits(), settings, history=history)
    assert lm.fingerprint() == before
    assert not any(weight.requires_grad for weight in lm.model.parameters())
    total = [0.1 * edit + unrelated for edit, unrelated, _ in history]
    assert sum(total[-8:]) < 0.8 * sum(total[:8])
    again = train(lm, training_edits(), settings)
    assert all(torch.equal(once.tensors[name], again.tensors[name]) for name in once.tensors)
    assert once.card.recipe == again.card.recipe
    other = train(lm, training_edits()[:-1], MendTraining(layers=(LAYER,), rank=3, schedule=Schedule(steps=1)))
    assert other.card.recipe != once.card.recipe


def test_what_was_trained_for_something_else_is_refused() -> None:
    lm = knowing("gpt2")
    wrong = Trained(card=new_card("ke", lm, [REQUEST], MendTraining(), 0.0, PLACES), tensors={})
    with pytest.raises(BadInput, match="trained for 'ke'"):
        mend(lm, [REQUEST], MendSettings(), wrong)
    with pytest.raises(BadInput, match="do not fit"):
        mend(tiny(), [REQUEST], MendSettings(), trained())


def test_an_editor_needs_facts_of_several_subjects() -> None:
    with pytest.raises(BadInput, match="fewer than two subjects"):
        Examples([REQUEST], seed=0)
    everybody = Schedule(steps=1, edits=10, at_once=10)
    with pytest.raises(BadInput, match="no other subject"):
        train(knowing("gpt2"), training_edits(), MendTraining(layers=(LAYER,), rank=3, schedule=everybody))
    with pytest.raises(BadParameter, match="no multiple"):
        Schedule(edits=10, at_once=3)


def test_drawn_edits_ask_for_another_object_of_the_relation() -> None:
    examples = Examples(training_edits(), seed=0)
    for each in examples.draw(60):
        assert each.target_new != each.target_true
        assert each.target_new in examples.objects[each.relation]
    drawn = examples.draw(8)
    assert len({each.id for each in drawn}) == 8
