# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Feed-forward layers as key-value memories, and the lens
#
# *The rows of a feed-forward layer's first matrix are keys that look for patterns in the text so far; the rows of its second
# matrix are values that point at what comes next.* [Geva et al. 2020](https://arxiv.org/abs/2012.14913) (`geva2020keyvalue`);
# rows read through the final projection: [Davies 2025](https://arxiv.org/abs/2501.02688) (`davies2025feature`). Runs in under
# a minute on one CPU core.

# %%
import numpy as np
import torch

from paramem import Site, claim, load
from paramem.decisions import UNDECIDED, Decision
from paramem.detection.ablation import value_vectors
from paramem.detection.key_value import (
    KeyValueSettings,
    annotate,
    composition,
    describe,
    mutation_effects,
    triggers,
)
from paramem.detection.lens import (
    FeatureSettings,
    feature_neurons,
    kept_names,
    logit_lens,
    names,
    token_names,
    weight_rows,
)
from paramem.detection.neurons import answer_tokens
from paramem.detection.patterns import random_keys
from paramem.detection.prefixes import prefixes_of
from paramem.detection.tuning import TuneSettings, tune
from paramem.evaluation.intervals import bootstrap, span
from paramem.material import facts_for, known_facts
from paramem.plots import curves

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of facts (known_1000, CounterFact, ...)
profile: str = "default"
seed: int = 0
t: int = 25  # trigger prefixes per key

# %%
lm = load(model)
facts = facts_for(lm, dataset)
settings = KeyValueSettings(t=t)
draw, resample = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
upper = lm.n_layers / 2
print(f"{lm.name}: {lm.n_layers} layers of {lm.d_mlp} memories; {len(facts)} facts in all the templates that texts use")

# %% [markdown]
# ## What the papers report
#
# In a language model of 16 layers trained on WikiText-103, people looked at the 25 prefixes that trigger a key most
# (`geva2020keyvalue`, section 3). They found a pattern for every key, and 65 to 80 % of the prefixes belonged to one. Lower
# layers look for shallow patterns, such as the last word; upper layers for meaning. Read through the output embedding (section
# 4), a value's top token is the token that follows its key's best trigger in almost no memory of layers 1 to 10 and in up to
# 3.5 % further up. A layer's output is a composition: its top token is seldom that of one of its memories (section 5.1).
#
# `davies2025feature` reads rows of the *up* projection through the same head, finds neurons for single words, and confirms the
# reading by clamping the neuron.
#
# Here every sentence is known, so a machine does the labelling: a prefix carries its last token, and, once it has told them,
# its relation, its subject and the answer that follows.
#
# ## One memory by hand
#
# What a feed-forward layer adds is the sum of its values, each weighted by how well its key matches. Before running: which
# two arrays have to be multiplied to get `mlp_out` back from the state at `mlp_hidden`?

# %%
fact = known_facts(lm, facts, 1, seed)[0]
layer = lm.n_layers // 2
places = [Site("mlp_hidden", layer), Site("mlp_out", layer)]
m, out = (state[0, -1] for state in lm.states(lm.encode([fact.prompt]), places).values())
V = value_vectors(lm, layer)
print(f"{fact.prompt!r}: {lm.d_mlp} coefficients, the five largest of memories {m.topk(5).indices.tolist()}")
bias = getattr(lm.arch.linear(layer, "down"), "bias", None)
print("the weighted sum is the layer's output:", torch.allclose(m @ V + (0 if bias is None else bias), out, atol=1e-5))

# %% [markdown]
# ## Every key's triggers
#
# One pass over the statements finds the prefixes with the largest coefficient of every key. Look at some memories: what does
# the key look for, what comes next in its best prefix, and what does the value say?

