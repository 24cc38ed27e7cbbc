"""Agreement under the tests of facts: minimal pairs, what neurons do to them, what edits reach."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from families import make_lm
from known import FACTS, knowing
from paramem.detection.neurons import NeuronPatch
from paramem.detection.syntax import ask_pairs, edit_rates, layer_shares, pair_effects, with_words
from paramem.errors import BadInput
from paramem.facts import EditRequest, Fact

OTHERS = [FACTS[(i + 1) % len(FACTS)].object for i in range(len(FACTS))]


def chosen() -> tuple[list[Fact], list[str]]:
    """Facts whose object begins unlike the next one's, as choices between the two."""
    pairs = [(fact, other) for fact, other in zip(FACTS, OTHERS, strict=True) if fact.object != other]
    return [fact for fact, _ in pairs], [other for _, other in pairs]


def test_a_pair_is_asked_in_every_wording() -> None:
    lm, (facts, wrong) = knowing("gpt2"), chosen()
    pairs = ask_pairs(lm, facts, wrong)
    assert len(pairs) == sum(1 + len(fact.paraphrases) for fact in facts)
    assert sorted(set(pairs.owner)) == list(range(len(facts)))
    assert not (pairs.wrong == pairs.asked.answers).any()
    hidden = [fact.model_copy(update={"withheld": fact.paraphrases[:1]}) for fact in facts]
    assert len(ask_pairs(lm, hidden, wrong, withheld=True)) == len(facts)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_are_those_of_one_patch_after_the_other(family: str) -> None:
    lm, (facts, wrong) = knowing(family), chosen()
    sets = [[(i % 3, j) for j in range(30)] for i in range(len(facts))]
    pairs = ask_pairs(lm, facts, wrong)
    table = pair_effects(lm, pairs, sets, scale=0.5, where="all")
    plain = pair_effects(lm, pairs, [[]] * len(facts))
    np.testing.assert_allclose(plain["after"], plain["before"])
    assert not plain[["overturned", "flipped"]].any(axis=None)
    for place, fact in enumerate(facts[:3]):
        with NeuronPatch.at(sets[place], scale=0.5).applied(lm) as changed:
            said = changed.next_logprobs(fact.prompt)[0].double()
        row = table[table["choice"] == place].iloc[0]
        at = int(np.flatnonzero(pairs.owner == place)[0])
        right, other = pairs.asked.answers[at], pairs.wrong[at]
        assert row["after"] == pytest.approx(float(said[right].exp()), rel=1e-6)
        assert row["odds_after"] == pytest.approx(float(said[right] - said[other]), rel=1e-6)
        assert row["drop"] == pytest.approx(1 - row["after"] / row["before"])
    assert (table["after"] - table["before"]).abs().max() > 1e-3, "the control: the neurons do something"


def test_overturned_and_flipped_are_different_things() -> None:
    """Without all neurons the prediction is another one; whether the pair turns is read off its two words alone."""
    lm, (facts, wrong) = knowing("llama"), chosen()
    pairs = ask_pairs(lm, facts, wrong)
    everything = [[(layer, i) for layer in range(lm.n_layers) for i in range(lm.d_mlp)]] * len(facts)
    table = pair_effects(lm, pairs, everything, where="all")
    assert table["flipped"].any()
    turned = (table["odds_before"] > 0) & (table["odds_after"] < 0)
    assert (table["overturned"] == turned).all()
    swapped = pair_effects(lm, with_words(pairs, pairs.wrong, pairs.asked.answers), everything, where="all")
    np.testing.assert_allclose(swapped["odds_after"], -table["odds_after"])
    assert not swapped["overturned"].equals(table["overturned"]), "the control: the other word was never ahead"


def test_shares_of_layers_add_up_kind_by_kind() -> None:
    lm = make_lm("gpt2")
    table = layer_shares(lm, {"a": [[(0, 1), (2, 3)], [(2, 4), (2, 5)]], "none": [[]], "b": [[(1, 0)]]})
    wide = table.pivot(index="kind", columns="layer", values="share")
    assert wide.loc["a"].tolist()[:3] == [0.25, 0, 0.75]
    assert wide.loc["b"].tolist()[:3] == [0, 1, 0]
    assert set(wide.index) == {"a", "b"}
    assert layer_shares(lm, {"none": [[]]}).empty


def test_rates_stand_one_row_an_edit() -> None:
    requests = [EditRequest(id=n, subject=n, template="{} is", target_new="x") for n in "ab"]
    rows = [("a", "edit", 1.0), ("a", "relation", 0.5), ("b", "edit", 0.0), ("b", "paraphrase", 0.25)]
    table = edit_rates(pd.DataFrame(rows, columns=["request", "group", "correct"]), requests)
    assert table["request"].tolist() == ["a", "b"]
    assert table["edit"].tolist() == [1.0, 0.0]
    assert table["relation"].tolist()[0] == 0.5
    assert np.isnan(table["relation"].tolist()[1])
    assert table["logical"].isna().all()


def test_bad_input() -> None:
    lm, (facts, wrong) = knowing("gpt2"), chosen()
    with pytest.raises(BadInput, match="wrong words: give one for each"):
        ask_pairs(lm, facts, wrong[1:])
    with pytest.raises(BadInput, match="begin with the same token"):
        ask_pairs(lm, facts[:1], [facts[0].object])
    assert torch.is_tensor(ask_pairs(lm, facts, wrong).wrong)
