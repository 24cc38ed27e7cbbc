"""Continued training and supervised fine-tuning of a small model, all weights, on rows of tokens.

    rows = infusion_rows(lm, here, split.parametric, InfusionSettings(), seed=0)
    after = fine_tune(lm, rows, TrainSettings(passes=8, lr=1e-3), seed=0)
    tuned = fine_tune(after, answer_rows(after, questions), TrainSettings(passes=3, lr=2e-4), seed=0)

Steps 3 and 4 of zhang2024fusion's pipeline: K_p is injected by continued training on its documents, with a paraphrase
and question-answer pairs of each (section 5, after allenzhu2023extraction) or without; then the model is fine-tuned on
the training questions. The model given stays as it is.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from paramem.errors import BadInput, BadParameter, PromptTooLong
from paramem.fusion.documents import Document, LeakingSplit, Snippet, say
from paramem.fusion.questions import Question, wordings
from paramem.lm import LM
from paramem.world.recipe import Row, Stage, batches, collate
from paramem.world.training import optimiser

if TYPE_CHECKING:
    from paramem.world.core import World

Augmentation: TypeAlias = Literal["none", "rewriting", "questions", "both"]


@dataclass(frozen=True, kw_only=True)
class InfusionSettings:
    """What continued training reads of each document.

    augmentation  none: the document; rewriting: a paraphrase of it too; questions: question-answer pairs too; or both
    pairs         question-answer pairs of a document: a page of five sentences has five in wordings that are not asked
    """

    augmentation: Augmentation = "both"
    pairs: int = 5

    def __post_init__(self) -> None:
        if self.augmentation not in get_args(Augmentation):
            raise BadParameter(
                f"augmentation={self.augmentation!r}: it is one of {', '.join(map(repr, get_args(Augmentation)))}"
            )
        if self.pairs < 1:
            raise BadParameter(f"pairs={self.pairs}: at least one question-answer pair; or choose another augmentation")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """AdamW on all weights: linear warm-up, constant, then linear to (nearly) nothing; no weight decay.

    passes: how often all rows are seen; tokens: of a step.
    """

    passes: float
    lr: float
    tokens: int = 1024
    warmup: float = 0.1
    decay_from: float = 0.5

    def __post_init__(self) -> None:
        if not (0 < self.passes < math.inf and 0 < self.lr < math.inf and self.tokens >= 1):
            raise BadParameter(f"{self}: passes, lr and tokens are positive numbers")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay_from <= 1):
            raise BadParameter(f"{self}: warmup and decay_from are shares of the steps, from 0 to 1")


def infusion_rows(
    lm: LM, here: World, documents: Sequence[Document], settings: InfusionSettings, seed: int = 0
) -> list[Row]:
    """Every text of `infusion_texts` as a row; all tokens count alike."""
    return text_rows(lm, infusion_texts(here, documents, settings, seed))


def infusion_texts(here: World, documents: Sequence[Document], settings: InfusionSettings, seed: int = 0) -> list[str]:
    """Every document, its paraphrase and its question-answer pairs. Raises BadParameter for more pairs than it has.

    seed: that of the questions, so that none is trained in the wording in which it is asked.
    """
    rng = random.Random(f"fusion/infusion/{seed}")
    return [text for document in documents for text in _texts(here, document, settings, seed, rng)]


def _texts(here: World, document: Document, settings: InfusionSettings, seed: int, rng: random.Random) -> Iterator[str]:
    """Draws the same numbers whatever the augmentation, so that variants differ in nothing else."""
    paraphrase = " ".join(snippet.text for snippet in reworded(here, document, rng))
    available = question_pairs(here, document, seed)
    if settings.pairs > len(available):
        raise BadParameter(f"pairs={settings.pairs}: {document.name!r} has {len(available)} in wordings not asked")
    pairs = rng.sample(available, settings.pairs)
    yield document.text
    if settings.augmentation in ("rewriting", "both"):
        yield paraphrase
    if settings.augmentation in ("questions", "both"):
        yield from (f"{question} {answer}." for question, answer in pairs)


def reworded(here: World, document: Document, rng: random.Random) -> Iterator[Snippet]:
    """The document's sentences in random order, each in another wording."""
    for snippet in rng.sample(document.snippets, len(document.snippets)):
        wordings = range(len(here.relation(snippet.attribute).templates["en"]))
        others = [say(here, snippet.cell, snippet.object, wording) for wording in wordings]
        yield rng.choice([other for other in others if other != snippet])


