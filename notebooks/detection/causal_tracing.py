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
# *A few states suffice to bring a lost fact back: those at the subject's last token, early, and those at the prompt's last
# token, late.* [Meng et al. 2022](https://arxiv.org/abs/2202.05262) (`meng2022rome`), section 2. Runs in under a minute on
# one CPU core.

# %%
import numpy as np
import torch

from paramem import Site, claim, load
from paramem.detection.causal_tracing import (
    TraceSettings,
    average_indirect_effect,
    corrupt,
    embedding_std,
    restore,
    subject_noise,
    trace,
    trace_facts,
)
from paramem.material import facts_for, known_facts
from paramem.plots import effect_curves, trace_maps

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of facts (known_1000, CounterFact, ...)
profile: str = "default"
seed: int = 0
n_facts: int = 0  # 0: as many as the profile says
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
# ## Claims

# %%
p_clean = sum(t.clean for t in traces["resid_post"]) / len(facts)
p_corrupted = sum(t.corrupted for t in traces["resid_post"]) / len(facts)
claim(
    "meng2022rome.total-effect",
    p_corrupted < p_clean / 3,
    measured={"p_clean": p_clean, "p_corrupted": p_corrupted, "facts": len(facts)},
)

# %%
state = tables["resid_post"].set_index(["role", "layer"])
early = state.loc["subject last"]["mean"]
between = aie["resid_post"].loc[[r for r in ("first after", "further") if r in aie["resid_post"].index]].max(axis=None)
claim(
    "meng2022rome.early-site",
    state.loc[("subject last", early.idxmax()), "low"] > 0
    and early.max() > between
    and early.idxmax() < lm.n_layers / 2,
    measured={"aie": early.max(), "layer": early.idxmax(), "aie_between_subject_and_last": between},
    note="a state at the subject's last token beats every state between the subject and the last token",
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
mlp, attention = aie["mlp_out"].loc["subject last"], aie["attn_out"].loc["subject last"]
claim(
    "meng2022rome.early-mlp",
    mlp.max() > attention.max(),
    measured={"mlp_aie": mlp.max(), "attention_aie": attention.max(), "window": window},
)

# %%
late_mlp, late_attention = aie["mlp_out"].loc["last"], aie["attn_out"].loc["last"]
claim(
    "meng2022rome.late-site",
    late_attention.max() > attention.max() and late_attention.max() > late_mlp.max(),
    measured={"attention_aie": late_attention.max(), "layer": late_attention.idxmax(), "mlp_aie": late_mlp.max()},
)

# %%
claim(
    "meng2022rome.middle-layers",
    0 < mlp.idxmax() < lm.n_layers - 1,
    measured={"mlp_peak_layer": mlp.idxmax(), "n_layers": lm.n_layers},
    note="the early site's MLP peak lies strictly between the first and the last layer",
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
# A window of one layer gives small effects for single modules in a deep model; the paper restores ten layers at once. Noise
# is one corruption among several (appendix B.4), and one testbed is one sample: the scoreboard counts over all of them.
#
# ## Exercises
#
# 1. Set `window = 3` and run all. Do the two sites move closer together or further apart? Predict, then look.
# 2. Corrupt the relation instead of the subject: call `trace` with a word of the relation as its subject. Where is the
#    early site now? The checker below compares the layer and token that you name with the traced ones.


# %%
def check(prompt, word, token, layer):
    effect = trace(lm, prompt, word).indirect_effect[:-1]
    best = divmod(int(effect.argmax()), lm.n_layers)
    return "right" if best == (token, layer) else "not there: look at trace(...).frame() once more"


check(fact.prompt, fact.prompt.split()[-1], token=1, layer=1)
