# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Neuron attribution: which neurons speak the answer, and who tells them?
#
# *One forward pass suffices to name the neurons that hold an answer: those whose output, added to the state in front of it,
# raises the answer's log-probability most.* [Yu and Ananiadou 2024](https://arxiv.org/abs/2312.12141) (`yu2023attribution`).
# Runs in under a minute on one CPU core.

# %%
import numpy as np
import pandas as pd
import torch

from paramem import Site, claim, load
from paramem.claims import mean_interval
from paramem.detection.ablation import ablate_each, deletion, overlap, random_scores, rank_correlation, value_vectors
from paramem.detection.knowledge_neurons import activations, integrated_gradients
from paramem.detection.neuron_attribution import (
    SCORES,
    AttributionSettings,
    attention_neurons,
    attention_scores,
    promoted_tokens,
    query_scores,
    value_scores,
)
from paramem.detection.neurons import answer_probabilities, ask, random_like, top_neurons
from paramem.lm import log_probs
from paramem.material import facts_for, known_facts
from paramem.plots import curves
from paramem.registry import method

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of facts (known_1000, CounterFact, ...)
profile: str = "default"
seed: int = 0
n_facts: int = 0  # 0: as many as the profile says
n_query: int = 50  # facts whose attention is looked into
n_exact: int = 25  # facts for which every neuron is taken out in turn

# %%
lm = load(model)
facts = known_facts(lm, facts_for(lm, dataset), n_facts or {"paper": 1000}.get(profile, 100), seed)
few, some = facts[:n_exact], facts[:n_query]
total = lm.n_layers * lm.d_mlp
print(f"{lm.name}: {lm.n_layers} layers of {lm.d_mlp} neurons; {len(facts)} facts that it completes by itself")

# %% [markdown]
# ## What the paper reports
#
# The abstract claims that the score finds important neurons better than seven other static scores do, on three metrics, and
# that most static scores see only *value neurons*, which speak of the answer themselves, so that a second score is needed for
# the *query neurons* that switch them on. Feed-forward and attention layers are both looked at.
#
# ## One neuron by hand
#
# An MLP adds $\sum_k m_k\,\mathrm{fc2}_k$ to the residual stream. Take the state in front of it, add a single term, and read
# both with the model's own final norm and head. Before running: can the score of a neuron be negative?

# %%
fact = facts[0]
((layer, best),) = top_neurons(value_scores(lm, [fact])[0], 1)  # where the best neuron of this fact will turn out to be
sites = [Site(kind, layer) for kind in ("mlp_hidden", "mlp_out", "resid_post")]
states = {site.kind: state[0, -1] for site, state in lm.states(lm.encode([fact.prompt]), sites).items()}
base, m = states["resid_post"] - states["mlp_out"], states["mlp_hidden"]
answer = ask(lm, [fact]).answers[0]
before = log_probs(lm.unembed(base))[answer]
print(f"{fact.prompt!r} -> {fact.object!r}: log p = {before:.3f} in front of the MLP of layer {layer}")

# %%
vectors = value_vectors(lm, layer)
each = log_probs(lm.unembed(base + m[:, None] * vectors))[:, answer] - before
for k in (best, int(each.argmin())):
    print(f"neuron {k:3d}: m = {m[k]:+.3f}, log p changes by {each[k]:+.3f}")

# %% [markdown]
# Half of the story is suppression: adding a neuron can make the answer less likely. The method takes the largest scores only.
# Which token does the best neuron promote when it stands alone? Guess, then run.

# %%
alone = promoted_tokens(lm, m[best] * vectors[best])
print("promoted:", [lm.tokenizer.decode([i]).strip() for i in alone.topk(5).indices.tolist()])

# %% [markdown]
# ## All neurons, all scores
#
# `value_scores` does this for every neuron of every layer; while the final norm's scale is held fixed, logits are linear in the
# neuron's vector, so a neuron costs one row of additions. The other seven scores are the paper's comparisons. Integrated
# gradients (`dai2021neurons`), plain activation and chance stand beside them.

# %%
asked = ask(lm, facts)
rankings = {kind: value_scores(lm, facts, AttributionSettings(score=kind)) for kind in SCORES}
rankings["integrated gradients"] = integrated_gradients(lm, asked)
rankings["activation"] = activations(lm, asked)
rankings["chance"] = random_scores(lm, len(facts), np.random.default_rng(seed))
print(f"{len(rankings)} rankings of {total} neurons for each of {len(facts)} facts")

# %% [markdown]
# ## Deletion
#
# As in the paper, the first $k$ neurons of a ranking are set to zero at every token, and the better ranking is the one that
# costs the answer more. In a GPT-2 the paper's coefficient, a size, and the plain activation, which has a sign, name the same first
# neurons, because GELU's negative values are small: two rows are equal. In a gated layer (Llama) they need not be.

