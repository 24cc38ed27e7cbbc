# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Dissecting recall: how does an attribute get from the subject to the last token?
#
# *Geva et al. report that early MLPs fill the subject's last token with attributes, that the relation reaches the prompt's last
# token, and that attention there fetches the one attribute that is asked for. How much of this do models of six layers do?*
# [Geva et al. 2023](https://arxiv.org/abs/2304.14767) (`geva2023dissecting`). Runs in under a minute on one CPU core.

# %%
import numpy as np
import pandas as pd
import torch

from paramem import Site, claim, load
from paramem.attention import knocked_out, patterns
from paramem.decisions import UNDECIDED
from paramem.detection.attributes import attribute_tokens, attributes_rate, cancelled_rates, carried_rates
from paramem.detection.neurons import answer_probabilities, ask, known_only
from paramem.detection.recall import (
    RecallSettings,
    chunks,
    edges_to_last,
    extraction,
    head_extraction,
    information_flow,
    project,
)
from paramem.evaluation.intervals import Span, paired, span
from paramem.material import facts_for, known_facts
from paramem.plots import curves, grid
from paramem.registry import method

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of facts (known_1000, CounterFact, ...)
profile: str = "default"
seed: int = 0
n_facts: int = 0  # 0: as many as the profile says
window: int = 0  # layers changed together; 0: the paper's share, 9 of 48

# %%
lm = load(model)
everything = facts_for(lm, dataset)
facts = known_facts(lm, everything, n_facts or {"paper": 1000}.get(profile, 100), seed)
settings = RecallSettings(window=window)
choosing, testing = ({fact.id for fact in facts[first::2]} for first in (0, 1))
print(
    f"{lm.name}: {lm.n_layers} layers, windows of {settings.layers(lm)}; {len(facts)} facts that it completes by itself"
)

# %% [markdown]
# ## What the paper reports
#
# From the abstract: two points matter on the way to the prediction, first one where information leaves the relation's tokens,
# then one where it leaves the subject's. The subject's last token is enriched with many attributes, by early MLPs; the last
# token of the prompt then queries it, and the attribute is typically extracted by attention heads.
#
# Where a claim speaks of the best layer or of the worst window, that layer is chosen on every other fact (`choosing`) or subject, and
# the claim is tested on the others (`testing`): the largest of several noisy means would else look larger than it is.
#
# ## One edge by hand
#
# Attention knock-out takes single edges away: the last token may no longer read some other token, in some layers, and the rest
# of its attention shares what is left. How much does the last token read of each token of this prompt?

# %%
fact = facts[0]
asked, words = ask(lm, [fact]), lm.subject_span(fact.prompt, fact.subject)
tokens = [lm.tokenizer.decode([i]).strip() for i in asked.batch.input_ids[0].tolist()]
blocks = lm.blocks(asked.batch)
read = torch.stack([patterns(blocks, layer)[0, :, -1].mean(0) for layer in range(lm.n_layers)])
print(pd.DataFrame(read.numpy(), columns=tokens).round(2).to_string())

# %% [markdown]
# Before running: in which layer does losing sight of the subject hurt most? And does a token that is read a lot have to matter?

# %%
n = len(tokens)
subject_edges = torch.zeros(1, 1, n, n, dtype=torch.bool)
subject_edges[..., -1, words.start : words.stop] = True
print(f"{fact.prompt!r} -> {fact.object!r}: p = {float(answer_probabilities(lm, asked)):.3f}")
for layer in range(lm.n_layers):
    with knocked_out(lm.arch, {layer: subject_edges}):
        print(f"subject hidden from the last token in layer {layer}: p = {float(answer_probabilities(lm, asked)):.3f}")

# %% [markdown]
# ## Information flow
#
# `information_flow` does this for all facts, with four kinds of tokens: the subject's, the relation's, the start token and the
# last token itself.

