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
    second, name = moments(lm), lm.weight(1, "down").name
    ratio = states(lm, Site("resid_post", 1), EDITS[:1]).norm() / states(lm, Site("mlp_out", 1), EDITS[:1]).norm()
    same = {"steps": 4, "weight_decay": 0.0}
    edit = rome(lm, EDITS[0], RomeSettings(layer=1, clamp=0.75 * float(ratio), **same), second[1])
    ours = emmet(lm, EDITS[:1], EmmetSettings(layers=(1,), **same), second)
    torch.testing.assert_close(ours.dense(name), edit.dense(name), rtol=1e-7, atol=1e-9)
    ridged = emmet(lm, EDITS[:1], EmmetSettings(layers=(1,), ridge=10.0, **same), second)
    assert not torch.allclose(ridged.dense(name), edit.dense(name), rtol=1e-2), "the control"


def test_with_a_ridge_it_is_memit() -> None:
    lm = make_lm("llama")
    second, name = moments(lm), lm.weight(1, "down").name
    ridged = emmet(lm, EDITS, EmmetSettings(layers=(0, 1), steps=4, ridge=0.3), second)
    same = memit(lm, EDITS, MemitSettings(layers=(0, 1), steps=4, balance=0.3), second)
    torch.testing.assert_close(ridged.dense(name), same.dense(name), rtol=1e-7, atol=1e-9)
    exact = emmet(lm, EDITS, EmmetSettings(layers=(0, 1), steps=4), second)
    assert not torch.allclose(exact.dense(name), same.dense(name), rtol=1e-2), "the control"


def test_bad_settings_and_missing_moments_are_refused() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(BadParameter, match="ridge"):
        EmmetSettings(layers=(1,), ridge=-1.0)
    with pytest.raises(BadInput, match="emmet: the second moment of layer 1"):
        emmet(lm, EDITS, EmmetSettings(layers=(1,)), {})