# %%
ks = [1, 10, round(total / 100), 100]
lost = deletion(lm, facts, rankings, ks)
drops = lost.pivot_table(index="ranking", columns="k", values="drop").loc[list(rankings)]
shown = ["log increase", "log probability", "coefficient x rank", "integrated gradients", "activation", "chance"]
curves(
    lost[lost["ranking"].isin(shown)],
    f"{lm.name}: ten neurons by log-probability increase cost the answer {drops.loc['log increase', 10]:.2f} nats, "
    f"by integrated gradients {drops.loc['integrated gradients', 10]:.2f}",
    x="k",
    y="drop",
    lines="ranking",
    xlabel="neurons taken out",
    ylabel="log p(answer) lost (nats)",
    logx=True,
)

# %%
print((drops.round(2) + 0.0).to_string())

# %%
ten = lost[lost["k"] == 10].pivot(index="fact", columns="ranking", values="drop")
clean = answer_probabilities(lm, asked).mean()
probability = lost[lost["k"] == 10].groupby("ranking")["probability"].mean()
reciprocal = (1 / lost[lost["k"] == 10].set_index("ranking")["rank"]).groupby("ranking").mean()
print(f"p(answer) before: {clean:.3f}; after ten neurons, with the mean reciprocal rank of the answer:")
print(pd.DataFrame({"p": probability, "MRR": reciprocal}).loc[list(rankings)].round(3).to_string())

# %% [markdown]
# ## The truth: every neuron taken out
#
# A small model allows what the paper's models do not: taking out each neuron in turn and looking at what it costs. `where="all"`
# is the intervention above, one neuron at a time; `where="last"` spares the neuron at all tokens but the last.

# %%
truth = {"all tokens": ablate_each(lm, few, where="all"), "last token": ablate_each(lm, few)}
compared = {name: scores[: len(few)] for name, scores in rankings.items()}
compared["exact, last token"] = truth["last token"]
found = pd.DataFrame(
    {
        f"{what}, {where}": {name: measure(scores, exact).mean() for name, scores in compared.items()}
        for where, exact in truth.items()
        for what, measure in [
            ("of the first ten", lambda a, b: overlap(a, b, 10)),
            ("rank correlation", rank_correlation),
        ]
    }
)
print((found.round(2) + 0.0).to_string())

# %% [markdown]
# ## Query neurons
#
# Attention has neurons too: a coordinate of a head's value at one token. What feeds the best thirty of them? A neuron below
# counts by its share in the inner product that such a value neuron reads, times the value neuron's own score. Only neurons of
# the layers below can feed a value neuron of attention, so that these lie lower is no finding. The feed-forward value neurons
# stand beside them for comparison.

# %%
best = attention_neurons(lm, some[:1]).nlargest(5, "score")
words = [lm.tokenizer.decode([i]) for i in ask(lm, some[:1]).batch.input_ids[0].tolist()]
print(f"{some[0].prompt!r} -> {some[0].object!r}, best attention neurons:")
print(best.assign(word=[words[i] for i in best["token"]]).drop(columns="fact").round(3).to_string(index=False))

# %%
attended = attention_scores(lm, some)
queries = query_scores(lm, some)
values = rankings["log increase"][: len(some)]
one_percent = round(total / 100)
by_layer = {
    "value, feed-forward": [[layer for layer, _ in top_neurons(row, 30)] for row in values],
    "value, attention": [[layer for layer, _ in top_neurons(row.flatten(1), 30)] for row in attended],
    "query, feed-forward": [[layer for layer, _ in top_neurons(row, 30)] for row in queries],
}
depth = pd.DataFrame(
    [
        {"neurons": kind, "fact": i, "layer": layer, "share": layers.count(layer) / 30}
        for kind, rows in by_layer.items()
        for i, layers in enumerate(rows)
        for layer in range(lm.n_layers)
    ]
)
means = {kind: np.array([np.mean(layers) for layers in rows]) for kind, rows in by_layer.items()}
curves(
    depth,
    f"{lm.name}: feed-forward value neurons lie at layer {means['value, feed-forward'].mean():.1f} on average, "
    f"those that feed them at {means['query, feed-forward'].mean():.1f}",
    x="layer",
    y="share",
    lines="neurons",
    ylabel="share of the first 30",
)

# %%
print(depth.pivot_table(index="neurons", columns="layer", values="share").round(3).to_string())

# %% [markdown]
# Where is there anything left to raise? The same facts, read in front of each MLP:

# %%
asked = ask(lm, some)
layers, at = range(lm.n_layers), (torch.arange(len(some)), asked.batch.prompt_lengths - 1)
seen = lm.states(asked.batch, [Site(kind, layer) for kind in ("resid_post", "mlp_out") for layer in layers])
for layer in layers:
    base = (seen[Site("resid_post", layer)] - seen[Site("mlp_out", layer)])[at]
    read = log_probs(lm.unembed(base)).gather(1, asked.answers[:, None])
    print(f"in front of the MLP of layer {layer}: mean log p = {read.mean():.2f}")

