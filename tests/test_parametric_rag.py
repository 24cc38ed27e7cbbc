"""Parametric RAG: adapters trained side by side, merged, applied and taken off; what is refused; peft's own merging."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from paramem.errors import BadInput, BadParameter, IncompatibleIntervention, PromptTooLong
from paramem.fusion.documents import LeakingSplit
from paramem.fusion.study import continuations
from paramem.fusion.training import n_tokens
from paramem.injection import rag_study
from paramem.injection.document_adapter import DocumentAdapter, merge, save_peft
from paramem.injection.document_encoding import EncodingSettings, plan, train_adapters
from paramem.injection.parametric_rag import (
    INJECTIONS,
    Augmented,
    Corpus,
    PragSettings,
    encode,
    rows_of,
    sequences,
)
from paramem.interventions import Dense, LowRank, WeightDelta, load_intervention
from paramem.models import LM, load
from paramem.world import world
from paramem.world.read_rules import REFUSAL

HERE = world("read")
QUICK = PragSettings(encoding=EncodingSettings(passes=2))
NAMES = ("read-s0", "read-gpt2-s0")
both_families = pytest.mark.parametrize("name", NAMES)


@cache
def duel() -> rag_study.Duel:
    return rag_study.prepare(HERE, 9, documents=4, strangers=4, known=4)


@cache
def model(name: str = "read-s0") -> LM:
    return load(name)


@cache
def adapters(name: str = "read-s0") -> tuple[DocumentAdapter, ...]:
    return tuple(encode(model(name), duel().pages, QUICK))


@cache
def corpus() -> Corpus:
    return Corpus(duel().pages, adapters())


@cache
def learned() -> Corpus:
    """Two pages, trained long enough to be known."""
    settings = PragSettings(encoding=EncodingSettings(passes=12))
    return Corpus.of(model(), duel().pages[:2], settings)


def logits(lm: LM) -> torch.Tensor:
    with torch.no_grad():
        return lm.logits(lm.encode([question.prompt() for question in duel().questions[:6]]))


def same(one: WeightDelta, other: WeightDelta, atol: float = 1e-6) -> bool:
    return one.parts.keys() == other.parts.keys() and all(
        torch.allclose(one.dense(name), other.dense(name), atol=atol) for name in one.parts
    )


# Encoding


@both_families
def test_adapters_trained_side_by_side_are_those_trained_one_by_one(name: str) -> None:
    alone = [encode(model(name), [page], QUICK)[0] for page in duel().pages]
    for one, together in zip(alone, adapters(name), strict=True):
        assert same(one.delta, together.delta, atol=2e-5)
    assert not same(alone[0].delta, adapters(name)[1].delta, atol=2e-3)


def test_one_adapter_for_each_document_whatever_the_batch_and_the_number_of_rows() -> None:
    pages = [duel().pages[0], duel().pages[1].without(pairs=True), *duel().pages[2:]]
    small = replace(QUICK, encoding=replace(QUICK.encoding, documents=2))
    found, narrow = encode(model(), pages, QUICK), encode(model(), pages, small)
    assert [adapter.documents for adapter in found] == [(page.name,) for page in pages]
    assert all(same(one.delta, other.delta, atol=2e-5) for one, other in zip(found, narrow, strict=True))
    assert not same(found[1].delta, adapters()[1].delta, atol=2e-3)


@both_families
def test_the_base_model_is_untouched_and_the_factors_are_feed_forward_ones(name: str) -> None:
    lm = model(name)
    before = lm.fingerprint()
    found = encode(lm, duel().pages[:1], QUICK)[0]
    assert lm.fingerprint() == before
    assert not any(module._forward_hooks for module in lm.model.modules())
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    roles = [role for role in ("gate", "up", "down") if role in lm.arch.layout.weights]
    assert set(found.ranks) == {lm.weight(layer, role).name for layer in range(lm.n_layers) for role in roles}
    assert set(found.ranks.values()) == {QUICK.encoding.rank}


def test_an_adapter_teaches_its_document_and_not_another_one() -> None:
    questions = [q for q, i in zip(duel().questions, duel().owner, strict=True) if i == 0]
    own, other = (
        rag_study.ask(model(), questions, "own", edits=rag_study.merged(model(), learned(), [[i]] * 5)) for i in (0, 1)
    )
    assert own["right"].mean() >= 0.6 > other["right"].mean()


def test_sequences_are_every_document_with_every_pair() -> None:
    page = Augmented(name="x", text="d", rewrites=("r",), pairs=(("q", "a"), ("p", "b")))
    assert sequences(page, "joined") == ["d q a.", "d p b.", "r q a.", "r p b."]
    assert sequences(page, "apart") == ["d", "r", "q a.", "p b."]
    assert sequences(page.without(pairs=True), "joined") == ["d", "r"]
    assert sequences(page.without(pairs=True, rewrites=True), "joined") == ["d"]


def test_steps_see_every_row_equally_often_and_as_many_tokens_as_asked() -> None:
    settings = EncodingSettings(passes=6, rows=4)
    seen = list(itertools.chain.from_iterable(rows for _, rows in plan(6, settings)))
    assert {seen.count(row) for row in range(6)} == {6}
    assert plan(6, settings) == plan(6, settings) != plan(6, replace(settings, seed=1))
    bare = [page.without(pairs=True, rewrites=True) for page in duel().pages]
    n = [n_tokens([row for page in some for row in rows_of(model(), page, "joined")]) for some in (bare, duel().pages)]
    steps: list[int] = []
    rows = {page.name: rows_of(model(), page, "joined") for page in bare}
    long = replace(QUICK.encoding, passes=2 * n[1] / n[0])
    train_adapters(model(), rows, long, watch=lambda step, losses: steps.append(len(losses)))
    assert abs(len(steps) * n[0] - 2 * n[1]) <= n[0]
    assert set(steps) == {len(bare)}


# Merging


def test_merging_one_is_applying_it() -> None:
    one = adapters()[0]
    with one.applied(model()) as lm:
        alone = logits(lm)
    with merge([one]).applied(model()) as lm:
        assert torch.equal(logits(lm), alone)
    with merge([one], "average").applied(model()) as lm:
        assert torch.equal(logits(lm), alone)
    assert not torch.allclose(logits(model()), alone, atol=1e-3)


def test_the_sum_does_not_depend_on_the_order_and_the_average_is_its_share() -> None:
    some = adapters()[:3]
    total = merge(some)
    assert total.documents == tuple(page.name for page in duel().pages[:3])
    assert same(total.delta, merge(some[::-1]).delta)
    assert same(total.delta, some[0].delta + some[1].delta + some[2].delta)
    assert same(merge(some, "average").delta, total.delta / 3)
    assert isinstance(some[0] + some[1], DocumentAdapter)
    assert not same(total.delta, merge(some[:2]).delta, atol=1e-4)


def test_ranks_may_differ() -> None:
    wide = replace(QUICK, encoding=replace(QUICK.encoding, rank=5))
    one, other = adapters()[0], encode(model(), duel().pages[1:2], wide)[0]
    both = merge([one, other])
    assert set(both.ranks.values()) == {2 + 5}
    assert same(both.delta, one.delta + other.delta)
    questions = [duel().questions[0].prompt()] * 4
    side_by_side = continuations(model(), questions, edits=[one.delta, other.delta, both.delta, WeightDelta({})])
    one_by_one = []
    for adapter in (one, other, both):
        with adapter.applied(model()) as lm:
            one_by_one += continuations(lm, questions[:1])
    assert side_by_side == one_by_one + continuations(model(), questions[:1])


def test_what_cannot_be_merged_is_refused() -> None:
    one = adapters()[0]
    with pytest.raises(BadInput, match="no adapters to merge"):
        merge([])
    with pytest.raises(BadInput, match="merged twice"):
        merge([one, one])
    with pytest.raises(BadParameter, match="'median'"):
        merge([one], "median")  # type: ignore[arg-type]
    with pytest.raises(IncompatibleIntervention, match="read-gpt2-s0"):
        merge([one, adapters("read-gpt2-s0")[1]])
    matrix = next(iter(one.delta.parts))
    thin = WeightDelta({matrix: LowRank(torch.zeros(3, 2), torch.zeros(2, 4))})
    with pytest.raises(IncompatibleIntervention, match="fit no one model"):
        merge([one, DocumentAdapter(thin, documents=["thin"], base=one.base, base_name=one.base_name)])
    with pytest.raises(BadInput, match="low rank"):
        DocumentAdapter(WeightDelta({matrix: Dense(torch.zeros(3, 4))}), documents=["d"], base="b", base_name="m")


# Interventions


@both_families
def test_an_adapter_comes_off_bit_for_bit_and_survives_the_disk(name: str, tmp_path: Path) -> None:
    lm, one = model(name), adapters(name)[0]
    before = lm.fingerprint()
    with one.applied(lm):
        assert lm.fingerprint() != before
    with pytest.raises(ZeroDivisionError), one.applied(lm):
        _ = 1 / 0
    assert lm.fingerprint() == before
    again = load_intervention(one.save(tmp_path / "ada.safetensors"))
    assert isinstance(again, DocumentAdapter)
    assert again.fingerprint() == one.fingerprint()
    assert (again.documents, again.base) == (one.documents, one.base)
    with one.applied(lm):
        expected = logits(lm)
    with again.applied(lm):
        assert torch.equal(logits(lm), expected)


def test_an_adapter_of_another_base_is_refused_with_both_names() -> None:
    one, other = adapters()[0], model("read-gpt2-s0")
    for attempt in (
        lambda: one.applied(other),
        lambda: rag_study.merged(other, corpus(), [[0]]),
        lambda: corpus().answer(other, ["Q: Who? A:"], k=1),
    ):
        with pytest.raises(IncompatibleIntervention) as caught:
            attempt()
        assert "'read-s0'" in str(caught.value)
        assert "'read-gpt2-s0'" in str(caught.value)
    # The same shapes are not the same model.
    changed = WeightDelta({next(iter(one.delta.parts)): next(iter(one.delta.parts.values()))})
    with changed.applied(model()) as lm, pytest.raises(IncompatibleIntervention, match="was trained on"):
        one.applied(lm)
    with one.applied(model()):
        pass


@both_families
def test_peft_merges_the_same_factors_to_the_same_model(name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    lm = load(name)
    some = adapters(name)[:3]
    folders = [save_peft(adapter, lm, tmp_path / str(i)) for i, adapter in enumerate(some)]
    with merge(some).applied(lm):
        ours = logits(lm)
    with some[0].applied(lm):
        first = logits(lm)
    tuned = PeftModel.from_pretrained(lm.model, str(folders[0]), adapter_name="0")
    for i, folder in enumerate(folders[1:], 1):
        tuned.load_adapter(str(folder), adapter_name=str(i))
    assert torch.allclose(logits(lm), first, atol=1e-4)
    tuned.add_weighted_adapter(["0", "1", "2"], [1.0] * 3, "merged", combination_type="cat")
    tuned.set_adapter("merged")
    assert torch.allclose(logits(lm), ours, atol=1e-4)
    assert not torch.allclose(ours, first, atol=1e-2)


# Retrieving and answering


def test_each_question_is_answered_under_its_own_documents() -> None:
    questions = [q.texts[0] for q, i in zip(duel().questions, duel().owner, strict=True) if i < 2]
    together, alone = learned().answer(model(), questions, k=1), []
    for question in questions:
        with learned().merged(learned().retrieve(question, 1)).applied(model()) as lm:
            alone += continuations(lm, [question])
    assert together == alone
    assert together != learned().answer(model(), questions, k=1, injection="none")
    assert together != learned().answer(model(), questions, k=2)


def test_the_page_of_the_person_is_found_and_goes_where_it_is_told() -> None:
    questions = [question.texts[0] for question in duel().questions]
    assert [corpus().retrieve(question, 1)[0] for question in questions] == list(duel().owner)
    right = [question.answers[0] for question in duel().questions]
    said = {how: corpus().answer(model(), questions, k=1, injection=how) for how in INJECTIONS}
    share = {how: sum(a == b for a, b in zip(found, right, strict=True)) / len(right) for how, found in said.items()}
    assert share["context"] > 0.8 > share["none"]


def test_tested_questions_are_not_trained_on() -> None:
    trained = {question for page in duel().pages for question, _ in page.pairs}
    assert not trained & {text for question in duel().questions for text in question.texts}
    assert sum(duel().taught) == 3 * 4
    page, question = duel().pages[0], duel().questions[0]
    leaking = replace(page, pairs=((question.texts[0], question.answers[0]),))
    with pytest.raises(LeakingSplit, match=page.name):
        rag_study.check_questions([leaking], [question])
    assert {q.answers for q in duel().strangers} == {(REFUSAL,)}


def test_statements_are_completed_in_a_wording_that_training_has_not() -> None:
    for question, completion, owner in zip(duel().questions, duel().completions(), duel().owner, strict=True):
        (opening,), page = completion.texts, duel().pages[owner]
        assert question.asked == completion.asked
        assert opening.startswith(question.asked[0].entity) or question.asked[0].entity in opening
        assert not any(f"{opening} {question.answers[0]}" in text for text in (page.text, *page.rewrites))
        assert any(snippet.text in page.text for snippet in question.asked)  # the control: its own wording is there


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="empty passage"):
        Augmented(name="nobody", text=" ")
    with pytest.raises(BadInput, match="without an answer"):
        Augmented(name="x", text="d", pairs=(("q", ""),))
    with pytest.raises(BadInput, match="nothing to train on"):
        train_adapters(model(), {"nobody": []}, QUICK.encoding)
    with pytest.raises(BadInput, match="names are unique"):
        encode(model(), [duel().pages[0]] * 2, QUICK)
    with pytest.raises(BadInput, match="one adapter for each"):
        Corpus(duel().pages, adapters()[:2])
    with pytest.raises(PromptTooLong):
        encode(model(), [Augmented(name="long", text="Ada " * 200)], QUICK)
    with pytest.raises(PromptTooLong):
        corpus().answer(model(), ["Ada " * 200], k=1)
    with pytest.raises(BadParameter, match="k=5"):
        corpus().retrieve("Q: Who? A:", 5)
    with pytest.raises(BadParameter, match="joint"):
        PragSettings(form="joint")  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="rank"):
        EncodingSettings(rank=0)
    with pytest.raises(BadParameter, match="documents"):
        rag_study.prepare(HERE, 0, documents=1000)