# %%
prefixes = prefixes_of(lm, facts)
found = triggers(lm, prefixes, settings)
table = describe(lm, found, prefixes, settings)
shown = ["layer", "neuron", "trigger", "pattern", "next_token", "value_token", "rank"]
print(f"{len(prefixes)} distinct prefixes")
print(table.sample(10, random_state=seed).sort_values("layer")[shown].to_string(index=False))

# %% [markdown]
# ## Patterns
#
# A pattern is a label that at least three of the triggers share, and so many that a random draw of prefixes would give it in
# fewer than one of a thousand cases. It is semantic for a trigger with which two others share the relation in other templates, or
# the answer with other subjects; shared words and names are shallow.
#
# The claim is about keys. So it is not enough that the shares are the paper's: random directions have to do worse, by a tenth of the
# triggers at least. Where they leave less than a tenth uncovered, no key could show this, and nothing is decided.
#
# Dealing the labels out anew is one control, but an easy one: prefixes with similar hidden states share words whatever looks for
# them. The harder control reads the same hidden states with keys that point in random directions and are as long as the learned
# ones. Before running: how many of their triggers will belong to a pattern?

# %%
shuffled = annotate(found.places.flatten(0, 1), prefixes.shuffled(draw), settings).assign(layer=table["layer"])
unlearned = triggers(lm, prefixes, settings, keys=random_keys(lm, draw))
unlearned = annotate(unlearned.places.flatten(0, 1), prefixes, settings).assign(layer=table["layer"])
kinds = ["shallow", "both", "semantic", "uncovered"]
by_layer, by_layer_random = (each.groupby("layer")[[*kinds, "patterns"]].mean() for each in (table, unlearned))
print(by_layer.round(3).to_string())
print("random keys:")
print(by_layer_random.round(3).to_string())
print(f"with labels dealt out anew, {shuffled['uncovered'].mean():.3f} of the triggers belong to no pattern")

# %%
shares = table.melt(["layer", "neuron"], kinds, var_name="pattern is", value_name="share")
curves(
    shares,
    f"{lm.name}: triggers that share only meaning: {by_layer['semantic'].iloc[0]:.3f} in the first layer, {by_layer['semantic'].iloc[-1]:.3f} in the last",
    x="layer",
    y="share",
    lines="pattern is",
    ylabel="share of a key's triggers",
)


# %% [markdown]
# All intervals from here on are over the memories of this one model. Memories share prefixes and next tokens, so the intervals are
# narrow; how far models differ is seen over the testbeds.


# %%
def lift(frame, column):
    """Mean in the upper half of the layers, in the lower half, and the lower end of the difference's 95 % interval."""
    high, low = (frame[frame["layer"] >= upper][column], frame[frame["layer"] < upper][column])
    ends = [bootstrap(part.to_numpy(float), resample) for part in (high, low)]
    half = np.hypot(*[(b - a) / 2 for a, b in ends])
    return float(high.mean()), float(low.mean()), float(high.mean() - low.mean() - half)


NEGLIGIBLE = 0.1
covered = 1 - table.groupby("layer")["uncovered"].mean()
learned_more = span(unlearned["uncovered"] - table["uncovered"], seed)
ceiling = unlearned["uncovered"].mean() < NEGLIGIBLE  # random keys leave too little for learned ones to cover more
papers_shares = Decision.of((table["patterns"] > 0).mean() >= 0.95 and covered.min() >= 0.65)
claim(
    "geva2020keyvalue.recognisable-patterns",
    papers_shares & (UNDECIDED if ceiling else learned_more.above(NEGLIGIBLE)),
    measured={
        "keys_with_a_pattern": (table["patterns"] > 0).mean(),
        "covered_least": covered.min(),
        "covered": covered.mean(),
        "covered_random_keys": 1 - unlearned["uncovered"].mean(),
        "covered_more_low": learned_more.low,
        "covered_more_high": learned_more.high,
        "patterns_per_key": table["patterns"].mean(),
        "keys_with_a_pattern_random_keys": (unlearned["patterns"] > 0).mean(),
    },
    note="the paper's shares, and a tenth more of the triggers covered than for random keys of the same length in the same stream; "
    "undecided where random keys leave less than a tenth",
)