def question_pairs(here: World, document: Document, seed: int) -> list[tuple[str, str]]:
    """Every question about one of its sentences, in every wording in which it is not asked, with the answer."""
    return [(text, snippet.object) for snippet in document.snippets for text in wordings(here, snippet.cell, seed)[1]]


def check_untaught(texts: Iterable[str], questions: Sequence[Question]) -> None:
    """Refuse training texts that hold a question as it is asked: its answer would be recited. Raises LeakingSplit."""
    asked = {part: question.scenario for question in questions for part in question.texts}
    for text in texts:
        for part, scenario in asked.items():
            if part in text:
                raise LeakingSplit(
                    f"the question {part!r} is asked in {scenario}, and continued training reads it with its answer: "
                    "train it in another wording, with the seed of the questions"
                )


def answer_rows(lm: LM, questions: Sequence[Question]) -> list[Row]:
    """Each question behind its evidence, every part followed by its answer; the loss is that of answers and full stops.

    Raises PromptTooLong when one does not fit into the context.
    """
    if not questions:
        raise BadInput("there are no questions to train on")
    turns = [(question, i) for question in questions for i in range(len(question.asked))]
    batch = lm.encode(
        [question.prompt(question.answers[:i]) for question, i in turns],
        [f"{question.answers[i]}." for question, i in turns],
    )
    rows: list[Row] = []
    starts, ends = batch.prompt_lengths.tolist(), batch.lengths.tolist()
    for (_, i), ids, start, end in zip(turns, batch.input_ids.tolist(), starts, ends, strict=True):
        before = list(rows.pop()[1]) if i else []
        weights = before + [0.0] * (start - len(before)) + [1.0] * (end - start)
        rows.append((ids[:end], weights))
    return rows


def text_row(lm: LM, text: str) -> Row:
    """A text between the tokens that begin and end one. Raises BadInput for an empty one and for a tokenizer without an
    end token, PromptTooLong."""
    (row,) = text_rows(lm, [text])
    return row


def text_rows(lm: LM, texts: Sequence[str]) -> list[Row]:
    """Each text as `text_row` has it, all of them tokenised in one call. Raises as there, and BadInput for no text."""
    if not all(text.strip() for text in texts):
        raise BadInput("an empty passage is to be trained on: leave it out")
    end = lm.tokenizer.eos_token_id
    if end is None:
        raise BadInput(f"the tokenizer of {lm.name} has no end token, with which every text ends: set its eos_token")
    batch, rows = lm.encode(texts), list[Row]()
    for text, padded, length in zip(texts, batch.input_ids.tolist(), batch.lengths.tolist(), strict=True):
        ids = [*padded[:length], int(end)]
        if len(ids) > lm.max_length:
            raise PromptTooLong(
                f"the text {text[:40]!r} has {len(ids)} tokens, the context {lm.max_length}: shorten it"
            )
        rows.append((ids, [1.0] * len(ids)))
    return rows


def steps_per_pass(rows: Sequence[Row], settings: TrainSettings) -> int:
    """Steps in which all rows are seen once."""
    return max(1, round(n_tokens(rows) / settings.tokens))


