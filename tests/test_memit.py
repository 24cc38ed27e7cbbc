"""MEMIT: its targets, its spreading, and what it becomes for one edit in one layer."""

from __future__ import annotations

import pytest
import torch

from edits import request
from families import make_lm
from paramem.arch import Site
from paramem.editing.memit import MemitSettings, memit, target_states
from paramem.editing.rome import RomeSettings, rome
from paramem.editing.spreading import SpreadSettings, write
from paramem.editing.statistics import second_moment
from paramem.editing.targets import Lookups, TargetSettings, optimise_states
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.interventions import Dense
from paramem.models import LM

TEXTS = ["The capital of France is Paris and Ann was born in Lyon", "music is in the company of Anna", "Berg"] * 9
EDITS = (request(0), request(2), request(4))
EASY = EditRequest(id="0", subject="Ann", template="music is in the company of {}", target_new="is")


def moments(lm: LM) -> dict[int, torch.Tensor]:
    eye = torch.eye(lm.d_mlp, dtype=torch.float64)
    return {layer: second_moment(lm, layer, TEXTS) + 1e-3 * eye for layer in range(lm.n_layers)}


def states(lm: LM, site: Site, edits: tuple[EditRequest, ...] = EDITS) -> torch.Tensor:
    return Lookups.of(lm, edits).states(lm, site)[0][:, 0]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_the_last_layers_states_reach_their_targets_as_the_penalty_vanishes(family: str) -> None:
    lm = make_lm(family)
    place = Site("resid_post", 1)
    start, misses = states(lm, place), []
    for balance in (1e-9, 1.0, 1e4):
        settings = MemitSettings(layers=(0, 1), steps=4, balance=balance)
        z = target_states(lm, EDITS, settings).after[0]
        with memit(lm, EDITS, settings, moments(lm)).applied(lm) as edited:
            misses.append(float((states(edited, place) - z).norm() / (start - z).norm()))
    assert misses == sorted(misses)
    assert misses[0] < 1e-4
    assert misses[-1] > 0.1, "the control: a strong penalty leaves them where they are"


