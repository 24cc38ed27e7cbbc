r"""Memory injections: the entity that a two-step question leaves out, added to attention (sakarvadia2023injections).

A question that goes through an entity without naming it ("Greta Penrose is a citizen of", by way of Paris) fails where
attention does not bring that entity up. So it is put there:

1. ``embed_memory``   the memory's tokens as one vector of zeros and ones, times the transposed head;
2. ``inject``         tau times that vector added to the output of one layer's attention: an intervention;
3. ``sweep``          every layer, every tau and every memory for many prompts, in batched forwards;
4. ``heads_bring_up`` what each head writes at the last token, on the vocabulary: which brings up the entity?

==================================  ====================  ============================================================
in the paper's terms                code                  shape
==================================  ====================  ============================================================
unembedding, transposed             ``W_U``               (vocabulary, d_model), the head's weight as it is stored
tokens of the memory, one-hot       ``tokens``            ids; a token that occurs twice counts once
embedded memory                     ``B``                 (d_model,), a sum of rows of ``W_U``
layer of the injection              ``layer``             counted from 0
magnitude                           ``tau``               one number
attention's output                  Site ``attn_out``     (rows, tokens, d_model), all heads together
==================================  ====================  ============================================================

Adding to one head's output is adding to the sum of all, so which head is meant makes no difference. At the last token
nothing that came before can change, so there a variant of a prompt costs one token (`paramem.last_token`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from paramem.arch import Site
from paramem.attention import head_outputs
from paramem.detection.neurons import Asked, at_a_time
from paramem.errors import BadInput, BadParameter
from paramem.hooks import attach
from paramem.interventions import HiddenStatePatch
from paramem.last_token import equal_lengths, last_token
from paramem.models import LM

DEPARTURES = {
    "unembedding": (
        "the released code takes the head with the final norm's gain folded in and its rows centred, which is how the "
        "library behind it loads a model",
        "the head as it is stored",
        "folding is no part of the method; what it changes is measured beside",
    ),
    "tokens": (
        "the released code adds the memory at every token of the prompt",
        "at every token, or at the last one alone; claims of the paper are judged at every token",
        "what is added at the last token alone leaves what the prompt's other tokens say as it was",
    ),
    "models": (
        "pretrained GPT-2 of 124 and 774 million parameters, prompts about the real world",
        "GPT-2 and Llama of 1.3 million parameters that put two known steps together for some people only",
        "here it is known which steps the model knows, and people of whom no consequence was stated can be asked about",
    ),
    "wrong memories": (
        "the released code draws words from lists of parts of speech, and from the 5000 most frequent ones",
        "words of other templates, parts of other people's names, other entities, and random directions",
        "the testbeds' language has a few hundred words; a direction without meaning shows what any push does",
    ),
    "percentages": (
        "the released code averages the relative rise of the answer's probability over prompts",
        "differences of probabilities decide; the mean relative rise, and that of the mean, are shown",
        "a mean of ratios is carried by the prompts whose answer was nearly impossible before",
    ),
}

Where = Literal["last", "all"]
Place = Literal["attn_out", "resid_post"]


@dataclass(frozen=True, kw_only=True)
class InjectionSettings:
    """layer: whose attention's output is added to. tau: how many times the embedded memory. where: at the prompt's last
    token, or at all real tokens, generated ones too."""

    layer: int
    tau: float = 4.0
    where: Where = "last"

    def __post_init__(self) -> None:
        _check_where(self.where)


def _check_where(where: str) -> None:
    if where not in get_args(Where):
        raise BadParameter(f"where={where!r}: a memory is added at the 'last' token of the prompt or at 'all' tokens")


def memory_tokens(lm: LM, memory: str) -> list[int]:
    """The memory's token ids as they would follow other words. Raises BadInput for one without known tokens."""
    if not memory.strip():
        raise BadInput(f"the memory {memory!r} is empty: give the entity that the question leaves out, as text")
    both = lm.encode("is", memory.strip())
    ids: list[int] = both.input_ids[0][both.target_mask[0]].tolist()
    unknown = lm.tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        raise BadInput(
            f"the memory {memory!r} has words that the tokenizer of {lm.name} does not know: its unknown token has no "
            "meaning that could be injected. Use words of the model's vocabulary."
        )
    return ids


def embed_memory(W_U: Tensor, tokens: Sequence[int]) -> Tensor:
    """B = (one-hot tokens) W_U^T: the sum of the head's rows at the memory's tokens, each once, ``[d_model]``."""
    marks = W_U.new_zeros(W_U.shape[0])
    marks[list(tokens)] = 1
    return marks @ W_U