def plan(rows: Sequence[Row], settings: TrainSettings, seed: int) -> Iterator[tuple[float, list[Row]]]:
    """(learning rate, batch) of every step: passes over all rows in random order, batches of rows of like length.

    Raises BadParameter where a row is so much longer than a step that another step would be left without any.
    """
    each = steps_per_pass(rows, settings)
    steps = max(1, round(settings.passes * each))
    warmup = max(1, round(settings.warmup * steps))
    stage = Stage(steps=steps, lr=settings.lr, warmup=warmup, decay_from=settings.decay_from, pool=each, cut="tokens")
    rng = random.Random(f"fusion/order/{seed}")
    for start in range(0, steps, each):
        shuffled = rng.sample(rows, len(rows))
        try:
            cut = batches(shuffled, stage, rng)
        except BadParameter as error:
            longest = max(len(ids) for ids, _ in rows)
            raise BadParameter(
                f"tokens={settings.tokens}: the longest row has {longest}, so that {len(rows)} rows do not fill {each} "
                f"steps of so many: give a step {math.ceil(longest * 4 / 3)} tokens, or cut that row"
            ) from error
        for number, batch in enumerate(cut[: steps - start], start):
            yield stage.learning_rate(number), batch


def fine_tune(
    lm: LM,
    rows: Sequence[Row],
    settings: TrainSettings,
    *,
    seed: int = 0,
    name: str = "",
    watch: Callable[[float, LM], None] | None = None,
    train: Callable[[LM], Iterable[nn.Parameter]] | None = None,
    during: Callable[[LM], AbstractContextManager[object]] = nullcontext,
) -> LM:
    """A copy of the model after training on the rows. Raises BadInput without rows.

    watch: called with the number of passes done and the model as it is, after every whole pass.
    train: the parameters of the copy that are trained (all of them by default).
    during: what the copy is under while it takes a step.
    """
    if not rows:
        raise BadInput(f"{lm.name} is to be trained on no rows")
    after = LM.of(copy.deepcopy(lm.model), lm.tokenizer, name or lm.name)
    for parameter in after.model.parameters() if train is None else train(after):
        parameter.requires_grad_(True)
    optim = optimiser(after.model, Stage(steps=1, lr=settings.lr, weight_decay=0.0))
    each = steps_per_pass(rows, settings)
    for done, (rate, batch) in enumerate(plan(rows, settings, seed), 1):
        for group in optim.param_groups:
            group["lr"] = rate
        with during(after):
            step(after, optim, *collate(batch))
        if watch is not None and done % each == 0:
            watch(done / each, after)
    after.model.requires_grad_(False)
    return after


def step(lm: LM, optim: torch.optim.Optimizer, ids: Tensor, weights: Tensor) -> None:
    """One step of the optimiser on the rows ids [B, T] with loss weights [B, T]."""
    optim.zero_grad(set_to_none=True)
    with torch.enable_grad():
        mean_loss(lm, ids.to(lm.device), weights.to(lm.device)).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
    optim.step()


def mean_loss(lm: LM, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the next-token losses of ids [B, T]. Bundled models have no dropout, so that the mode of the
    model does not matter."""
    losses, w, _ = token_losses(lm, ids, weights)
    return (losses * w).sum() / w.sum()


def token_losses(lm: LM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token losses [N] where there is a weight, these weights [N], and the row of each [N].

    ids, weights [B, T]; the head is run only at these N places.
    """
    # Embeddings, not ids: given ids, some families look for padding and warn that no mask was passed.
    hidden: Tensor = lm.arch.body(inputs_embeds=lm.arch.tokens(ids), use_cache=False).last_hidden_state  # [B, T, d]
    rows, columns = weights[:, 1:].nonzero(as_tuple=True)
    logits: Tensor = lm.arch.head(hidden[rows, columns])  # [N, V]
    losses = nn.functional.cross_entropy(logits, ids[rows, columns + 1], reduction="none")
    return losses, weights[rows, columns + 1], rows


def matched(settings: TrainSettings, rows: Sequence[Row], other: Sequence[Row]) -> TrainSettings:
    """Settings that see as many tokens of ``rows`` as ``settings`` sees of ``other``. Raises BadInput without rows."""
    if not rows or not other:
        raise BadInput(
            f"{len(rows)} rows are to be trained for as many tokens as {len(other)} others: give some of both"
        )
    return replace(settings, passes=settings.passes * n_tokens(other) / n_tokens(rows))


def n_tokens(rows: Sequence[Row]) -> int:
    """Tokens of one pass."""
    return sum(len(ids) for ids, _ in rows)
