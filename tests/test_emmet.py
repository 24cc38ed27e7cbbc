"""EMMET: all targets met exactly, and the single edit that is ROME's."""

from __future__ import annotations

import pytest
import torch

from families import make_lm
from paramem.arch import Site
from paramem.editing.emmet import EmmetSettings, emmet
from paramem.editing.memit import MemitSettings, memit, target_states
from paramem.editing.rome import RomeSettings, rome
from paramem.errors import BadInput, BadParameter
from test_memit import EDITS, moments, states


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_every_target_is_met_exactly(family: str) -> None:
    lm, settings = make_lm(family), EmmetSettings(layers=(0, 1), steps=4)
    z = target_states(lm, EDITS, settings).after[0]
    with emmet(lm, EDITS, settings, moments(lm)).applied(lm) as edited:
        torch.testing.assert_close(states(edited, Site("resid_post", 1)), z, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(states(lm, Site("resid_post", 1)), z, rtol=1e-2), "the control"


def test_one_edit_is_romes() -> None:
    lm = make_lm("gpt2")
    second, name, free = moments(lm), lm.weight(1, "down").name, {"steps": 4, "weight_decay": 0.0, "clamp": 100.0}
    edit = rome(lm, EDITS[0], RomeSettings(layer=1, **free), second[1])
    ours = emmet(lm, EDITS[:1], EmmetSettings(layers=(1,), **free), second)
    torch.testing.assert_close(ours.dense(name), edit.dense(name), rtol=1e-7, atol=1e-9)
    ridged = emmet(lm, EDITS[:1], EmmetSettings(layers=(1,), ridge=1e3, **free), second)
    assert not torch.allclose(ridged.dense(name), edit.dense(name), rtol=1e-2), "the control"


def test_with_a_ridge_it_is_memit() -> None:
    lm = make_lm("llama")
    second, name = moments(lm), lm.weight(1, "down").name
    ridged = emmet(lm, EDITS, EmmetSettings(layers=(0, 1), steps=4, ridge=0.3), second)
    same = memit(lm, EDITS, MemitSettings(layers=(0, 1), steps=4, balance=0.3), second)
    torch.testing.assert_close(ridged.dense(name), same.dense(name), rtol=1e-7, atol=1e-9)
    exact = emmet(lm, EDITS, EmmetSettings(layers=(0, 1), steps=4), second)
    assert not torch.allclose(exact.dense(name), same.dense(name), rtol=1e-2), "the control"


def test_summed_in_one_layer_it_is_the_sum_of_single_edits_and_misses_their_targets() -> None:
    lm = make_lm("gpt2")
    second, name = moments(lm), lm.weight(1, "down").name
    apart = EmmetSettings(layers=(1,), steps=4, together=False)
    total = sum(emmet(lm, [one], EmmetSettings(layers=(1,), steps=4), second).dense(name) for one in EDITS)
    torch.testing.assert_close(emmet(lm, EDITS, apart, second).dense(name), total, rtol=1e-7, atol=1e-9)
    z = target_states(lm, EDITS, apart).after[0]
    with emmet(lm, EDITS, apart, second).applied(lm) as edited:
        missed = (states(edited, Site("resid_post", 1)) - z).norm()
    with emmet(lm, EDITS, EmmetSettings(layers=(1,), steps=4), second).applied(lm) as edited:
        assert (states(edited, Site("resid_post", 1)) - z).norm() < 1e-3 * missed, "solved together they are met"


def test_target_states_that_were_found_before_give_the_same_edit() -> None:
    lm, settings = make_lm("gpt2"), EmmetSettings(layers=(0, 1), steps=4)
    second, name = moments(lm), lm.weight(1, "down").name
    z = target_states(lm, EDITS, settings).after[0]
    again = emmet(lm, EDITS, settings, second, z=z).dense(name)
    torch.testing.assert_close(again, emmet(lm, EDITS, settings, second).dense(name), rtol=0, atol=0)
    assert not torch.allclose(emmet(lm, EDITS, settings, second, z=z + 0.1).dense(name), again, rtol=1e-3)


def test_bad_settings_and_missing_moments_are_refused() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(BadParameter, match="ridge"):
        EmmetSettings(layers=(1,), ridge=-1.0)
    with pytest.raises(BadInput, match="emmet: the second moment of layer 1"):
        emmet(lm, EDITS, EmmetSettings(layers=(1,)), {})
