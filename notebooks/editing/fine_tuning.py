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
# *The field's most cited baseline asks for every target token at the same place. What does fine-tuning write when they are asked for in
# order, what does it take with it, and what does a ball around the old weights change?* [Zhang et al. 2024](https://arxiv.org/abs/2401.01286)
# (`zhang2024knowedit`), section 4.1; [Meng et al. 2022](https://arxiv.org/abs/2202.05262) (`meng2022rome`), section 3.3;
# [Zhu et al. 2020](https://arxiv.org/abs/2012.00363) (`zhu2020modifying`). Runs in under a minute on one CPU core.

# %%
import torch

from paramem import claim, load
from paramem.decisions import UNDECIDED, Decision
from paramem.editing.fine_tuning import FineTuneSettings, fine_tune, fine_tune_each, target_log_probabilities
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
bound: float = 0.0  # the ball: largest change of any one weight; 0: chosen on edits that are not reported
n_chosen_on: int = 20  # those edits
n_edits: int = 0  # of either kind, one-token and longer targets; 0: as many as the profile says

# %%
lm = load(model)
n_edits = n_edits or {"paper": 250}.get(profile, 40)
pool = edits_for(lm, dataset, seed=seed, relations="people")
n_tokens = lm.encode([r.prompt for r in pool], [r.target_new for r in pool]).target_mask.sum(1)
short, long = ([r for r, n in zip(pool, n_tokens.tolist(), strict=True) if (n == 1) == one] for one in (True, False))
unreported, short, long = short[n_edits : n_edits + n_chosen_on], short[:n_edits], long[:n_edits]
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
# ## How large a ball?
#
# A ball can be so small that nothing is learned; it then keeps all neighbours and loses all paraphrases, which says nothing about the
# trade. The papers' radius, 5e-4, is for wider layers. So the radius is doubled from there until the edit itself is made, on one-token
# edits that are not reported: the smallest at which the new object beats the old one in 95 of 100. Predict: what is left of the
# paraphrases at that radius?


# %%
def written(radius):
    settings = FineTuneSettings(layer=layer, lr=lr, bound=radius)
    beaten = []
    for one, edit in zip(unreported, fine_tune_each(lm, unreported, settings), strict=True):
        with edit.applied(lm) as edited:
            new, old = edited.score([one.prompt] * 2, [one.target_new, one.target_true or ""]).logprob
        beaten.append(bool(new > old))
    return sum(beaten) / len(beaten)


grid = [bound] if bound else [5e-4 * 2**power for power in range(8)]
if not unreported:
    raise BadInput(
        f"{dataset} has no one-token edits beside those reported, to choose the ball on; give -p n_edits=..."
    )
made = {radius: written(radius) for radius in grid}
bound = bound or next((radius for radius in grid if made[radius] >= 0.95), grid[-1])
print(
    f"{len(unreported)} other edits, new beats old by radius:", {f"{radius:g}": share for radius, share in made.items()}
)
print(f"the ball: {bound:g}")

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
#
# 95 % intervals of differences paired by edit decide; one that straddles its limit decides nothing, unless it is within a tenth of zero.

# %%
NEGLIGIBLE = 0.1
gain = difference(frames["several tokens"], "edit: exact", "FT-M", "FT-L")
claim(
    "zhang2024knowedit.ft-l-fails-on-several-tokens",
    gain.above(0.1),
    measured={"edit_ft_m": exact["FT-M"], "edit_ft_l": exact["FT-L"], "difference_low": gain.low, "edits": len(long)},
    note="every token right; paired by edit, FT-M is ahead by more than ten points (95 % interval)",
)

# %% [markdown]
# On targets of one token there is nothing to claim: the two are the same method, in every metric.

# %%
one_token = both["one token"]
print("largest difference between FT-L and FT-M in any metric:", (one_token["FT-M"] - one_token["FT-L"]).abs().max())

# %%
ES, PS, NS = "edit: new beats old (ES)", "paraphrase: new beats old (PS)", "other subjects: old beats new (NS)"
loss = difference(frames["one token"], NS, "ROME", "FT-M")
claim(
    "meng2022rome.fine-tuning-bleeds",
    Decision.of(one_token.loc[ES, "FT-M"] >= 0.95)
    & (one_token.loc[PS, "FT-M"] >= 0.85)
    & loss.above(negligible=NEGLIGIBLE),
    measured={
        "ES_ft": one_token.loc[ES, "FT-M"],
        "PS_ft": one_token.loc[PS, "FT-M"],
        "NS_ft": one_token.loc[NS, "FT-M"],
        "NS_rome": one_token.loc[NS, "ROME"],
    },
    note="ES at least 95 %, PS at least 85 %, and NS below ROME's (paired, 95 % interval)",
)

# %%
more_neighbours = difference(frames["one token"], NS, "FT-M in a ball", "FT-M")
fewer_paraphrases = difference(frames["one token"], PS, "FT-M", "FT-M in a ball")
trades = more_neighbours.above(negligible=NEGLIGIBLE) & fewer_paraphrases.above(negligible=NEGLIGIBLE)
claim(
    "meng2022rome.ball-trades-paraphrases",
    trades if one_token.loc[ES, "FT-M in a ball"] >= 0.95 else UNDECIDED,
    measured={
        "bound": bound,
        "ES_ball": one_token.loc[ES, "FT-M in a ball"],
        "NS_ball": one_token.loc[NS, "FT-M in a ball"],
        "NS_free": one_token.loc[NS, "FT-M"],
        "PS_ball": one_token.loc[PS, "FT-M in a ball"],
        "PS_free": one_token.loc[PS, "FT-M"],
        "NS_gain_high": more_neighbours.high,
        "PS_loss_low": fewer_paraphrases.low,
        "PS_loss_high": fewer_paraphrases.high,
    },
    note="a ball in which the edit is made (ES at least 95 %; else nothing is decided), of the radius at which other edits are made: more "
    "neighbours kept and fewer paraphrases than free; both differences paired by edit, intervals above zero",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, departure in method("ft-m").departures().items():
    print(f"{topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# The learning rate is the papers' for GPT-2 XL, whose layers are wider; their ball is one in which nothing is written here, as the table of
# radii shows. Every comparison above is at one setting; `-p lr` and `-p bound` move along the trade-off.
#
# ## Exercises
#
# 1. Between the ball chosen above and the next smaller one, where does the edit begin to fail? Do paraphrases fail before it, or after?
# 2. FT-L's loss has a floor: with n different target tokens at one place, how low can it get? Run the checker.


# %%
def check(guess, n_tokens=2):
    logits = torch.zeros(n_tokens, requires_grad=True)
    floor = -logits.log_softmax(0).mean().item()
    return "right" if abs(guess - floor) < 1e-3 else "not quite: all n tokens share one distribution"


check(guess=0.5)
