"""LaPael: noise on early layers that is learned from paraphrases, and the comparison it is measured in."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from families import FAMILIES, make_lm
from paramem.arch import Site
from paramem.errors import BadInput, BadParameter, BadSite, IncompatibleIntervention, SubjectNotInPrompt
from paramem.fusion.kept import TRAINED_BY, keeping, kept_fine_tune
from paramem.fusion.training import TrainSettings, fine_tune, matched, n_tokens, plan, text_row
from paramem.injection.latent_paraphrases import (
    LatentSettings,
    Lesson,
    Paraphraser,
    answer_states,
    concrete,
    encode,
    learn,
    losses,
    mask_loss,
    moments,
    softplus2,
    symmetric_kl,
)
from paramem.injection.latent_study import (
    Arm,
    StudySettings,
    bank_of,
    divergences,
    of,
    recall,
    rows_of,
    teach,
    told,
    train_arms,
    unseen,
    upper_mlps,
)
from paramem.injection.newcomers import Newcomers, lessons_of, lessons_of_the_map, newcomers, unfamiliar
from paramem.injection.noise import Noise, blind, dealt
from paramem.models import LM, load
from paramem.world import world

HERE = world("recall")
TEXTS = ("Ann was born in Lyon.", "The capital of France is Paris.", "music is in the company of Anna.")
ONCE = TrainSettings(passes=2, lr=1e-3, tokens=16)
SHORT = LatentSettings(steps=20)


@cache
def recaller() -> LM:
    return load("gpt2-s0")


@cache
def news() -> Newcomers:
    return newcomers(HERE, 6, seed="tests")


@cache
def lessons() -> tuple[Lesson, ...]:
    return tuple(lessons_of(HERE, news(), 60, seed="tests"))


@cache
def paraphraser() -> Paraphraser:
    """Learned on the first forty lessons."""
    return learn(recaller(), lessons()[:40], SHORT, seed=0)


def untrained(lm: LM, layers: tuple[int, ...] = (0, 1), seed: int = 0) -> Paraphraser:
    return Paraphraser(lm.d_model, layers, 0.1, seed=seed).to(lm.device, lm.dtype).requires_grad_(False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def constant(value: float, layers: tuple[int, ...] = (0, 1)) -> Noise:
    return Noise(lambda place, state, _: torch.full_like(state, value), layers, seed=0, clean=0.0)


def logits(lm: LM, noise: AbstractContextManager[LM] | None = None) -> Tensor:
    if noise is None:
        return lm.logits(lm.encode(TEXTS))
    with noise as noisy:
        return noisy.logits(noisy.encode(TEXTS))


def weights(lm: LM) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in lm.model.named_parameters()}


# Mathematics


def test_the_softplus_is_one_at_zero_and_agrees_with_its_definition() -> None:
    x = torch.linspace(-30, 30, 61, dtype=torch.float64)
    assert torch.allclose(softplus2(x), torch.log2(1 + 2**x))
    assert softplus2(torch.zeros(1)).item() == pytest.approx(1)
    assert torch.nn.functional.softplus(torch.zeros(1)).item() < 0.7  # the control: the usual one is not
    assert torch.isfinite(softplus2(torch.tensor([1e6])))


def test_the_distance_is_the_mean_of_both_divergences() -> None:
    mu, sigma, mu_p, sigma_p = torch.rand(4, 5, 7, generator=generator()) + 0.2
    one, other = torch.distributions.Normal(mu, sigma), torch.distributions.Normal(mu_p, sigma_p)
    kl = torch.distributions.kl_divergence
    found = symmetric_kl(mu, sigma, mu_p, sigma_p, 1e-3)
    assert torch.allclose(found, (kl(one, other) + kl(other, one)) / 2, atol=1e-5)
    assert not torch.allclose(found, kl(one, other), atol=1e-3)
    assert torch.equal(symmetric_kl(mu, sigma, mu, sigma, 1e-3).abs() < 1e-6, torch.ones(5, 7, dtype=torch.bool))


def test_deviations_below_the_floor_do_not_count() -> None:
    mu, tiny = torch.zeros(3), torch.full((3,), 1e-9)
    assert symmetric_kl(mu, tiny, mu, tiny, 0.1).abs().max() < 1e-6
    assert symmetric_kl(mu, tiny, mu, torch.full((3,), 0.1), 1e-6).min() > 100  # the control: without a floor they do


def test_masks_are_draws_of_their_probability() -> None:
    for logit in (-2.0, 0.0, 1.0):
        drawn = concrete(torch.full((20000, 1), logit), 0.01, generator())
        assert drawn.mean().item() == pytest.approx(torch.tensor(logit).sigmoid().item(), abs=0.015)
        assert ((drawn < 0.01) | (drawn > 0.99)).double().mean() > 0.95
    assert concrete(torch.zeros(20000, 1), 10.0, generator()).std() < 0.1  # the control: warm draws are soft


def test_the_loss_of_the_masks_is_least_where_names_are_shut_and_half_of_the_tokens_open() -> None:
    names, real = torch.tensor([[1, 1, 0, 0]], dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    right = mask_loss(torch.tensor([[0.0, 0, 1, 1]]), names, real, 0.5)
    assert right == 0
    for wrong in ([[1.0, 0, 1, 0]], [[0.0, 0, 0, 0]], [[1.0, 1, 1, 1]]):
        assert mask_loss(torch.tensor(wrong), names, real, 0.5) > right


# Noise


@pytest.mark.parametrize("family", FAMILIES)
def test_a_factor_of_one_is_no_noise_and_another_one_is(family: str) -> None:
    lm = make_lm(family)
    assert torch.equal(logits(lm, constant(1.0).applied(lm)), logits(lm))
    assert not torch.allclose(logits(lm, constant(1.5).applied(lm)), logits(lm))


def test_noise_of_factor_one_trains_exactly_as_no_noise() -> None:
    lm = make_lm("llama")
    rows = [text_row(lm, text) for text in TEXTS]
    plain = weights(fine_tune(lm, rows, ONCE))
    one = weights(fine_tune(lm, rows, ONCE, during=constant(1.0).applied))
    other = weights(fine_tune(lm, rows, ONCE, during=constant(1.2).applied))
    assert all(torch.equal(plain[name], one[name]) for name in plain)
    assert not all(torch.equal(plain[name], other[name]) for name in plain)


def test_a_clean_row_is_left_alone_and_three_in_four_are_not() -> None:
    lm = make_lm("gpt2")
    factor = untrained(lm).factor
    batch = lm.encode(["Ann was born in Lyon."] * 400)
    before, state = lm.states(batch, [Site("mlp_out", 1)])[Site("mlp_out", 1)], Site("mlp_out", 1)
    shares = {}
    for clean in (0.0, 0.25, 1.0):
        with Noise(factor, (0, 1), seed=0, clean=clean).applied(lm):
            after = lm.states(batch, [state])[state]
        shares[clean] = (after == before).flatten(1).all(1).double().mean().item()
    assert shares[0.0] == 0
    assert shares[0.25] == pytest.approx(0.25, abs=0.07)
    assert shares[1.0] == 1


def test_the_same_seed_gives_the_same_noise_and_every_forward_and_token_other_noise() -> None:
    lm = make_lm("gpt2")
    para = untrained(lm)
    noise = para.noise(seed=3, clean=0.0)
    first, second = logits(lm, noise.applied(lm)), logits(lm, noise.applied(lm))
    again = logits(lm, para.noise(seed=3, clean=0.0).applied(lm))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, logits(lm, para.noise(seed=4, clean=0.0).applied(lm)))
    same = torch.ones(1, 6, lm.d_model, dtype=lm.dtype)
    factors = para.factor(0, same, generator())[0]
    assert len({tuple(row.tolist()) for row in factors}) == 6


def test_one_noise_trains_every_model_alike_so_that_its_recipe_says_all(tmp_path: Path) -> None:
    lm = make_lm("gpt2")
    rows, para = [text_row(lm, text) for text in TEXTS], untrained(lm)
    bank = bank_of(lm, para, TEXTS)

    def trained(noise: Noise, folder: str) -> LM:
        with keeping(tmp_path / folder):
            return kept_fine_tune(lm, rows, ONCE, during=noise.applied, recipe=noise.recipe)

    kinds: tuple[Callable[[int], Noise], ...] = (
        lambda seed: para.noise(seed=seed),
        lambda seed: blind(bank, (0, 1), seed=seed),
        lambda seed: dealt(bank, (0, 1), seed=seed),
    )
    for kind in kinds:
        used = kind(0)
        first, again = trained(used, "first"), trained(used, "again")
        assert first.fingerprint() == again.fingerprint() == trained(kind(0), "anew").fingerprint()
        assert first.fingerprint() != trained(kind(1), "first").fingerprint()  # the control
    names = [{file.name for file in (tmp_path / folder).iterdir()} for folder in ("first", "again", "anew")]
    assert names[0] > names[1] == names[2]
    assert Noise(para.factor, (0, 1), seed=generator(), origin="moves on").recipe == ""
    assert Noise(para.factor, (0, 1), seed=0, origin="begins anew").recipe


def test_learned_factors_depend_on_the_state_and_dealt_ones_do_not() -> None:
    lm = make_lm("gpt2")
    para = untrained(lm)
    one, other = torch.randn(2, 1, 5, lm.d_model, generator=generator(), dtype=lm.dtype)
    assert not torch.equal(para.factor(0, one, generator(7)), para.factor(0, other, generator(7)))
    noise = dealt(bank_of(lm, para, TEXTS), (0, 1), seed=0)
    assert torch.equal(noise.factor(0, one, generator(7)), noise.factor(0, other, generator(7)))


def test_blind_noise_is_as_large_as_the_learned_one_at_every_layer() -> None:
    bank = bank_of(recaller(), paraphraser(), [f"{p.prompt} {p.target}." for p in told(news().facts)])
    state = torch.ones(200, 10, recaller().d_model)
    for control in (blind(bank, (0, 1), seed=0), dealt(bank, (0, 1), seed=0)):
        for place, factors in enumerate(bank.factors):
            size = (factors - 1).square().mean().sqrt().item()
            drawn = (control.factor(place, state, generator()) - 1).square().mean().sqrt().item()
            assert drawn == pytest.approx(size, rel=0.03)
    smaller = replace(bank, factors=1 + (bank.factors - 1) / 2)
    half = (blind(smaller, (0, 1), seed=0).factor(0, state, generator()) - 1).square().mean().sqrt().item()
    assert half == pytest.approx((bank.factors[0] - 1).square().mean().sqrt().item() / 2, rel=0.03)  # the control


def test_the_bank_holds_every_token_once_for_every_layer_and_no_padding() -> None:
    lm = make_lm("gpt2")
    batch = lm.encode(TEXTS)
    assert bank_of(lm, untrained(lm), TEXTS).factors.shape == (2, int(batch.lengths.sum()), lm.d_model)
    assert int(batch.lengths.sum()) < batch.input_ids.numel()


def test_noise_comes_off_again_also_when_the_body_raises() -> None:
    lm = make_lm("llama")
    before, fingerprint = logits(lm), lm.fingerprint()

    def failing() -> None:
        with untrained(lm).noise(seed=0, clean=0.0).applied(lm) as noisy:
            assert not torch.equal(logits(noisy), before)
            raise KeyError("body")

    with pytest.raises(KeyError, match="body"):
        failing()
    assert torch.equal(logits(lm), before)
    assert lm.fingerprint() == fingerprint


# Learning


def test_learning_changes_the_paraphraser_alone_and_training_the_chosen_weights_alone() -> None:
    lm = recaller()
    fingerprint = lm.fingerprint()
    start, para = Paraphraser(lm.d_model, SHORT.layers, SHORT.temperature, seed=0), paraphraser()
    assert lm.fingerprint() == fingerprint
    assert all(not torch.equal(a, b) for a, b in zip(start.parameters(), para.parameters(), strict=True))
    assert not any(p.requires_grad for p in (*para.parameters(), *lm.model.parameters()))
    learned = [p.clone() for p in para.parameters()]
    after = fine_tune(
        lm,
        rows_of(lm, news().facts),
        TrainSettings(passes=1, lr=1e-3, tokens=64),
        train=upper_mlps(2),
        during=para.noise(seed=0).applied,
    )
    assert all(torch.equal(a, b) for a, b in zip(learned, para.parameters(), strict=True))
    assert all(p.grad is None for p in para.parameters())
    moved = {name for name, p in weights(after).items() if not torch.equal(p, weights(lm)[name])}
    assert moved == {lm.weight(layer, role).name for layer in range(2, 6) for role in ("up", "down")}


def distance(para: Paraphraser, some: tuple[Lesson, ...]) -> Tensor:
    return divergences(recaller(), para.factor, some, SHORT, seed=5)


def test_what_is_learned_holds_for_sentences_that_were_not_among_the_lessons() -> None:
    unlearned = Paraphraser(recaller().d_model, SHORT.layers, SHORT.temperature, seed=0)
    kept_back = lessons()[40:]
    assert not {lesson.subject + lesson.object for lesson in kept_back} & {
        lesson.subject + lesson.object for lesson in lessons()[:40]
    }
    assert distance(paraphraser(), kept_back).mean() < 0.8 * distance(unlearned, kept_back).mean()


def test_masks_learn_to_spare_the_names_of_people_they_never_met() -> None:
    lm = recaller()
    some = [Lesson(f.prompt, f.object, f.subject, tuple(p.prompt for p in unseen([f]))) for f in news().facts]
    batch, names, *_ = encode(lm, some, SHORT)
    rest = batch.attention_mask.bool() & ~names
    state = lm.states(batch, [Site("mlp_in", 0)])[Site("mlp_in", 0)]
    gaps = {}
    for name, para in (("learned", paraphraser()), ("untrained", untrained(lm))):
        mask = torch.sigmoid(para[0].s(state))[..., 0]
        gaps[name] = (mask[rest].mean() - mask[names].mean()).item()
    assert gaps["learned"] > 0.15 > abs(gaps["untrained"])


def test_names_get_no_noise_while_it_is_learned() -> None:
    lm, some = recaller(), lessons()[:4]
    task, para = encode(lm, some, SHORT), untrained(recaller())
    everything = task._replace(names=torch.ones_like(task.names))
    still = divergences(lm, lambda place, state, _: torch.ones_like(state), some, SHORT)
    for given, unmoved in ((everything, True), (task, False)):
        distance, _ = losses(lm, para, given, SHORT, generator())
        assert torch.allclose(distance.mean(1), still, rtol=1e-4) == unmoved


def test_moments_are_those_of_each_sentence_s_own_paraphrases() -> None:
    lm = make_lm("gpt2")
    prompts = [("Ann was born in", "In France Ann was born in"), ("The capital is", "music is in", "Ann is in")]
    settings = LatentSettings(layers=(0,), states_from=1)
    mean, deviation = moments(lm, prompts, settings, rows=2)
    for row, some in enumerate(prompts):
        each = torch.cat([answer_states(lm, lm.encode([prompt]), 1) for prompt in some])
        assert torch.allclose(mean[row], each.mean(0))
        assert torch.allclose(deviation[row], each.std(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_read_where_the_answer_is_predicted(family: str) -> None:
    """With answers of several tokens behind the prompts: what is read off is what follows the prompt alone."""
    lm = make_lm(family)
    prompts, answers = zip(*(text.rsplit(" ", 1) for text in TEXTS), strict=True)
    batch = lm.encode(list(prompts), list(answers))
    states = answer_states(lm, batch, 1)
    assert torch.allclose(lm.arch.head(states[:, -1]).log_softmax(-1), lm.next_logprobs(list(prompts)))
    sites = [Site("resid_pre", layer) for layer in range(1, lm.n_layers)]
    for row, prompt in enumerate(prompts):
        alone = lm.states(lm.encode([prompt]), sites)
        assert torch.allclose(states[row, :-1], torch.stack([alone[site][0, -1] for site in sites]))
        assert not torch.allclose(states[row, :-1], torch.stack([alone[site][0, -2] for site in sites]))  # the control


def test_learning_is_repeatable() -> None:
    few = LatentSettings(steps=2, batch=2)
    one, same, other = (learn(recaller(), lessons()[:4], few, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_was_taught_is_kept_and_close_to_what_was_learned(tmp_path: Path) -> None:
    lm, some = recaller(), lessons()[:4]
    few = LatentSettings(steps=2, batch=2)
    with keeping(tmp_path):
        made = teach(lm, some, few)
        (file,) = tmp_path.iterdir()
        written = file.stat().st_mtime_ns
        found = teach(lm, some, few)
        assert file.stat().st_mtime_ns == written
        others = [teach(lm, some[::-1], few), teach(lm, some, few, seed=1), teach(lm, some, replace(few, lr=1e-3))]
    assert made.losses == found.losses
    assert len(made.losses) == few.steps
    assert made.paraphraser.recipe == found.paraphraser.recipe
    assert len({made.paraphraser.recipe, *(other.paraphraser.recipe for other in others)}) == 4
    exact = learn(lm, some, few)
    for a, b in zip(made.paraphraser.parameters(), exact.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)
        assert not a.requires_grad


def test_a_recipe_tells_everything_apart_that_decides_the_noise() -> None:
    lm, para = make_lm("gpt2"), untrained(make_lm("gpt2"))
    bank = bank_of(lm, para, TEXTS)
    banks = [
        bank,
        bank_of(lm, para, TEXTS[:2]),
        bank_of(lm, para, TEXTS, seed=1),
        bank_of(lm, untrained(lm, seed=1), TEXTS),
    ]
    noises = [kind(each, (0, 1), seed=0) for kind in (blind, dealt) for each in banks]
    noises += [blind(bank, (0,), seed=0), blind(bank, (0, 1), seed=1), blind(bank, (0, 1), seed=0, clean=0.5)]
    noises += [para.noise(seed=0), para.noise(seed=1), para.noise(seed=0, clean=0.5), untrained(lm, (0,)).noise(seed=0)]
    assert len({noise.recipe for noise in noises}) == len(noises)
    assert blind(bank_of(lm, para, TEXTS), (0, 1), seed=0).recipe == noises[0].recipe
    nameless = {"constant": Arm(lambda: constant(1.0))}
    with pytest.raises(BadParameter, match="has no recipe"):
        train_arms(recaller(), news().facts[:2], nameless, StudySettings())


# Bad input


def test_what_cannot_be_learned_from_is_refused() -> None:
    lm = recaller()
    lesson = lessons()[0]
    with pytest.raises(BadSite, match=r"mlp_in.9: layer must be 0..5"):
        learn(lm, [lesson], LatentSettings(layers=(0, 9)))
    with pytest.raises(BadInput, match="has 1 paraphrases"):
        learn(lm, [lesson._replace(paraphrases=lesson.paraphrases[:1])], SHORT)
    with pytest.raises(BadInput, match="no lessons"):
        learn(lm, [], SHORT)
    with pytest.raises(SubjectNotInPrompt, match="Nobody"):
        learn(lm, [lesson._replace(subject="Nobody")], SHORT)
    with pytest.raises(BadParameter, match="at least one layer"):
        LatentSettings(layers=())
    with pytest.raises(BadParameter, match="two draws"):
        LatentSettings(draws=1)
    with pytest.raises(BadParameter, match="positive"):
        LatentSettings(floor=0)
    for mask_steps in (0, -1):
        with pytest.raises(BadParameter, match="mask_steps are at least 1"):
            LatentSettings(mask_steps=mask_steps)


def test_noise_that_does_not_fit_is_refused() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(IncompatibleIntervention, match="of width 128"):
        logits(lm, paraphraser().noise(seed=0).applied(lm))
    with pytest.raises(BadSite, match=r"layer must be 0..2"):
        logits(lm, constant(1.0, (7,)).applied(lm))
    with pytest.raises(BadParameter, match="share of rows"):
        Noise(untrained(lm).factor, (0,), seed=0, clean=1.5)
    for layers in ((1, 0), (0, 0), ()):
        with pytest.raises(BadParameter, match="from the lowest up, each once"):
            constant(1.0, layers)
    bank = bank_of(lm, untrained(lm), TEXTS)
    for kind in (blind, dealt):
        with pytest.raises(BadParameter, match="has factors for 2 layers"):
            kind(bank, (0, 1, 2), seed=0)
        with pytest.raises(BadParameter, match="from the lowest up"):
            kind(bank, (1, 0), seed=0)
        with kind(bank, (1, 2), seed=0).applied(lm) as noisy:  # the control: as many as it has, whichever
            assert not torch.equal(logits(noisy), logits(make_lm("gpt2")))
    assert torch.equal(logits(lm), logits(lm))


def test_an_empty_passage_one_without_an_end_and_a_layer_that_does_not_exist_are_refused() -> None:
    lm = make_lm("gpt2")
    with pytest.raises(BadInput, match="empty passage"):
        text_row(lm, "  ")
    endless = copy.deepcopy(lm.tokenizer)
    endless.eos_token = None
    with pytest.raises(BadInput, match=r"tiny-gpt2 has no end token.*set its eos_token"):
        text_row(LM.of(lm.model, endless, lm.name), "music")
    assert text_row(lm, "music")[0][-1] == lm.tokenizer.eos_token_id  # the control
    with pytest.raises(BadParameter, match="trained_from=3"):
        upper_mlps(3)(lm)


# The comparison


def test_every_wording_has_one_use_and_nobody_was_met() -> None:
    found = news()
    met = {person.name for person in (*HERE.people, *HERE.unseen_people)}
    assert not {fact.subject for fact in found.facts} & met
    for fact in found.facts:
        familiar = HERE.relation(fact.relation).templates["en"]
        uses = [(fact.template,), fact.paraphrases, found.told[fact.relation], fact.withheld]
        uses.append(found.reworded[fact.relation])
        everything = [wording for some in uses for wording in some]
        assert sorted(everything) == sorted([*unfamiliar()[fact.relation], *familiar])
        assert set(fact.withheld) <= set(familiar)
        assert not {fact.template, *fact.paraphrases} & set(familiar)
    for lesson in lessons():
        assert lesson.subject in met
        assert not any(lesson.prompt == fact.template.replace("{}", lesson.subject) for fact in found.facts)


def test_draws_differ_and_people_to_choose_constants_on_are_others() -> None:
    one, again, other = (newcomers(HERE, 5, seed=seed) for seed in ("a", "a", "b"))
    assert one == again != other
    tuned = newcomers(HERE, 200, seed="a", part="train")
    reported = newcomers(HERE, 100, seed="a", part="test")
    assert not {fact.subject for fact in tuned.facts} & {fact.subject for fact in reported.facts}
    with pytest.raises(BadParameter, match="unused names"):
        newcomers(HERE, 5000, seed="a")
    with pytest.raises(BadParameter, match="no unfamiliar wordings of 'eats'"):
        newcomers(world("read"), 2, seed="a")
    with pytest.raises(BadParameter, match="lessons are asked for"):
        lessons_of(HERE, one, 5000, seed="a")


def test_lessons_of_the_map_speak_of_no_person() -> None:
    people = {person.name for person in HERE.people}
    found = lessons_of_the_map(HERE, seed="a")
    assert len(found) == 84
    assert all(lesson.subject not in people and len(lesson.paraphrases) == 5 for lesson in found)
    assert all(lesson.prompt not in lesson.paraphrases for lesson in found)


def test_arms_see_as_many_tokens_and_the_model_stays_as_it_is() -> None:
    lm, facts = recaller(), news().facts
    settings = StudySettings(training=TrainSettings(passes=12, lr=1e-3, tokens=128))
    plain, more = rows_of(lm, facts), rows_of(lm, facts, paraphrases=True)
    assert len(more) == 3 * len(plain)
    seen = [
        sum(n_tokens(batch) for _, batch in plan(rows, matched(settings.training, rows, plain), 0))
        for rows in (plain, more)
    ]
    assert seen[1] == pytest.approx(seen[0], rel=0.1)
    facts = facts[:6]
    settings = StudySettings(training=TrainSettings(passes=6, lr=1e-3, tokens=64))
    fingerprint = lm.fingerprint()
    models = train_arms(lm, facts, {"plain": Arm(), "noise": Arm(lambda: paraphraser().noise(seed=0))}, settings)
    assert lm.fingerprint() == fingerprint
    assert len({lm.fingerprint(), *(model.fingerprint() for model in models.values())}) == 3
    table = recall({"before": lm, **models}, {"told": told(facts), "unseen": unseen(facts)})
    assert len(table) == 3 * 2 * 6
    assert of(table, "plain", "told", "logprob").mean() > of(table, "before", "told", "logprob").mean() + 1
    by_hand = lm.score([p.prompt for p in unseen(facts)], [p.target for p in unseen(facts)]).exact.double()
    assert of(table, "before").tolist() == pytest.approx(by_hand.view(6, 3).mean(1).tolist())


def test_what_is_shipped_is_what_the_default_run_of_the_notebook_asks() -> None:
    notebook = (Path(__file__).parents[1] / "notebooks/injection/latent_paraphrases.py").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+): \w+ = (\S+)", notebook, re.M))
    settings = StudySettings()
    assert given["model"] == f'"{TRAINED_BY["paramem.injection.latent_study"]}"'
    assert (given["n_people"], given["n_lessons"]) == (str(settings.people), str(settings.lessons))
    assert (given["passes"], given["seed"]) == (f"{settings.training.passes:g}", "0")
    assert repr(settings.training).startswith(f"TrainSettings(passes={settings.training.passes}, lr=0.0015, tokens=256")
    assert "TrainSettings(passes=passes, lr=1.5e-3, tokens=256)" in notebook
