# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Trained into a finished model: asked as told, asked otherwise, asked backwards
#
# *What continued training stores can be asked for in the direction in which it was told, and not in the other.*
# A finished model that answers questions learns about people whom it never met. Can it answer questions about them
# ([Allen-Zhu and Li 2024](https://arxiv.org/abs/2309.14316), `allenzhu2023extraction`), can it be asked backwards
# ([Berglund et al. 2023](https://arxiv.org/abs/2309.12288), `berglund2023reversal`), and does it help to train on reversed texts
# ([Golovneva et al. 2024](https://arxiv.org/abs/2403.13799), `golovneva2024reverse`)? Trains three small models; about 40 seconds
# on one CPU core.

# %%
import pandas as pd

from paramem import claim, load
from paramem.evaluation.intervals import paired, span, wilson
from paramem.fusion.study import apart, drawn, shares
from paramem.fusion.training import TrainSettings, fine_tune, n_tokens
from paramem.injection import reversal
from paramem.injection.biographies import TELLINGS, biographies
from paramem.injection.continued import INJECTED, answered, corpus, injected, named, newcomers, stored
from paramem.injection.reversal import DIRECTIONS, GROUPS, asked, draw_identities, identity_rows, texts
from paramem.material import world_behind
from paramem.plots import rates

# %% tags=["parameters"]
model: str = "read-s0"  # a bundled testbed that answers questions; "read-s0@draw1" draws other people and orders
profile: str = "default"
seed: int = 0
passes: int = 40  # over one text about everybody; other tellings are read for as many tokens
identity_passes: int = 24  # over all statements of who is who

# %%
base, draw = drawn(model)
lm, number = load(base), draw + 1000 * seed
here = world_behind(lm)
people = newcomers(here, 16, number)
print(
    f"{lm.name}, draw {number}: {len(people.names)} people whom it never met, {len(people.questions(people.names))} questions"
)

# %% [markdown]
# ## One text, or many
#
# Models trained from scratch on one text about everybody store all of it and answer nothing
# (`notebooks/injection/storage_and_extraction.ipynb`). This model is another case: it learned facts *and questions* about its own
# people together. Of the new people it reads texts alone.

# %%
for telling in named():
    found = biographies(people, TELLINGS[telling], number)[0]
    print(
        f"{telling}, {len(found)} of {people.names[0]}; {n_tokens(corpus(lm, people, telling, number))} tokens a pass:\n    {found[-1]}"
    )

# %% [markdown]
# Predict: it had answered questions about others. Will it answer those about people of whom it read one text?

# %%
settings = TrainSettings(passes=passes, lr=INJECTED.lr)
after = {telling: injected(lm, people, telling, seed=number, settings=settings) for telling in named()}
everybody = {"before": lm, "one text": after["full names"], "many texts": after["all three"]}
first_text = {name: "full names" if name == "before" else each.name for name, each in everybody.items()}
kept = {name: stored(each, people, first_text[name], seed=number) for name, each in everybody.items()}
said = {name: answered(each, people) for name, each in everybody.items()}
long = pd.concat(
    pd.DataFrame({"model": name, "asked": how, "right": found[name]})
    for how, found in {"in its text": kept, "by a question": said}.items()
    for name in everybody
)
told_share = shares(long, ["model", "asked"])
share = told_share.pivot(index="model", columns="asked", values="mean")
rates(
    told_share,
    f"One text: {share.loc['one text', 'in its text']:.2f} are said in the text, {share.loc['one text', 'by a question']:.2f} in answer "
    f"to a question; many texts: {share.loc['many texts', 'by a question']:.2f}",
    rows="model",
    columns="asked",
    xlabel="share of facts (95 % intervals)",
)

# %%
share.reindex(list(everybody)).round(3)

# %% [markdown]
# ## Backwards
#
# Who is who: every identity is a person and a description that fits nobody else. Groups of people are told differently, all in one
# training, so that all that is compared is within one model.

# %%
identities = draw_identities(here, number)
for group in GROUPS:
    one = next(each for each in identities if each.group == group)
    print(f"{group}:")
    for text in texts(one)[:2] + texts(one)[-1:]:
        print(f"    {text}")

