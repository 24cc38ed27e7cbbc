"""Batches around the same edits."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from edits import REQUESTS
from families import make_lm
from paramem.editing.batches import (
    BALANCES,
    CLAMPS,
    FREE,
    Pool,
    _asked,
    asked,
    chosen,
    constants,
    moved_outputs,
    pool_for,
    spans,
    written,
)
from paramem.errors import BadInput
from paramem.evaluation import baseline
from paramem.evaluation.intervals import paired
from paramem.facts import EditRequest
from paramem.interventions import Dense, WeightDelta
from paramem.models import load

TRACKED, OTHERS = REQUESTS[:2], REQUESTS[2:]
POOL = Pool(tracked=TRACKED, others=OTHERS)


def test_every_tracked_edit_is_in_one_batch_of_every_size() -> None:
    for size, count in ((1, 2), (2, 1), (3, 1), (4, 1)):
        batches = POOL.batches(size)
        assert len(batches) == count
        assert all(len(batch) == size for batch in batches)
        assert [request for batch in batches for request in batch if request in TRACKED] == list(TRACKED)
    with pytest.raises(BadInput, match="size=5"):
        POOL.batches(5)
    with pytest.raises(BadInput, match="size=2"):
        Pool(tracked=REQUESTS[:3], others=()).batches(2)


def test_nothing_asked_about_is_itself_edited() -> None:
    request = TRACKED[0]
    there = {probe.prompt for probe in request.locality["relation"]}
    gone = next(iter(sorted(there)))
    kept = _asked(request, {gone}, 9)
    left = {probe.prompt for probes in kept.locality.values() for probe in probes}
    assert gone not in left
    assert left
    assert all(len(probes) <= 1 for probes in _asked(request, set(), 1).locality.values())


def test_each_tracked_edit_is_asked_of_the_model_that_its_batch_was_written_into() -> None:
    lm = make_lm("gpt2")
    found = lm.weight(1, "down")
    noise = torch.randn(found.parameter.shape, generator=torch.Generator().manual_seed(0), dtype=lm.dtype)
    before = baseline(lm, TRACKED, generated=False)

    def edit(batch) -> WeightDelta:  # an edit that can be told by who is in it
        size = 0.0 if TRACKED[0] in batch else 1.0
        return WeightDelta({found.name: Dense(size * noise)})

    alone = asked(lm, POOL, 1, edit, before=before, name="x")
    after = alone[(alone["state"] == "after") & (alone["protocol"] == "teacher_forced")]
    kl = after.groupby("request")["kl"].max()
    assert kl[TRACKED[0].id] < 1e-9
    assert kl[TRACKED[1].id] > 1e-3
    together = asked(lm, POOL, 3, edit, before=before, name="x")
    assert together[together["state"] == "after"]["kl"].max() < 1e-9
    assert set(together["request"]) == {request.id for request in TRACKED}


def test_rows_are_chosen_by_edit() -> None:
    values = torch.arange(4.0)[:, None]
    assert chosen(POOL, values, [REQUESTS[3], REQUESTS[0]])[:, 0].tolist() == [3.0, 0.0]


def test_written_asks_for_every_token_of_the_target() -> None:
    lm, name = make_lm("gpt2"), make_lm("gpt2").weight(1, "down").name
    nothing = WeightDelta({name: Dense(torch.zeros_like(lm.weight(1, "down").parameter))})
    said = lm.next_logprobs([TRACKED[0].prompt]).argmax(-1)
    answer = lm.tokenizer.decode(said)
    known = EditRequest(id="k", subject=TRACKED[0].subject, template=TRACKED[0].template, target_new=answer or "x")
    found = written(lm, [known, *TRACKED], nothing)
    expected = lm.score([r.prompt for r in (known, *TRACKED)], [r.target_new for r in (known, *TRACKED)]).exact
    assert found.tolist() == expected.double().tolist()


def test_paired_differences_and_moved_outputs() -> None:
    mean, low, high = paired(np.array([1.0, 1, 0, 1]), np.zeros(4))
    assert mean == 0.75
    assert low <= mean <= high
    W, C = torch.eye(3, dtype=torch.float64), torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64))
    aside = torch.zeros(3, 3, dtype=torch.float64)
    aside[0, 2] = 7.0  # reads a direction that no key has
    assert moved_outputs(W, aside, C) == 0
    assert moved_outputs(W, 0.1 * W, C) == pytest.approx(0.1)


def test_spans_name_a_size_and_both_ends() -> None:
    cards = pd.DataFrame(
        {"metric": ["edit: exact", "other"], "size": [10, 10], "mean": [0.5, 1], "low": [0.25, 1], "high": [0.75, 1]}
    )
    assert spans(cards, {"edit: exact": "edit"}) == {"edit_10": 0.5, "edit_10_low": 0.25, "edit_10_high": 0.75}


def test_constants_are_looked_at_on_training_edits_alone() -> None:
    lm = load("gpt2-small-s0", device="cpu")
    table = constants(lm, n=4, layers=(0,))
    assert len(table) == len(CLAMPS) * (len(BALANCES) + 1) + len(FREE)
    assert table.to_numpy().min() >= 0
    assert table.to_numpy().max() <= 1
    weak, strong = (table.loc[("MEMIT", CLAMPS[-1], f"balance {b:g}"), "kept"] for b in (BALANCES[-1], BALANCES[0]))
    assert weak >= strong, "a heavier penalty keeps at least as much"
    with pytest.raises(BadInput, match="training side"):
        constants(lm, n=1000, layers=(0,))


def test_a_smaller_pool_is_the_beginning_of_a_larger_one() -> None:
    lm = load("edit-gpt2-s0")
    small, large, other = (
        [request.id for request in pool_for(lm, "world", tracked=3, size=size, seed=seed).all]
        for size, seed in ((8, 0), (60, 0), (8, 1))
    )
    assert small == large[:8]
    assert len(small) == 8
    assert small[3:] != other[3:], "another seed draws other strangers"