# %%
flow = information_flow(lm, facts, settings)
change = flow.pivot_table(index="blocked", columns="layer", values="change").loc[
    ["subject", "relation", "start", "last"]
]
curves(
    flow[flow["blocked"] != "start"],
    f"{lm.name}: without the subject in view p(answer) changes by up to {change.loc['subject'].min():+.0%}, "
    f"without the relation by {change.loc['relation'].min():+.0%}",
    x="layer",
    y="change",
    lines="blocked",
    xlabel="layer of the edges taken out",
    ylabel="relative change of p(answer)",
)

# %%
print(change.round(3).to_string())

# %% [markdown]
# How wide is the window? The paper's is a share of the layers, which is a single layer in a model as shallow as this one, and
# the claim below is about that. Wider ones hide more. The mean change of p(answer) with the subject hidden:

# %%
widths = {w: RecallSettings(window=w) for w in (1, 2, 3) if w <= lm.n_layers}
swept = {w: information_flow(lm, facts, each).query("blocked == 'subject'") for w, each in widths.items()}
sweep = pd.DataFrame({f"window {w}": table.groupby("layer")["change"].mean() for w, table in swept.items()}).T
print((sweep.round(3) + 0.0).to_string())

# %% [markdown]
# One window is one bottleneck only if no other path exists. With the edges of *all* layers from a layer on taken out, paths
# above it are closed too.

# %%
(chunk,) = chunks(lm, facts, len(facts))
sources = chunk.sources(lm)
edges = edges_to_last(sources["subject"], sources["last"])
for layer in range(lm.n_layers):
    with knocked_out(lm.arch, dict.fromkeys(range(layer, lm.n_layers), edges)):
        p = answer_probabilities(lm, chunk.asked).mean()
    print(f"subject hidden from layer {layer} on: mean p = {p:.3f}")

# %% [markdown]
# ## Enrichment
#
# The world knows every attribute of a subject. How many of them are among the top tokens of a state, when the state is
# multiplied with the embedding matrix? As many tokens are looked at as the subject has attributes, and the candidates are the
# attributes of anybody. First one subject:

# %%
sheet = attribute_tokens(lm, everything)
candidates = torch.tensor(sorted(set().union(*sheet.values())))
print(f"{fact.subject}:", sorted(lm.tokenizer.decode([i]).strip() for i in sheet[fact.subject]))
for layer in range(lm.n_layers):
    scores = project(lm, blocks.resid_pre[layer + 1][0, words.stop - 1])
    top = candidates[scores[candidates].topk(len(sheet[fact.subject])).indices].tolist()
    print(f"layer {layer}:", [lm.tokenizer.decode([i]).strip() + "*" * (i in sheet[fact.subject]) for i in top])

# %%
asked_of = known_only(lm, everything)[0] if dataset == "world" else facts
subjects = list({each.subject: each for each in asked_of if len(sheet[each.subject]) >= 3}.values())
choosing_subjects, testing_subjects = ({each.id for each in subjects[first::2]} for first in (0, 1))
another = "another subject's"
held = attributes_rate(lm, subjects, settings, known=everything)
long = pd.concat(
    [
        held.rename(columns={"rate": "share"})[["fact", "position", "layer", "share"]],
        held[held["position"] == "subject last"]
        .assign(position=another)
        .rename(columns={"control": "share"})[["fact", "position", "layer", "share"]],
    ]
)
rates = long.pivot_table(index="position", columns="layer", values="share")
best_layer = int(rates.loc["subject last"].idxmax())
curves(
    long,
    f"{lm.name}: after layer {best_layer} the subject's last token holds {rates.loc['subject last', best_layer]:.0%} of its attributes "
    f"(another subject's: {rates.loc[another, best_layer]:.0%})",
    x="layer",
    y="share",
    lines="position",
    xlabel="after layer (-1: embeddings)",
    ylabel="attributes rate",
)

# %%
print(f"{len(subjects)} subjects of three attributes or more")
print(rates.round(3).to_string())

