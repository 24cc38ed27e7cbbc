# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Editors that learn to edit: MEND and KnowledgeEditor
#
# *The gradient of an edit says how to change an answer, but not what to leave alone. Small networks, trained on many edits, turn it
# into an update that does both.* MEND ([Mitchell et al. 2021](https://arxiv.org/abs/2110.11309), `mitchell2021mend`), KnowledgeEditor
# ([De Cao et al. 2021](https://arxiv.org/abs/2104.08164), `decao2021editing`), and what the survey of knowledge editing
# (`zhang2024knowedit`) says of both. Networks are shipped for the bundled testbeds; they saw edits of other subjects, and their
# settings were judged on yet others. Runs in under a minute on one CPU core.

# %%
import pandas as pd
import torch

from paramem import claim, load
from paramem.decisions import every
from paramem.editing import knowledge_editor, mend
from paramem.editing.meta_study import (
    agreement,
    asked_each,
    asked_together,
    by_request,
    each,
    gradient_steps,
    likeness,
    random_steps,
    shares,
)
from paramem.editing.outer_products import edit_batch, gradient_terms
from paramem.editing.sequence import in_sequence
from paramem.editing.trained import load as trained_for
from paramem.evaluation import baseline, evaluate
from paramem.evaluation.intervals import Span, over_edits, paired, span
from paramem.evaluation.scorecard import difference, per_request, scorecard, wide
from paramem.material import edits_for, of_unseen_subjects, text_for
from paramem.plots import curves, grid, rates
from paramem.registry import method

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed, a local folder, or a hub id
dataset: str = "world"  # the testbed's world, or a file of edits (CounterFact, ZsRE, KnowEdit, ...)
text: str = "world"  # ordinary text for ROME's second moment
profile: str = "default"
seed: int = 0
layer: int = 0  # edited by ROME and by fine-tuning
n_edits: int = 0  # 0: as many as the profile says

# %%
lm = load(model)
n_edits = n_edits or {"paper": 300}.get(profile, 32)
test = of_unseen_subjects(edits_for(lm, dataset, seed=seed, part="test"))
requests = test[:n_edits]
sizes = (1, 5, 25, 125)
learned = {name: trained_for(name, lm) for name in ("mend", "ke")}
for name, found in learned.items():
    card = found.card
    print(f"{name}: {card.parameters:,} numbers, trained for {card.seconds:.0f} s; {card.held_out}")

# %% [markdown]
# ## The gradient, by hand
#
# A matrix that answers $Wu_j$ at token $j$ has, for the loss of one edit, the gradient
#
# $$\nabla_W L = \sum_j \delta_j u_j^\top, \qquad \delta_j = \partial L / \partial (Wu_j)$$
#
# so it is known from two vectors a token. MEND maps each pair $(u_j, \delta_j)$ to another pair and sums again (Eq. 2 and 3);
# KnowledgeEditor reads the words of the edit and multiplies all $\delta_j$ by one vector and all $u_j$ by another. Neither ever holds a
# map between whole matrices. Predict: at how many tokens does the last block's gradient have a term, and at how many the one two
# blocks below?

# %%
request = requests[0]
places = learned["mend"].places("mend", lm)
gradient = gradient_terms(lm, edit_batch(lm, [request]), places)
print(f"{request.prompt!r}: {request.target_true!r} -> {request.target_new!r}")
for place, (delta, u) in gradient.items():
    with_term = int(delta.ne(0).any(-1).sum())
    rank = int(torch.linalg.matrix_rank((delta.double().mT @ u.double())[0]))
    print(
        f"{place!s:7s} {tuple(reversed((u.shape[-1], delta.shape[-1])))}: terms at {with_term} of {u.shape[1]} tokens, rank {rank}"
    )

# %% [markdown]
# In the last block a gradient is left only where the loss is taken; below, attention passes it back to every earlier token.
#
# ## One edit
#
# One forward, one backward, one pass through the small networks; nothing is optimised. Below the edit beside two controls of the
# same size in every matrix: the plain gradient step, and a random one.

