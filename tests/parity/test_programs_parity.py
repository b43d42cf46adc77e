"""Whole programs as PyTorch's users write them: with other imports they give the same results.

Compared are losses, gradients and weights after some steps, eager and compiled in one piece where
the program does not say that it may be split.
"""

from __future__ import annotations

import warnings

import pytest
from pytorch_programs import Compiled, Source, compare, plain, results, sources

import flamec

torch = pytest.importorskip("torch")

OF_PAPERS = sources("programs_of_papers")
OF_USERS = sources(
    *(
        f"programs_{topic}"
        for topic in (
            "vision",
            "language",
            "time",
            "representations",
            "practice",
            "generative",
            "transformers",
            "pictures",
            "structures",
            "habits",
            "probability",
            "scans",
            "decoding",
            "schemes",
            "repositories",
            "agents",
            "idioms",
            "memories",
        )
    )
)
# what is compiled at each run of the tests: views, hooks, splits, state, derivatives of derivatives
TELLING = {
    "seq2seq_with_attention",
    "lstm_tagger",
    "grad_cam_with_hooks",
    "lora_injection",
    "object_detection_parts",
    "vector_quantised_autoencoder",
    "barlow_twins_and_byol",
    "maml_by_hand",
    "checkpoint_and_resume",
    "message_passing",
    "moe_with_index_select_dispatch",
    "spectral_norm_gan",
    "parametrized_training",
    "kalman_smoother",
    "bayes_by_backprop",
    "continuous_normalizing_flow",
    "td3_prioritized_replay",
    "speculative_decoding",
}


def _expected(source: Source) -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        return results(torch, source, plain)


@pytest.mark.parametrize("source", [*OF_PAPERS, *OF_USERS], ids=str)
def test_eager(source: Source) -> None:
    compare(results(flamec, source, plain), _expected(source))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(s, marks=() if s in OF_PAPERS or s.name in TELLING else pytest.mark.slow)
        for s in (*OF_PAPERS, *OF_USERS)
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*Python code")
def test_compiled(source: Source) -> None:
    compiled = Compiled()
    compare(results(flamec, source, compiled), _expected(source))
    for function in compiled.functions:  # with gradients to add to, and without
        assert function.stats.traces <= 2 or not function.options.fullgraph


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(s, marks=() if s.name in TELLING else pytest.mark.slow)
        for s in OF_USERS
        if "compiled_forward(" in s.file.read_text()
    ],
    ids=str,
)
def test_compiled_forward(source: Source) -> None:
    """The model's call alone is compiled, the rest of the step is eager."""
    found = results(flamec, source, plain, compiled_forward=flamec.compile)
    compare(found, _expected(source))
