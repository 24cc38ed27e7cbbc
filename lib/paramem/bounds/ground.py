r"""Train a small model so that it can be certified, and certify it: bound, empirical risk and true risk side by side.

    source = Source()
    documents = source.draw(50_000, seed=0)                     # the m documents that a bound speaks about
    lm = fresh_lm("gpt2", "small", seed=0)                      # theta_0: random, or trained on other documents
    trained = train(lm, documents, Training(rank=8, dimension=1000), seed=0)
    certify(trained, documents, source, seed=0, n_choices=1)    # a table, one row a metric

What is paid for. Architecture, theta_0, projector, vocabulary and the alternatives that were open are fixed before the
documents are drawn. What is chosen by looking at them costs bits: w (levels, counts, arithmetic code, and where the
code ends), alpha (certify adds it, once), and which of the alternatives was taken: whoever trains k settings on the
same documents and reports one of them passes ``n_choices=k`` (all that were trained, whether shown or not), for each
of them. The constants of `Training` were chosen on draws of other seeds (10,000 and up), which are independent of every
draw reported, and cost nothing. Claims are measured on seeds 0 to 2 of GPT-2 and 3 of Llama,
four sets of documents. Of its m documents a training meets those that its batches draw, about
1 - (1 - 1/m)^(steps * batch) of them: where that is little, the empirical risk is mostly that of unseen documents.

=====================  ======================================================================================
function               what it gives
=====================  ======================================================================================
`fresh_lm`             an untrained GPT-2 or Llama of a named size, with the source's tokenizer
`train`                `Trained`: full (rank=None, dimension=None), LoRA only (dimension=None), subspace only
                       (rank=None) or SubLoRA training on uniformly drawn batches of the documents, quantised
                       and encoded
`Trained.model()`      the certified model, rebuilt from the bytes alone, as an LM
`pretrained`           a theta_0: a model trained in full on another source
`score`                `Scores`: log-probability and rank of every token of some documents (of a Trained or an LM)
`certify`              data frame indexed by metric ("BPD", "top-1", "top-10", ...): bound, empirical, true,
                       true_low, true_high (95 %), guess, vacuous, holds, gap_model, gap_sample, alpha,
                       loss_range, bits
`certified`            the same from two `Scores` that are at hand already (other n, m, delta or bits for nothing)
=====================  ======================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from paramem.bounds.risk import bits_of_choice, prefix_free_bits, subsampled_terms
from paramem.bounds.smoothing import ALPHAS, best_smoothed_bound, bits_per_dimension, document_means
from paramem.bounds.source import BOS, Documents, Integers, Source, tokenizer, words
from paramem.bounds.sublora import Compressed, FitSettings, SubLora, SubLoraSettings, fit, rebuilt
from paramem.errors import BadParameter
from paramem.models import LM

if TYPE_CHECKING:
    import pandas as pd

    from paramem.tokens import Batch

Architecture: TypeAlias = Literal["gpt2", "llama"]
Kind: TypeAlias = Literal["full", "lora", "subspace", "sublora"]

CONTEXT = 64
SIZES = {  # layers, width, heads
    "tiny": (1, 16, 1),
    "small": (2, 32, 2),
    "medium": (2, 64, 4),
    "large": (4, 64, 4),
    "huge": (4, 128, 4),
}
FRESH_SAMPLE = 1  # number of the sample that true risks are measured on; training documents are sample 0


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained; ``rank`` and ``dimension`` as in `SubLoraSettings`, the rest as in `FitSettings`.

    lr, quantised_lr  None: what was found best for the kind on draws of other seeds, `RATES`
    batch             documents a step
    control           take the quantised steps without quantisation as well
    """

    rank: int | None = 8
    dimension: int | None = 1000
    steps: int = 300
    quantised_steps: int = 100
    levels: int = 15
    lr: float | None = None
    quantised_lr: float | None = None
    batch: int = 32
    control: bool = False

    @property
    def kind(self) -> Kind:
        """Which of the four parameterisations this is."""
        if self.rank is None:
            return "full" if self.dimension is None else "subspace"
        return "lora" if self.dimension is None else "sublora"

    @property
    def fitting(self) -> FitSettings:
        """The settings of `fit`, rates filled in."""
        lr, quantised = RATES[self.kind]
        return FitSettings(
            steps=self.steps,
            lr=self.lr or lr,
            levels=self.levels,
            quantised_steps=self.quantised_steps,
            quantised_lr=self.quantised_lr or quantised,
            control=self.control,
        )


RATES: dict[Kind, tuple[float, float]] = {  # steps of w alone, and of w and the codebook
    "full": (1e-2, 1e-3),
    "lora": (1e-2, 3e-3),
    "subspace": (3e-1, 3e-3),
    "sublora": (1e-1, 3e-3),
}


