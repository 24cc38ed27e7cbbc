# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Capacity: how many bits a parameter holds
#
# *Trained long enough, a transformer stores about two bits of knowledge per parameter*, report
# [Allen-Zhu and Li 2024](https://arxiv.org/abs/2404.05405) (`allenzhu2024capacity`). Their sections 1 to 5, 9 and 10, on models of a few
# thousand parameters. Runs in under a minute on one CPU core; the models come trained
# (`python -m paramem.capacity.grid` trains them again, in about half an hour).

# %%
from itertools import combinations, product
from math import comb, floor, log, log2

import pandas as pd

from paramem import claim
from paramem.capacity.biographies import ATTRIBUTES, NAME_POOL, SYMBOLS, Biographies, bits_a_person
from paramem.capacity.bits import name_bits, value_bits
from paramem.capacity.grid import JUNK_RATIO, Cell, cells
from paramem.capacity.large import asked_large, budget, chosen
from paramem.capacity.measuring import ahead, ask, peak, person_bits, summary
from paramem.evaluation.intervals import paired
from paramem.fresh import fresh
from paramem.models import usable_device
from paramem.plots import curves, rates

# %% tags=["parameters"]
model: str = "fresh-s0"  # a draw of people, initial weights and order of training: fresh-s0 to fresh-s2 are shipped
profile: str = "default"
train: str = "smallest"  # trained now, and not loaded: the smallest cell told 100 times, "all" cells, or "none"
device: str = "auto"  # of the larger models: a GPU where there is one; or cpu, cuda, cuda:1, ...
large: str = (
    "auto"  # the larger models: all, on a GPU in the profiles full and paper; or sizes, "64x2 128x4"; or "none"
)

# %%
seed = fresh(model).seed
grid = cells()
print(
    f"{len(grid)} models of {min(c.shape.parameters() for c in grid)} to {max(c.shape.parameters() for c in grid)} parameters"
)

# %% [markdown]
# ## What is to be known
#
# A biography is a name and six values: 64 x 64 names, values drawn evenly from 64. Nobody can guess a value, so the entropy is
# known to the last bit. (The paper writes such tuples out in sentences, which hold no counted bit.)

# %%
people = Biographies.drawn(people=100, seed=seed)
print("rows of token ids:", people.rows()[:2].tolist())
values = ATTRIBUTES * log2(SYMBOLS)
print(
    f"one of 100 people: {log2(comb(NAME_POOL, 100)) / 100 + values:.1f} bits, of which {bits_a_person(100):.1f} can be credited (below) "
    f"and {values:.0f} are values"
)

# %% [markdown]
# ## From a loss to bits
#
# How do we know how much a model holds? By what it spares us to say. Somebody who has the weights $W$ can be told the data in a
# code made of the model's own predictions: $-\log_2 q(v \mid n)$ bits for each value, and $-\log_2 q(n)$ for each name. The names come
# in no order, and $\log_2 N!$ bits that an order would take are given back: $N! \prod_n q(n)$ sums to at most one over all sets of
# names, so by Kraft's inequality there is such a code. Weights and code together describe the data. On average no description is
# shorter than the entropy, $\log_2 \binom{N_0}{N} + N K \log_2 D$, whatever the training was. Hence with losses of $p_1$ nats a name and
# $p_2$ nats a value
#
# $$|W| \;\ge\; \underbrace{\log_2 \frac{N_0!}{(N_0 - N)!} - \frac{N p_1}{\ln 2}}_{\text{names}} \;+\;
#   \underbrace{N K \Big(\log_2 D - \frac{p_2}{\ln 2}\Big)}_{\text{values}}.$$
#
# The first term is at least $N \log_2 \frac{N_0 - N}{e^{p_1}}$, as in Theorem 3.2, whose third term (which strings can be values)
# counts nothing here: our values are known beforehand (Definition 4.3).
#
# **By hand**: all worlds of 2 people out of 3 names, with one value of two. A memory of $m$ states tells $m$ classes of worlds
# apart. Predict: how many bits does the formula credit it with, on average?

# %%
worlds = [(names, values) for names in combinations(range(3), 2) for values in product("xy", repeat=2)]