# %%
high, low, margin = lift(table, "semantic")
beyond = table.assign(semantic=table["semantic"] - unlearned["semantic"])
rise, rise_random = high - low, np.subtract(*lift(unlearned, "semantic")[:2])
claim(
    "geva2020keyvalue.semantic-above",
    margin > 0 and lift(beyond, "semantic")[2] > 0,
    measured={
        "semantic_upper": high,
        "semantic_lower": low,
        "rise": rise,
        "rise_random_keys": rise_random,
    },
    note="triggers with a semantic pattern and no shallow one; the rise, and what it exceeds that of random keys by, "
    "have 95 % intervals above zero",
)

# %% [markdown]
# ## Removing a token
#
# The last token is what a shallow key looks at. How much of the coefficient is gone without the first, the last, or a random
# token?

# %%
mutated = mutation_effects(lm, prefixes, found, draw)
changes = mutated.pivot_table(index="removed", columns="layer", values="change")
print(changes.round(2).to_string())

# %%
first, last = (
    mutated[mutated["removed"] == which].set_index(["layer", "neuron"])["change"] for which in ("first", "last")
)
claim(
    "geva2020keyvalue.ends-matter-most",
    bootstrap((first - last).to_numpy(), resample)[0] > 0 and (changes.loc["last"] < changes.loc["first"]).all(),
    measured={"change_without_last": last.mean(), "change_without_first": first.mean()},
    note="in every layer, and over all keys with a 95 % interval",
)

# %%
high, low, margin = lift(last.reset_index(), "change")
claim(
    "geva2020keyvalue.last-token-less-above",
    margin > 0,
    measured={"change_upper": high, "change_lower": low},
)

# %% [markdown]
# ## Values
#
# Each value, turned by the sign of its key's strongest coefficient, is multiplied with the output embedding. Does its top token
# follow the key's best trigger?

# %%
agreement = table.groupby("layer")[["agrees", "shuffled_agrees"]].mean()
agreement["median rank"] = table.groupby("layer")["rank"].median()
print(agreement.round(3).to_string())

# %%
rates = table.rename(columns={"agrees": "own key", "shuffled_agrees": "another key"})
rates = rates.melt(["layer", "neuron"], ["own key", "another key"], var_name="next token of", value_name="agrees")
curves(
    rates.assign(agrees=rates["agrees"].astype(float)),
    f"{lm.name}: values agree with their keys in {agreement['agrees'].iloc[0]:.1%} (first layer) and {agreement['agrees'].iloc[-1]:.1%} (last)",
    x="layer",
    y="agrees",
    lines="next token of",
    ylabel="share of memories that agree",
)

# %%
high, low, margin = lift(table, "agrees")
claim(
    "geva2020keyvalue.agreement-rises",
    margin > 0,
    measured={"agreement_upper": high, "agreement_lower": low},
)

# %%
above = table[table["layer"] >= upper]
gain = above["agrees"].astype(float) - above["shuffled_agrees"].astype(float)
claim(
    "geva2020keyvalue.agreement-above-chance",
    bootstrap(gain.to_numpy(), resample)[0] > 0,
    measured={"agreement_upper": above["agrees"].mean(), "shuffled_upper": above["shuffled_agrees"].mean()},
)

# %% [markdown]
# ## Composition and refinement
#
# A layer's own top token against the top tokens of its memories, each taken with its coefficient at this prefix: a memory whose
# coefficient is negative says the token that its value points away from. By chance the layer's top token would be said by no memory
# with the probability that a random token of the vocabulary is said by none. Then the residual stream through the lens.

