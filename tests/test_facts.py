"""Records: what they accept, what they refuse, and that nothing can change them afterwards."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from paramem.facts import EditRequest, Fact, FrozenDict, Probe, fill

NEIGHBOUR = Probe(prompt="Odo Fenn plays the", target="flute", aliases=("transverse flute", "flute"), kind="near")


def request(**changes: object) -> EditRequest:
    base: dict[str, object] = {
        "id": "1",
        "subject": "Mara Quill",
        "template": "{} plays the",
        "target_new": "viola",
        "target_true": "flute",
        "locality": {"subject": (NEIGHBOUR,), "relation": [NEIGHBOUR]},
    }
    return EditRequest.model_validate(base | changes)


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="{}")), st.text())
def test_filling_keeps_every_other_character(subject: str, before: str, after: str) -> None:
    after = after.replace("{}", "")
    assert fill(before + "{}" + after, subject) == before + subject + after


def test_braces_that_are_not_the_placeholder_are_plain_text() -> None:
    fact = Fact(id="1", subject="{0}", relation="r", object="o", template="in {x} and {} }{")
    assert fact.prompt == "in {x} and {0} }{"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"template": "plays the"}, "0 placeholders"),
        ({"template": "{} and {}"}, "2 placeholders"),
        ({"target_new": "  "}, "empty text"),
        ({"subject": ""}, "empty text"),
        ({"locality": {"nearby": ()}}, "unknown locality group 'nearby'"),
        ({"portability": {"relation": ()}}, "unknown portability group 'relation'"),
        ({"target": "viola"}, "Extra inputs"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(change: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        request(**change)


def test_a_request_is_frozen_through_and_through() -> None:
    first = request()
    assert hash(first) == hash(request())
    assert hash(first) != hash(request(target_new="harp"))
    with pytest.raises(ValidationError):
        first.target_new = "harp"  # type: ignore[misc]
    for change in (
        lambda: first.locality.update(subject=()),  # type: ignore[attr-defined]
        lambda: first.locality.__setitem__("subject", ()),  # type: ignore[attr-defined]
        lambda: first.locality.clear(),  # type: ignore[attr-defined]
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert first == request()


def test_records_survive_json_pickle_and_copy() -> None:
    first = request(portability={"alias": (NEIGHBOUR,)})
    assert EditRequest.model_validate_json(first.model_dump_json()) == first
    assert pickle.loads(pickle.dumps(first)) == first
    assert copy.deepcopy(first) == first
    assert isinstance(pickle.loads(pickle.dumps(first)).locality, FrozenDict)


def test_groups_come_in_a_fixed_order_and_lose_nothing() -> None:
    first = request(paraphrases=(NEIGHBOUR,), portability={"logical": (NEIGHBOUR,), "alias": (NEIGHBOUR,)})
    assert [(group, sub) for group, sub, _ in first.groups()] == [
        ("reliability", "edit"),
        ("generalisation", "paraphrase"),
        ("portability", "alias"),
        ("portability", "logical"),
        ("locality", "relation"),
        ("locality", "subject"),
    ]
    assert next(probe for _, _, probe in first.groups()).target == "viola"


def test_answers_are_the_target_and_its_aliases_once_each() -> None:
    assert NEIGHBOUR.answers == ("flute", "transverse flute")
    assert Probe(prompt="p", target="").answers == ()


def test_distracting_probes_repeat_the_edit_before_each_neighbour_and_keep_its_answer() -> None:
    first = request().with_distracting()
    (probe,) = first.locality["distracting"]
    assert probe.prompt == "Mara Quill plays the viola. Odo Fenn plays the"
    assert probe.target == NEIGHBOUR.target
    assert request(locality={}).with_distracting().locality == {}


def test_a_fact_asks_itself_in_every_template() -> None:
    fact = Fact(
        id="1", subject="S", relation="r", object="o", template="{} a", paraphrases=("{} b",), withheld=("c {} d",)
    )
    assert [(probe.prompt, probe.kind) for probe in fact.probes()] == [
        ("S a", "template"),
        ("S b", "paraphrase"),
        ("c S d", "withheld"),
    ]
    assert {probe.target for probe in fact.probes()} == {"o"}


def test_records_import_no_torch() -> None:
    code = "import sys, paramem.facts, paramem.readers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
