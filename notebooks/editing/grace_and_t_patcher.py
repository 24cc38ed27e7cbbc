# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # GRACE and T-Patcher: new knowledge beside the model
#
# *A codebook entry, or one new neuron, for each mistake; no existing weight changes.*
# [Hartvigsen et al. 2022](https://arxiv.org/abs/2211.11031) (`hartvigsen2022grace`) and
# [Huang et al. 2023](https://arxiv.org/abs/2301.09785) (`huang2023patcher`). Runs in under a minute on one CPU core.

# %%
import numpy as np
import pandas as pd
import torch

from paramem import claim, load
from paramem.editing.fine_tuning import FineTuneSettings, fine_tune
from paramem.editing.grace import GraceSettings, arrange, grace, grace_each, learn_values, query
from paramem.editing.radius import RadiusCurve
from paramem.editing.sequence import asking_unedited, in_sequence
from paramem.editing.t_patcher import PatcherSettings, memory_states, mistakes, t_patcher, t_patcher_each
from paramem.evaluation import baseline, evaluate
from paramem.evaluation.intervals import chosen_on_the_other_half
from paramem.evaluation.scorecard import difference, per_request, scorecard, wide
from paramem.material import edits_for, text_for
from paramem.plots import balls, curves, loss_curves, rates
from paramem.registry import method

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of edits (CounterFact, ZsRE, KnowEdit, ...)
text: str = "world"  # ordinary text for T-Patcher's memory: the testbed's world, or a file with a passage a line
profile: str = "default"
seed: int = 0
relations: str = "people"  # "people": relations of people; "all"; or names with commas between
depth: float = 0.75  # where GRACE's codebook stands, as a share of the layers; the released one: layer 35 of 48
epsilon: float = 1.0  # radius of a new ball, as in the released configuration
n_edits: int = 0  # single edits; 0: as many as the profile says
n_sequence: int = 0  # edits in sequence; 0: as many as the profile says

# %%
lm = load(model)
layer = min(int(depth * lm.n_layers), lm.n_layers - 1)
n_edits, n_sequence = n_edits or {"paper": 200}.get(profile, 24), n_sequence or {"paper": 1000}.get(profile, 40)
pool = edits_for(lm, dataset, seed=seed, relations=relations, part="test")[: max(n_edits, n_sequence)]
requests, stream = pool[:n_edits], asking_unedited(pool[:n_sequence])
texts = text_for(lm, text, n=200)
print(f"{lm.name}: codebook at layer {layer} of {lm.n_layers}; {len(requests)} single edits, {len(stream)} in sequence")

# %% [markdown]
# ## What the papers report
#
# GRACE (abstract): thousands of edits in sequence, made by local changes of the latent space and without changing weights,
# keep earlier edits and unrelated inputs, and carry over to unseen inputs. `wang2024wise` denies the last part: retrieved
# activations hardly generalise. T-Patcher (abstract): adding and training a few neurons in the last feed-forward layer corrects
# up to thousands of errors in sequence, which most editors for single mistakes do not.
#
# ## The smallest case: keys in the plane
#
# GRACE keeps keys with balls around them. A new key far from all others is *added* with radius $\epsilon$. One near a key with the
# same label *expands* that key's ball; near a key with another label, both get half the distance: *split*.
#
# Predict the three radii in the last panel, for keys at (0, 0), (1.6, 0) and (3.9, 0) with labels a, b and a.

# %%
points = torch.tensor([[0.0, 0.0], [1.6, 0.0], [3.9, 0.0]])
steps = [arrange(points[: n + 1], ["a", "b", "a"][: n + 1], 1.0) for n in range(3)]
balls(
    points.numpy(),
    [found.radii.tolist() for found in steps],
    [f"{n + 1}. {found.how[-1]}" for n, found in enumerate(steps)],
    "Another label nearby splits the distance; a far key gets a ball of its own",
    names=["a", "b", "a"],
)

