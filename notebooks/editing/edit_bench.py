# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Edit bench: try an edit, see what it does
#
# *Choose a fact or type one, choose an editor and its settings, and see the answer, its other wordings, its neighbours and the whole
# world before and after.* The editors are those of the survey ([Zhang et al. 2024](https://arxiv.org/abs/2401.01286),
# `zhang2024knowedit`); nothing is claimed here. Runs in seconds on one CPU core.

# %%
import ipywidgets
from IPython.display import display

from paramem import load
from paramem.benchmarking import materials_for
from paramem.errors import ParamemError
from paramem.evaluation.edit_bench import EditBench
from paramem.material import edits_for, facts_for
from paramem.plots import ripple_strips
from paramem.registry import methods

# %% tags=["parameters"]
model: str = "gpt2-s0"  # a bundled testbed: its world is what is asked
profile: str = "default"
seed: int = 0
layer: int = 0  # the edited layer, for editors that have one
n_offered: int = 12  # edits to choose from

# %%
lm = load(model)
offered = edits_for(lm, n=n_offered, seed=seed, relations="people", part="test")
bench = EditBench.of(lm, facts_for(lm), materials_for(lm, {"offered": offered}))
editors = [each.name for each in methods("editor")]
print(f"{lm.name}: {len(bench.facts)} facts, {len(editors)} editors")
print(*editors, sep=", ")

# %% [markdown]
# ## One edit
#
# ROME on the first of the offered facts. Which of the questions below should change, and which should not? Predict, then read the
# last column.


# %%
def edit(prompt, subject, new, editor, layer=layer, settings=""):
    try:
        tried = bench.attempt(editor, bench.typed(prompt, subject, new), layer=layer, settings=settings)
    except ParamemError as error:
        return print(error)
    display(tried.answers)
    return ripple_strips(*tried.strips(), xlabel="answers that changed")


first = offered[0]
edit(first.prompt, first.subject, first.target_new, "rome")

# %% [markdown]
# The picture: a row a relation, a column a subject; white where the right answer kept its probability, black where it lost it, blue
# where there is no such fact or the model did not know it. On the right, the share of answers that changed.
#
# ## Any edit
#
# In JupyterLab, choose one of the offered edits or "typed below", and press the button. Settings are those of the editor's class,
# written as `steps=40, clamp=2.0`; leave them empty for the papers' own.

# %%
choices = {f"{each.prompt} -> {each.target_new}": each for each in offered}


def choose(offer, prompt, subject, new, editor, layer, settings):
    each = choices.get(offer)
    chosen = (prompt, subject, new) if each is None else (each.prompt, each.subject, each.target_new)
    return edit(*chosen, editor, layer, settings)


wide = {"layout": {"width": "34em"}, "style": {"description_width": "5em"}}
texts = {"prompt": "The capital of France is", "subject": "France", "new": "Marseille", "settings": ""}
controls = {name: ipywidgets.Text(text, description=name, **wide) for name, text in texts.items()}
controls |= {
    "offer": ipywidgets.Dropdown(options=["typed below", *choices], value="typed below", description="edit", **wide),
    "editor": ipywidgets.Dropdown(options=editors, value="rome", description="editor", **wide),
    "layer": ipywidgets.IntSlider(layer, 0, lm.n_layers - 1, description="layer", **wide),
}
order = ("offer", "prompt", "subject", "new", "editor", "layer", "settings")
ipywidgets.interactive(choose, {"manual": True, "manual_name": "edit"}, **{name: controls[name] for name in order})

# %% [markdown]
# The same call without the widget, so that its answer stands on the page; and the same edit by another editor. Compare the row of
# capitals in the two pictures: fine-tuning lowers those of other countries more than ROME does, and changes one.

# %%
choose("typed below", "The capital of France is", "France", "Marseille", "rome", layer, "")

# %%
choose("typed below", "The capital of France is", "France", "Marseille", "ft-m", layer, "steps=40")

# %% [markdown]
# What cannot be done is said in one sentence, and the model is as it was.

# %%
before = lm.fingerprint()
for typed in (
    ("The capital of France is", "Spain", "Marseille", "rome", layer, ""),
    ("The capital of France is", "France", "Paris", "rome", layer, ""),
    ("The capital of France is", "France", "Marseille", "rome", 99, ""),
    ("The capital of France is", "France", "Marseille", "rome", layer, "stepz=3"),
    ("The capital of France is", "France", "Marseille", "rome", layer, "40 steps"),
):
    edit(*typed)
print("weights as before:", lm.fingerprint() == before)

# %% [markdown]
# ## Exercises
#
# 1. Find an edit that ROME makes at layer 0 and not at the last layer. What does the subject's last token know there?
# 2. Give ROME `covariance=False`. Which part of the picture changes? Name the class, and run the checker.


# %%
def check(answer):
    request = bench.typed(first.prompt, first.subject, first.target_new)
    found = {
        c: bench.attempt("rome", request, layer=layer, settings={"covariance": c}).strips()[1] for c in (True, False)
    }
    moved = {c: table.set_index("shares")["moved"] for c, table in found.items()}
    most = (moved[False] - moved[True]).idxmax()
    return "right" if answer == most else "not quite: compare the right-hand panels"


check("object")
