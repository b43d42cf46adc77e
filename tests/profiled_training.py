"""A training step with and without profiles: what tests of the profiler on both devices share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from flamec.profiler import profile


def same_with_profiles(
    training: Callable[[], tuple[Any, Any]],
    batch: tuple[Any, Any],
    calls: int,
    profiled: Collection[int],
) -> tuple[Any, profile]:
    """Trains twice, the second time with profiles of the calls in ``profiled``.

    ``training()`` gives a compiled step and the model that it changes. Losses and parameters must
    agree in every bit. Returns the step that was profiled, and the last profile.
    """
    plain, model = training()
    timed, timed_model = training()
    made = []
    for number in range(calls):
        expected = plain(*batch)
        if number in profiled:
            with profile() as prof:
                given = timed(*batch)
            made.append(prof)
        else:
            given = timed(*batch)
        assert np.array_equal(expected.detach().cpu().numpy(), given.detach().cpu().numpy())
    for a, b in zip(model.parameters(), timed_model.parameters(), strict=True):
        assert np.array_equal(a.detach().cpu().numpy(), b.detach().cpu().numpy())
    assert len(made) == len(profiled)
    return timed, made[-1]
