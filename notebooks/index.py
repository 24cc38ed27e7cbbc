# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Start here
#
# `paramem` is a living, executable survey of **parametric knowledge in language models**: where knowledge sits in the weights,
# and how it is changed. Every notebook takes one method, explains it beside its code, runs it on small models trained on a
# known world, and says claim by claim whether what the paper reports shows up here.
#
# Open a notebook from the list below and choose *Run > Run All Cells*. Nothing is downloaded.

# %%
from IPython.display import Markdown

from paramem.bibliography import load_papers
from paramem.catalogue import counts
from paramem.markdown import code, escape, link, table
from paramem.pages import totals
from paramem.project import Project
from paramem.report import committed_results, scores
from paramem.tables import paper_table
from paramem.taxonomy import load_taxonomy

taxonomy, bibliography, results = load_taxonomy(), load_papers(), committed_results(Project.find())
lines = scores(taxonomy, results)

# %% [markdown]
# ## The notebooks

# %%
rows = []
for name, notebook in taxonomy.notebooks.items():
    if name == "index":  # this page
        continue
    measured = [line for line in lines if line.notebook == name and line.holds]
    papers = ", ".join(link(bibliography[key].cite(), bibliography[key].link) for key in notebook.papers)
    rows.append([f"[{escape(notebook.title)}]({name}.ipynb)", papers, counts(measured)])
Markdown(table(["notebook", "papers", "claims here"], rows))

# %% [markdown]
# ## The papers
#
# Type into the search field, or above a column to filter by it; a click on a column's name sorts. In the last column are the
# notebooks, or why there is none.

# %%
paper_table(taxonomy, bibliography, lines)

# %% [markdown]
# ## The same papers, by category

# %%
tree = []
for name, category in taxonomy.category_names():
    tree.append(f"{'  ' * name.count('/')}- **{escape(category.title)}**: {escape(category.about)}")
    for key in taxonomy.papers_in(name, below=False):
        paper, entry = bibliography[key], taxonomy.entries[key]
        where = ", ".join(f"[{n}]({n}.ipynb)" for n in entry.notebooks) or entry.state
        tree.append(
            f"{'  ' * (name.count('/') + 1)}- {escape(paper.cite())}. {link(paper.title, paper.link)} ({where})"
        )
Markdown("\n".join(tree))

# %% [markdown]
# ## The scoreboard
#
# A claim is measured on every testbed of its notebook: models of two architectures, several seeds each. It counts as *reproduced*
# when it holds on at least five of six, as *weaker* when it holds on at least half, and as *undecided* when fewer hold and those that
# could not tell might have changed that. A claim that does not hold is a result, and stays. `paramem show KEY` says why a paper's other claims were not measured.

# %%
measured = [line for line in lines if line.ours or line.holds]
rows = [
    [
        f"[{code(line.claim)}]({line.notebook}.ipynb) {escape(line.says)}",
        escape(line.reported),
        escape(line.ours),
        line.holds,
        line.verdict,
    ]
    for line in measured
]
Markdown(f"{totals(lines)}.\n\n" + table(["claim", "paper", "here", "holds on", "verdict"], rows))

# %% [markdown]
# ## With your own model
#
# The notebooks of the methods take a `model`: a bundled testbed, a local folder or a hub id, and data in the published formats. In
# a terminal:
#
# ```
# paramem run detection/causal_tracing --model gpt2-xl -p dataset=known_1000.json -p window=10 --profile paper
# paramem run editing/rome --model ./my-llama -p dataset=counterfact.json -p text=corpus.txt -p layer=5 --profile paper
# ```
#
# In JupyterLab, change the cell below a notebook's imports and run all.