def fresh_lm(architecture: Architecture, size: str, seed: int) -> LM:
    """An untrained model of that size, a function of the seed, with the source's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if size not in SIZES or architecture not in ("gpt2", "llama"):
        raise BadParameter(f"{architecture} of size {size!r}: gpt2 or llama, of size {', '.join(SIZES)}.")
    layers, width, heads = SIZES[size]
    common = {"vocab_size": len(words()), "bos_token_id": BOS, "eos_token_id": BOS}
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    gpt2 = {"activation_function": "gelu_pytorch_tanh", "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    llama = {"intermediate_size": 8 * width // 3 // 8 * 8, "tie_word_embeddings": True}
    own: dict[str, Any] = gpt2 if architecture == "gpt2" else llama
    config = AutoConfig.for_model(architecture, max_position_embeddings=CONTEXT, **common, **shape, **own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return LM.of(model, tokenizer(), name=f"{architecture}-{size}-s{seed}")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model as what a bound pays for.

    lm        the model with theta_0; never changed
    done      the code of w, and the losses
    """

    lm: LM
    training: Training
    seed: int
    done: Compressed

    @property
    def bits(self) -> float:
        """The prefix-free length of the model's code, without what was chosen besides."""
        return prefix_free_bits(self.done.code.bits)

    @property
    def size(self) -> int:
        """d: how many numbers are encoded."""
        return self.done.code.n

    def model(self) -> LM:
        """The model rebuilt from theta_0 and the bytes of the code alone."""
        return rebuilt(self.lm, _subspace(self.training, self.seed), self.done.code.pack())


def _subspace(training: Training, seed: int) -> SubLoraSettings:
    return SubLoraSettings(rank=training.rank, dimension=training.dimension, seed=seed)


def train(lm: LM, documents: Documents, training: Training, seed: int) -> Trained:
    """Train, quantise and encode. Batches are drawn uniformly from the documents; ``lm`` keeps its weights."""
    draw = _batches(lm, documents, training, seed)
    done = fit(SubLora.of(lm, _subspace(training, seed)), lambda step: next(draw), training.fitting)
    return Trained(lm, training, seed, done)


def first_loss(lm: LM, documents: Documents, training: Training, seed: int) -> float:
    """What `train` finds at its first step, nats a token: a property of theta_0 and of the documents."""
    model = SubLora.of(lm, _subspace(training, seed))
    w = torch.zeros(model.dimension, dtype=lm.dtype, device=lm.device)
    with torch.no_grad():
        return float(model.loss(w, next(_batches(lm, documents, training, seed))))


def _batches(lm: LM, documents: Documents, training: Training, seed: int) -> Iterator[Batch]:
    generator = np.random.default_rng([seed, 7])
    while True:
        yield documents.batch(generator.integers(len(documents), size=training.batch)).to(lm.device)


def pretrained(architecture: Architecture, size: str, source: Source, seed: int, *, steps: int = 400) -> LM:
    """A theta_0 that has seen documents of another source: trained in full, not quantised.

    A step sees 32 documents, drawn with replacement from 64 * steps.
    """
    lm = fresh_lm(architecture, size, seed)
    training = Training(rank=None, dimension=None, steps=steps, quantised_steps=0)
    generator, sample = np.random.default_rng([seed, 8]), source.draw(64 * steps, seed, sample=2)
    parameters = [each.requires_grad_(True) for each in lm.model.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=training.fitting.lr)
    for step in range(steps):
        batch = sample.batch(generator.integers(len(sample), size=training.batch))
        for group in optimiser.param_groups:
            group["lr"] = training.fitting.lr * (1 + math.cos(math.pi * step / steps)) / 2
        logits = lm.model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1]
        targets = batch.input_ids[:, 1:].masked_fill(batch.attention_mask[:, 1:] == 0, -100)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    lm.model.requires_grad_(False)
    return lm


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says to documents, all tokens but the first `<s>` of each, document after document.

    logprobs  natural log-probability of each token, (tokens,)
    ranks     how many other tokens are at least as probable, (tokens,)
    lengths   how many tokens each document has, (documents,)
    """

    logprobs: Tensor
    ranks: Tensor
    lengths: Tensor

    def errors(self, k: int) -> Tensor:
        """Share of each document's tokens that are not among the k most probable, (documents,)."""
        return document_means((self.ranks >= k).double(), self.lengths)


