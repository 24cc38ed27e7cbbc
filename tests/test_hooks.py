"""Reading, replacing and running again: patches reach what follows and nothing else, blocks repeat a forward."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from families import FAMILIES, LAYERS, make_lm
from paramem.arch import KINDS, Site
from paramem.errors import BadInput
from paramem.interventions import HiddenStatePatch
from paramem.lm import LM

PROMPTS = ["The capital of France is", "Anna", "Ann Berg was born in Lyon and"]
CLOSE = {"gptj": {"rtol": 1e-5, "atol": 1e-5}}


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LM:
    return make_lm(request.param)


def close(lm: LM, one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, **CLOSE.get(lm.arch.family, {}))


def all_sites(lm: LM) -> list[Site]:
    return [site for kind in lm.arch.kinds for site in lm.arch.sites(kind)]


def bump(token: int) -> object:
    """A patch that changes one token of every row."""

    def patch(state: Tensor) -> Tensor:
        new = state.clone()
        new[:, token] = new[:, token] * 1.5 + 1.0
        return new

    return patch


# --- patches --------------------------------------------------------------------------------------------------


def test_patching_a_state_by_itself_changes_nothing(lm: LM) -> None:
    batch = lm.encode(PROMPTS)
    plain = lm.run(batch, capture=all_sites(lm))
    same = lm.run(batch, patch=dict.fromkeys(all_sites(lm), torch.clone))
    assert torch.equal(same.logits, plain.logits)


@pytest.mark.parametrize("kind", ["mlp_hidden", "resid_post"])
def test_states_are_those_of_a_whole_forward_and_nothing_above_them_is_run(lm: LM, kind: str) -> None:
    batch, ran, site = lm.encode(["Ann was born in", "music is"]), list[int](), Site(kind, 0)
    with ExitStack() as stack, torch.no_grad():
        for layer, block in enumerate(lm.arch.blocks):
            stack.callback(block.register_forward_hook(lambda *_, layer=layer: ran.append(layer)).remove)
        whole = lm.run(batch, capture=[site]).states[site]
        assert ran == list(range(lm.n_layers)), "the control: a whole forward runs all blocks"
        ran.clear()
        assert torch.equal(lm.states(batch, [site])[site], whole)
        assert ran == [0]
        ran.clear()
        assert lm.states(batch, []) == {}
        assert ran == list(range(lm.n_layers)), "without sites, whatever else is in the forward sees it end"
    assert torch.isfinite(lm.logits(batch)).all(), "the next forward runs to its end"


def test_tokens_behind_what_is_read_are_left_out_and_change_nothing(lm: LM) -> None:
    batch = lm.encode(["Ann was born in", "music is"], ["Lyon", "in the company"])
    read = torch.tensor([0, 1]), batch.prompt_lengths - 1
    with torch.no_grad():
        whole, short = lm.blocks(batch), lm.blocks(batch, read=read)
        torch.testing.assert_close(short.resid_pre[-1][read], whole.resid_pre[-1][read], rtol=1e-6, atol=1e-9)
    assert short.resid_pre[0].shape[1] == int(batch.prompt_lengths.max()) < whole.resid_pre[0].shape[1]
    assert short.layout.last.tolist() == (batch.prompt_lengths - 1).tolist()


def test_a_patch_that_looks_for_the_end_of_a_row_still_finds_it(lm: LM) -> None:
    batch = lm.encode(["Ann was born in"], ["Lyon"])
    vector = HiddenStatePatch(site=Site("resid_post", 0), vector=torch.ones(lm.d_model))
    with vector.applied(lm) as patched:
        blocks = patched.blocks(batch, read=(torch.tensor([0]), torch.tensor([0])))
    assert blocks.resid_pre[0].shape[1] == batch.input_ids.shape[1]


def test_patch_changes_only_what_comes_after_it(lm: LM) -> None:
    """Earlier layers and earlier tokens stay equal to the bit; the patched state and the logits behind it do not."""
    batch, token = lm.encode(PROMPTS[:1]), 2
    sites = all_sites(lm)
    plain = lm.run(batch, capture=sites)
    for kind in lm.arch.kinds:
        site = Site(kind, 0 if kind == "embed" else 1)
        patched = lm.run(batch, capture=sites, patch={site: bump(token)})
        for other in sites:
            before, after = plain.states[other], patched.states[other]
            assert torch.equal(before[:, :token], after[:, :token]), f"{site} changed an earlier token at {other}"
            earlier = other.layer < site.layer or (
                other.layer == site.layer and KINDS.index(other.kind) < KINDS.index(site.kind)
            )
            if earlier and not (lm.arch.parallel and other.layer == site.layer):
                assert torch.equal(before, after), f"{site} changed {other}, which comes before it"
        assert not torch.equal(plain.states[site][:, token], patched.states[site][:, token])
        assert not torch.allclose(plain.logits[:, token:], patched.logits[:, token:]), f"{site} has no effect"
        assert torch.equal(plain.logits[:, :token], patched.logits[:, :token])


def test_patch_sets_the_state_that_the_rest_of_the_model_reads(lm: LM) -> None:
    """A state taken from one prompt and put into another gives what the stream's arithmetic says."""
    batch = lm.encode(PROMPTS)
    last = LAYERS - 1
    wanted = torch.randn_like(lm.embed(batch.input_ids))
    for kind in ("attn_out", "mlp_out"):
        run = lm.run(
            batch, capture=[Site("resid_pre", last), Site("attn_out", last), Site("mlp_out", last),
                            Site("resid_post", last)], patch={Site(kind, last): lambda state: wanted}
        )  # fmt: skip
        assert torch.equal(run.states[Site(kind, last)], wanted)
        total = sum(run.states[Site(part, last)] for part in ("resid_pre", "attn_out", "mlp_out"))
        close(lm, run.states[Site("resid_post", last)], total)
    run = lm.run(batch, patch={Site("resid_post", last): lambda state: wanted})
    close(lm, run.logits, lm.unembed(wanted))


