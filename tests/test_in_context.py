"""ICE and IKE: what stands in front of a prompt, and that nothing else changes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from families import make_lm
from known import FACTS
from paramem.editing.in_context import (
    Demonstration,
    IceSettings,
    IkeSettings,
    demonstrable,
    demonstrations,
    fitting,
    ice,
    ike,
    statement,
    unasked,
)
from paramem.errors import BadInput, BadParameter, PromptTooLong
from paramem.facts import Fact
from paramem.interventions import LogitsMix, MemoryPrompt, PromptRewrite, load_intervention
from reading import EDITS

LM = make_lm("gpt2", max_position_embeddings=512)
ONE, TWO = EDITS[0], EDITS[3]
POOL = tuple(
    Fact(
        id=f"{relation}/{n}",
        subject=f"Person {n}",
        relation=relation,
        object=f"{thing} {n % 3}",
        template=f"{{}} {relation}",
        paraphrases=(f"It is {{}} who {relation}",),
    )
    for relation, thing in (("eats", "apple"), ("drinks", "tea"))
    for n in range(9)
)


def test_ice_puts_the_fact_in_front_of_every_prompt() -> None:
    edit = ice(LM, [ONE], IceSettings())
    assert edit == PromptRewrite(f"Imagine that {ONE.prompt} {ONE.target_new}. {{prompt}}")
    with edit.applied(LM) as edited:
        written = f"Imagine that {statement(ONE)}. music is"
        assert torch.equal(edited.encode(["music is"]).input_ids, LM.encode([written]).input_ids)


@pytest.mark.parametrize("edit", ["ice", "ike"])
def test_no_weight_changes(edit: str) -> None:
    before = {name: p.clone() for name, p in LM.model.named_parameters()}
    made = ice(LM, [ONE, TWO], IceSettings()) if edit == "ice" else ike(LM, [ONE, TWO], IkeSettings(), POOL)
    with made.applied(LM) as edited:
        assert not torch.equal(edited.next_logprobs(["music is"]), LM.next_logprobs(["music is"])), "the control"
        assert all(torch.equal(p, before[name]) for name, p in edited.model.named_parameters())


def test_of_several_edits_each_prompt_reads_the_one_it_is_about() -> None:
    edit = ice(LM, [ONE, TWO], IceSettings(template="{fact}. {prompt}"))
    assert isinstance(edit, MemoryPrompt)
    for request in (ONE, TWO):
        assert edit.around(request.prompt) == (f"{statement(request)}. ", "")
        assert edit.around(request.paraphrases[0].prompt)[0] == f"{statement(request)}. "
    assert edit.around(ONE.prompt) != edit.around(TWO.prompt)


def test_below_the_threshold_a_prompt_stays_as_it_is() -> None:
    edit = ice(LM, [ONE, TWO], IceSettings(threshold=0.3))
    assert edit.around("music company of the") == ("", "")
    assert edit.around(ONE.prompt) != ("", "")
    with edit.applied(LM) as edited:
        same = edited.score(["music company of the"], ["Lyon"]).logprob
        assert torch.equal(same, LM.score(["music company of the"], ["Lyon"]).logprob)


def test_scoring_generating_and_spans_agree_with_prompts_written_out() -> None:
    prompts = [ONE.prompt, TWO.prompt]
    written = [f"Imagine that {statement(request)}. {request.prompt}" for request in (ONE, TWO)]
    with ice(LM, [ONE, TWO], IceSettings()).applied(LM) as edited:
        torch.testing.assert_close(edited.score(prompts, ["Lyon"] * 2).logprob, LM.score(written, ["Lyon"] * 2).logprob)
        assert edited.generate(prompts, max_new_tokens=3) == LM.generate(written, max_new_tokens=3)
        start = written[0].rindex(ONE.subject)
        before = LM.encode([written[0][:start].rstrip()]).input_ids[0]
        assert edited.subject_span(ONE.prompt, ONE.subject).start == len(before), "the prompt's subject, not the fact's"


def test_demonstrations_have_the_paper_s_proportions_and_the_nearest_is_last() -> None:
    settings = IkeSettings(copy=4, update=12, retain=16)
    near = [POOL[n % len(POOL)] for n in range(32)]
    shown = demonstrations(near, POOL, settings)
    assert Counter(each.kind for each in shown) == {"copy": 4, "update": 12, "retain": 16}
    assert [each.fact.rpartition(" apple")[0] or each.fact.rpartition(" tea")[0] for each in shown] == [
        fact.prompt for fact in reversed(near)
    ]
    assert shown == demonstrations(near, POOL, settings)
    assert shown != demonstrations(near, POOL, IkeSettings(copy=4, update=12, retain=16, seed=1))


def test_each_kind_of_demonstration_shows_what_it_is_for() -> None:
    truth = {fact.prompt: fact.object for fact in POOL}
    for each in demonstrations(POOL, POOL, IkeSettings(copy=6, update=6, retain=6)):
        prompt = next(known for known in truth if each.fact.startswith(known))
        new = each.fact.removeprefix(prompt + " ")
        assert new != truth[prompt], "the new fact is not what the model knows"
        if each.kind == "copy":
            assert (each.prompt, each.answer) == (prompt, new)
        elif each.kind == "update":
            assert each.prompt != prompt
            assert each.answer == new
        else:
            assert each.prompt != prompt
            assert each.answer == truth[each.prompt], "another one keeps what is true of it"


def test_the_edit_comes_last_as_a_copy_and_once_more() -> None:
    edit = ike(LM, [ONE], IkeSettings(copy=0, update=0, retain=0), ())
    said = statement(ONE)
    assert edit == PromptRewrite(f"{said}. {ONE.prompt} {ONE.target_new}. {said}. {{prompt}}")
    released = IkeSettings(copy=0, update=0, retain=0, demonstration="New Fact: {fact}\nPrompt: {prompt} {answer}\n\n")
    said_so = f"New Fact: {said}\nPrompt: "
    assert ike(LM, [ONE], released, ()) == PromptRewrite(f"{said_so}{said}\n\n{said_so}{{prompt}}")


def test_facts_can_stand_first_like_a_passage() -> None:
    first = ike(LM, [ONE], IkeSettings(layout="facts-first"), POOL).template
    mixed = ike(LM, [ONE], IkeSettings(), POOL).template
    said = statement(ONE)
    assert sorted(first.split(". ")) == sorted(
        [*mixed.removesuffix("{prompt}").removesuffix(f"{said}. ").split(". ")[:-1], "{prompt}"]
    )
    assert first.endswith(f"{said}. {{prompt}}")
    assert first.index(said) < mixed.index(said)


def test_demonstrations_never_speak_of_edited_facts() -> None:
    edited = EDITS[0].model_copy(update={"subject": "Person 1", "template": "{} eats"})
    assert not any(fact.subject == "Person 1" for fact in demonstrable(POOL, [edited]))
    assert len(demonstrable(POOL, [edited])) == len(POOL) - 2
    context = ike(LM, [edited], IkeSettings(), POOL).template
    assert context.count("Person 1") == 3, "in its own copy example twice, and once more"
    alone = [fact for fact in POOL if fact.id in ("eats/0", "eats/3")]
    assert demonstrable(alone, []) == [], "a relation with one object has no other to put in its place"


def test_facts_that_probes_ask_after_can_be_left_out() -> None:
    asked = POOL[2]
    request = ONE.model_copy(update={"locality": {"relation": (asked.probe(),)}})
    left = unasked(POOL, [request])
    assert asked not in left
    assert len(left) == len(POOL) - 1


def test_too_few_facts_and_bad_templates_are_refused() -> None:
    with pytest.raises(BadInput, match="none of 1 facts can be shown"):
        ike(LM, [ONE], IkeSettings(), POOL[:1])
    with pytest.raises(BadParameter, match="fact"):
        IceSettings(template="{prompt}")
    with pytest.raises(BadParameter, match="exactly once"):
        IkeSettings(demonstration="{fact} {prompt}")
    with pytest.raises(BadParameter, match="negative"):
        IkeSettings(copy=-1)
    with pytest.raises(BadParameter, match="at least one"):
        MemoryPrompt(keys=(), templates=())


def test_braces_in_facts_are_ordinary_characters() -> None:
    odd = ONE.model_copy(update={"target_new": "{answer} {fact}"})
    assert ice(LM, [odd], IceSettings()).around("x")[0] == f"Imagine that {ONE.prompt} {{answer}} {{fact}}. "
    assert "{answer} {fact}. Ann" in ike(LM, [odd], IkeSettings(), POOL).template


def test_a_memory_can_be_a_term_of_a_mix_and_survives_the_disk(tmp_path: Path) -> None:
    memory = ice(LM, [ONE, TWO], IceSettings())
    assert load_intervention(memory.save(tmp_path / "memory")) == memory
    contrast = LogitsMix(((2.0, LM.with_(rewrites=(memory,))),), base_weight=-1.0)
    with contrast.applied(LM) as edited:
        assert edited.score([ONE.prompt], ["Lyon"]).logprob != LM.score([ONE.prompt], ["Lyon"]).logprob
    described = contrast.state()[0]["terms"][0]["rewrites"]
    assert described == [{"kind": "memory_prompt", "data": memory.state()[0]}]


def test_the_facts_of_the_pool_are_not_those_of_the_models() -> None:
    assert not {fact.id for fact in POOL} & {fact.id for fact in FACTS}


def test_demonstrations_are_the_shortest_that_leave_room_and_keep_their_order() -> None:
    lm, asked = make_lm("gpt2", max_position_embeddings=128), ONE
    shown = [
        Demonstration(kind="copy", fact="Ann " * n, prompt="Ann was born in", answer="Lyon") for n in (9, 2, 40, 5, 3)
    ]
    settings = IkeSettings()
    with_room = fitting(lm, shown, asked, settings)
    longest = [each for each in shown if each not in with_room]
    assert with_room == [each for each in shown if each in with_room], "the order stays"
    if longest:
        assert min(len(each.fact) for each in longest) >= max(len(each.fact) for each in with_room)
    huge = [Demonstration(kind="copy", fact="Ann " * 2000, prompt="Ann was born in", answer="Lyon")]
    assert fitting(lm, [*huge, shown[1]], asked, settings) == [shown[1]]
    with pytest.raises(PromptTooLong, match="room for no demonstration"):
        fitting(lm, huge, asked, settings)
    assert fitting(lm, [], asked, settings) == []
