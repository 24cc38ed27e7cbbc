# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fine-tuning as an editor: FT-L, FT-M, and a ball around the old weights
#
# *The field's most cited baseline asks for every target token at the same place; asked for in order, fine-tuning writes any
# target, and spills over to other subjects.* [Zhang et al. 2024](https://arxiv.org/abs/2401.01286)
# (`zhang2024knowedit`), section 4.1; [Meng et al. 2022](https://arxiv.org/abs/2202.05262) (`meng2022rome`), section 3.3;
# [Zhu et al. 2020](https://arxiv.org/abs/2012.00363) (`zhu2020modifying`). Runs in under a minute on one CPU core.

# %%
import torch

from paramem import claim, load
from paramem.editing.fine_tuning import FineTuneSettings, fine_tune, target_log_probabilities
from paramem.editing.rome import RomeSettings, rome_each
from paramem.editing.statistics import cached_second_moment
from paramem.errors import BadInput
from paramem.evaluation import baseline, evaluate
from paramem.evaluation.scorecard import difference, scorecard, wide
from paramem.material import edits_for, text_for
from paramem.plots import rates
from paramem.registry import method

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of edits (CounterFact, ZsRE, KnowEdit, ...)
text: str = "world"  # ordinary text for ROME's second moments
profile: str = "default"
seed: int = 0
layer: int = 0  # the tuned layer: the early site of causal tracing, as for ROME
lr: float = 5e-4  # Adam's step, as in the papers
bound: float = 5e-4  # the ball's radius: largest change of any one weight, as in the papers
n_edits: int = 0  # of either kind, one-token and longer targets; 0: as many as the profile says

# %%
lm = load(model)
n_edits = n_edits or {"paper": 250}.get(profile, 40)
pool = edits_for(lm, dataset, seed=seed, relations="people")
n_tokens = lm.encode([r.prompt for r in pool], [r.target_new for r in pool]).target_mask.sum(1)
short, long = (
    [r for r, n in zip(pool, n_tokens.tolist(), strict=True) if (n == 1) == one][:n_edits] for one in (True, False)
)
print(
    f"{lm.name}: layer {layer}; {len(short)} edits to one-token targets, {len(long)} to targets of two tokens or more"
)

# %% [markdown]
# ## What the papers report
#
# FT-L, the fine-tuning baseline of `meng2022rome`, "uses the last token's prediction to maximize the probability of all tokens in
# the target sequence immediately" (`zhang2024knowedit`, section 4.1); FT-M is cross-entropy on the target with the prompt
# masked. On WikiData recent, edit success is 100.00 % for FT-M and 71.18 % for FT-L (Table 4; 55.75 % after the authors'
# correction of 2024). On CounterFact (`meng2022rome`, Table 4), free fine-tuning generalises (paraphrases 87.9 %) and leaves
# neighbouring subjects 40.4 %; in an L-infinity ball it keeps neighbours (70.3 %) and loses paraphrases (48.7 %); ROME has both
# (96.4 % and 75.4 %).
#
# ## The two objectives, by hand
#
# One edit with a target of several tokens. For each target token: its log-probability where FT-L asks for it, and where FT-M
# does. Predict: for which token do the two agree?

# %%
example = (long or short)[0]
batch = lm.encode([example.prompt], [example.target_new])
target = [lm.tokenizer.decode([i]) for i in batch.input_ids[batch.target_mask].tolist()]
asked = {}
for name, objective in {"FT-L": "last-token", "FT-M": "masked"}.items():
    settings = FineTuneSettings(layer=layer, objective=objective)
    asked[name] = target_log_probabilities(lm, lm.blocks(batch), batch, settings).tolist()
print(f"{example.prompt} -> {example.target_new!r}")
for i, token in enumerate(target):
    print(f"  {token!r:12s} " + "  ".join(f"{name} {values[i]:8.3f}" for name, values in asked.items()))

# %% [markdown]
# They agree on the first token only. With one target token there is nothing else, and the two methods are one: the same weights,
# bit for bit.

# %%
one = (short or long)[0]
deltas = [fine_tune(lm, [one], FineTuneSettings(layer=layer, lr=lr, objective=o)) for o in ("last-token", "masked")]
name = lm.weight(layer, "down").name
print(f"{one.prompt} -> {one.target_new!r}: equal weights: {torch.equal(deltas[0].dense(name), deltas[1].dense(name))}")

# %% [markdown]
# ## One edit, before and after

# %%
for objective in ("last-token", "masked"):
    with fine_tune(lm, [example], FineTuneSettings(layer=layer, lr=lr, objective=objective)).applied(lm) as edited:
        print(f"{objective:10s} {example.prompt} ->{edited.generate([example.prompt], max_new_tokens=6)[0]!r}")

# %% [markdown]
# ## All edits, by target length

