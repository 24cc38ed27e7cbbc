"""Neuron-level attribution and exact ablation, each against an independent computation on the whole model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import FAMILIES
from known import FACTS, knowing
from paramem.arch import Site
from paramem.attention import attn_norm, value_keys
from paramem.detection.ablation import (
    ablate_each,
    deletion,
    overlap,
    random_scores,
    rank_correlation,
    value_vectors,
)
from paramem.detection.neuron_attribution import (
    SCORES,
    AttributionSettings,
    Lens,
    attention_neurons,
    attention_scores,
    promoted_tokens,
    query_neurons,
    query_scores,
    value_scores,
)
from paramem.detection.neurons import answer_logits, answer_probabilities, ask
from paramem.errors import BadInput, BadParameter
from paramem.lm import log_probs
from paramem.models import LM
from paramem.norms import direction, scale

SOME = FACTS[:2]
# Root-mean-square norms compute in float32 whatever the model's type.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
LAYER, NEURONS = 1, (0, 7, 39)


def context(lm: LM, row: int, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A fact's state in front of the MLP's output, the activations, and the final state, at its last token."""
    batch = ask(lm, SOME[row : row + 1]).batch
    sites = [Site(kind, layer) for kind in ("resid_pre", "attn_out", "mlp_hidden")]
    end = Site("resid_post", lm.n_layers - 1)
    states = {site.kind: state[0, -1] for site, state in lm.states(batch, [*sites, end]).items()}
    return states["resid_pre"] + states["attn_out"], states["mlp_hidden"], states["resid_post"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_is_the_rise_of_the_log_probability_when_the_neuron_is_added(family: str) -> None:
    lm = knowing(family)
    scores = value_scores(lm, SOME, AttributionSettings(scale="own"))
    assert scores.shape == (2, lm.n_layers, lm.d_mlp)
    for row, answer in enumerate(ask(lm, SOME).answers):
        base, m, _ = context(lm, row, LAYER)
        before = log_probs(lm.unembed(base))[answer]
        for k in NEURONS:
            after = log_probs(lm.unembed(base + m[k] * value_vectors(lm, LAYER)[k]))[answer]
            torch.testing.assert_close(scores[row, LAYER, k], after - before, **CLOSE)
    assert not torch.allclose(scores[0], scores[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_at_the_final_scale_the_final_state_reads_as_what_the_model_says(family: str) -> None:
    lm, asked = knowing(family), ask(knowing(family), SOME)
    said = log_probs(answer_logits(lm, asked)).gather(1, asked.answers[:, None])[:, 0]
    for row, answer in enumerate(asked.answers):
        base, m, final = context(lm, row, lm.n_layers - 1)
        lens = Lens(lm=lm, answer=answer, scale=scale(lm.arch.final_norm, final))
        torch.testing.assert_close(log_probs(lens.logits(final))[answer], said[row], **CLOSE)
        assert not torch.isclose(log_probs(lens.logits(2 * final))[answer], said[row])  # its own scale would undo this
        vectors = value_vectors(lm, lm.n_layers - 1)
        each = lens.with_each(base, m, vectors, promoted_tokens(lm, vectors))
        by_hand = log_probs(lens.logits(base + m[:, None] * vectors))[:, answer]
        torch.testing.assert_close(each, by_hand)


@pytest.mark.parametrize("kind", SCORES)
def test_each_score_by_hand(kind: str) -> None:
    lm = knowing("gpt2")
    found = value_scores(lm, SOME[:1], AttributionSettings(score=kind, scale="own"))[0, LAYER]  # type: ignore[arg-type]
    base, m, _ = context(lm, 0, LAYER)
    answer, vectors = int(ask(lm, SOME[:1]).answers[0]), value_vectors(lm, LAYER)
    for k in NEURONS:
        v = m[k] * vectors[k]
        before, after = (log_probs(lm.unembed(x))[answer] for x in (base, base + v))
        tokens = lm.arch.head.weight @ direction(lm.arch.final_norm, v)
        rank = 1 + int((tokens > tokens[answer]).sum())
        expected = {
            "log increase": after - before,
            "increase": after.exp() - before.exp(),
            "log probability": log_probs(lm.unembed(v))[answer],
            "norm": vectors[k].norm(),
            "coefficient": m[k].abs(),
            "rank": torch.tensor(1 / rank),
            "coefficient x norm": m[k].abs() * vectors[k].norm(),
            "coefficient x rank": m[k].abs() / rank,
        }[kind]
        assert float(found[k]) == pytest.approx(float(expected), rel=1e-6)
    assert found.std() > 0


@pytest.mark.parametrize("where", ["last", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_ablation_is_what_the_model_says_with_the_neuron_at_zero(family: str, where: str) -> None:
    lm, asked = knowing(family), ask(knowing(family), SOME)
    lost = ablate_each(lm, SOME, where=where, rows=16)  # type: ignore[arg-type]
    clean = answer_probabilities(lm, asked).log()
    for layer in range(lm.n_layers):
        for k in NEURONS:
            without = answer_probabilities(lm, asked, [[(layer, k)]] * 2, where=where).log()  # type: ignore[arg-type]
            torch.testing.assert_close(lost[:, layer, k], clean - without, **CLOSE)
    other = ablate_each(lm, SOME, where="all" if where == "last" else "last")
    assert not torch.allclose(other[:, 0], lost[:, 0])  # control: the place matters below the last layer


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_neurons_are_what_the_kernel_itself_mixes(family: str) -> None:
    lm = knowing(family)
    asked = ask(lm, SOME[:1])
    found = attention_scores(lm, SOME[:1], AttributionSettings(scale="own"))[0]
    heads, width = lm.arch.n_heads, found.shape[-1]
    assert found.shape == (lm.n_layers, asked.batch.input_ids.shape[1], heads, width)
    kernel = lm.model.config._attn_implementation
    lm.model.set_attn_implementation("eager")
    try:
        weights = lm.model(asked.batch.input_ids, output_attentions=True).attentions[LAYER][0, :, -1]
    finally:
        lm.model.set_attn_implementation(kernel)
    state = lm.states(asked.batch, [Site("resid_pre", LAYER)])[Site("resid_pre", LAYER)][0]
    block = lm.arch.blocks[LAYER]
    x = attn_norm(lm.arch, LAYER)(state)
    if family == "gpt2":
        read, out = block.attn.c_attn(x)[:, 2 * lm.d_model :].view(-1, heads, width), block.attn.c_proj.weight
    else:
        read = block.self_attn.v_proj(x).view(len(x), -1, width).repeat_interleave(2, 1)
        out = block.self_attn.o_proj.weight.T
    before = log_probs(lm.unembed(state[-1]))[asked.answers[0]]
    for token, head, k in [(0, 0, 0), (1, 3, 2), (2, 1, width - 1)]:
        v = weights[head, token] * read[token, head, k] * out[head * width + k]
        after = log_probs(lm.unembed(state[-1] + v))[asked.answers[0]]
        torch.testing.assert_close(found[LAYER, token, head, k], after - before, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shares_of_a_value_neuron_add_up_to_one(family: str) -> None:
    """Neurons below, attention outputs, biases and the embedding make up the whole state that the subkey reads."""
    lm, settings = knowing(family), AttributionSettings(value_neurons=1)
    scores = attention_scores(lm, SOME[:1], settings)[0]
    layer, token, head, k = (int(i) for i in torch.unravel_index(scores.argmax(), scores.shape))
    batch, below = ask(lm, SOME[:1]).batch, range(layer)
    sites = [Site(kind, i) for kind in ("mlp_hidden", "mlp_out", "attn_out", "resid_pre") for i in range(lm.n_layers)]
    at = {site: state[0, token] for site, state in lm.states(batch, sites).items()}
    key, norm = value_keys(lm.arch, layer)[head, k], attn_norm(lm.arch, layer)

    def share(part: torch.Tensor) -> torch.Tensor:
        return direction(norm, part) @ key / (direction(norm, at[Site("resid_pre", layer)]) @ key)

    biases = [at[Site("mlp_out", i)] - at[Site("mlp_hidden", i)] @ value_vectors(lm, i) for i in below]
    rest = [at[Site("resid_pre", 0)], *[at[Site("attn_out", i)] for i in below], *biases]
    found = query_scores(lm, SOME[:1], settings)[0]
    total = found.sum() / scores.max() + sum(share(part) for part in rest)
    assert float(total) == pytest.approx(1.0, rel=1e-4)
    assert found[layer:].abs().max() == 0
    if layer:
        assert abs(float(found.sum() / scores.max()) - 1.0) > 1e-3  # control: neurons alone are not the whole state


def test_plain_inner_products_are_what_a_subkey_reads_of_the_neurons_below() -> None:
    lm, settings = knowing("gpt2"), AttributionSettings(value_neurons=1, query="inner product")
    scores = attention_scores(lm, SOME[:1], settings)[0]
    layer, token, head, k = (int(i) for i in torch.unravel_index(scores.argmax(), scores.shape))
    assert layer > 0
    states = lm.states(ask(lm, SOME[:1]).batch, [Site("mlp_hidden", below) for below in range(layer)])
    found = query_scores(lm, SOME[:1], settings)[0]
    norm, key = attn_norm(lm.arch, layer), value_keys(lm.arch, layer)[head, k]
    for below, neuron in [(0, n) for n in NEURONS]:
        added = states[Site("mlp_hidden", below)][0, token, neuron] * value_vectors(lm, below)[neuron]
        torch.testing.assert_close(found[below, neuron], direction(norm, added) @ key, **CLOSE)
    shares = query_scores(lm, SOME[:1], AttributionSettings(value_neurons=1))[0]
    assert not torch.allclose(shares, found)  # one value neuron: the same ranking up to a factor, not the same scores
    factor = shares[0, 0] / found[0, 0]
    torch.testing.assert_close(shares, factor * found, rtol=1e-3, atol=1e-6)


def test_facts_scored_together_are_scored_as_alone() -> None:
    lm = knowing("gpt2")
    for settings in (AttributionSettings(), AttributionSettings(query="inner product")):
        together = query_scores(lm, FACTS, settings)
        alone = torch.cat([query_scores(lm, [fact], settings) for fact in FACTS])
        torch.testing.assert_close(together, alone, **CLOSE)
        assert not torch.allclose(together, alone.roll(1, 0))  # control: the facts differ
    attended = attention_scores(lm, FACTS)
    for fact, found in zip(FACTS, attended, strict=True):
        torch.testing.assert_close(found, attention_scores(lm, [fact])[0], **CLOSE)


def test_chunks_of_facts_and_neurons_change_nothing() -> None:
    lm = knowing("gpt2")
    torch.testing.assert_close(value_scores(lm, FACTS, AttributionSettings(rows=2)), value_scores(lm, FACTS))
    torch.testing.assert_close(ablate_each(lm, SOME, rows=7), ablate_each(lm, SOME))


def test_deletion_follows_the_ranking_and_reports_the_model_without_the_neurons() -> None:
    lm, asked = knowing("gpt2"), ask(knowing("gpt2"), SOME)
    truth = ablate_each(lm, SOME, where="all")
    table = deletion(lm, SOME, {"exact": truth, "reversed": -truth}, ks=[1, 5]).set_index(["ranking", "k", "fact"])
    first = [[divmod(int(row.argmax()), lm.d_mlp)] for row in truth.flatten(1)]
    without = answer_probabilities(lm, asked, first)
    assert table.loc[("exact", 1)]["probability"].to_list() == pytest.approx(without.tolist())
    assert table.loc[("exact", 1)]["drop"].to_list() == pytest.approx(truth.flatten(1).amax(1).tolist(), rel=1e-6)
    assert (table.loc[("exact", 5)]["drop"] > table.loc[("reversed", 5)]["drop"]).all()


def test_overlap_and_rank_correlation() -> None:
    truth = torch.arange(12.0).view(1, 3, 4)
    assert overlap(truth, truth, 3).tolist() == [1.0]
    assert overlap(-truth, truth, 3).tolist() == [0.0]
    assert rank_correlation(truth**3, truth)[0] == pytest.approx(1.0)
    assert rank_correlation(-truth, truth)[0] == pytest.approx(-1.0)


def test_chance_is_a_ranking_of_its_own_for_each_fact() -> None:
    lm = knowing("gpt2")
    drawn = random_scores(lm, 2, np.random.default_rng(0))
    assert drawn.shape == (2, lm.n_layers, lm.d_mlp)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn, random_scores(lm, 2, np.random.default_rng(0)))


def test_bad_input() -> None:
    lm = knowing("gpt2")
    unknown = [SOME[0].model_copy(update={"object": "music"})]
    for look in (value_scores, attention_scores, query_scores, ablate_each):
        with pytest.raises(BadInput, match="does not answer 1 of 1"):
            look(lm, unknown)
    with pytest.raises(BadParameter, match="the scores are log increase"):
        AttributionSettings(score="loudness")  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="'share' or 'inner product'"):
        AttributionSettings(query="cosine")  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="at least 1"):
        AttributionSettings(value_neurons=0)
    with pytest.raises(BadParameter, match="'last' token or at 'all'"):
        ablate_each(lm, SOME, where="first")  # type: ignore[arg-type]


def test_the_rows_of_attention_and_query_neurons_are_their_scores() -> None:
    lm, settings = knowing("llama"), AttributionSettings(value_neurons=3)
    table = attention_neurons(lm, SOME[:2], settings)
    assert list(table.columns) == ["fact", "layer", "token", "head", "neuron", "score"]
    for fact, scores in zip(SOME[:2], attention_scores(lm, SOME[:2], settings), strict=True):
        rows = table[table["fact"] == fact.id]
        assert len(rows) == scores.numel()
        best = rows.loc[rows["score"].idxmax()]
        where = tuple(int(best[name]) for name in ("layer", "token", "head", "neuron"))
        assert float(scores[where]) == pytest.approx(float(scores.max()))
        assert where != tuple(int(i) for i in torch.unravel_index(scores.argmin(), scores.shape)), "the control"
    fed = query_neurons(lm, SOME[:2], settings).pivot_table(index=["fact", "layer"], columns="neuron", values="score")
    torch.testing.assert_close(
        torch.tensor(fed.loc[SOME[0].id].to_numpy()), query_scores(lm, SOME[:2], settings)[0].double().cpu()
    )