def credited(states):
    total = 0.0
    for place, (names, values) in enumerate(worlds):
        possible = [world for other, world in enumerate(worlds) if other % states == place % states]
        name_loss = value_loss = 0.0
        for n, v in zip(names, values, strict=True):
            known = [world[1][world[0].index(n)] for world in possible if n in world[0]]
            name_loss -= log(len(known) / (2 * len(possible))) / 2
            value_loss -= log(known.count(v) / len(known)) / 2
        total += name_bits(people=2, name_pool=3, name_loss=name_loss)
        total += value_bits(people=2, attributes=1, diversity=2, value_loss=value_loss)
    return total / len(worlds)


for states in (1, 2, 3, 6, 12):
    print(f"{states:2d} states hold {log2(states):.2f} bits, credited with {credited(states):.2f}")

# %% [markdown]
# Never more than the memory has. Even a perfect memory is credited up to $\log_2 e = 1.44$ bits a person less than it holds, because the code
# draws each name anew: one bit of 3.58 here, one in thirty of a person's 42.7 bits below.
#
# ## One model

# %%
smallest = Cell("gpt2", 8, 100, JUNK_RATIO)
shipped = ask([smallest], seed)[smallest]
print(f"{smallest.shape.parameters()} parameters, {smallest.people} people told {smallest.exposures} times")
print(f"names: {shipped.names.mean():.2f} nats of {log(NAME_POOL):.2f} unknown, {log(smallest.people):.2f} perfect")
print(f"values: {shipped.values.mean() / ATTRIBUTES:.2f} nats of {log(SYMBOLS):.2f} unknown, 0 perfect")
print(f"{shipped.bits[0]:.0f} bits, {shipped.ratio[0]:.2f} a parameter, of {shipped.most:.2f} that there are")

# %%
if train != "none":
    again = ask([smallest], seed, anew=True)[smallest]
    print(f"trained now: as much, to a tenth of a bit a parameter: {abs(again.ratio[0] - shipped.ratio[0]) < 0.1}")

# %% [markdown]
# ## The two-bit line
#
# The more people, the more there is to know; at some point a model is full. Predict how far below the diagonal the curves lie, after
# 1000 exposures and after 100.

# %%
asked = ask(grid, seed, anew=train == "all")
table = summary(asked)
clean = table[table["data"] == "clean"]
dense = clean[clean["architecture"] == "gpt2"].assign(told=lambda t: "told " + t["exposures"].astype(str) + " times")
peaks = {x: peak(asked, architecture="gpt2", exposures=x) for x in (1000, 100)}
mean_peak = {x: sum(found.values()) / len(found) for x, found in peaks.items()}
offered = {w: max(k.most for c, k in asked.items() if (c.architecture, c.width, c.exposures) == ("gpt2", w, 1000)) for w in peaks[1000]}  # fmt: skip
at_most = " and ".join(f"{found:.2f} of {offered[w]:.1f} (width {w})" for w, found in peaks[1000].items())
figure = curves(
    dense.sort_values(["exposures", "there"], ascending=[False, True]),
    f"Up to {at_most} bits a parameter are known after 1000 exposures, "
    f"up to {max(peaks[100].values()):.2f} after 100 (GPT-2)",
    x="there", y="known", lines="parameters", panels="told",
    xlabel="to be known (bits a parameter)", ylabel="known (bits a parameter)",
)  # fmt: skip
for axis in figure.axes[:2]:
    axis.plot([1, 3], [1, 3], color="0.6", linewidth=0.8)
    axis.axhline(2, color="0.6", linestyle=":", linewidth=0.8)
figure

# %%
clean.drop(columns=["data", "width"]).set_index(["architecture", "exposures", "parameters", "people"]).round(2)

# %% [markdown]
# Gray: everything that there is, and two bits. Is a model full? Each step of the load, and by how much more is known after it:

# %%
told_long = clean[(clean["architecture"] == "gpt2") & (clean["exposures"] == 1000)].sort_values(["width", "there"])
rise = told_long.assign(rise=told_long.groupby("width")["known"].pct_change())
rise[["width", "people", "there", "known", "rise"]].round(2).reset_index(drop=True)

# %% [markdown]
# Gated layers and experts beside plain ones of the same width:

