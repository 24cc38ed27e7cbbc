"""SubLoRA on tiny models of two families: its special cases, its gradients, and the model out of its own bytes."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from families import make_lm
from known import TEXTS
from paramem.bounds.coding import Code
from paramem.bounds.sublora import (
    Compressed,
    FitSettings,
    SubLora,
    SubLoraSettings,
    fit,
    initial_levels,
    nearest,
    quantised,
    rebuilt,
)
from paramem.errors import BadInput, BadParameter
from paramem.models import LM
from paramem.tokens import Batch

by_family = pytest.mark.parametrize("family", ["gpt2", "llama"])
KINDS = {
    "sublora": SubLoraSettings(rank=2, dimension=60),
    "lora": SubLoraSettings(rank=2, dimension=None),
    "subspace": SubLoraSettings(rank=None, dimension=60),
    "full": SubLoraSettings(rank=None, dimension=None),
}
by_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def batch(family: str) -> Batch:
    return make_lm(family).encode(list(TEXTS["en"][:12]))


def plain(lm: LM, rows: Batch) -> torch.Tensor:
    said = lm.logits(rows)[:, :-1].log_softmax(-1)
    return said.gather(2, rows.input_ids[:, 1:, None])[..., 0]


@by_family
@by_kind
def test_at_zero_it_is_the_model_that_it_started_from(family: str, kind: str) -> None:
    lm, rows = make_lm(family), batch(family)
    model = SubLora.of(lm, KINDS[kind])
    real = rows.attention_mask[:, 1:].bool()
    ours = model.logprobs(torch.zeros(model.dimension, dtype=lm.dtype), rows)
    torch.testing.assert_close(ours[real], plain(lm, rows)[real])
    moved = model.logprobs(torch.ones(model.dimension, dtype=lm.dtype), rows)
    assert not torch.allclose(moved[real], plain(lm, rows)[real]), "the control"


@by_family
def test_the_loss_is_that_of_a_model_with_these_weights_written_in(family: str) -> None:
    lm, rows = make_lm(family), batch(family)
    model = SubLora.of(lm, KINDS["lora"])
    w = 0.3 * torch.randn(model.dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(lm.dtype)
    before = lm.fingerprint()
    loss = model.loss(w, rows)
    assert lm.fingerprint() == before
    real = rows.attention_mask[:, 1:].bool()
    torch.testing.assert_close(loss, -model.logprobs(w, rows)[real].mean())
    inner = {name: new for name, new in model.weights(w).items() if name != "lm_head.weight"}
    from paramem.interventions import Dense, WeightDelta

    old = dict(lm.model.named_parameters())
    delta = WeightDelta({name: Dense((new - old[name]).detach()) for name, new in inner.items()})
    head = model.weights(w)["lm_head.weight"]
    with delta.applied(lm) as edited:
        states = edited.model(**_inputs(rows), output_hidden_states=True).hidden_states[-1]
    said = (states @ head.T)[:, :-1].log_softmax(-1).gather(2, rows.input_ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(loss, -said[real].mean())


def _inputs(rows: Batch) -> dict[str, torch.Tensor]:
    return {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}


def test_the_subspace_s_gradient_is_the_projected_gradient() -> None:
    lm, rows = make_lm("llama"), batch("llama")
    small, whole = SubLora.of(lm, KINDS["sublora"]), SubLora.of(lm, KINDS["lora"])
    assert torch.equal(small.start, whole.start)
    w = torch.zeros(small.dimension, dtype=lm.dtype, requires_grad=True)
    full = torch.zeros(whole.dimension, dtype=lm.dtype, requires_grad=True)
    (ours,) = torch.autograd.grad(small.loss(w, rows), [w])
    (theirs,) = torch.autograd.grad(whole.loss(full, rows), [full])
    assert small.projector is not None
    torch.testing.assert_close(ours, small.projector.transpose(theirs))


def test_levels_learn_from_their_numbers_and_numbers_pass_the_gradient_on() -> None:
    w = torch.tensor([0.1, 0.9, 1.1, -1.0], requires_grad=True)
    levels = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    target = torch.tensor([1.0, 2.0, 3.0, 4.0])
    out = quantised(w, levels)
    assert out.tolist() == [0.0, 1.0, 1.0, -1.0]
    (out * target).sum().backward()
    assert w.grad is not None
    assert levels.grad is not None
    assert w.grad.tolist() == target.tolist()
    assert levels.grad.tolist() == [4.0, 1.0, 5.0]


def test_levels_are_where_the_numbers_are() -> None:
    w = torch.cat([torch.full((50,), -2.0), torch.full((30,), 0.5), torch.full((20,), 3.0)])
    assert initial_levels(w, 3).tolist() == pytest.approx([-2.0, 0.5, 3.0])
    assert len(initial_levels(w, 10)) == 3, "no more levels than values"
    assert nearest(torch.tensor([0.4, 2.9]), initial_levels(w, 3)).tolist() == [1, 2]


@by_family
@by_kind
def test_training_lowers_the_loss_and_the_model_comes_back_out_of_its_bytes(family: str, kind: str) -> None:
    lm, rows = make_lm(family), batch(family)
    model = SubLora.of(lm, KINDS[kind])
    done = fit(
        model, lambda step: rows, FitSettings(steps=25, lr=0.05, levels=5, quantised_steps=10, quantised_lr=5e-3)
    )
    assert done.losses[-1] < done.losses[0] - 0.05
    data = done.code.pack()
    assert Code.unpack(data).bits == done.code.bits == 8 * len(data)
    before, anew = lm.fingerprint(), make_lm(family)  # another object: nothing but the bytes passes between the two
    again = rebuilt(anew, KINDS[kind], data)
    w, got = done.w.to(lm.dtype), dict(again.model.named_parameters(remove_duplicate=False))
    assert all(torch.equal(got[name], matrix) for name, matrix in model.weights(w).items()), "bit for bit"
    real = rows.attention_mask[:, 1:].bool()
    torch.testing.assert_close(plain(again, rows)[real], model.logprobs(w, rows)[real])
    assert not torch.allclose(plain(lm, rows)[real], plain(again, rows)[real]), "the control"
    assert lm.fingerprint() == before == anew.fingerprint() != again.fingerprint()
    assert len(torch.unique(done.w)) <= 5
    raw = 32 * model.dimension
    assert done.code.bits < raw / 4, "the control: what the numbers cost as they are"


def test_the_control_takes_the_same_steps_without_quantisation() -> None:
    lm = make_lm("gpt2")
    model, rows = SubLora.of(lm, KINDS["sublora"]), batch("gpt2")
    common = {"steps": 10, "lr": 0.05, "quantised_steps": 5, "quantised_lr": 5e-3}

    def fitted(levels: int, control: bool) -> Compressed:
        return fit(model, lambda step: rows, FitSettings(levels=levels, control=control, **common))

    coarse, fine, alone = fitted(2, True), fitted(10_000, True), fitted(2, False)
    assert coarse.control == fine.control, "whatever the levels"
    assert len(coarse.control) == 5
    assert fine.losses[10] == pytest.approx(fine.control[0]), "a level for every number changes nothing"
    assert abs(coarse.losses[10] - coarse.control[0]) > 1e-3, "the control of the control"
    assert (alone.losses, alone.code.pack(), alone.control) == (coarse.losses, coarse.code.pack(), ())


def test_bad_input() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(BadParameter, match="rank=0"):
        SubLoraSettings(rank=0)
    with pytest.raises(BadParameter, match="rank=1000"):
        SubLora.of(lm, SubLoraSettings(rank=1000))
    with pytest.raises(BadParameter, match="dimension"):
        SubLora.of(lm, SubLoraSettings(rank=1, dimension=10**9))
    with pytest.raises(BadParameter, match="at least one step"):
        FitSettings(steps=0)
    model = SubLora.of(lm, KINDS["sublora"])
    with pytest.raises(BadInput, match="smaller learning rate"):
        fit(model, lambda step: batch("gpt2"), FitSettings(steps=5, lr=1e200, quantised_steps=0))
    done = fit(model, lambda step: batch("gpt2"), FitSettings(steps=2, quantised_steps=1))
    with pytest.raises(BadInput, match="holds 60 numbers"):
        rebuilt(lm, SubLoraSettings(rank=2, dimension=61), done.code.pack())
