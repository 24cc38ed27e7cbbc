"""Train a testbed from a recipe: by steps, from a seed, one thread, resumable.

    folder = train(recipe, Path("testbeds/gpt2-s0"))       # fp16 safetensors, config, tokenizer, card.json

Every batch is a pure function of (recipe, stage, pool number), so the position in the data is one integer: a run
that was interrupted continues with bit-identical weights, and no generator state has to be stored. The state
(`.training/state.safetensors` in the folder: parameters, both AdamW moments, counters) is replaced atomically;
the card is written last, so a folder with a card is whole.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from paramem.errors import Interrupted
from paramem.world.cards import Measure, TestbedCard, write_card
from paramem.world.recipe import Recipe, Row, Stage, batches, collate, draw_of, recipe_hash
from paramem.world.weights import load_state, save_state, save_weights, with_fp16_rounding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass
class _Run:
    """What changes while training."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[tuple[int, float]] = field(default_factory=list)
    curve: list[dict[str, Any]] = field(default_factory=list)


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A model with its initial weights, a function of the recipe's seed; the global generator is left as it was."""
    from transformers import AutoConfig, AutoModelForCausalLM

    arguments = {k: v for k, v in recipe.config.items() if k != "model_type"}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(recipe.config["model_type"], vocab_size=len(tokenizer), **ids, **arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return model


def weighted_loss(model: PreTrainedModel, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the next-token losses. No attention mask: SDPA stays on its fast causal path."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]  # [B, T-1, V]
    loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    w = weights[:, 1:].flatten()
    return (loss * w).sum() / w.sum()


def optimiser(model: PreTrainedModel, stage: Stage) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": stage.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=stage.lr, betas=stage.betas, fused=True)


def _positions(recipe: Recipe, start: int) -> Iterator[tuple[int, int, int, list[Row]]]:
    """(stage number, step within the stage, global step, batch) from global step `start` on."""
    before = 0
    for number, stage in enumerate(recipe.stages):
        pool, cut = -1, []
        for local in range(max(0, start - before), stage.steps):
            if local // stage.pool != pool:
                pool = local // stage.pool
                draw = draw_of(recipe, number, pool)
                cut = batches(recipe.rows(draw), stage, draw.rng)
            yield number, local, before + local, cut[local % stage.pool]
        before += stage.steps


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a stop after the running step (a second one acts at once); yields "asked to stop?"."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, old[signal.Signals(number)])

    for number in old:
        signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def train(recipe: Recipe, folder: Path, *, progress: bool = True) -> Path:
    """Train `recipe` into `folder`, continuing a run of the same recipe that was interrupted there.

    Raises Interrupted after Ctrl-C or SIGTERM, with the state of the last finished step saved.
    """
    fingerprint = recipe_hash(recipe)
    state = folder / ".training" / "state.safetensors"
    state.parent.mkdir(parents=True, exist_ok=True)
    (state.parent / ".gitignore").write_text("*\n")
    tokenizer = recipe.tokenizer()
    with _one_thread(), _interrupts() as stopping:
        model = build_model(recipe, tokenizer).train()
        run = _loop(recipe, model, tokenizer, folder, state, fingerprint, stopping, progress)
        if stopping():
            raise Interrupted(f"{recipe.name}: stopped after step {run.step} of {recipe.steps}; run again to continue")
        finish(recipe, model, tokenizer, folder, fingerprint, run)
    state.unlink(missing_ok=True)
    return folder


def _loop(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    state: Path,
    fingerprint: str,
    stopping: Callable[[], bool],
    progress: bool,
) -> _Run:
    from tqdm import tqdm

    run, moments = _resume(model, state, fingerprint)
    optim: torch.optim.AdamW | None = None
    bar = tqdm(total=recipe.steps, initial=run.step, desc=recipe.name, disable=not progress, mininterval=1.0)
    last = time.perf_counter()
    for number, local, step, batch in _positions(recipe, run.step):
        stage = recipe.stages[number]
        if optim is None or (local == 0 and stage.fresh_moments):
            optim = optimiser(model, stage)
            if moments and not (local == 0 and stage.fresh_moments):
                _put_moments(optim, model, moments)
        loss = _step(model, optim, batch, stage, local)
        run.step, run.tokens = step + 1, run.tokens + sum(len(ids) for ids, _ in batch)
        now = time.perf_counter()
        run.seconds, last = run.seconds + now - last, now
        bar.update()
        if run.step % 50 == 0 or run.step == recipe.steps:
            run.losses.append((run.step, round(loss.item(), 4)))
            bar.set_postfix(loss=run.losses[-1][1], refresh=False)
        if run.step in recipe.checkpoints:
            save_weights(model, folder / f"step{run.step:04d}.safetensors")
        if recipe.curve_every and run.step % recipe.curve_every == 0 and run.step < recipe.steps:
            run.curve.append({"step": run.step, **_quick(recipe, model, tokenizer)})
            bar.write(json.dumps(run.curve[-1])) if progress else None
            last = time.perf_counter()
        if stopping() or run.step % recipe.save_every == 0 or run.step == recipe.steps:
            save_state(state, dict(model.named_parameters()), optim, {"recipe": fingerprint, **asdict(run)})
        if stopping():
            break
    bar.close()
    return run


def _step(model: PreTrainedModel, optim: torch.optim.AdamW, batch: Sequence[Row], stage: Stage, local: int) -> Tensor:
    for group in optim.param_groups:
        group["lr"] = stage.learning_rate(local)
    optim.zero_grad(set_to_none=True)
    loss = weighted_loss(model, *collate(batch))
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), stage.clip)
    optim.step()
    return loss.detach()


