"""The whole experiment of zhang2024fusion: five modes by four scenarios, and the test of infusion.

    ground = prepare(here, seed=0)
    models = train_modes(lm, ground)
    table = ask(models, ground)                 # one row for every mode and question; `tables` counts them

Modes (Table 3 of the paper): "Direct" asks the model as it is; "SFT" fine-tunes it on the training questions; "CT"
trains it on K_p; "CT&SFT" does both, in this order; "Easy" gives the fine-tuned model the snippets that answer the
question and nothing else. `train_arms` adds what the modes are taken apart by.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pandas as pd

from paramem import tokens
from paramem.editing.targets import of_like_length
from paramem.errors import BadInput, BadParameter, PromptTooLong
from paramem.evaluation.intervals import wilson
from paramem.fusion.documents import Document, Sizes, Split, draw_documents, split_by_date
from paramem.fusion.kept import keeping, kept_fine_tune
from paramem.fusion.questions import COUNTS, SCENARIOS, Question, Scenario, build_questions, statements_of
from paramem.fusion.scoring import Knowledge, accurate, copying, coverage, gold, reference, stated, wrong
from paramem.fusion.training import (
    Augmentation,
    InfusionSettings,
    TrainSettings,
    answer_rows,
    check_untaught,
    infusion_rows,
    infusion_texts,
    matched,
    text_rows,
)
from paramem.interventions import WeightDelta
from paramem.interventions.abreast import abreast
from paramem.lm import LM
from paramem.material import world_behind
from paramem.world.read_rules import REFUSAL
from paramem.world.recipe import Row

if TYPE_CHECKING:
    from paramem.world.core import World

# Of the rows that `graded` finds.
COLUMNS = (
    "mode", "scenario", "question", "people", "noise", "asked", "answer",
    "right", "cover", "complete", "refused", "wrong", "copyable", "copied", "chance",
)  # fmt: skip
MODES = ("Direct", "SFT", "CT", "CT&SFT", "Easy")
ANSWER_TOKENS = 8
# Continued training with parts of the augmentation, for as many tokens as with all of it.
PARTS_OF_IT: Mapping[str, Augmentation] = {
    "CT, pages only": "none",
    "CT, paraphrases": "rewriting",
    "CT, pairs": "questions",
}
# Fine-tuning on the training questions of some cases alone, for as many tokens as on all of them.
TAUGHT: Mapping[str, tuple[Scenario, ...]] = {"SFT, no refusals": ("S1", "S2", "S3"), "SFT, S1 and S4": ("S1", "S4")}


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How much is trained. Learning rates are chosen on development questions, see `choice.chosen_on_dev`."""

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

    def part(self, name: str) -> tuple[Question, ...]:
        """The questions of a part. Raises BadParameter where no part is called so."""
        if name not in self.questions:
            raise BadParameter(f"part={name!r}: there are {', '.join(map(repr, self.questions)) or 'none'}")
        return self.questions[name]

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
    """Draw the people, write about them, split by date and ask. Raises BadParameter, LeakingSplit."""
    sizes = sizes or Sizes()
    documents = draw_documents(here, sizes, seed)
    questions = build_questions(here, documents, sizes, seed, counts=counts)
    return Ground(here=here, sizes=sizes, documents=documents, questions=questions, seed=seed)


def continued(
    lm: LM, ground: Ground, settings: FusionSettings, *, name: str = "CT", full: Sequence[Row] | None = None
) -> LM:
    """The model after continued training on K_p; always for as many tokens as with full augmentation.

    full: the rows of full augmentation, where they are made already. Raises LeakingSplit where it reads a question as
    it is asked.
    """
    texts = infusion_texts(ground.here, ground.split.parametric, settings.infusion, ground.seed)
    check_untaught(texts, [question for part in ground.questions.values() for question in part])
    rows = text_rows(lm, texts)
    if full is None:
        full = rows if settings.infusion == InfusionSettings() else fully_augmented(lm, ground)
    return kept_fine_tune(lm, rows, matched(settings.continued, rows, full), seed=ground.seed, name=name)


def fully_augmented(lm: LM, ground: Ground) -> list[Row]:
    """The rows of continued training with full augmentation: their tokens are what every variant is trained for."""
    return infusion_rows(lm, ground.here, ground.split.parametric, InfusionSettings(), ground.seed)