# %%
for n, found in enumerate(steps, start=1):
    print(
        f"after edit {n}: {found.how[-1]:6s} radii {[round(r, 2) for r in found.radii.tolist()]}, labels {found.labels}"
    )

# %% [markdown]
# ## One edit with GRACE
#
# The key is what the MLP of the layer reads at the prompt's last token. The value is what it shall put out there instead, found by
# gradient descent on the edit's loss, from random numbers.

# %%
request, settings = requests[0], GraceSettings(layer=layer, epsilon=epsilon)
key = query(lm, [request.prompt], settings.sites[0])[0]
_, [losses] = learn_values(lm, [request], [0], settings)
loss_curves({"- log p(target)": losses}, f"{len(losses)} steps find the value: {request.prompt} {request.target_new}")

# %%
print(f"|key| = {key.norm():.2f}; loss at the first and last step: {losses[0]:.3f}, {losses[-1]:.4f}")

# %%
codebook = grace(lm, [request], settings)
neighbour = request.locality["relation"][0] if "relation" in request.locality else request.probe()
asked = [request.prompt, request.paraphrases[0].prompt if request.paraphrases else request.prompt, neighbour.prompt]
_, distance, inside = codebook.look_up(query(lm, asked, settings.sites[0]))
said = {
    "distance": distance.numpy().round(2),
    "in the ball": inside.numpy(),
    "before": lm.generate(asked, max_new_tokens=4),
}
with codebook.applied(lm) as edited:
    said["after"] = edited.generate(asked, max_new_tokens=4)
pd.DataFrame(said, index=asked)

# %% [markdown]
# ## Every radius, at every layer
#
# Outside its ball an edit changes nothing, bit for bit. So one evaluation with endless balls and one without edits give the
# outcome at *every* radius. Predict: in a low layer the last token has hardly read the subject. Which prompts are then nearest to
# the key, other wordings of the fact or other people in the same wording?