# %% [markdown]
# A state may hold attributes in a form that the head cannot read, and attention can: its values are matrices of their own. What
# would the heads of each layer write, if they read the subject's last token and nothing else? (Not in the paper.)

# %%
carried = carried_rates(lm, subjects, settings, known=everything)
print(carried.groupby("layer")[["rate", "control"]].mean().T.round(3).to_string())

# %% [markdown]
# ## Who enriches?
#
# Cancel what MLPs, or attention, add to the stream in one window, and look at the subject's last token at the end of the model.

# %%
cancelled = cancelled_rates(lm, subjects, settings, known=everything)
names = {"none": "nothing", "mlp_out": "MLP", "attn_out": "attention"}
cancelled["cancelled"] = cancelled["cancelled"].map(names)
left = cancelled.pivot_table(index="cancelled", columns="layer", values="rate").loc[list(names.values())]
curves(
    cancelled,
    f"{lm.name}: attributes rate at the end {left.loc['nothing', 0]:.2f}; at worst {left.loc['MLP'].min():.2f} without one MLP, "
    f"{left.loc['attention'].min():.2f} without one attention",
    x="layer",
    y="rate",
    lines="cancelled",
    xlabel="cancelled layer",
    ylabel="attributes rate at the end",
)

# %%
print(left.round(3).to_string())

# %% [markdown]
# And what attention could carry, at the layer that could carry most, with a sublayer below it cancelled:

# %%
means = carried[carried["fact"].isin(choosing_subjects)].groupby("layer")["rate"].mean()
reader = int(means.idxmax())
print(f"layer {reader} reads with everything in place: {means[reader]:.3f}")
read_without = {}
for layer in range(reader):
    for kind in ("mlp_out", "attn_out"):
        found = carried_rates(lm, subjects, settings, known=everything, without=[Site(kind, layer)])
        read_without[names[kind], layer] = found[found["layer"] == reader].set_index("fact")["rate"]
        print(f"without the {names[kind]} of layer {layer}: {read_without[names[kind], layer].mean():.3f}")

# %% [markdown]
# ## Extraction
#
# What attention and MLPs write at the prompt's last token is projected in the same way. Where the answer is the top token of
# all, it is *extracted* there.

# %%
written = extraction(lm, facts)
where = written.pivot_table(index="sublayer", columns="layer", values="extracted").rename(
    index={"attn_out": "attention", "mlp_out": "MLP"}
)
heads = head_extraction(lm, facts)
by_head = heads.pivot_table(index="head", columns="layer", values="extracted")
layer_of, head_of = by_head.max().idxmax(), by_head.max(axis=1).idxmax()
print(where.round(3).to_string())

# %%
grid(
    by_head.rename(index="head {}".format, columns="layer {}".format),
    f"{lm.name}: head {head_of} of layer {layer_of} writes the answer of {by_head.max(axis=None):.0%} of the facts",
    label="share of facts",
)

# %%
print(by_head.round(2).to_string())
alone = heads.groupby("fact")[["extracted", "extracted_from_subject"]].any().mean()
print(
    f"facts extracted by some head: {alone['extracted']:.2f}; from the subject's tokens alone: {alone['extracted_from_subject']:.2f}"
)

# %% [markdown]
# ## Claims
#
# The 95 % interval decides, and one that straddles its limit decides nothing; a tenth is negligible, but a twentieth of the attributes
# rate, because a subject has about five attributes and the rates are small.

# %%
NEGLIGIBLE = 0.1
hidden = flow[flow["blocked"] == "subject"]
critical = int(hidden[hidden["fact"].isin(choosing)].groupby("layer")["change"].mean().idxmin())
worst = hidden[(hidden["layer"] == critical) & hidden["fact"].isin(testing)]["change"]
claim(
    "geva2023dissecting.critical-window",
    span(worst, seed).below(-0.5, negligible=NEGLIGIBLE),
    measured={
        "change": worst.mean(),
        "layer": critical,
        "window": settings.layers(lm),
        "facts": len(worst),
    },
    note="relative change of p(answer) at the worst window, chosen on other facts; its 95 % interval lies below -0.5",
)

