"""Documents without their padding: the logits of the module, whatever the lengths and whichever weights moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paramem.bounds import packed
from paramem.bounds.ground import fresh_lm
from paramem.bounds.opening import Opening
from paramem.bounds.source import Source
from paramem.bounds.sublora import SubLora, SubLoraSettings
from paramem.errors import BadParameter

documents = Source().draw(40, 10_000)
KINDS = {
    "sublora": SubLoraSettings(rank=2, dimension=60),
    "subspace": SubLoraSettings(rank=None, dimension=60),
}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_logits_are_those_of_the_module(architecture: str, kind: str) -> None:
    lm, batch = fresh_lm(architecture, "small", 0), documents.batch(np.arange(16))  # type: ignore[arg-type]
    assert packed.supports(lm)
    model, rows = SubLora.of(lm, KINDS[kind]), packed.Packed.of(batch)
    w = torch.randn(model.dimension, generator=torch.Generator().manual_seed(0)).requires_grad_()
    ours = packed.logits(lm, model.parameters, model.weights(w), rows)
    theirs = model.logits(w, batch)[batch.attention_mask[:, 1:].bool()]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)
    unmoved = packed.logits(lm, model.parameters, {}, rows)
    assert not torch.allclose(ours, unmoved, atol=1e-2), "the control: the weights matter"
    slopes = [torch.autograd.grad(each.square().mean(), [w])[0] for each in (ours, theirs)]
    torch.testing.assert_close(*slopes, atol=1e-4, rtol=1e-3)


def test_packing_keeps_every_token_but_the_last_and_finds_its_way_back() -> None:
    batch = documents.batch(np.arange(16))
    rows = packed.Packed.of(batch)
    assert len(rows.ids) == int((batch.lengths - 1).sum()) < 16 * rows.length
    for row, ids in enumerate(batch.input_ids):
        there = rows.places // rows.length == row
        assert torch.equal(rows.ids[there], ids[: int(batch.lengths[row]) - 1])
        assert torch.equal(rows.targets[there], ids[1 : int(batch.lengths[row])])
    x = torch.randn(len(rows.ids), 3)
    assert torch.equal(rows.unpadded(rows.padded(x)), x)


def test_other_models_go_through_their_module() -> None:
    lm = fresh_lm("gpt2", "tiny", 0)
    lm.model.config.activation_function = "relu"
    assert not packed.supports(lm)
    lm.model.config.activation_function = "gelu_new"
    assert packed.supports(lm)
    lm.model.train()
    assert not packed.supports(lm), "dropout is the module's"


def test_an_opening_is_a_draw_and_says_what_guessing_costs() -> None:
    here = Opening.of("fresh-llama-s3", m=200, n=50)
    assert (here.architecture, here.seed, len(here.documents), len(here.rows)) == ("llama", 3, 200, 50)
    assert np.array_equal(here.documents.ids, Source().draw(200, 3).ids)
    assert not np.array_equal(here.new(200).ids, here.documents.ids)
    assert f"{np.log2(here.types):.2f}" in str(here)
    assert here.types < here.source.vocabulary
    assert here.met(200) == pytest.approx(1 - np.exp(-1), abs=0.01)
    assert here.met(200, 2) > here.met(200)
    with pytest.raises(BadParameter, match="fresh-s3"):
        Opening.of("fresh-s3", m=200, n=50)
