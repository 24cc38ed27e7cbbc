# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Localisers on planted facts
#
# *A localiser can only be graded where the right answer is known: so a new fact is trained into chosen neurons, everything else
# frozen, and the localiser is asked where it is.* [Chang et al. 2023](https://arxiv.org/abs/2311.09060)
# (`chang2023localization`), the INJ and DEL benchmarks. Runs in about a minute on one CPU core.

# %%
import random

import numpy as np
import pandas as pd
import torch

from paramem import claim, load
from paramem.decisions import UNDECIDED, every
from paramem.detection.causal_tracing import TraceSettings, trace_facts
from paramem.detection.localisers import all_localisers
from paramem.detection.neurons import answer_logits, ask, random_like
from paramem.detection.planting import (
    favourite_layer,
    grades,
    layer_site,
    plant,
    plant_somewhere,
    random_site,
    recall_of_best,
    top_of_each_layer,
    value_change,
)
from paramem.evaluation.intervals import Span, span, wilson
from paramem.lm import log_probs
from paramem.material import facts_for, known_facts, world_behind
from paramem.plots import rates

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed
profile: str = "default"
seed: int = 0
n_facts: int = 16  # facts planted into random neurons
n_known: int = 40  # facts of the model itself whose neurons are dropped
n_layer_facts: int = 3  # facts planted into each layer

# %% [markdown]
# Facts of people that no text mentions, with objects of one token. Five of them served to tune the two localisers that learn
# masks, and are left out.

# %%
lm = load(model)
unseen = list(world_behind(lm).unseen)
sizes = lm.encode([f.prompt for f in unseen], [f.object for f in unseen])
strangers = [f for f, n in zip(unseen, (sizes.lengths - sizes.prompt_lengths).tolist(), strict=True) if n == 1]
random.Random(0).shuffle(strangers)
new, generator = strangers[5 : 5 + n_facts], np.random.default_rng(seed)
print(f"{lm.name}: {lm.n_layers} layers of {lm.d_mlp} neurons; {len(new)} new facts, such as")
print(
    f"  {new[0].prompt!r} -> {new[0].object!r}, which the model completes with {lm.generate(new[0].prompt, max_new_tokens=1)}"
)

# %% [markdown]
# ## What the paper reports
#
# INJ: a sentence is trained into a random 1 % (or 0.1 %) of the value vectors of all layers until its loss is below 0.05; a
# localiser names as many neurons of each layer, and recall is the share of the trained ones among them (section 3.1). All five
# localisers are far above chance, those that learn masks (SLIMMING, HARD CONCRETE) best, activations last (Table 2). With fewer
# trained weights recall is higher. DEL: dropping the neurons named for a sequence that the model knows makes it forget this
# sequence more than others, but not this one alone (section 5.2).
#
# ## One fact, by hand
#
# Planted into one percent of the neurons. Where will a localiser that simply drops every neuron in turn place it?

# %%
site = random_site(lm, share=0.01, generator=np.random.default_rng(seed))
with plant(lm, new[0], site).applied(lm) as planted:
    print("now completed with", planted.generate(new[0].prompt, max_new_tokens=1))
    one = all_localisers(planted, new[:1])
print(f"{len(site)} neurons hold it; by layer {[sum(layer == at for at, _ in site) for layer in range(lm.n_layers)]}")
print(grades(lm, one, new[0], site, [0.01, 0.05]).drop(columns="fact").round(3).to_string(index=False))

# %% [markdown]
# ## Recall of planted neurons
#
# Every fact gets neurons of its own and a model of its own: one percent of them, and a tenth of a percent, as in the paper. For a
# testbed that is two or three neurons; where they cannot hold the fact, others are drawn. Then only the localisers that cost little
# are run. One neuron of each layer would be two or three times as many as were planted, so for comparing the two shares the best
# neurons of all layers together are named, as many as were planted.

