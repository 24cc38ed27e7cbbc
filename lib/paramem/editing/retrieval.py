"""Retrievers: which stored texts are most like a query.

    >>> index("tfidf", ["Ada was born in", "Ben plays the"]).similarities(["Ada comes from"]).argmax()
    0

A retriever is known by its name, so that an edit that uses one can be saved: "tfidf" (word and word-pair counts,
weighted and compared by cosine; scikit-learn), or "st:MODEL" (sentence embeddings compared by cosine; the optional
extra ``st``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from paramem.errors import BadInput, BadParameter

Similarities = NDArray[np.float64]
WORDS = r"(?u)\b\w+\b"  # scikit-learn's own pattern drops words of one letter, which initials are


class Index(Protocol):
    """Stored texts, ready to be compared with."""

    def similarities(self, queries: Sequence[str]) -> Similarities:
        """Cosine of every query with every stored text, (queries, texts)."""


@dataclass(frozen=True, eq=False)
class TfIdfIndex:
    """Term counts weighted by how rare a term is among the stored texts; what none of them has does not count."""

    vectorizer: Any
    stored: Any  # sparse, (texts, terms), rows of norm one

    def similarities(self, queries: Sequence[str]) -> Similarities:
        found = self.vectorizer.transform(list(queries)) @ self.stored.T
        return np.asarray(found.toarray(), dtype=np.float64)


@lru_cache(maxsize=8)
def tfidf(texts: tuple[str, ...]) -> TfIdfIndex:
    """An index of words and pairs of adjacent words, made once for the same texts.

    Raises `BadInput` when no text has any word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=WORDS, ngram_range=(1, 2), sublinear_tf=True)
    try:
        return TfIdfIndex(vectorizer, vectorizer.fit_transform(list(texts)))
    except ValueError as error:
        raise BadInput(f"none of the {len(texts)} texts to search in has a word: {error}") from error


@dataclass(frozen=True, eq=False)
class EmbeddingIndex:
    """Sentence embeddings of norm one."""

    embed: Callable[[Sequence[str]], Similarities]
    stored: Similarities

    def similarities(self, queries: Sequence[str]) -> Similarities:
        return self.embed(queries) @ self.stored.T


def sentence_embeddings(name: str, texts: Sequence[str]) -> EmbeddingIndex:
    """An index by a sentence-transformers model (a hub id or a folder); raises `BadInput` when that is not there."""
    model = _sentence_model(name)

    def embed(queries: Sequence[str]) -> Similarities:
        found = model.encode(list(queries), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float64)

    return EmbeddingIndex(embed, embed(texts))


@cache
def _sentence_model(name: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise BadInput(
            f"retriever 'st:{name}' needs the package sentence-transformers, which is not installed: "
            "pip install 'paramem[st]', or choose retriever='tfidf'"
        ) from error
    try:
        return SentenceTransformer(name)
    except (OSError, ValueError) as error:
        raise BadInput(f"no sentence-transformers model {name!r}: {error}; give a folder or a hub id") from error


def index(retriever: str, texts: Sequence[str]) -> Index:
    """The texts indexed by the retriever of that name; raises `BadParameter` for a name that is none, `BadInput` for no
    text."""
    if not texts:
        raise BadInput("there is no text to search in")
    if retriever == "tfidf":
        return tfidf(tuple(texts))
    if retriever.startswith("st:") and len(retriever) > len("st:"):
        return sentence_embeddings(retriever.removeprefix("st:"), texts)
    raise BadParameter(
        f"no retriever {retriever!r}; there are 'tfidf' and 'st:MODEL' with a sentence-transformers model"
    )


def nearest(found: Index, query: str, k: int) -> list[int]:
    """The k most similar texts, nearest first; of equally similar ones those stored first."""
    return [int(i) for i in np.argsort(-found.similarities([query])[0], kind="stable")[:k]]
