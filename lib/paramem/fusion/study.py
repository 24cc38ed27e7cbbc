"""The whole experiment of zhang2024fusion: five modes by four scenarios, and the test of infusion.

    ground = prepare(lm, here, seed=0)
    models = train_modes(lm, ground)
    table = ask(models, ground)                 # one row for every mode and question
    table_3(table)

Modes (Table 3 of the paper): "Direct" asks the model as it is; "SFT" fine-tunes it on the training questions; "CT"
trains it on K_p; "CT&SFT" does both, in this order; "Easy" gives the fine-tuned model the snippets that answer the
question and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from paramem.errors import BadParameter
from paramem.evaluation.intervals import apart as apart
from paramem.evaluation.intervals import wilson
from paramem.fusion.documents import Document, Sizes, Split, draw_documents, split_by_date
from paramem.fusion.kept import kept_fine_tune
from paramem.fusion.questions import COUNTS, SCENARIOS, Question, Scenario, build_questions, statements_of
from paramem.fusion.scoring import Knowledge, accurate, coverage, gold, reference, stated, wrong
from paramem.fusion.training import InfusionSettings, TrainSettings, answer_rows, infusion_rows, matched
from paramem.interventions import WeightDelta
from paramem.interventions.abreast import abreast
from paramem.lm import LM
from paramem.world.read_rules import REFUSAL

if TYPE_CHECKING:
    from paramem.world.core import World

MODES = ("Direct", "SFT", "CT", "CT&SFT", "Easy")
ANSWER_TOKENS = 8

# Where we do something else than the paper says: topic -> (what it says, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "snippets": (
        "paragraphs of 500 to 600 characters from web pages on phones",
        "one sentence each, on one attribute of an invented person",
        "the context of the testbeds is 192 tokens, and every statement has to be known",
    ),
    "questions": (
        "written by a language model from one or two snippets, answered in one text",
        "the relation's question in one of two wordings; on two snippets two of them, asked one after the other",
        "answers can be decided without a judge; and 630 examples do not teach the testbeds to answer two in one",
    ),
    "parts": (
        "training, development and test questions; nothing is said about what they share",
        "they are about different people",
        "an answer of the test would else be taught by a training question",
    ),
    "number of snippets": (
        "a distribution shown in a figure; stated are the shares of five and of three",
        "those shares, and the rest spread equally over one, two and four",
        "the figure's numbers are not printed",
    ),
    "noise on one entity": (
        "snippets on different attributes of a single product",
        "of the person asked about where K_e has a page on them, else of another one",
        "K_e has no page on the people of K_p",
    ),
    "refusals": (
        "K_gen of a refusal is not defined",
        "it states that what was asked is unknown, which is in K_ref where neither side holds it",
        "an empty set would be within every K_ref, and every refusal right",
    ),
    "easy": (
        "the caption adds the supporting snippets, the text says that they come with distractors",
        "the supporting snippets alone, to the fine-tuned model",
        "in S1, where the others get them too, the setting would else be the same as SFT",
    ),
    "optimisation": (
        "not stated",
        "all weights, the same schedule for all modes, chosen on development questions of a draw that is not measured",
        "something has to be chosen, and not on the test",
    ),
}


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How much is trained. Chosen on the development questions of a draw of its own, see `chosen_on_dev`."""

    infusion: InfusionSettings = field(default_factory=InfusionSettings)
    continued: TrainSettings = field(default_factory=lambda: TrainSettings(passes=8, lr=1e-3))
    supervised: TrainSettings = field(default_factory=lambda: TrainSettings(passes=3, lr=2e-4))


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Documents, their split, and the questions of each part."""

    here: World
    sizes: Sizes
    documents: tuple[Document, ...]
    questions: Mapping[str, tuple[Question, ...]]
    seed: int

    @cached_property
    def split(self) -> Split:
        return split_by_date(self.documents, self.sizes.cutoff)

    @cached_property
    def parametric(self) -> Knowledge:
        """All that K_p says."""
        return statements_of(self.split)

    @cached_property
    def objects(self) -> Mapping[str, tuple[str, ...]]:
        """Attribute -> what it can be."""
        return {relation.id: self.here.objects(relation.id) for relation in self.here.relations}


def drawn(name: str) -> tuple[str, int]:
    """A base model and the number of a draw: ("read-s0@draw2") -> ("read-s0", 2); without a number, draw 0.

    Raises BadParameter where the number cannot be read.
    """
    base, _, draw = name.partition("@draw")
    if "@draw" in name and not draw.isdecimal():
        raise BadParameter(f"{name!r} names no draw; write {base}@draw1, or {base} for the first one")
    return base, int(draw or 0)


def prepare(
    here: World,
    seed: int,
    *,
    sizes: Sizes | None = None,
    counts: Mapping[str, Mapping[Scenario, int]] = COUNTS,
) -> Ground:
    """Draw the people, write about them, split by date and ask. Raises LeakingSplit."""
    sizes = sizes or Sizes()
    documents = draw_documents(here, sizes, seed)
    questions = build_questions(here, documents, sizes, seed, counts=counts)
    return Ground(here=here, sizes=sizes, documents=documents, questions=questions, seed=seed)


def continued(lm: LM, ground: Ground, settings: FusionSettings, *, name: str = "CT") -> LM:
    """The model after continued training on K_p; always for as many tokens as with full augmentation."""
    rows = infusion_rows(lm, ground.here, ground.split.parametric, settings.infusion, ground.seed)
    full = infusion_rows(lm, ground.here, ground.split.parametric, InfusionSettings(), ground.seed)
    return kept_fine_tune(lm, rows, matched(settings.continued, rows, full), seed=ground.seed, name=name)


def supervised(lm: LM, questions: Sequence[Question], ground: Ground, settings: FusionSettings, *, name: str) -> LM:
    """The model after fine-tuning on the questions."""
    return kept_fine_tune(lm, answer_rows(lm, questions), settings.supervised, seed=ground.seed, name=name)


def train_modes(lm: LM, ground: Ground, settings: FusionSettings | None = None) -> dict[str, LM]:
    """The model of every mode."""
    settings = settings or FusionSettings()
    taught = ground.questions["train"]
    infused = continued(lm, ground, settings)
    tuned = supervised(lm, taught, ground, settings, name="SFT")
    both = supervised(infused, taught, ground, settings, name="CT&SFT")
    return {"Direct": lm, "SFT": tuned, "CT": infused, "CT&SFT": both, "Easy": tuned}


def answers(
    lm: LM, questions: Sequence[Question], *, edits: Sequence[WeightDelta] | None = None
) -> list[tuple[str, ...]]:
    """What the model says to each part of each question, up to the full stop; see `continuations` on edits.

    Two rounds: the second parts are asked behind the model's own first answers.
    """
    said: list[tuple[str, ...]] = [()] * len(questions)
    for turn in range(max(len(question.asked) for question in questions)):
        waiting = [i for i, question in enumerate(questions) if len(question.asked) > turn]
        mine = None if edits is None else [edits[i] for i in waiting]
        found = continuations(lm, [questions[i].prompt(said[i]) for i in waiting], edits=mine)
        for i, answer in zip(waiting, found, strict=True):
            said[i] = (*said[i], answer)
    return said


def continuations(
    lm: LM, prompts: Sequence[str], *, rows: int = 64, edits: Sequence[WeightDelta] | None = None
) -> list[str]:
    """Each prompt continued to its full stop; prompts of like length go through the model together.

    edits: what changes the weights, a change of its own for each prompt; the model's own weights stay as they are.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found = [""] * len(prompts)
    for start in range(0, len(order), rows):
        chunk = order[start : start + rows]
        with nullcontext() if edits is None else abreast(lm, [edits[i] for i in chunk]):
            texts = lm.generate([prompts[i] for i in chunk], max_new_tokens=ANSWER_TOKENS, stop=".")
        for i, text in zip(chunk, texts, strict=True):
            found[i] = text.strip()
    return found


