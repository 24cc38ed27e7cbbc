r"""Parametric RAG: every document becomes a low-rank adapter ahead of time, and a question is answered with the sum of
the retrieved ones (su2025prag). Or for the moment: parameters are made for one question from all that was retrieved
for it, used once, and gone (anon2024inparameter).

    page = Augmented(name="Ada", text="Ada was born in Lyon.", rewrites=("The home town of Ada is Lyon.",),
                     pairs=(("Q: Where was Ada born? A:", "Lyon"),))
    corpus = Corpus.of(lm, [page, ...])                                  # offline, section 3.2
    corpus.answer(lm, ["Q: What is the birthplace of Ada? A:"], k=3)     # online, section 3.3

    with temporarily(lm, [page, ...]) as informed:                       # trained here, taken off at the end
        continuations(informed, ["Q: What is the birthplace of Ada? A:"])

1. augment the document with rewrites and question-answer pairs (`Augmented`, section 3.2.1);
2. encode it: factors of the feed-forward matrices, trained on all tokens of documents, questions and answers
   (`sequences`, `encode`, section 3.2.2);
3. retrieve the k documents that are most like the question (`Corpus.retrieve`, section 3.3.1);
4. update the model with the sum of their factors (`Corpus.merged`, section 3.3.2);
5. generate from the question alone, or from the question behind the documents (`Corpus.answer`, section 3.3.3).

| paper             | code                                | shape or meaning                            |
|-------------------|-------------------------------------|---------------------------------------------|
| d_i, d_i^k        | ``text``, ``rewrites``              | a document and its rewrites, n of them      |
| q_i^j, a_i^j      | ``pairs``                           | questions on it and their answers, m        |
| D_i               | `Augmented`                         | Eq. (2)                                     |
| x                 | `sequences`                         | Eq. (4)                                     |
| A, B              | `DocumentAdapter` (`LowRank`)       | (h, r) and (k, r) of an FFN matrix, Eq. (3) |
| K_P               | ``Corpus.adapters``                 | Eq. (1)                                     |
| R, S_d            | ``Corpus.index``                    | cosine of weighted counts of words          |
| Delta W_merge     | `merge`                             | Eq. (6)                                     |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from paramem.editing.retrieval import Index, index, nearest
from paramem.errors import BadInput, BadParameter
from paramem.fusion.study import continuations
from paramem.fusion.training import n_tokens, text_row
from paramem.injection.document_adapter import DocumentAdapter, How, base_fingerprint, merge
from paramem.injection.document_encoding import EncodingSettings, train_adapters
from paramem.injection.kept_adapters import kept_adapters
from paramem.interventions import WeightDelta
from paramem.lm import LM
from paramem.world.recipe import Row

Form: TypeAlias = Literal["joined", "apart"]
Injection: TypeAlias = Literal["none", "context", "parameters", "both"]
FORMS: tuple[Form, ...] = get_args(Form)
INJECTIONS: tuple[Injection, ...] = get_args(Injection)

# Where we do something else than the papers say: topic -> (what they say, what we do, why).
DEPARTURES: dict[str, tuple[str, str, str]] = {
    "optimisation": (
        "one pass, learning rate 3e-4, one sequence a step; Eq. (5) is a sum over tokens",
        "several passes at a higher rate, two sequences a step, the mean over their tokens, with a warm-up and a decay",
        "a testbed of 0.8 million parameters learns a page neither in three steps nor at that rate",
    ),
    "sequences": (
        "document, question and answer are one sequence, Eq. (4); in the released code half of the questions are alone",
        "each is a sequence of its own; form='joined' is Eq. (4)",
        "the testbeds copy an answer that stands in front of them, so that it teaches the weights nothing",
    ),
    "augmentation": (
        "the model rewrites the document and asks about it",
        "sentences in other wordings, and the relations' questions",
        "the testbeds write no texts, and every statement has to be known",
    ),
    "retrieval": (
        "BM25",
        "cosine of TF-IDF, as everywhere in this library",
        "pages are equally long, and names decide",
    ),
    "scaling": (
        "Eq. (6) multiplies the sum by one alpha",
        "alpha / r is in the factors of each adapter, and the sum has weight one",
        "so the released code merges (peft's combination 'cat' with weights of one)",
    ),
    "originals": (
        "Eq. (2) has rewritten documents only, the released code the original beside them",
        "the original and its rewrites",
        "the figure on augmentation takes rewriting away, and the document has to be left then",
    ),
    "ablation": (
        "one pass for every variant, so that what has less text sees fewer tokens",
        "as many passes for every variant, which decides; and beside it as many tokens for every variant",
        "else a variant with more text may win by longer training alone",
    ),
    "temporary injection": (
        "knowledge is embedded in the parameters for one input (anon2024inparameter, of which the abstract was read)",
        "one low-rank adapter, trained on all that was retrieved for the question, with its rewrites and questions",
        "the abstract does not say how; so it differs from parametric RAG in nothing but when parameters are made",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """D_i, Eq. (2): a document with rewrites of it and with questions that it answers."""

    name: str
    text: str
    rewrites: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.text.strip() or not all(rewrite.strip() for rewrite in self.rewrites):
            raise BadInput(f"document {self.name!r} or a rewrite of it is an empty passage: there is nothing to encode")
        if not all(question.strip() and answer.strip() for question, answer in self.pairs):
            raise BadInput(f"document {self.name!r} has a pair without a question or without an answer: drop the pair")

    def without(self, *, rewrites: bool = False, pairs: bool = False) -> Augmented:
        """The same document with less beside it, as in the ablation of section 5.3: what is true is left out."""
        return replace(self, rewrites=() if rewrites else self.rewrites, pairs=() if pairs else self.pairs)


@dataclass(frozen=True, kw_only=True)
class PragSettings:
    """form: whether a sequence is document, question and answer (Eq. 4), or each of them is one of its own."""

    form: Form = "apart"
    encoding: EncodingSettings = field(default_factory=EncodingSettings)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise BadParameter(f"form={self.form!r}: one of {', '.join(FORMS)}")


def sequences(page: Augmented, form: Form) -> list[str]:
    """What the adapter is trained on; a document without pairs is a sequence by itself."""
    documents, said = [page.text, *page.rewrites], [f"{question} {answer}." for question, answer in page.pairs]
    if form == "apart" or not said:
        return documents + said
    return [f"{document} {pair}" for document in documents for pair in said]  # Eq. (4), su2025prag


def encode(
    lm: LM, pages: Sequence[Augmented], settings: PragSettings, *, tokens: int | None = None, keep: bool = False
) -> list[DocumentAdapter]:
    """f_phi of Eq. (1): the adapter of every page; all tokens count, Eq. (5).

    tokens: how many to train on, all pages together; as many passes as the settings say when None.
    keep: whether to round the adapters and to keep them for the next time, see `kept_adapters`.
    Raises BadInput for no page or for two of one name, PromptTooLong for a sequence that exceeds the context.
    """
    if not pages:
        raise BadInput("there are no documents to encode: give one at least, or ask the model without any")
    if tokens is not None and tokens < 1:
        raise BadParameter(f"tokens={tokens}: at least one, or None for as many passes as the settings say")
    names = [page.name for page in pages]
    if len(set(names)) < len(names):
        raise BadInput(f"two documents are called {next(n for n in names if names.count(n) > 1)!r}: names are unique")
    rows = {page.name: rows_of(lm, page, settings.form) for page in pages}
    encoding = settings.encoding
    if tokens is not None:
        encoding = replace(encoding, passes=tokens / n_tokens([row for some in rows.values() for row in some]))
    return (kept_adapters if keep else train_adapters)(lm, rows, encoding)


def encode_together(
    lm: LM, bundles: Sequence[Sequence[Augmented]], settings: PragSettings, *, keep: bool = False
) -> list[DocumentAdapter]:
    """One adapter for each bundle of documents, trained on all of them at once; equal bundles share one.

    Raises BadInput for a bundle without documents, one with a name twice, and two of the same name, PromptTooLong.
    """
    names = [_bundle_name(bundle) for bundle in bundles]
    told: dict[str, Sequence[Augmented]] = {}
    for name, bundle in zip(names, bundles, strict=True):
        if list(told.setdefault(name, bundle)) != list(bundle):
            raise BadInput(
                f"two bundles are called {name!r}, and their documents differ: an adapter goes by its name; encode "
                "them in two calls, or rename a document"
            )
    of = {
        page: rows_of(lm, page, settings.form) for page in dict.fromkeys(page for bundle in bundles for page in bundle)
    }
    rows = {name: [row for page in bundle for row in of[page]] for name, bundle in zip(names, bundles, strict=True)}
    made = (kept_adapters if keep else train_adapters)(lm, rows, settings.encoding)
    deltas = {name: adapter.delta for name, adapter in zip(rows, made, strict=True)}
    base = base_fingerprint(lm)
    return [
        DocumentAdapter(deltas[name], documents=[page.name for page in bundle], base=base, base_name=lm.name)
        for name, bundle in zip(names, bundles, strict=True)
    ]


def _bundle_name(bundle: Sequence[Augmented]) -> str:
    """The documents' names, joined. Raises BadInput where one occurs twice."""
    names = [page.name for page in bundle]
    joined = " + ".join(names)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"the bundle {joined!r} holds {twice!r} twice, which doubles its weight: give each once")
    return joined