def test_patched_middle_reaches_the_mlp_and_the_skip_connection() -> None:
    for family in ("gpt2", "gpt_neox-sequential", "llama"):
        lm = make_lm(family)
        batch, layer = lm.encode(PROMPTS), 1
        wanted = torch.randn_like(lm.embed(batch.input_ids))
        sites = [Site(kind, layer) for kind in ("resid_mid", "mlp_in", "mlp_out", "resid_post")]
        run = lm.run(batch, capture=sites, patch={sites[0]: lambda state, new=wanted: new})
        mid, seen, out, post = (run.states[site] for site in sites)
        assert torch.equal(mid, wanted)
        torch.testing.assert_close(post, wanted + out)
        norm = lm.arch.hook_point(sites[0]).module
        torch.testing.assert_close(seen, norm(wanted))


def test_gradients_reach_what_a_patch_uses(lm: LM) -> None:
    """The derivative of a log-probability with respect to an added vector equals its difference quotient."""
    batch = lm.encode([PROMPTS[0]], ["Paris"])
    last = int(batch.prompt_lengths) - 1
    for kind in lm.arch.kinds:
        site = Site(kind, 0 if kind == "embed" else 1)

        def logprob(vector: Tensor, site: Site = site) -> Tensor:
            with lm.hooked(
                patch={site: lambda state: state + vector * (torch.arange(state.shape[1])[:, None] == last)}
            ):
                return lm.score_batch(batch).logprob[0]

        vector = torch.zeros(lm.arch.width(site), dtype=torch.float64, requires_grad=True)
        [gradient] = torch.autograd.grad(logprob(vector), vector)
        # GPT-J's attention and the Llama families' norms round to float32 inside: a longer step, a wider bound.
        step, bound = (1e-5, 1e-6) if lm.arch.family in ("gpt2", "gpt_neox") else (1e-3, 1e-2)
        direction = gradient / gradient.norm()
        quotient = (logprob(step * direction) - logprob(-step * direction)) / (2 * step)
        assert float(gradient.norm()) == pytest.approx(float(quotient), rel=bound), site
        assert float(gradient.norm()) > 1e-3, "control: there is something to compare"