# %%
generator = np.random.default_rng(seed)
plain = query_scores(lm, some, AttributionSettings(query="inner product"))
sets = {
    "query": [top_neurons(row, one_percent) for row in queries],
    "query (plain inner products)": [top_neurons(row, one_percent) for row in plain],
}
sets["random"] = [random_like(lm, neurons, generator) for neurons in sets["query"]]
whole = answer_probabilities(lm, asked).log()
without = {name: (whole - answer_probabilities(lm, asked, chosen).log()).numpy() for name, chosen in sets.items()}
for name, drop in without.items():
    print(f"{one_percent} {name} neurons taken out: {drop.mean():.2f} nats lost")

# %% [markdown]
# ## Claims

# %%
rivals = [kind for kind in SCORES if kind != "log increase"]
beaten = [kind for kind in rivals if mean_interval(list(ten["log increase"] - ten[kind]))[0] > 0]
claim(
    "yu2023attribution.beats-other-static-scores",
    len(beaten) == len(rivals),
    measured={
        "drop": ten["log increase"].mean(),
        "best_other_drop": ten[rivals].mean().max(),
        "best_other": ten[rivals].mean().idxmax(),
        "scores_beaten": len(beaten),
        "facts": len(facts),
    },
    note="nats of log p(answer), ten neurons at zero; the 95 % interval of the difference by fact lies above zero for each score",
)

# %%
hits = {name: overlap(scores, truth["all tokens"], 10) for name, scores in compared.items()}
claim(
    "yu2023attribution.points-at-what-ablation-finds",
    all(mean_interval(list(hits["log increase"] - hits[name]))[0] > 0 for name in ("activation", "chance")),
    measured={
        "overlap": hits["log increase"].mean(),
        "overlap_gradients": hits["integrated gradients"].mean(),
        "overlap_activation": hits["activation"].mean(),
        "overlap_chance": hits["chance"].mean(),
        "facts": len(few),
    },
    note="share of the ten neurons whose exact removal costs most; paired by fact, 95 % intervals above zero",
)

# %%
claim(
    "yu2023attribution.no-gradients-needed",
    mean_interval(list(ten["log increase"] - ten["integrated gradients"]))[0] > 0,
    measured={
        "drop": ten["log increase"].mean(),
        "drop_gradients": ten["integrated gradients"].mean(),
        "share_of_facts": (ten["log increase"] > ten["integrated gradients"]).mean(),
    },
    note="the abstract compares static scores only; ten neurons, paired by fact, 95 % interval above zero",
)

# %%
kept = lost[lost["k"] == one_percent].groupby("ranking")["probability"].mean() / clean.item()
claim(
    "yu2023attribution.few-neurons-suffice",
    kept["log increase"] < 0.5 and kept["chance"] > 0.95,
    measured={
        "kept_without_value_neurons": kept["log increase"],
        "kept_without_random": kept["chance"],
        "neurons": one_percent,
    },
    note="mean p(answer) without them over mean p(answer)",
)

# %%
upper = {
    kind: [np.mean([layer >= lm.n_layers / 2 for layer in layers]) for layers in rows]
    for kind, rows in by_layer.items()
}
claim(
    "yu2023attribution.value-neurons-are-deep",
    all(mean_interval(upper[f"value, {kind}"])[0] > 0.5 for kind in ("feed-forward", "attention")),
    measured={
        "share_feed_forward": np.mean(upper["value, feed-forward"]),
        "share_attention": np.mean(upper["value, attention"]),
    },
    note="share of the first thirty in the upper half of the layers; both 95 % intervals lie above one half",
)

# %%
claim(
    "yu2023attribution.query-neurons",
    mean_interval(list(without["query"] - without["random"]))[0] > 0,
    measured={
        "drop_query": without["query"].mean(),
        "drop_random": without["random"].mean(),
        "neurons": one_percent,
        "facts": len(some),
    },
    note="as many random neurons of the same layers; paired by fact, 95 % interval above zero. That they lie below the value "
    "neurons of attention is true by construction and is not counted",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, departure in method("neuron-attribution").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# The score looks at what a neuron says to the head directly. What it says to the layers above, and what it does at earlier
# tokens, is not in it; the table of exact ablation shows how much that is. And it is a difference of logarithms: it favours the
# layers in front of which the answer is still open.
#
# ## Exercises
#
# 1. Score with `scale="own"`: each vector is then read at its own scale, as the logit lens does. Does the overlap with exact
#    ablation at the last token rise? The checker takes "yes" or "no".
# 2. Take the *smallest* scores instead: neurons that speak against the answer. What happens to p(answer) without them? The
#    checker takes your guess, "up" or "down".


# %%
def check(exercise, guess):
    if exercise == 1:
        own = value_scores(lm, few, AttributionSettings(scale="own"))
        rises = (
            overlap(own, truth["last token"], 10).mean()
            > overlap(rankings["log increase"][: len(few)], truth["last token"], 10).mean()
        )
        return "right" if rises == (guess == "yes") else "look again: compare the two overlaps"
    sets = [top_neurons(-row, 10) for row in values]
    after = answer_probabilities(lm, asked, sets).mean()
    return (
        "right" if (after > answer_probabilities(lm, asked).mean()) == (guess == "up") else "look again: print `after`"
    )


check(2, "up")
