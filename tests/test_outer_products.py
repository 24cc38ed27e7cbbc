"""Gradients and updates as sums of outer products: held against autograd, dense matrices and one edit at a time."""

from __future__ import annotations

import pytest
import torch

from edits import REQUESTS
from families import FAMILIES, make_lm
from paramem.editing.outer_products import (
    Place,
    Terms,
    edit_batch,
    edited_forward,
    gradient_terms,
    of_edit,
    places_of,
    target_losses,
    terms_added,
    times,
    together,
    weight_delta,
)
from paramem.errors import BadParameter
from paramem.models import LM

ROLES = ("up", "down")


def dense(lm: LM, place: Place, terms: Terms) -> torch.Tensor:
    """All edits summed, in the parameter's own layout."""
    total = terms.dense().sum(0)
    return total.T if lm.weight(*place).transposed else total


def noise(lm: LM, edits: int, terms: int, seed: int = 0) -> dict[Place, Terms]:
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> torch.Tensor:
        return 0.1 * torch.randn(edits, terms, width, generator=generator, dtype=lm.dtype)

    widths = {"up": (lm.d_model, lm.d_mlp), "down": (lm.d_mlp, lm.d_model)}
    return {
        place: Terms(draw(widths[place.role][1]), draw(widths[place.role][0])) for place in places_of(lm, (1, 2), ROLES)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_terms_are_the_gradient_of_the_whole_model(family: str) -> None:
    lm = make_lm(family)
    batch = edit_batch(lm, REQUESTS)
    places = places_of(lm, (0, 2), ROLES)
    found = gradient_terms(lm, batch, places)
    for place in places:
        weight = lm.weight(*place).parameter
        weight.requires_grad_(True)
        loss = -lm.score_batch(batch).mean_logprob.sum()
        (expected,) = torch.autograd.grad(loss, [weight])
        weight.requires_grad_(False)
        torch.testing.assert_close(dense(lm, place, found[place]), expected, rtol=1e-5, atol=1e-8)
        without_first = Terms(found[place].left[1:], found[place].right[1:])
        assert not torch.allclose(dense(lm, place, without_first), expected, rtol=1e-2), "the control"


def test_padding_has_no_terms() -> None:
    lm = make_lm("gpt2")
    batch = edit_batch(lm, [REQUESTS[0], REQUESTS[1].model_copy(update={"target_new": "the company of music"})])
    found = gradient_terms(lm, batch, [Place(0, "up")])[Place(0, "up")]
    padded = ~batch.attention_mask.bool()
    assert padded.any()
    assert not found.left[padded].any()
    assert found.left[~padded].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_sees_the_update_of_its_own_edit(family: str) -> None:
    lm = make_lm(family)
    updates = noise(lm, 2, 3)
    prompts = ["The capital of France is", "Ann was born in", "music is in the company of", "Berg works for"]
    batch = lm.encode(prompts)
    with terms_added(lm, updates, 2):
        both = lm.logits(batch)
    for edit in range(2):
        with weight_delta(lm, of_edit(updates, edit)).applied(lm):
            alone = lm.logits(batch)
        own, other = slice(2 * edit, 2 * edit + 2), slice(2 - 2 * edit, 4 - 2 * edit)
        torch.testing.assert_close(both[own], alone[own], rtol=1e-6, atol=1e-8)
        assert not torch.allclose(both[other], alone[other], rtol=1e-3), "the control"
    blocks = lm.blocks(batch)
    hidden = edited_forward(lm, blocks, blocks.resid_pre[1], updates, 2)
    torch.testing.assert_close(lm.unembed(hidden), both, rtol=1e-6, atol=1e-8)


def test_joined_edits_are_the_sum_of_their_updates() -> None:
    lm = make_lm("llama")
    updates = noise(lm, 4, 2)
    pairs = together(updates, 2)
    for place, terms in updates.items():
        torch.testing.assert_close(pairs[place].dense()[1], terms.dense()[2:].sum(0))
    whole = weight_delta(lm, updates)
    for place, terms in updates.items():
        torch.testing.assert_close(whole.dense(lm.weight(*place).name), dense(lm, place, terms))
    assert whole.parts[lm.weight(1, "up").name].rank == 8  # type: ignore[union-attr]


@pytest.mark.parametrize("count", [2, 40])
def test_few_terms_and_many_are_multiplied_alike(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right, x = (torch.randn(3, n, d, generator=generator) for n, d in ((count, 6), (count, 9), (5, 9)))
    torch.testing.assert_close(times(Terms(left, right), x), torch.einsum("ejo,eji,eni->eno", left, right, x))


def test_terms_that_are_zero_are_not_stored() -> None:
    lm = make_lm("gpt2")
    updates = noise(lm, 1, 4)
    for terms in updates.values():
        terms.left[0, 1] = 0
    assert {part.rank for part in weight_delta(lm, updates).parts.values()} == {3}  # type: ignore[union-attr]


def test_the_loss_is_a_mean_over_the_target() -> None:
    lm = make_lm("gpt2")
    batch = lm.encode(["Ann was born in", "Berg works for"], ["the company of music", "Lyon"])
    blocks = lm.blocks(batch)
    expected = -lm.score_batch(batch).mean_logprob
    torch.testing.assert_close(target_losses(lm, batch, blocks.resid_pre[-1]), expected)


def test_places_that_do_not_exist() -> None:
    lm = make_lm("gpt2")
    assert places_of(lm, (2, 0), ROLES) == (Place(0, "up"), Place(0, "down"), Place(2, "up"), Place(2, "down"))
    for layers in ((), (0, 0), (0, 99)):
        with pytest.raises(BadParameter, match="layers="):
            places_of(lm, layers, ROLES)
    with pytest.raises(BadParameter, match="no weight 'gate'"):
        places_of(lm, (0,), ("gate",))