# %%
kinds = clean[clean["there"].round(1) == 2.4]
early = kinds[kinds["exposures"] == 100].set_index(["width", "architecture"])["share"]
rates(
    kinds.assign(mean=kinds["share"], low=kinds["share"], high=kinds["share"],
                 who=kinds["architecture"] + ", width " + kinds["width"].astype(str), told=kinds["exposures"]).sort_values(["width", "architecture"]),
    f"Of 2.4 bits a parameter told 100 times, GPT-2 holds {early[8, 'gpt2']:.2f} and experts {early[8, 'moe']:.2f} (width 8), "
    f"GPT-2 {early[12, 'gpt2']:.2f} and Llama {early[12, 'llama']:.2f} (width 12)",
    rows="who", columns="told", xlabel="share of all bits",
)  # fmt: skip

# %%
two_digits = clean.assign(there=clean["there"].map("{:.2f}".format))
two_digits.pivot_table(index=["width", "architecture", "there"], columns="exposures", values="known").round(2)

# %% [markdown]
# ## Larger models, where there is a GPU
#
# Two bits a parameter is a statement about all sizes, and these are small. On a GPU the profile `full` tells models of up to 32 million
# parameters as well, each load of each size 100 times. What that costs, counted from the shapes (matrix products of forward and backward;
# all loads together, memory of the largest):

# %%
budget().set_index(["width", "layers"]).round(6)

# %%
place = usable_device(device)
larger = chosen(large, profile=profile, device=place)
print(f"{len(larger)} cells of larger models are told here: profile {profile}, device {place.type}, large={large!r}")
wide = asked_large(larger, seed, place)
figure = None
if len(wide):
    figure = curves(
        wide.assign(size=wide["parameters"].map("{:,}".format)),
        f"After 100 exposures up to {wide['known'].max():.2f} bits a parameter are known, in models of up to {wide['parameters'].max():,}",
        x="there", y="known", lines="size", xlabel="to be known (bits a parameter)", ylabel="known (bits a parameter)",
    )  # fmt: skip
figure

# %%
wide.round(4)

# %% [markdown]
# Each load of a size that is done is kept in the user's cache, so that an interrupted run goes on with the next. `full` stops after two hours
# unless `--timeout` allows more, and one load of the largest size can take longer: divide its share of the PFLOP above by what your GPU
# does in 32 bits. The learning rate of a width was not
# searched for on a GPU: it is that of width 12, times 12 / width.
#
# ## Fewer bits a weight
#
# The models that were told 1000 times, rounded to nearest: each output channel on a grid of $2^b$ values. The paper uses GPTQ, which
# makes up for the error of one weight in the next.

# %%
long = [cell for cell in grid if (cell.architecture, cell.exposures) == ("gpt2", 1000)]
rounded = {bits: ask(long, seed, bits=bits) for bits in (8, 6, 5, 4, 3)}
fewer = pd.concat([summary(found).assign(bits=bits) for bits, found in rounded.items()])
four = {cell: known.ratio[0] for cell, known in rounded[4].items()}
kept = {bits: min(found[cell].bits[0] / asked[cell].bits[0] for cell in long) for bits, found in rounded.items()}
least = {bits: floor(1000 * share) / 1000 for bits, share in kept.items()}  # rounded down: at least as much is kept
curves(
    fewer.assign(model=fewer["parameters"].astype(str) + " parameters, " + fewer["there"].round(1).astype(str) + " to know"),
    f"Eight bits a weight keep at least {least[8]:.3f} of the bits, five {least[5]:.3f}, four {least[4]:.3f}",
    x="bits", y="known", lines="model", xlabel="bits a weight", ylabel="known (bits a parameter)",
)  # fmt: skip

# %%
two_digits = fewer.assign(there=fewer["there"].map("{:.2f}".format))
two_digits.pivot_table(index=["parameters", "there"], columns="bits", values="known").round(2)

# %% [markdown]
# ## Junk
#
# Seven rows of eight are about people who never return; or the same, with a token of its own in front of every row that counts;
# or about eight people who return all the time. The people who count are told 100 times in each case.

