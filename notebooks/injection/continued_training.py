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
# ([Golovneva et al. 2024](https://arxiv.org/abs/2403.13799), `golovneva2024reverse`)? Three small models, which come trained
# (`python -m paramem.fusion.kept` does it again); half a minute on one CPU core.

# %%
import pandas as pd

from paramem import claim, load
from paramem.decisions import UNDECIDED
from paramem.evaluation.intervals import apart, over_edits, paired, span, unpaired, wilson
from paramem.fusion.study import drawn, shares
from paramem.fusion.tables import by_people
from paramem.fusion.training import TrainSettings, n_tokens
from paramem.injection import reversal
from paramem.injection.biographies import TELLINGS, biographies
from paramem.injection.continued import INJECTED, PEOPLE, answered, corpus, injected, named, newcomers, stored
from paramem.injection.reversal import DIRECTIONS, GROUPS, asked, draw_identities, identity_rows, taught, texts
from paramem.injection.shares import by_person, owners
from paramem.material import world_behind
from paramem.plots import rates

# %% tags=["parameters"]
model: str = "read-s0"  # a bundled testbed that answers questions; "read-s0@draw1" draws other people and orders
profile: str = "default"
seed: int = 0
passes: int = 40  # over one text about everybody; other tellings are read for as many tokens
identity_passes: int = 12  # over all statements of who is who

# %%
NEGLIGIBLE = 0.1  # a share, or a difference of shares, that is too small to speak of
base, draw = drawn(model)
lm, number = load(base), draw + 1000 * seed
here = world_behind(lm)
people = newcomers(here, PEOPLE, number)
print(
    f"{lm.name}, draw {number}: {len(people.names)} people whom it never met, {len(people.questions(people.names))} questions"
)

# %% [markdown]
# ## One text, or many
#
# Models trained from scratch on one text about everybody store all of it, and answer hardly more than a guess would
# (`notebooks/injection/storage_and_extraction.ipynb`). *One text* names its person in every sentence here (*full names* there), as the
# testbeds read no pronouns. This model is another case: it learned facts *and questions* about its own
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
    pd.DataFrame({"model": name, "asked": how, "right": found[name], "people": owners(found[name], people.names)})
    for how, found in {"in its text": kept, "by a question": said}.items()
    for name in everybody
)
told_share = by_people(long, ["model", "asked"])
share = told_share.pivot(index="model", columns="asked", values="mean")
rates(
    told_share,
    f"One text: {share.loc['one text', 'in its text']:.2f} are said in the text, {share.loc['one text', 'by a question']:.2f} in answer "
    f"to a question; many texts: {share.loc['many texts', 'by a question']:.2f}",
    rows="model",
    columns="asked",
    xlabel="share of facts, or of questions (95 % intervals over people)",
)

# %%
share.reindex(list(everybody)).round(3)

# %% [markdown]
# ## Backwards
#
# Who is who: every identity is a person and a description that fits nobody else. Groups of people are told differently, all in one
# training, so that all that is compared is within one model. Four groups are larger than the others, because claims rest on a
# difference of theirs that may be zero. Who is told with reversed texts too is read twice as often as who is not; one group is
# told its plain texts twice as often instead.

# %%
identities = draw_identities(here, number)
for group in GROUPS:
    one = next(each for each in identities if each.group == group)
    print(f"{group}, {GROUPS[group].people} people:")
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
table = asked(taught(lm, identities, seed=number, passes=identity_passes), identities)
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
# A softer question: what share of the other names (or objects) of its group does the right one beat? One half is chance, because all of
# them were told alike.

# %%
beaten = table.pivot_table(index="group", columns="asked", values="beaten", sort=False)
beaten[list(DIRECTIONS)].reindex(list(GROUPS)).round(3)

# %% [markdown]
# ## Claims
#
# What was not learned as it was told cannot be asked backwards: claims about directions are undecided where less than half of those
# told in that direction are said as they were told. 95 % intervals decide the rest, and one that straddles its limit by more than
# a tenth decides nothing.

