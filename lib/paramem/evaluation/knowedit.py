"""What KnowEdit measures beside right and unchanged answers, read off the tidy table (zhang2024knowedit, section 4.1).

    frame = knowedit_columns(evaluate(lm, requests, edits))
    summarise(frame).metric("edit success", statistic="sentiment")

=============  =========================================================================================
edit success   the rows of reliability and generalisation once more, as one group: Eq. (10)
sentiment      z_sentiment * z_topic, Eq. (12): does the wanted opinion beat the opposite one, and is it still as
               likely as before, so that an answer stays on its topic
leaked         whether the freely generated answer still holds what was to be forgotten
=============  =========================================================================================
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from paramem.evaluation.answers import contains

DEPARTURES = {
    "texts": (
        "z_sentiment and z_topic of the ConvSent authors' code average over all collected texts of either sentiment",
        "the request's target and its opposite, one text each",
        "those are what the edit was told; the others are accepted where the answer is generated",
    ),
    "biographies": (
        "a hallucination is corrected by a whole sentence of WikiBio",
        "the testbeds' sentences end in what is corrected, and that word is the target",
        "a sentence of the bundled worlds is a template with one object; the rest of it is no knowledge",
    ),
    "kl": (
        "the released code takes the divergence over the tokens of answers about other topics",
        "at the token after the question, where Eq. (13) has the answer begin",
        "the testbeds' opinions are one word long",
    ),
}
SUCCESS = ("reliability", "generalisation")


def knowedit_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """The table of `evaluate` with columns z_sentiment, z_topic, sentiment and leaked, and the group "edit success"."""
    wanted = frame["group"].isin(SUCCESS)
    frame = frame.assign(**_sentiment(frame, wanted), leaked=_leaked(frame, wanted))
    return pd.concat([frame, frame[wanted].assign(group="edit success")], ignore_index=True)


def _sentiment(frame: pd.DataFrame, wanted: pd.Series) -> dict[str, np.ndarray]:
    """z_sentiment = sigmoid(l+ - l-), z_topic = min(1, exp(l+ - l+ before)), of mean log-probabilities l per token."""
    rows = wanted & frame["protocol"].eq("teacher_forced")
    before = frame[rows & frame["state"].eq("before")].set_index(["request", "probe"])["mean_logprob"]
    places = pd.MultiIndex.from_frame(frame[["request", "probe"]])
    earlier = before.reindex(places).to_numpy(np.float64)
    said = frame["mean_logprob"].to_numpy(np.float64)
    ahead = said - frame["rival_mean_logprob"].to_numpy(np.float64)
    z_sentiment = np.where(rows, 1 / (1 + np.exp(-ahead)), np.nan)
    z_topic = np.where(rows, np.exp(np.minimum(0.0, said - earlier)), np.nan)
    return {"z_sentiment": z_sentiment, "z_topic": z_topic, "sentiment": z_sentiment * z_topic}


def _leaked(frame: pd.DataFrame, wanted: pd.Series) -> np.ndarray:
    rows = wanted & frame["protocol"].eq("generated") & frame["rival"].notna()
    said = zip(frame["answer"], frame["rival"], rows, strict=True)
    return np.array([float(contains(str(text), str(old))) if asked else np.nan for text, old, asked in said])