# %%
numbers = torch.randperm(len(prefixes), generator=draw)[:1000]
composed = composition(lm, prefixes, numbers).groupby("layer")[["composed", "chance"]].mean()
print("the layer's top token is that of none of its memories:")
print(composed.round(3).to_string())
claim(
    "geva2020keyvalue.composition",
    composed["composed"].min() > 0.5,
    measured={
        "composed_least": composed["composed"].min(),
        "chance_least": composed["chance"].min(),
        "vocabulary": lm.arch.vocabulary,
        "memories": lm.d_mlp,
    },
    note="in every layer more than half of the prefixes",
)

# %%
known = known_facts(lm, facts, 100, seed)
lens = logit_lens(lm, known)
read = lens[lens["role"] == "last"].groupby("layer")[["decided", "rank", "probability"]].mean()
print(read.round(3).to_string())

# %%
curves(
    lens[lens["role"].isin(["subject last", "further", "last"])].assign(decided=lambda f: f["decided"].astype(float)),
    f"{lm.name}: at the last token {read['decided'].iloc[0]:.0%} of the predictions stand after the first layer",
    x="layer",
    y="decided",
    lines="role",
    ylabel="top token is the final one",
)

# %%
steps = lens.groupby("layer")["decided"].mean()
claim(
    "geva2020keyvalue.refinement",
    (steps.diff().dropna() > 0).all() and steps.iloc[0] > 0,
    measured={"decided_first_layer": steps.iloc[0], "decided_before_last_layer": steps.iloc[-2]},
    note="over all tokens of 100 prompts, the share rises with every layer",
)

# %% [markdown]
# ## Neurons with a name
#
# Rows of the up projection through the head: which token is on top? Neurons that are named after an answer are clamped to the
# layer's largest activation in prompts that ask for something else. The control is the name of another neuron.

# %%
read_rows = {
    role: feature_neurons(lm, known, FeatureSettings(role=role, neurons=150))
    for role in ("up", *(["gate"] if "gate" in lm.arch.layout.weights else []), "down")
}
for role, neurons in read_rows.items():
    named = neurons[neurons["top"]]
    gain = named["effect"] - named["other_effect"]
    low, high = bootstrap(gain.to_numpy(), resample)
    print(
        f"{role:4s} {len(named)} neurons with a name: log p(name) {named['effect'].mean():+.2f}, "
        f"log p(another name) {named['other_effect'].mean():+.2f}, difference {gain.mean():+.2f} [{low:.2f}, {high:.2f}]"
    )

# %%
named = read_rows["up"].query("top")
gain = named["effect"] - named["other_effect"]
claim(
    "davies2025feature.clamping-confirms-names",
    bootstrap(gain.to_numpy(), resample)[0] > 0,
    measured={"effect": named["effect"].mean(), "other_effect": named["other_effect"].mean(), "neurons": len(named)},
    note="rows of the up projection; clamping raises log p of the name more than of another neuron's, paired by neuron",
)

# %% [markdown]
# Compare the lines above: `down` names a neuron after what it *writes*, `up` and `gate` after what it *reads*.
#
# ### Names after fine-tuning
#
# The paper compares a model with its instruct version. Here: fine-tune on questions, a form that the training texts do not
# have, with half of the facts, and ask the other half. For comparison, every row of the up projection is moved as far in a random
# direction.

# %%
asked = [fact for fact in known_facts(lm, facts, 400, seed) if fact.question]
train, test = asked[::2], asked[1::2]
before, ask = names(lm), {"prompts": [f.probe(f.question).prompt for f in test], "targets": [f.object for f in test]}
learned = tune(
    lm,
    lm.encode([f.probe(f.question).prompt for f in train], [f.object for f in train]),
    TuneSettings(steps=60, lr=5e-4, seed=seed),
)
right = [float(lm.score(**ask).exact.double().mean())]
with learned.applied(lm):
    after = names(lm)
    right.append(float(lm.score(**ask).exact.double().mean()))