# %%
radii = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0]
before = baseline(lm, requests, generated=False, kl=False)
layers = sorted({0, lm.n_layers // 3, layer, lm.n_layers - 1})
found = {
    at: RadiusCurve.measure(lm, requests, grace_each(lm, requests, GraceSettings(layer=at)), before=before)
    for at in layers
}
shares = pd.concat(curve.inside(radii).assign(layer=f"layer {at}") for at, curve in found.items())
grown = shares[(shares["radius"] == 4.0) & (shares["layer"] == f"layer {layer}")].groupby("kind")["inside"].mean()
curves(
    shares,
    f"At radius 4 in layer {layer}, {grown.get('paraphrases', 0.0):.2f} of the paraphrases are in the ball, "
    f"{grown.get('other subjects, same relation', 0.0):.2f} of other subjects' prompts",
    x="radius",
    y="inside",
    lines="kind",
    panels="layer",
    xlabel="radius",
    ylabel="share of prompts in the ball",
    shares=True,
)

# %%
shares.pivot_table(index=["layer", "kind"], columns="radius", values="inside").round(2)

# %% [markdown]
# What the shares mean for the edit: paraphrases answered with the new object, and other subjects answered as before.

# %%
at_radius = {radius: found[layer].at(radius) for radius in radii}
table = wide(scorecard({f"{radius:g}": frame for radius, frame in at_radius.items()}))
table

# %%
trade = pd.concat(
    per_request(frame, metric).rename("share").reset_index().assign(radius=radius, metric=metric)
    for radius, frame in at_radius.items()
    for metric in ("paraphrase: exact", "other subjects: exact", "same subject: as before")
)
curves(
    trade,
    f"Layer {layer}: at radius 6, {table.loc['paraphrase: exact', '6']:.2f} of the paraphrases follow and "
    f"{table.loc['other subjects: exact', '6']:.2f} of other subjects keep their answer; at 12, "
    f"{table.loc['paraphrase: exact', '12']:.2f} and {table.loc['other subjects: exact', '12']:.2f}",
    x="radius",
    y="share",
    lines="metric",
    xlabel="radius",
    ylabel="share of probes",
    shares=True,
)

# %% [markdown]
# ## T-Patcher: one neuron
#
# The new neuron $a = \mathrm{act}(q k_p + b_p)$ adds $a\, v_p$ to the output of the last feed-forward layer. It starts with
# $v_p = 0$ and changes nothing. Four losses train it: say the target ($l_e$), fire at the mistake ($l_a$), keep silent on hidden
# states of ordinary text ($l_{m1}$), and be there far below its input at the mistake ($l_{m2}$).

# %%
patch = PatcherSettings()
memory = memory_states(lm, texts, patch.memory)
neurons = t_patcher_each(lm, [request], patch, texts)[0]
usual = neurons.inputs(memory.states[memory.without(request.subject)])
print(
    f"{len(neurons)} neuron for {request.prompt!r} -> {request.target_new!r}; memory of {len(memory.states)} hidden states"
)
own = neurons.inputs(mistakes(lm, [request]).queries)[0]
print(f"input at the mistake {own.max():.2f}; on memory: median {usual.median():.2f}, largest {usual.max():.2f}")

# %% [markdown]
# Each loss left out in turn, and the layer's own nonlinearity against ReLU. Which of them costs what?

# %%
ablations = {
    "T-Patcher": patch,
    "no activation loss": PatcherSettings(fire=0.0),
    "no memory losses": PatcherSettings(silence=0.0),
    "ReLU": PatcherSettings(activation="relu"),
}
patched = {name: t_patcher_each(lm, requests, each, texts) for name, each in ablations.items()}
frames = {name: evaluate(lm, requests, edits, before=before, name=name) for name, edits in patched.items()}
frames[f"GRACE, radius {epsilon:g}"] = found[layer].at(epsilon)
card = scorecard(frames)
wide(card)

# %%
rates(
    card[card["metric"].isin(["edit: exact", "paraphrase: exact", "other subjects: exact", "same subject: as before"])],
    f"Without memory losses {wide(card).loc['other subjects: exact', 'no memory losses']:.2f} of other subjects keep their answer, "
    f"with them {wide(card).loc['other subjects: exact', 'T-Patcher']:.2f}",
    rows="metric",
    columns="edit",
)

# %% [markdown]
# ## In sequence
#
# All edits on one model, one after the other, and every edit asked again at the end. T-Patcher's later neurons know the earlier
# ones; the state after n edits is the first n edits' neurons. FT-M, made for single edits, does the same on one layer's weights.
# Probes of locality that another edit of the sequence changes on purpose are left out.

# %%
again = baseline(lm, stream, generated=False, kl=False)
all_neurons = t_patcher(lm, stream, patch, texts)
counts = sorted({n for n in (10, 20, len(stream)) if n <= len(stream)})
rows = {}
for n in counts:
    one_model = {
        "GRACE": grace(lm, stream[:n], settings),
        "GRACE, radius 4": grace(lm, stream[:n], GraceSettings(layer=layer, epsilon=4.0)),
        "T-Patcher": all_neurons.of(range(n)),
    }
    for name, edit in one_model.items():
        rows[name, n] = evaluate(lm, stream[:n], edit, before=again, name=name)
tuning = FineTuneSettings(layer=0)
tuned = in_sequence(lm, stream, lambda now, one: fine_tune(now, [one], tuning))
rows["FT-M", len(stream)] = evaluate(lm, stream, tuned, before=again, name="FT-M")
sequence = {f"{name} after {n}": frame for (name, n), frame in rows.items()}
sequence_card = wide(scorecard(sequence))
sequence_card.T

# %%
last = {name: frame for (name, n), frame in rows.items() if n == len(stream)}
rates(
    scorecard(last)[lambda t: t["metric"].isin(["edit: exact", "paraphrase: exact", "other subjects: exact"])],
    f"After {len(stream)} edits in sequence: FT-M still says {sequence_card.loc['edit: exact', f'FT-M after {len(stream)}']:.2f} of them, "
    f"GRACE {sequence_card.loc['edit: exact', f'GRACE after {len(stream)}']:.2f}",
    rows="metric",
    columns="edit",
)

# %% [markdown]
# ## Claims
#
# Every comparison is paired by edit, and its 95 % interval decides.

# %%
small, large = at_radius[min(radii)], at_radius[max(radii)]
ends = {"small": small, "large": large}
more, more_low, _ = difference(ends, "paraphrase: exact", "large", "small")
less, _, less_high = difference(ends, "other subjects: exact", "large", "small")
claim(
    "hartvigsen2022grace.radius-trades-generalisation",
    more_low > 0 and less_high < 0,
    measured={"paraphrases_gained": more, "gained_low": more_low, "others_lost": -less, "lost_low": -less_high},
    note=f"radius {max(radii):g} against {min(radii):g}: paraphrases rise and other subjects fall, both intervals off zero",
)

# %%
released = scorecard({"GRACE": at_radius[1.0]}).set_index("metric")
claim(
    "hartvigsen2022grace.generalises",
    released.loc["paraphrase: exact", "low"] > 0.5,
    measured={
        "paraphrase": released.loc["paraphrase: exact", "mean"],
        "paraphrase_low": released.loc["paraphrase: exact", "low"],
        "edit": released.loc["edit: exact", "mean"],
    },
    note="at the released radius of 1, more than half of the paraphrases get the new object (lower end of the interval)",
)

# %% [markdown]
# Is there a radius that serves both? For each edit the radius is chosen on the other half of the edits.

# %%
both = {
    metric: np.stack([per_request(frame, metric).to_numpy() for frame in at_radius.values()], axis=1)
    for metric in ("paraphrase: exact", "other subjects: exact", "same subject: as before")
}
choice = chosen_on_the_other_half(sum(both.values()))
kept = {metric: values[np.arange(len(values)), choice] for metric, values in both.items()}
low = {metric: values.mean() - 1.96 * values.std(ddof=1) / len(values) ** 0.5 for metric, values in kept.items()}
claim(
    "hartvigsen2022grace.a-radius-serves-both",
    low["paraphrase: exact"] > 0.5 and min(low["other subjects: exact"], low["same subject: as before"]) > 0.9,
    measured={
        "paraphrase": kept["paraphrase: exact"].mean(),
        "other_subjects": kept["other subjects: exact"].mean(),
        "same_subject": kept["same subject: as before"].mean(),
        "radius": float(np.median(np.array(radii)[choice])),
    },
    note="lower ends of the intervals: over half of the paraphrases, over 0.9 of all other prompts",
)

# %%
end = len(stream)
lost, _, lost_high = difference(
    {
        "alone": evaluate(lm, stream, grace_each(lm, stream, settings), before=again, name="alone"),
        "all": rows["GRACE", end],
    },
    "edit: exact",
    "alone",
    "all",
)
at_end = scorecard({"GRACE": rows["GRACE", end]}).set_index("metric")
claim(
    "hartvigsen2022grace.thousands-of-edits",
    at_end.loc["edit: exact", "low"] > 0.9 and lost_high <= 0.05 and at_end.loc["same subject: as before", "low"] > 0.9,
    measured={
        "edits": end,
        "edit_after_all": at_end.loc["edit: exact", "mean"],
        "lost_against_alone": lost,
        "same_subject_as_before": at_end.loc["same subject: as before", "mean"],
        "other_subjects": at_end.loc["other subjects: exact", "mean"],
    },
    note="dozens of edits here, not thousands: over 0.9 are said and over 0.9 of other answers kept at the end, and at most "
    "five points fewer are said than of single edits",
)

# %%
neurons_each = [len(each) for each in patched["T-Patcher"]]
asked_for = lm.encode([request.prompt for request in requests], [request.target_new for request in requests])
of_edit, column = asked_for.target_mask.nonzero(as_tuple=True)
with torch.no_grad():  # what the unedited model itself would say where a target token is due
    said_there = lm.logits(asked_for)[of_edit, column - 1].argmax(-1)
wrong = said_there != asked_for.input_ids[of_edit, column]
wrong_tokens = torch.bincount(of_edit[wrong], minlength=len(requests)).tolist()
single = scorecard({"T-Patcher": frames["T-Patcher"]}).set_index("metric")
claim(
    "huang2023patcher.one-neuron-for-one-mistake",
    neurons_each == wrong_tokens and single.loc["edit: exact", "low"] > 0.8,
    measured={
        "edits": len(requests),
        "neurons": sum(neurons_each),
        "mistakes": sum(wrong_tokens),
        "target_tokens": len(of_edit),
        "edit": single.loc["edit: exact", "mean"],
        "paraphrase": single.loc["paraphrase: exact", "mean"],
    },
    note="as many neurons in each patch as tokens that the model's own argmax gets wrong; the lower end of the interval of exact "
    "edits is above 0.8",
)

# %%
gain, gain_low, _ = difference(frames, "other subjects: exact", "T-Patcher", "no memory losses")
claim(
    "huang2023patcher.memory-losses-buy-locality",
    gain_low > 0,
    measured={
        "kept_with": single.loc["other subjects: exact", "mean"],
        "kept_without": wide(card).loc["other subjects: exact", "no memory losses"],
        "difference_low": gain_low,
    },
    note="other subjects keep their answer more often with them: interval above zero",
)

# %%
gain, gain_low, gain_high = difference(frames, "paraphrase: exact", "T-Patcher", "no activation loss")
claim(
    "huang2023patcher.activation-loss-buys-generality",
    gain_low > 0,
    measured={"difference": gain, "difference_low": gain_low, "difference_high": gain_high},
    note="paraphrases get the new object more often with it: interval above zero",
)

# %%
patcher = scorecard({"T-Patcher": rows["T-Patcher", end]}).set_index("metric")
claim(
    "huang2023patcher.thousands-in-sequence",
    patcher.loc["edit: exact", "low"] > 0.9
    and patcher.loc["paraphrase: exact", "low"] > 0.7
    and patcher.loc["other subjects: exact", "low"] > 0.9,
    measured={
        "edits": end,
        "edit": patcher.loc["edit: exact", "mean"],
        "paraphrase": patcher.loc["paraphrase: exact", "mean"],
        "other_subjects": patcher.loc["other subjects: exact", "mean"],
    },
    note="dozens of edits here, not thousands; lower ends of the intervals above 0.9, 0.7 and 0.9",
)

# %%
ahead, ahead_low, _ = difference(last, "edit: exact", "T-Patcher", "FT-M")
claim(
    "huang2023patcher.others-fail-in-sequence",
    ahead_low > 0,
    measured={
        "edit_t_patcher": patcher.loc["edit: exact", "mean"],
        "edit_ft_m": sequence_card.loc["edit: exact", f"FT-M after {end}"],
        "difference_low": ahead_low,
    },
    note="FT-M in the same sequence says fewer of the edits at the end: interval above zero",
)

# %% [markdown]
# ## Departures and limits

# %%
for name in ("grace", "t-patcher"):
    for topic, departure in method(name).departures().items():
        print(f"{name}, {topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# The world's wordings of one fact end alike inside the model, because it was trained on many wordings of every relation. How far
# paraphrases lie from a key in a model trained on the web is another question; `-p model` and `-p dataset` ask it.
#
# ## Exercises
#
# 1. Put the codebook beside the whole block (`module="block"`). Do the radii need to change?
# 2. Two edits of one prompt with different targets, in two codebooks applied one after the other: which one answers? Run the checker.


# %%
def check(guess):
    other = request.model_copy(update={"target_new": request.target_true or "nothing"})
    with (codebook + grace(lm, [other], settings)).applied(lm) as twice:
        answer = twice.score([request.prompt] * 2, [request.target_new, other.target_new]).logprob.argmax()
    return "right" if guess == ["first", "second"][int(answer)] else "not quite: which hook runs last?"


check(guess="second")
