"""Key-value memories: what triggers, patterns and values are, checked on small cases and on models that know facts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from families import FAMILIES, make_lm
from known import FACTS, knowing
from paramem.arch import Site
from paramem.detection.ablation import value_vectors
from paramem.detection.key_value import (
    KeyValueSettings,
    annotate,
    composition,
    describe,
    key_value_memories,
    mutation_effects,
    read_values,
    triggers,
    value_logits,
)
from paramem.detection.patterns import binomial_tail, random_keys
from paramem.detection.prefixes import KINDS, Prefixes, prefixes_of
from paramem.errors import BadInput, BadParameter

FEW = KeyValueSettings(t=5, shared=2)


def plain(n: int, **labels: list[int]) -> Prefixes:
    """Prefixes without text: only labels."""
    kinds = {kind: [-1] * n for kind in (*KINDS, "template")}
    kinds |= {name.replace("_", " "): values for name, values in labels.items()}
    numbers = torch.arange(n)
    return Prefixes(
        ids=tuple((1, i) for i in range(n)),
        statement=numbers,
        end=torch.ones(n, dtype=torch.long),
        next_token=numbers,
        labels={kind: torch.tensor(values) for kind, values in kinds.items()},
        names={kind: tuple(map(str, range(max(values) + 2))) for kind, values in kinds.items()},
    )


def test_every_prefix_counts_once_and_none_ends_a_statement() -> None:
    lm = knowing("gpt2")
    prefixes = prefixes_of(lm, FACTS)
    tokens = [prefixes.tokens(i) for i in range(len(prefixes))]
    assert len(set(tokens)) == len(tokens)
    whole = set(prefixes.ids)
    assert not whole & set(tokens), "the full stop has no next token"
    assert prefixes.start == 1, "the start token alone is no prefix"
    following = {ids[: end + 1]: ids[end + 1] for ids in prefixes.ids for end in range(len(ids) - 1)}
    for place, ids in enumerate(tokens):
        assert int(prefixes.next_token[place]) in {one[len(ids)] for one in whole if one[: len(ids)] == ids}
    assert len(tokens) == len({t for t in following if len(t) > 1})


def test_a_label_counts_from_where_the_prefix_tells_it() -> None:
    lm = knowing("gpt2")
    prefixes = prefixes_of(lm, FACTS)

    def labels(text: str) -> dict[str, str]:
        place = next(i for i in range(len(prefixes)) if prefixes.text(lm, i) == text)
        found = {kind: int(values[place]) for kind, values in prefixes.labels.items()}
        del found["last token"], found["template"]
        return {kind: prefixes.names[kind][value] for kind, value in found.items() if value >= 0}

    assert labels("The company of") == {"relation": "company"}
    assert labels("Ann Lyon") == {"subject": "Ann Lyon"}, "a name alone tells no relation"
    assert labels("Ann Lyon was born in") == {"relation": "born", "subject": "Ann Lyon", "object": "Lyon"}


@pytest.mark.parametrize("family", FAMILIES)
def test_triggers_are_the_largest_coefficients_of_a_plain_forward(family: str) -> None:
    lm = knowing(family)
    prefixes = prefixes_of(lm, FACTS)
    found = triggers(lm, prefixes, FEW)
    layer, site = 1, Site("mlp_hidden", 1)
    alone = []
    for i in range(len(prefixes)):
        ids = torch.tensor([prefixes.tokens(i)])
        with torch.no_grad(), lm.hooked(capture=[site]) as states:
            lm.model(input_ids=ids)
        alone.append(states[site][0, -1])
    m = torch.stack(alone)  # [prefixes, memories]
    turned = m * found.sign[layer]
    best = turned.sort(0, descending=True)
    torch.testing.assert_close(found.coefficients[layer], best.values[: FEW.t].T)
    assert torch.equal(found.sign[layer] == -1, -m.amin(0) > m.amax(0))
    assert not torch.allclose(found.coefficients[layer], best.values[1 : FEW.t + 1].T), "the control"


def test_the_output_of_a_layer_is_the_sum_of_its_memories() -> None:
    for family in ("gpt2", "llama"):
        lm = make_lm(family)
        batch = lm.encode(["The capital of France is"])
        sites = [Site("mlp_hidden", 1), Site("mlp_out", 1)]
        with torch.no_grad():
            states = lm.states(batch, sites)
            bias = lm.arch.linear(1, "down").bias
            total = states[sites[0]] @ value_vectors(lm, 1) + bias
        torch.testing.assert_close(total, states[sites[1]])
        assert not torch.allclose(total, states[sites[0]] @ value_vectors(lm, 2) + bias), "the control"


def test_the_tail_is_the_binomial_one() -> None:
    assert binomial_tail(np.array(1), 3, np.array(0.5)) == pytest.approx(7 / 8)
    assert binomial_tail(np.array(0), 3, np.array(0.1)) == pytest.approx(1)
    assert binomial_tail(np.array(3), 3, np.array(0.1)) == pytest.approx(1e-3)


def test_a_shared_label_is_a_pattern_only_where_chance_would_not_do_it() -> None:
    rare = plain(100, last_token=[0] * 5 + list(range(1, 96)), relation=[0] * 90 + [1] * 10)
    table = annotate(torch.tensor([[0, 1, 2, 3, 50]]), rare, FEW)
    assert table.loc[0, ["shallow", "semantic", "both", "uncovered"]].tolist() == pytest.approx([0.8, 0, 0, 0.2])
    assert table.loc[0, "patterns"] == 1
    assert table.loc[0, "pattern"] == "last token '0'"
    assert annotate(torch.tensor([[0, 20, 40, 60, 80]]), rare, FEW).loc[0, "patterns"] == 0, "the control"


def test_shared_meaning_is_semantic_only_in_other_words() -> None:
    places, others = torch.tensor([[0, 1, 2, 3, 4]]), list(range(1, 96))
    for kind, form in (("relation", "template"), ("object", "subject")):
        for forms, expected in (([7] * 5, "shallow"), ([-1] * 5, "shallow"), ([0, 1, 2, 3, 4], "semantic")):
            prefixes = plain(100, **{kind: [0] * 5 + others, form: forms + [200 + i for i in others]})
            row = annotate(places, prefixes, KeyValueSettings(t=5)).loc[0]
            assert row[expected] == 1, (kind, forms)
    names = plain(100, subject=[0] * 5 + others, template=list(range(100)))
    assert annotate(places, names, KeyValueSettings(t=5)).loc[0, "shallow"] == 1, "a shared name is a shared word"
    two = plain(100, relation=[0] * 5 + others, template=[0, 0, 0, 0, 1] + [200 + i for i in others])
    row = annotate(places, two, KeyValueSettings(t=5)).loc[0]
    assert (row["semantic"], row["shallow"]) == pytest.approx((0.2, 0.8)), "only one has two others in other words"


def test_templates_are_told_apart_from_where_their_words_differ() -> None:
    lm = knowing("gpt2")
    prefixes = prefixes_of(lm, FACTS)
    told = {prefixes.text(lm, i): int(prefixes.labels["template"][i]) for i in range(len(prefixes))}
    statements = {fact.template for fact in FACTS} | {form for fact in FACTS for form in fact.paraphrases}
    assert set(prefixes.names["template"]) <= statements
    assert told["Ann Lyon"] == -1, "several templates begin with a name"
    assert prefixes.names["template"][told["Ann Lyon was born in"]] == "{} was born in"


def test_random_keys_read_the_same_stream() -> None:
    for family in ("gpt2", "llama"):
        lm = knowing(family)
        prefixes = prefixes_of(lm, FACTS)
        before, keys = lm.fingerprint(), random_keys(lm, torch.Generator().manual_seed(0))
        found = triggers(lm, prefixes, FEW, keys=keys)
        assert lm.fingerprint() == before
        name, weight, transposed = lm.weight(1, "up")
        across = int(not transposed)
        torch.testing.assert_close((weight + keys.dense(name)).norm(dim=across), weight.norm(dim=across))
        with torch.no_grad(), keys.applied(lm):
            lost = triggers(lm, prefixes, FEW)
        torch.testing.assert_close(found.coefficients[0], lost.coefficients[0])
        assert not torch.allclose(found.coefficients[2], lost.coefficients[2]), "the control: another stream"
        assert not torch.allclose(found.coefficients[0], triggers(lm, prefixes, FEW).coefficients[0])


def test_patterns_are_told_apart_by_kind() -> None:
    both = plain(
        100,
        last_token=[0] * 5 + list(range(1, 96)),
        relation=[0] * 5 + list(range(1, 96)),
        template=list(range(100)),
    )
    row = annotate(torch.tensor([[0, 1, 2, 3, 4]]), both, FEW).loc[0]
    assert (row["both"], row["shallow"], row["semantic"], row["patterns"]) == (1, 0, 0, 2)


def test_shuffled_labels_share_no_patterns() -> None:
    prefixes = plain(400, last_token=[i // 5 for i in range(400)])
    places = torch.arange(400).view(80, 5)
    shuffled = prefixes.shuffled(torch.Generator().manual_seed(0))
    assert annotate(places, prefixes, FEW)["uncovered"].max() == 0
    assert annotate(places, shuffled, FEW)["uncovered"].mean() > 0.95


def test_values_are_read_in_the_direction_of_their_key() -> None:
    lm = knowing("llama")
    prefixes = prefixes_of(lm, FACTS)
    found = triggers(lm, prefixes, FEW)
    table = read_values(lm, found, prefixes)
    assert (found.sign == -1).any(), "a gated layer has negative coefficients"
    for layer, sign in ((0, -1), (2, 1)):
        neuron = int((found.sign[layer] == sign).nonzero()[0, 0])
        row = table[(table["layer"] == layer) & (table["neuron"] == neuron)].iloc[0]
        logits = value_logits(lm, layer)[neuron] * found.sign[layer, neuron]
        assert row["value_token"] == lm.tokenizer.decode([int(logits.argmax())])
        following = int(prefixes.next_token[found.places[layer, neuron, 0]])
        assert row["rank"] == int((logits > logits[following]).sum()) + 1
        assert row["agrees"] == (row["rank"] == 1)


def test_a_value_that_says_the_next_token_agrees_and_another_does_not() -> None:
    lm = make_lm("gpt2")
    prefixes = prefixes_of(lm, FACTS)
    found = triggers(lm, prefixes, FEW)
    following = int(prefixes.next_token[found.places[0, 7, 0]])
    _, weight, _ = lm.weight(0, "down")
    head = lm.arch.head.weight
    with torch.no_grad():
        weight[7] = head[following] / head[following].norm() * 50 * found.sign[0, 7]
    table = read_values(lm, found, prefixes)
    assert bool(table.loc[7, "agrees"])
    other = (7 - lm.d_mlp // 2) % lm.d_mlp  # whose next token the control asks the value for
    assert table.loc[7, "shuffled_agrees"] == (table.loc[7, "value_token"] == table.loc[other, "next_token"])
    assert table.loc[7, "next_token"] != table.loc[other, "next_token"]
    assert not table.loc[:6, "agrees"].all(), "the control"


def test_removing_the_last_token_gives_the_coefficient_of_the_shorter_prefix() -> None:
    lm = knowing("gpt2")
    prefixes = prefixes_of(lm, FACTS)
    found = triggers(lm, prefixes, FEW)
    table = mutation_effects(lm, prefixes, found, torch.Generator().manual_seed(0), keys=4, examples=1)
    assert set(table["removed"]) == {"first", "last", "random"}
    row = table[(table["removed"] == "last") & (table["layer"] == 2)].iloc[0]
    key = int(row["neuron"])
    places = [p for p in found.places[2, key].tolist() if int(prefixes.end[p]) > prefixes.start]
    ids = prefixes.tokens(places[0])
    before = float(found.coefficients[2, key][found.places[2, key].tolist().index(places[0])])
    with torch.no_grad(), lm.hooked(capture=[Site("mlp_hidden", 2)]) as states:
        lm.model(input_ids=torch.tensor([ids[:-1]]))
    after = float(states[Site("mlp_hidden", 2)][0, -1, key]) * float(found.sign[2, key])
    assert row["change"] == pytest.approx((after - before) / before)
    assert abs(row["change"]) > 1e-6


def test_a_layer_of_one_memory_says_what_that_memory_says() -> None:
    lm = make_lm("gpt2")
    prefixes = prefixes_of(lm, FACTS)
    places = [Site("mlp_hidden", layer) for layer in (0, 2)]
    signs = {
        float(lm.states(lm.encode([prefixes.text(lm, i)]), places)[site][0, -1, 0]) > 0
        for i in range(len(prefixes))
        for site in places
    }
    assert signs == {True, False}, "a memory that is read upwards only would be caught"
    for layer in (0, 2):
        _, weight, _ = lm.weight(layer, "down")
        with torch.no_grad():
            lm.arch.linear(layer, "down").bias.zero_()
            weight[1:] = 0
    table = composition(lm, prefixes, torch.arange(len(prefixes))).groupby("layer")[["composed", "chance"]].mean()
    assert table.loc[[0, 2], "composed"].tolist() == [0, 0]
    assert table.loc[1, "composed"] > 0, "the control: a whole layer composes"
    vocabulary = len(lm.arch.head.weight)
    assert table.loc[0, "chance"] == pytest.approx(1 - 2 / vocabulary), "the memory's token, and token 0 of the silent"


def test_the_table_has_one_row_per_memory() -> None:
    lm = knowing("gpt2")
    table = key_value_memories(lm, FACTS, FEW)
    assert len(table) == lm.n_layers * lm.d_mlp
    assert not table.duplicated(["layer", "neuron"]).any()
    assert table[["shallow", "both", "semantic", "uncovered"]].sum(axis=1).to_numpy() == pytest.approx(1)
    again = describe(lm, triggers(lm, prefixes_of(lm, FACTS), FEW), prefixes_of(lm, FACTS), FEW)
    assert table.equals(again)


def test_bad_input() -> None:
    lm = knowing("gpt2")
    with pytest.raises(BadInput, match="no facts"):
        prefixes_of(lm, [])
    with pytest.raises(BadParameter, match="there are only"):
        key_value_memories(lm, FACTS[:1], KeyValueSettings(t=500))
    with pytest.raises(BadParameter, match="shared=9"):
        KeyValueSettings(t=5, shared=9)