def supervised(lm: LM, rows: Sequence[Row], ground: Ground, settings: FusionSettings, *, name: str) -> LM:
    """The model after fine-tuning on the rows of questions, see `answer_rows`."""
    return kept_fine_tune(lm, rows, settings.supervised, seed=ground.seed, name=name)


def train_modes(lm: LM, ground: Ground, settings: FusionSettings | None = None) -> dict[str, LM]:
    """The model of every mode. Raises BadInput where no question is there to train on."""
    settings = settings or FusionSettings()
    (rows,) = taught_rows(lm, ground, SCENARIOS)
    infused = continued(lm, ground, settings)
    tuned = supervised(lm, rows, ground, settings, name="SFT")
    both = supervised(infused, rows, ground, settings, name="CT&SFT")
    return {"Direct": lm, "SFT": tuned, "CT": infused, "CT&SFT": both, "Easy": tuned}


def train_arms(lm: LM, ground: Ground, settings: FusionSettings | None = None) -> dict[str, LM]:
    """What the modes are taken apart by: continued training with less augmentation, fine-tuning on fewer cases.

    Raises BadInput where no question of these cases is there to train on.
    """
    settings = settings or FusionSettings()
    everything, *fewer = taught_rows(lm, ground, SCENARIOS, *TAUGHT.values())
    found, full = {}, fully_augmented(lm, ground)
    for name, augmentation in PARTS_OF_IT.items():
        less = replace(settings, infusion=replace(settings.infusion, augmentation=augmentation))
        found[name] = continued(lm, ground, less, name=name, full=full)
    for name, rows in zip(TAUGHT, fewer, strict=True):
        as_long = matched(settings.supervised, rows, everything)
        found[name] = supervised(lm, rows, ground, replace(settings, supervised=as_long), name=name)
    return found


def taught_rows(lm: LM, ground: Ground, *cases: Sequence[Scenario]) -> list[list[Row]]:
    """The rows of the training questions of some cases, for each of several such choices.

    Raises BadInput where a choice leaves none.
    """
    questions = ground.part("train")
    for some in cases:
        if not any(question.scenario in some for question in questions):
            raise BadInput(f"part 'train' has no question of {', '.join(some)} to train on: ask for some with `counts`")
    rows = list(zip(questions, answer_rows(lm, questions), strict=True))
    return [[row for question, row in rows if question.scenario in some] for some in cases]


def train_shipped(lm: LM) -> None:
    """Train all that the default run of `fusion/s1_to_s4` asks, so that it is kept."""
    ground = prepare(world_behind(lm), 0)
    train_modes(lm, ground)
    train_arms(lm, ground)


@contextmanager
def from_nothing() -> Iterator[None]:
    """Inside, every model is trained; none is looked for among those that were kept."""
    with TemporaryDirectory() as folder, keeping(Path(folder)):
        yield


def answers(
    lm: LM, questions: Sequence[Question], *, edits: Sequence[WeightDelta] | None = None
) -> list[tuple[str, ...]]:
    """What the model says to each part of each question, up to the full stop; see `continuations` on edits.

    Two rounds: the second parts are asked behind the model's own first answers. Raises PromptTooLong, see `check_room`.
    """
    check_room(lm, questions)
    said: list[tuple[str, ...]] = [()] * len(questions)
    for turn in range(max((len(question.asked) for question in questions), default=0)):
        waiting = [i for i, question in enumerate(questions) if len(question.asked) > turn]
        mine = None if edits is None else [edits[i] for i in waiting]
        found = continuations(lm, [questions[i].prompt(said[i]) for i in waiting], edits=mine)
        for i, answer in zip(waiting, found, strict=True):
            said[i] = (*said[i], answer)
    return said


def check_room(lm: LM, questions: Sequence[Question]) -> None:
    """Refuse questions whose parts, behind the right answers to those before, leave no room for an answer.

    Raises PromptTooLong, which names the part.
    """
    turns = [(question, i) for question in questions for i in range(len(question.asked))]
    prompts = [question.prompt(question.answers[:i]) for question, i in turns]
    _check_room(lm, prompts, lambda number: f"the question {turns[number][0].texts[turns[number][1]]!r}")


