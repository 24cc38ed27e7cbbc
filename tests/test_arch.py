"""The architecture maps: every site is what its name says, in every family, against values computed from the parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from families import D_MLP, D_MODEL, FAMILIES, LAYERS, PARALLEL, make_lm, make_model
from paramem.arch import KINDS, Site, architecture_of, require_supported
from paramem.errors import BadParameter, BadSite, UnsupportedArchitecture
from paramem.lm import LM

PROMPTS = ["The capital of France is", "Anna", "Ann Berg was born in Lyon and"]


def states_of(lm: LM) -> tuple[dict[Site, Tensor], Tensor, Tensor]:
    """All states of one forward, its logits, and the mask of real tokens."""
    batch = lm.encode(PROMPTS)
    sites = [site for kind in lm.arch.kinds for site in lm.arch.sites(kind)]
    run = lm.run(batch, capture=sites)
    return run.states, run.logits, batch.attention_mask.bool()


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> LM:
    return make_lm(request.param)


def test_residual_stream_adds_up(lm: LM) -> None:
    states, _, _ = states_of(lm)
    for layer in range(LAYERS):
        at = {kind: states[Site(kind, layer)] for kind in lm.arch.kinds if kind != "embed"}
        total = at["resid_pre"] + at["attn_out"] + at["mlp_out"]
        torch.testing.assert_close(at["resid_post"], total)
        # control: each summand is needed
        assert not torch.allclose(at["resid_post"], total - at["attn_out"])
        assert not torch.allclose(at["resid_post"], total - at["mlp_out"])
        if "resid_mid" in at:
            torch.testing.assert_close(at["resid_mid"], at["resid_pre"] + at["attn_out"])
            torch.testing.assert_close(at["resid_post"], at["resid_mid"] + at["mlp_out"])


def test_layers_are_chained_and_start_at_the_embedding(lm: LM) -> None:
    states, _, _ = states_of(lm)
    torch.testing.assert_close(states[Site("embed", 0)], states[Site("resid_pre", 0)])
    torch.testing.assert_close(states[Site("embed", 0)], lm.embed(lm.encode(PROMPTS).input_ids))
    for layer in range(LAYERS - 1):
        torch.testing.assert_close(states[Site("resid_post", layer)], states[Site("resid_pre", layer + 1)])
        assert not torch.allclose(states[Site("resid_post", layer)], states[Site("resid_pre", layer)])


def test_unembedding_the_last_state_gives_the_logits(lm: LM) -> None:
    states, logits, _ = states_of(lm)
    last = states[Site("resid_post", LAYERS - 1)]
    torch.testing.assert_close(lm.unembed(last), logits)
    # control: the final norm is not the identity, and the state before is another
    assert not torch.allclose(lm.arch.head(last), logits)
    assert not torch.allclose(lm.unembed(states[Site("resid_pre", LAYERS - 1)]), logits)


@pytest.mark.parametrize(
    ("role", "before", "after"), [("down", "mlp_hidden", "mlp_out"), ("attn_out", "attn_hidden", "attn_out")]
)
def test_projection_maps_hidden_to_out(lm: LM, role: str, before: str, after: str) -> None:
    states, _, _ = states_of(lm)
    for layer in range(LAYERS):
        name, weight, transposed = lm.weight(layer, role)
        assert lm.model.get_parameter(name) is weight
        assert transposed == (lm.arch.family == "gpt2")
        matrix = weight.T if transposed else weight  # [out, in]
        bias = getattr(lm.arch.linear(layer, role), "bias", None)
        out = states[Site(before, layer)] @ matrix.T + (0 if bias is None else bias)
        torch.testing.assert_close(out, states[Site(after, layer)])
        # control: another layer's matrix does not do it
        other = lm.weight((layer + 1) % LAYERS, role).parameter
        wrong = states[Site(before, layer)] @ (other if transposed else other.T) + (0 if bias is None else bias)
        assert not torch.allclose(wrong, states[Site(after, layer)])


def test_mlp_hidden_comes_from_mlp_in(lm: LM) -> None:
    states, _, _ = states_of(lm)
    for layer in range(LAYERS):
        seen = states[Site("mlp_in", layer)]
        up = lm.arch.linear(layer, "up")(seen)
        hidden = states[Site("mlp_hidden", layer)]
        mlp = lm.arch.hook_point(Site("mlp_out", layer)).module
        if "gate" in lm.arch.layout.weights:
            torch.testing.assert_close(hidden, mlp.act_fn(lm.arch.linear(layer, "gate")(seen)) * up)
        else:
            torch.testing.assert_close(hidden, mlp.act(up))


def test_parallel_families_have_no_state_between(lm: LM) -> None:
    parallel = lm.name.removeprefix("tiny-") in PARALLEL
    assert lm.arch.parallel == parallel == ("resid_mid" not in lm.arch.kinds)
    if parallel:
        with pytest.raises(BadSite, match="parallel"):
            lm.arch.hook_point(Site("resid_mid", 0))


def test_widths_and_sizes(lm: LM) -> None:
    assert (lm.n_layers, lm.d_model, lm.d_mlp) == (LAYERS, D_MODEL, D_MLP)
    states, logits, _ = states_of(lm)
    assert all(state.shape[-1] == lm.arch.width(site) for site, state in states.items())
    assert logits.shape[-1] == lm.arch.vocabulary
    assert lm.arch.width(Site("mlp_hidden", 0)) == D_MLP != D_MODEL


@pytest.mark.parametrize("site", [Site("mlp_out", LAYERS), Site("mlp_out", -1), Site("embed", 1), Site("nowhere", 0)])
def test_unknown_sites_are_refused(lm: LM, site: Site) -> None:
    with pytest.raises(BadSite, match=site.kind):
        lm.run(lm.encode(PROMPTS), capture=[site])


def test_unknown_weights_are_refused(lm: LM) -> None:
    with pytest.raises(BadParameter, match=r"nothing.*down"):
        lm.weight(0, "nothing")
    with pytest.raises(BadParameter, match=r"layer 7 .*0\.\.2"):
        lm.weight(7, "down")


def test_sites_have_a_text_form() -> None:
    for kind in KINDS:
        assert Site.parse(str(Site(kind, 11))) == Site(kind, 11)
    for text in ("mlp_out", "mlp_out.", "mlp_out.x", "nowhere.3", ".3", ""):
        with pytest.raises(BadSite):
            Site.parse(text)


def test_other_families_are_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"'bert'.*gpt2"):
        require_supported("bert")
    model = make_model("gpt2")
    model.config.model_type = "bloom"
    with pytest.raises(UnsupportedArchitecture, match="bloom"):
        architecture_of(model)
