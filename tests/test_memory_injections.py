"""Memory injections: what is added where, on every architecture, and questions whose missing entity is known."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from families import FAMILIES, make_lm
from paramem.arch import Site
from paramem.detection.neurons import ask_prompts
from paramem.errors import BadInput, BadParameter, BadSite
from paramem.injection.memory_injections import (
    InjectionSettings,
    embed_memory,
    embedded,
    heads_bring_up,
    inject,
    memory_tokens,
    sweep,
    swept_at,
    unembedding,
)
from paramem.injection.two_steps import (
    by_person,
    chosen_on_other_people,
    directions,
    first_tokens,
    two_step_questions,
    wrong_memories,
)
from paramem.interventions import load_intervention
from paramem.material import world_behind
from paramem.models import LM, load
from paramem.world.core import world
from paramem.world.corpus import text_of
from paramem.world.reason import PLANS, held_out, rows

PROMPTS = ["The capital of France is in", "Ann was born in", "The capital of Lyon is in"]
MEMORIES = ["Anna Lyon", "Paris", "the company"]  # the first is several tokens


@cache
def lm_of(family: str) -> LM:
    return make_lm(family)


def test_the_embedded_memory_is_the_sum_of_the_heads_rows_each_token_once() -> None:
    lm = lm_of("llama")
    tokens = memory_tokens(lm, "Anna Lyon")
    assert len(tokens) > 1
    rows_of_head = lm.arch.head.weight
    expected = rows_of_head[sorted(set(tokens))].sum(0)
    torch.testing.assert_close(embed_memory(rows_of_head, tokens), expected)
    torch.testing.assert_close(embed_memory(rows_of_head, [*tokens, tokens[0]]), expected)
    assert not torch.allclose(embed_memory(rows_of_head, tokens[:1]), expected)
    assert not torch.allclose(lm.arch.tokens.weight[tokens].sum(0), expected), "not the input embedding: it is not tied"


def test_folding_the_final_norm_into_the_head_changes_no_logit_beyond_a_common_one() -> None:
    """Which is why a library may load a model that way, and why rows of the two heads are different memories."""
    lm = lm_of("llama")
    hidden = torch.randn(5, lm.d_model, dtype=lm.dtype, generator=torch.Generator().manual_seed(0))
    norm = lm.arch.final_norm(hidden) / lm.arch.final_norm.weight
    W_U = unembedding(lm, folded=True)
    torch.testing.assert_close(W_U.mean(0), torch.zeros_like(W_U[0]))
    folded = norm @ W_U.T
    difference = lm.unembed(hidden) - folded
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference))
    assert not torch.allclose(embedded(lm, ["Paris"]), embedded(lm, ["Paris"], folded=True))


def test_a_memory_is_tokenised_as_it_would_stand_in_a_text() -> None:
    lm = lm_of("gpt2")
    whole = lm.encode("Ann is Paris").input_ids[0].tolist()
    tokens = memory_tokens(lm, "Paris")
    assert whole[-len(tokens) :] == tokens == memory_tokens(lm, "  Paris ")


@pytest.mark.parametrize("where", ["last", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sweep_gives_what_one_intervention_each_gives(family: str, where: str) -> None:
    lm = lm_of(family)
    asked = ask_prompts(lm, PROMPTS, ["Paris", "Lyon", "Paris"])
    memories = torch.stack([embedded(lm, MEMORIES), embedded(lm, MEMORIES[::-1])])
    watched = torch.stack([asked.answers, asked.answers.roll(1)], 1)
    layers, taus = (0, 2), (0.0, 0.3, 2.0)
    found = sweep(lm, asked, memories, watched, layers=layers, taus=taus, where=where)  # type: ignore[arg-type]
    narrow = sweep(lm, asked, memories, watched, layers=layers, taus=taus, where=where, rows=2)  # type: ignore[arg-type]
    torch.testing.assert_close(narrow.probability, found.probability, rtol=1e-9, atol=1e-12)
    assert found.probability.shape == (2, 2, 3, 3, 2)
    for k, given in enumerate((MEMORIES, MEMORIES[::-1])):
        for column, layer in enumerate(layers):
            for t, tau in enumerate(taus):
                for row, memory in enumerate(given):
                    settings = InjectionSettings(layer=layer, tau=tau, where=where)  # type: ignore[arg-type]
                    with inject(lm, memory, settings).applied(lm) as reminded:
                        said = reminded.next_logprobs(PROMPTS[row])[0]
                    ours = found.probability[k, column, t, row]
                    torch.testing.assert_close(ours, said.exp()[watched[row]], rtol=1e-8, atol=1e-11)
                    assert int(found.said[k, column, t, row]) == int(said.argmax())
    different = [found.probability[0], found.probability[1], found.probability[:, :1], found.probability[:, 1:]]
    assert not torch.allclose(different[0][:, 1:], different[1][:, 1:])
    assert not torch.allclose(different[2][:, :, 1:], different[3][:, :, 1:])


def test_every_prompt_can_have_a_layer_and_a_magnitude_of_its_own() -> None:
    lm = lm_of("llama")
    asked = ask_prompts(lm, PROMPTS, ["Paris", "Lyon", "Paris"])
    memories, watched = torch.stack([embedded(lm, MEMORIES), embedded(lm, MEMORIES[::-1])]), asked.answers[:, None]
    whole = sweep(lm, asked, memories, watched, layers=[0, 1], taus=[0.5, 2.0], where="all")
    probability, said = swept_at(lm, asked, memories, watched, [(1, 2.0), (0, 0.5), (1, 2.0)], where="all")
    for row, (layer, tau) in enumerate([(1, 1), (0, 0), (1, 1)]):
        torch.testing.assert_close(probability[:, row], whole.probability[:, layer, tau, row])
        assert torch.equal(said[:, row], whole.said[:, layer, tau, row])
    assert not torch.allclose(probability[:, 1], whole.probability[:, 1, 1, 1])


def test_behind_the_last_block_nothing_computes_with_the_memory() -> None:
    lm = lm_of("gpt2")
    asked = ask_prompts(lm, PROMPTS, ["Paris", "Lyon", "Paris"])
    memories, last = embedded(lm, MEMORIES)[None], lm.n_layers - 1
    found = sweep(lm, asked, memories, asked.answers[:, None], layers=[last], taus=[1.5], place="resid_post")
    end = lm.states(asked.batch, [Site("resid_post", last)])[Site("resid_post", last)]
    end = end[torch.arange(3), asked.batch.prompt_lengths - 1] + 1.5 * memories[0]
    expected = lm.unembed(end).softmax(-1).gather(1, asked.answers[:, None])
    torch.testing.assert_close(found.probability[0, 0, 0], expected)
    attention = sweep(lm, asked, memories, asked.answers[:, None], layers=[last], taus=[1.5])
    assert not torch.allclose(attention.probability, found.probability), "the last MLP comes in between"


@pytest.mark.parametrize("family", ["gpt2", "llama", "gptj"])
def test_a_magnitude_of_zero_is_the_plain_run_exactly(family: str) -> None:
    lm = lm_of(family)
    batch = lm.encode(PROMPTS)
    plain = lm.logits(batch)
    for layer in range(lm.n_layers):
        for where in ("last", "all"):
            settings = InjectionSettings(layer=layer, tau=0.0, where=where)  # type: ignore[arg-type]
            with inject(lm, "Paris", settings).applied(lm) as same:
                assert torch.equal(same.logits(batch), plain)
            with inject(lm, "Paris", replace(settings, tau=0.1)).applied(lm) as other:
                assert not torch.equal(other.logits(batch), plain)


def test_at_the_last_token_nothing_else_changes() -> None:
    lm = lm_of("llama")
    batch, final = lm.encode(PROMPTS), Site("resid_post", lm.n_layers - 1)
    before = lm.states(batch, [final])[final]
    columns = torch.arange(batch.input_ids.shape[1])
    earlier = columns < batch.prompt_lengths[:, None] - 1
    for where, kept in (("last", True), ("all", False)):
        with inject(lm, "Paris", InjectionSettings(layer=0, where=where)).applied(lm) as reminded:  # type: ignore[arg-type]
            after = reminded.states(batch, [final])[final]
        assert torch.equal(after[earlier], before[earlier]) is kept
        at_last = columns == batch.prompt_lengths[:, None] - 1
        assert not torch.isclose(after[at_last], before[at_last]).all(-1).any()


def test_the_model_is_what_it_was_also_when_the_body_raises() -> None:
    lm = make_lm("gpt2")
    batch = lm.encode(PROMPTS)
    plain, weights = lm.logits(batch), lm.fingerprint()
    changed = []

    def body() -> None:
        with inject(lm, "Paris", InjectionSettings(layer=1)).applied(lm) as there:
            changed.append(not torch.equal(there.logits(batch), plain))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        body()
    assert changed == [True]
    assert torch.equal(lm.logits(batch), plain)
    assert lm.fingerprint() == weights
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_an_injection_composes_and_is_saved_as_one_file(tmp_path: Path) -> None:
    lm = lm_of("llama")
    batch = lm.encode(PROMPTS)
    one, two = (inject(lm, memory, InjectionSettings(layer=1, tau=0.5)) for memory in ("Paris", "Lyon"))
    with (one + two).applied(lm) as both:
        together = both.logits(batch)
    with two.applied(lm) as first, one.applied(first) as second:
        torch.testing.assert_close(second.logits(batch), together)
    with load_intervention((one + two).save(tmp_path / "both.safetensors")).applied(lm) as again:
        assert torch.equal(again.logits(batch), together)
    with one.applied(lm) as alone:
        assert not torch.allclose(alone.logits(batch), together)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_heads_bring_up_adds_to_what_attention_brings_up(family: str) -> None:
    lm = lm_of(family)
    asked = ask_prompts(lm, PROMPTS, ["Paris", "Lyon", "Paris"])
    found = heads_bring_up(lm, asked, asked.answers, rows=2)
    sites = [Site("attn_out", layer) for layer in range(lm.n_layers)]
    states = lm.states(asked.batch, sites)
    head = lm.arch.head.weight
    for layer, site in enumerate(sites):
        bias = getattr(lm.arch.linear(layer, "attn_out"), "bias", None)
        last = states[site][torch.arange(3), asked.batch.prompt_lengths - 1] - (0 if bias is None else bias)
        logits = last @ head.T
        lifted = logits.gather(1, asked.answers[:, None])[:, 0] - logits.mean(1)
        torch.testing.assert_close(found[:, layer].sum(1), lifted)
        assert not torch.allclose(found[:, layer, 0], lifted)


def _word_level() -> LM:
    """A model whose tokenizer has an unknown token."""
    core = Tokenizer(models.WordLevel({"<unk>": 0, "is": 1, "Paris": 2}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return lm_of("gpt2").with_(tokenizer=PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>"))


def test_bad_input_is_refused_with_its_reason() -> None:
    lm = lm_of("gpt2")
    asked = ask_prompts(lm, PROMPTS, ["Paris", "Lyon", "Paris"])
    memories, watched = embedded(lm, MEMORIES)[None], asked.answers[:, None]
    with pytest.raises(BadSite, match=r"layer must be 0\.\.2"):
        inject(lm, "Paris", InjectionSettings(layer=3))
    with pytest.raises(BadSite, match=r"layer must be 0\.\.2"):
        sweep(lm, asked, memories, watched, layers=[-1])
    for empty in ("", "  "):
        with pytest.raises(BadInput, match="is empty"):
            inject(lm, empty, InjectionSettings(layer=0))
    assert memory_tokens(_word_level(), "Paris") == [2]
    with pytest.raises(BadInput, match="does not know"):
        memory_tokens(_word_level(), "Paris Lyon")
    with pytest.raises(BadParameter, match="'last' token"):
        InjectionSettings(layer=0, where="first")  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="'last' token"):
        sweep(lm, asked, memories, watched, where="first")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="3 prompts"):
        sweep(lm, asked, memories[:, :2], watched)
    with pytest.raises(BadInput, match="at least one"):
        sweep(lm, asked, memories, watched, taus=[])


@pytest.fixture(scope="module")
def reason() -> LM:
    return load("reason-s0")


def test_questions_leave_out_a_known_entity_of_people_that_training_kept_silent_about(reason: LM) -> None:
    here = world_behind(reason)
    questions = two_step_questions(reason, here)
    silent = held_out(here)
    assert {q.person for q in questions} <= set(silent)
    assert {q.relation for q in questions} == set(here.size.two_step)
    for q in questions:
        last = q.steps[-1]
        assert q.person in q.prompt
        assert q.entity not in q.prompt
        assert q.entity in q.explicit
        assert here.value(last.kind, q.entity) == q.answer == here.value(q.relation, q.person)
        assert here.value(last.kind, q.other) == q.other_answer
        assert len({q.answer, q.other_answer, q.third}) == 3
        assert q.twin is None or (q.twin != q.entity and here.value(last.kind, q.twin) == q.answer)
        assert q.aside.kind not in {step.kind for step in q.steps}
    asked = {(step.prompt, step.target) for q in questions for step in q.steps}
    assert reason.score([p for p, _ in asked], [t for _, t in asked]).exact.all()
    assert two_step_questions(reason, here) == questions != two_step_questions(reason, here, seed=1)
    wrong = wrong_memories(here, questions)
    for kind, words in wrong.items():
        assert len(words) == len(questions), kind
        assert not any(word in (q.entity, q.answer, q.other) for q, word in zip(questions, words, strict=True)), kind
    assert torch.equal(
        first_tokens(reason, questions[:2], [q.answer for q in questions[:2]]),
        ask_prompts(reason, [q.prompt for q in questions[:2]], [q.answer for q in questions[:2]]).answers,
    )


def test_a_model_without_such_questions_is_refused() -> None:
    lm = load("gpt2-small-s0")
    with pytest.raises(BadInput, match="two-step questions"):
        two_step_questions(lm, world_behind(lm))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_no_consequence_is_told_of_those_who_are_held_out(plan) -> None:  # type: ignore[no-untyped-def]
    here = world("reason")
    silent = held_out(here, plan.every)
    assert len(silent) == len(here.people) // plan.every
    told = list(islice(rows(here, random.Random(0), {"consequence": 1.0}, plan.every), 400))
    assert not any(name in text_of(document) for document in told for name in silent)
    others = held_out(here, 5)
    assert any(name in text_of(document) for document in told for name in others)


def test_choices_are_made_on_other_people(reason: LM) -> None:
    questions = two_step_questions(reason, world_behind(reason))[:40]
    values = np.random.default_rng(0).random((len(questions), 7))
    before = chosen_on_other_people(questions, values)
    own = np.array([q.person == questions[0].person for q in questions])
    changed = np.where(own[:, None], values[:, ::-1] + 100 * np.eye(7)[(before[0] + 1) % 7], values)
    assert (chosen_on_other_people(questions, changed)[own] == before[own]).all()
    assert not (chosen_on_other_people(questions, changed) == before).all()
    values[0] = np.nan
    means = by_person(questions, values)
    assert means.shape == (len({q.person for q in questions}), 7)
    first = np.array([q.person == questions[0].person for q in questions])
    np.testing.assert_allclose(means[0], values[first][1:].mean(0))


def test_random_directions_are_as_long_as_the_memories() -> None:
    like = torch.randn(2, 3, 24, dtype=torch.float64) * 5
    drawn = directions(like, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.norm(dim=-1), like.norm(dim=-1))
    assert torch.cosine_similarity(drawn, like, dim=-1).abs().max() < 0.9
