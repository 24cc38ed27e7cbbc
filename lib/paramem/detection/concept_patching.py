r"""Concept apart from language: latents of one prompt put into another that asks something else (dumas2024tongue).

A source and a target prompt differ in the concept asked for and in the language of the answer. After patching, which of
four answers comes out, source or target concept, in the source's or the target's language?

1. ``fact_pairs``: pairs of prompts, with the four answers (section 4.1: all of them begin with different tokens);
2. ``latents``: the residual stream of the source prompts after every block, averaged over the sources of a pair
   (section 5);
3. ``patch``: into the target prompt, ``position="last"``: at its last token after one block j (section 4.1);
   ``position="concept"``: at the last token of the word that names the concept, after block j and all later ones
   (section 5); a forward for every j;
4. ``concept_probabilities``: of the four answers, without patching (``layer`` -1) and for each j;
5. ``embedding_probabilities``: the same with the tokens' embeddings alone: what a word brings before any block.

===========================  =============================  ==================================
paper                        code                           shape
===========================  =============================  ==================================
S, T                         ``PromptPair.sources, target``
h^(j) at the token, of S     ``latents[j]``                 (pairs, tokens, d_model), mean over sources
rho_T                        ``Prompt.word``'s last token
P(C_S^{l_T}), ...            column ``probability``         one number a pair and layer
===========================  =============================  ==================================

Layers count blocks from 0: patching at layer j replaces what block j puts out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from paramem.arch import Site
from paramem.detection.degenerate import across_languages
from paramem.detection.neurons import answer_tokens, ask_prompts, at_a_time, known_only, require_known
from paramem.errors import BadInput, BadParameter
from paramem.facts import Fact
from paramem.hooks import Patch
from paramem.models import LM
from paramem.tokens import Batch

Role: TypeAlias = Literal["source", "target"]
OUTCOMES: tuple[tuple[Role, Role], ...] = (
    ("source", "source"),
    ("source", "target"),
    ("target", "source"),
    ("target", "target"),
)

DEPARTURES = {
    "task": (
        "few-shot word translation between many languages",
        "any prompts; the claims are measured on statements of facts, source and target in different languages; each "
        "ends in a word of its language, and `embedding_probabilities` says what that brings by itself",
        "the testbeds translate in one direction only, so two translation prompts cannot differ in the output language",
    ),
    "token": (
        "the last token of the word that names the concept",
        "the same; `tokens` can ask for more of its last tokens",
        "names of people are two tokens, and the second alone does not say who is meant",
    ),
    "words": (
        "a concept's probability in a language is the sum over the first tokens of all words for it",
        "it is that of the first token of one word",
        "the testbeds' words have no synonyms",
    ),
    "known": (
        "pairs are drawn without asking whether the model answers them",
        "prompts made from facts are used only if the model answers them by itself",
        "an answer that is not there cannot be moved",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text and the word in it whose last token carries the concept; the word may end the text."""

    text: str
    word: str


@dataclass(frozen=True, kw_only=True)
class PromptPair:
    """Source prompts of one concept, a target prompt of another, and the words for both in both languages.

    answers: (concept, language) -> word, each "source" or "target"; languages are those of the answers. languages: the
    names of these two.
    """

    sources: tuple[Prompt, ...]
    target: Prompt
    answers: Mapping[tuple[Role, Role], str]
    languages: tuple[str, str]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class PatchingSettings:
    """position: see the module. tokens: so many of the word's last tokens are patched (position "concept").

    n_sources: prompts of each source, languages in turn (position "concept").
    same_language: ask the source in the target's language, so that only the concept can change (the control).
    n_targets: at most so many target facts a language (0: all). seed: which fact is patched into which. rows: most
    prompts in a forward.
    """

    position: Literal["last", "concept"] = "last"
    tokens: int = 1
    n_sources: int = 1
    same_language: bool = False
    n_targets: int = 0
    seed: int = 0
    rows: int = 128

    def __post_init__(self) -> None:
        if min(self.n_sources, self.tokens, self.rows) < 1 or self.n_targets < 0:
            raise BadParameter(f"{self}: at least one source, token and row, and no negative number of targets")
        if (self.n_sources > 1 or self.tokens > 1) and self.position == "last":
            raise BadParameter(
                "several sources or tokens are for position 'concept': the last token is one, of one prompt"
            )