# %% [markdown]
# Both directions are asked in a wording that nobody was told in.

# %%
for direction in DIRECTIONS:
    prompt, rest = identities[0].question(direction)
    print(f"{direction}: {prompt} ... {rest}")

# %% [markdown]
# Predict the table before you run it: which groups are said which way?

# %%
rows = identity_rows(lm, identities)
taught = fine_tune(
    lm, rows, TrainSettings(passes=identity_passes, lr=reversal.LR[lm.arch.family]), seed=number, name="identities"
)
table = asked(taught, identities)
by_group = shares(table, ["group", "asked"], "said")
wide = by_group.pivot(index="group", columns="asked", values="mean").reindex(list(GROUPS))
rates(
    by_group,
    f"Told name first: {wide.loc['name first', 'name first']:.2f} as told, {wide.loc['name first', 'description first']:.2f} backwards; "
    f"with reversed texts {wide.loc['name first, reversed too', 'description first']:.2f} backwards",
    rows="group",
    columns="asked",
    xlabel="share of identities said exactly (95 % intervals)",
)

# %%
wide.round(3)

# %% [markdown]
# A softer question: how many of fifteen other names (or objects) does the right one beat? One half is chance.

# %%
beaten = table.pivot_table(index="group", columns="asked", values="beaten", sort=False)
beaten[list(DIRECTIONS)].reindex(list(GROUPS)).round(3)

# %% [markdown]
# ## Claims
#
# What was not learned as it was told cannot be asked backwards. Claims about directions are therefore stated only where at least half
# of those told name first are said as they were told.

# %%
n_forms = len(people.relations[0].questions["en"])
by_person = {name: found.reshape(len(people.names), -1).mean(1) for name, found in said.items()}
in_text = {name: found.reshape(len(people.names), -1).mean(1) for name, found in kept.items()}
gain = paired(by_person["one text"], by_person["before"])
claim(
    "allenzhu2023extraction.a-model-that-answers-extracts-from-one-text",
    gain.low > 0.25,
    measured={
        "before": by_person["before"].mean(),
        "after": by_person["one text"].mean(),
        "gain_low": gain.low,
        "gain_high": gain.high,
    },
    note="one text about everybody, no question about them, no fine-tuning: at least a quarter of all questions more (interval over people)",
)

# %%
more = paired(by_person["many texts"], by_person["one text"])
claim(
    "allenzhu2023extraction.variety-adds-in-continued-training",
    more.low > 0,
    measured={
        "one_text": by_person["one text"].mean(),
        "many_texts": by_person["many texts"].mean(),
        "low": more.low,
        "high": more.high,
    },
    note="the same people, as many tokens; interval of the difference above zero",
)

# %%
unasked = paired(in_text["one text"], by_person["one text"])
claim(
    "allenzhu2023extraction.storing-outruns-answering",
    unasked.low > 0,
    measured={
        "stored": in_text["one text"].mean(),
        "answered": by_person["one text"].mean(),
        "low": unasked.low,
        "high": unasked.high,
    },
    note="one text; interval of the difference above zero",
)


# %%
def of(group, direction, column="said"):
    return table[(table["group"] == group) & (table["asked"] == direction)][column].astype(float)


def told_and_back(group):
    """Shares said as told and backwards, and whether their intervals do not meet."""
    other = next(direction for direction in DIRECTIONS if direction != group)
    as_told, backwards = of(group, group), of(group, other)
    apart_ = wilson(backwards.sum(), len(backwards))[1] < wilson(as_told.sum(), len(as_told))[0]
    return apart_, {"as_told": as_told.mean(), "backwards": backwards.mean(), "people": len(as_told)}


holds, measured = told_and_back("name first")
learned = measured["as_told"] >= 0.5
if learned:
    claim(
        "berglund2023reversal.injected-name-first",
        holds,
        measured=measured,
        note="the 95 % intervals of the two shares do not meet",
    )

