"""SERAC: the base model outside of every scope, bit for bit; the counterfactual model inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from families import make_lm
from known import FACTS, knowing
from paramem.editing.scope import new_network
from paramem.editing.serac import SeracSettings, context, serac
from paramem.editing.serac_training import (
    Lessons,
    ScopeShape,
    SeracShape,
    ending,
    learn,
    rate,
    scope_loss,
    tokens_of,
    train,
)
from paramem.editing.trained import Trained
from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.evaluation import baseline, evaluate
from paramem.interventions import Routed, load_intervention
from paramem.interventions.routed import TOKENS, part, small_model, untrained
from paramem.interventions.token_rows import SEEN, drawn, whole
from reading import EDITS, SHAPE, serac_of

INSIDE = [EDITS[0].prompt, EDITS[0].paraphrases[0].prompt, EDITS[3].prompt]
OUTSIDE = [edit.prompt for edit in EDITS if edit.id not in (EDITS[0].id, EDITS[3].id)] + ["music is in the"]


def learned() -> Trained:
    return serac_of(knowing("gpt2"))


def edit(threshold: float = 0.5) -> Routed:
    return serac(knowing("gpt2"), [EDITS[0], EDITS[3]], SeracSettings(threshold=threshold), learned())


def test_the_gate_opens_for_other_wordings_and_for_nothing_else() -> None:
    gate = edit().gate(knowing("gpt2"))
    assert gate.choose(INSIDE) == [0, 0, 1]
    assert gate.choose(OUTSIDE) == [None] * len(OUTSIDE)


def test_outside_its_scope_the_logits_are_the_base_model_s_bit_for_bit() -> None:
    lm = knowing("gpt2")
    batch = lm.encode(OUTSIDE + INSIDE, ["Lyon"] * (len(OUTSIDE) + len(INSIDE)))
    rows, columns = batch.target_mask.nonzero(as_tuple=True)
    own = lm.logits_at(batch, rows, columns - 1)
    with edit().applied(lm) as edited:
        found = edited.logits_at(batch, rows, columns - 1)
        alone = edited.logits(edited.encode(OUTSIDE))
    outside = rows < len(OUTSIDE)
    assert torch.equal(found[outside], own[outside])
    assert not torch.isclose(found[~outside], own[~outside]).all(1).any(), "the control: every row in scope changed"
    assert torch.equal(alone, lm.logits(lm.encode(OUTSIDE)))


def test_inside_its_scope_the_counterfactual_model_answers_and_reads_the_edit() -> None:
    lm, routed = knowing("gpt2"), edit()
    small = small_model(lm, routed.config, part(routed.tensors, "model"))
    written = [context(EDITS[number]) + prompt for number, prompt in zip((0, 0, 3), INSIDE, strict=True)]
    targets = ["Lyon", "Paris", "France"]
    with routed.applied(lm) as edited:
        found = edited.score(INSIDE + OUTSIDE[:1], [*targets, "Lyon"]).logprob
        torch.testing.assert_close(found[:3], small.score(written, targets).logprob.to(found), rtol=1e-4, atol=1e-4)
        assert edited.generate(INSIDE, max_new_tokens=3) == small.generate(written, max_new_tokens=3)
        mixed = edited.generate(INSIDE + OUTSIDE, max_new_tokens=3)
        assert mixed[3:] == lm.generate(OUTSIDE, max_new_tokens=3)
        assert mixed[:3] == small.generate(written, max_new_tokens=3)
        with pytest.raises(BadInput, match="only at target tokens"):
            edited.logits(edited.encode(INSIDE))


def test_an_answer_ends_behind_the_object() -> None:
    """The full stop and the end of the text are learned; a model that never learned them goes on."""
    lm = knowing("gpt2")
    assert ending(lm) == f".{lm.tokenizer.eos_token or ''}"
    with edit().applied(lm) as edited:
        said = edited.generate(INSIDE, max_new_tokens=8)
    first, second = (f"{EDITS[number].target_new}." for number in (0, 3))
    assert [answer.strip() for answer in said] == [first, first, second]
    before = learned()
    cut = {name: tensor for name, tensor in before.tensors.items() if not name.startswith("model/")}
    config = before.card.settings["config"]
    fresh = {f"model/{name}": t.detach() for name, t in untrained(lm, config).named_parameters()}
    with serac(lm, [EDITS[0]], SeracSettings(), replace(before, tensors=cut | fresh)).applied(lm) as edited:
        [other] = edited.generate(INSIDE[:1], max_new_tokens=8)
    assert other.strip() != first, "the control: an untrained model does not say this and stop"


def test_tokens_that_training_never_saw_are_what_they_were_drawn_as() -> None:
    lm, found = knowing("gpt2"), learned()
    seen = found.tensors[f"model/{SEEN}"].long()
    assert torch.equal(seen, tokens_of(lm, Lessons.of(EDITS)))
    config, weights = found.card.settings["config"], part(found.tensors, "model")
    table = small_model(lm, config, weights).model.get_input_embeddings().weight.detach()
    start = drawn(lm.arch.vocabulary, config["hidden_size"], config["hidden_size"] ** -0.5, config["seed"])
    unseen = torch.ones(len(table), dtype=torch.bool).index_fill_(0, seen, False)
    assert bool(unseen.any())
    assert torch.equal(table[unseen], start[unseen])
    assert not torch.isclose(table[seen], start[seen]).all(1).any(), "the control: every token that was seen has moved"
    assert len(weights[TOKENS]) == len(seen) < len(table)
    everything = torch.arange(len(table), dtype=torch.int32)
    assert torch.equal(whole({TOKENS: table, SEEN: everything}, TOKENS, start)[TOKENS], table)


def test_text_without_a_prompt_is_nobody_s_scope() -> None:
    lm = knowing("gpt2")
    [batch] = lm.text_batches(INSIDE)
    with edit().applied(lm) as edited:
        assert torch.equal(edited.logits(batch), lm.logits(batch))


def test_the_threshold_opens_and_closes_the_gate() -> None:
    lm = knowing("gpt2")
    assert edit(1e-30).gate(lm).choose(OUTSIDE) != [None] * len(OUTSIDE)
    assert edit(1.0).gate(lm).choose(INSIDE[1:2]) == [None]
    with pytest.raises(BadParameter, match="threshold=0"):
        SeracSettings(threshold=0.0)


def test_evaluation_sees_only_routed_probes_change() -> None:
    lm = knowing("gpt2")
    others = {"relation": tuple(fact.probe() for fact in FACTS if fact.prompt in OUTSIDE)}
    request = EDITS[0].model_copy(update={"locality": others})
    frame = evaluate(lm, [request], edit(), before=baseline(lm, [request]))
    after = frame[frame["state"] == "after"]
    assert (after.loc[after["group"] == "locality", "same"] == 1).all()
    assert (after.loc[after["group"] == "locality", "kl"].dropna() == 0).all()
    assert (after.loc[after["group"] == "reliability", "correct"] == 1).all()


@pytest.mark.parametrize("kind", ["embedding", "cross"])
def test_an_answer_that_changes_was_let_in(kind: str) -> None:
    """Whatever the classifier says: outside of the scopes it finds, the model is the base model."""
    lm, prompts = knowing("gpt2"), INSIDE + OUTSIDE
    changed_outside = 0
    for threshold in (0.5, 1e-3, 1e-30):
        routed = serac(lm, EDITS[:5], SeracSettings(scope=kind, threshold=threshold), learned())
        inside = torch.tensor([choice is not None for choice in routed.gate(lm).choose(prompts)])
        own = lm.next_logprobs(prompts)
        with routed.applied(lm) as edited:
            same = (edited.next_logprobs(prompts) == own).all(1)
        assert bool(same[~inside].all())
        assert not bool(same[inside].any()), "the control: what is let in is answered by the other model"
        changed_outside += int(inside[len(INSIDE) :].sum())
    assert changed_outside > 0, "at the lowest threshold there are false alarms"


def test_learning_is_a_function_of_edits_and_seed() -> None:
    lm, gate = make_lm("gpt2"), ScopeShape(width=16, compared=10, steps=5)
    shape = replace(SHAPE, steps=5, embedding=gate, cross=gate)
    state = torch.get_rng_state()
    one, two = learn(lm, EDITS, shape)[1], learn(knowing("llama"), EDITS, shape)[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one), "the base model takes no part"
    other = learn(lm, EDITS, replace(shape, seed=1))[1]
    for name in ("embedding/tokens.weight", "cross/tokens.weight", f"model/{TOKENS}"):
        assert not torch.equal(one[name], other[name]), "every network has draws of its own"


def test_lessons_tell_apart_what_is_in_scope() -> None:
    lessons = Lessons.of(EDITS)
    stranger = EDITS[0].model_copy(
        update={"locality": {"relation": (EDITS[1].probe(), FACTS[0].probe().model_copy(update={"subject": "Nobody"}))}}
    )
    assert lessons.inside(EDITS[0]) == [EDITS[0].prompt, *(p.prompt for p in EDITS[0].paraphrases)]
    assert lessons.outside(stranger) == [EDITS[1].prompt], "what speaks of others than training subjects is left out"
    with pytest.raises(BadInput, match="fewer than two subjects"):
        Lessons.of(EDITS[:1])


def test_the_scope_loss_is_the_binary_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logsims = torch.rand(5, 4, generator=generator).log()
    inside = torch.rand(5, 4, generator=generator) < 0.3
    expected = torch.nn.functional.binary_cross_entropy(logsims.exp(), inside.float(), reduction="sum") / 5
    torch.testing.assert_close(scope_loss(logsims, inside), expected, rtol=1e-4, atol=1e-4)
    assert [round(rate(step, 100), 2) for step in (0, 20, 50, 75, 99)] == [0.05, 1.0, 1.0, 0.5, 0.05]


@pytest.mark.parametrize("kind", ["embedding", "cross"])
def test_padding_and_the_rows_beside_do_not_matter(kind: str) -> None:
    network = new_network(kind, 50, 8, seed=0)
    ids, short = torch.tensor([[3, 4, 5, 0], [7, 8, 9, 10]]), torch.tensor([[3, 4, 5]])
    masks, one = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]]), torch.ones(1, 3)
    many = network.all_logsims((ids, masks), (ids, masks))
    torch.testing.assert_close(many[0, 0], network.all_logsims((short, one), (short, one))[0, 0], rtol=1e-4, atol=1e-4)
    pair = network.logsims((ids[1:], masks[1:]), (short, one))
    torch.testing.assert_close(many[0, 1], pair[0], rtol=1e-4, atol=1e-4)
    assert bool((many <= 1e-6).all())
    assert many[0, 1] != many[0, 0]


def test_what_does_not_fit_is_refused() -> None:
    lm = knowing("gpt2")
    alone = replace(SHAPE, scopes=("embedding",), steps=1, embedding=ScopeShape(width=4, compared=2, steps=1))
    with pytest.raises(BadInput, match="scope='cross': classifiers that were trained are embedding"):
        serac(lm, [EDITS[0]], SeracSettings(scope="cross"), train(lm, EDITS, alone))
    with pytest.raises(BadParameter, match="one classifier is trained"):
        SeracShape(scopes=())
    with pytest.raises(BadParameter, match="at least 1"):
        ScopeShape(steps=0)
    wrong = Trained(card=learned().card.__class__(**{**vars(learned().card), "settings": {}}), tensors={})
    with pytest.raises(BadInput, match="not for SERAC"):
        serac(lm, [EDITS[0]], SeracSettings(), wrong)
    with pytest.raises(BadParameter, match="no scope classifier 'bert'"):
        new_network("bert", 5, 5, 0)
    routed = edit()
    other = Routed(**{**vars(routed), "vocabulary": "another"})
    with pytest.raises(IncompatibleIntervention, match="another vocabulary"), other.applied(lm):
        pass
    cut = Routed(**{**vars(routed), "tensors": {k: v for k, v in routed.tensors.items() if "norm" not in k}})
    with pytest.raises(IncompatibleIntervention, match="do not fit"), cut.applied(lm):
        pass
    beyond = routed.tensors | {f"model/{SEEN}": routed.tensors[f"model/{SEEN}"] + lm.arch.vocabulary}
    with pytest.raises(IncompatibleIntervention, match="do not fit"), replace(routed, tensors=beyond).applied(lm):
        pass


def test_edits_of_one_memory_network_share_the_small_model_and_no_others_do() -> None:
    lm, one, other = knowing("gpt2"), edit(), edit(threshold=0.9)
    found = []
    for each in (one, other, replace(one, tensors={name: tensor.clone() for name, tensor in one.tensors.items()})):
        with each.applied(lm) as edited:
            [mix] = edited.mixes
            found.append(mix.models[0].model)
    assert found[0] is found[1]
    assert found[2] is not found[1], "the control: other tensors, and be they equal, are another model"
    name = f"model/{TOKENS}"
    tensors = {key: tensor.clone() for key, tensor in one.tensors.items()}
    changed = replace(one, tensors=tensors)
    with changed.applied(lm) as edited:
        before = edited.mixes[0].models[0].model
    tensors[next(key for key in tensors if key.startswith("model/") and key != name)].mul_(2.0)
    with changed.applied(lm) as edited:
        assert edited.mixes[0].models[0].model is not before, "a tensor that was written to is another one"


def test_it_survives_the_disk(tmp_path: Path) -> None:
    routed, lm = edit(), knowing("gpt2")
    again = load_intervention(routed.save(tmp_path / "edit"))
    assert isinstance(again, Routed)
    assert again.fingerprint() == routed.fingerprint()
    with routed.applied(lm) as edited:
        expected = edited.score(INSIDE, ["Lyon"] * 3).logprob
    with again.applied(lm) as edited:
        assert torch.equal(edited.score(INSIDE, ["Lyon"] * 3).logprob, expected)
