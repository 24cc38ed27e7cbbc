"""ROME: parity with the authors' numbers, and the properties of its mathematics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paramem.editing.rome import (
    RomeSettings,
    optimise_values,
    rank_one_delta,
    rome,
    rome_each,
    subject_keys,
)
from paramem.editing.sequence import in_sequence
from paramem.editing.statistics import cached_second_moment, second_moment
from paramem.errors import BadInput, BadParameter
from paramem.facts import EditRequest
from paramem.models import Site
from parity import GOLDEN, arrays, facts, tiny

CONTEXTS = (
    "{}",
    "The rain fell all night. {}",
    "Nobody saw the letter on the table. {}",
    "I think the answer is clear. {}",
    "The market opens at nine. {}",
    "Many people came to the concert. {}",
)
REFERENCE = RomeSettings(layer=2, contexts=CONTEXTS, keys="original")


def request(i: int) -> EditRequest:
    record = facts()[i]
    rewrite = record["requested_rewrite"]
    return EditRequest(
        id=str(i),
        subject=rewrite["subject"],
        template=rewrite["prompt"],
        target_new=rewrite["target_new"]["str"],
        target_true=rewrite["target_true"]["str"],
    )


@pytest.fixture(scope="module")
def C() -> torch.Tensor:
    return torch.from_numpy(arrays("rome.npz")["mom2"])


def test_second_moment_agrees_with_the_reference(C: torch.Tensor) -> None:
    lines = (GOLDEN / "second_moment_texts.txt").read_text().splitlines()
    np.testing.assert_allclose(second_moment(tiny(), 2, lines), C, rtol=1e-6, atol=1e-9)
    assert not np.allclose(second_moment(tiny(), 3, lines[:50]), C, rtol=1e-2)  # another layer is noticed


@pytest.mark.parametrize("i", range(5))
def test_every_step_agrees_with_the_reference(i: int, C: torch.Tensor) -> None:
    golden, lm = arrays("rome.npz"), tiny()
    values = optimise_values(lm, [request(i)], REFERENCE)
    np.testing.assert_allclose(values.v0[0], golden[f"{i}_target_init"], rtol=1e-6)
    np.testing.assert_allclose(values.losses[0], golden[f"{i}_losses"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(values.v_star[0] - values.v0[0], golden[f"{i}_vdelta"], rtol=1e-5, atol=1e-8)
    (update,) = rome(lm, request(i), REFERENCE, C).parts.values()
    np.testing.assert_allclose(update.dense(), np.outer(golden[f"{i}_u"], golden[f"{i}_v"]), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("i", range(5))
def test_probabilities_after_the_edit_agree_with_the_reference(i: int, C: torch.Tensor) -> None:
    golden, lm, record = arrays("rome.npz"), tiny(), facts()[i]
    prompts = [record["prompt"], *record["paraphrase_prompts"], *record["neighborhood_prompts"]]
    rewrite = record["requested_rewrite"]

    def probabilities(model) -> np.ndarray:
        columns = [
            model.score(prompts, [rewrite[side]["str"]] * len(prompts)).first_logprob.exp()
            for side in ("target_new", "target_true")
        ]
        return torch.stack(columns, 1).numpy()

    np.testing.assert_allclose(probabilities(lm), golden[f"{i}_before"], rtol=1e-6)
    with rome(lm, request(i), REFERENCE, C).applied(lm) as edited:
        np.testing.assert_allclose(probabilities(edited), golden[f"{i}_after"], rtol=1e-5, atol=1e-9)


def _problem(seed: int, d_out: int, d_in: int):
    generator = torch.Generator().manual_seed(seed)
    W, K, k, v = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((d_out, d_in), (d_in, 3 * d_in), (d_in,), (d_out,))
    )
    return W, K @ K.T, k, v, generator


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(2, 9))
def test_the_new_pair_is_stored_exactly_with_rank_one(seed: int, d_out: int, d_in: int) -> None:
    W, C, k, v, _ = _problem(seed, d_out, d_in)
    delta = rank_one_delta(W, C, k, v)
    torch.testing.assert_close((W + delta.dense()) @ k, v, rtol=1e-7, atol=1e-7)
    assert torch.linalg.matrix_rank(delta.dense()) == 1


def test_keys_that_C_calls_unrelated_do_not_move_and_others_do() -> None:
    W, C, k, v, generator = _problem(0, 4, 6)
    delta = rank_one_delta(W, C, k, v).dense()
    u = torch.linalg.solve(C, k)
    other = torch.randn(6, generator=generator, dtype=torch.float64)
    unrelated = other - (other @ u) / (u @ u) * u  # u . unrelated = k^T C^-1 unrelated = 0
    assert (delta @ unrelated).norm() < 1e-12 * (delta @ other).norm()


def test_no_other_change_that_stores_the_pair_disturbs_C_less() -> None:
    W, C, k, v, generator = _problem(1, 3, 5)
    best = rank_one_delta(W, C, k, v).dense()

    def disturbance(delta: torch.Tensor) -> float:
        return float(torch.trace(delta @ C @ delta.T))

    for _ in range(20):
        noise = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        rival = best + noise - torch.outer(noise @ k, k) / (k @ k)  # stores the pair as well
        torch.testing.assert_close(rival @ k, best @ k)
        assert disturbance(rival) > disturbance(best)
    assert disturbance(rank_one_delta(W, None, k, v).dense()) > disturbance(best)


def test_without_C_the_update_is_along_the_key() -> None:
    W, _, k, v, _ = _problem(2, 3, 5)
    delta = rank_one_delta(W, None, k, v).dense()
    torch.testing.assert_close(delta, torch.outer(v - W @ k, k) / (k @ k))


def test_mixed_keys_miss_the_value_and_consistent_ones_do_not(C: torch.Tensor) -> None:
    lm, consistent = tiny(), RomeSettings(layer=2, contexts=CONTEXTS)
    k_star = subject_keys(lm, [request(0)], consistent).average[0]
    v_star = optimise_values(lm, [request(0)], consistent).v_star[0]
    _, W, _ = lm.weight(2, "down")
    bias = lm.model.transformer.h[2].mlp.c_proj.bias.detach()

    def miss(settings: RomeSettings) -> float:
        with rome(lm, request(0), settings, C).applied(lm), torch.no_grad():
            return float((k_star @ W + bias - v_star).norm() / v_star.norm())

    assert miss(consistent) < 1e-10
    assert miss(REFERENCE) > 1e-3


def test_one_matrix_is_touched_and_put_back(C: torch.Tensor) -> None:
    lm = tiny()
    before = lm.fingerprint()
    delta = rome(lm, request(0), REFERENCE, C)
    assert lm.fingerprint() == before
    assert set(delta.parts) == {lm.weight(2, "down").name}
    with delta.applied(lm) as edited:
        assert edited.fingerprint() != before
    assert lm.fingerprint() == before


def test_edits_side_by_side_are_the_edits_one_by_one(C: torch.Tensor) -> None:
    lm, many = tiny(), [request(i) for i in range(3)] + [request(1).model_copy(update={"target_new": "Berlin Delhi"})]
    alone = [rome(lm, each, REFERENCE, C) for each in many]
    name = lm.weight(2, "down").name
    for chunk in (4, 3):
        for one, together in zip(alone, rome_each(lm, many, REFERENCE, C, batch_size=chunk), strict=True):
            torch.testing.assert_close(together.dense(name), one.dense(name), rtol=1e-7, atol=1e-9)
    assert not torch.allclose(alone[0].dense(name), alone[1].dense(name), rtol=1e-2)


def test_an_edit_that_is_done_stands_still_while_others_go_on() -> None:
    lm, hard = tiny(), [request(i) for i in range(5)]
    reached = sorted(float(losses[:, 0].min()) for losses in optimise_values(lm, hard, RomeSettings(layer=2)).losses)
    easy = RomeSettings(layer=2, stop_below=reached[2] + 1e-6)
    together = optimise_values(lm, hard, easy)
    steps = [len(losses) for losses in together.losses]
    assert len(set(steps)) > 1  # they stop at different times
    for i, each in enumerate(hard):
        alone = optimise_values(lm, [each], easy)
        assert len(alone.losses[0]) == steps[i]
        torch.testing.assert_close(alone.v_star[0], together.v_star[i], rtol=1e-7, atol=1e-9)


def test_a_sequence_is_the_sum_of_edits_on_edits(C: torch.Tensor) -> None:
    lm = tiny()
    both = in_sequence(lm, [request(0), request(1)], lambda now, one: rome(now, one, REFERENCE, C))
    first = rome(lm, request(0), REFERENCE, C)
    with first.applied(lm) as edited:
        second = rome(edited, request(1), REFERENCE, C)
    name = lm.weight(2, "down").name
    torch.testing.assert_close(both.dense(name), (first + second).dense(name))
    naive = rome(lm, request(1), REFERENCE, C)  # control: the second edit made on the unedited model is another one
    assert not torch.allclose(second.dense(name), naive.dense(name))


def test_multi_token_targets_are_averaged_over_all_their_tokens(C: torch.Tensor) -> None:
    lm = tiny()
    long = request(0).model_copy(update={"target_new": "Berlin Delhi"})
    n_tokens = int(lm.encode([long.prompt], [long.target_new]).target_mask.sum())
    assert n_tokens > 1
    (losses,) = optimise_values(lm, [long], RomeSettings(layer=2, steps=1)).losses
    scores = lm.score([long.prompt], [long.target_new])
    assert float(losses[0, 1]) == pytest.approx(-float(scores.mean_logprob[0]), rel=1e-6)


def test_the_second_moment_ignores_padding_and_is_cached(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Marlo Castell plays the drums.", "The market opens at nine. Many people came to the concert."]
    lm = tiny()
    together = second_moment(lm, 1, texts)
    site, sums, count = Site("mlp_hidden", 1), 0, 0
    for text in texts:
        keys = lm.run(lm.encode([text]), capture=[site]).states[site][0]
        sums, count = sums + keys.T @ keys, count + len(keys)
    torch.testing.assert_close(together, sums / count)
    first = cached_second_moment(lm, 1, texts, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(
        "paramem.editing.statistics.second_moment", lambda *a, **k: pytest.fail("not read from the cache")
    )
    torch.testing.assert_close(cached_second_moment(lm, 1, texts, folder=tmp_path), first)
    monkeypatch.undo()
    cached_second_moment(lm, 2, texts, folder=tmp_path)  # another layer is another file
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_input(C: torch.Tensor) -> None:
    lm = tiny()
    with pytest.raises(BadInput, match="C is missing"):
        rome(lm, request(0), RomeSettings(layer=2))
    with pytest.raises(BadParameter, match=r"layers 0\.\.5"):
        rome(lm, request(0), RomeSettings(layer=6), C)
    with pytest.raises(BadParameter, match="contexts"):
        RomeSettings(layer=2, contexts=("I say {}",))
    with pytest.raises(BadInput, match="singular"):
        rome(lm, request(0), RomeSettings(layer=2), torch.zeros_like(C))
    with pytest.raises(BadParameter, match=r"layer=9: .* has layers 0 to 5; choose one"):
        second_moment(lm, 9, ["a"])
    with pytest.raises(BadInput, match="no texts"):
        second_moment(lm, 2, [])


def test_a_damaged_cache_file_is_computed_again(tmp_path) -> None:
    lm, texts = tiny(), ["Marlo Castell plays the drums."]
    first = cached_second_moment(lm, 1, texts, folder=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"no safetensors")
    torch.testing.assert_close(cached_second_moment(lm, 1, texts, folder=tmp_path), first)
    assert path.read_bytes() != b"no safetensors"
