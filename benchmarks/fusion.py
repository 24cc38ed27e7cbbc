"""What training and asking cost in the study of fusion, in units of the bare steps and forwards of the same rows.

    python benchmarks/fusion.py [MODEL] [--repeats 5]

A bare step is a forward, the loss where it counts, a backward and a step of AdamW, as training takes it, on a batch
that lies ready. Training promises 85 % of its throughput at least, which is a ratio of 1 / 0.85 at most; the rows are
drawn, sorted, cut and padded on the way. Answers are generated with a key-value cache: the unit is one forward of all
prompts, and the other side of the comparison, the same answers without a cache, is printed too; where they differ, the
exit status is 1. Noise that is learned (`paramem.injection`) is measured against the same training without it. Adapters
of documents trained side by side are measured against the same ones trained one by one, answers under merged adapters
against the bare model's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
import typer
from core import Measured, measure, run

from paramem.fusion.questions import Question
from paramem.fusion.study import ANSWER_TOKENS, answers, continuations, prepare
from paramem.fusion.training import (
    InfusionSettings,
    TrainSettings,
    answer_rows,
    fine_tune,
    infusion_rows,
    n_tokens,
    plan,
    step,
)
from paramem.injection import rag_study
from paramem.injection.document_encoding import EncodingSettings
from paramem.injection.latent_paraphrases import Paraphraser
from paramem.injection.latent_study import upper_mlps
from paramem.injection.parametric_rag import Corpus, PragSettings, encode
from paramem.material import world_behind
from paramem.models import LM
from paramem.world.recipe import Row, Stage, collate
from paramem.world.training import optimiser

THROUGHPUT = 0.85  # of the bare step, at least


def bare_steps(lm: LM, rows: Sequence[Row], settings: TrainSettings) -> Callable[[], None]:
    """The unit: as many steps on the same batches, collated beforehand."""
    ready = [collate(batch) for _, batch in plan(rows, settings, 0)]
    bare = LM.of(copy.deepcopy(lm.model), lm.tokenizer, lm.name)
    bare.model.requires_grad_(True)
    optim = optimiser(bare.model, Stage(steps=1, lr=1e-6, weight_decay=0.0))

    def steps() -> None:
        for ids, weights in ready:
            step(bare, optim, ids, weights)

    return steps


def training(lm: LM, repeats: int) -> Iterator[Measured]:
    ground = prepare(world_behind(lm), 0)
    sets = {
        "continued training": infusion_rows(lm, ground.here, ground.split.parametric, InfusionSettings()),
        "fine-tuning": answer_rows(lm, ground.questions["train"][:200]),
    }
    for name, rows in sets.items():
        settings = TrainSettings(passes=1, lr=1e-6)
        yield measure(
            f"{name}, {n_tokens(rows)} tokens",
            f"its bare steps (throughput {THROUGHPUT:.0%})",
            1 / THROUGHPUT,
            lambda rows=rows, settings=settings: fine_tune(lm, rows, settings),
            bare_steps(lm, rows, settings),
            repeats,
        )


def noise(lm: LM, repeats: int) -> Iterator[Measured]:
    ground = prepare(world_behind(lm), 0)
    rows = infusion_rows(lm, ground.here, ground.split.parametric[:20], InfusionSettings())
    settings, train = TrainSettings(passes=1, lr=1e-6), upper_mlps(2)
    paraphraser = Paraphraser(lm.d_model, (0, 1), 0.1, seed=0).to(lm.device, lm.dtype).requires_grad_(False)
    yield measure(
        f"training under latent paraphrases, {n_tokens(rows)} tokens",
        f"without noise (throughput {THROUGHPUT:.0%})",
        1 / THROUGHPUT,
        lambda: fine_tune(lm, rows, settings, train=train, during=paraphraser.noise(seed=0).applied),
        lambda: fine_tune(lm, rows, settings, train=train),
        repeats,
    )


@torch.no_grad()
def one_forward(lm: LM, questions: Sequence[Question]) -> None:
    prompts = sorted((q.prompt() for q in questions), key=len)
    for start in range(0, len(prompts), 64):
        lm.logits(lm.encode(prompts[start : start + 64]))


def uncached(lm: LM, prompts: Sequence[str]) -> list[str]:
    """Greedy answers with one whole forward for every token."""
    texts = list(prompts)
    for _ in range(ANSWER_TOKENS):
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), 64):
            chunk = order[start : start + 64]
            best = lm.next_logprobs([texts[i] for i in chunk]).argmax(-1).tolist()
            for i, token in zip(chunk, best, strict=True):
                texts[i] += lm.tokenizer.decode([token])
    return [text[len(p) :].split(".")[0].strip() for text, p in zip(texts, prompts, strict=True)]


def check_same(prompts: Sequence[str], cached: Sequence[str], without: Sequence[str]) -> None:
    """Say which prompts are answered otherwise without a cache, and exit with 1."""
    different = [each for each in zip(prompts, cached, without, strict=True) if each[1] != each[2]]
    if different:
        prompt, one, other = different[0]
        typer.echo(
            f"{len(different)} of {len(prompts)} answers change without a cache: {one!r} becomes {other!r} behind "
            f"{prompt!r}. What is timed is not the same work: mend the cache first.",
            err=True,
        )
        raise typer.Exit(1)


def asking(lm: LM, repeats: int) -> Iterator[Measured]:
    questions = [q for q in prepare(world_behind(lm), 0).questions["test"] if len(q.asked) == 1]
    prompts = [q.prompt() for q in questions]
    check_same(prompts, continuations(lm, prompts), uncached(lm, prompts))
    yield measure(
        f"answers to {len(questions)} questions",
        "one forward of their prompts",
        4.0,
        lambda: answers(lm, questions),
        lambda: one_forward(lm, questions),
        repeats,
    )
    yield measure(
        f"answers to {len(questions)} questions with a cache",
        "without one",
        0.7,
        lambda: continuations(lm, prompts),
        lambda: uncached(lm, prompts),
        max(3, repeats // 2),
    )


def injecting(lm: LM, repeats: int) -> Iterator[Measured]:
    duel = rag_study.prepare(world_behind(lm), 0, documents=30)
    settings = PragSettings(encoding=EncodingSettings(passes=1))
    yield measure(
        f"adapters of {len(duel.pages)} documents, side by side",
        "one by one",
        0.5,
        lambda: encode(lm, duel.pages, settings),
        lambda: [encode(lm, [page], settings) for page in duel.pages],
        max(3, repeats // 2),
    )
    corpus = Corpus.of(lm, duel.pages, settings)
    edits = rag_study.merged(lm, corpus, duel.among(3, duel.owner))
    yield measure(
        f"answers to {len(duel.questions)} questions, each under three merged adapters",
        "the same without any",
        2.0,
        lambda: answers(lm, duel.questions, edits=edits),
        lambda: answers(lm, duel.questions),
        repeats,
    )


def main(model: str = "read-s0", repeats: int = 5) -> None:
    """Measure everything on MODEL; the exit status is 1 when a budget is exceeded or a cache changes answers."""
    run((training, noise, asking, injecting), model, repeats)


if __name__ == "__main__":
    typer.run(main)
