"""Knowledge entropy, continual learning and resuscitation: the definitions, and what must hold on any model."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from families import FAMILIES, make_lm
from known import FACTS, TEXTS, knowing, taught
from paramem.arch import Site
from paramem.detection.knowledge_entropy import (
    EntropySettings,
    Learned,
    LearningSettings,
    Orders,
    ResuscitationSettings,
    continual_learning,
    entropy,
    knowledge_entropy,
    learning_orders,
    multipliers,
    resampled_entropy,
    resuscitate,
    text_coefficients,
)
from paramem.errors import BadInput, BadParameter
from paramem.material import checkpoints_of
from paramem.models import load

SOME = TEXTS["en"][:4]


def test_entropy_of_known_distributions() -> None:
    average = torch.tensor([[1.0, 1.0, 1.0, 1.0], [5.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    assert entropy(average).tolist() == pytest.approx([math.log(4), 0.0, math.log(2)])
    assert entropy(3 * average).tolist() == pytest.approx(entropy(average).tolist()), "only the shares count"


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
@pytest.mark.parametrize("kind", ["absolute", "positive"])
def test_coefficients_are_averaged_over_each_text_and_then_over_texts(family: str, kind: str) -> None:
    lm, site = knowing(family), Site("mlp_hidden", 1)
    ours = text_coefficients(lm, SOME, EntropySettings(coefficient=kind, rows=3))  # type: ignore[arg-type]
    for n, text in enumerate(SOME):
        state = lm.states(lm.encode([text]), [site])[site][0, 1:]  # without the start token
        expected = (state.abs() if kind == "absolute" else state.clamp(min=0)).mean(0)
        torch.testing.assert_close(ours[n, 1], expected)
        with_start = lm.states(lm.encode([text]), [site])[site][0].abs().mean(0)
        assert not torch.allclose(ours[n, 1], with_start), "the control"


def test_the_table_sums_to_the_models_entropy() -> None:
    lm = knowing("gpt2")
    table = knowledge_entropy(lm, SOME)
    expected = entropy(text_coefficients(lm, SOME).mean(0)).sum()
    assert table["entropy"].sum() == pytest.approx(float(expected))
    assert (table["effective"] <= 1).all()
    assert (table["effective"] > 0).all()


def test_a_layer_with_one_loud_memory_has_less_entropy() -> None:
    lm = make_lm("gpt2")
    before = knowledge_entropy(lm, SOME)["entropy"]
    bias = lm.arch.linear(1, "up").bias
    with torch.no_grad():
        bias[3] += 500.0
    after = knowledge_entropy(lm, SOME)["entropy"]
    assert after[1] < before[1] / 2
    assert after[0] == pytest.approx(before[0])


def test_bootstrap_samples_spread_around_the_entropy() -> None:
    coefficients = text_coefficients(knowing("gpt2"), TEXTS["en"])
    samples = resampled_entropy(coefficients, np.random.default_rng(0), resamples=50)
    again = resampled_entropy(coefficients, np.random.default_rng(0), resamples=50)
    assert np.array_equal(samples, again)
    assert samples.std() > 0
    assert abs(samples.mean() - float(entropy(coefficients.mean(0)).sum())) < 5 * samples.std() + 0.5
    one = coefficients[:1].expand(5, -1, -1)
    assert resampled_entropy(one, np.random.default_rng(0), resamples=5).std() < 1e-12, "the control"


def test_multipliers_bring_the_least_active_to_q_times_the_mean() -> None:
    average = torch.tensor([1.0, 2.0, 3.0, 10.0])
    u = multipliers(average, ResuscitationSettings(share=0.5, factor=2.0))
    assert (u * average)[:2].tolist() == pytest.approx([8.0, 8.0])
    assert u[2:].tolist() == [1.0, 1.0]
    control = multipliers(average, ResuscitationSettings(share=0.5, factor=2.0, which="random", seed=1))
    assert sorted(control.tolist()) == sorted(u.tolist())
    assert control[:2].tolist() == [1.0, 1.0], "the least active are left alone"
    few = multipliers(average, ResuscitationSettings(share=0.75, factor=2.0, which="random", seed=1))
    assert few[:3].tolist() == [1.0, 1.0, 1.0]
    assert float(few[3]) in multipliers(average, ResuscitationSettings(share=0.75, factor=2.0)).tolist()
    with pytest.raises(BadInput, match="1 memories are never active"):
        multipliers(torch.tensor([0.0, 1.0]), ResuscitationSettings())


@pytest.mark.parametrize("family", FAMILIES)
def test_resuscitation_scales_what_the_key_reads(family: str) -> None:
    lm, layer = knowing(family), 0
    average = text_coefficients(lm, SOME).mean(0)
    settings = ResuscitationSettings(share=0.4, factor=1.0)
    u = multipliers(average[layer], settings)
    place = Site("mlp_in", layer)
    up = lm.arch.linear(layer, "up")
    x = lm.states(lm.encode([SOME[0]]), [place])[place]
    with torch.no_grad():
        before = up(x)
        with resuscitate(lm, average, settings).applied(lm):
            after = up(x)
        torch.testing.assert_close(after, before * u)
        torch.testing.assert_close(up(x), before)
    assert (u > 1).any()
    assert (u == 1).any()


def test_in_a_gated_layer_the_coefficients_rise_to_the_mean() -> None:
    lm = knowing("llama")
    average = text_coefficients(lm, SOME).mean(0)
    with resuscitate(lm, average, ResuscitationSettings(share=0.5, factor=1.0)).applied(lm):
        raised = text_coefficients(lm, SOME).mean(0)
    low = average[0] <= average[0].quantile(0.5)
    torch.testing.assert_close(raised[0][low], average[0].mean().expand(int(low.sum())))
    assert float(entropy(raised[0])) > float(entropy(average[0]))


def test_continual_learning_takes_up_new_facts_and_leaves_the_model_alone() -> None:
    lm = taught("gpt2")
    before = lm.fingerprint()
    new = [fact.model_copy(update={"id": f"new/{i}", "object": "music"}) for i, fact in enumerate(FACTS[:2])]
    learned = continual_learning(lm, new, FACTS[2:], LearningSettings(epochs=20, batch=2, lr=1e-2))
    assert lm.fingerprint() == before
    assert learned.acquisition > 0.5
    assert learned.old["before"].all()
    assert 0 < learned.forgetting <= 1
    idle = continual_learning(lm, new, FACTS[2:], LearningSettings(epochs=1, batch=2, lr=1e-9))
    assert abs(idle.acquisition) < 1e-3, "the control: a training that changes nothing"
    assert idle.forgetting == 0


def table(before: list[float], after: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"fact": range(len(before)), "subject": range(len(before)), "before": before, "after": after})


def test_the_rates_are_those_of_the_paper() -> None:
    learned = Learned(new=table([-4.0, -6.0], [-1.0, -3.0]), old=table([1, 1, 1, 0], [1, 0, 1, 1]))
    assert learned.acquisition == pytest.approx(3 / 5)
    assert learned.forgetting == 0
    assert Learned(new=learned.new, old=table([1, 1], [1, 0])).forgetting == pytest.approx(0.5)
    with pytest.raises(BadInput, match="nothing can be forgotten"):
        _ = Learned(new=learned.new, old=table([0, 0], [0, 0])).forgetting


def test_samples_of_two_models_are_paired() -> None:
    one = Learned(new=table([-4.0, -6.0, -5.0], [-1.0, -3.0, -2.0]), old=table([1, 1, 1], [1, 0, 1]))
    two = Learned(new=table([-4.0, -6.0, -5.0], [-1.1, -3.1, -2.1]), old=one.old)
    a, b = (each.resampled(np.random.default_rng(3)) for each in (one, two))
    assert (a["acquisition"] > b["acquisition"]).all(), "better on every fact, so better in every paired sample"
    assert a["forgetting"].equals(b["forgetting"])
    unpaired = two.resampled(np.random.default_rng(4))
    assert (a["acquisition"].to_numpy() < unpaired["acquisition"].to_numpy()).any(), "the control"


def test_facts_of_one_subject_are_drawn_together() -> None:
    after = [-1.0, -1.0, -1.0, -3.0, -3.0, -3.0]
    alone = Learned(new=table([-4.0] * 6, after), old=table([1] * 6, [1] * 6))
    together = Learned(new=alone.new.assign(subject=[0, 0, 0, 1, 1, 1]), old=alone.old)
    two, six = (each.resampled(np.random.default_rng(0)) for each in (together, alone))
    assert set(two["log_p_new_after"]) == {-1.0, -2.0, -3.0}, "both people once, or one of them twice"
    assert len(set(six["log_p_new_after"].round(6))) == 7, "the control: facts drawn one by one"
    assert two["acquisition"].std() > 1.3 * six["acquisition"].std()
    assert learned_subjects() == {fact.subject for fact in FACTS[:2]}


def learned_subjects() -> set[str]:
    """The subjects that continual learning notes down."""
    idle = LearningSettings(epochs=1, batch=2, lr=1e-9)
    return set(continual_learning(taught("gpt2"), FACTS[:2], FACTS[2:], idle).new["subject"])


def test_orders_are_averaged_and_drawn_together() -> None:
    old = table([1] * 4, [1, 1, 0, 0])
    runs = [Learned(new=table([-4.0] * 4, after), old=old) for after in ([-1.0] * 4, [-2.0] * 4, [-3.0] * 4)]
    three, one = Orders(runs=tuple(runs)), Orders(runs=tuple(runs[:1]))
    assert three.acquisition == pytest.approx(0.5)
    assert three.mean("new", "after") == pytest.approx(-2.0)
    assert three.forgetting == pytest.approx(0.5)
    drawn, alone = (each.resampled(np.random.default_rng(0)) for each in (three, one))
    assert drawn["acquisition"].std() > 0.1, "orders that differ widen the interval"
    assert alone["acquisition"].std() == pytest.approx(0), "the control: every person of one order learned the same"
    better = Orders(runs=tuple(Learned(new=run.new.assign(after=run.new["after"] + 0.4), old=old) for run in runs))
    gain = better.resampled(np.random.default_rng(0)) - drawn
    assert gain["acquisition"].std() == pytest.approx(0, abs=1e-12), "paired by order"
    unpaired = better.resampled(np.random.default_rng(1)) - drawn
    assert unpaired["acquisition"].std() > 0.1, "the control"


def test_an_order_is_a_seed() -> None:
    lm, settings = taught("gpt2"), LearningSettings(epochs=1, batch=2, lr=1e-3, seed=5)
    before = lm.fingerprint()
    several = learning_orders(lm, FACTS[:3], FACTS[3:], settings, orders=2)
    single = continual_learning(lm, FACTS[:3], FACTS[3:], replace(settings, seed=6))
    assert several.runs[1].new.equals(single.new)
    assert not several.runs[0].new.equals(single.new), "the control: another order"
    assert lm.fingerprint() == before
    with pytest.raises(BadParameter, match="orders=0"):
        learning_orders(lm, FACTS[:3], FACTS[3:], settings, orders=0)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="no texts"):
        text_coefficients(knowing("gpt2"), [])
    with pytest.raises(BadParameter, match="share=0"):
        ResuscitationSettings(share=0)
    with pytest.raises(BadParameter, match="wordings=0"):
        LearningSettings(wordings=0)


def test_checkpoints_are_named_in_order_of_training() -> None:
    found = checkpoints_of("llama-small-s0")
    assert list(found) == sorted(found)
    assert list(found.values())[-1] == "llama-small-s0", "the finished model comes last"
    first, last = (load(found[step]) for step in (min(found), max(found)))
    assert first.fingerprint() != last.fingerprint()
    with pytest.raises(BadInput, match=r"no checkpoints of 'llama-s0' .* some of gpt2-s0"):
        checkpoints_of("llama-s0")
