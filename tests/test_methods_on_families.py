"""The methods on every architecture, each against an independent computation on the whole model."""

from __future__ import annotations

import pytest
import torch

from edits import request
from families import FAMILIES, make_lm
from paramem.arch import Site
from paramem.detection.causal_tracing import TraceSettings, embedding_std, subject_noise, trace
from paramem.editing.fine_tuning import FineTuneSettings, fine_tune
from paramem.editing.rome import RomeSettings, optimise_values, rome
from paramem.editing.statistics import second_moment

PROMPT, SUBJECT, LAYER = "The capital of France is in", "France", 1
TEXTS = ["The capital of France is Paris and Ann was born in Lyon", "music is in the company of Anna", "Berg"] * 9


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_a_traced_cell_is_what_a_full_forward_with_the_patch_gives(family: str, site: str) -> None:
    lm, settings = make_lm(family), TraceSettings(site=site, samples=2)  # type: ignore[arg-type]
    found = trace(lm, PROMPT, SUBJECT, settings)
    span, token, place = found.subject, found.subject.stop - 1, Site(site, LAYER)
    batch = lm.encode([PROMPT])
    clean = lm.run(batch, capture=[place])
    noise = 3.0 * embedding_std(lm, [SUBJECT]) * torch.from_numpy(subject_noise(len(span), lm.d_model, settings))

    def noisy(state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        state[:, span.start : span.stop] += noise
        return state

    def back(state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        state[:, token] = clean.states[place][0, token]
        return state

    answer = int(clean.logits[0, -1].argmax())
    for patches, ours in [({}, found.corrupted), ({place: back}, found.restored[token, LAYER])]:
        logits = lm.run(batch.repeat(2), patch={Site("embed", 0): noisy, **patches}).logits
        assert ours == pytest.approx(float(logits[:, -1].softmax(-1)[:, answer].mean()), rel=1e-9)
    assert found.restored[token, LAYER] != pytest.approx(found.corrupted, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_after_rome_the_layer_answers_the_subject_with_the_value(family: str) -> None:
    lm, edit, settings = make_lm(family), request(0), RomeSettings(layer=LAYER, steps=5)
    C = second_moment(lm, LAYER, TEXTS) + 1e-3 * torch.eye(lm.d_mlp, dtype=torch.float64)
    place, last = Site("mlp_out", LAYER), lm.subject_span(edit.prompt, edit.subject).stop - 1
    values = optimise_values(lm, [edit], settings)

    def answer() -> torch.Tensor:
        return lm.states(lm.encode([edit.prompt]), [place])[place][0, last]

    torch.testing.assert_close(answer(), values.v0[0])
    assert not torch.allclose(values.v_star[0], values.v0[0], rtol=1e-2)
    with rome(lm, edit, settings, C).applied(lm):
        torch.testing.assert_close(answer(), values.v_star[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(answer(), values.v0[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_steps_against_the_gradient_of_the_whole_model(family: str) -> None:
    lm, edit = make_lm(family), request(0)
    name, W, _ = lm.weight(LAYER, "down")
    delta = fine_tune(lm, [edit], FineTuneSettings(layer=LAYER, steps=1, lr=1e-3)).dense(name)
    W.requires_grad_(True)
    loss = -lm.score_batch(lm.encode([edit.prompt], [edit.target_new])).mean_logprob[0]
    (gradient,) = torch.autograd.grad(loss, [W])
    W.requires_grad_(False)
    large = gradient.abs() > 1e-6  # Adam's first step is lr * sign(gradient), where the gradient is not tiny
    torch.testing.assert_close(delta[large], -1e-3 * gradient[large].sign(), rtol=1e-2, atol=0)
    assert large.any()