def test_for_one_edit_in_one_layer_it_tends_to_rome() -> None:
    lm, name = make_lm("gpt2"), make_lm("gpt2").weight(1, "down").name
    second, free = moments(lm), {"steps": 4, "weight_decay": 0.0, "clamp": 100.0}
    edit = rome(lm, EDITS[0], RomeSettings(layer=1, **free), second[1])
    almost, far = (
        memit(lm, EDITS[:1], MemitSettings(layers=(1,), balance=balance, **free), second) for balance in (1e-10, 1e3)
    )
    torch.testing.assert_close(almost.dense(name), edit.dense(name), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(far.dense(name), edit.dense(name), rtol=1e-2), "the control"


def test_edits_are_optimised_side_by_side_as_one_by_one() -> None:
    lm, settings = make_lm("llama"), MemitSettings(layers=(1,), steps=6)
    together = target_states(lm, EDITS, settings).after[0]
    alone = torch.cat([target_states(lm, [one], settings).after[0] for one in EDITS])
    torch.testing.assert_close(together, alone, rtol=1e-7, atol=1e-9)
    in_parts = optimise_states(lm, EDITS, 1, ["resid_post"], settings, batch_size=2)
    torch.testing.assert_close(in_parts.after[0], alone, rtol=1e-7, atol=1e-9)
    assert [len(losses) for losses in in_parts.losses] == [6, 6, 6]
    assert not torch.allclose(alone[0], alone[1], rtol=1e-2)


def test_the_change_of_a_state_stays_in_its_ball() -> None:
    lm = make_lm("gpt2")
    for clamp in (0.05, 5.0):
        found = target_states(lm, EDITS, MemitSettings(layers=(1,), clamp=clamp, stop_below=-1.0, weight_decay=0.0))
        sizes = (found.after[0] - found.before[0]).norm(dim=1) / found.before[0].norm(dim=1)
        assert (sizes <= clamp * (1 + 1e-9)).all()
        assert (sizes > 0.049).all()
    assert (sizes > 0.1).any(), "the control: without the tight ball they go further"


@pytest.mark.parametrize(("spread", "shares"), [("even", [1 / 3, 1 / 2, 1]), ("root", [3**-0.5, 2**-0.5, 1])])
def test_each_layer_takes_its_share_of_what_is_missing_by_then(spread: str, shares: list[float]) -> None:
    lm = make_lm("gpt2")
    settings = SpreadSettings(layers=(0, 1, 2), spread=spread)  # type: ignore[arg-type]
    place = Site("resid_post", 2)
    start = states(lm, place)
    z = start + torch.randn(start.shape, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    asked: list[torch.Tensor] = []
    now: list[torch.Tensor] = []

    def solve(layer: int, K: torch.Tensor, R: torch.Tensor) -> Dense:
        asked.append(R.T)
        now.append(states(lm, place))  # the model carries what earlier layers wrote
        torch.testing.assert_close(K, states(lm, Site("mlp_hidden", layer)).T)
        return Dense(0.3 * R @ torch.linalg.pinv(K))

    write(lm, EDITS, z, place, settings, solve)
    for share, residual, state in zip(shares, asked, now, strict=True):
        torch.testing.assert_close(residual, share * (z - state))
    assert not torch.allclose(now[0], now[2], rtol=1e-3), "the control: earlier layers have moved the state"
    torch.testing.assert_close(states(lm, place), start, rtol=0, atol=0)


def test_dropping_the_covariance_moves_old_keys_more() -> None:
    lm = make_lm("gpt2")
    second, name = moments(lm), lm.weight(1, "down").name
    with_C = memit(lm, EDITS, MemitSettings(layers=(1,), steps=4, balance=1e-6), second).dense(name)
    without = memit(lm, EDITS, MemitSettings(layers=(1,), steps=4, balance=1e-6, covariance=False)).dense(name)
    assert torch.trace(without.T @ second[1] @ without) > torch.trace(with_C.T @ second[1] @ with_C)


def test_bad_settings_and_missing_moments_are_refused() -> None:
    lm = make_lm("gpt2")
    fingerprint = lm.fingerprint()
    for bad in ({"layers": ()}, {"layers": (1, 0)}, {"layers": (1, 1)}, {"layers": (0,), "balance": 0.0}):
        with pytest.raises(BadParameter):
            MemitSettings(**bad)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="layer 1 is missing"):
        memit(lm, EDITS, MemitSettings(layers=(0, 1)), {0: moments(lm)[0]})
    with pytest.raises(BadParameter, match="layer"):
        memit(lm, EDITS, MemitSettings(layers=(0, 9)), moments(lm))
    with pytest.raises(BadInput, match="singular"):
        memit(lm, EDITS, MemitSettings(layers=(1,)), {1: torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64)})
    assert lm.fingerprint() == fingerprint


def test_an_edit_that_is_answered_ends_when_its_essence_is_kept() -> None:
    lm = make_lm("gpt2")  # the subject's last token is where the answer is read, so any answer can be reached
    common = {"steps": 30, "clamp": 10.0, "weight_decay": 0.0, "stop_below": -1.0}
    plain, eased, held = (
        optimise_states(lm, [EASY], 2, ["resid_post"], TargetSettings(**common, **more)).losses[0]
        for more in ({}, {"ease": 0.1, "stop_kl": 1e9}, {"ease": 0.1, "stop_kl": -1.0})
    )
    assert len(plain) == len(held) == 30
    assert 1 < len(eased) < 30  # ends where the new object becomes the most probable, whatever the essence
    torch.testing.assert_close(held[: len(eased)], eased)
    first_eased = len(eased)  # from the step after it is answered, its loss counts a tenth
    assert float(held[first_eased, 1]) < 0.3 * float(plain[first_eased, 1])
