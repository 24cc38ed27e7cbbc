# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Causal tracing: which hidden states carry a fact?
#
# *Meng et al. report that a few states suffice to bring a lost fact back: those at the subject's last token, early, and those at the
# prompt's last token, late; and that what the early ones carry passes through MLPs. Which of this holds in models of six layers?*
# [Meng et al. 2022](https://arxiv.org/abs/2202.05262) (`meng2022rome`), section 2 and appendix B. Runs in under a minute on one CPU core.

# %%
import warnings

import ipywidgets
import numpy as np
import torch

from paramem import Site, claim, load
from paramem.detection.causal_tracing import (
    DoubtfulTrace,
    TraceSettings,
    average_indirect_effect,
    between_effects,
    corrupt,
    embedding_std,
    restore,
    role_effects,
    subject_noise,
    total_effects,
    trace,
    trace_facts,
)
from paramem.errors import ParamemError
from paramem.evaluation.intervals import bootstrap, chosen_on_the_other_half
from paramem.material import facts_for, known_facts
from paramem.plots import effect_curves, trace_maps

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of facts (known_1000, CounterFact, ...)
profile: str = "default"
seed: int = 0
n_facts: int = 0  # 0: as many as the profile says
n_few: int = 40  # facts for the variants: severed modules, other corruptions
window: int = 1  # layers restored together for MLP and attention; 10 in the paper, of 48 layers

# %%
lm = load(model)
facts = known_facts(lm, facts_for(lm, dataset), n_facts or {"paper": 1000}.get(profile, 100), seed)
print(f"{lm.name}: {lm.n_layers} layers of width {lm.d_model}; {len(facts)} facts that it completes by itself")

# %% [markdown]
# ## What the paper reports
#
# In GPT-2 XL, 1000 known facts, noise of three standard deviations on the subject's embeddings (section 2.2 and appendix B):
# the probability of the right object falls from 27.0 % to 8.47 %. Putting back **one** clean state restores much of it at two
# sites: at the subject's last token in early-middle layers (average indirect effect 8.7 % at layer 15 of 48), and at the
# prompt's last token in late layers. At the early site the MLPs carry it (6.6 %, attention 1.6 %); attention matters at the
# late site.
#
# ## One cell by hand
#
# Three runs of one prompt: clean, corrupted, and corrupted with one state put back. Before running the next cells: which
# state, put back, must restore the answer completely? Which one cannot change anything?

# %%
fact = facts[0]
batch, span = lm.encode([fact.prompt]), lm.subject_span(fact.prompt, fact.subject)
clean = lm.run(batch, capture=[Site("resid_post", layer) for layer in range(lm.n_layers)])
answer = clean.logits[0, -1].argmax()
print(f"{fact.prompt!r} -> {lm.tokenizer.decode([answer])!r}, p = {clean.logits[0, -1].softmax(-1)[answer]:.3f}")
print("subject tokens:", [lm.tokenizer.decode([i]) for i in batch.input_ids[0, span.start : span.stop].tolist()])

# %%
settings = TraceSettings(samples=10)
noise = (
    torch.from_numpy(subject_noise(len(span), lm.d_model, settings)).to(lm.device, lm.dtype)
    * 3
    * embedding_std(lm, [fact.subject])
)
rows = batch.repeat(10)
noisy = {Site("embed", 0): lambda h: corrupt(h[:1], span, noise)}
print(f"corrupted: p = {lm.run(rows, patch=noisy).logits[:, -1].softmax(-1)[:, answer].mean():.3f}")


def restored(layer, token):
    back = {
        Site("resid_post", layer): lambda h: restore(
            h, clean.states[Site("resid_post", layer)][0], torch.tensor([token])
        )
    }
    return float(lm.run(rows, patch=noisy | back).logits[:, -1].softmax(-1)[:, answer].mean())


for layer, token in [(0, span.stop - 1), (lm.n_layers - 1, -1), (lm.n_layers - 1, span.stop - 1)]:
    print(f"state of token {token:2d} after layer {layer} restored: p = {restored(layer, token):.3f}")

# %% [markdown]
# The last state of the last token is what the answer is read from, so it restores everything; the last state of the subject
# is read by nobody.
#
# ## One fact, every cell
#
# `trace` computes the whole map. Cells of a layer share the layers below it, and tokens before the subject need no run at all.

# %%
kinds = {
    "resid_post": TraceSettings(),
    "mlp_out": TraceSettings(site="mlp_out", window=window),
    "attn_out": TraceSettings(site="attn_out", window=window),
}
maps = [trace(lm, fact.prompt, fact.subject, kind) for kind in kinds.values()]
trace_maps(maps, f"{fact.prompt} ... {maps[0].answer.strip()}: restored probability (corrupted tokens marked *)")

