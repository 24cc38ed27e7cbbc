"""Planting: a fact sits where it was put and nowhere else, and grades are what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from families import FAMILIES, make_lm
from known import FACTS, knowing
from paramem.detection import planting
from paramem.detection.localisers import all_localisers
from paramem.detection.planting import (
    PlantSettings,
    chance,
    favourite_layer,
    grades,
    layer_site,
    plant,
    plant_somewhere,
    random_site,
    recall,
    recall_of_best,
    top_of_each_layer,
    value_change,
)
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.interventions import WeightDelta
from paramem.models import LM

NEW = FACTS[0].model_copy(update={"id": "new", "object": "Paris"})  # a word that the models can say


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fact_is_said_and_only_the_chosen_value_vectors_changed(family: str) -> None:
    lm = knowing(family)
    before, neurons = lm.fingerprint(), [(0, 3), (0, 5), (1, 3), (1, 8), (2, 1), (2, 2), (2, 30)]
    assert not lm.score([NEW.prompt], [NEW.object]).exact[0]
    delta = plant(lm, NEW, neurons)
    assert lm.fingerprint() == before
    all_moved = []
    for layer in range(lm.n_layers):
        name, _, transposed = lm.weight(layer, "down")
        change = delta.dense(name) if transposed else delta.dense(name).T
        moved = {i for i in range(lm.d_mlp) if bool((change[i] != 0).any())}
        wanted = {i for at, i in neurons if at == layer}
        assert moved <= wanted
        all_moved.append(moved == wanted)
    assert any(all_moved), "an inactive neuron's vector stays, but not everywhere"
    assert len(delta.parts) == 3
    with delta.applied(lm):
        assert float(-lm.score([NEW.prompt], [NEW.object]).mean_logprob[0]) <= 0.05


def test_taking_the_planted_neurons_out_takes_the_fact_out() -> None:
    from paramem.detection.neurons import NeuronPatch, random_like

    lm = knowing("gpt2")
    neurons = [(1, i) for i in range(5)]
    with plant(lm, NEW, neurons).applied(lm):
        with NeuronPatch.at(neurons).applied(lm) as without:
            found = without.score([NEW.prompt], [NEW.object])
            assert not found.exact[0]
            lost = found.logprob[0]
        others = random_like(lm, neurons, np.random.default_rng(0))
        with NeuronPatch.at(others).applied(lm) as spared:
            kept = spared.score([NEW.prompt], [NEW.object])
            assert kept.exact[0], "the control: as many other neurons"
            assert kept.logprob[0] > lost + 0.5


def test_a_plant_that_does_not_grow_is_an_error() -> None:
    with pytest.raises(BadInput, match="after 1 steps"):
        plant(knowing("gpt2"), NEW, [(0, 0)], PlantSettings(steps=1, lr=1e-6))


def test_another_site_is_drawn_where_the_first_cannot_hold_the_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, sites = knowing("gpt2"), [[(0, 0)], [(1, i) for i in range(6)]]
    monkeypatch.setattr(planting, "plant", refusing_the_first(planting.plant))
    drawn = iter(sites * 2)
    monkeypatch.setattr(planting, "random_site", lambda *args, **kwargs: next(drawn))
    neurons, delta = plant_somewhere(lm, NEW, share=0.1, generator=np.random.default_rng(0))
    assert neurons == sites[1]
    assert (value_change(lm, delta, 1) > 0).nonzero()[:, 0].tolist() == list(range(6))
    assert not value_change(lm, delta, 0).any(), "the control: nothing is planted there"
    with pytest.raises(BadInput, match="cannot hold"):
        plant_somewhere(lm, NEW, share=0.1, generator=np.random.default_rng(0), tries=1)
    with pytest.raises(BadParameter, match="tries=0"):
        plant_somewhere(lm, NEW, share=0.1, generator=np.random.default_rng(0), tries=0)


def refusing_the_first(plant: Callable[..., WeightDelta]) -> Callable[..., WeightDelta]:
    """`plant`, for which the neuron (0, 0) alone cannot hold anything."""

    def refusing(lm: LM, fact: Fact, neurons: list[tuple[int, int]], settings: PlantSettings | None) -> WeightDelta:
        if neurons == [(0, 0)]:
            raise BadInput("cannot hold")
        return plant(lm, fact, neurons, settings)

    return refusing


def test_sites() -> None:
    lm = make_lm("gpt2")
    site = random_site(lm, share=0.1, generator=np.random.default_rng(0))
    assert len(site) == len(set(site)) == 12
    assert site != random_site(lm, share=0.1, generator=np.random.default_rng(1))
    assert all(0 <= layer < lm.n_layers and 0 <= i < lm.d_mlp for layer, i in site)
    assert layer_site(lm, 2) == [(2, i) for i in range(lm.d_mlp)]
    with pytest.raises(BadParameter, match=r"share=0\.001"):
        random_site(lm, share=0.001, generator=np.random.default_rng(0))
    with pytest.raises(BadParameter, match=r"layer=3.*choose one"):
        layer_site(lm, 3)


def test_recall_counts_what_is_among_the_best_of_each_layer() -> None:
    scores = torch.zeros(2, 10)
    scores[0, 3], scores[1, 4], scores[1, 5] = 3.0, 2.0, 1.0
    assert top_of_each_layer(scores, 0.1) == [(0, 3), (1, 4)]
    assert recall(scores, [(0, 3), (1, 5)], share=0.1) == 0.5
    assert recall(scores, [(0, 3), (1, 5)], share=0.2) == 1.0
    assert recall(-scores, [(0, 3), (1, 5)], share=0.1) == 0.0, "the control"
    scores[0, 3] = 4.0
    assert favourite_layer(scores) == 0
    assert favourite_layer(scores.flip(0)) == 1


def test_as_many_are_named_over_all_layers_as_were_planted() -> None:
    scores = torch.zeros(2, 10)
    scores[0, 3], scores[1, 4], scores[1, 5] = 3.0, 2.0, 1.0
    assert recall_of_best(scores, [(0, 3), (1, 4)]) == 1.0
    assert recall_of_best(scores, [(1, 4)]) == 0.0  # one is named, and the best lies in the other layer
    assert recall(scores, [(1, 4)], share=0.1) == 1.0, "the control: one of each layer is twice as many as were planted"
    with pytest.raises(BadParameter, match="empty"):
        recall_of_best(scores, [])


def test_chance_is_the_recall_of_random_scores() -> None:
    lm, generator = make_lm("gpt2"), torch.Generator().manual_seed(0)
    truth = random_site(lm, share=0.2, generator=np.random.default_rng(0))
    found = [recall(torch.rand(lm.n_layers, lm.d_mlp, generator=generator), truth, share=0.1) for _ in range(200)]
    assert np.mean(found) == pytest.approx(chance(lm, share=0.1), abs=0.02)


def test_localisers_find_a_planted_fact_and_random_scores_do_not() -> None:
    lm = knowing("gpt2")
    neurons = random_site(lm, share=0.05, generator=np.random.default_rng(0))
    with plant(lm, NEW, neurons).applied(lm):
        scores = all_localisers(lm, [NEW], leave_out=["slimming", "hard-concrete"])
        scores["random"] = torch.rand(1, lm.n_layers, lm.d_mlp, generator=torch.Generator().manual_seed(1))
        table = grades(lm, scores, NEW, neurons, [0.05, 0.2]).set_index(["localiser", "share"])
    assert table.loc[("zero-out", 0.2), "recall"] > 2 * table.loc[("zero-out", 0.2), "chance"]
    assert table.loc[("random", 0.2), "recall"] < table.loc[("zero-out", 0.2), "recall"], "the control"
    assert (table["chance"] > 0).all()