# %%
mend_settings, ke_settings = mend.MendSettings(), knowledge_editor.KnowledgeEditorSettings()
by_mend = mend.updates(lm, requests, mend_settings, learned["mend"])  # of every edit by itself
steps = {
    "MEND": by_mend,
    "KE": knowledge_editor.updates(lm, requests, ke_settings, learned["ke"]),
    "gradient": gradient_steps(lm, requests, by_mend),
    "random": random_steps(by_mend, seed),
}
edits = {name: each(lm, updates) for name, updates in steps.items()}
said = {"before": lm.generate([request.prompt], max_new_tokens=4)[0]}
for name, deltas in edits.items():
    with deltas[0].applied(lm) as edited:
        said[name] = edited.generate([request.prompt], max_new_tokens=4)[0]
for name, answer in said.items():
    print(f"{name:9s} {request.prompt}{answer!r}")

# %% [markdown]
# ## Many edits, one at a time
#
# The same edits by ROME and by fine-tuning (FT-M), which optimise anew for each edit. All are of subjects whose facts the networks
# never saw, and so are the other facts that have to stay.

# %%
texts = text_for(lm, text, n=1000)
for name, key in {"ROME": "rome", "FT-M": "ft-m"}.items():
    edits[name] = method(key).edit_each(lm, requests, layer=layer, texts=texts, known="keep")
before = baseline(lm, requests, generated=False, kl=False)
frames = {name: evaluate(lm, requests, deltas, before=before, name=name) for name, deltas in edits.items()}
card = scorecard(frames)
wide(card)

# %%
at = card.pivot(index="metric", columns="edit", values="mean")
shown = [
    line
    for line in ("edit: exact", "paraphrase: exact", "other subjects: exact", "same subject: as before")
    if line in at.index
]
rates(
    card[card["metric"].isin(shown)],
    f"MEND: {at.loc['edit: exact', 'MEND']:.2f} of edits, KnowledgeEditor {at.loc['edit: exact', 'KE']:.2f}, "
    f"a gradient step of MEND's size {at.loc['edit: exact', 'gradient']:.2f} ({len(requests)} edits)",
    rows="metric",
    columns="edit",
)

# %% [markdown]
# ## What the networks learned
#
# How much of an update lies in which matrix, and how alike the updates of different edits are. What they share cannot tell one edit
# from another, and it adds up when updates are summed. Predict: are learned updates more alike than plain gradients, or less?

# %%
compared = {"gradient": gradient_terms(lm, edit_batch(lm, requests), places), "MEND": steps["MEND"], "KE": steps["KE"]}
lies = pd.DataFrame({name: shares(updates).mean() for name, updates in compared.items()})
grid(
    lies.round(3),
    f"The squared update lies most in {lies['MEND'].idxmax()} for MEND, in {lies['KE'].idxmax()} for KnowledgeEditor",
    label="share",
)

# %%
alike = {name: likeness(updates) for name, updates in compared.items()}
shown = {name: round(float(values.mean()), 3) for name, values in alike.items()}
print("mean cosine between the updates of two edits:", shown)
turned = agreement(steps["MEND"], steps["gradient"]).groupby("place", sort=False)["cosine"].mean()
print("cosine of MEND's update with the plain step:", turned.round(2).to_dict())

# %% [markdown]
# ## Many edits at once
#
# A batch is edited by summing what each edit alone would get (section 5.3). The paper trains a network for each size of batch; these
# were trained for single edits. Predict, with the likeness above in mind: which fades first, the edits or what should stay?