def _check_room(lm: LM, prompts: Sequence[str], called: Callable[[int], str]) -> None:
    """Refuse prompts behind which `ANSWER_TOKENS` do not fit; ``called`` names one by its number."""
    if not prompts:
        return
    batch = tokens.encode(lm.tokenizer, prompts, max_length=sys.maxsize, rewrites=lm.rewrites)
    for number, length in enumerate(batch.lengths.tolist()):
        if length + ANSWER_TOKENS > lm.max_length:
            raise PromptTooLong(
                f"{called(number)} has {length} tokens with what stands before it, and an answer {ANSWER_TOKENS}: "
                f"together they exceed the context of {lm.max_length}; show less beside it, or leave it out"
            )


def continuations(
    lm: LM, prompts: Sequence[str], *, rows: int = 64, edits: Sequence[WeightDelta] | None = None
) -> list[str]:
    """Each prompt continued to its full stop; prompts of like length go through the model together.

    edits: what changes the weights, a change of its own for each prompt; the model's own weights stay as they are.
    Raises PromptTooLong before anything is generated.
    """
    _check_room(lm, prompts, lambda number: f"prompt {number}, which ends in {prompts[number][-60:]!r},")
    found = [""] * len(prompts)
    for chunk in of_like_length([len(prompt) for prompt in prompts], rows, least=rows) if prompts else ():
        with nullcontext() if edits is None else abreast(lm, [edits[i] for i in chunk]):
            texts = lm.generate([prompts[i] for i in chunk], max_new_tokens=ANSWER_TOKENS, stop=".")
        for i, text in zip(chunk, texts, strict=True):
            found[i] = text.strip()
    return found


def graded(
    lm: LM, questions: Sequence[Question], ground: Ground, mode: str, *, numbers: Sequence[int] | None = None
) -> pd.DataFrame:
    """One row for each question, none where there are none.

    Columns: mode, scenario, question (its number), people (whom it asks about), noise (the kind, None where there is
    none), asked (how many parts), answer, right (K_gen within K_ref), cover, complete, refused (all parts), wrong
    (whether an object is stated that no source has), copyable, copied and chance of wrong objects (see `copying`).
    """
    rows = []
    numbers = range(len(questions)) if numbers is None else numbers
    for number, question, answer in zip(numbers, questions, answers(lm, questions), strict=True):
        gen, ref = stated(answer, question, ground.objects), reference(question, ground.parametric)
        errors, cover = wrong(gen, ref), coverage(gen, gold(question))
        possible, copied, chance = copying(errors, question, ground.objects)
        rows.append(
            {
                "mode": mode,
                "scenario": question.scenario,
                "question": number,
                "people": question.people,
                "noise": question.noise,
                "asked": len(question.asked),
                "answer": "; ".join(answer),
                "right": accurate(gen, ref),
                "cover": cover,
                "complete": cover == "complete",
                "refused": all(part == REFUSAL for part in answer),
                "wrong": bool(errors),
                "copyable": possible,
                "copied": copied,
                "chance": chance,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def ask(models: Mapping[str, LM], ground: Ground, *, part: str = "test") -> pd.DataFrame:
    """Every mode on every question, Easy on those that some snippet answers; one row each, see `graded`.

    Raises BadInput without models, BadParameter for a part that is not there, and PromptTooLong, before anybody is
    asked, see `check_room`.
    """
    if not models:
        raise BadInput("there is no model to ask: `train_modes` makes those of the paper")
    everything = list(enumerate(ground.part(part)))
    answerable = [(i, question.supported()) for i, question in everything if question.scenario != "S4"]
    asked = {mode: answerable if mode == "Easy" else everything for mode in models}
    for mode, lm in models.items():
        check_room(lm, [question for _, question in asked[mode]])
    found = [
        graded(models[mode], [question for _, question in some], ground, mode, numbers=[i for i, _ in some])
        for mode, some in asked.items()
    ]
    return pd.concat([table for table in found if len(table)] or found, ignore_index=True)


def posed(
    lm: LM,
    ground: Ground,
    mode: str,
    scenarios: Sequence[Scenario],
    change: Callable[[Question], Question] = lambda question: question,
    *,
    part: str = "test",
) -> pd.DataFrame:
    """The questions of some scenarios, changed; numbered as in `ask`."""
    found = [(i, question) for i, question in enumerate(ground.part(part)) if question.scenario in scenarios]
    return graded(lm, [change(question) for _, question in found], ground, mode, numbers=[i for i, _ in found])


def without_context(lm: LM, ground: Ground, mode: str, *, part: str = "test") -> pd.DataFrame:
    """The questions of S3 with nothing beside them: the paper's test of infusion."""
    return posed(lm, ground, mode, ["S3"], Question.without_context, part=part)


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
