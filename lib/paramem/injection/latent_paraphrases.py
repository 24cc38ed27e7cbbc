r"""LaPael (kang2024lapael): noise on early layers that is learned to do to a sentence's states what rewording would do.

    paraphraser = learn(lm, lessons, LatentSettings(), seed=0)       # once, on facts that have paraphrases
    tuned = fine_tune(lm, rows, settings, during=paraphraser.noise(seed=0).applied)      # new facts, which have none

Steps, after Figure 3 and the released code (github.com/krafton-ai/LaPael). The paper's text was not at hand, so its
equations are named in words:

1. ``LayerNoise.z``: a linear layer turns a token's state into the mean of a Gaussian of unit variance; a draw of it
   becomes one positive factor for every feature.
2. ``LayerNoise.mask``: a number between 0 and 1 for every token, drawn too, says how much of the factor it gets.
3. ``symmetric_kl``: the distance of two Gaussians with diagonal covariance.
4. ``learn``: where the first token of the answer is predicted, upper layers' mean and deviation over several draws are
   brought close to those over true paraphrases. Names get no noise here, and masks learn to spare them.
5. ``Noise.applied``: the frozen paraphraser acts on three rows in four while the model is trained on new sentences.

    symbol      code             shape        meaning
    h           state            [B, T, d]    input of a layer's MLP, after the norm
    W, b        mean             d -> d       mu = W h + b
    alpha       alpha            [B, T, d]    draw from N(mu, I)
    g           g                d -> d       two linear layers with a ReLU between them
    z           z                [B, T, d]    log2(1 + 2^g(alpha)): positive, and 1 where g is 0
    s           s                d -> 1       logits of the mask
    m           mask             [B, T, 1]    concrete Bernoulli: sigmoid((logit(u) + s(h)) / temperature)
    h'          state * factor   [B, T, d]    h * (1 - m + m z)
    mu', sigma' mu_p, sigma_p    [F, S, d]    states of F sentences' paraphrases at S places: mean and deviation
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from paramem.arch import Site
from paramem.editing.targets import of_like_length
from paramem.errors import BadInput, BadParameter, IncompatibleIntervention
from paramem.injection.noise import Factor, Noise
from paramem.lm import LM
from paramem.tokens import Batch

# Where we do something else: topic -> (what the paper or its released code does, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "layers": ("the first 5 of 32 (code)", "the first 2 of 6", "with one, no noise would meet noise of a layer below"),
    "states compared": (
        "inputs of layers 16 to 31 and the final state (code)",
        "those of layers 3 to 5 and the final state",
        "the upper half here as there",
    ),
    "softplus": ("the identity above 2 / 0.693 (code)", "log2(1 + 2^x) everywhere", "the released one jumps there"),
    "rows without noise": (
        "every document four times in a batch, once without noise (code)",
        "every row is left alone with probability one quarter, whenever it is met",
        "the same share, and the training loop stays the one of all other arms",
    ),
    "length of training": (
        "10 passes over 1000 sentences, four draws each, batches of 16, rate 0.001 (code)",
        "40 steps of 8 sentences, four draws each, rate 0.002, and ten steps of the masks for each, rate 0.01",
        "chosen on people of a draw that is not reported; it takes seconds",
    ),
    "names": ("entities that a language model found (code)", "subject and object", "they are known here"),
}


@dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """How a paraphraser is learned.

    layers       whose MLP inputs get noise
    states_from  states are compared from the input of this layer upwards
    draws        of noise, over which mean and deviation are taken
    floor        deviations below it are not told apart
    share        of a sentence's tokens that masks are to let noise in at
    temperature  of the masks
    batch        sentences of a step
    mask_steps   steps of the masks, which are small, for each of the factors
    """

    layers: tuple[int, ...] = (0, 1)
    states_from: int = 3
    draws: int = 4
    floor: float = 0.1
    share: float = 0.5
    temperature: float = 0.1
    steps: int = 40
    batch: int = 8
    lr: float = 2e-3
    mask_lr: float = 1e-2
    mask_steps: int = 10

    def __post_init__(self) -> None:
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise BadParameter(f"layers={self.layers}: name at least one layer, from the lowest up, each once")
        if self.draws < 2 or min(self.steps, self.batch, self.mask_steps) < 1 or not 0 < self.share < 1:
            raise BadParameter(
                f"{self}: a deviation takes two draws or more; steps, batch and mask_steps are at least 1, share lies "
                "in (0, 1)"
            )
        if min(self.floor, self.temperature, self.lr, self.mask_lr) <= 0:
            raise BadParameter(f"{self}: floor, temperature and rates are positive")


class Lesson(NamedTuple):
    """A sentence (prompt, then object) that states something about a subject, and other prompts for the same object."""

    prompt: str
    object: str
    subject: str
    paraphrases: tuple[str, ...]


# Mathematics


def softplus2(x: Tensor) -> Tensor:
    """log2(1 + 2^x): a softplus of sharpness ln 2, which is 1 at 0."""
    return nn.functional.softplus(x * log(2)) / log(2)


def concrete(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draws of a Bernoulli variable made soft, so that its logits have gradients; hard as the temperature goes to 0."""
    u = torch.rand(logits.shape, generator=generator).clamp(1e-7, 1 - 1e-7).to(logits)
    return torch.sigmoid((u.logit() + logits) / temperature)


