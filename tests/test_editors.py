"""Every registered editor keeps the contract of its phase, on taught tiny models of several architectures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grounds import LAYER, NEIGHBOURS, REQUEST, SECOND, SMALL, UNTOUCHED, made, make, model, trained
from known import TEXTS
from paramem.errors import BadInput, BadParameter, EmptyTarget, SubjectNotInPrompt
from paramem.facts import EditRequest
from paramem.interventions import Dense, WeightDelta, load_intervention
from paramem.models import LM
from paramem.registry import Method, method, methods

by_editor = pytest.mark.parametrize("each", methods("editor"), ids=lambda each: each.name)
by_family = pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])


def target_logprob(lm: LM, request: EditRequest = REQUEST) -> float:
    return float(lm.score([request.prompt], [request.target_new]).logprob[0])


def answers(lm: LM) -> torch.Tensor:
    """Log-probabilities after the edited prompt and after all neighbours', (prompts, vocabulary)."""
    return lm.next_logprobs([REQUEST.prompt, *(probe.prompt for probe in NEIGHBOURS)])


def weights(lm: LM) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}


@by_editor
@by_family
def test_an_editor_makes_the_new_object_more_likely(each: Method, family: str) -> None:
    lm = model(each, family)
    before = target_logprob(lm)
    with made(each, family).applied(lm) as edited:
        assert target_logprob(edited) > before + 0.01
    name, parameter, _ = lm.weight(LAYER, "down")
    with WeightDelta({name: Dense(torch.zeros_like(parameter))}).applied(lm) as edited:
        assert target_logprob(edited) == pytest.approx(before, abs=1e-12), "the control: no change changes nothing"


@by_editor
@by_family
def test_an_edit_comes_off_bit_for_bit_also_after_an_error(each: Method, family: str) -> None:
    lm = model(each, family)
    fingerprint, before = lm.fingerprint(), answers(lm)
    with made(each, family).applied(lm) as edited:
        assert not torch.equal(answers(edited), before), "the control"
    with pytest.raises(RuntimeError, match="inside"), made(each, family).applied(lm):
        raise RuntimeError("inside")
    assert lm.fingerprint() == fingerprint
    assert torch.equal(answers(lm), before)
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in lm.model.parameters())


@by_editor
@by_family
def test_an_edit_touches_what_its_phase_may_touch(each: Method, family: str) -> None:
    lm = model(each, family)
    before, there = weights(lm), set(dict(lm.model.named_modules()))
    with made(each, family).applied(lm) as edited:
        changed = {name for name, now in edited.model.named_parameters() if not torch.equal(now, before[name])}
        assert set(dict(edited.model.named_modules())) == there, "no module is added to the model"
    inside = {lm.weight(layer, role)[0] for layer in range(lm.n_layers) for role in ("up", "down")}
    match each.phase:
        case "recognition":
            assert not changed
        case "mastery":
            assert changed
            assert changed <= inside, "only matrices of feed-forward layers"
        case "association":
            assert not changed or isinstance(made(each, family), WeightDelta), "adapters are weight deltas"
        case _:
            pytest.fail(f"{each.name}: say here what an editor of phase {each.phase} may touch")


@by_editor
def test_the_same_edit_twice_is_the_same_edit(each: Method) -> None:
    lm = model(each, "gpt2")
    torch.manual_seed(1)
    with made(each, "gpt2").applied(lm) as edited:
        once = answers(edited)
    torch.manual_seed(2)
    with make(each, "gpt2").applied(lm) as edited:
        assert torch.equal(answers(edited), once)


@by_editor
def test_an_edit_survives_the_disk(each: Method, tmp_path: Path) -> None:
    lm, edit = model(each, "llama"), made(each, "llama")
    edit.save(tmp_path / "edit")
    [path] = list(tmp_path.iterdir())
    again = load_intervention(path)
    with edit.applied(lm) as edited:
        expected = answers(edited)
    with again.applied(lm) as edited:
        torch.testing.assert_close(answers(edited), expected, rtol=0, atol=1e-6)
    assert again.size() == edit.size()
    assert again.size().bytes > 0


