"""The lens on states and weights: what it must say on any model, and what clamping a named neuron must do."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from families import FAMILIES, make_lm
from known import FACTS, knowing
from paramem.arch import Site
from paramem.detection.lens import (
    FeatureSettings,
    LensSettings,
    clamp,
    clamp_levels,
    feature_neurons,
    kept_names,
    logit_lens,
    names,
    token_names,
    weight_rows,
)
from paramem.detection.neurons import ask
from paramem.errors import BadParameter


@pytest.mark.parametrize("family", FAMILIES)
def test_behind_the_last_block_the_lens_is_the_model(family: str) -> None:
    lm = knowing(family)
    table = logit_lens(lm, FACTS)
    end = table[table["layer"] == lm.n_layers - 1]
    asked = ask(lm, FACTS)
    with torch.no_grad():
        expected = lm.next_logprobs([fact.prompt for fact in FACTS]).exp().gather(1, asked.answers[:, None])[:, 0]
    last = end[end["role"] == "last"].set_index("fact").loc[[fact.id for fact in FACTS]]
    assert last["probability"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-9)
    assert (last["rank"] == 1).all(), "the models know these facts"
    assert end["decided"].all()
    assert not table[table["layer"] == 0]["decided"].all(), "the control"


def test_the_rank_counts_the_tokens_above() -> None:
    lm = make_lm("gpt2")
    fact = FACTS[0]
    row = logit_lens(lm, [fact]).query("layer == 1 and role == 'last'").iloc[0]
    site = Site("resid_post", 1)
    with torch.no_grad():
        logits = lm.unembed(lm.states(lm.encode([fact.prompt]), [site])[site][0, -1])
    answer = int(ask(lm, [fact]).answers[0])
    assert row["rank"] == int((logits > logits[answer]).sum()) + 1
    assert row["rank"] > 1, "the control: a random model does not know it"


def test_a_module_can_be_read_instead_of_the_stream() -> None:
    lm = knowing("llama")
    stream, mlp = (logit_lens(lm, FACTS, LensSettings(site=site)) for site in ("resid_post", "mlp_out"))
    assert len(stream) == len(mlp)
    assert not stream["probability"].equals(mlp["probability"])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
@pytest.mark.parametrize("role", ["up", "down"])
def test_a_row_belongs_to_its_neuron(family: str, role: str) -> None:
    lm = make_lm(family)
    place = Site("mlp_hidden", 1)
    batch = lm.encode(["The capital of France is"])
    rows = weight_rows(lm, 1, role)
    assert rows.shape == (lm.d_mlp, lm.d_model)
    with torch.no_grad():
        if role == "up":
            x = torch.randn(lm.d_model, dtype=lm.dtype, generator=torch.Generator().manual_seed(0))
            linear = lm.arch.linear(1, "up")
            bias = getattr(linear, "bias", None)
            expected = linear(x) - (0 if bias is None else bias)
            torch.testing.assert_close(rows @ x, expected)
        else:
            site = Site("mlp_out", 1)
            more = {place: lambda h: torch.cat([h[..., :3], h[..., 3:4] + 1, h[..., 4:]], -1)}
            change = lm.run(batch, capture=[site], patch=more).states[site] - lm.states(batch, [site])[site]
            torch.testing.assert_close(change[0, 0], rows[3])


def test_the_gate_can_be_read_where_there_is_one() -> None:
    assert weight_rows(make_lm("llama"), 0, "gate").shape == weight_rows(make_lm("llama"), 0, "up").shape
    with pytest.raises(BadParameter, match="no weight 'gate' in gpt2"):
        weight_rows(make_lm("gpt2"), 0, "gate")


def test_a_neuron_is_named_after_the_row_of_the_head_it_points_at() -> None:
    head = torch.eye(4)
    weight = torch.tensor([[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    name, probability, top = token_names(weight, head)
    assert name[0] == 1
    assert probability[0] > probability[1]
    assert top.all()
    name, _, top = token_names(weight, head, among=torch.tensor([2, 3]))
    assert name.tolist() == [2, 2]
    assert top.tolist() == [False, True]


def test_clamping_a_neuron_that_writes_a_token_raises_this_token() -> None:
    lm = make_lm("gpt2")
    asked = ask(lm, FACTS[:4])
    _, weight, _ = lm.weight(2, "down")
    token = 17
    with torch.no_grad():
        weight[5] = lm.arch.head.weight[token] * 10
    plain = lm.next_logprobs([fact.prompt for fact in FACTS[:4]])
    up = clamp(lm, asked, (2, 5), 3.0, FeatureSettings())
    assert (up[:, token] > plain[:, token] + 1).all()
    down = clamp(lm, asked, (2, 5), -3.0, FeatureSettings())
    assert (down[:, token] < plain[:, token]).all(), "the control"
    torch.testing.assert_close(lm.next_logprobs([fact.prompt for fact in FACTS[:4]]), plain)


def test_the_level_is_the_largest_activation_of_the_layer() -> None:
    lm = make_lm("llama")
    asked, site = ask(lm, FACTS), Site("mlp_hidden", 1)
    states = [lm.states(lm.encode([fact.prompt]), [site])[site] for fact in FACTS]
    largest = max(float(state.max()) for state in states)
    assert clamp_levels(lm, asked, FeatureSettings(level=2.0))[1] == pytest.approx(2 * largest)
    assert clamp_levels(lm, asked, FeatureSettings(rows=2, level=2.0))[1] == pytest.approx(2 * largest)


def test_named_neurons_carry_answers_and_another_name_as_control() -> None:
    lm = knowing("gpt2")
    table = feature_neurons(lm, FACTS, FeatureSettings(neurons=20))
    answers = {lm.tokenizer.decode([i]) for i in ask(lm, FACTS).answers.tolist()}
    assert len(table) == 20
    assert set(table["name"]) <= answers
    assert not table["effect"].equals(table["other_effect"])
    most = names(lm, "up", ask(lm, FACTS).answers.unique())
    assert table["top"].sum() == min(20, most["top"].sum())


def test_kept_names_counts_by_layer() -> None:
    before = pd.DataFrame({"layer": [0, 0, 1], "neuron": [0, 1, 0], "name": [5, 6, 7]})
    assert kept_names(before, before).tolist() == [1.0, 1.0]
    assert kept_names(before, before.assign(name=[5, 9, 9])).tolist() == [0.5, 0.0]


def test_bad_input() -> None:
    with pytest.raises(BadParameter, match="prompts=0"):
        FeatureSettings(prompts=0)
    with pytest.raises(BadParameter, match="rows=0"):
        LensSettings(rows=0)
    same = [fact for fact in FACTS if fact.object == "Paris"]
    with pytest.raises(BadParameter, match="1 different names"):
        feature_neurons(knowing("gpt2"), same)
