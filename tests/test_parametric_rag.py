"""Parametric RAG: adapters trained side by side, merged, applied and taken off; what is refused; peft's own merging."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from paramem.errors import BadInput, BadParameter, IncompatibleIntervention, PromptTooLong
from paramem.fusion.documents import LeakingSplit
from paramem.fusion.kept import STEPS, keeping, read, written
from paramem.fusion.study import continuations
from paramem.fusion.tables import by_people
from paramem.fusion.training import mean_loss, n_tokens, token_losses
from paramem.injection import rag_study
from paramem.injection.document_adapter import DocumentAdapter, merge, save_peft
from paramem.injection.document_encoding import EncodingSettings, document_losses, plan, train_adapters
from paramem.injection.kept_adapters import file_name, packed
from paramem.injection.parametric_rag import (
    INJECTIONS,
    Augmented,
    Corpus,
    PragSettings,
    encode,
    encode_together,
    rows_of,
    sequences,
    temporarily,
)
from paramem.interventions import Dense, LowRank, WeightDelta, load_intervention
from paramem.models import LM, load
from paramem.world import world
from paramem.world.read_rules import REFUSAL
from paramem.world.recipe import collate

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


def test_the_loss_of_a_document_is_the_mean_over_its_own_tokens() -> None:
    rows = [row for page in duel().pages[:3] for row in rows_of(model(), page, "apart")[:2]]
    rows = [(ids, [1.0 + t % 5 for t in range(len(ids))]) for ids, _ in rows]
    ids, weights = collate(rows)
    found = document_losses(model(), ids, weights, 3)
    alone = [mean_loss(model(), *collate(rows[i : i + 2])) for i in (0, 2, 4)]
    assert torch.allclose(found, torch.stack(alone), atol=1e-4)
    assert not torch.allclose(found, found[[1, 2, 0]], atol=1e-2)  # the control
    losses, w, row = token_losses(model(), ids, weights)
    logprobs = model().model(ids).logits.log_softmax(-1)
    places = [(i, t) for i, (some, _) in enumerate(rows) for t in range(1, len(some))]
    assert torch.allclose(losses, torch.stack([-logprobs[i, t - 1, ids[i, t]] for i, t in places]), atol=1e-4)
    assert w.tolist() == [rows[i][1][t] for i, t in places]
    assert row.tolist() == [i for i, _ in places]


# Keeping


def test_who_looks_for_adapters_that_were_kept_needs_no_peft() -> None:
    code = (
        "import sys; from paramem.injection.kept_adapters import kept_adapters; "
        "from paramem.injection.rag_study import trainings; "
        "from paramem.injection.parametric_rag import PragSettings; PragSettings(); {more}; "
        "sys.exit('peft' in sys.modules)"
    )
    ends = [
        subprocess.run([sys.executable, "-c", code.format(more=more)], check=False).returncode
        for more in ("PragSettings().encoding.factors", "import peft")  # the second is the control
    ]
    assert ends == [0, 1]


def test_adapters_that_are_found_are_those_that_were_made_and_close_to_the_training(tmp_path: Path) -> None:
    with keeping(tmp_path):
        made = encode(model(), duel().pages, QUICK, keep=True)
        (file,) = tmp_path.iterdir()
        written = file.stat().st_mtime_ns
        found = encode(model(), duel().pages, QUICK, keep=True)
        assert file.stat().st_mtime_ns == written
        encode(model(), duel().pages[:1], QUICK, keep=True)
    assert len([*tmp_path.iterdir()]) == 2  # the control: other documents are another file
    assert [adapter.fingerprint() for adapter in found] == [adapter.fingerprint() for adapter in made]
    assert [(each.documents, each.base) for each in found] == [(each.documents, each.base) for each in adapters()]
    for one, exact in zip(found, adapters(), strict=True):
        for name, part in exact.factors.items():
            for factor, whole in ((one.factors[name].left.T, part.left.T), (one.factors[name].right, part.right)):
                off = (factor - whole).abs().amax(-1)
                assert bool((off <= whole.abs().amax(-1) / STEPS / 2 * 1.01).all())
                assert bool((off > 0).any())


def test_a_file_of_adapters_that_does_not_fit_is_made_again(tmp_path: Path) -> None:
    rows = {page.name: rows_of(model(), page, "apart") for page in duel().pages[:2]}
    file = tmp_path / file_name(model(), rows, QUICK.encoding)
    with keeping(tmp_path):
        right = encode(model(), duel().pages[:2], QUICK, keep=True)
        whole = file.read_bytes()
        encode(model(), duel().pages[:1], QUICK, keep=True)
        (other,) = [each for each in tmp_path.iterdir() if each != file]
        key, good = next(key for key in read(whole) if key.endswith("left")), read(whole)
        odd = {
            "one factor": {key: good[key][:, :1]},
            "one factor throughout": {key: part[:, :1] for key, part in good.items()},
            "too wide": {key: good[key].repeat(1, 1, 2)},
            "flat": {key: good[key][0]},
            "one size": {f"{key}/scale": good[f"{key}/scale"][:, :1]},
            "sizes of others": {f"{key}/scale": good[f"{key}/scale"].repeat(1, 7)},
        }
        foreign = [
            written({name: part.contiguous() for name, part in {**good, **parts}.items()}, {}) for parts in odd.values()
        ]
        middle = len(whole) // 2
        bit = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        less = written({name: part for name, part in good.items() if "layers.0" not in name}, {})
        for damage in (other.read_bytes(), whole[:1000], b"", bit, less, written({}, {}), *foreign):
            file.write_bytes(damage)
            again = encode(model(), duel().pages[:2], QUICK, keep=True)
            assert [each.fingerprint() for each in again] == [each.fingerprint() for each in right]
            assert file.read_bytes() == whole
    slower = replace(QUICK.encoding, lr=1e-4)
    assert file_name(model(), rows, slower) != file.name != file_name(model("read-gpt2-s0"), rows, QUICK.encoding)


@both_families
def test_kept_factors_are_of_either_layout(name: str, tmp_path: Path) -> None:
    with keeping(tmp_path):
        kept = encode(model(name), duel().pages, QUICK, keep=True)
    assert {key.rpartition("/")[2] for key in packed(kept)} == {"left", "right", "scale"}
    with kept[0].applied(model(name)) as lm:
        rounded = logits(lm)
    with adapters(name)[0].applied(model(name)) as lm:
        assert torch.allclose(rounded, logits(lm), atol=0.2)
    assert not torch.allclose(rounded, logits(model(name)), atol=0.2)


# For one question


def test_parameters_for_a_moment_are_gone_after_it() -> None:
    lm, settings = model(), PragSettings(encoding=EncodingSettings(passes=12))
    asked = [q for q, i in zip(duel().questions, duel().owner, strict=True) if i == 0]
    before = lm.fingerprint()
    with temporarily(lm, duel().pages[:1], settings) as informed:
        known = rag_study.ask(informed, asked, "inside")["right"].mean()
        assert informed.fingerprint() != before
    assert lm.fingerprint() == before
    assert known >= 0.6 > rag_study.ask(lm, asked, "outside")["right"].mean()
    with pytest.raises(ZeroDivisionError), temporarily(lm, duel().pages[:1], QUICK):
        _ = 1 / 0
    assert lm.fingerprint() == before
    with pytest.raises(BadInput, match="nothing to train on"), temporarily(lm, [], QUICK):
        pass


def test_one_adapter_for_several_documents_is_no_sum_of_theirs() -> None:
    one, three, again, other = encode_together(
        model(), [duel().pages[:1], duel().pages[:3], duel().pages[:3], duel().pages[1:]], QUICK
    )
    assert same(one.delta, adapters()[0].delta, atol=2e-5)
    assert three.documents == tuple(page.name for page in duel().pages[:3])
    assert three.delta is again.delta
    assert set(three.ranks.values()) == {QUICK.encoding.rank}
    assert not same(three.delta, merge(adapters()[:3]).delta, atol=2e-3)
    assert not same(three.delta, other.delta, atol=2e-3)


def test_bundles_that_their_names_do_not_tell_apart_are_refused() -> None:
    one, other = duel().pages[:2]
    joined = replace(one, name=f"{one.name} + {other.name}")
    for bundles in ([[one], [one.without(pairs=True)]], [[joined], [one, other]], [[one, other], [joined]]):
        with pytest.raises(BadInput, match=f"two bundles are called '{one.name}.*rename a document"):
            encode_together(model(), bundles, QUICK)
    with pytest.raises(BadInput, match=f"'{one.name} . {other.name} . {one.name}' holds '{one.name}' twice"):
        encode_together(model(), [[other], [one, other, one]], QUICK)
    first, second = encode_together(model(), [[one, other], (one, other)], QUICK)  # the control
    assert first.delta is second.delta


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


# The study


def test_a_page_stands_among_others_that_are_drawn_once() -> None:
    four = duel().among(4, duel().owner)
    assert [which[0] for which in four] == list(duel().owner)
    assert all(sorted(which) == [0, 1, 2, 3] for which in four)
    assert duel().among(2, duel().owner) == duel().among(2, duel().owner)
    assert len({tuple(which) for which in duel().among(3, duel().owner)}) > 4
    anywhere = duel().among(2, n=50)
    assert len(anywhere) == 50
    assert all(len(set(which)) == 2 for which in anywhere)
    assert {which[0] for which in anywhere} == {0, 1, 2, 3}
    with pytest.raises(BadParameter, match="k=5"):
        duel().among(5, duel().owner)


def test_two_parts_are_of_two_pages_and_each_question_is_asked_once() -> None:
    for question, owners in zip(duel().two_parts, duel().two_owners, strict=True):
        assert owners[0] != owners[1]
        written = [duel().sources[i].document.snippets for i in owners]
        assert all(snippet in page for snippet, page in zip(question.asked, written, strict=True))
        assert question.asked[0] not in written[1]
    texts = [text for question in duel().two_parts for text in question.texts]
    assert len(set(texts)) == len(texts)
    assert len(duel().two_parts) >= 5
    (read,) = duel().reading(duel().two_parts[:1], duel().two_owners[:1])
    assert set(read.asked) <= set(read.evidence)
    (one,) = duel().reading(duel().two_parts[:1], [duel().two_owners[0][:1]])
    assert not set(one.asked) <= set(one.evidence)


def test_right_refused_and_wrong_are_of_all_parts_or_of_some(monkeypatch: pytest.MonkeyPatch) -> None:
    some = duel().two_parts[:5]
    (a, _), (c, _), whole, _, _ = (question.answers for question in some)
    said = [(a, "Nowhere"), (c, REFUSAL), whole, (REFUSAL, REFUSAL), ("Nowhere", "Nowhere")]
    monkeypatch.setattr(rag_study, "answers", lambda lm, questions, *, edits=None: said)
    found = rag_study.ask(model(), some, "told")
    assert found["right"].to_list() == [False, False, True, False, False]
    assert found["refused"].to_list() == [False, False, False, True, False]
    assert found["wrong"].to_list() == [True, False, False, False, True]
    assert found["people"].to_list() == [(q.asked[0].entity, q.asked[1].entity) for q in some]
    (share,) = by_people(found, ["condition"]).to_dict("records")
    assert share["mean"] == 0.2 > share["low"]
    monkeypatch.undo()
    assert rag_study.ask(model(), [], "nothing").empty


def test_a_contradiction_says_something_else_and_answers_are_credited_to_their_side() -> None:
    questions, against = duel().questions, duel().contradicted()
    for question, other in zip(questions, against, strict=True):
        (sentence,) = other.evidence
        assert sentence.cell == question.asked[0].cell
        assert sentence.object != question.answers[0]
        assert sentence.object in HERE.objects(sentence.attribute)
        assert question.answers[0] not in sentence.text
    page, context = [q.answers[0] for q in questions], [q.evidence[0].object for q in against]
    assert set(rag_study.sides(questions, against, page)) == {"parameters"}
    assert set(rag_study.sides(questions, against, context)) == {"context"}
    assert set(rag_study.sides(questions, against, [REFUSAL] * len(page))) == {"refusal"}
    assert set(rag_study.sides(questions, against, ["Nowhere"] * len(page))) == {"neither"}
    told = rag_study.ask(model(), against, "told")["answer"]
    assert rag_study.sides(questions, against, list(told)).count("context") > 0.8 * len(told)


def test_variants_leave_out_what_they_say_and_are_trained_for_as_many_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[list[str], float]] = {}

    def watched(lm: LM, pages: tuple[Augmented, ...], settings: PragSettings, **how: float) -> list[DocumentAdapter]:
        rows = [row for page in pages for row in rows_of(lm, page, settings.form)]
        tokens = how.get("tokens") or settings.encoding.passes * n_tokens(rows)
        seen[f"{len(seen)}"] = (sequences(pages[0], settings.form), tokens)
        return list(adapters())

    monkeypatch.setattr(rag_study, "encode", watched)
    found = rag_study.trainings(model(), duel(), QUICK)
    by_name = dict(zip(found, seen.values(), strict=True))
    page, full = duel().pages[0], rag_study.trained_tokens(model(), duel().pages, QUICK)
    assert by_name["rewrites and questions"] == (sequences(page, "apart"), full)
    assert by_name["bare page"][0] == by_name["bare page (tokens)"][0] == [page.text]
    assert by_name["rewrites"][0] == [page.text, *page.rewrites]
    assert len(by_name["questions"][0]) == 1 + len(page.pairs)
    assert by_name["joined (tokens)"][0] == sequences(page, "joined")
    assert {tokens for name, (_, tokens) in by_name.items() if name.endswith("(tokens)")} == {full}
    assert all(tokens < full for name, (_, tokens) in by_name.items() if name in ("questions", "rewrites", "bare page"))
    assert all(corpus.pages == duel().pages for corpus in found.values())


def test_all_that_the_notebook_asks_by_default_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rag_study, "prepare", lambda here, draw: duel())
    monkeypatch.setattr(rag_study, "PragSettings", lambda: QUICK)
    with keeping(tmp_path):
        rag_study.train_shipped(model())
        shipped = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
        corpora = rag_study.trainings(model(), duel(), QUICK)
        chosen = duel().retrieved(corpora["rewrites and questions"], 3)
        rag_study.made_for(model(), duel(), chosen[:: rag_study.EVERY], QUICK)
        assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == shipped
        assert len(shipped) == len(corpora) + 1
        rag_study.made_for(model(), duel(), chosen[:1], QUICK)
        assert len([*tmp_path.iterdir()]) == len(shipped) + 1  # the control


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
    with pytest.raises(BadInput, match="no documents to encode"):
        encode(model(), [], QUICK, tokens=100)
    with pytest.raises(BadParameter, match="tokens=0"):
        encode(model(), duel().pages, QUICK, tokens=0)
    with pytest.raises(BadParameter, match="rank"):
        EncodingSettings(rank=0)
    with pytest.raises(BadParameter, match="matrices='foo': one of 'attention', 'mlp', 'down'"):
        EncodingSettings(matrices="foo")  # type: ignore[arg-type]
    for name in ("lr", "passes", "alpha"):
        with pytest.raises(BadParameter, match=f"{name}=nan.* positive"):
            EncodingSettings(**{name: float("nan")})  # type: ignore[arg-type]
    for name, value in (("warmup", -1.0), ("decay_from", 5.0), ("decay_from", float("nan"))):
        with pytest.raises(BadParameter, match=f"{name}={value}.* shares of the steps"):
            EncodingSettings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(BadParameter, match="documents"):
        rag_study.prepare(HERE, 0, documents=1000)
    for name, value in (("pairs", -1), ("pairs", 6), ("strangers", -1), ("known", -1), ("known", 10**6)):
        with pytest.raises(BadParameter, match=f"{name}={value}: from 0 to"):
            rag_study.prepare(HERE, 0, documents=2, **{name: value})
    least = rag_study.prepare(HERE, 0, documents=2, pairs=0, strangers=0, known=0)  # the control
    assert (len(least.questions), least.strangers, least.known) == (10, (), ())


def test_an_adapter_of_nothing_is_not_written(tmp_path: Path) -> None:
    one = adapters()[0]
    nothing = DocumentAdapter(WeightDelta({}), documents=["x"], base=one.base, base_name=one.base_name)
    with pytest.raises(BadInput, match=r"'x'.* changes no matrix"):
        save_peft(nothing, model(), tmp_path / "x")
    assert not list(tmp_path.iterdir())
    assert (save_peft(one, model(), tmp_path / "y") / "adapter_model.safetensors").exists()
