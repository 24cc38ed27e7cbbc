"""Evaluating edits: identity and forced edits, the two protocols, the two references, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import exp

import pandas as pd
import pytest
import torch

from edits import NAMES, REQUESTS, always, nothing, probe, request
from families import FAMILIES, make_lm
from paramem.errors import BadInput, BadParameter
from paramem.evaluation import Fluency, ask, ask_all, baseline, begins_with, evaluate, ripple, summarise
from paramem.evaluation import answers as answers_module
from paramem.evaluation.answers import encode_pairs, shared
from paramem.evaluation.plan import Plan, data_hash, request_hash
from paramem.evaluation.saying import greedy_path
from paramem.facts import EditRequest, Fact
from paramem.generation import Sampling, generate_tokens
from paramem.interventions import Dense, HiddenStatePatch, PromptRewrite, WeightDelta
from paramem.models import LM, Site


@pytest.fixture(scope="module")
def lm() -> LM:
    return make_lm("gpt2")


def first_token(lm: LM, text: str) -> int:
    batch = encode_pairs(lm, [("Ann", text)])
    return int(batch.input_ids[0, batch.prompt_lengths[0]])


@contextmanager
def forwards(lm: LM) -> Iterator[list[int]]:
    """Collects the number of rows of every forward."""
    rows: list[int] = []
    handle = lm.arch.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: rows.append((args[0] if args else kwargs["hidden_states"]).shape[0]),
        with_kwargs=True,
    )
    try:
        yield rows
    finally:
        handle.remove()


def after(frame: pd.DataFrame, **fields: str) -> pd.DataFrame:
    for name, value in {"state": "after", **fields}.items():
        frame = frame[frame[name] == value]
    return frame


def test_an_edit_that_changes_nothing_leaves_every_number_as_it_was(lm: LM) -> None:
    frame = evaluate(lm, REQUESTS, [nothing(lm)] * len(REQUESTS))
    keys = ["request", "probe", "protocol"]
    before, later = (frame[frame["state"] == state].set_index(keys) for state in ("before", "after"))
    for column in ("correct", "token_accuracy", "preferred", "answer", "target", "rival"):
        pd.testing.assert_series_equal(before[column], later[column])
    assert (later["same"] == 1).all()
    assert (later["token_same"] == 1).all()
    assert later["kl"].max() < 1e-12
    assert before["same"].isna().all()


def test_an_edit_that_forces_the_target_is_reliable_and_not_local(lm: LM) -> None:
    requests = tuple(request(number, target_new="in", paraphrases=[probe("music", "in")]) for number in range(3))
    frame = evaluate(lm, requests, always(lm, first_token(lm, "in")))
    for protocol in ("teacher_forced", "generated"):
        edited = after(frame, protocol=protocol)
        assert (edited[edited["group"].isin(["reliability", "generalisation"])]["correct"] == 1).all()
        assert (edited[edited["group"] == "locality"]["same"] == 0).all()
    assert (after(frame, group="reliability", protocol="teacher_forced")["preferred"] == 1).all()
    control = after(evaluate(lm, requests, nothing(lm)), group="reliability")
    assert (control["correct"] == 0).all()


def test_right_answer_and_own_answer_are_two_references(lm: LM) -> None:
    said = lm.generate(["music is in"], max_new_tokens=1)[0]
    right = request(0, locality={"subject": [probe("music is in", said.strip() or said)]})
    wrong = request(1, locality={"subject": [probe("music is in", "Paris")]})
    frame = after(evaluate(lm, (right, wrong), nothing(lm)), group="locality", protocol="teacher_forced")
    assert list(frame["same"]) == [1, 1]  # the edit changed nothing
    assert list(frame["correct"])[1] == 0  # but the answer was never right


@pytest.mark.parametrize("family", FAMILIES)
def test_free_answers_are_those_of_greedy_generation(family: str) -> None:
    model = make_lm(family)
    before = baseline(model, REQUESTS)
    prompts = list(before.said.texts)
    lengths = before.how.lengths
    assert lengths is not None
    generated = generate_tokens(model, prompts, Sampling(max_new_tokens=max(lengths.values())))
    for prompt, tokens in zip(prompts, generated, strict=True):
        assert before.said.tokens[prompt] == tokens[: lengths[prompt]]


@pytest.fixture
def parrot() -> Iterator[LM]:
    """A model that says "in in in", whatever it is asked."""
    model = make_lm("gpt2")
    with model.applying(always(model, first_token(model, "in"))) as edited:
        yield edited


def bare(number: int, target: str) -> EditRequest:
    return request(number, target_new=target, paraphrases=(), portability={}, locality={}, target_true=None)


def test_free_answers_along_a_forced_target_need_no_generation(parrot: LM) -> None:
    with forwards(parrot) as rows:
        before = baseline(parrot, [bare(0, "in"), bare(1, "in in")])
    assert len(rows) == 1
    assert list(before.said.texts.values()) == [" in in", " in in in"]
    with forwards(parrot) as rows:
        before = baseline(parrot, [bare(0, "Paris"), bare(1, "in Paris")])
    assert len(rows) > 1  # the forced targets do not show what the model says after another token
    assert before.said.texts[bare(0, "Paris").prompt].startswith(" in in")


@pytest.mark.parametrize(("target", "agreement"), [("in", 1), ("in in in", 1), ("Paris", 0), ("Paris Lyon", 0)])
def test_a_forced_target_is_exact_when_generation_says_it(parrot: LM, target: str, agreement: int) -> None:
    frame = evaluate(parrot, [bare(number, target) for number in range(3)])
    for protocol in ("teacher_forced", "generated"):
        rows = frame[frame["protocol"] == protocol]
        assert (rows["correct"] == agreement).all()
        assert (rows["token_accuracy"] == agreement).all()


def test_patched_models_answer_for_themselves(lm: LM) -> None:
    patch = HiddenStatePatch(site=Site("resid_post", 1), vector=torch.ones(lm.d_model, dtype=lm.dtype) * 3, where="all")
    frame = after(evaluate(lm, REQUESTS[0], patch), protocol="generated", group="reliability")
    with lm.applying(patch) as patched:
        text = patched.generate([REQUESTS[0].prompt], max_new_tokens=8)[0]
    assert text.startswith(frame["answer"].item())


def test_a_rewritten_prompt_is_scored_and_continued_in_its_context(lm: LM) -> None:
    rewrite = PromptRewrite("music is Paris. {prompt}")
    frame = after(evaluate(lm, REQUESTS[:1], rewrite), group="reliability")
    with lm.applying(rewrite) as edited:
        scored = edited.score([REQUESTS[0].prompt], ["Lyon"])
        text = edited.generate([REQUESTS[0].prompt], max_new_tokens=8)[0]
    forced, free = frame.iloc[0], frame.iloc[1]
    assert forced["logprob"] == pytest.approx(float(scored.logprob[0]), abs=1e-12)
    assert text.startswith(free["answer"])
    plain = lm.score([REQUESTS[0].prompt], ["Lyon"]).logprob[0]
    assert abs(float(plain) - forced["logprob"]) > 1e-6


def test_efficacy_is_the_share_and_the_difference_of_mean_token_probabilities(lm: LM) -> None:
    frame = evaluate(lm, REQUESTS[0])
    row = frame[(frame["group"] == "reliability") & (frame["protocol"] == "teacher_forced")].iloc[0]
    scores = lm.score([REQUESTS[0].prompt] * 2, ["Lyon", "the company"])
    new, true = (float(value) for value in scores.mean_logprob)
    assert row["preferred"] == float(new > true)
    assert row["margin"] == pytest.approx(exp(new) - exp(true), abs=1e-12)
    near = frame[(frame["subgroup"] == "relation") & (frame["protocol"] == "teacher_forced")]
    assert list(near["rival"]) == ["Lyon", "the company"]  # what competes with a neighbour's own answer
    assert frame[frame["subgroup"] == "subject"]["rival"].isna().all()


def test_divergence_is_that_of_the_next_token(lm: LM) -> None:
    edit = always(lm, 7)
    row = after(evaluate(lm, REQUESTS[0], edit), group="reliability", protocol="teacher_forced").iloc[0]
    before = lm.next_logprobs([REQUESTS[0].prompt])[0]
    with lm.applying(edit) as edited:
        later = edited.next_logprobs([REQUESTS[0].prompt])[0]
    assert row["kl"] == pytest.approx(float((before.exp() * (before - later)).sum()), rel=1e-9)


def many_probes(n: int) -> EditRequest:
    return request(0, paraphrases=[probe(f"{'a ' * (k % 7)}{NAMES[k % 6]} was born in", "Lyon") for k in range(n)])


@pytest.mark.parametrize("generated", [False, True])
def test_the_number_of_forwards_does_not_grow_with_the_number_of_probes(lm: LM, generated: bool) -> None:
    counts = []
    for n in (1, 42):
        one = many_probes(n)
        before = baseline(lm, one, generated=generated)
        with forwards(lm) as rows:
            evaluate(lm, one, nothing(lm), before=before)
        counts.append(len(rows))
        lengths = before.how.lengths
        assert len(rows) <= (1 if lengths is None else 1 + max(lengths.values()))
    assert counts[0] == counts[1]


def test_what_the_unedited_model_says_is_asked_once(lm: LM) -> None:
    before = baseline(lm, REQUESTS, generated=False)
    with forwards(lm) as rows:
        evaluate(lm, REQUESTS, [nothing(lm)] * len(REQUESTS), before=before)
    assert len(rows) == 1  # one for all edits, none for the unedited model
    alone = [always(lm, 5)] * len(REQUESTS)  # changes of the head, which rows cannot have each for itself
    with forwards(lm) as rows:
        evaluate(lm, REQUESTS, alone, before=before)
    assert len(rows) == len(REQUESTS)
    with forwards(lm) as rows:
        evaluate(lm, REQUESTS, alone, generated=False)
    assert len(rows) == len(REQUESTS) + 1


def test_edits_asked_side_by_side_say_what_they_say_alone(lm: LM) -> None:
    generator = torch.Generator().manual_seed(0)
    place = lm.weight(1, "down")
    shape = place.parameter.shape
    edits = [WeightDelta({place.name: Dense(s * torch.randn(shape, generator=generator))}) for s in (0.0, 0.3, 1, 3)]
    before = baseline(lm, REQUESTS)
    together = evaluate(lm, REQUESTS, edits, before=before)
    parts = [evaluate(lm, one, edit, before=before) for one, edit in zip(REQUESTS, edits, strict=True)]
    order = ["state", "request", "probe", "protocol"]
    apart = pd.concat(parts, ignore_index=True).sort_values(order, ignore_index=True)
    together = together.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(apart, together, rtol=1e-4, atol=1e-5)
    changed = together[together["state"] == "after"].groupby("request")["kl"].max()
    assert changed.iloc[0] < 1e-6 < changed.iloc[3], "the control: the rows are under different edits"


def test_edits_one_by_one_make_the_table_of_all_at_once(lm: LM) -> None:
    before = baseline(lm, REQUESTS)
    edits = [always(lm, token) for token in (5, 6, 7, 8)]
    together = evaluate(lm, REQUESTS, edits, before=before)
    parts = [evaluate(lm, one, edit, before=before) for one, edit in zip(REQUESTS, edits, strict=True)]
    order = ["state", "request", "probe", "protocol"]
    apart = pd.concat(parts, ignore_index=True).sort_values(order, ignore_index=True)
    together = together.sort_values(order, ignore_index=True)
    exact = [name for name in together if together[name].dtype != float]
    pd.testing.assert_frame_equal(apart[exact], together[exact])
    pd.testing.assert_frame_equal(apart.drop(columns=exact), together.drop(columns=exact), atol=1e-9)
    assert summarise(apart).metrics[0].passport == summarise(together).metrics[0].passport
    by_id = {one.id: edit for one, edit in zip(REQUESTS, edits, strict=True)}
    for same in (by_id, lambda model, one: by_id[one.id]):
        again = evaluate(lm, REQUESTS, same, before=before, name=together["edit"].iloc[0])
        pd.testing.assert_frame_equal(again.sort_values(order, ignore_index=True), together)


def test_one_edit_for_all_requests_is_applied_once(lm: LM) -> None:
    before = baseline(lm, REQUESTS, generated=False)
    with forwards(lm) as rows:
        frame = evaluate(lm, REQUESTS, always(lm, 5), before=before)
    assert len(rows) == 1
    assert set(after(frame)["request"]) == {one.id for one in REQUESTS}


def test_the_model_is_as_before_afterwards(lm: LM) -> None:
    whole = lm.fingerprint()
    evaluate(lm, REQUESTS, [always(lm, 5)] * len(REQUESTS))
    assert lm.fingerprint() == whole


def test_pieces_give_the_answers_of_one_forward(lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("a " * (k % 5) + f"{NAMES[k % 6]} works for", NAMES[(k * 5) % 6]) for k in range(11)]
    whole = ask(lm, pairs, keep_next=True)
    monkeypatch.setattr(answers_module, "LOGITS_AT_ONCE", 3000)
    with forwards(lm) as rows:
        pieces = [ask(lm, pairs, keep_next=True), ask(lm, pairs, keep_next=True, batch_size=3)]
    assert len(rows) > 5
    for piece in pieces:
        assert piece.tokens == whole.tokens
        torch.testing.assert_close(piece.logprob, whole.logprob)
        torch.testing.assert_close(piece.next, whole.next)
    scores = lm.score([prompt for prompt, _ in pairs], [target for _, target in pairs])
    torch.testing.assert_close(whole.logprob, scores.logprob)
    torch.testing.assert_close(whole.mean_logprob, scores.mean_logprob)
    torch.testing.assert_close(whole.token_accuracy, scores.token_accuracy)
    assert torch.equal(whole.exact, scores.exact)


def test_conditions_mark_the_probes_whose_preconditions_fail(parrot: LM) -> None:
    met, unmet = probe("Ann works for", "in"), probe("Ann works for", "Lyon Paris")
    asked = [
        probe("The capital of Ann is", "Paris", requires=[met]),
        probe("The music of Ann is", "Paris", requires=[met, unmet]),
    ]
    frame = evaluate(parrot, request(0, portability={"reasoning": asked}), nothing(parrot))
    marks = after(frame, group="portability", protocol="teacher_forced")["eligible"]
    assert list(marks) == [True, False]
    assert frame[frame["group"] != "portability"]["eligible"].all()
    applied = summarise(frame, conditions="applied").metric(
        "portability", protocol="generated", level="token", against="target"
    )
    ignored = summarise(frame).metric("portability", protocol="generated", level="token", against="target")
    assert (applied.passport.n_probes, ignored.passport.n_probes) == (1, 2)


def test_texts_are_generated_only_on_demand_and_their_entropy_falls_with_repetition(lm: LM) -> None:
    one = request(0, generation_prompts=("Ann is", "music is"))
    assert "fluency" not in set(evaluate(lm, one)["group"])
    frame = evaluate(lm, one, always(lm, first_token(lm, "in")), fluency=Fluency(new_tokens=20, seed=3))
    texts = frame[frame["group"] == "fluency"]
    assert list(texts["prompt"]) == ["Ann is", "music is"] * 2
    before, later = (texts[texts["state"] == state]["entropy"] for state in ("before", "after"))
    assert later.max() < before.min()
    assert set(texts["protocol"]) == {"generated"}
    again = evaluate(lm, one, fluency=Fluency(new_tokens=20, seed=3))
    assert list(again[again["group"] == "fluency"]["answer"]) == list(texts[texts["state"] == "before"]["answer"])
    with pytest.raises(BadParameter, match=r"new_tokens is 400.*room for"):
        baseline(lm, one, fluency=Fluency(new_tokens=400))


@pytest.mark.parametrize(
    ("text", "answers", "right"),
    [
        (" New York, the city", ["New York"], True),
        (" new  york", ["New York"], True),
        (" Newton", ["New"], False),
        (" New-born", ["New"], True),
        (" the UK.", ["United Kingdom", "the UK"], True),
        ("", ["x"], False),
        (" anything", [""], False),
        (" I don't know. And", ["I don't know."], True),
    ],
)
def test_a_generated_answer_counts_when_it_begins_with_a_right_one(text: str, answers: list[str], right: bool) -> None:
    assert begins_with(text, answers) is right


def test_token_agreement_counts_places() -> None:
    assert shared([1, 2, 3], [1, 5, 3], 3) == pytest.approx(2 / 3)
    assert shared([1, 2], [1], 2) == 0.5
    assert shared([1], [1], 3) == 1  # both ended after one token
    assert shared([], [4], 1) == 0


def test_a_forced_target_shows_the_greedy_answer_up_to_the_first_other_token() -> None:
    assert greedy_path((5, 6, 7), (5, 6)) == (5, 6, 7)
    assert greedy_path((5, 8, 9), (5, 6)) == (5, 8)
    assert greedy_path((4, 6, 7), (5, 6)) == (4,)


def test_the_data_hash_knows_content_and_not_order() -> None:
    hashes = [request_hash(one) for one in REQUESTS]
    assert data_hash(hashes) == data_hash(reversed(hashes))
    assert data_hash(hashes) != data_hash(hashes[1:])
    assert request_hash(request(0)) == hashes[0]
    assert request_hash(request(0, target_new="Paris")) != hashes[0]


def test_equal_questions_are_asked_once() -> None:
    twice = Plan.of((request(0), request(6)))  # other ids, the same questions
    assert len(twice.pairs) == len(Plan.of((request(0),)).pairs)
    assert len(twice.items) == 2 * len(Plan.of((request(0),)).items)


def bad_calls(lm: LM) -> dict[str, tuple[object, str]]:
    other = make_lm("gpt2", seed=1)
    before = baseline(lm, REQUESTS[:2], generated=False)
    return {
        "no request": (lambda: evaluate(lm, ()), "no edit request"),
        "two with one id": (lambda: evaluate(lm, (REQUESTS[0], REQUESTS[0])), "two edit requests have the id 'r0'"),
        "too few edits": (lambda: evaluate(lm, REQUESTS, [nothing(lm)]), "1 edits for 4 requests"),
        "an edit lacks": (lambda: evaluate(lm, REQUESTS, {"r0": nothing(lm)}), "no edit for request 'r1' .3 of 4"),
        "unknown request": (lambda: evaluate(lm, REQUESTS[2], before=before), "does not know request 'r2'"),
        "changed request": (
            lambda: evaluate(lm, request(0, target_new="Paris"), before=before),
            "'r0' in this form",
        ),
        "another model": (lambda: evaluate(other, REQUESTS[0], before=before), "other weights"),
        "settings twice": (lambda: evaluate(lm, REQUESTS[0], before=before, kl=False), "kl belong to the baseline"),
    }


@pytest.mark.parametrize("case", sorted(bad_calls(make_lm("gpt2"))))
def test_bad_calls_are_refused_with_the_reason(lm: LM, case: str) -> None:
    call, reason = bad_calls(lm)[case]
    with pytest.raises(BadInput, match=reason):
        call()  # type: ignore[operator]


FACTS = tuple(
    Fact(id=f"{name}-{relation}", subject=name, relation=relation, object=thing, template=template, withheld=(held,))
    for name in ("Ann", "Berg", "Anna")
    for relation, thing, template, held in (
        ("birth", "Lyon" if name == "Ann" else "Paris", "{} was born in", "The capital {} was born in"),
        ("work", "a company", "{} works for", "In the company, {} works for"),
    )
)
EDIT = EditRequest(
    id="e", subject="Ann", relation="birth", template="{} was born in", target_new="Paris", target_true="Lyon"
)


def test_a_world_asked_again_after_nothing_has_not_moved(lm: LM) -> None:
    frame = ripple(lm, FACTS, nothing(lm), request=EDIT, kinds=("template", "withheld"))
    assert len(frame) == 2 * len(FACTS)
    assert frame["same"].all()
    assert frame["shift"].abs().max() < 1e-12
    assert not ripple(lm, FACTS, always(lm, 5))["same"].any()


def test_a_world_is_asked_what_score_would_ask(lm: LM) -> None:
    frame = ripple(lm, FACTS, always(lm, 5), kinds=("template", "withheld"), batch_size=5)
    scores = lm.score(list(frame["prompt"]), list(frame["target"]))
    assert frame["logprob_before"].to_numpy() == pytest.approx(scores.logprob.numpy(), abs=1e-9)
    assert list(frame["correct_before"]) == scores.exact.tolist()


def test_facts_are_labelled_by_what_they_share_with_the_edit(lm: LM) -> None:
    frame = ripple(lm, FACTS, request=EDIT).set_index("fact")
    assert dict(frame["shares"]) == {
        "Ann-birth": "fact",
        "Ann-work": "subject",
        "Berg-birth": "relation",
        "Anna-birth": "relation",
        "Berg-work": "nothing",
        "Anna-work": "nothing",
    }
    stranger = Fact(id="x", subject="music", relation="place", object="Paris", template="{} is in")
    assert ripple(lm, [stranger], request=EDIT)["shares"].item() == "object"


def test_a_world_is_asked_once_for_many_edits(lm: LM) -> None:
    before = ask_all(lm, FACTS)
    with forwards(lm) as rows:
        reused = ripple(lm, FACTS, always(lm, 5), before=before)
    assert len(rows) == 1
    pd.testing.assert_frame_equal(reused, ripple(lm, FACTS, always(lm, 5)))
    with pytest.raises(BadInput, match="other weights"):
        ripple(make_lm("gpt2", seed=1), FACTS, before=before)
    with pytest.raises(BadInput, match="no questions of kind 'riddle'"):
        ripple(lm, FACTS, kinds=("riddle",))