kept = kept_names(before, after)
print(f"questions answered: {right[0]:.2f} before, {right[1]:.2f} after")
print("neurons that keep their name, by layer:", kept.round(3).to_dict())

# %%
rows = [weight_rows(lm, i, "up").clone() for i in range(lm.n_layers)]
with learned.applied(lm):
    moved = [weight_rows(lm, i, "up") - old for i, old in enumerate(rows)]
names_of = [part["name"].to_numpy() for _, part in before.groupby("layer")]
head = lm.arch.head.weight.detach()
elsewhere = []
for old, step, named_before in zip(rows, moved, names_of, strict=True):
    noise = torch.randn(old.shape, generator=draw).to(old)
    new = old + noise / noise.norm(dim=1, keepdim=True) * step.norm(dim=1, keepdim=True)
    elsewhere.append((token_names(new, head)[0].numpy() == named_before).mean())
cosine = [float(torch.cosine_similarity(old, old + step).mean()) for old, step in zip(rows, moved, strict=True)]
print("cosine of each row with itself before training, by layer:", np.round(cosine, 3).tolist())
print("names kept after random moves of the same length:", np.round(elsewhere, 3).tolist())

# %%
claim(
    "davies2025feature.names-survive-fine-tuning",
    kept.mean() > 0.75 and right[1] >= 0.5,
    measured={
        "kept": kept.mean(),
        "kept_random_moves": np.mean(elsewhere),
        "cosine": np.mean(cosine),
        "questions_before": right[0],
        "questions_after": right[1],
    },
    note="more than three quarters keep their name, and the model answers at least half of the questions it was not "
    "trained on",
)

# %% [markdown]
# ## Departures and limits

# %%
from paramem.registry import method

for name in ("key-value-memories", "feature-neurons"):
    for topic, departure in method(name).departures().items():
        print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# A testbed's vocabulary is small beside the number of its memories, so some memory of a layer says almost any token; this weighs
# on the claim of composition. Labels are those of the world: a pattern of letters or of word length would go unseen.
#
# ## Exercises
#
# 1. Read the values through the final norm's gain before the head. Does the agreement of the upper half of the layers rise? Answer "yes" or
#    "no".
# 2. Take `t = 5`. Which share of triggers grows: those of "shallow", "both", "semantic" patterns or of none ("uncovered")? Name one. Why
#    must `shared` stay at 3 for the comparison to be fair?
# 3. Find the memory whose value points most strongly at the answer of `fact`, as (layer, neuron), and name its pattern.


# %%
def agreement_above(gain):
    """Share of memories of the upper half whose value, times a gain, has the next token of its key's best trigger on top."""
    head, agrees = lm.arch.head.weight.detach(), []
    for each in range(lm.n_layers // 2, lm.n_layers):
        logits = (value_vectors(lm, each).detach() * gain) @ head.T * found.sign[each, :, None]
        agrees.append((logits.argmax(1) == prefixes.next_token[found.places[each, :, 0]]).float().mean())
    return float(torch.stack(agrees).mean())


def check(exercise, answer):
    if exercise == 1:
        rises = agreement_above(lm.arch.final_norm.weight.detach()) > agreement_above(torch.ones(lm.d_model))
        return "right" if answer == ("yes" if rises else "no") else "look again: print both shares"
    if exercise == 2:
        few = describe(lm, triggers(lm, prefixes, KeyValueSettings(t=5)), prefixes, KeyValueSettings(t=5))
        return "right" if few[answer].mean() > table[answer].mean() else "that share falls"
    head = lm.arch.head.weight[answer_tokens(lm, [fact])[0]]
    best = max(float((value_vectors(lm, each) @ head).max()) for each in range(lm.n_layers))
    own = float(value_vectors(lm, answer[0])[answer[1]] @ head)
    return "right" if own > best - 1e-6 else f"its product is {own:.2f}, the best one {best:.2f}"


check(3, (0, 0))