# %%
editors = {
    "FT-L": FineTuneSettings(layer=layer, lr=lr, objective="last-token"),
    "FT-M": FineTuneSettings(layer=layer, lr=lr),
    "FT-M in a ball": FineTuneSettings(layer=layer, lr=lr, bound=bound),
}
C = cached_second_moment(lm, layer, text_for(lm, text, n=1000))


def compared(edits):
    before = baseline(lm, edits, generated=False, kl=False)
    frames = {
        name: evaluate(lm, edits, lambda model, request, s=s: fine_tune(model, [request], s), before=before, name=name)
        for name, s in editors.items()
    }
    frames["ROME"] = evaluate(lm, edits, rome_each(lm, edits, RomeSettings(layer=layer), C), before=before, name="ROME")
    return frames


if not (short and long):
    raise BadInput(
        f"{len(short)} one-token and {len(long)} longer targets in {dataset}: this comparison needs both; give more edits"
    )
frames = {"one token": compared(short), "several tokens": compared(long)}
cards = {length: scorecard(found) for length, found in frames.items()}
for length, card in cards.items():
    print(length)
    print(wide(card).to_string(), end="\n\n")

# %%
both = {length: card.pivot(index="metric", columns="edit", values="mean") for length, card in cards.items()}
exact = both["several tokens"].loc["edit: exact"]
rates(
    cards["several tokens"],
    f"Targets of several tokens: FT-L writes {exact['FT-L']:.2f} of them, FT-M {exact['FT-M']:.2f} (95 % intervals)",
    rows="metric",
    columns="edit",
)

# %%
kept = both["one token"].loc["other subjects: exact"]
rates(
    cards["one token"],
    f"Targets of one token: other subjects kept {kept['FT-M']:.2f} by FT-M, {kept['ROME']:.2f} by ROME",
    rows="metric",
    columns="edit",
)

# %% [markdown]
# ## Claims

# %%
gain, low, high = difference(frames["several tokens"], "edit: exact", "FT-M", "FT-L")
claim(
    "zhang2024knowedit.ft-l-fails-on-several-tokens",
    low > 0.1,
    measured={"edit_ft_m": exact["FT-M"], "edit_ft_l": exact["FT-L"], "difference_low": low, "edits": len(long)},
    note="every token right; paired by edit, FT-M is ahead by more than ten points (95 % interval)",
)

# %% [markdown]
# On targets of one token there is nothing to claim: the two are the same method, in every metric.

# %%
one_token = both["one token"]
print("largest difference between FT-L and FT-M in any metric:", (one_token["FT-M"] - one_token["FT-L"]).abs().max())

# %%
ES, PS, NS = "edit: new beats old (ES)", "paraphrase: new beats old (PS)", "other subjects: old beats new (NS)"
loss, low, high = difference(frames["one token"], NS, "ROME", "FT-M")
claim(
    "meng2022rome.fine-tuning-bleeds",
    one_token.loc[ES, "FT-M"] >= 0.95 and one_token.loc[PS, "FT-M"] >= 0.85 and low > 0,
    measured={
        "ES_ft": one_token.loc[ES, "FT-M"],
        "PS_ft": one_token.loc[PS, "FT-M"],
        "NS_ft": one_token.loc[NS, "FT-M"],
        "NS_rome": one_token.loc[NS, "ROME"],
    },
    note="ES at least 95 %, PS at least 85 %, and NS below ROME's (paired, 95 % interval)",
)

# %%
_, more_neighbours, _ = difference(frames["one token"], NS, "FT-M in a ball", "FT-M")
_, fewer_paraphrases, _ = difference(frames["one token"], PS, "FT-M", "FT-M in a ball")
claim(
    "meng2022rome.ball-trades-paraphrases",
    more_neighbours > 0 and fewer_paraphrases > 0,
    measured={
        "NS_ball": one_token.loc[NS, "FT-M in a ball"],
        "NS_free": one_token.loc[NS, "FT-M"],
        "PS_ball": one_token.loc[PS, "FT-M in a ball"],
        "PS_free": one_token.loc[PS, "FT-M"],
    },
    note=f"ball of radius {bound:g}; both differences paired by edit, 95 % intervals above zero",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, departure in method("ft-m").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# Learning rate and ball are the papers' for GPT-2 XL, whose layers are wider. In this ball no edit is made here, as the tables show: that
# it keeps neighbours and loses paraphrases would be true of doing nothing, and its claim says no more than that. Every comparison above
# is at one setting; `-p lr` and `-p bound` move along the trade-off.
#
# ## Exercises
#
# 1. Double `bound` until the edit is made. Are paraphrases written before it, or after?
# 2. FT-L's loss has a floor: with n different target tokens at one place, how low can it get? Run the checker.


# %%
def check(guess, n_tokens=2):
    logits = torch.zeros(n_tokens, requires_grad=True)
    floor = -logits.log_softmax(0).mean().item()
    return "right" if abs(guess - floor) < 1e-3 else "not quite: all n tokens share one distribution"


check(guess=0.5)