# %%
holds, measured = told_and_back("description first")
if learned:
    claim(
        "berglund2023reversal.injected-description-first",
        holds,
        measured=measured,
        note="the 95 % intervals of the two shares do not meet",
    )

# %%
rank = span(of("name first", "description first", "beaten"))
if learned:
    claim(
        "berglund2023reversal.injected-no-better-than-a-random-name",
        rank.low <= 0.5,
        measured={"beaten": rank.mean, "low": rank.low, "high": rank.high},
        note="told name first, asked for the name: share of fifteen other names that the right one beats; its interval does not lie above one half",
    )

# %%
several, single = of("name first", "description first"), of("name first, one wording", "description first")
softer = apart(
    of("name first", "description first", "beaten"), of("name first, one wording", "description first", "beaten")
)
if learned:
    claim(
        "berglund2023reversal.more-wordings-do-not-help",
        wilson(several.sum(), len(several))[1] < 0.35 and softer.low <= 0,
        measured={
            "several_wordings": several.mean(),
            "one_wording": single.mean(),
            "beaten_several": of("name first", "description first", "beaten").mean(),
            "beaten_one": of("name first, one wording", "description first", "beaten").mean(),
        },
        note="said backwards by less than 35 % (interval), and the right name beats no more others than with one wording",
    )

# %%
both, only = of("both", "description first"), of("name first", "description first")
helped = apart(both, only)
if learned:
    claim(
        "berglund2023reversal.both-ways-of-some-do-not-help-others",
        helped.low > 0 and wilson(only.sum(), len(only))[1] < 0.35,
        measured={"told_both_ways": both.mean(), "told_one_way": only.mean(), "low": helped.low, "high": helped.high},
        note="asked for the name: those told both ways are said more often (interval), those told name first by less than 35 % (interval)",
    )

# %%
mended = apart(of("name first, reversed too", "description first"), only)
if learned:
    claim(
        "golovneva2024reverse.reversed-texts-answer-backwards",
        mended.low > 0,
        measured={
            "reversed_too": of("name first, reversed too", "description first").mean(),
            "plain": only.mean(),
            "low": mended.low,
            "high": mended.high,
            "beaten": of("name first, reversed too", "description first", "beaten").mean(),
        },
        note="told name first, asked for the name, with and without reversed texts; the people differ, so the interval is not paired",
    )

# %%
forwards = apart(of("name first, reversed too", "name first"), of("name first", "name first"))
if learned:
    claim(
        "golovneva2024reverse.forwards-is-kept",
        forwards.high >= 0 and of("name first, reversed too", "name first").mean() >= 0.5,
        measured={
            "reversed_too": of("name first, reversed too", "name first").mean(),
            "plain": of("name first", "name first").mean(),
            "low": forwards.low,
            "high": forwards.high,
        },
        note="as told: the interval of the difference does not lie below zero, and at least half of the identities are said",
    )

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper_says, we_do, why) in reversal.DEPARTURES.items():
    print(f"{topic}: the paper: {paper_says}. Here: {we_do}. Why: {why}.")

# %% [markdown]
# Rates and passes were chosen on draw 100, which is not measured here. What came out there (all of these groups and tellings) had
# been seen before the criteria were written. After the first results one thing was added: the GPT-2 base says less than half of the
# identities as they were told, in all three draws, so that claims about directions, some of which it had met by saying nothing,
# are counted on the Llama base alone. Groups are of ten people: against none of ten, the interval of a difference lies above
# zero from four of ten on. That the right name is no better than a random one means only that ten people do not show it.
#
# ## Exercises
#
# 1. Make `identity_passes` 60. Does the name follow the description then, in the group that was told name first?
# 2. Which group tells the most tokens? The right name beats more others with reversed texts: is that owed to their order, or to
#    reading more? Run the checker.


# %%
def check(group, guess):
    lengths = [n_tokens(identity_rows(lm, [each])) for each in identities if each.group == group]
    mean = sum(lengths) / len(lengths)
    return (
        "right" if abs(guess / mean - 1) < 0.2 else f"not quite: {mean:.0f} tokens a pass for each person of {group!r}"
    )


check("name first, reversed too", guess=200)