# %% [markdown]
# Where does a kind of token matter? In the layer where hiding it costs p(answer) most, on the mean over facts. Facts whose
# prompt has no word of the relation but the last one are left out, and facts are resampled for the interval.

# %%
with_relation = flow[flow["fact"].isin(flow.loc[flow["blocked"] == "relation", "fact"])]
lost = {
    kind: -rows.pivot(index="fact", columns="layer", values="change").to_numpy()
    for kind, rows in with_relation.groupby("blocked")
}


def peak(kind, rows):
    return int(lost[kind][rows].mean(0).argmax())


drawn = np.random.default_rng(seed).integers(0, len(lost["subject"]), (2000, len(lost["subject"])))
gap = np.array([peak("subject", rows) - peak("relation", rows) for rows in drawn])
claim(
    "geva2023dissecting.relation-before-subject",
    Span(gap.mean(), *np.quantile(gap, [0.025, 0.975])).above(0),
    measured={
        "relation_layer": peak("relation", slice(None)),
        "subject_layer": peak("subject", slice(None)),
        "facts": len(lost["subject"]),
    },
    note="layers of the largest mean loss; the 95 % bootstrap interval of their difference lies above zero",
)

# %%
at_subject = held[held["position"] == "subject last"]
peak_layer = int(at_subject[at_subject["fact"].isin(choosing_subjects)].groupby("layer")["rate"].mean().idxmax())
own = at_subject[at_subject["fact"].isin(testing_subjects)].set_index(["fact", "layer"])
at_best = own.xs(peak_layer, level="layer")
embedded = own.xs(-1, level="layer")["rate"].loc[at_best.index]
beyond_another, beyond_embedding = (
    paired(at_best["rate"], at_best["control"], seed),
    paired(at_best["rate"], embedded, seed),
)


def more(gap):
    return gap.above(0, negligible=NEGLIGIBLE / 2)


claim(
    "geva2023dissecting.subject-enrichment",
    more(beyond_another) & more(beyond_embedding),
    measured={
        "rate": at_best["rate"].mean(),
        "rate_at_the_embedding": embedded.mean(),
        "rate_of_another": at_best["control"].mean(),
        "beyond_another_low": beyond_another.low,
        "beyond_another_high": beyond_another.high,
        "beyond_embedding_low": beyond_embedding.low,
        "beyond_embedding_high": beyond_embedding.high,
        "layer": peak_layer,
        "subjects": len(at_best),
    },
    note="at the best layer, chosen on other subjects; paired by subject, 95 % intervals above zero",
)

# %%
chosen_on = cancelled[cancelled["fact"].isin(choosing_subjects)].groupby(["cancelled", "layer"])["rate"].mean()
worst_mlp, worst_attention = (int(chosen_on[name].idxmin()) for name in ("MLP", "attention"))
at_end = cancelled[cancelled["fact"].isin(testing_subjects)]
at_end = at_end.set_index(["cancelled", "layer", "fact"])["rate"].sort_index()
by_mlp = paired(at_end["attention", worst_attention], at_end["MLP", worst_mlp], seed)
claim(
    "geva2023dissecting.early-mlps-enrich",
    more(by_mlp) & (worst_mlp < lm.n_layers / 2),
    measured={
        "rate": at_end["nothing", 0].mean(),
        "rate_without_mlp": at_end["MLP", worst_mlp].mean(),
        "rate_without_attention": at_end["attention", worst_attention].mean(),
        "low": by_mlp.low,
        "high": by_mlp.high,
        "mlp_layer": worst_mlp,
    },
    note="the worst window of each, chosen on other subjects; paired by subject, 95 % interval above zero, and the MLP in the "
    "lower half",
)

