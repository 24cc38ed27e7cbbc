"""Where the study of fusion does something else than zhang2024fusion says: topic -> (the paper, here, why)."""

from __future__ import annotations

DEPARTURES: dict[str, tuple[str, str, str]] = {
    "sizes": (
        "900 paragraphs of external knowledge and 800 of parametric knowledge",
        "340 and 300 sentences, on 68 and 60 people",
        "all modes are to be trained in minutes on one core",
    ),
    "snippets": (
        "paragraphs of 500 to 600 characters from web pages on phones",
        "one sentence each, on one attribute of an invented person",
        "the context of the testbeds is 192 tokens, and every statement has to be known",
    ),
    "number of snippets": (
        "a distribution shown in a figure; stated are the shares of five and of three",
        "those shares, and the rest spread equally over one, two and four; what has one snippet asks about one in S1",
        "the figure's numbers are not printed, and one snippet cannot answer a question on two",
    ),
    "questions": (
        "written by a language model from one or two snippets, answered in one text",
        "the relation's question; on two snippets two of them, asked one after the other",
        "answers can be decided without a judge; and 630 examples do not teach the testbeds to answer two in one",
    ),
    "prompt": (
        "the question, then the evidence, then an instruction, Eq. (1)",
        "the evidence, then the question, and no instruction",
        "the testbeds learned this form, and follow no instructions",
    ),
    "models": (
        "chat models as they are released, which refuse 25 % (ChatGLM) and 37.5 % (GPT-4) of S4",
        "testbeds that were taught beforehand to read, to answer and to refuse what they do not know",
        "models of a million parameters follow no prompt that they were not trained on",
    ),
    "replay": (
        "nothing is said about anything but K_p in continued training",
        "nothing but K_p",
        "so one sees what injection costs: testbeds unlearn much of their reading, all refusals; chat models may not",
    ),
    "modes": (
        "Table 3 has no column for continued training without fine-tuning",
        "it has one, beside the paper's four",
        "what continued training costs is to be seen before fine-tuning mends it",
    ),
    "parts": (
        "training, development and test questions; nothing is said about what they share",
        "they are about different people",
        "an answer of the test would else be taught by a training question",
    ),
    "question-answer pairs": (
        "eight for every snippet of K_p; nothing is said about whether test questions are among them",
        "one for every sentence, five a page, each in the wording in which it is not asked",
        "a test question that was trained on is recited; a relation has two wordings of its question",
    ),
    "noise on one entity": (
        "snippets on different attributes of a single product",
        "of the person asked about where K_e has a page on them, else of another one",
        "K_e has no page on the people of K_p",
    ),
    "refusals": (
        "K_gen of a refusal is not defined",
        "it says nothing beside a part that says something; alone, it states that what was asked is unknown, which is "
        "in K_ref where neither side holds it",
        "an empty set would be within every K_ref, and every refusal right",
    ),
    "easy": (
        "the caption adds the supporting snippets, the text says that they come with distractors",
        "the supporting snippets alone, to the fine-tuned model",
        "in S1, where the others get them too, the setting would else be the same as SFT",
    ),
    "optimisation": (
        "not stated",
        "all weights, the same schedule for all modes; the two learning rates are chosen on development questions of a "
        "draw that is not measured (`python -m paramem.fusion.choice`)",
        "something has to be chosen, and not on the test",
    ),
}