# %%
for found in maps:
    token, layer = divmod(int(found.indirect_effect[:-1].argmax()), lm.n_layers)
    print(
        f"{found.settings.site:10s} clean {found.clean:.3f}  corrupted {found.corrupted:.3f}  "
        f"best before the last token: {found.restored[token, layer]:.3f} at token {token} ({found.tokens[token].strip()}), layer {layer}"
    )

# %% [markdown]
# ## Any prompt
#
# In JupyterLab, type a prompt and its subject and press the button. The prompt must end where the answer follows, and the
# model must know the answer: without one there is nothing to restore. Name the answer, and a model that says something else is
# not traced; leave it empty, and what the model says is traced, with a warning when it hardly knows. Predict before you look:
# does a subject of one token still have an early site?


# %%
def look(prompt, subject, answer=""):
    try:
        with warnings.catch_warnings(action="ignore", category=DoubtfulTrace):  # printed below, once
            found = [trace(lm, prompt, subject, kind, answer=answer or None) for kind in kinds.values()]
    except ParamemError as error:
        return print(error)
    if found[0].doubt:
        print(found[0].doubt)
    return trace_maps(found, f"{prompt} ... {found[0].answer.strip()} (p = {found[0].clean:.2f})")


typed = {
    name: ipywidgets.Text(text, description=name, layout={"width": "30em"})
    for name, text in {"prompt": "The capital of France is", "subject": "France", "answer": ""}.items()
}
ipywidgets.interactive(look, {"manual": True, "manual_name": "trace"}, **typed)

# %% [markdown]
# The same call without the widget, so that the map stands on the page; then what cannot work: a subject that
# is not there, and an answer that the model does not give.

# %%
look("The capital of France is", "France")

# %%
look("The capital of France is", "Spain")
look("The capital of France is", "France", "Atlantis")
one_token = trace(lm, "The capital of France is", "France")
print(f"{one_token.subject=} {one_token.answer.strip()!r}: best layer of the subject's token", end=" ")
print(one_token.indirect_effect[one_token.subject[-1]].argmax())

# %% [markdown]
# ## All facts: average indirect effects

# %%
traces = {site: trace_facts(lm, facts, kind) for site, kind in kinds.items()}
tables = {site: average_indirect_effect(found) for site, found in traces.items()}
aie = {site: table.pivot(index="role", columns="layer", values="mean") for site, table in tables.items()}
roles = ["subject first", "subject middle", "subject last", "further", "last"]
roles = [role for role in roles if role in aie["resid_post"].index]

# %%
peaks = {site: f"{aie[site].loc['subject last'].max():.2f}" for site in kinds}
effect_curves(
    tables,
    f"{lm.name}: at the subject's last token MLPs restore up to {peaks['mlp_out']}, attention {peaks['attn_out']}",
    roles=roles,
)

# %%
for site, table in aie.items():
    print(site)
    print(table.loc[roles].round(3).to_string(), end="\n\n")

# %% [markdown]
# ## What do the early states need on their way?
#
# Restore a state at the subject's last token, and hold this token's MLPs in all layers above as the corrupted run left them
# (Figure 3). What still comes back took a path around them. Then the same with attention. Predict: which of the two should the
# *lowest* layers miss?

# %%
few, level = facts[:n_few], 3 * embedding_std(lm, [fact.subject for fact in facts])
variants = {"MLPs severed": "mlp_out", "attention severed": "attn_out"}
severed = {"nothing severed": traces["resid_post"][: len(few)]} | {
    name: trace_facts(lm, few, TraceSettings(severed=site), noise_level=level) for name, site in variants.items()
}
at_subject = {name: role_effects(found, "subject last") for name, found in severed.items()}

# %%
lowest = {name: effect[:, 0].mean() for name, effect in at_subject.items()}
effect_curves(
    {name: average_indirect_effect(found) for name, found in severed.items()},
    f"First layer, subject's last token: {lowest['nothing severed']:.2f}; without MLPs {lowest['MLPs severed']:.2f}, "
    f"without attention {lowest['attention severed']:.2f}",
    roles=["subject last"],
)

# %%
for name, effect in at_subject.items():
    print(f"{name:17s} by layer:", *(f"{mean:.3f}" for mean in effect.mean(0).round(3) + 0.0))

# %% [markdown]
# ## Does it matter how the subject is corrupted?
#
# Appendix B.4 corrupts the token after the subject as well, and finds substantially the same map; noise of one standard
# deviation, it says, is too weak to show anything.

# %%
wider = trace_facts(lm, few, TraceSettings(corrupted="subject and next"), noise_level=level)
wider_aie = average_indirect_effect(wider).pivot(index="role", columns="layer", values="mean")
print(wider_aie.loc[[role for role in roles if role in wider_aie.index]].round(3).to_string())

