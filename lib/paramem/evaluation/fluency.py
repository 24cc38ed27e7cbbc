"""Fluency: the generation entropy of meng2022rome, which falls when a model starts to repeat itself.

The frequencies of a text's bigrams and trigrams have entropies H2 and H3, in bits; the score is their weighted mean
with weights 1/3 and 2/3 (the authors' code: the plain mean of 2/3 H2 and 4/3 H3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING

from paramem.errors import BadParameter
from paramem.generation import Sampling, generate

if TYPE_CHECKING:
    from paramem.models import LM

DEPARTURES = {
    "words": ("words are split by nltk", "one regular expression splits words and punctuation", "one dependency less"),
    "length": ("100 tokens, the prompt included", "`Fluency.new_tokens` new ones", "prompts differ in length"),
}

_WORDS = re.compile(r"\w+|[^\w\s]")
_WEIGHTS = {2: 1 / 3, 3: 2 / 3}


@dataclass(frozen=True, kw_only=True)
class Fluency:
    """How texts are generated for the score: sampled, as the authors do, from the `top_k` most probable tokens."""

    new_tokens: int = 100
    top_k: int | None = 5
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.new_tokens < 1:
            raise BadParameter(f"new_tokens is {self.new_tokens}; at least one token must be generated")


def ngram_entropy(words: Sequence[str], n: int) -> float:
    """Entropy in bits of the frequencies of a text's n-grams; 0 when it has none."""
    counts = Counter(zip(*(words[start:] for start in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(count / total * log2(count / total) for count in counts.values()) if total else 0.0


def generation_entropy(text: str) -> float:
    """The weighted mean of bigram and trigram entropy, in bits."""
    words = _WORDS.findall(text)
    return sum(weight * ngram_entropy(words, n) for n, weight in _WEIGHTS.items())


def generated_texts(
    lm: LM, prompts: Sequence[str], settings: Fluency, *, named: Sequence[str] | None = None
) -> list[str]:
    """Each prompt with what the model goes on to say; the draws are those of the prompts, or of what is `named`."""
    longest = int(lm.encode(prompts).lengths.max())
    if (room := lm.max_length - longest) < settings.new_tokens:
        raise BadParameter(
            f"new_tokens is {settings.new_tokens}, but after the longest generation prompt ({longest} tokens) the "
            f"context of {lm.max_length} has room for {max(room, 0)}; lower Fluency(new_tokens=...)"
        )
    sampling = Sampling(
        max_new_tokens=settings.new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=settings.seed,
        named=named,
    )
    texts = generate(lm, prompts, sampling)
    return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