# %%
slow = ("slimming", "hard-concrete", "zero-out")
parts, of_all = [], []
for fact in new:
    for share, left_out in ((0.01, ()), (0.001, slow)):
        neurons, change = plant_somewhere(lm, fact, share=share, generator=generator)
        with change.applied(lm) as planted:
            scores = all_localisers(planted, [fact], leave_out=left_out)
        parts.append(grades(lm, scores, fact, neurons, [share, 2 * share, 5 * share]).assign(planted=share))
        of_all += [
            {"fact": fact.id, "planted": share, "localiser": name, "recall": recall_of_best(each[0], neurons)}
            for name, each in scores.items()
        ]
table = pd.concat(parts)
found = table[table["planted"] == 0.01].pivot_table(
    index="localiser", columns="share", values=["recall", "chance"], sort=False
)
print(found.round(3).to_string())

# %%
exact = table[table["share"] == table["planted"]]
recalls = exact.pivot_table(index="fact", columns=["planted", "localiser"], values="recall")
base = float(exact[exact["planted"] == 0.01]["chance"].iloc[0])


NEGLIGIBLE = 0.1  # of a share, or of a nat


def above_zero(values):
    return span(values, seed).above(0, negligible=NEGLIGIBLE)


shown = pd.DataFrame(
    [dict(span(recalls[0.01][name], seed)._asdict(), localiser=name, planted="in 1 %") for name in recalls[0.01]]
).sort_values("mean", ascending=False)
print(shown.round(3).to_string(index=False))

# %%
rates(
    shown,
    f"{lm.name}: {shown['localiser'].iloc[0]} finds {shown['mean'].iloc[0]:.0%} of the planted neurons; chance is {base:.1%}",
    rows="localiser",
    columns="planted",
    xlabel="recall at as many neurons as were planted",
)

# %%
five = ["hard-concrete", "slimming", "zero-out", "integrated gradients", "activations"]
claim(
    "chang2023localization.better-than-chance",
    every(span(recalls[0.01][name], seed).above(base, negligible=NEGLIGIBLE) for name in five),
    measured={name.replace(" ", "_").replace("-", "_"): recalls[0.01][name].mean() for name in five} | {"chance": base},
    note="the 95 % interval over facts of every localiser lies above chance",
)

# %%
gains = {name: recalls[0.01][name] - recalls[0.01]["integrated gradients"] for name in ("hard-concrete", "slimming")}
claim(
    "chang2023localization.masks-beat-gradients",
    every(above_zero(gain) for gain in gains.values()),
    measured={"hard_concrete_gain": gains["hard-concrete"].mean(), "slimming_gain": gains["slimming"].mean()},
    note="both gains over integrated gradients have 95 % intervals above zero, paired by fact",
)

# %%
behind = {name: recalls[0.01][name] - recalls[0.01]["activations"] for name in ("zero-out", "integrated gradients")}
claim(
    "chang2023localization.activations-last",
    every(above_zero(gain) for gain in behind.values()),
    measured={"zero_out_gain": behind["zero-out"].mean(), "gradients_gain": behind["integrated gradients"].mean()},
)

# %%
equal = pd.DataFrame(of_all).pivot_table(index="fact", columns=["planted", "localiser"], values="recall")
fast = [name for name in equal[0.001] if name in five]
few, many = (equal[share][fast].mean(axis=1) for share in (0.001, 0.01))
print("as many named as planted, over all layers:")
print(equal.mean().unstack("planted").loc[list(equal[0.001])].round(3).to_string())
print("one of each layer named, planted in 0.1 %:", recalls[0.001].mean().round(3).to_dict())
claim(
    "chang2023localization.fewer-weights-are-easier",
    above_zero(few - many),
    measured={
        "recall_tenth_of_a_percent": few.mean(),
        "recall_one_percent": many.mean(),
        "chance_tenth_of_a_percent": round(0.001 * lm.n_layers * lm.d_mlp) / (lm.n_layers * lm.d_mlp),
        "chance_one_percent": round(0.01 * lm.n_layers * lm.d_mlp) / (lm.n_layers * lm.d_mlp),
    },
    note="integrated gradients and activations; as many neurons named as planted, over all layers; 0.1 % against 1 %, paired by "
    "fact, 95 % interval above zero",
)

# %% [markdown]
# ## Which layer?
#
# Now the value vectors of one whole layer hold the fact, three facts for each layer. Localisers of neurons vote by the sum of their scores;
# causal tracing by the MLP whose restoration brings most of the answer back at any token but the last.