def graded(lm: LM, questions: Sequence[Question], ground: Ground, mode: str) -> pd.DataFrame:
    """One row for each question.

    Columns: mode, scenario, question (its number), noise, answer, right (K_gen within K_ref), cover, complete,
    refused, wrong (whether an object is stated that no source has), copied (whether one of these stands in the
    evidence).
    """
    rows = []
    for number, (question, answer) in enumerate(zip(questions, answers(lm, questions), strict=True)):
        gen, ref = stated(answer, question, ground.objects), reference(question, ground.parametric)
        errors, shown = wrong(gen, ref), {snippet.object for snippet in question.evidence}
        rows.append(
            {
                "mode": mode,
                "scenario": question.scenario,
                "question": number,
                "noise": question.noise,
                "asked": len(question.asked),
                "answer": "; ".join(answer),
                "right": accurate(gen, ref),
                "cover": coverage(gen, gold(question)),
                "refused": all(part == REFUSAL for part in answer),
                "wrong": bool(errors),
                "copied": bool(errors & shown),
            }
        )
    return pd.DataFrame(rows)


def ask(models: Mapping[str, LM], ground: Ground, *, part: str = "test") -> pd.DataFrame:
    """Every mode on every question, Easy on those that some snippet answers; one row each, see `graded`."""
    questions = ground.questions[part]
    return pd.concat(
        [
            graded(lm, [q.supported() for q in questions if q.scenario != "S4"], ground, mode)
            if mode == "Easy"
            else graded(lm, questions, ground, mode)
            for mode, lm in models.items()
        ],
        ignore_index=True,
    )


