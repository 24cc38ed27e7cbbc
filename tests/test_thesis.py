"""The test of the thesis: grammatical choices from templates, suppression with controls, what edits carry over to."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from edits import always, nothing, request
from families import make_lm
from known import FACTS, knowing
from paramem.detection import thesis as thesis_module
from paramem.detection.knowledge_neurons import Item, ask_items
from paramem.detection.neurons import NeuronPatch, answer_logits
from paramem.detection.thesis import (
    ThesisSettings,
    carried_over,
    compared,
    concentration,
    government,
    known_items,
    suppressed,
    thesis,
)
from paramem.errors import BadInput, BadParameter
from paramem.evaluation import baseline
from paramem.facts import Fact


def test_a_cue_is_a_template_up_to_the_preposition_it_calls_for() -> None:
    forms = ("{} comes from", "The employer of {} is", "{} on", "{} in a town of")
    facts = [Fact(id=n, subject=n, relation="r", object="x", template=forms[0], paraphrases=forms[1:]) for n in "ABC"]
    items = government(facts, subjects=2)
    assert [(item.prompts, item.answer) for item in items] == [
        (("A comes", "B comes"), "from"),
        (("A in a town", "B in a town"), "of"),
    ]
    assert {item.kind for item in items} == {"government"}
    assert government(facts, subjects=4) == []


def test_only_choices_that_the_model_makes_itself_are_kept() -> None:
    lm = knowing("llama")
    right = [
        Item(fact.id, "fact", (fact.prompt, fact.probe(fact.paraphrases[0]).prompt), fact.object) for fact in FACTS
    ]
    wrong = right[0]._replace(answer="music")
    assert known_items(lm, [right[0], wrong, *right[1:]]) == right
    assert known_items(lm, []) == []


def test_concentration_is_the_share_of_the_largest() -> None:
    scores = torch.tensor([[[4.0, 1.0], [-9.0, 5.0]], [[1.0, 1.0], [1.0, 1.0]]])
    assert concentration(scores, 1).tolist() == [0.5, 0.25]
    assert concentration(scores, 9).tolist() == [1.0, 1.0]


def test_suppression_row_by_row_equals_one_patch_after_the_other() -> None:
    lm = knowing("gpt2")
    items = [Item(fact.id, "fact", (fact.prompt,), fact.object) for fact in FACTS[:3]]
    sets = [[(0, i) for i in range(20)], [], [(2, 5)]]
    rows = suppressed(lm, ask_items(lm, items), sets, where="all")
    assert rows["after"][1] == pytest.approx(rows["before"][1], rel=1e-9)  # control: nothing is suppressed
    assert not rows["flipped"][1]
    with NeuronPatch.at(sets[0]).applied(lm) as edited:
        asked = ask_items(edited, items[:1])
        alone = answer_logits(edited, asked).softmax(-1)[0, asked.answers[0]]
    assert rows["after"][0] == pytest.approx(float(alone), rel=1e-9)
    assert rows["after"][0] != pytest.approx(rows["before"][0], rel=1e-4)


def test_facts_and_controls_stand_side_by_side() -> None:
    lm = knowing("llama")
    table = thesis(lm, FACTS)
    assert list(table["item"]) == [fact.id for fact in FACTS]
    assert set(table["kind"]) == {"fact"}  # these models were never taught prepositions
    assert (table["before"] > 0.2).all()
    assert table["concentration"].between(0, 1).all()
    none = table[table["neurons"] == 0]
    assert (none["drop"].abs() < 1e-9).all()
    assert not torch.allclose(torch.tensor(table["drop"]), torch.tensor(table["drop_random"]))
    with pytest.raises(BadInput, match="does not answer"):
        thesis(lm, [FACTS[0].model_copy(update={"object": "music"})])


def test_flips_are_counted_where_the_probability_was_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = knowing("llama")
    items = [Item(fact.id, "fact", (fact.prompt,) * 2, fact.object) for fact in FACTS[:3]]
    after, flipped = [0.4, 0.6, 0.5, 0.2, 0.6, 0.9], [False, True, False, True, True, True]
    rows = pd.DataFrame({"before": 1.0, "after": after, "flipped": flipped})
    monkeypatch.setattr(thesis_module, "suppressed", lambda *args, **kwargs: rows.copy())
    table = compared(lm, "fact", items)
    assert table["halved"].tolist() == [0.5, 1.0, 0.0]
    assert table["flipped_where_halved"].iloc[:2].tolist() == [0.0, 0.5]
    assert table["flipped_where_halved"].isna().tolist() == [False, False, True]
    assert table["flipped"].tolist() == [0.5, 0.5, 1.0], "the control: flips of small falls count here alone"


def test_grammar_is_treated_as_facts_are() -> None:
    lm = knowing("llama")
    items = [Item(fact.id, "government", tuple(p.prompt for p in fact.probes()), fact.object) for fact in FACTS[:4]]
    facts = compared(lm, "fact", [item._replace(kind="fact") for item in items], ThesisSettings())
    grammar = compared(lm, "government", items, ThesisSettings())
    assert facts.drop(columns="kind").equals(grammar.drop(columns="kind"))


def test_an_edit_of_everything_carries_over_and_none_does_not() -> None:
    lm = make_lm("gpt2")
    edits = [
        request(n, portability={"alias": [{"prompt": "Berg is in", "target": "Lyon"}],
                                "logical": [{"prompt": "Lyon is", "target": "Paris"}]})
        for n in range(2)
    ]  # fmt: skip
    lyon = lm.tokenizer(" Lyon", add_special_tokens=False)["input_ids"]
    editors = {"always Lyon": [always(lm, lyon[0])] * 2, "nothing": [nothing(lm)] * 2}
    before = baseline(lm, edits, generated=False, kl=False)
    table = carried_over(lm, edits, editors, before=before).set_index(["editor", "group", "request"])["correct"]
    assert set(table.index.get_level_values("group")) == {"edit", "paraphrase", "alias", "logical"}
    assert len(lyon) == 1  # a longer answer could not be said by an edit that always says its first token
    assert (table["always Lyon"]["edit"] == 1).all()
    assert (table["always Lyon"]["alias"] == 1).all()
    assert (table["always Lyon"]["logical"] == 0).all()  # its answer is another one
    assert (table["nothing"] == 0).all()


@pytest.mark.parametrize("wrong", [{"subjects": 1}, {"largest": 0}, {"rows": 0}])
def test_bad_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(BadParameter):
        ThesisSettings(**wrong)