# %%
strengths = {noise: total_effects(lm, few, noise_level=noise * level / 3) for noise in (1.0, 2.0, 3.0)}
for noise, effect in strengths.items():
    print(f"noise of {noise} sd: total effect {effect.mean():.3f}")

# %% [markdown]
# ## Claims
#
# Where two things are compared they are compared fact by fact, and the 95 % bootstrap interval over facts decides. A best layer
# is chosen on every second fact and used for the others, so that it is not judged by what it was chosen on.


# %%
def at_best(effects):
    """Each fact's effect at the layer that is best for the other half of the facts, and these layers."""
    chosen = chosen_on_the_other_half(effects)
    return effects[np.arange(len(effects)), chosen], chosen


def interval(differences):
    return bootstrap(differences[~np.isnan(differences)], np.random.default_rng(seed))


# %%
p_clean, p_corrupted = (np.array([getattr(t, run) for t in traces["resid_post"]]) for run in ("clean", "corrupted"))
claim(
    "meng2022rome.total-effect",
    interval(p_clean / 3 - p_corrupted)[0] > 0,
    measured={"p_clean": p_clean.mean(), "p_corrupted": p_corrupted.mean(), "facts": len(facts)},
    note="a third of the clean probability minus the corrupted one, paired by fact: the 95 % interval lies above zero",
)

# %%
early, layers = at_best(role_effects(traces["resid_post"], "subject last"))
between, _ = at_best(between_effects(traces["resid_post"]))
low, high = interval(early - between)
claim(
    "meng2022rome.early-site",
    interval(early)[0] > 0 and low > 0 and layers.max() < lm.n_layers / 2,
    measured={
        "aie": early.mean(),
        "layer": layers.mean(),
        "aie_between_subject_and_last": np.nanmean(between),
        "low": low,
        "high": high,
    },
    note="effect at the subject's last token minus the best token between subject and last, layers chosen on the other half "
    "of the facts: the 95 % interval lies above zero, and the layer in the lower half",
)

# %% [markdown]
# Within the subject, token against token of the same fact; facts with a one-token subject have nothing to compare.

# %%
several = [t for t in traces["resid_post"] if len(t.subject) > 1]
last = np.array([t.indirect_effect[t.subject[-1]].max() for t in several])
other = np.array([t.indirect_effect[t.subject.start : t.subject.stop - 1].max(axis=1).mean() for t in several])
margin = 1.96 * (last - other).std(ddof=1) / len(several) ** 0.5
claim(
    "meng2022rome.last-subject-token",
    (last - other).mean() - margin > 0,
    measured={
        "aie_subject_last": last.mean(),
        "aie_other_subject_tokens": other.mean(),
        "share_of_facts": (last > other).mean(),
        "facts": len(several),
    },
    note="best layer of each token, the other tokens averaged, paired by fact; the 95 % interval lies above zero",
)

# %%
by_layer = {(site, role): role_effects(traces[site], role) for site in kinds for role in ("subject last", "last")}
mlp, _ = at_best(by_layer["mlp_out", "subject last"])
attention, _ = at_best(by_layer["attn_out", "subject last"])
low, high = interval(mlp - attention)
claim(
    "meng2022rome.early-mlp",
    low > 0,
    measured={"mlp_aie": mlp.mean(), "attention_aie": attention.mean(), "low": low, "high": high, "window": window},
    note="MLP minus attention at the subject's last token, each at the layer that is best on the other half of the facts, "
    "paired by fact: the 95 % interval lies above zero",
)

# %%
late_mlp, _ = at_best(by_layer["mlp_out", "last"])
late_attention, layers = at_best(by_layer["attn_out", "last"])
low, high = interval(late_attention - late_mlp)
claim(
    "meng2022rome.late-site",
    low > 0 and interval(late_attention - attention)[0] > 0,
    measured={
        "attention_aie": late_attention.mean(),
        "layer": layers.mean(),
        "mlp_aie": late_mlp.mean(),
        "low": low,
        "high": high,
    },
    note="attention minus MLPs at the last token, and attention there minus attention at the subject, each at the layer that "
    "is best on the other half of the facts, paired by fact: both 95 % intervals lie above zero",
)

# %%
curve = by_layer["mlp_out", "subject last"]
middle, layers = at_best(curve[:, 1:-1])
low, high = interval(middle - curve[:, 0])
claim(
    "meng2022rome.middle-layers",
    low > 0 and interval(middle - curve[:, -1])[0] > 0,
    measured={
        "mlp_peak_layer": curve.mean(0).argmax(),
        "n_layers": lm.n_layers,
        "middle": middle.mean(),
        "first": curve[:, 0].mean(),
        "low": low,
        "high": high,
    },
    note="the best layer in between, chosen on the other half of the facts, minus the first and minus the last, paired by "
    "fact: both 95 % intervals lie above zero",
)

