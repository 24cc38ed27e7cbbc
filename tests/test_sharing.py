"""Target states that several editors look for are found once, and nothing else is taken for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from edits import request
from families import make_lm
from paramem.benchmarking.costs import Meter
from paramem.editing import targets
from paramem.editing.emmet import EmmetSettings, emmet
from paramem.editing.memit import MemitSettings, memit, target_states
from paramem.editing.sharing import Shared, current, sharing
from paramem.editing.statistics import second_moment
from paramem.interventions import Dense, WeightDelta
from paramem.models import LM

TEXTS = ["The capital of France is Paris and Ann was born in Lyon", "music is in the company of Anna", "Berg"] * 9
EDITS = (request(0), request(2), request(4))
SETTINGS = MemitSettings(layers=(0, 1), steps=6)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many edits each search was for."""
    sizes, search = list[int](), targets._optimised

    def counted(lm: LM, problem: targets._Problem, settings: targets.TargetSettings) -> Iterator[object]:
        sizes.append(problem.n)
        return search(lm, problem, settings)

    monkeypatch.setattr(targets, "_optimised", counted)
    return sizes


def test_two_editors_look_once_and_write_what_each_writes_alone(searched: list[int]) -> None:
    lm = make_lm("gpt2")
    eye = torch.eye(lm.d_mlp, dtype=torch.float64)
    moments = {layer: second_moment(lm, layer, TEXTS) + 1e-3 * eye for layer in (0, 1)}

    def both() -> list[WeightDelta]:
        return [
            memit(lm, EDITS, SETTINGS, moments),
            emmet(lm, EDITS, EmmetSettings(layers=(0, 1), steps=6), moments),
        ]

    alone = both()
    assert searched == [3, 3], "the control: outside of the context each looks for itself"
    searched.clear()
    with sharing():
        together = both()
    assert searched == [3]
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one.dense(name), other.dense(name)) for name in one.parts)
    searched.clear()
    with sharing():
        both()
    assert searched == [3], "nothing is kept beyond the context"


def test_edits_are_kept_one_by_one_and_only_what_is_new_is_looked_for(searched: list[int]) -> None:
    lm = make_lm("llama")
    whole = target_states(lm, EDITS, SETTINGS).after[0]
    searched.clear()
    with sharing():
        first = target_states(lm, EDITS[1:2], SETTINGS)
        found = target_states(lm, EDITS, SETTINGS)
    assert searched == [1, 2]
    assert torch.equal(found.after[0][1], first.after[0][0])
    torch.testing.assert_close(found.after[0], whole, rtol=1e-7, atol=1e-9)
    assert not torch.allclose(whole[0], whole[1], rtol=1e-2), "the control: each edit has its own"


def test_another_model_state_setting_or_target_is_another_question(searched: list[int]) -> None:
    lm = make_lm("gpt2")
    name, W, _ = lm.weight(0, "down")
    change = WeightDelta({name: Dense(0.1 * torch.ones_like(W))})
    with sharing():
        before = target_states(lm, EDITS, SETTINGS).after[0]
        with change.applied(lm) as edited:
            during = target_states(edited, EDITS, SETTINGS).after[0]
        target_states(lm, EDITS, replace(SETTINGS, clamp=0.1))
        target_states(lm, EDITS, replace(SETTINGS, layers=(0,)))
        target_states(lm, [EDITS[0].model_copy(update={"target_new": "Anna"})], SETTINGS)
        assert searched == [3, 3, 3, 3, 1]
        again = target_states(lm, EDITS, replace(SETTINGS, balance=3.0)).after[0]
        assert searched == [3, 3, 3, 3, 1], "what is written with a state is no part of looking for it"
    assert torch.equal(again, before)
    assert not torch.allclose(during, before, rtol=1e-3)


def test_who_finds_states_there_is_charged_with_finding_them() -> None:
    lm, meters = make_lm("gpt2"), [Meter(device=torch.device("cpu")) for _ in range(3)]
    with sharing() as shared:
        for meter in meters[:2]:
            with meter.running():
                target_states(lm, EDITS, SETTINGS)
        [(asked, spared)] = shared.spared
        with meters[2].running():
            pass
    assert 0.5 * meters[0].seconds < spared <= meters[1].seconds
    assert meters[1].peaks[1:] == [shared.peaks[asked]] == meters[0].peaks or meters[0].peaks[0] != meters[0].peaks[0]
    assert meters[2].seconds < 0.1 * spared, "the control: who looks for nothing is charged with nothing"
    assert isinstance(current(), Shared)
    assert not current().kept


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rows_run_apart_by_length_are_those_run_together(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_lm(family)
    edits = (*EDITS, request(0).model_copy(update={"template": "In the company of music in France {} was born in"}))
    found, problem = {}, targets._Problem
    for least in (1, 1000):
        monkeypatch.setattr(targets, "ROWS_APART", least)
        found[least] = target_states(lm, edits, SETTINGS)
        groups = len(problem.of(lm, edits, 1, ["resid_post"], SETTINGS).rows)
        assert (groups > 1) == (least == 1), "the control: they are run apart, and together"
    torch.testing.assert_close(found[1].after[0], found[1000].after[0], rtol=1e-7, atol=1e-9)
    for one, other in zip(found[1].losses, found[1000].losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
