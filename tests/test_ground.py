"""Training ground: what is certified is what was written, what was chosen is paid for, and true risks are true."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paramem.bounds.ground import SIZES, Training, certified, certify, fresh_lm, pretrained, score, train
from paramem.bounds.risk import prefix_free_bits
from paramem.bounds.smoothing import ALPHAS
from paramem.bounds.source import Source, words
from paramem.errors import BadParameter

SHORT = {"steps": 12, "quantised_steps": 6, "batch": 8}
KINDS = {
    "sublora": Training(rank=2, dimension=60, **SHORT),
    "lora": Training(rank=2, dimension=None, **SHORT),
    "subspace": Training(rank=None, dimension=60, **SHORT),
    "full": Training(rank=None, dimension=None, **SHORT),
}
source = Source()
documents = source.draw(400, 0)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_is_about_the_model_in_the_bytes(architecture: str, kind: str) -> None:
    lm = fresh_lm(architecture, "tiny", 0)  # type: ignore[arg-type]
    before = lm.fingerprint()
    trained = train(lm, documents, KINDS[kind], 0)
    assert trained.training.kind == kind
    assert lm.fingerprint() == before
    assert trained.bits == prefix_free_bits(8 * len(trained.done.code.pack()))
    found = certify(trained, documents, source, seed=0, n_choices=4, n=300, fresh=300)
    assert list(found.index) == ["BPD", "top-1", "top-10"]
    assert (found["bound"] >= found["empirical"]).all()
    assert found["holds"].all()
    assert found.loc["BPD", "guess"] == math.log2(source.vocabulary)
    assert found.loc["top-10", "guess"] == 1 - 10 / source.vocabulary
    alpha_bits = math.ceil(math.log2(len(ALPHAS)))
    assert found.loc["BPD", "bits"] == pytest.approx(trained.bits + 2 + alpha_bits), "alpha's bits, once"
    assert found.loc["top-1", "bits"] == pytest.approx(trained.bits + 2)
    parts = found["empirical"] + found["gap_model"] + found["gap_sample"]
    assert found["bound"].to_numpy() == pytest.approx(parts.to_numpy())


def test_the_seed_decides_and_another_seed_gives_another_message() -> None:
    lm = fresh_lm("gpt2", "tiny", 0)
    one, again, other = (train(lm, documents, KINDS["sublora"], seed).done.code.pack() for seed in (0, 0, 1))
    assert one == again != other


def test_scores_are_those_of_each_document_alone_in_the_order_that_was_asked_for() -> None:
    lm, rows = fresh_lm("llama", "tiny", 0), np.array([5, 2, 5, 9])
    together = score(lm, documents, rows)
    assert together.lengths.tolist() == (documents.lengths[rows] - 1).tolist()
    for at, row in enumerate(rows):
        alone = score(lm, documents, np.array([row]))
        start = int(together.lengths[:at].sum())
        part = slice(start, start + len(alone.logprobs))
        torch.testing.assert_close(together.logprobs[part], alone.logprobs)
        assert torch.equal(together.ranks[part], alone.ranks)
        ids = torch.from_numpy(documents.ids[row, : documents.lengths[row]].astype(np.int64))
        with torch.no_grad():
            said = lm.model(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
        torch.testing.assert_close(alone.logprobs, said.gather(1, ids[1:, None])[:, 0])


def test_ties_count_against_the_model() -> None:
    lm = fresh_lm("gpt2", "tiny", 0)
    with torch.no_grad():
        for each in lm.model.parameters():
            each.zero_()
    even = score(lm, documents, np.arange(5))
    assert float(even.errors(10).min()) == 1.0, "whoever says everything says nothing"
    torch.testing.assert_close(even.logprobs, torch.full_like(even.logprobs, -math.log(len(words()))))


def test_more_choices_and_more_certainty_cost() -> None:
    lm = fresh_lm("gpt2", "tiny", 0)
    seen, unseen = score(lm, documents), score(lm, source.draw(100, 0, sample=1))
    here = certified(seen, unseen, 500.0, 400, n_choices=1)["bound"]
    assert (certified(seen, unseen, 500.0, 400, n_choices=16)["bound"] > here).all()
    assert (certified(seen, unseen, 500.0, 400, n_choices=1, delta=0.01)["bound"] > here).all()
    assert (certified(seen, unseen, 900.0, 400, n_choices=1)["bound"] > here).all()
    assert (certified(seen, unseen, 500.0, 4000, n_choices=1)["bound"] < here).all()


def test_pretraining_learns_another_source() -> None:
    east = Source(region="east")
    new = east.draw(60, 5)
    before, after = fresh_lm("gpt2", "tiny", 0), pretrained("gpt2", "tiny", east, 0, steps=20)
    assert float(score(after, new).logprobs.mean()) > float(score(before, new).logprobs.mean()) + 0.3
    assert not any(each.requires_grad for each in after.model.parameters())


def test_bad_sizes() -> None:
    with pytest.raises(BadParameter, match=", ".join(SIZES)):
        fresh_lm("gpt2", "enormous", 0)
    with pytest.raises(BadParameter, match="gpt2 or llama"):
        fresh_lm("bert", "tiny", 0)  # type: ignore[arg-type]