def symmetric_kl(mu: Tensor, sigma: Tensor, mu_p: Tensor, sigma_p: Tensor, floor: float) -> Tensor:
    """Half the sum of both Kullback-Leibler divergences of N(mu, sigma^2) and N(mu_p, sigma_p^2), feature by feature.

    The logarithms of the two directions cancel. sigma is at least the floor; where sigma_p is below it, it counts as
    sigma, so that only means are compared there.
    """
    sigma = sigma.clamp(min=floor)
    sigma_p = torch.where(sigma_p < floor, sigma.detach(), sigma_p)
    a, b, gap = sigma**2, sigma_p**2, (mu - mu_p) ** 2
    return (a + gap) / (4 * b) + (b + gap) / (4 * a) - 0.5


def mask_loss(p: Tensor, names: Tensor, real: Tensor, share: float) -> Tensor:
    """Masks p [B, T] are to be shut at names, and in the mean over sentences to let in a share of the tokens."""
    open_tokens = (p * real).sum(1) - share * real.sum(1)
    return p[names].mean() + open_tokens.abs().mean()


class LayerNoise(nn.Module):
    """The paraphraser of one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, width)
        self.g = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.s = nn.Linear(width, 1)

    def z(self, state: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of the factors [B, T, d]."""
        mu: Tensor = self.mean(state)
        alpha = mu + torch.randn(mu.shape, generator=generator).to(mu)
        return softplus2(self.g(alpha))

    def mask(self, state: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
        """One draw of the masks [B, T, 1]."""
        return concrete(self.s(state), temperature, generator)


class Paraphraser(nn.Module):
    """One `LayerNoise` for each noisy layer of a model."""

    def __init__(self, width: int, layers: Sequence[int], temperature: float, *, seed: int) -> None:
        super().__init__()
        self.width, self.layers, self.temperature = width, tuple(layers), temperature
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.parts = nn.ModuleList(LayerNoise(width) for _ in layers)

    def __getitem__(self, place: int) -> LayerNoise:
        return cast(LayerNoise, self.parts[place])

    def factor(self, place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        """1 - m + m z for the noisy layer at that place. Raises IncompatibleIntervention when the width is another."""
        if state.shape[-1] != self.width:
            raise IncompatibleIntervention(
                f"the paraphraser is of width {self.width}, the states of {state.shape[-1]}: learn one on this model"
            )
        part = self[place]
        return 1 + part.mask(state, self.temperature, generator) * (part.z(state, generator) - 1)

    def noise(self, *, seed: int, clean: float = 0.25) -> Noise:
        """What a model is trained under; a share of the rows is left alone."""
        return Noise(self.factor, self.layers, seed=seed, clean=clean, origin=self.recipe)

    @property
    def recipe(self) -> str:
        """A hash of all weights, and the temperature."""
        weights = b"".join(p.detach().cpu().numpy().tobytes() for p in self.parameters())
        return f"paraphraser {hashlib.sha256(weights).hexdigest()[:16]} at {self.temperature}"


# Learning


def learn(
    lm: LM,
    lessons: Sequence[Lesson],
    settings: LatentSettings,
    *,
    seed: int = 0,
    watch: Callable[[int, float, float], None] | None = None,
) -> Paraphraser:
    """The paraphraser of a model, which stays as it is; frozen, ready for `Paraphraser.noise`.

    watch: called after every step with its number, the distance to the paraphrases and the loss of the masks.
    Raises BadSite for a layer that does not exist, BadInput for lessons from which nothing can be learned.
    """
    check_lessons(lm, lessons, settings)
    generator = torch.Generator().manual_seed(seed)
    paraphraser = Paraphraser(lm.d_model, settings.layers, settings.temperature, seed=seed).to(lm.device, lm.dtype)
    task = encode(lm, lessons, settings)
    parts = [paraphraser[place] for place in range(len(settings.layers))]
    masks = [p for part in parts for p in part.s.parameters()]
    factors = [p for part in parts for p in (*part.mean.parameters(), *part.g.parameters())]
    optims = [torch.optim.Adam(some, lr=lr) for some, lr in ((factors, settings.lr), (masks, settings.mask_lr))]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, settings.steps) for each in optims]
    for number in range(settings.steps):
        chosen = torch.randint(len(lessons), (settings.batch,), generator=generator)
        with torch.enable_grad():
            distance, mask_task = losses(lm, paraphraser, task.some(chosen), settings, generator)
            _step(optims[0], factors, distance.mean(0).sum())
            for _ in range(settings.mask_steps):
                shut = mask_task()
                _step(optims[1], masks, shut)
        for schedule in schedules:
            schedule.step()
        if watch is not None:
            watch(number, distance.mean().item(), shut.item())
    paraphraser.zero_grad(set_to_none=True)
    return paraphraser.requires_grad_(False)


def _step(optim: torch.optim.Optimizer, parameters: list[nn.Parameter], loss: Tensor) -> None:
    optim.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optim.step()