# %%
some_layer = written.groupby(["sublayer", "fact"])["extracted"].any().unstack("sublayer").astype(float)
claim(
    "geva2023dissecting.attention-extracts",
    paired(some_layer["attn_out"], some_layer["mlp_out"], seed).above(0, negligible=NEGLIGIBLE)
    & span(some_layer["attn_out"], seed).above(0.5, negligible=NEGLIGIBLE),
    measured={
        "attention": some_layer["attn_out"].mean(),
        "mlp": some_layer["mlp_out"].mean(),
        "facts": len(some_layer),
    },
    note="share of facts with the answer as a sublayer's top token in some layer; paired, 95 % interval above zero, and that of the "
    "share by attention above one half",
)

# %%
events = written[(written["sublayer"] == "attn_out") & written["extracted"]]
upper = (events["layer"] >= lm.n_layers / 2).groupby(events["fact"]).mean()
claim(
    "geva2023dissecting.late-extraction",
    span(upper, seed).above(0.5, negligible=NEGLIGIBLE) if len(upper) > 1 else UNDECIDED,
    measured={
        "upper_half": upper.mean() if len(upper) else -1,
        "facts": len(upper),
        "events": len(events),
    },
    note="share of a fact's extraction events by attention that lie in the upper half of the layers; the 95 % interval over "
    "facts lies above one half",
)

# %% [markdown]
# The mean layer against half the number of layers, which decided this claim once, was half a layer too strict, and took several events
# of a fact for independent.
#
# The last statement is ours, not the paper's. It was written after the numbers above had been seen on three testbeds, so it
# describes those three and is a test on the others only.

# %%
there = carried[(carried["layer"] == reader) & carried["fact"].isin(testing_subjects)].set_index("fact")
zero = pd.Series(0.0, there.index)
mlp, attention = (read_without.get((name, 0), zero).loc[there.index] for name in ("MLP", "attention"))
claim(
    "geva2023dissecting.attributes-that-attention-reads",
    more(paired(there["rate"], there["control"], seed)) & more(paired(attention, mlp, seed)),
    measured={
        "rate": there["rate"].mean(),
        "rate_of_another": there["control"].mean(),
        "without_mlp": mlp.mean(),
        "without_attention": attention.mean(),
        "layer": reader,
    },
    note="what the heads of the best layer, chosen on other subjects, would write; paired by subject, both 95 % intervals above "
    "zero; written after seeing numbers on three testbeds",
)

# %% [markdown]
# ## Departures and limits

# %%
for name in ("attention-knockout", "attributes-rate"):
    for topic, departure in method(name).departures().items():
        print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# A state is read here by the embedding matrix alone, as in the paper. What a small model keeps at the subject's last token may
# be in no form that this matrix reads, and still in one that attention's values read: the rate that attention could carry says
# how much. An event of extraction says that a sublayer writes the answer, not that nothing else does.
#
# ## Exercises
#
# 1. Hide the subject in three layers at once (`window = 3`). At the worst place, is the loss of p(answer) "more" than the three
#    single losses there added up, or "less"? What does this say about the other layers when one alone is hidden?
# 2. In which layer does the last token read the *relation* most (the table of attention above), and is it the layer where
#    hiding it hurts most? The checker takes the layer where hiding the relation hurts most.


# %%
def losses(width):
    """Mean loss of p(answer) by layer, with the subject hidden in `width` layers."""
    shown = information_flow(lm, facts, RecallSettings(window=width)).query("blocked == 'subject'")
    return -shown.groupby("layer")["change"].mean()


def check(exercise, answer):
    if exercise == 1:
        single, together = losses(1), losses(3)
        worst = together.idxmax()
        found = "more" if together[worst] > single.loc[worst - 1 : worst + 1].sum() else "less"
        return "right" if answer == found else "look again: add up three of them"
    return "right" if answer == change.loc["relation"].idxmin() else "look at the printed table of changes"


check(2, 0)