def test_hooks_come_off_also_when_the_body_raises(lm: LM) -> None:
    def count() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())

    before = count()
    during: list[int] = []
    with pytest.raises(ZeroDivisionError), lm.hooked(capture=all_sites(lm)):
        during.append(count()) or 1 / 0
    assert during[0] > before, "control: they were on"
    with pytest.raises(ZeroDivisionError):
        lm.run(lm.encode(PROMPTS), patch={Site("mlp_out", 0): lambda state: state / (1 // 0)})
    lm.blocks(lm.encode(PROMPTS))
    assert count() == before


def test_patch_of_another_shape_is_refused() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(BadInput, match=r"mlp_out\.1.*shape"):
        lm.run(lm.encode(PROMPTS), patch={Site("mlp_out", 1): lambda state: state[:, :1]})


# --- blocks ---------------------------------------------------------------------------------------------------


def test_blocks_repeat_the_forward_from_every_layer(lm: LM) -> None:
    batch = lm.encode(PROMPTS)
    logits, blocks = lm.logits(batch), lm.blocks(batch)
    assert len(blocks.resid_pre) == LAYERS + 1
    for start in range(LAYERS + 1):
        close(lm, lm.unembed(blocks.forward(blocks.resid_pre[start], start)), logits)
        for stop in range(start, LAYERS + 1):
            close(lm, blocks.forward(blocks.resid_pre[start], start, stop), blocks.resid_pre[stop])
    # control: starting one layer late is another computation
    assert not torch.allclose(lm.unembed(blocks.forward(blocks.resid_pre[0], 1)), logits)


def test_one_row_lends_its_call_to_many(lm: LM) -> None:
    batch = lm.encode(PROMPTS[:1])
    blocks = lm.blocks(batch)
    shifts = torch.randn(5, 1, lm.d_model, dtype=torch.float64)
    hidden = blocks.resid_pre[1] + shifts
    together = blocks.forward(hidden, 1)
    for row in range(5):
        alone = lm.run(
            batch, capture=[Site("resid_post", LAYERS - 1)],
            patch={Site("resid_pre", 1): lambda state, row=row: state + shifts[row]},
        )  # fmt: skip
        close(lm, together[row], alone.states[Site("resid_post", LAYERS - 1)][0])
    assert not torch.allclose(together[0], together[1])


def test_blocks_take_patches_and_captures_like_a_whole_forward(lm: LM) -> None:
    batch, site, later = lm.encode(PROMPTS), Site("mlp_out", 1), Site("attn_out", 2)
    whole = lm.run(batch, capture=[later], patch={site: bump(2)})
    blocks = lm.blocks(batch)
    with lm.hooked(capture=[later]) as states:
        close(lm, lm.unembed(blocks.forward(blocks.resid_pre[1], 1, patch={site: bump(2)})), whole.logits)
    close(lm, states[later], whole.states[later])


def test_blocks_are_differentiable(lm: LM) -> None:
    blocks = lm.blocks(lm.encode(PROMPTS[:1]))
    hidden = blocks.resid_pre[1].detach().requires_grad_(True)
    vector = torch.zeros(lm.d_model, dtype=torch.float64, requires_grad=True)
    out = lm.unembed(blocks.forward(hidden, 1, patch={Site("mlp_out", 2): lambda state: state + vector}))
    out.log_softmax(-1)[0, -1, 5].backward()
    for leaf in (hidden, vector):
        assert leaf.grad is not None
        assert float(leaf.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in lm.model.parameters())


def test_blocks_use_the_weights_as_they_are_now(lm: LM) -> None:
    batch = lm.encode(PROMPTS)
    blocks = lm.blocks(batch)
    weight = lm.weight(2, "down").parameter
    old = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(2)
        close(lm, lm.unembed(blocks.forward(blocks.resid_pre[2], 2)), lm.logits(batch))
        weight.copy_(old)
    close(lm, lm.unembed(blocks.forward(blocks.resid_pre[2], 2)), lm.logits(batch))


def test_blocks_refuse_what_does_not_fit() -> None:
    lm = make_lm("gpt2")
    blocks = lm.blocks(lm.encode(PROMPTS))
    with pytest.raises(BadInput, match="does not fit"):
        blocks.forward(blocks.resid_pre[0][:2])
    with pytest.raises(BadInput, match="does not fit"):
        blocks.forward(blocks.resid_pre[0][:, :2])
    with pytest.raises(BadInput, match="within"):
        blocks.forward(blocks.resid_pre[0], 0, LAYERS + 1)


# --- attention without a mask ---------------------------------------------------------------------------------


def test_no_mask_reaches_the_fast_attention_kernel(lm: LM) -> None:
    """Right padding needs none, and the kernel is only fast without; GPT-J's own attention and windows need one."""
    blocks = lm.blocks(lm.encode(PROMPTS))
    for args, kwargs in blocks.calls:
        masks = [a for a in (*args, kwargs.get("attention_mask")) if isinstance(a, Tensor)]
        if lm.arch.family == "gptj" or lm.name.endswith("window"):
            assert all(mask.shape[0] == 1 for mask in masks)
        else:
            assert masks == []