@contextmanager
def temporarily(lm: LM, pages: Sequence[Augmented], settings: PragSettings | None = None) -> Iterator[LM]:
    """The model with parameters that are made now from these documents, and gone at the end (anon2024inparameter)."""
    (made,) = encode_together(lm, [pages], settings or PragSettings())
    with made.applied(lm) as informed:
        yield informed


def rows_of(lm: LM, page: Augmented, form: Form) -> list[Row]:
    """The page's sequences as tokens, each with weight one."""
    return [text_row(lm, text) for text in sequences(page, form)]


@dataclass(frozen=True, eq=False)
class Corpus:
    """K and K_P: documents, their adapters in the same order, and an index to find them by."""

    pages: tuple[Augmented, ...]
    adapters: tuple[DocumentAdapter, ...]
    retriever: str = "tfidf"

    def __post_init__(self) -> None:
        held = [adapter.documents for adapter in self.adapters]
        if held != [(page.name,) for page in self.pages]:
            raise BadInput(
                f"{len(self.pages)} documents and adapters of {len(held)}: one adapter for each, in the same order"
            )

    @classmethod
    def of(cls, lm: LM, pages: Sequence[Augmented], settings: PragSettings | None = None) -> Corpus:
        """The offline stage."""
        return cls(tuple(pages), tuple(encode(lm, pages, settings or PragSettings())))

    @cached_property
    def index(self) -> Index:
        return index(self.retriever, [page.text for page in self.pages])

    def retrieve(self, question: str, k: int) -> list[int]:
        """The numbers of the k documents most like the question, nearest first. Raises BadParameter."""
        if not 1 <= k <= len(self.pages):
            raise BadParameter(f"k={k}: between 1 and the {len(self.pages)} documents that there are")
        return nearest(self.index, question, k)

    def merged(self, chosen: Sequence[int], how: How = "sum") -> DocumentAdapter:
        """The one adapter of the documents of these numbers."""
        return merge([self.adapters[i] for i in chosen], how)

    def answer(
        self, lm: LM, questions: Sequence[str], *, k: int = 3, injection: Injection = "parameters", how: How = "sum"
    ) -> list[str]:
        """The online stage: retrieve, update, generate; every question with its own documents.

        injection: where the retrieved documents go; "both" is the paper's "Combine Both".
        Raises PromptTooLong where a question, with its documents in context, exceeds it.
        """
        if injection not in INJECTIONS:
            raise BadParameter(f"injection={injection!r}: one of {', '.join(INJECTIONS)}")
        chosen = [self.retrieve(question, k) for question in questions]
        prompts = list(questions)
        if injection in ("context", "both"):
            prompts = [self.behind(which, question) for which, question in zip(chosen, questions, strict=True)]
        if injection in ("none", "context"):
            return continuations(lm, prompts)
        return continuations(lm, prompts, edits=deltas(lm, [self.merged(which, how) for which in chosen]))

    def behind(self, chosen: Sequence[int], question: str) -> str:
        """The question behind the texts of the documents of these numbers."""
        return " ".join([*(self.pages[i].text for i in chosen), question])


def deltas(lm: LM, adapters: Sequence[DocumentAdapter]) -> list[WeightDelta]:
    """The weight changes of adapters that belong to this model. Raises IncompatibleIntervention."""
    for adapter in {adapter.base: adapter for adapter in adapters}.values():
        adapter.check(lm)
    return [adapter.delta for adapter in adapters]