def unembedding(lm: LM, *, folded: bool = False) -> Tensor:
    """W_U as it is stored, or with the final norm's gain folded in and its rows centred; see ``DEPARTURES``."""
    W_U = cast(Tensor, lm.arch.head.weight).detach()
    if not folded:
        return W_U
    W_U = W_U * cast(Tensor, lm.arch.final_norm.weight).detach()
    return W_U - W_U.mean(0)


def embedded(lm: LM, memories: Iterable[str], *, folded: bool = False) -> Tensor:
    """One embedded memory a row, ``[n, d_model]``. Raises BadInput."""
    W_U, wanted = unembedding(lm, folded=folded), list(memories)
    each = {memory: embed_memory(W_U, memory_tokens(lm, memory)) for memory in dict.fromkeys(wanted)}
    return torch.stack([each[memory] for memory in wanted]).to(lm.device)


def inject(lm: LM, memory: str, settings: InjectionSettings) -> HiddenStatePatch:
    """The memory as an intervention on this model. Raises BadSite for a layer that does not exist, BadInput.

    with inject(lm, "Paris", InjectionSettings(layer=2)).applied(lm) as reminded:
        reminded.generate(["Greta Penrose is a citizen of"])
    """
    site = lm.arch.check_site(Site("attn_out", settings.layer))
    return HiddenStatePatch(site=site, vector=embedded(lm, [memory])[0], where=settings.where, scale=settings.tau)


@dataclass(frozen=True, kw_only=True, eq=False)
class Swept:
    """What a model says under each injection: axes memory, layer, tau and prompt.

    ``probability`` of the tokens that were asked for, one more axis; ``said`` the most probable next token.
    """

    probability: Tensor  # [memories, layers, taus, prompts, watched]
    said: Tensor  # [memories, layers, taus, prompts] long


@torch.no_grad()
def sweep(
    lm: LM,
    asked: Asked,
    memories: Tensor,
    watched: Tensor,
    *,
    layers: Sequence[int] | None = None,
    taus: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    where: Where = "last",
    place: Place = "attn_out",
    rows: int = 2048,
) -> Swept:
    """Every memory of every prompt at every layer and tau.

    memories: embedded, ``[memories, prompts, d_model]``; each prompt has its own. watched: token ids whose probability
    is wanted, ``[prompts, watched]``. layers: all by default. place: attention's output, or for comparison the stream
    behind a block; behind the last one, nothing computes with the memory any more. rows: most rows in one forward.
    Raises BadSite for a layer that does not exist, BadInput where shapes do not fit, BadParameter.
    """
    layers = range(lm.n_layers) if layers is None else layers
    sites = [Site(place, layer) for layer in layers]
    _check_sweep(lm, asked, memories, watched, sites, taus, where)
    shape = (len(memories), len(layers), len(taus), len(asked))
    probability = torch.zeros(*shape, watched.shape[1], dtype=memories.dtype, device=lm.device)
    said = torch.zeros(shape, dtype=torch.long, device=lm.device)
    at, magnitudes = (_at_last if where == "last" else _at_all), memories.new_tensor(taus)
    for index in equal_lengths(asked.batch, lm.fitting_rows(rows, asked.batch.input_ids.shape[1], layers=lm.n_layers)):
        added = magnitudes[:, None, None] * memories[:, None, index]  # [memories, taus, B, d_model]
        ends = at(lm, asked.rows(index), added.flatten(0, 1), sites, rows)
        for column, end in enumerate(ends):
            found, top = _read(lm, end, watched[index], rows)
            probability[:, column, :, index] = found.view(*added.shape[:3], -1)
            said[:, column, :, index] = top.view(added.shape[:3])
    return Swept(probability=probability, said=said)


@torch.no_grad()
def swept_at(
    lm: LM,
    asked: Asked,
    memories: Tensor,
    watched: Tensor,
    places: Sequence[tuple[int, float]],
    *,
    where: Where = "last",
    place: Place = "attn_out",
) -> tuple[Tensor, Tensor]:
    """The same with a layer and a tau for each prompt: p(watched) ``[memories, prompts, watched]`` and what is said,
    ``[memories, prompts]``."""
    probability = memories.new_zeros(*memories.shape[:2], watched.shape[1])
    said = torch.zeros(memories.shape[:2], dtype=torch.long, device=lm.device)
    for layer, tau in sorted(set(places)):
        index = torch.tensor([i for i, each in enumerate(places) if each == (layer, tau)], device=lm.device)
        some = (asked.rows(index), memories[:, index], watched[index])
        found = sweep(lm, *some, layers=[layer], taus=[tau], where=where, place=place)
        probability[:, index], said[:, index] = found.probability[:, 0, 0], found.said[:, 0, 0]
    return probability, said


