"""What is said about learned updates: held against dense matrices and edits made one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edits import REQUESTS
from families import make_lm
from paramem.editing.meta_study import (
    agreement,
    asked_each,
    asked_together,
    by_request,
    each,
    gradient_steps,
    inner_products,
    likeness,
    norms,
    random_steps,
    shares,
)
from paramem.editing.outer_products import Place, Terms, edit_batch, gradient_terms, places_of, weight_delta
from paramem.errors import BadInput
from paramem.evaluation.intervals import span

PLACES = (Place(1, "up"), Place(1, "down"))


def noise(seed: int = 0, edits: int = 4) -> dict[Place, Terms]:
    lm, generator = make_lm("gpt2"), torch.Generator().manual_seed(seed)
    widths = {"up": (lm.d_mlp, lm.d_model), "down": (lm.d_model, lm.d_mlp)}
    return {
        place: Terms(
            *(torch.randn(edits, 3, width, generator=generator, dtype=lm.dtype) for width in widths[place.role])
        )
        for place in PLACES
    }


def test_products_and_norms_are_those_of_the_matrices() -> None:
    one, other = noise(0), noise(1)
    for place in PLACES:
        a, b = one[place].dense().flatten(1), other[place].dense().flatten(1)
        torch.testing.assert_close(inner_products(one[place], other[place]), a @ b.T)
        torch.testing.assert_close(norms(one)[place], a.norm(dim=1))


def test_controls_have_the_norm_of_what_they_are_controls_of() -> None:
    lm, like = make_lm("gpt2"), noise()
    for steps in (gradient_steps(lm, REQUESTS, like), random_steps(like)):
        for place, size in norms(steps).items():
            torch.testing.assert_close(size, norms(like)[place])
    gradient = gradient_terms(lm, edit_batch(lm, REQUESTS), PLACES)
    against = agreement(gradient_steps(lm, REQUESTS, like), gradient)
    assert np.allclose(against["cosine"], -1), "a step goes against the gradient"
    assert abs(agreement(random_steps(like), gradient)["cosine"]).max() < 0.5, "the control"
    assert not torch.equal(random_steps(like, 1)[PLACES[0]].left, random_steps(like, 0)[PLACES[0]].left)


def test_likeness_is_one_for_equal_updates_and_small_for_random_ones() -> None:
    one = noise(edits=1)
    same = {place: Terms(terms.left.expand(5, -1, -1), terms.right.expand(5, -1, -1)) for place, terms in one.items()}
    np.testing.assert_allclose(likeness(same), 1.0, rtol=1e-6)
    assert abs(likeness(noise(edits=5))).max() < 0.2
    with pytest.raises(BadInput, match="several edits"):
        likeness(one)


def test_shares_are_of_squared_norms() -> None:
    updates = noise()
    found = shares(updates)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    a, b = (updates[place].dense()[2].pow(2).sum() for place in PLACES)
    assert found["up.1"][2] == pytest.approx(float(a / (a + b)))


def test_edits_asked_together_are_the_summed_edits() -> None:
    lm, updates, kept = (
        make_lm("gpt2"),
        gradient_steps(make_lm("gpt2"), REQUESTS, noise()),
        [("music is in", "Lyon")] * 4,
    )
    together = asked_together(lm, REQUESTS, updates, 4, kept)
    with weight_delta(lm, updates).applied(lm) as edited:
        exact = edited.score([r.prompt for r in REQUESTS], [r.target_new for r in REQUESTS]).exact
        wording = edited.score([r.paraphrases[0].prompt for r in REQUESTS], [r.target_new for r in REQUESTS]).exact
        stays = edited.score(["music is in"], ["Lyon"]).exact
    assert together["edit"].tolist() == exact.double().tolist()
    assert together["wording"].tolist() == wording.double().tolist()
    assert together["kept"].tolist() == [float(stays[0])] * 4
    alone = asked_together(lm, REQUESTS, updates, 1, kept)
    for number, delta in enumerate(each(lm, updates)):
        with delta.applied(lm) as edited:
            assert alone["edit"][number] == float(
                edited.score([REQUESTS[number].prompt], [REQUESTS[number].target_new]).exact[0]
            )
    assert together["edit"].sum() > 0
    by_application = asked_each(lm, REQUESTS, each(lm, updates), kept)
    assert alone.to_dict("list") == by_application.to_dict("list")
    with pytest.raises(BadInput, match="equal groups"):
        asked_together(lm, REQUESTS, updates, 3, kept)


def test_pairs_and_intervals_leave_out_what_is_missing() -> None:
    assert span([1.0, 1.0, float("nan")]) == (1.0, 1.0, 1.0)
    mean, low, high = by_request({"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 0.0, "b": 1.0, "d": 9.0})
    assert mean == 0.5
    assert low <= mean <= high


def test_places_of_the_study_exist() -> None:
    assert places_of(make_lm("gpt2"), (1,), ("up", "down")) == PLACES
