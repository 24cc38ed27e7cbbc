"""PMET: attention and MLP optimised together, the MLP alone written."""

from __future__ import annotations

import pytest
import torch

from families import make_lm
from paramem.arch import Site
from paramem.editing.pmet import PmetSettings, component_states, pmet
from paramem.errors import BadInput, BadParameter
from test_memit import EDITS, moments, states


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_with_both_changes_in_place_the_model_says_what_the_optimisation_saw(family: str) -> None:
    """An independent forward of the whole model with both outputs patched gives the last step's loss."""
    lm = make_lm(family)
    settings = PmetSettings(layers=(1,), steps=6, weight_decay=0.0, kl=0.0, ease=1.0, stop_kl=0.0)
    found = component_states(lm, EDITS[:1], settings)
    assert len(found.before) == len(found.after) == 2
    batch = lm.encode([EDITS[0].prompt], [EDITS[0].target_new])
    at = lm.subject_span(EDITS[0].prompt, EDITS[0].subject).stop - 1

    def adding(delta: torch.Tensor):
        def patch(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[:, at] += delta
            return state

        return patch

    sites = (Site("attn_out", 1), Site("mlp_out", 1))
    changes = [after[0] - before[0] for before, after in zip(found.before, found.after, strict=True)]
    with lm.hooked(patch={site: adding(change) for site, change in zip(sites, changes, strict=True)}):
        seen = -float(lm.score_batch(batch).mean_logprob[0])
    assert seen == pytest.approx(float(found.losses[0][-1, 1]), rel=1e-7)
    with lm.hooked(patch={sites[1]: adding(changes[1])}):
        assert -float(lm.score_batch(batch).mean_logprob[0]) != pytest.approx(seen, rel=1e-3), "attention takes part"


def test_both_changes_stay_in_their_balls() -> None:
    lm = make_lm("llama")
    found = component_states(lm, EDITS, PmetSettings(layers=(1,), clamp=0.1, stop_below=-1.0, stop_kl=0.0, ease=1.0))
    for before, after in zip(found.before, found.after, strict=True):
        sizes = (after - before).norm(dim=1) / before.norm(dim=1)
        assert (sizes <= 0.1 * (1 + 1e-9)).all()
        assert (sizes > 0.09).any()


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_the_mlps_output_reaches_its_target_and_only_mlps_are_written(family: str) -> None:
    lm, settings = make_lm(family), PmetSettings(layers=(0, 1), steps=4, balance=1e-9)
    v_mlp = component_states(lm, EDITS, settings).after[1]
    edit = pmet(lm, EDITS, settings, moments(lm))
    assert set(edit.parts) == {lm.weight(layer, "down").name for layer in (0, 1)}
    with edit.applied(lm) as edited:
        torch.testing.assert_close(states(edited, Site("mlp_out", 1)), v_mlp, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(states(lm, Site("mlp_out", 1)), v_mlp, rtol=1e-2), "the control"


def test_leaving_attention_alone_finds_another_target() -> None:
    lm = make_lm("gpt2")
    both = component_states(lm, EDITS, PmetSettings(layers=(1,), steps=6))
    alone = component_states(lm, EDITS, PmetSettings(layers=(1,), steps=6, components="mlp"))
    assert len(alone.after) == 1
    torch.testing.assert_close(alone.before[0], both.before[1])
    assert not torch.allclose(alone.after[0], both.after[1], rtol=1e-2)


def test_bad_settings_and_missing_moments_are_refused() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(BadParameter, match="balance"):
        PmetSettings(layers=(1,), balance=0.0)
    with pytest.raises(BadInput, match="pmet: the second moment of layer 1"):
        pmet(lm, EDITS, PmetSettings(layers=(1,)), {})
