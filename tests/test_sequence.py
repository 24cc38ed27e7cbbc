"""Edits one after the other: what is carried along does not grow, and what comes off leaves no trace."""

from __future__ import annotations

import itertools

import pytest
import torch

from families import make_lm
from paramem.editing.fine_tuning import FineTuneSettings, fine_tune
from paramem.editing.rome import RomeSettings, rome
from paramem.editing.sequence import in_sequence, plus, running, smaller
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

SUBJECTS = ("Ann Lyon", "Paris capital", "Ann capital", "Paris Lyon", "Lyon Ann", "capital Ann", "music Ann")
REQUESTS = tuple(
    EditRequest(id=str(i), subject=s, template="{} was born in", target_new=("Paris", "Lyon")[i % 2])
    for i, s in enumerate(SUBJECTS)
)
SETTINGS = RomeSettings(layer=1, steps=2, covariance=False)


@pytest.fixture(scope="module")
def lm() -> LM:
    return make_lm("gpt2")


def one(now: LM, some: tuple[EditRequest, ...]) -> WeightDelta:
    return rome(now, some[0], SETTINGS)


def test_every_step_is_made_on_what_the_steps_before_left(lm: LM) -> None:
    steps = list(running(lm, REQUESTS[:3], one))
    assert [made.n for made in steps] == [1, 2, 3]
    name = lm.weight(1, "down").name
    for before, made in itertools.pairwise(steps):
        with before.total.applied(lm) as edited:
            again = one(edited, made.edits)
        assert torch.equal(again.dense(name), made.step.dense(name))
        torch.testing.assert_close(made.total.dense(name), (before.total + made.step).dense(name))
    alone = one(lm, REQUESTS[2:3])  # control: on the unedited model the third edit is another one
    assert not torch.allclose(alone.dense(name), steps[2].step.dense(name))


def test_the_model_is_itself_between_steps_and_after_an_error(lm: LM) -> None:
    before = lm.fingerprint()
    for made in running(lm, REQUESTS[:3], one):
        assert lm.fingerprint() == before
        with made.total.applied(lm):
            assert lm.fingerprint() != before

    def fails(now: LM, some: tuple[EditRequest, ...]) -> WeightDelta:
        if some[0].id == "2":
            raise BadInput("no")
        return one(now, some)

    with pytest.raises(BadInput, match="no"):
        list(running(lm, REQUESTS[:4], fails))
    assert lm.fingerprint() == before


def test_what_is_carried_stops_growing(lm: LM) -> None:
    """A row of factors for every edit would hold more numbers than the matrix after a while."""
    _, parameter, _ = lm.weight(1, "down")
    sizes, naive = [], None
    for made in running(lm, REQUESTS * 6, one):
        sizes.append(made.total.size().parameters)
        naive = made.step if naive is None else naive + made.step
    assert sizes[0] == sum(parameter.shape)
    assert sizes[-1] == max(sizes) == parameter.numel()
    assert naive is not None
    assert naive.size().parameters > 2 * parameter.numel()  # control: the plain sum goes on growing
    name = lm.weight(1, "down").name
    torch.testing.assert_close(made.total.dense(name), naive.dense(name), rtol=1e-4, atol=1e-5)


def test_factors_are_kept_while_they_are_the_smaller_form() -> None:
    thin, thick = LowRank(torch.ones(6, 2), torch.ones(2, 5)), LowRank(torch.ones(6, 3), torch.ones(3, 5))
    assert smaller(thin) is thin
    found = smaller(thick)
    assert isinstance(found, Dense)
    assert torch.equal(found.dense(), thick.dense())
    single = WeightDelta({"w": thin})
    assert plus(None, single) is single


def test_edits_may_come_several_at_a_time(lm: LM) -> None:
    settings = FineTuneSettings(layer=1, steps=2)
    steps = list(running(lm, REQUESTS[:5], lambda now, some: fine_tune(now, some, settings), size=2))
    assert [(made.n, len(made.edits)) for made in steps] == [(2, 2), (4, 2), (5, 1)]
    with pytest.raises(BadParameter, match="size=0"):
        next(running(lm, REQUESTS, one, size=0))


def test_two_edits_of_one_fact_may_follow_each_other(lm: LM) -> None:
    back = REQUESTS[0].model_copy(update={"id": "back", "target_new": "France"})
    assert [made.n for made in running(lm, [REQUESTS[0], back], one)] == [1, 2]


def test_no_request_is_an_error(lm: LM) -> None:
    for call in (lambda: in_sequence(lm, [], rome), lambda: list(running(lm, [], one))):  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="no edit"):
            call()
