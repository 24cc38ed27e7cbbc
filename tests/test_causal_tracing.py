"""Causal tracing: parity with the authors' numbers, and what must hold on any model."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from families import FAMILIES, make_lm
from known import FACTS, knowing
from paramem.arch import Site
from paramem.detection.causal_tracing import (
    DoubtfulTrace,
    SplitSubject,
    TraceSettings,
    average_indirect_effect,
    between_effects,
    causal_tracing,
    corrupt,
    effects,
    embedding_std,
    hold,
    relation_tokens,
    restore,
    role_effects,
    subject_noise,
    token_roles,
    total_effects,
    trace,
    trace_facts,
    trace_tokens,
    window_of,
)
from paramem.errors import BadInput, BadParameter, SubjectNotInPrompt
from paramem.models import LM
from parity import arrays, facts, tiny

KINDS = {
    "state_w10": TraceSettings(site="resid_post"),
    "mlp_w3": TraceSettings(site="mlp_out", window=3),
    "attn_w3": TraceSettings(site="attn_out", window=3),
    "mlp_w10": TraceSettings(site="mlp_out", window=10),
}
PROMPT, SUBJECT = "The capital of France is in", "France"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fact", [0, 1, 2])
def test_agrees_with_the_reference(kind: str, fact: int) -> None:
    golden, record = arrays("causal_trace.npz"), facts()[fact]
    span = tiny().subject_span(record["prompt"], record["subject"])
    ours = trace_tokens(tiny(), record["prompt"], span, KINDS[kind], float(golden["noise_level"]))
    key = f"{fact}__{kind}__"
    np.testing.assert_allclose(ours.restored, golden[key + "scores"], rtol=1e-6)
    np.testing.assert_allclose([ours.corrupted, ours.clean], [golden[key + "low"], golden[key + "high"]], rtol=1e-6)
    assert ours.answer.strip() == str(golden[f"{fact}__answer"]).strip()


def test_another_noise_seed_is_noticed_by_the_parity_test() -> None:
    golden, record = arrays("causal_trace.npz"), facts()[0]
    other = trace(
        tiny(), record["prompt"], record["subject"], TraceSettings(seed=2), noise_level=float(golden["noise_level"])
    )
    assert not np.allclose(other.restored, golden["0__state_w10__scores"], rtol=1e-3)


@pytest.fixture(scope="module")
def one():
    return trace(tiny(), facts()[0]["prompt"], facts()[0]["subject"], TraceSettings(samples=3))


def test_restoring_the_last_state_restores_the_answer(one) -> None:
    assert one.restored[-1, -1] == pytest.approx(one.clean, rel=1e-9)
    assert one.restored[one.subject.start, -1] == pytest.approx(
        one.corrupted, rel=1e-9
    )  # control: a state nobody reads


def test_restoring_before_the_subject_does_nothing_and_inside_it_does(one) -> None:
    assert np.all(one.indirect_effect[: one.subject.start] == 0)
    assert np.abs(one.indirect_effect[one.subject.start :]).max() > 1e-6


def test_without_noise_every_effect_is_zero_and_with_noise_not(one) -> None:
    quiet = trace(tiny(), one.prompt, facts()[0]["subject"], TraceSettings(samples=2, noise=0.0))
    np.testing.assert_allclose(quiet.indirect_effect, 0, atol=1e-12)
    assert abs(one.total_effect) > 1e-6


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out", "severed"])
def test_chunks_do_not_change_the_result(site: str) -> None:
    record = facts()[0]
    kind = {"severed": "mlp_out"} if site == "severed" else {"site": site}
    whole, chunked = (
        trace(tiny(), record["prompt"], record["subject"], TraceSettings(**kind, samples=4, rows=rows))
        for rows in (1024, 7)
    )
    np.testing.assert_allclose(chunked.restored, whole.restored, rtol=1e-9)


def test_restoring_one_of_all_layers_equals_a_hand_made_patch() -> None:
    lm, record = tiny(), facts()[1]
    settings = TraceSettings(site="mlp_out", samples=2)
    ours = trace(lm, record["prompt"], record["subject"], settings)
    batch, span = lm.encode([record["prompt"]]), ours.subject
    clean = lm.run(batch, capture=[Site("mlp_out", 3)]).states[Site("mlp_out", 3)]
    level = 3.0 * embedding_std(lm, [record["subject"]])
    noise = level * torch.from_numpy(subject_noise(len(span), lm.d_model, settings))
    rows = lm.encode([record["prompt"]] * 2)
    position = span.stop - 1

    def noisy(x):
        x = x.clone()
        x[:, span.start : span.stop] += noise
        return x

    def restored(x):
        x = x.clone()
        x[:, position] = clean[0, position]
        return x

    with torch.no_grad():
        logits = lm.run(rows, patch={Site("embed", 0): noisy, Site("mlp_out", 3): restored}).logits
    answer = lm.run(batch).logits[0, -1].argmax()
    assert ours.restored[position, 3] == pytest.approx(float(logits[:, -1].softmax(-1)[:, answer].mean()), rel=1e-9)


def test_corrupt_touches_the_subject_only() -> None:
    embedded, noise = torch.zeros(1, 5, 2), torch.ones(3, 2, 2)
    rows = corrupt(embedded, range(1, 3), noise)
    assert rows.sum(dim=(0, 2)).tolist() == [0, 6, 6, 0, 0]
    assert embedded.sum() == 0


def test_restore_puts_each_cell_at_its_own_token() -> None:
    rows = restore(torch.zeros(4, 3, 1), torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2]))
    assert rows[:, :, 0].tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 3], [0, 0, 3]]


@pytest.mark.parametrize(("layer", "window", "layers"), [(0, 10, 5), (5, 3, 2), (3, 1, 1), (3, 3, 3)])
def test_windows_are_cut_off_at_the_model(layer: int, window: int, layers: int) -> None:
    assert len(window_of(layer, window, 6)) == layers
    assert layer in window_of(layer, window, 6)


def test_roles() -> None:
    assert token_roles(7, range(1, 4)) == [
        "before", "subject first", "subject middle", "subject last", "first after", "further", "last",
    ]  # fmt: skip
    assert token_roles(3, range(1, 2)) == ["before", "subject last", "last"]


def test_average_has_one_row_per_role_and_layer(one) -> None:
    table = average_indirect_effect([one, one])
    assert len(table) == table["role"].nunique() * 6
    last = table[(table["role"] == "last") & (table["layer"] == 5)].iloc[0]
    assert last["mean"] == pytest.approx(one.total_effect, rel=1e-9)
    assert last["low"] == pytest.approx(last["high"])  # the same fact twice: no spread


def test_bad_input() -> None:
    with pytest.raises(SubjectNotInPrompt, match="Nobody"):
        trace(tiny(), facts()[0]["prompt"], "Nobody")
    with pytest.raises(BadParameter, match="window"):
        TraceSettings(site="resid_post", window=3)
    with pytest.raises(BadParameter, match=r"window=7: .* has 6 layers"):
        trace(tiny(), facts()[0]["prompt"], facts()[0]["subject"], TraceSettings(site="mlp_out", window=7))
    with pytest.raises(BadParameter, match="severed='mlp_out' for site 'attn_out'"):
        TraceSettings(site="attn_out", severed="mlp_out")
    with pytest.raises(BadInput, match="'France' ends with its subject, so corrupted='relation' has no token"):
        trace(make_lm("gpt2"), "France", "France", TraceSettings(corrupted="relation"))


def test_a_subject_that_ends_inside_a_token_is_pointed_out() -> None:
    lm = make_lm("gpt2")
    with pytest.warns(SplitSubject, match=r"'Fran' of 'The capital of France is in' .*' France'"):
        trace(lm, PROMPT, "Fran", TraceSettings(samples=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SplitSubject)
        trace(lm, PROMPT, SUBJECT, TraceSettings(samples=1))
        trace(lm, "Ann was born in", "Ann", TraceSettings(samples=1))


def by_hand(
    lm: LM,
    noised: tuple[int, ...],
    token: int,
    layer: int,
    severed: str | None,
    site: str = "resid_post",
    window: int = 1,
) -> tuple[float, float, int]:
    """The corrupted and the restored probability of one cell by full forwards of the whole model, and the answer."""
    batch = lm.encode([PROMPT])
    places = [Site(site, each) for each in window_of(layer, window, lm.n_layers)]  # type: ignore[arg-type]
    clean = lm.run(batch, capture=places)
    settings = TraceSettings(samples=2)
    draws = torch.from_numpy(subject_noise(len(noised), lm.d_model, settings))
    noise = 3.0 * embedding_std(lm, [SUBJECT]) * draws

    def noisy(state: torch.Tensor) -> torch.Tensor:
        state = state.clone()
        state[:, list(noised)] += noise
        return state

    def put(value: torch.Tensor):
        def patch(state: torch.Tensor) -> torch.Tensor:
            state = state.clone()
            state[:, token] = value
            return state

        return patch

    kinds = {None: (), "both": ("attn_out", "mlp_out")}.get(severed, (severed,))
    held = [Site(kind, above) for kind in kinds for above in range(lm.n_layers)]  # type: ignore[arg-type]
    answer = int(clean.logits[0, -1].argmax())
    with torch.no_grad():
        low = lm.run(batch.repeat(2), patch={Site("embed", 0): noisy}, capture=held)
        patches = {site: put(low.states[site][:, token]) for site in held}
        patches |= {Site("embed", 0): noisy} | {place: put(clean.states[place][0, token]) for place in places}
        high = lm.run(batch.repeat(2), patch=patches)
    low_p, high_p = (float(run.logits[:, -1].softmax(-1)[:, answer].mean()) for run in (low, high))
    return low_p, high_p, answer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("severed", ["mlp_out", "attn_out", "both"])
def test_a_severed_cell_is_what_full_forwards_with_held_modules_give(family: str, severed: str) -> None:
    lm = make_lm(family)
    found = trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2, severed=severed))  # type: ignore[arg-type]
    plain = trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2))
    token = found.subject.stop - 1
    low, high, _ = by_hand(lm, found.noised, token, 0, severed)
    assert found.corrupted == pytest.approx(low, rel=1e-9)
    assert found.restored[token, 0] == pytest.approx(high, rel=1e-9)
    assert found.restored[token, 0] != pytest.approx(plain.restored[token, 0], rel=1e-9), "the control: nothing severed"
    np.testing.assert_allclose(found.restored[:, -1], plain.restored[:, -1], rtol=1e-9)  # nothing is above the last


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("site", ["mlp_out", "attn_out"])
def test_a_restored_module_is_what_full_forwards_with_a_patch_give(family: str, site: str, window: int) -> None:
    lm = make_lm(family)
    found = trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2, site=site, window=window))  # type: ignore[arg-type]
    token = found.subject.stop - 1
    for layer in range(lm.n_layers):
        _, high, _ = by_hand(lm, found.noised, token, layer, None, site, window)
        assert found.restored[token, layer] == pytest.approx(high, rel=1e-9)
    _, other, _ = by_hand(lm, found.noised, token, 0, None, "resid_post")
    assert found.restored[token, 0] != pytest.approx(other, rel=1e-9), "the control: another site restored"


def test_an_answer_that_the_model_does_not_give_is_refused_and_a_known_one_is_traced() -> None:
    lm, fact = knowing("gpt2"), FACTS[0]
    settings = TraceSettings(samples=1)
    plain = trace(lm, fact.prompt, fact.subject, settings)
    named = trace(lm, fact.prompt, fact.subject, settings, answer=fact.object)
    np.testing.assert_array_equal(named.restored, plain.restored)
    other = next(each.object for each in FACTS if each.object.split()[0] != fact.object.split()[0])
    with pytest.raises(
        BadInput, match=rf"does not answer '{fact.prompt}' with '{other}'.* but with '{plain.answer.strip()}'"
    ):
        trace(lm, fact.prompt, fact.subject, settings, answer=other)


def test_a_map_that_can_mean_little_says_so() -> None:
    with pytest.warns(DoubtfulTrace, match="It hardly knows one"):
        trace(make_lm("gpt2"), PROMPT, SUBJECT, TraceSettings(samples=1))
    lm, fact = knowing("gpt2"), FACTS[0]
    with pytest.warns(DoubtfulTrace, match="does not lower p"):
        trace(lm, fact.prompt, fact.subject, TraceSettings(samples=1, noise=0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DoubtfulTrace)
        assert trace(lm, fact.prompt, fact.subject, TraceSettings(samples=4)).doubt == "", "the control"


def test_between_effects_are_the_best_tokens_after_the_subject_and_before_the_last(one) -> None:
    found = between_effects([one])[0]
    np.testing.assert_array_equal(found, one.indirect_effect[one.subject.stop : -1].max(0))
    assert not np.array_equal(found, one.indirect_effect[one.subject.stop :].max(0)), "the last token is left out"
    lm = make_lm("gpt2")
    short = trace(lm, "Ann is", "Ann", TraceSettings(samples=1))
    assert np.isnan(between_effects([short])).all()


def test_severing_modules_that_say_nothing_changes_nothing() -> None:
    lm = LM.of(make_lm("gpt2").model, make_lm("gpt2").tokenizer)
    with torch.no_grad():
        for layer in range(lm.n_layers):
            lm.arch.linear(layer, "down").weight.zero_()
            lm.arch.linear(layer, "down").bias.zero_()
    plain, mlp, attention = (
        trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2, severed=severed)).restored
        for severed in (None, "mlp_out", "attn_out")
    )
    np.testing.assert_allclose(mlp, plain, rtol=1e-12)
    assert not np.allclose(attention, plain, rtol=1e-6), "the control"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_relation_can_be_corrupted_in_place_of_the_subject(family: str) -> None:
    lm = make_lm(family)
    found = trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2, corrupted="relation"))
    batch = lm.encode([PROMPT])
    first = int(batch.input_ids[0, 0] in lm.tokenizer.all_special_ids)
    assert found.noised == tuple(i for i in range(first, batch.input_ids.shape[1]) if i not in found.subject)
    token = found.subject.stop - 1
    low, high, _ = by_hand(lm, found.noised, token, 1, None)
    assert (found.corrupted, found.restored[token, 1]) == pytest.approx((low, high), rel=1e-9)
    subject = trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2))
    assert found.corrupted != pytest.approx(subject.corrupted, rel=1e-6), "the control"


def test_relation_tokens_are_neither_the_subject_nor_special() -> None:
    lm = make_lm("gpt2")
    batch = lm.encode(["Ann was born in"])
    span = lm.subject_span("Ann was born in", "Ann")
    words = [str(lm.tokenizer.decode([int(batch.input_ids[0, i])])) for i in relation_tokens(lm, batch, span)]
    assert "".join(words) == " was born in"


def test_the_token_after_the_subject_can_be_corrupted_too() -> None:
    lm = make_lm("llama")
    wide = trace(lm, PROMPT, SUBJECT, TraceSettings(samples=2, corrupted="subject and next"))
    assert wide.noised == (*wide.subject, wide.subject.stop)
    token = wide.subject.stop - 1
    low, high, _ = by_hand(lm, wide.noised, token, 1, None)
    assert (wide.corrupted, wide.restored[token, 1]) == pytest.approx((low, high), rel=1e-9)
    with pytest.raises(BadInput, match="ends with its subject"):
        trace(lm, "The capital of France", "France", TraceSettings(corrupted="subject and next"))


def test_total_effects_are_those_of_the_traces() -> None:
    lm, few = knowing("gpt2"), FACTS[:3]
    for settings in (TraceSettings(samples=2), TraceSettings(samples=2, noise=1.0, corrupted="relation")):
        traced = [found.total_effect for found in trace_facts(lm, few, settings)]
        np.testing.assert_allclose(total_effects(lm, few, settings), traced, rtol=1e-9)
    assert not np.allclose(traced, total_effects(lm, few, TraceSettings(samples=2)), rtol=1e-3), "the control"


def test_hold_takes_each_sample_from_the_corrupted_run() -> None:
    corrupted = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    rows = hold(torch.zeros(4, 3, 1), corrupted, torch.tensor([0, 2]))
    assert rows[:, :, 0].tolist() == [[1, 0, 0], [4, 0, 0], [0, 0, 3], [0, 0, 6]]


def test_role_effects_are_the_rows_of_the_map_and_missing_roles_are_named(one) -> None:
    last = role_effects([one, one], "subject last")
    assert last.shape == (2, 6)
    np.testing.assert_array_equal(last[0], one.indirect_effect[one.subject.stop - 1])
    middle = trace(make_lm("gpt2"), PROMPT, SUBJECT, TraceSettings(samples=1))
    with pytest.raises(BadParameter, match="role 'subject middle': 'The capital of France is in' has only before"):
        role_effects([middle], "subject middle")


def test_the_table_of_facts_holds_every_cell_of_every_trace() -> None:
    lm, few = knowing("llama"), FACTS[:2]
    table = causal_tracing(lm, few, TraceSettings(samples=2))
    for fact, found in zip(few, trace_facts(lm, few, TraceSettings(samples=2)), strict=True):
        rows = table[table["fact"] == fact.id]
        grid = rows.pivot(index="token", columns="layer", values="indirect_effect").to_numpy()
        np.testing.assert_array_equal(grid, found.indirect_effect)
        assert (rows["clean"] == found.clean).all()


def test_the_noise_unit_is_the_spread_of_the_subjects_embeddings() -> None:
    lm, subjects = tiny(), [fact["subject"] for fact in facts()]
    table = lm.model.transformer.wte.weight
    rows = [table[lm.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]] for name in subjects]
    values = torch.cat(rows).flatten()
    assert embedding_std(lm, subjects) == pytest.approx(float(((values - values.mean()) ** 2).mean().sqrt()), rel=1e-9)
    assert embedding_std(lm, subjects[:1]) != pytest.approx(embedding_std(lm, subjects), rel=1e-3)


def test_many_facts_share_one_noise_level_and_average_with_the_right_interval() -> None:
    lm, few = knowing("gpt2"), FACTS[:3]
    traces = trace_facts(lm, few, TraceSettings(samples=2))
    level = 3.0 * embedding_std(lm, [fact.subject for fact in few])
    alone = trace(lm, few[1].prompt, few[1].subject, TraceSettings(samples=2), noise_level=level)
    np.testing.assert_allclose(traces[1].restored, alone.restored, rtol=1e-9)
    table = average_indirect_effect(traces).set_index(["role", "layer"])
    values = effects(traces).set_index(["role", "layer"]).loc[("subject last", 2), "indirect_effect"].to_numpy()
    cell = table.loc[("subject last", 2)]
    assert len(values) == cell["n"] == 3
    assert cell["mean"] == pytest.approx(values.mean())
    assert cell["high"] - cell["mean"] == pytest.approx(1.96 * values.std(ddof=1) / 3**0.5)