@torch.no_grad()
def score(model: Trained | LM, documents: Documents, rows: Integers | None = None) -> Scores:
    """What a trained model, rebuilt from its bytes, or any LM says to the rows of the documents, in their order.

    Ties count against the model: a token is among the k most probable when fewer than k others are as probable.
    """
    rows = np.arange(len(documents)) if rows is None else rows
    lengths = torch.from_numpy(documents.lengths[rows] - 1)
    logprobs = torch.zeros(len(rows), int(lengths.max()))
    ranks = torch.zeros(logprobs.shape, dtype=torch.int32)
    lm = model.model() if isinstance(model, Trained) else model
    room = torch.empty(0, dtype=lm.dtype, device=lm.device)  # fresh memory costs as much as its use
    for places, batch in documents.batches(rows):
        ids, where = batch.input_ids.to(lm.device), torch.from_numpy(places)
        logits, columns = lm.model(input_ids=ids, use_cache=False).logits, ids.shape[1] - 1
        room = room if len(room) >= logits.numel() else logits.new_empty(logits.numel())
        said = torch.log_softmax(logits, -1, out=room[: logits.numel()].view(logits.shape))
        logprobs[where, :columns] = said[:, :-1].gather(2, ids[:, 1:, None])[..., 0].cpu()
        right = logits[:, :-1].gather(2, ids[:, 1:, None])
        as_probable = torch.ge(logits[:, :-1], right, out=said[:, :-1]).sum(-1)  # written over what is done with
        ranks[where, :columns] = (as_probable.int() - 1).cpu()
    real = (torch.arange(logprobs.shape[1]) < lengths[:, None]).flatten().nonzero()[:, 0]
    return Scores(logprobs.flatten()[real], ranks.flatten()[real], lengths)


def certify(
    trained: Trained,
    documents: Documents,
    source: Source,
    *,
    seed: int,
    n_choices: int,
    n: int = 10_000,
    delta: float = 0.05,
    fresh: int = 10_000,
    ks: Sequence[int] = (1, 10),
    alphas: Sequence[float] = ALPHAS,
) -> pd.DataFrame:
    """Bound, empirical risk over n draws from the documents, and true risk over ``fresh`` new documents.

    n_choices: how many settings, this one included, were trained on these documents before one was picked.
    """
    rows = np.random.default_rng([seed, 9]).integers(len(documents), size=n)
    seen = score(trained, documents, rows)
    unseen = score(trained, source.draw(fresh, seed, sample=FRESH_SAMPLE))
    return certified(seen, unseen, trained.bits, len(documents), n_choices=n_choices, delta=delta, ks=ks, alphas=alphas)


def certified(
    seen: Scores,
    unseen: Scores,
    bits: float,
    m: int,
    *,
    n_choices: int,
    delta: float = 0.05,
    ks: Sequence[int] = (1, 10),
    alphas: Sequence[float] = ALPHAS,
    vocabulary: int | None = None,
) -> pd.DataFrame:
    """The table of `certify` from scores of n draws from the m documents, scores of new ones, and the model's bits.

    Every row's bound fails with probability delta at most, each on its own; all of them together with the sum.
    """
    import pandas as pd

    size, choice = vocabulary or len(words()), bits_of_choice(n_choices)
    best = best_smoothed_bound(
        seen.logprobs, seen.lengths, size, bits + choice, m, delta, alphas=alphas, sample_bits=choice
    )
    smoothed = bits_per_dimension(unseen.logprobs, unseen.lengths, best.alpha, size)
    extra = bits_of_choice(len(alphas))
    rows = [_row("BPD", best.empirical_risk, smoothed, best.loss_range, bits + choice + extra, choice + extra,
                 math.log2(size), m, len(seen.lengths), delta) | {"alpha": best.alpha}]  # fmt: skip
    for k in ks:
        rows.append(_row(f"top-{k}", float(seen.errors(k).mean()), unseen.errors(k), 1.0, bits + choice, choice,
                         1 - k / size, m, len(seen.lengths), delta))  # fmt: skip
    return pd.DataFrame(rows).set_index("metric")


def _row(
    metric: str,
    empirical: float,
    unseen: Tensor,
    loss_range: float,
    bits: float,
    sample_bits: float,
    guess: float,
    m: int,
    n: int,
    delta: float,
) -> dict[str, object]:
    terms = subsampled_terms(loss_range, bits, m, n, delta, sample_bits=sample_bits)
    bound = empirical + (terms.model + terms.sample)
    true, half = float(unseen.mean()), 1.96 * float(unseen.std()) / math.sqrt(len(unseen))
    return {
        "metric": metric,
        "bound": bound,
        "empirical": empirical,
        "true": true,
        "true_low": true - half,
        "true_high": true + half,
        "guess": guess,
        "vacuous": bound >= guess,
        "holds": bound >= true,
        "gap_model": terms.model,
        "gap_sample": terms.sample,
        "loss_range": loss_range,
        "bits": bits,
    }