def _check_sweep(
    lm: LM, asked: Asked, memories: Tensor, watched: Tensor, sites: Sequence[Site], taus: Sequence[float], where: str
) -> None:
    _check_where(where)
    for site in sites:
        lm.arch.check_site(site)
    if not sites or not len(taus) or not len(memories):
        raise BadInput(
            f"{len(memories)} memories, {len(sites)} layers and {len(taus)} magnitudes: at least one of each is needed"
        )
    if memories.shape[1:] != (len(asked), lm.d_model) or watched.shape[:1] != (len(asked),):
        raise BadInput(
            f"memories {tuple(memories.shape)} and watched tokens {tuple(watched.shape)} for {len(asked)} prompts of a "
            f"model of width {lm.d_model}: they are [memories, prompts, width] and [prompts, tokens]"
        )


def _at_last(lm: LM, asked: Asked, added: Tensor, sites: Sequence[Site], rows: int) -> Iterator[Tensor]:
    """The last token after the last block, by site: ``added`` ``[variants, B, d_model]``, to the same shape."""
    there = last_token(lm, asked.batch)
    step = max(1, lm.fitting_rows(rows, 1) // len(asked))
    for site in sites:
        parts = []
        for some in torch.split(added, step):
            hidden = there.states[site.layer].repeat(len(some), 1)
            patch = {site: partial(_plus, some.flatten(0, 1)[:, None])}
            parts.append(there.forward(hidden, site.layer, patch=patch).view(some.shape))
        yield torch.cat(parts)


def _at_all(lm: LM, asked: Asked, added: Tensor, sites: Sequence[Site], rows: int) -> Iterator[Tensor]:
    """The same with the memory added at every token of the prompts, which have one length.

    Only the last token is read, so in the last block nothing else goes through the MLP, and what is added there to
    other tokens changes nothing.
    """
    final, blocks = lm.n_layers - 1, lm.blocks(asked.batch)
    for site in sites:
        if site.layer == final:
            yield from _at_last(lm, asked, added, [site], rows)
            continue
        hidden, ends = blocks.resid_pre[site.layer], []
        with _last_alone(lm, Site("mlp_in", final)):
            for one in added:
                ends.append(blocks.forward(hidden, site.layer, patch={site: partial(_plus, one[:, None])})[:, -1])
        yield torch.stack(ends)


@contextmanager
def _last_alone(lm: LM, site: Site) -> Iterator[None]:
    """Only the last token goes into a module; what comes out is added to every token, and right at the last one."""
    handle = attach(lm.arch.hook_point(site), lambda state: state[:, -1:])
    try:
        yield
    finally:
        handle.remove()


def _read(lm: LM, end: Tensor, watched: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """From states ``[variants, B, d_model]``: p(watched) ``[variants, B, watched]``, top tokens ``[variants, B]``."""
    probability, said = [], []
    for some in torch.split(end, max(1, lm.fitting_rows(rows, 1) // end.shape[1])):
        logits = lm.unembed(some)
        probability.append(logits.softmax(-1).gather(-1, watched.expand(len(some), -1, -1)))
        said.append(logits.argmax(-1))
    return torch.cat(probability), torch.cat(said)


def _plus(added: Tensor, state: Tensor) -> Tensor:
    return state + added.to(state)


@torch.no_grad()
def heads_bring_up(lm: LM, asked: Asked, tokens: Tensor, *, rows: int = 512) -> Tensor:
    """How far each head lifts a token above the mean of the vocabulary, at the last token: [prompts, layers, heads].

    What an attention head adds to the stream goes through the model's head without a norm, as logits; ``tokens``
    ``[prompts]`` are those looked at. A bias of the output projection belongs to no head.
    """
    W_U = cast(Tensor, lm.arch.head.weight)
    direction = W_U[tokens] - W_U.mean(0)  # [prompts, d_model]
    sites = [Site("attn_hidden", layer) for layer in range(lm.n_layers)]
    found = tokens.new_zeros(len(asked), lm.n_layers, lm.arch.n_heads, dtype=lm.dtype)
    for index in at_a_time(lm, asked.batch, rows):
        part = asked.rows(index)
        states = lm.states(part.batch, sites)
        here = torch.arange(len(part), device=lm.device)
        for layer, site in enumerate(sites):
            last = torch.unflatten(states[site][here, part.batch.prompt_lengths - 1], -1, (lm.arch.n_heads, -1))
            out = head_outputs(lm.arch, layer)
            found[index, layer] = torch.einsum("bhd,hdm,bm->bh", last, out, direction[index])
    return found