# %% [markdown]
# The severed paths, fact by fact. Loss is the part of a state's effect that severing takes away.

# %%
loss = {name: at_subject["nothing severed"][:, 0] - at_subject[name][:, 0] for name in variants}
low, high = bootstrap(loss["MLPs severed"], np.random.default_rng(seed))
claim(
    "meng2022rome.severed-mlp",
    low > 0 and lowest["MLPs severed"] < lowest["nothing severed"] / 2,
    measured={
        "aie": lowest["nothing severed"],
        "aie_mlp_severed": lowest["MLPs severed"],
        "loss_low": low,
        "loss_high": high,
        "facts": len(few),
    },
    note="first layer, paired by fact: the 95 % interval of the loss lies above zero, and more than half is lost",
)

# %%
gap = loss["MLPs severed"] - loss["attention severed"]
low, high = bootstrap(gap, np.random.default_rng(seed))
claim(
    "meng2022rome.severed-attention",
    low > 0,
    measured={
        "aie_mlp_severed": lowest["MLPs severed"],
        "aie_attention_severed": lowest["attention severed"],
        "gap_low": low,
        "gap_high": high,
    },
    note="first layer; loss by severed MLPs minus loss by severed attention, paired by fact, 95 % interval above zero",
)

# %%
early, layers = at_best(role_effects(wider, "subject last"))
between, _ = at_best(between_effects(wider))
low, high = interval(early - between)
claim(
    "meng2022rome.other-corruption",
    interval(early)[0] > 0 and low > 0 and layers.max() < lm.n_layers / 2,
    measured={
        "aie": early.mean(),
        "layer": layers.mean(),
        "aie_between_subject_and_last": np.nanmean(between),
        "low": low,
        "high": high,
    },
    note="the early site's criterion, with the token after the subject corrupted as well",
)

# %%
low, high = bootstrap(strengths[3.0] / 2 - strengths[1.0], np.random.default_rng(seed))
claim(
    "meng2022rome.weak-noise",
    low > 0,
    measured={"te_1sd": strengths[1.0].mean(), "te_3sd": strengths[3.0].mean(), "low": low, "high": high},
    note="at one standard deviation the total effect is less than half of that at three: paired by fact, 95 %",
)

# %% [markdown]
# ## Departures and limits
#
# What this module does differently from the paper, and why, is data:

# %%
from paramem.registry import method

for topic, departure in method("causal-tracing").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# A window of one layer gives small effects for single modules in a deep model; the paper restores ten layers at once. A
# severed path says what a state needs at its own token; what other tokens do with it stays as it is; and the state after the
# first of six blocks has passed an MLP already, where the lowest of 48 has seen next to nothing. One testbed is one sample: the
# scoreboard counts over all of them. Corrupting the relation in the place of the subject has a notebook of its own, [entity and
# relation](entity_and_relation.ipynb).
#
# ## Exercises
#
# 1. Set `window = 3` and run all. The layer where MLPs bring most back at the subject's last token, and the one where attention
#    does at the prompt's last token: do they move "closer" together, "further" apart, or stay "as far"? Predict, then look.
# 2. Corrupt the relation instead of the subject: `TraceSettings(corrupted="relation")`. Where, before the last token, is the
#    best state of `fact` now? The checker compares the token and layer that you name with the traced ones.
# 3. Sever both MLPs and attention (`TraceSettings(severed="both")`). What share of the effect of the first layer's state at
#    the subject's last token is left? Predict first: nothing can be added at this token any more, so who reads what was
#    restored? The checker allows 0.1.


# %%
def layers_apart(width):
    """Layers from the best of the MLPs at the subject's last token to the best of attention at the prompt's last."""
    both = {
        "subject last": TraceSettings(site="mlp_out", window=width),
        "last": TraceSettings(site="attn_out", window=width),
    }
    best = [
        role_effects(trace_facts(lm, few, kind, noise_level=level), role).mean(0).argmax()
        for role, kind in both.items()
    ]
    return int(best[1] - best[0])


def check(exercise, answer, of=fact):
    if exercise == 1:
        moved = ("as far", "further", "closer")[np.sign(layers_apart(3) - layers_apart(1))]
        return "right" if answer == moved else "look again: where is each curve highest?"
    if exercise == 2:
        effect = trace(lm, of.prompt, of.subject, TraceSettings(corrupted="relation")).indirect_effect[:-1]
        best = divmod(int(effect.argmax()), lm.n_layers)
        return "right" if answer == best else "not there: look at trace(...).frame() once more"
    bare = role_effects(trace_facts(lm, few, TraceSettings(severed="both"), noise_level=level), "subject last")
    share = bare[:, 0].mean() / lowest["nothing severed"]
    return "right" if abs(answer - share) < 0.1 else "no: attention of later tokens reads the state itself"


check(2, (0, 0))