# %%
votes = []
for layer, fact in zip(list(range(lm.n_layers)) * n_layer_facts, strangers[5 + n_facts :], strict=False):
    with plant(lm, fact, layer_site(lm, layer)).applied(lm) as planted:
        scores = all_localisers(planted, [fact], leave_out=slow)
        [traced] = trace_facts(planted, [fact], TraceSettings(site="mlp_out"))
    picks = {name: favourite_layer(score[0]) for name, score in scores.items()}
    picks["causal tracing, all tokens"] = int(traced.indirect_effect.max(0).argmax())
    picks["causal tracing, not the last"] = int(traced.indirect_effect[:-1].max(0).argmax())
    votes += [{"localiser": name, "planted in layer": layer, "found in": pick} for name, pick in picks.items()]
votes = pd.DataFrame(votes).assign(right=lambda f: (f["planted in layer"] == f["found in"]).astype(float))
print("share of facts for which the right layer is named, by the layer that they were planted in:")
print(votes.pivot_table(index="localiser", columns="planted in layer", values="right", sort=False).round(2).to_string())

# %% [markdown]
# How many right layers are too many for chance? Wilson's interval of the share says it, over all facts together.

# %%
hits = votes.groupby("localiser", sort=False)["right"].agg(["sum", "count"])
right = {name: Span(k / n, *wilson(k, n)) for name, k, n in hits.itertuples()}
print(pd.DataFrame(right, index=["right", "low", "high"]).T.round(3).to_string())
print(f"chance {1 / lm.n_layers:.3f}")
traced = right["causal tracing, all tokens"]
claim(
    "chang2023localization.tracing-names-the-planted-layer",
    traced.above(1 / lm.n_layers, negligible=NEGLIGIBLE),
    measured={
        "right_tracing": traced.mean,
        "right_tracing_low": traced.low,
        "right_tracing_high": traced.high,
        "right_tracing_before_last_token": right["causal tracing, not the last"].mean,
        "facts": hits["count"].iloc[0],
    },
    note="the 95 % interval over facts, three for each layer, lies above chance",
)

# %%
claim(
    "chang2023localization.log-increase-names-the-planted-layer",
    right["log increase"].above(1 / lm.n_layers, negligible=NEGLIGIBLE),
    measured={
        "right_log_increase": right["log increase"].mean,
        "right_log_increase_low": right["log increase"].low,
        "right_gradients": right["integrated gradients"].mean,
        "facts": hits["count"].iloc[0],
    },
    note="the 95 % interval over facts, three for each layer, lies above chance",
)

# %% [markdown]
# ## Facts that the model knows
#
# No truth is known here, but dropping the right neurons must cost the fact, and should spare the others. The paper drops 0.1 and
# 0.5 % of the neurons of each layer of large models; half a percent of a testbed is a handful, which seldom changes the most probable
# answer. So the claim on the target is about what the paper shows beside it, the loss, at half a percent. That other facts suffer even
# where the target is gone can only be asked where it is gone: with ten times as many, of the targets that are no longer said. Other
# facts are twenty that are no targets.

# %%
known = known_facts(lm, facts_for(lm), n_known + 20, seed)
targets = known[:n_known]
asked = ask(lm, known)
scores = all_localisers(lm, targets, leave_out=["zero-out"])
intact = log_probs(answer_logits(lm, asked)).gather(1, asked.answers[:, None])[:, 0]


def cost(i, neurons):
    """Rise of the loss, and share forgotten, of fact i and of the others without these neurons."""
    places = torch.tensor([i, *range(n_known, len(known))])
    said = log_probs(answer_logits(lm, asked.rows(places), [neurons] * len(places)))
    rise = (intact[places] - said.gather(1, asked.answers[places, None])[:, 0]).double().numpy()
    lost = (said.argmax(1) != asked.answers[places]).double().numpy()
    kinds = {"rise": rise, "forgotten": lost}
    return {f"{kind}, {who}": v for kind, x in kinds.items() for who, v in (("own", x[0]), ("others", x[1:].mean()))}