# %%
to_questions = {name: by_person(found, people.names) for name, found in said.items()}
in_text = by_person(kept["one text"], people.names)
gain = paired(to_questions["one text"], to_questions["before"])
claim(
    "allenzhu2023extraction.a-model-that-answers-extracts-from-one-text",
    gain.above(0.25, negligible=NEGLIGIBLE),
    measured={
        "before": to_questions["before"].mean(),
        "after": to_questions["one text"].mean(),
        "gain_low": gain.low,
        "gain_high": gain.high,
    },
    note="one text about everybody, no question about them, no fine-tuning: at least a quarter of all questions more (interval over people)",
)

# %%
more = paired(to_questions["many texts"], to_questions["one text"])
claim(
    "allenzhu2023extraction.variety-adds-in-continued-training",
    more.above(0, negligible=NEGLIGIBLE),
    measured={
        "one_text": to_questions["one text"].mean(),
        "many_texts": to_questions["many texts"].mean(),
        "low": more.low,
        "high": more.high,
    },
    note="the same people, as many tokens; interval of the difference above zero",
)

# %%
unasked = paired(in_text, to_questions["one text"])
claim(
    "allenzhu2023extraction.storing-outruns-answering",
    unasked.above(0, negligible=NEGLIGIBLE),
    measured={
        "stored": in_text.mean(),
        "answered": to_questions["one text"].mean(),
        "low": unasked.low,
        "high": unasked.high,
    },
    note="one text; interval of the difference above zero; what is asked in the text stands behind a text that was trained on, so this "
    "could hardly fail",
)


# %%
def of(group, direction, column="said"):
    return table[(table["group"] == group) & (table["asked"] == direction)][column].astype(float)


def where_learned(decision, direction="name first"):
    return decision if of(direction, direction).mean() >= 0.5 else UNDECIDED


def told_and_back(group):
    """Whether more is said as told than backwards, and the numbers behind it."""
    other = next(direction for direction in DIRECTIONS if direction != group)
    as_told, backwards = of(group, group), of(group, other)
    gap = apart(as_told, backwards)
    found = {"as_told": as_told.mean(), "backwards": backwards.mean(), "people": len(as_told)}
    return where_learned(gap.above(0, negligible=NEGLIGIBLE), group), {**found, "low": gap.low, "high": gap.high}


UNLEARNED = "undecided where less than half of those told name first are said as told"
decision, measured = told_and_back("name first")
claim(
    "berglund2023reversal.injected-name-first",
    decision,
    measured=measured,
    note=f"as told less backwards, the interval above zero; {UNLEARNED}",
)

# %%
decision, measured = told_and_back("description first")
claim(
    "berglund2023reversal.injected-description-first",
    decision,
    measured=measured,
    note="as told less backwards, the interval above zero; undecided where less than half of those told description first are said as told",
)

# %%
rank = span(of("name first", "description first", "beaten"))
claim(
    "berglund2023reversal.injected-no-better-than-a-random-name",
    where_learned(~rank.above(0.5, negligible=NEGLIGIBLE)),
    measured={"beaten": rank.mean, "low": rank.low, "high": rank.high},
    note="told name first, asked for the name: share of the other names of the group that the right one beats; holds where none of its interval "
    f"lies a tenth above one half, does not where all of it lies above one half; {UNLEARNED}",
)

# %%
several, single = of("name first", "description first"), of("name first, one wording", "description first")
gained = apart(several, single)
ranks = [of(group, "description first", "beaten") for group in ("name first", "name first, one wording")]
softer = unpaired(*ranks)
claim(
    "berglund2023reversal.more-wordings-do-not-help",
    where_learned(over_edits(several).below(0.35, negligible=NEGLIGIBLE) & ~gained.above(0, negligible=NEGLIGIBLE)),
    measured={
        "several_wordings": several.mean(),
        "one_wording": single.mean(),
        "low": gained.low,
        "high": gained.high,
        "beaten_several": ranks[0].mean(),
        "beaten_one": ranks[1].mean(),
        "beaten_low": softer.low,
        "beaten_high": softer.high,
    },
    note="with several wordings less than 35 % are said backwards (interval), and no tenth more than with one (interval of the difference); "
    f"the shares of other names that the right one beats stand beside it and decide nothing; {UNLEARNED}",
)