def _resume(model: PreTrainedModel, state: Path, fingerprint: str) -> tuple[_Run, dict[str, dict[str, Tensor]]]:
    """Counters and moments of an interrupted run of the same recipe (weights go into `model`), or a fresh start."""
    found = load_state(state) if state.exists() else None
    if found is None or found.meta.pop("recipe", None) != fingerprint:
        return _Run(), {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(found.parameters[name])
    return _Run(**found.meta), found.moments


def _put_moments(optim: torch.optim.AdamW, model: PreTrainedModel, moments: dict[str, dict[str, Tensor]]) -> None:
    for name, p in model.named_parameters():
        optim.state[p] = {key: value.clone() for key, value in moments[name].items()}


def _quick(recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    model.train(False)
    with torch.inference_mode():
        found = {m.name: round(m.value, 3) for m in recipe.measure(model, tokenizer, recipe.curve_n)}
    model.train()
    return found


def finish(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    fingerprint: str,
    run: _Run,
) -> None:
    """Round to fp16, measure the rounded model, write weights, configuration, tokenizer and, last, the card."""
    (folder / "card.json").unlink(missing_ok=True)
    size, digest = save_weights(model, folder / "model.safetensors")
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = TestbedCard(
        name=recipe.name,
        kind=recipe.kind,
        description=recipe.description,
        recipe=fingerprint,
        architecture=str(recipe.config["model_type"]),
        config=dict(recipe.config),
        stages=tuple(asdict(stage) for stage in recipe.stages),
        seed=recipe.seed,
        vocabulary=len(tokenizer),
        parameters=sum(p.numel() for p in model.parameters()),
        size_bytes=size,
        sha256=digest,
        steps=run.step,
        tokens=run.tokens,
        seconds=round(run.seconds, 1),
        losses=tuple(run.losses),
        curve=tuple(run.curve),
        checkpoints=tuple(f"step{step:04d}" for step in recipe.checkpoints),
        data=dict(recipe.data),
        notes=recipe.notes,
        measures=measure_rounded(recipe, model, tokenizer),
    )
    write_card(card, folder)


def measure_rounded(recipe: Recipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[Measure, ...]:
    """The recipe's measures for the weights as they are stored (rounded to fp16, computed in fp32)."""
    with with_fp16_rounding(model), torch.inference_mode():
        return tuple(recipe.measure(model.train(False), tokenizer, None))


def remeasure(recipe: Recipe, folder: Path, card: TestbedCard) -> TestbedCard:
    """The card of a built testbed with its numbers measured again, the notes and the description brought up to date."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train(False)
    tokenizer = cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder))
    with _one_thread(), torch.inference_mode():
        measures = tuple(recipe.measure(model, tokenizer, None))
    new = replace(card, measures=measures, notes=recipe.notes, description=recipe.description, data=dict(recipe.data))
    write_card(new, folder)
    return new