rows = []
for share in (0.005, 0.05):
    for i in range(n_known):
        sets = {name: top_of_each_layer(score[i], share) for name, score in scores.items()}
        sets["random"] = random_like(lm, sets["activations"], generator)
        rows += [{"dropped": share, "localiser": name, "fact": i, **cost(i, neurons)} for name, neurons in sets.items()]
costs = pd.DataFrame(rows)
losses = costs.groupby(["dropped", "localiser"], sort=False).mean().drop(columns="fact")
print("rise of the loss (nats) and share of facts forgotten:")
print(losses.round(2).to_string())

# %%
each = costs[costs["dropped"] == 0.005].pivot(index="fact", columns="localiser", values=["rise, own", "rise, others"])
named = [name for name in five if name in scores]
gaps = {name: each["rise, own"][name] - each["rise, others"][name] for name in named}
claim(
    "chang2023localization.dropping-forgets-the-target",
    every(above_zero(gap) for gap in gaps.values()),
    measured={name.replace(" ", "_").replace("-", "_"): gap.mean() for name, gap in gaps.items()}
    | {"forgotten": losses.loc[0.005].loc[named, "forgotten, own"].mean()},
    note="rise of the target's loss minus that of other facts; all 95 % intervals above zero (zero-out not run here)",
)

# %%
at_five = costs[costs["dropped"] == 0.05]
gone = at_five[at_five["localiser"].isin(named) & (at_five["forgotten, own"] == 1)].groupby("fact")
random_costs = at_five[at_five["localiser"] == "random"].set_index("fact")
others = gone["rise, others"].mean()
harm = (others - random_costs["rise, others"]).dropna()
print(f"{len(harm)} of {n_known} targets are no longer said without the neurons of some localiser")
claim(
    "chang2023localization.not-specific",
    span(harm, seed).above(NEGLIGIBLE) if len(harm) >= 10 else UNDECIDED,
    measured={
        "others_rise": others.mean(),
        "others_rise_random": random_costs.loc[others.index, "rise, others"].mean(),
        "others_forgotten": gone["forgotten, others"].mean().mean(),
        "target_rise": gone["rise, own"].mean().mean(),
        "low": span(harm, seed).low,
        "high": span(harm, seed).high,
        "targets": len(harm),
    },
    note="a twentieth of the neurons of each layer, where the target is no longer said; other facts lose a tenth of a nat more than "
    "with as many random neurons; 95 % interval over targets above it",
)

# %% [markdown]
# ## Departures and limits

# %%
from paramem.registry import method

for topic, departure in method("slimming").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# Truth has a catch: a planted neuron that is never active at the prompt's tokens cannot have learned anything, and no localiser can
# find it. Recall of one is therefore out of reach.
#
# ## Exercises
#
# 1. Count only the planted neurons of the first example whose value vector moved by more than a tenth of the largest move. What is
#    zero-out's recall of these, at one percent of each layer? The checker allows 0.01.
# 2. Plant the fact of the first example in the first layer alone (`layer_site`). In which layer does the sum of the activation scores
#    put it (`favourite_layer`)?
# 3. Name a neuron of the first example's site that zero-out ranks among the best one percent of its layer.


# %%
def check(exercise, answer):
    found = set(top_of_each_layer(one["zero-out"][0], 0.01))
    if exercise == 1:
        delta = plant(lm, new[0], site)
        moves = {(layer, i): float(value_change(lm, delta, layer)[i]) for layer, i in site}
        moved = {neuron for neuron, size in moves.items() if size > 0.1 * max(moves.values())}
        share = len(moved & found) / len(moved)
        return (
            "right" if abs(answer - share) < 0.01 else f"look again: {len(moved)} of {len(site)} neurons moved that far"
        )
    if exercise == 2:
        with plant(lm, new[0], layer_site(lm, 0)).applied(lm) as planted:
            place = favourite_layer(all_localisers(planted, new[:1], leave_out=slow)["activations"][0])
        return "right" if answer == place else "look again: activations are large where nothing was planted, too"
    good = set(site) & found
    return "right" if answer in good else f"no; there are {len(good)} of them"


check(3, next((neuron for neuron in site if neuron in set(top_of_each_layer(one["zero-out"][0], 0.01))), None))