def check_lessons(lm: LM, lessons: Sequence[Lesson], settings: LatentSettings) -> None:
    """Refuse layers that the model lacks, and lessons without what is to be learned."""
    for layer in (*settings.layers, settings.states_from):
        lm.arch.check_site(Site("mlp_in", layer))
    if not lessons:
        raise BadInput("there are no lessons to learn a paraphraser from")
    for lesson in lessons:
        if len(lesson.paraphrases) < 2:
            raise BadInput(
                f"{lesson.prompt!r} has {len(lesson.paraphrases)} paraphrases: their spread is what is learned, "
                "which takes two at least. Give more, or leave the sentence out."
            )


class Task(NamedTuple):
    """Lessons as tensors: F sentences of T tokens, and their paraphrases' states at S places."""

    batch: Batch
    names: Tensor  # [F, T] bool: tokens of subject and object
    mu_p: Tensor  # [F, S, d]
    sigma_p: Tensor  # [F, S, d]

    def some(self, chosen: Tensor) -> Task:
        """Those of some sentences."""
        batch = self.batch.rows(chosen)
        return Task(batch, self.names[chosen, : batch.input_ids.shape[1]], self.mu_p[chosen], self.sigma_p[chosen])


def encode(lm: LM, lessons: Sequence[Lesson], settings: LatentSettings) -> Task:
    """The sentences, their names, and what they are to be brought close to. Raises SubjectNotInPrompt."""
    return Task(*encode_sentences(lm, lessons), *moments(lm, [each.paraphrases for each in lessons], settings))


def encode_sentences(lm: LM, lessons: Sequence[Lesson]) -> tuple[Batch, Tensor]:
    """Prompts with their objects, and which tokens belong to subject or object."""
    batch = lm.encode([each.prompt for each in lessons], [f"{each.object}." for each in lessons])
    names = batch.target_mask
    for row, each in enumerate(lessons):
        span = lm.subject_span(each.prompt, each.subject)
        names[row, span.start : span.stop] = True
    return batch, names


def losses(
    lm: LM, paraphraser: Paraphraser, task: Task, settings: LatentSettings, generator: torch.Generator
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Distances [F, S] of the sentences to their paraphrases, and the loss of the masks at the states that were met."""
    real = task.batch.attention_mask.bool().repeat_interleave(settings.draws, 0)
    named = task.names.repeat_interleave(settings.draws, 0)
    met: list[Tensor] = []

    def spared(place: int, state: Tensor, generator: torch.Generator) -> Tensor:
        """Names are spared for certain; the mask only learns to."""
        met.append(state.detach())
        return 1 + (real & ~named)[..., None] * (paraphraser[place].z(state, generator) - 1)

    def shut() -> Tensor:
        open_ = [torch.sigmoid(paraphraser[place].s(state))[..., 0] for place, state in enumerate(met)]
        return torch.stack([mask_loss(p, named, real, settings.share) for p in open_]).mean()

    return distances(lm, spared, task, settings, generator), shut


def distances(lm: LM, factor: Factor, task: Task, settings: LatentSettings, generator: torch.Generator) -> Tensor:
    """How far sentences under noise are from their paraphrases [F, S]: `symmetric_kl`, features averaged."""
    rows = task.batch.rows(torch.arange(len(task.batch)).repeat_interleave(settings.draws))
    with Noise(factor, settings.layers, seed=generator, clean=0.0).applied(lm):
        states = answer_states(lm, rows, settings.states_from)
    states = states.view(len(task.batch), settings.draws, *states.shape[1:])
    return symmetric_kl(states.mean(1), states.std(1), task.mu_p, task.sigma_p, settings.floor).mean(-1)


def answer_states(lm: LM, batch: Batch, start: int) -> Tensor:
    """States [B, S, d] of each prompt's last token: inputs of layer ``start`` and those above it, and the final one."""
    sites = [*(Site("resid_pre", layer) for layer in range(start, lm.n_layers)), Site("resid_post", lm.n_layers - 1)]
    states = lm.states(batch, sites)
    rows = torch.arange(len(batch), device=batch.prompt_lengths.device)
    *inner, last = (states[site][rows, batch.prompt_lengths - 1] for site in sites)
    return torch.stack([*inner, lm.arch.final_norm(last)], 1)


@torch.no_grad()
def moments(
    lm: LM, prompts: Sequence[Sequence[str]], settings: LatentSettings, rows: int = 256
) -> tuple[Tensor, Tensor]:
    """Mean and deviation, each [F, S, d], of the states where the answer is predicted, over each fact's prompts."""
    batch = lm.encode([prompt for some in prompts for prompt in some])
    chunks = [torch.tensor(chunk, device=lm.device) for chunk in of_like_length(batch.lengths.tolist(), rows)]
    found = torch.cat([answer_states(lm, batch.rows(chunk), settings.states_from) for chunk in chunks])
    each = torch.split(found[torch.cat(chunks).argsort()], [len(some) for some in prompts])
    return torch.stack([some.mean(0) for some in each]), torch.stack([some.std(0) for some in each])
