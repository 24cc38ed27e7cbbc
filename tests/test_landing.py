"""Where edits land: shares add up, concentration has its ends, columns are read as the model reads them."""

from __future__ import annotations

import pytest
import torch

from families import D_MLP, D_MODEL, LAYERS, make_lm
from paramem.arch import Site
from paramem.errors import BadInput, BadParameter
from paramem.evaluation.landing import (
    column_changes,
    first_token,
    found_again,
    gini,
    hit,
    located_columns,
    matrix_changes,
    most_changed_layer,
    places,
    random_like,
    read_columns,
    share_of_top,
    stable_rank,
)
from paramem.interventions import Dense, LowRank, WeightDelta
from paramem.models import LM

by_family = pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gptj"])


def moved(lm: LM, layer: int, columns: list[int], size: float = 1.0) -> WeightDelta:
    """A change of these value vectors of a layer, in one direction."""
    name, parameter, transposed = lm.weight(layer, "down")
    change = torch.zeros(D_MODEL, D_MLP, dtype=parameter.dtype)
    change[:, columns] = size * torch.linspace(1, 2, D_MODEL, dtype=parameter.dtype)[:, None]
    return WeightDelta({name: Dense(change.T if transposed else change)})


@by_family
def test_matrices_are_named_by_layer_and_role(family: str) -> None:
    lm = make_lm(family)
    known = places(lm)
    assert {layer for layer, _ in known.values()} == set(range(LAYERS))
    assert all(lm.weight(layer, role).name == name for name, (layer, role) in known.items())
    delta = moved(lm, 0, [1]) + moved(lm, 2, [1, 3], size=2.0)
    table = matrix_changes(lm, delta)
    assert list(zip(table["layer"], table["role"], strict=True)) == [(0, "down"), (2, "down")]
    assert table["share"].tolist() == pytest.approx([1 / 9, 8 / 9])
    assert (table["relative"] > 0).all()


def test_what_is_no_block_matrix_keeps_its_name() -> None:
    lm = make_lm("gpt2")
    table = matrix_changes(lm, WeightDelta({"lm_head.weight": Dense(torch.ones_like(lm.model.lm_head.weight))}))
    assert table[["layer", "role"]].to_numpy().tolist() == [[-1, "lm_head.weight"]]


@by_family
def test_columns_are_the_value_vectors_of_neurons(family: str) -> None:
    """Switching the neuron off takes its column's change away: the columns are counted in the right direction."""
    lm = make_lm(family)
    delta = moved(lm, 1, [7])
    changes = column_changes(lm, delta)
    assert changes.shape == (LAYERS, D_MLP)
    assert changes.nonzero().tolist() == [[1, 7]]
    assert most_changed_layer(lm, delta) == 1
    batch = lm.encode(["Ann was born in"])

    def off(state: torch.Tensor) -> torch.Tensor:
        return state.index_fill(-1, torch.tensor([7]), 0.0)

    silent = lm.run(batch, patch={Site("mlp_hidden", 1): off}).logits
    with delta.applied(lm) as edited:
        torch.testing.assert_close(edited.run(batch, patch={Site("mlp_hidden", 1): off}).logits, silent)
        assert not torch.allclose(edited.run(batch).logits, silent), "the control: the neuron switched on"


def test_a_change_without_value_vectors_is_refused() -> None:
    lm = make_lm("gpt2")
    name, parameter, _ = lm.weight(0, "up")
    delta = WeightDelta({name: Dense(torch.ones_like(parameter))})
    assert column_changes(lm, delta).abs().max() == 0
    with pytest.raises(BadInput, match="changes no down projection of tiny-gpt2"):
        read_columns(lm, delta)


def test_concentration_has_its_ends() -> None:
    one, even = torch.zeros(40), torch.ones(40)
    one[3] = 2.0
    assert share_of_top(one, 1) == pytest.approx(1.0)
    assert share_of_top(even, 4) == pytest.approx(0.1)
    assert gini(one) == pytest.approx(1 - 1 / 40)
    assert gini(even) == pytest.approx(0.0, abs=1e-12)
    half = torch.cat([torch.zeros(20), torch.ones(20)])
    assert gini(half) == pytest.approx(0.5)
    assert share_of_top(2 * half, 5) == share_of_top(half, 5), "size does not matter"
    with pytest.raises(BadParameter, match="k=41"):
        share_of_top(even, 41)
    for measure in (lambda x: share_of_top(x, 1), gini):
        with pytest.raises(BadInput, match="nothing changed"):
            measure(torch.zeros(4))


def test_stable_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    assert stable_rank(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 7))) == pytest.approx(1.0)
    assert stable_rank(torch.eye(5)) == pytest.approx(5.0)
    assert 1 < stable_rank(torch.randn(20, 30, generator=generator)) < 20


def test_a_random_change_has_the_same_size_and_no_place() -> None:
    lm = make_lm("gpt2")
    name = lm.weight(1, "down").name
    delta = moved(lm, 1, [7])
    low_rank = WeightDelta({name: LowRank(torch.ones(D_MLP, 1), torch.ones(1, D_MODEL))})
    for each in (delta, low_rank):
        drawn = random_like(each, torch.Generator().manual_seed(0))
        assert float(drawn.dense(name).norm()) == pytest.approx(float(each.dense(name).norm()), rel=1e-5)
    spread = column_changes(lm, random_like(delta, torch.Generator().manual_seed(0)))[1]
    assert share_of_top(spread, 5) < 0.3 < share_of_top(column_changes(lm, delta)[1], 5)
    again = random_like(delta, torch.Generator().manual_seed(0))
    assert torch.equal(again.dense(name), random_like(delta, torch.Generator().manual_seed(0)).dense(name))


@by_family
def test_columns_are_read_as_the_model_reads_its_stream(family: str) -> None:
    lm = make_lm(family)
    token = 50
    name, parameter, transposed = lm.weight(1, "down")
    W = (parameter.T if transposed else parameter).detach()
    wanted = torch.linspace(-1, 1, D_MODEL, dtype=W.dtype) * 9
    change = torch.zeros_like(W)
    change[:, 4] = wanted - W[:, 4]
    change[:, 9] = 0.01
    found = read_columns(lm, WeightDelta({name: Dense(change.T if transposed else change)}), k=2)
    assert (found.layer, found.neurons) == (1, [4, 9]), "most moved first"
    torch.testing.assert_close(found.after[0], lm.unembed(wanted), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.before, lm.unembed(W[:, [4, 9]].T), rtol=0, atol=1e-4)
    top = int(found.after[0].argmax())
    assert hit(found.after, top, 1)
    assert hit(found.after, token, found.after.shape[1]), "every token is among all of them"
    last = int(found.after.max(0).values.argmin())
    assert not hit(found.after, last, 1)


def test_what_is_located_is_found_again_or_not() -> None:
    scores = torch.zeros(2, 6)
    scores[1, [2, 5]] = torch.tensor([1.0, 3.0])
    assert located_columns(scores, 1, 2) == {2, 5}
    assert located_columns(scores, 1, 1) == {5}
    assert found_again({2, 5}, [5, 1]) == 0.5
    with pytest.raises(BadInput, match="no neuron was located"):
        found_again((), [1])
    lm = make_lm("gpt2")
    batch = lm.encode(["Ann was born in"], ["Lyon"])
    assert first_token(lm, "Ann was born in", "Lyon") == int(batch.input_ids[batch.target_mask][0])