def concept_patching(lm: LM, facts: Sequence[Fact], settings: PatchingSettings | None = None) -> pd.DataFrame:
    """`concept_probabilities` of pairs of facts in different languages; see `fact_pairs`.

    Raises BadInput for facts that the model does not know, or when no two of them can be paired.
    """
    settings = settings or PatchingSettings()
    require_known(lm, facts, rows=settings.rows)
    return concept_probabilities(lm, fact_pairs(lm, facts, settings), settings)


def fact_pairs(
    lm: LM, facts: Sequence[Fact], settings: PatchingSettings, sources: Mapping[str, Sequence[Prompt]] | None = None
) -> list[PromptPair]:
    """Each fact as a target, with another fact of the same relation, drawn at random, in the other language as source.

    sources: fact id -> prompts that carry the fact's concept; by default those of `source_prompts`. A fact without any
    is never a source. Raises BadInput when nothing can be paired.
    """
    rng, pairs = random.Random(settings.seed), list[PromptPair]()
    sources = source_prompts(lm, facts, settings) if sources is None else sources
    for languages in permutations(sorted({fact.language for fact in facts}), 2):
        both = across_languages(facts, languages)
        every = [fact for said in both for fact in said]
        tokens = dict(zip([fact.id for fact in every], answer_tokens(lm, every).tolist(), strict=True))
        able = [said for said in both if all(sources.get(fact.id) for fact in said)]
        for target in rng.sample(both, min(len(both), settings.n_targets or len(both))):
            if fit := [said for said in able if _distinct(said, target, tokens)]:
                pairs.append(_pair(rng.choice(fit), target, sources, settings, rng))
    if not pairs:
        raise BadInput(
            f"no pairs among {len(facts)} facts: give two or more of one relation in two languages (ids alike but for "
            "an ending '/<language>') whose answers begin with four different tokens"
        )
    return pairs


def source_prompts(lm: LM, facts: Sequence[Fact], settings: PatchingSettings) -> dict[str, list[Prompt]]:
    """Fact id -> its own template; at the concept, its known wordings that do not begin with the subject, if any.

    What begins with the subject begins alike in both languages, so that there is nothing to compare at the subject.
    """
    if settings.position == "last":
        return {fact.id: [_asking(fact)] for fact in facts}
    asked = [
        fact.model_copy(update={"template": template})
        for fact in facts
        for template in (fact.template, *fact.paraphrases)
        if not template.startswith("{}")
    ]
    found: dict[str, list[Prompt]] = {}
    for fact in known_only(lm, asked, rows=settings.rows)[0]:
        found.setdefault(fact.id, []).append(_asking(fact))
    return {fact.id: found.get(fact.id) or [_asking(fact)] for fact in facts}


def _asking(fact: Fact) -> Prompt:
    return Prompt(text=fact.prompt, word=fact.subject)


def _distinct(source: Sequence[Fact], target: Sequence[Fact], tokens: Mapping[str, int]) -> bool:
    """Whether the answers of two facts of one relation begin with different tokens, each language's too."""
    if source is target or [fact.relation for fact in source] != [fact.relation for fact in target]:
        return False
    first = [tokens[fact.id] for fact in (*source, *target)]
    return len(set(first)) == len(first)


