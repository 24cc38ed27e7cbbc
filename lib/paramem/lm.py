"""A language model with everything the methods need from it, the same for every family.

    lm = load("gpt2-s0")
    lm.score(["The capital of France is"], ["Paris"]).logprob
    lm.generate(["The capital of France is"])
    lm.run(lm.encode(["The capital of France is"]), capture=[Site("mlp_out", 3)]).states

Parameters do not require gradients after `load`; a method that trains some of them says so for these, and methods that
optimise a hidden state get gradients through `run` and `Blocks.forward` without building graphs for the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from paramem import generation, hooks, tokens
from paramem.arch import Architecture, Site, WeightRef, architecture_of
from paramem.errors import BadInput, BadParameter
from paramem.hooks import Blocks, Patch, TokenLayout
from paramem.tokens import Batch

if TYPE_CHECKING:
    from paramem.interventions import (
        HiddenStatePatch,
        Intervention,
        LogitsMix,
        ModulePatch,
        NeuronPatch,
    )
    from paramem.interventions.prompt import Rewriting

_hashes: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()

ROWS_BUDGET = 2**30  # bytes of states that the rows of one forward may hold


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Teacher-forced scores of targets after their prompts, in nats; `B` rows, `K` the longest target."""

    logprob: Tensor  # [B] sum over the target's tokens
    mean_logprob: Tensor  # [B] mean over the target's tokens
    token_logprobs: Tensor  # [B, K] nan beyond a row's target
    exact: Tensor  # [B] bool, every target token is the most probable one
    token_accuracy: Tensor  # [B] share of target tokens that are the most probable one
    first_logprob: Tensor  # [B] of the first target token
    n_tokens: Tensor  # [B] long


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One forward: `logits` (of all tokens, or of those asked for) and the captured `states`, each `[B, T, width]`."""

    logits: Tensor
    states: dict[Site, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class LM:
    """A causal language model, its tokenizer and its architecture map.

    `rewrites`, `patches` and `mixes` are what interventions put around the model; weights are changed in place.
    """

    name: str
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    arch: Architecture
    rewrites: tuple[Rewriting, ...] = ()
    patches: tuple[HiddenStatePatch | ModulePatch | NeuronPatch, ...] = ()
    mixes: tuple[LogitsMix, ...] = ()

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str = "unnamed") -> LM:
        """Wrap a model in evaluation mode, without gradients for its parameters; raises `UnsupportedArchitecture`."""
        model.requires_grad_(False).train(False)
        return cls(name=name, model=model, tokenizer=tokenizer, arch=architecture_of(model))

    @property
    def device(self) -> torch.device:
        """Where token ids go and logits come back; with a `device_map`, layers may live elsewhere."""
        place = self.arch.tokens.weight.device
        # accelerate keeps an offloaded weight on "meta" until its module runs.
        return torch.device(cast(Any, self.arch.tokens)._hf_hook.execution_device) if place.type == "meta" else place

    @property
    def dtype(self) -> torch.dtype:
        return self.arch.tokens.weight.dtype

    @property
    def n_layers(self) -> int:
        return self.arch.n_layers

    @property
    def d_model(self) -> int:
        return self.arch.d_model

    @property
    def d_mlp(self) -> int:
        return self.arch.d_mlp

    @property
    def max_length(self) -> int:
        """Tokens in the context."""
        return int(self.model.config.max_position_embeddings)

    def encode(self, prompts: str | Sequence[str], targets: str | Sequence[str] | None = None) -> Batch:
        """Tokenise prompts (rewritten, if there are rewrites) and targets; see `paramem.tokens.encode`."""
        return tokens.encode(
            self.tokenizer,
            prompts,
            targets,
            max_length=self.max_length,
            rewrites=self.rewrites,
            device=self.device,
        )

    def subject_span(self, text: str, subject: str) -> range:
        """Token indices of the subject in the encoded prompt `text`; raises `SubjectNotInPrompt`."""
        return tokens.subject_span(self.tokenizer, text, subject, rewrites=self.rewrites)

    def weight(self, layer: int, role: str) -> WeightRef:
        """A weight matrix by role, see `Architecture.weight`."""
        return self.arch.weight(layer, role)

    def embed(self, input_ids: Tensor) -> Tensor:
        """`[B, T]` token ids to the input of layer 0 `[B, T, d_model]`."""
        return self.arch.embed(input_ids)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Final norm and head: `[..., d_model]` to logits `[..., vocabulary]`."""
        return self.arch.unembed(hidden)

    def fitting_rows(self, most: int, tokens: int, *, layers: int = 1, read: int = 1, budget: int | None = None) -> int:
        """How many rows of so many tokens one forward may have: at most ``most``, fewer where the model is wide.

        A row holds the states of ``layers`` blocks at every token and the logits at ``read`` tokens; all rows together
        stay below ``budget`` bytes (`ROWS_BUDGET`), if a single row does.
        """
        states = tokens * layers * (4 * self.d_model + 2 * self.d_mlp) + read * self.arch.vocabulary
        return max(1, min(most, (budget or ROWS_BUDGET) // (states * self.dtype.itemsize)))

    def logits(self, batch: Batch) -> Tensor:
        """Logits `[B, T, V]` of one forward; those at padding mean nothing."""
        return self._mixed(batch, self._head(self._final(batch)), None)

    def logits_at(self, batch: Batch, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits `[N, V]` at `N` places of a batch; the head is not run anywhere else."""
        return self._mixed(batch, self._head(self._final(batch)[rows, columns]), (rows, columns))

    def next_logprobs(self, prompts: str | Sequence[str]) -> Tensor:
        """Log-probabilities `[B, V]` of the token that follows each prompt."""
        batch = self.encode(prompts)
        with torch.no_grad():
            return log_probs(
                self.logits_at(batch, torch.arange(len(batch), device=self.device), batch.prompt_lengths - 1)
            )

    def score(
        self, prompts: str | Sequence[str], targets: str | Sequence[str], *, batch_size: int | None = None
    ) -> Scores:
        """Score each target after its prompt, in one forward, or in chunks of rows of similar length."""
        batch = self.encode(prompts, targets)
        with torch.no_grad():
            if batch_size is None:
                return self.score_batch(batch)
            if batch_size < 1:
                raise BadParameter(f"batch_size must be at least 1, not {batch_size}")
            order = batch.lengths.argsort(stable=True)
            return _gathered([self.score_batch(batch.rows(chunk)) for chunk in torch.split(order, batch_size)], order)

    def score_batch(self, batch: Batch) -> Scores:
        """The scores of an encoded batch; differentiable where parameters or patches require gradients."""
        rows, columns = batch.target_mask.nonzero(as_tuple=True)
        if not len(rows):
            raise BadInput("the batch has no targets: encode prompts together with targets")
        logprobs = log_probs(self.logits_at(batch, rows, columns - 1))
        labels = batch.input_ids[rows, columns]
        width = int((batch.lengths - batch.prompt_lengths).max())
        places = (rows, columns - batch.prompt_lengths[rows])
        found = logprobs.gather(1, labels[:, None])[:, 0]
        table = found.new_full((len(batch), width), torch.nan).index_put(places, found)
        hits = torch.zeros_like(table).index_put(places, (logprobs.argmax(1) == labels).to(table))
        return _scores(table, hits)

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = 16,
        temperature: float = 0.0,
        top_k: int | None = None,
        seed: int = 0,
        stop: str | Sequence[str] | None = None,
    ) -> list[str]:
        """Continuations of the prompts, without them: greedy at temperature 0, else sampled; see `Sampling`."""
        return generation.generate(
            self,
            tokens.as_tuple(prompts, "prompts"),
            generation.Sampling(
                max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, seed=seed, stop=stop
            ),
        )

    def run(
        self,
        batch: Batch,
        *,
        capture: Iterable[Site] = (),
        patch: Mapping[Site, Patch] | None = None,
        at: tuple[Tensor, Tensor] | None = None,
    ) -> Run:
        """One forward with sites captured and patched; `at=(rows, columns)` asks for the logits `[N, V]` there only."""
        with self.hooked(capture=capture, patch=patch) as states:
            logits = self.logits(batch) if at is None else self.logits_at(batch, *at)
        return Run(logits=logits, states=states)

    def states(self, batch: Batch, sites: Iterable[Site]) -> dict[Site, Tensor]:
        """The states at `sites` in one forward that ends with the block in which the last of them is."""
        wanted = set(sites)
        with self.hooked(capture=wanted) as states, hooks.ending_behind(self.arch, wanted):
            self._final(batch)
        return states

    def text_batches(self, texts: Sequence[str], *, batch_tokens: int = 4096) -> Iterator[Batch]:
        """Running text in batches of about so many tokens, see `paramem.tokens.text_batches`."""
        return tokens.text_batches(
            self.tokenizer, texts, max_length=self.max_length, batch_tokens=batch_tokens, device=self.device
        )

    def hooked(
        self, *, capture: Iterable[Site] = (), patch: Mapping[Site, Patch] | None = None
    ) -> AbstractContextManager[dict[Site, Tensor]]:
        """Capture and patch sites in whatever runs inside the context; see `paramem.hooks.hooked`."""
        return hooks.hooked(self.arch, capture=capture, patch=patch)

    def blocks(self, batch: Batch, *, read: tuple[Tensor, Tensor] | None = None) -> Blocks:
        """One plain forward that records how each block is called, so that any stretch of blocks can be run again.

        read: (rows, columns) of all places that will be read. What comes after them is left out, unless patches are
        around the model: these may look for the end of a row.
        """
        if read is not None and not self.patches:
            rows, columns = read
            batch = batch.cut(torch.ones_like(batch.lengths).scatter_reduce(0, rows, columns + 1, "amax"))
        return hooks.record_blocks(self.arch, TokenLayout.of(batch), lambda: self._final(batch))

    @contextmanager
    def applying(self, intervention: Intervention) -> Iterator[LM]:
        """The model under an intervention, which comes off again when the context is left."""
        with intervention.applied(self) as edited:
            yield edited

    def fingerprint(self) -> str:
        """sha256 over names, types, shapes and bytes of all weights, and over what is put around the model.

        The hash of the weights is kept until one of them is written to (writes through `.data` go unnoticed by torch,
        so edit parameters under `torch.no_grad()` instead).
        """
        weights = _weights_hash(self.model)
        around = [part.fingerprint() for part in (*self.rewrites, *self.patches, *self.mixes)]
        return hashlib.sha256("\n".join([weights, *around]).encode()).hexdigest() if around else weights

    def with_(self, **changes: Any) -> LM:
        """A copy with some fields replaced; the model is shared."""
        return replace(self, **changes)

    def _final(self, batch: Batch) -> Tensor:
        """Hidden states after the final norm `[B, T, d_model]`."""
        with hooks.token_layout(TokenLayout.of(batch)):
            # Embeddings, not ids: given ids, some families look for padding and warn that no mask was passed.
            hidden: Tensor = self.arch.body(
                inputs_embeds=self.arch.tokens(batch.input_ids), use_cache=False
            ).last_hidden_state
        return hidden.to(self.device)

    def _head(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.arch.head(hidden)
        return logits.to(self.device)

    def _mixed(self, batch: Batch, logits: Tensor, at: tuple[Tensor, Tensor] | None) -> Tensor:
        for mix in self.mixes:
            logits = mix.mixed(self, batch, logits, at)
        return logits


def log_probs(logits: Tensor) -> Tensor:
    """Log-softmax over the last axis, in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _scores(table: Tensor, hits: Tensor) -> Scores:
    n_tokens = (~table.isnan()).sum(1)
    return Scores(
        logprob=table.nansum(1),
        mean_logprob=table.nansum(1) / n_tokens,
        token_logprobs=table,
        exact=hits.sum(1) == n_tokens,
        token_accuracy=hits.sum(1) / n_tokens,
        first_logprob=table[:, 0],
        n_tokens=n_tokens,
    )


def _gathered(parts: Sequence[Scores], order: Tensor) -> Scores:
    """The chunks' scores in the order of the rows given."""
    width = max(part.token_logprobs.shape[1] for part in parts)
    back = order.argsort()

    def gather(name: str) -> Tensor:
        columns = [getattr(part, name) for part in parts]
        if name == "token_logprobs":
            columns = [nn.functional.pad(c, (0, width - c.shape[1]), value=torch.nan) for c in columns]
        return torch.cat(columns)[back]

    return Scores(**{name: gather(name) for name in Scores.__dataclass_fields__})


def _weights_hash(model: nn.Module) -> str:
    state = sorted(model.state_dict().items())
    stamp = tuple((name, tensor.data_ptr(), tensor._version) for name, tensor in state)
    known = _hashes.get(model)
    if known is None or known[0] != stamp:
        digest = hashlib.sha256()
        for name, tensor in state:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        known = _hashes[model] = (stamp, digest.hexdigest())
    return known[1]