# %%
junk = {
    c.data: known
    for c, known in asked.items()
    if c.exposures == 100 and (c.data != "clean" or c == Cell("gpt2", 12, 100, JUNK_RATIO))
}
held = pd.DataFrame({"bits a parameter": {data: known.ratio[0] for data, known in junk.items()}})
a_person = bits_a_person(len(junk["clean"].names[0]))
held[f"of a person's {a_person:.1f} bits"] = {data: person_bits(known).mean() for data, known in junk.items()}
per_person = pd.concat([pd.DataFrame({"junk": d, "bits": person_bits(k)}) for d, k in junk.items()])
spread = per_person.groupby("junk", sort=False)["bits"].agg(["mean", "sem"]) / a_person
rates(
    spread.assign(low=spread["mean"] - 1.96 * spread["sem"], high=spread["mean"] + 1.96 * spread["sem"], people="that count").reset_index(),
    f"Of a person's bits {spread['mean']['clean']:.2f} are known without junk, {spread['mean']['strangers']:.2f} among strangers, "
    f"{spread['mean']['strangers, marked']:.2f} behind a mark",
    rows="junk", columns="people", xlabel="share of a person's bits",
)  # fmt: skip

# %%
held.round(2)

# %% [markdown]
# ## Claims

# %%
claim(
    "allenzhu2024capacity.two-bits-per-parameter",
    all(1.6 <= found <= 2.4 for found in peaks[1000].values()),
    measured={
        "lowest_peak": min(peaks[1000].values()),
        "highest_peak": max(peaks[1000].values()),
        "sizes": len(peaks[1000]),
    },
    note=f"at two widths of GPT-2, what is held at most after 1000 exposures is within a fifth of two: {at_most} bits to know",
)

# %%
fitting = {cell: known for cell, known in asked.items() if cell in long and cell.ratio <= 1.8}
claim(
    "allenzhu2024capacity.what-fits-is-learned",
    all(known.ratio[0] >= 0.95 * known.most for known in fitting.values()),
    measured={"least_share": min(known.ratio[0] / known.most for known in fitting.values()), "models": len(fitting)},
    note="at least 95 % of the bits, for every model told 1000 times that has at most 1.8 to learn",
)

# %%
beyond = rise[rise["there"] > 2.8]["rise"]
claim(
    "allenzhu2024capacity.a-full-model-stays-full",
    (beyond.abs() < 0.1).all(),
    measured={"largest_rise": beyond.max(), "smallest_rise": beyond.min(), "steps": len(beyond)},
    note="told 1000 times: from 2.4 bits a parameter to know to 3.2, and to 4.8 at width 8, what is known changes by less than a tenth",
)

# %%
most = max(known.ratio[0] for known in asked.values())
claim(
    "allenzhu2024capacity.never-above-two-point-three",
    most <= 2.3,
    measured={"most": most, "models": len(asked)},
    note=f"all models; GPT-2 told 1000 times holds at most {at_most} bits to know",
)

# %%
claim(
    "allenzhu2024capacity.hundred-exposures-store-one-bit",
    0.75 <= mean_peak[100] <= 1.25,
    measured={"after_100": mean_peak[100], "after_1000": mean_peak[1000]},
    note="the most that a size holds, averaged over sizes, is within a quarter of one",
)

# %%
gated = {x: peak(asked, architecture="llama", exposures=x) for x in (1000, 100)}
loads = {x: max(c.ratio for c in asked if (c.architecture, c.exposures) == ("llama", x)) for x in (1000, 100)}
beside = {x: peak(asked, architecture="gpt2", exposures=x, most=loads[x]) for x in (1000, 100)}  # the loads of both
((width, llama),) = gated[1000].items()
claim(
    "allenzhu2024capacity.architectures-end-alike",
    abs(llama / beside[1000][width] - 1) <= 0.1,
    measured={"gpt2": beside[1000][width], "llama": llama},
    note=f"what models of one width hold at most after 1000 exposures is at most a tenth apart; both were offered at most {loads[1000]:.1f}",
)


# %%
def best(architecture, exposures):
    """What is known by the model of that width which knows most, of the loads that both architectures were told."""
    there = [
        c for c in asked if (c.architecture, c.width, c.exposures, c.data) == (architecture, width, exposures, "clean")
    ]
    return max((asked[c] for c in there if c.ratio <= loads[exposures]), key=lambda known: known.ratio[0])


gap = ahead(best("gpt2", 100), best("llama", 100))
claim(
    "allenzhu2024capacity.gated-layers-store-less-early",
    gap.above(0, negligible=0.1),
    measured={"gpt2_over_llama": beside[100][width] / gated[100][width], "low": gap.low, "high": gap.high},
    note="GPT-2's peak less Llama's of the same width after 100 exposures, in bits a parameter: interval over people above zero",
)