def _pair(
    source: Sequence[Fact],
    target: Sequence[Fact],
    prompts: Mapping[str, Sequence[Prompt]],
    settings: PatchingSettings,
    rng: random.Random,
) -> PromptPair:
    """The first of ``target`` and the last of ``source``, which are in the two languages (several sources: in turn)."""
    turns = source if settings.same_language else source[::-1]
    left = [rng.sample(prompts[fact.id], len(prompts[fact.id])) for fact in turns]
    said: dict[Role, Sequence[Fact]] = {"source": source, "target": target}
    place: dict[Role, int] = {"target": 0, "source": 1}
    return PromptPair(
        sources=tuple(left[i % 2][i // 2 % len(left[i % 2])] for i in range(settings.n_sources)),
        target=_asking(target[0]),
        answers={(concept, spoken): said[concept][place[spoken]].object for concept, spoken in OUTCOMES},
        languages=(source[1].language, target[0].language),
        name=f"{turns[0].id} -> {target[0].id}",
    )


def concept_probabilities(
    lm: LM, pairs: Sequence[PromptPair], settings: PatchingSettings | None = None
) -> pd.DataFrame:
    """One row per pair, layer, concept and language: pair, name, source_language, target_language, layer, concept,
    language (both "source" or "target"), probability of the word's first token.

    Layer -1 is the target prompt as it is. Raises BadInput when the words of a pair do not begin with different tokens.
    """
    settings = settings or PatchingSettings()
    return _table(lm, pairs, settings, lambda part: patch(lm, part, latents(lm, part, settings), settings))


def embedding_probabilities(
    lm: LM, pairs: Sequence[PromptPair], settings: PatchingSettings | None = None
) -> pd.DataFrame:
    """`concept_probabilities`, errors too, at one layer, -1: the tokens' embeddings are replaced, no block's output."""
    settings = settings or PatchingSettings()
    return _table(lm, pairs, settings, lambda part: _embedded(lm, part, settings)[None])


def _table(
    lm: LM, pairs: Sequence[PromptPair], settings: PatchingSettings, measured: Callable[[Sequence[PromptPair]], Tensor]
) -> pd.DataFrame:
    """A row per number of what is measured on some pairs at a time (layers from -1 on, pairs, outcomes)."""
    if not pairs:
        raise BadInput("no pairs of prompts: there is nothing to patch")
    width = lm.encode([pair.target.text for pair in pairs]).input_ids.shape[1]
    rows = lm.fitting_rows(settings.rows, width, layers=lm.n_layers)
    found = torch.cat([measured(pairs[start : start + rows]) for start in range(0, len(pairs), rows)], 1)
    layers, places, outcomes = np.indices(found.shape).reshape(3, -1).tolist()
    return pd.DataFrame(
        {
            "pair": places,
            "name": [pairs[place].name for place in places],
            "source_language": [pairs[place].languages[0] for place in places],
            "target_language": [pairs[place].languages[1] for place in places],
            "layer": [layer - 1 for layer in layers],
            "concept": [OUTCOMES[i][0] for i in outcomes],
            "language": [OUTCOMES[i][1] for i in outcomes],
            "probability": found.flatten().double().cpu().numpy(),
        }
    )


def _places(lm: LM, prompts: Sequence[Prompt], settings: PatchingSettings) -> tuple[Batch, Tensor]:
    """The prompts, and where each is read or patched (prompts, tokens): its last token, or the last ones of its word.

    Raises BadInput for a word of fewer tokens.
    """
    batch = lm.encode([prompt.text for prompt in prompts])
    if settings.position == "last":
        return batch, batch.prompt_lengths[:, None] - 1
    spans = [lm.subject_span(prompt.text, prompt.word) for prompt in prompts]
    for prompt, span in zip(prompts, spans, strict=True):
        if len(span) < settings.tokens:
            raise BadInput(
                f"{prompt.word!r} in {prompt.text!r} has {len(span)} tokens, and {settings.tokens} are asked for"
            )
    return batch, torch.tensor([list(span)[-settings.tokens :] for span in spans], device=lm.device)


def latents(lm: LM, pairs: Sequence[PromptPair], settings: PatchingSettings) -> Tensor:
    """h^(j) of the sources, averaged over those of a pair (layers, pairs, tokens, d_model)."""
    return _averaged(lm, pairs, [Site("resid_post", layer) for layer in range(lm.n_layers)], settings)


@torch.no_grad()
def _averaged(lm: LM, pairs: Sequence[PromptPair], sites: Sequence[Site], settings: PatchingSettings) -> Tensor:
    """States of the sources at the patched tokens, averaged over those of a pair (sites, pairs, tokens, d_model)."""
    prompts = [prompt for pair in pairs for prompt in pair.sources]
    owner = torch.tensor([i for i, pair in enumerate(pairs) for _ in pair.sources], device=lm.device)
    every, where = _places(lm, prompts, settings)
    parts = []
    for index in at_a_time(lm, every, settings.rows, layers=len(sites)):
        batch, places = every.rows(index), where[index]
        states, rows = lm.states(batch, sites), torch.arange(len(batch), device=lm.device)[:, None]
        parts.append(torch.stack([states[site][rows, places] for site in sites]))
    found = torch.cat(parts, 1)
    total = found.new_zeros(len(sites), len(pairs), *found.shape[2:]).index_add_(1, owner, found)
    return total / owner.bincount(minlength=len(pairs))[:, None, None]


@torch.no_grad()
def patch(lm: LM, pairs: Sequence[PromptPair], states: Tensor, settings: PatchingSettings) -> Tensor:
    """Probabilities of the four answers, unpatched and patched from each layer on (1 + layers, pairs, outcomes)."""
    answers = _answers(lm, pairs)
    batch, places = _places(lm, [pair.target for pair in pairs], settings)
    rows, last = torch.arange(len(batch), device=lm.device), batch.prompt_lengths - 1
    blocks = lm.blocks(batch)

    def read(hidden: Tensor) -> Tensor:
        return lm.unembed(hidden[rows, last]).softmax(-1).gather(1, answers)

    def put(layer: int) -> Patch:
        return lambda state: state.index_put((rows[:, None], places), states[layer].to(state))

    found = [read(blocks.resid_pre[-1])]
    for layer in range(lm.n_layers):
        above = range(layer + 1, lm.n_layers) if settings.position == "concept" else ()
        patches = {Site("resid_post", other): put(other) for other in above}
        found.append(read(blocks.forward(put(layer)(blocks.resid_pre[layer + 1]), layer + 1, patch=patches)))
    return torch.stack(found)


@torch.no_grad()
def _embedded(lm: LM, pairs: Sequence[PromptPair], settings: PatchingSettings) -> Tensor:
    """Probabilities of the four answers with the sources' states in front of the first block (pairs, outcomes)."""
    entry = Site("resid_pre", 0)
    (states,) = _averaged(lm, pairs, [entry], settings)
    batch, places = _places(lm, [pair.target for pair in pairs], settings)
    rows = torch.arange(len(batch), device=lm.device)

    def put(state: Tensor) -> Tensor:
        return state.index_put((rows[:, None], places), states.to(state))

    said = lm.run(batch, patch={entry: put}).logits[rows, batch.prompt_lengths - 1]
    return said.softmax(-1).gather(1, _answers(lm, pairs))


def _answers(lm: LM, pairs: Sequence[PromptPair]) -> Tensor:
    """First tokens of the four answers after the target prompt (pairs, outcomes)."""
    prompts = [pair.target.text for pair in pairs for _ in OUTCOMES]
    words = [pair.answers[outcome] for pair in pairs for outcome in OUTCOMES]
    answers = ask_prompts(lm, prompts, words).answers.view(len(pairs), len(OUTCOMES))
    for pair, row in zip(pairs, answers.tolist(), strict=True):
        if len(set(row)) < len(row):
            words = [pair.answers[outcome] for outcome in OUTCOMES]
            raise BadInput(
                f"pair {pair.name!r}: {words} do not begin with different tokens, so that they cannot be told apart"
            )
    return answers