# %%
many = test[: max(sizes)] if len(test) >= max(sizes) else test[: len(test) // 25 * 25]
others = [(one.prompt, str(one.target_true)) for one in test if one not in many]  # of held-out subjects as well
kept = [others[i % len(others)] for i in range(2 * len(many))]
summed = {
    "MEND": mend.updates(lm, many, mend_settings, learned["mend"]),
    "KE": knowledge_editor.updates(lm, many, ke_settings, learned["ke"]),
}
asked = pd.concat(
    asked_together(lm, many, updates, size, kept).assign(editor=name, size=size)
    for name, updates in summed.items()
    for size in sizes
    if len(many) % size == 0
)
asked.groupby(["editor", "size"])[["edit", "wording", "kept"]].mean().round(3)

# %%
long = asked.melt(["editor", "size", "request"], ["edit", "kept"], "what", "share")
long["line"] = long["editor"] + ": " + long["what"].map({"edit": "edits that succeed", "kept": "other facts kept"})
fades = asked.groupby(["editor", "size"])[["edit", "kept"]].mean()
most = max(asked["size"])
curves(
    long,
    f"From one edit to {most} at once MEND's success goes from {fades.loc[('MEND', 1), 'edit']:.2f} to {fades.loc[('MEND', most), 'edit']:.2f}, "
    f"other facts kept from {fades.loc[('MEND', 1), 'kept']:.2f} to {fades.loc[('MEND', most), 'kept']:.2f}",
    x="size",
    y="share",
    lines="line",
    xlabel="edits at once",
    logx=True,
)

# %% [markdown]
# One after the other, each on the model that the earlier ones left, is not the same: every gradient is then that of an edited model.

# %%
few = many[:25]
chain = in_sequence(lm, few, lambda now, one: mend.mend(now, [one], mend_settings, learned["mend"]))
prompts, targets = [one.prompt for one in few], [one.target_new for one in few]
orders = {"at once": mend.mend(lm, few, mend_settings, learned["mend"]), "in sequence": chain}
for name, delta in orders.items():
    with delta.applied(lm) as edited:
        exact = edited.score(prompts, targets).exact.double().mean()
        stay = edited.score(*map(list, zip(*kept[:50], strict=True))).exact.double().mean()
    print(f"{len(few)} edits {name:12s} {exact:.2f} succeed, {stay:.2f} of other facts are kept")

# %% [markdown]
# ## Trained on one kind of edits, used on another
#
# The survey trains MEND and SERAC on one data set and edits another (Table 6). Here: networks that learned from edits of people
# alone or of the map alone, used on either, beside those that learned from all. *Wording*: the edit's first other wording follows;
# *kept*: other facts of held-out subjects. The map has few facts to learn from. Predict: which direction costs more?

# %%
cross = {}
if dataset == "world":
    for kind in ("people", "map"):
        ids = {one.id for one in edits_for(lm, dataset, seed=seed, part="test", relations=kind)}
        asked_of = [one for one in test if one.id in ids][:32]
        apart = [(one.prompt, str(one.target_true)) for one in test if one not in asked_of]
        stay = [apart[i % len(apart)] for i in range(2 * len(asked_of))]
        for source in ("all", "people", "map"):
            name = "" if source == "all" else f"-{source}"
            updates = mend.updates(lm, asked_of, mend_settings, trained_for(f"mend{name}", lm))
            cross["MEND", kind, source] = asked_together(lm, asked_of, updates, 1, stay)
            routed = method("serac").edit_each(lm, asked_of, trained=trained_for(f"serac{name}", lm), known="keep")
            cross["SERAC", kind, source] = asked_each(lm, asked_of, routed, stay)
table = pd.DataFrame({key: rows[["edit", "wording", "kept"]].mean() for key, rows in cross.items()}).T.round(3)
table.rename_axis(index=["editor", "edits of", "learned from"]) if cross else None

# %%
PLACES = {"people": "people", "map": "the map"}
shown, lost = pd.DataFrame(), {}
if cross:
    long = pd.concat(
        rows.melt("request", ["edit", "wording"], "what", "share").assign(
            row=f"{editor}, edits of {PLACES[kind]}", source=source
        )
        for (editor, kind, source), rows in cross.items()
    )
    long["row"] += ": " + long["what"].map({"edit": "success", "wording": "other wording"})
    spans = long.groupby(["row", "source"], sort=False)["share"].apply(lambda values: span(values.dropna()))
    shown = pd.DataFrame(spans.tolist(), index=spans.index, columns=["mean", "low", "high"]).reset_index()
    lost = {
        editor: cross[editor, "map", "map"]["edit"].mean() - cross[editor, "map", "people"]["edit"].mean()
        for editor in ("MEND", "SERAC")
    }
rates(
    shown,
    f"Edits of the map by networks that learned from people: MEND loses {lost['MEND']:.2f} of success, SERAC {lost['SERAC']:.2f}",
    rows="row",
    columns="source",
    xlabel="share of edits",
) if cross else None

# %% [markdown]
# ## Claims
#
# 95 % intervals over edits decide, of differences paired by edit where two editors or sizes are compared. One that straddles its limit decides
# nothing, unless it is a difference of shares within a tenth of zero.

# %%
NEGLIGIBLE = 0.1
alone = asked[(asked["size"] == 1) & (asked["editor"] == "MEND")][["edit", "wording"]]
success = over_edits(alone.mean(axis=1))
claim(
    "mitchell2021mend.one-update-edits",
    success.above(0.8),
    measured={
        "edit_success": success.mean,
        "edit_success_low": success.low,
        "edit_success_high": success.high,
        "edit": alone["edit"].mean(),
        "wording": alone["wording"].mean(),
    },
    note=f"edit success, of each edit the mean over its own and another wording: the 95 % interval lies above 0.8; {len(many)} edits",
)

# %%
kept_others = "other subjects: exact"
if kept_others in at.index:
    gain = difference(frames, kept_others, "MEND", "FT-M")
    claim(
        "mitchell2021mend.local-weight-edits",
        gain.above(negligible=NEGLIGIBLE),
        measured={
            "kept_MEND": at.loc[kept_others, "MEND"],
            "kept_fine_tuning": at.loc[kept_others, "FT-M"],
            "difference_low": gain.low,
            "difference_high": gain.high,
            "edit_MEND": at.loc["edit: exact", "MEND"],
            "edit_fine_tuning": at.loc["edit: exact", "FT-M"],
        },
        note="difference paired by edit; its 95 % interval lies above zero",
    )

# %%
if kept_others in at.index:
    lines = ("edit: exact", kept_others)
    both = {name: sum(per_request(frames[name], line) for line in lines) / 2 for name in ("MEND", "gradient")}
    gain = by_request(both["MEND"], both["gradient"])
    claim(
        "mitchell2021mend.learning-beats-its-input",
        gain.above(negligible=NEGLIGIBLE),
        measured={
            "score_MEND": both["MEND"].mean(),
            "score_gradient": both["gradient"].mean(),
            "difference_low": gain.low,
            "difference_high": gain.high,
            "score_random": (at.loc["edit: exact", "random"] + at.loc[kept_others, "random"]) / 2,
        },
        note="score: mean of edit success and of other subjects' answers kept; steps of one norm in every matrix; paired by edit",
    )

# %%
by_size = asked[asked["editor"] == "MEND"].pivot(index="request", columns="size", values="edit")
largest = max(by_size.columns)
gain = by_request(by_size[1], by_size[largest])
claim(
    "mitchell2021mend.batches-fade",
    gain.above(negligible=NEGLIGIBLE),
    measured={f"edit_success_{size}": by_size[size].mean() for size in by_size.columns}
    | {"difference_low": gain.low, "difference_high": gain.high},
    note=f"success alone minus success among {largest} at once, paired by edit; the 95 % interval lies above zero",
)

# %%
beyond = paired(by_size[25], 0.9 * by_size[1])
claim(
    "mitchell2021mend.batch-of-25",
    beyond.above(),
    measured={
        "edit_success_25": by_size[25].mean(),
        "edit_success_1": by_size[1].mean(),
        "beyond_low": beyond.low,
        "beyond_high": beyond.high,
        "kept_25": asked[(asked["editor"] == "MEND") & (asked["size"] == 25)]["kept"].mean(),
    },
    note="25 at once succeed at least 0.9 times as often as single edits: success among 25 minus 0.9 of that alone, paired by edit, has its "
    "95 % interval above zero; the network was trained on single edits",
)

# %%
one = asked[asked["size"] == 1].pivot(index="request", columns="editor", values="edit")
gain = by_request(one["MEND"], one["KE"])
kept_by = asked[asked["size"] == 1].groupby("editor")["kept"].mean()
claim(
    "mitchell2021mend.beats-knowledge-editor",
    gain.above(negligible=NEGLIGIBLE),
    measured={
        "edit_MEND": one["MEND"].mean(),
        "edit_KE": one["KE"].mean(),
        "difference_low": gain.low,
        "difference_high": gain.high,
        "kept_MEND": kept_by["MEND"],
        "kept_KE": kept_by["KE"],
    },
    note=f"edit success, paired over {len(one)} edits; the 95 % interval of the difference lies above zero",
)

# %%
gain = by_request(pd.Series(alike["gradient"]), pd.Series(alike["MEND"]))
claim(
    "mitchell2021mend.common-directions-are-attenuated",
    gain.above(),
    measured={
        "likeness_gradient": alike["gradient"].mean(),
        "likeness_MEND": alike["MEND"].mean(),
        "difference_low": gain.low,
        "difference_high": gain.high,
    },
    note="likeness: mean cosine of an edit's update with those of the other edits; paired by edit",
)

# %%
told = asked[(asked["size"] == 1) & (asked["editor"] == "KE") & (asked["edit"] == 1)]["wording"].dropna()
follows = over_edits(told) if len(told) else Span(0.0, 0.0, 1.0)
claim(
    "decao2021editing.paraphrases-follow",
    follows.above(0.5),
    measured={"wordings_that_follow": follows.mean, "low": follows.low, "high": follows.high, "edits": len(told)},
    note="of the edits that succeed, the share whose other wording follows; the 95 % interval lies above one half",
)

# %%
top = {
    name: shares(updates).apply(lambda row: row.nlargest(max(1, len(row) // 3)).sum(), axis=1)
    for name, updates in compared.items()
}
held, more = span(top["KE"]), paired(top["KE"], top["gradient"])
claim(
    "decao2021editing.few-components-change",
    held.above(2 / 3) & more.above(negligible=NEGLIGIBLE),
    measured={
        "share_in_a_third_of_the_matrices": held.mean,
        "low": held.low,
        "high": held.high,
        "gradient": top["gradient"].mean(),
        "beyond_the_gradient": more.mean,
        "beyond_low": more.low,
        "beyond_high": more.high,
        "MEND": top["MEND"].mean(),
    },
    note="a third of the edited matrices holds more than two thirds of the squared update, and more than of the plain gradient's; "
    "95 % intervals over edits",
)

# %%
OTHER = {"people": "map", "map": "people"}
for editor, claimed in (
    ("MEND", "zhang2024knowedit.mend-loses-across-domains"),
    ("SERAC", "zhang2024knowedit.serac-keeps-across-domains"),
):
    if cross:
        found, judged = {}, []
        for kind, source in OTHER.items():
            own, other = (cross[editor, kind, name].set_index("request") for name in (kind, source))
            gap = by_request(own["edit"], other["edit"])
            judged.append(
                gap.above(negligible=NEGLIGIBLE)
                if editor == "MEND"
                else gap.below(0.05) & over_edits(other["edit"]).above(0.5)
            )
            found |= {
                f"edit_of_{kind}_in_domain": own["edit"].mean(),
                f"edit_of_{kind}_cross_domain": other["edit"].mean(),
            }
            found |= {f"{what}_of_{kind}_lost": own[what].mean() - other[what].mean() for what in ("wording", "kept")}
            found |= {f"lost_of_{kind}_low": gap.low, f"lost_of_{kind}_high": gap.high}
        claim(
            claimed,
            every(judged),
            measured=found,
            note="edits of people by networks that learned from the map, and the reverse, against networks of their own kind, paired "
            + (
                "by edit: in both directions the 95 % interval of the success lost lies above zero"
                if editor == "MEND"
                else "by edit: in both directions less than five points of success are lost and more than one half succeed (ends of "
                "95 % intervals)"
            ),
        )

# %% [markdown]
# ## Departures and limits

# %%
for name in ("mend", "ke"):
    for topic, departure in method(name).departures().items():
        print(f"{name}, {topic}: the paper: {departure.paper_says}. Here: {departure.we_do}. Why: {departure.why}.")

# %% [markdown]
# The networks are small and trained for seconds, not days; their cards (`paramem/editing/trained/`) say what was held out and what was
# reached on subjects for validation. Numbers of steps were chosen before those subjects were set aside, on edits for tests. The paper
# trains a network for every size of batch; here batches are summed by a network for single edits, which is what the survey's remark
# on conflicting edits is about. `python -m paramem.editing.train mend --model gpt2-s0 --force` trains one again.
#
# ## Exercises
#
# 1. Pass `MendSettings(step=0.5)`: which of success and locality changes more?
# 2. The gradient of which block has as many terms as the target has tokens? Run the checker with the block's number.


# %%
def check(block):
    delta = gradient[next(place for place in places if place.layer == block)].left
    tokens = int(lm.encode([request.prompt], [request.target_new]).target_mask.sum())
    return "right" if int(delta.ne(0).any(-1).sum()) == tokens else "not quite: where is the loss taken?"


check(block=max(place.layer for place in places))