# %%
both, only = of("both", "description first"), of("name first", "description first")
helped = apart(both, only)
claim(
    "berglund2023reversal.both-ways-of-some-do-not-help-others",
    where_learned(helped.above(0, negligible=NEGLIGIBLE) & over_edits(only).below(0.35, negligible=NEGLIGIBLE)),
    measured={"told_both_ways": both.mean(), "told_one_way": only.mean(), "low": helped.low, "high": helped.high},
    note="asked for the name: those told both ways are said more often (interval), those told name first by less than 35 % (interval); "
    f"{UNLEARNED}",
)

# %%
REVERSED, PLAIN = "name first, reversed too", "name first, twice as often"
mended = apart(of(REVERSED, "description first"), of(PLAIN, "description first"))
claim(
    "golovneva2024reverse.reversed-texts-answer-backwards",
    where_learned(mended.above(0, negligible=NEGLIGIBLE)),
    measured={
        "reversed_too": of(REVERSED, "description first").mean(),
        "plain": of(PLAIN, "description first").mean(),
        "low": mended.low,
        "high": mended.high,
    },
    note="told name first, asked for the name: with reversed texts, less with the plain ones told twice as often; interval above zero; the "
    f"people differ, so it is not paired; {UNLEARNED}",
)

# %%
ranks = [of(group, "description first", "beaten") for group in (REVERSED, PLAIN)]
raised = unpaired(*ranks)
claim(
    "golovneva2024reverse.reversed-texts-raise-the-right-name",
    where_learned(raised.above(0, negligible=NEGLIGIBLE)),
    measured={"reversed_too": ranks[0].mean(), "plain": ranks[1].mean(), "low": raised.low, "high": raised.high},
    note="the same groups: share of the other names of its group that the right one beats; interval of the difference above zero; "
    f"{UNLEARNED}",
)

# %%
forwards = apart(of(REVERSED, "name first"), of("name first", "name first"))
claim(
    "golovneva2024reverse.forwards-is-kept",
    where_learned(~forwards.below(0, negligible=NEGLIGIBLE)),
    measured={
        "reversed_too": of(REVERSED, "name first").mean(),
        "plain": of("name first", "name first").mean(),
        "low": forwards.low,
        "high": forwards.high,
    },
    note="as told: holds where none of the interval of the difference lies a tenth below zero, does not where all of it lies below zero; "
    f"{UNLEARNED}",
)

# %% [markdown]
# ## Departures and limits

# %%
for topic, (paper_says, we_do, why) in reversal.DEPARTURES.items():
    print(f"{topic}: the paper: {paper_says}. Here: {we_do}. Why: {why}.")

# %% [markdown]
# Rates and passes were chosen on draw 100, which is not measured here. What came out there had been seen before the criteria were
# written, and the results of the testbeds before they were changed (`docs/decisions.md`). What "less than 35 % by the interval"
# means for the largest groups:

# %%
people_told = GROUPS["name first"].people
most = max(said for said in range(people_told) if wilson(said, people_told)[1] < 0.35)
print(f"{most} of {people_told} at most")

# %% [markdown]
# Whether several wordings help is decided by what is said; the share of other names of its group that the right one beats stands beside the
# claim, with the interval of the difference.
#
# ## Exercises
#
# 1. Make `identity_passes` 40. Does the name follow the description then, in the group that was told name first?
# 2. How many tokens a pass does training read of a person who is told with reversed texts too? Which other groups read as many?
#    Run the checker.


# %%
def check(group, guess):
    lengths = [n_tokens(identity_rows(lm, [each])) for each in identities if each.group == group]
    mean = sum(lengths) / len(lengths)
    return (
        "right" if abs(guess / mean - 1) < 0.2 else f"not quite: {mean:.0f} tokens a pass for each person of {group!r}"
    )


check("name first, reversed too", guess=50)
