"""Retrievers find what is most alike, always the same, and say what is missing."""

from __future__ import annotations

import sys

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
