"""Retrievers find what is most alike, always the same, and say what is missing."""

from __future__ import annotations

import string
import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

from paramem.editing.retrieval import index, nearest
from paramem.errors import BadInput, BadParameter

TEXTS = ("Ada Berg was born in Lyon", "Ada Berg plays the lute", "Ben Cole was born in Paris", "O. Cole keeps a dog")


def test_the_nearest_text_shares_the_most_words() -> None:
    found = index("tfidf", TEXTS)
    assert nearest(found, "Ada Berg was born in", 4)[0] == 0
    assert nearest(found, "Ben Cole plays the", 1) != [0]
    assert nearest(found, "O. Cole", 1) == [3], "words of one letter count"


def test_a_text_is_most_similar_to_itself() -> None:
    similarities = index("tfidf", TEXTS).similarities(TEXTS)
    assert similarities.diagonal() == pytest.approx(1.0)
    assert (similarities - 2 * (similarities.diagonal() * 0 + 1)).max() < 0
    assert similarities.argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert similarities[0, 3] == 0, "the control: no word in common"


def test_a_retriever_is_deterministic_and_breaks_ties_by_order() -> None:
    twins = ("Ada sings", "Ben sings", "Cid sings")
    assert nearest(index("tfidf", twins), "Dora sings", 3) == [0, 1, 2]
    assert (index("tfidf", TEXTS).similarities(["Ada"]) == index("tfidf", TEXTS).similarities(["Ada"])).all()


def test_unknown_names_and_missing_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadParameter, match="no retriever 'bm25'"):
        index("bm25", TEXTS)
    with pytest.raises(BadInput, match="no text"):
        index("tfidf", ())
    with pytest.raises(BadInput, match="has a word"):
        index("tfidf", ["...", "!"])
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BadInput, match=r"not installed: pip install 'paramem\[st\]'"):
        index("st:some-model", TEXTS)


class StandIn:
    """A sentence model that counts letters: what the real one is asked for, without its weights."""

    loaded: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        if name == "nowhere":
            raise OSError("no such folder")
        self.loaded.append(name)

    def encode(self, texts: list[str], *, normalize_embeddings: bool, show_progress_bar: bool) -> np.ndarray:
        assert normalize_embeddings
        assert not show_progress_bar
        counts = np.array([[text.lower().count(letter) for letter in string.ascii_lowercase] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_sentence_embeddings_are_compared_by_cosine_and_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("sentence_transformers")
    monkeypatch.setattr(package, "SentenceTransformer", StandIn, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    found = index("st:letters", TEXTS)
    assert found.similarities(TEXTS).diagonal() == pytest.approx(1.0)
    assert found.similarities(TEXTS).dtype == np.float64
    assert found.similarities(["lyon in born was berg ada"])[0].argmax() == 0, "an anagram has the same letters"
    assert nearest(found, "lutes play, Ada Berg", 1) == [1]
    assert index("tfidf", TEXTS).similarities(["nrob"]).max() == 0, "the control: words, which it has none of"
    index("st:letters", TEXTS[:2])
    assert StandIn.loaded == ["letters"], "the model is loaded once"
    with pytest.raises(BadInput, match="no sentence-transformers model 'nowhere': no such folder"):
        index("st:nowhere", TEXTS)