# %%
claim(
    "allenzhu2024capacity.eight-bits-suffice",
    kept[8] >= 0.98,
    measured={"kept": kept[8], "models": len(long)},
    note="rounded to nearest (RTN), not by GPTQ: every model told 1000 times keeps at least 98 % of its bits",
)

# %%
claim(
    "allenzhu2024capacity.four-bits-lose-most",
    max(four.values()) <= mean_peak[1000] / 2,
    measured={"at_4_bits": max(four.values()), "at_full_precision": mean_peak[1000]},
    note="rounded to nearest (RTN), not by GPTQ: the highest bits a parameter with 4 bits a weight are at most half of those with 32",
)

# %%
pairs = {c.ratio: (asked[Cell("gpt2", c.width, 100, c.ratio)].ratio[0], asked[c].ratio[0]) for c in asked if c.architecture == "moe"}  # fmt: skip
dense_over = {ratio: dense / mixture for ratio, (dense, mixture) in pairs.items()}
claim(
    "allenzhu2024capacity.experts-store-nearly-as-much",
    max(dense_over.values()) <= 1.5,
    measured={
        "dense_over_mixture": max(dense_over.values()),
        "mixture": max(m for _, m in pairs.values()),
        "dense": max(d for d, _ in pairs.values()),
    }
    | {f"dense_over_mixture_at_{ratio}": each for ratio, each in dense_over.items()},
    note="after 100 exposures, all parameters counted, at each of three loads: at most the paper's factor of 1.5 below GPT-2 of the "
    "same width and as many bits a parameter to know",
)

# %%
factor = {data: junk["clean"].bits[0] / max(known.bits[0], 1.0) for data, known in junk.items()}
claim(
    "allenzhu2024capacity.junk-costs-capacity",
    factor["strangers"] >= 2,
    measured={"loss_factor": factor["strangers"]},
    note="at most half of the bits",
)

# %%
claim(
    "allenzhu2024capacity.repeated-junk-is-harmless",
    factor["repeated"] <= 1.1,
    measured={"loss_factor": factor["repeated"]},
    note="at most a tenth above one",
)

# %%
gain = paired(person_bits(junk["strangers, marked"]), person_bits(junk["strangers"]))
claim(
    "allenzhu2024capacity.a-domain-token-helps",
    gain.above(0),
    measured={"loss_factor": factor["strangers, marked"], "low": gain.low, "high": gain.high},
    note="bits a person with the mark less without, same people: interval above zero",
)

# %% [markdown]
# ## Departures and limits

# %%
from paramem.capacity import biographies, bits, measuring, stacked, training

for module in (bits, biographies, stacked, training, measuring):
    for topic, (paper_says, we_do, why) in module.DEPARTURES.items():
        print(f"{topic}: the paper: {paper_says}. Here: {we_do}. Why: {why}.")

# %% [markdown]
# Told 1000 times, the wider GPT-2 ends at 3.2 bits a parameter to know and Llama at 2.4: for Llama a plateau cannot be seen, and GPT-2 may
# still rise at the last steps. More to know also means more people and not more exposures of each, so that a model which is nearly
# full spends as many exposures on what it cannot keep.
# Experts were trained at one width. No GPU could be had: the larger models have never been told, and no claim rests on them. Their path was
# run with small sizes on a CPU (`large="8x1"`), and their rule for the learning rate was tested at widths from 16 to 64 and two layers
# (`python -m paramem.capacity.rates`), where of rates a factor of two apart it names the best. Beyond, deeper and wider, it is a guess.
#
# A draw is a set of people, the initial weights and the order of training. Learning rates were chosen on draws that are not
# among these. Two bits here are about what is *predicted* after a name and the values before it; whether such knowledge can be
# asked for in other words is another question, which these biographies without sentences do not pose.
#
# ## Exercises
#
# 1. Train `Cell("llama", 8, 100, 1.6)` with `ask([...], seed, anew=True)`. Does it store more than GPT-2 of that width?
# 2. A model of 7 billion parameters at two bits each: how many people of the kind above can it hold? Run the checker.


# %%
def check(guess):
    held = 2 * 7e9 / (ATTRIBUTES * log2(SYMBOLS))
    return "right" if 0.7 < guess / held < 1.3 else "not quite: how many bits are a person's values?"


check(guess=4e8)