@by_editor
def test_two_edits_are_both_made(each: Method) -> None:
    lm = model(each, "gpt2")
    before = [target_logprob(lm, one) for one in (REQUEST, SECOND)]
    with make(each, "gpt2", REQUEST, SECOND).applied(lm) as edited:
        after = [target_logprob(edited, one) for one in (REQUEST, SECOND)]
    assert after[0] > before[0]
    assert after[1] > before[1]
    with made(each, "gpt2").applied(lm) as edited:
        assert target_logprob(edited, SECOND) < after[1], "the control: the first edit alone does not make the second"


def unchecked(**changes: str) -> EditRequest:
    """A request that never passed its own validation."""
    return EditRequest.model_construct(**{**dict(REQUEST), **changes})


BAD = (
    (SubjectNotInPrompt, "Ann Lyon", unchecked(template="He was born in")),
    (EmptyTarget, "empty", unchecked(target_new=" ")),
    (BadInput, "already", REQUEST.model_copy(update={"target_new": REQUEST.target_true})),
)


@by_editor
def test_edits_that_cannot_be_made_are_refused_before_anything_changes(
    each: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model(each, "gpt2")
    learned, fingerprint = trained(each, "gpt2"), lm.fingerprint()

    def attempt(*requests: EditRequest, layer: int = LAYER) -> None:
        each.edit(lm, requests, layer=layer, texts=TEXTS["en"], facts=UNTOUCHED, trained=learned)

    other = REQUEST.model_copy(update={"id": "again", "target_new": "France"})
    with pytest.raises(BadInput, match="speak of one fact"):
        attempt(REQUEST, other)
    with pytest.raises(BadInput, match="at least one"):
        attempt()
    for error, message, bad in BAD:
        with pytest.raises(error, match=message):
            attempt(SECOND, bad)
    if {"layer", "layers"} & set(each.settings_class().__dataclass_fields__):
        with pytest.raises(BadParameter, match="layer"):
            attempt(REQUEST, layer=99)
    assert lm.fingerprint() == fingerprint


@by_editor
def test_a_model_without_the_module_is_refused_before_anything_changes(each: Method) -> None:
    """One whose blocks have none of the matrices that are edited; who changes no matrix needs none."""
    lm, learned = model(each, "gpt2"), trained(each, "gpt2")
    without = lm.with_(arch=replace(lm.arch, layout=replace(lm.arch.layout, weights={"attn_out": "attn.c_proj"})))
    fingerprint = lm.fingerprint()

    def attempt(on: LM) -> None:
        settings = SMALL.get(each.name, {})
        each.edit(on, REQUEST, layer=LAYER, texts=TEXTS["en"], facts=UNTOUCHED, trained=learned, **settings)

    if each.phase == "recognition":
        attempt(without)
    else:
        with pytest.raises((BadParameter, BadInput), match=r"no weight|other sizes"):
            attempt(without)
        attempt(lm)  # the control
    assert lm.fingerprint() == fingerprint


def test_a_target_that_is_answered_already_can_be_kept_or_left_out() -> None:
    ft, lm = method("ft-m"), model(method("ft-m"), "gpt2")
    there = SECOND.model_copy(update={"target_new": SECOND.target_true})
    assert ft.edit(lm, [REQUEST, there], layer=LAYER, known="keep").size() == make(ft, "gpt2").size()
    alone = ft.edit(lm, [REQUEST, there], layer=LAYER, known="skip")
    assert alone.fingerprint() == make(ft, "gpt2").fingerprint()
    with pytest.raises(BadInput, match="nothing to edit"):
        ft.edit(lm, [there], layer=LAYER, known="skip")


def test_a_call_that_does_not_fit_the_editor_says_so() -> None:
    lm = model(method("rome"), "gpt2")
    with pytest.raises(BadParameter, match="no setting 'stepz'"):
        method("rome").edit(lm, REQUEST, layer=LAYER, texts=TEXTS["en"], stepz=3)
    with pytest.raises(BadParameter, match="say which, layer="):
        method("rome").edit(lm, REQUEST, texts=TEXTS["en"])
    with pytest.raises(BadInput, match="no texts"):
        method("rome").edit(lm, REQUEST, layer=LAYER)