def without_context(lm: LM, ground: Ground, mode: str, *, part: str = "test") -> pd.DataFrame:
    """The questions of S3 with nothing beside them: the paper's test of infusion; numbered as in `ask`."""
    found = [(i, q) for i, q in enumerate(ground.questions[part]) if q.scenario == "S3"]
    table = graded(lm, [q.without_context() for _, q in found], ground, mode)
    return table.assign(question=[i for i, _ in found])


def summary(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Accuracy and the three degrees of coverage in per cent, by the keys in the order of the rows; coverage of S4,
    where the right answer has no content, is left out."""
    found = pd.DataFrame(
        {
            "accuracy": table.groupby(list(keys), sort=False)["right"].mean(),
            **{
                degree: table.assign(hit=table["cover"] == degree).groupby(list(keys), sort=False)["hit"].mean()
                for degree in ("complete", "partial", "uncover")
            },
        }
    )
    return (100 * found).round(1)


def table_2(table: pd.DataFrame) -> pd.DataFrame:
    """Our Table 2: one row a model."""
    return summary(table, ["mode"])


def table_3(table: pd.DataFrame) -> pd.DataFrame:
    """Our Table 3: scenario and measure by mode; no coverage in S4."""
    found = summary(table, ["scenario", "mode"]).stack().rename_axis(["scenario", "mode", "measure"])
    wide = pd.DataFrame(found.unstack("mode"))
    order = [(s, m) for s in SCENARIOS for m in ("accuracy", "complete", "partial", "uncover")]
    wide = wide.reindex([key for key in order if key in wide.index and (key[0] != "S4" or key[1] == "accuracy")])
    return wide[[mode for mode in MODES if mode in wide.columns]]


def of(table: pd.DataFrame, mode: str, scenario: str, column: str = "right") -> pd.Series:
    """One column of one mode in one scenario, by question."""
    rows = table[(table["mode"] == mode) & (table["scenario"] == scenario)]
    return rows.set_index("question")[column].astype(float)


def shares(table: pd.DataFrame, keys: Sequence[str], column: str = "right") -> pd.DataFrame:
    """Shares with Wilson's 95 % intervals, tidy: the keys, mean, low, high, n; in the order of the rows."""
    found = table.groupby(list(keys), sort=False)[column].agg(["sum", "size"]).reset_index()
    ends = [wilson(float(k), int(n)) for k, n in zip(found["sum"], found["size"], strict=True)]
    return found[list(keys)].assign(
        mean=found["sum"] / found["size"],
        low=[low for low, _ in ends],
        high=[high for _, high in ends],
        n=found["size"],
    )
