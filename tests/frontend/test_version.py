"""``flamec.version``: what can be asked, and the driver's CUDA."""

from __future__ import annotations

import pytest

import flamec
from flamec.runtime.cuda import driver


def test_versions() -> None:
    import flamec.version as version

    assert version is flamec.version
    assert version.__version__ == flamec.__version__
    assert (version.git_version, version.debug, version.hip) == ("Unknown", False, None)
    assert (version.cuda is None) == (not flamec.cuda.is_available())


class _Driver:
    @staticmethod
    def cuDriverGetVersion() -> tuple[int, int]:
        return 0, 12080


def test_cuda_is_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_reason", None)
    monkeypatch.setattr(driver, "_driver", _Driver)
    assert flamec.version.cuda == "12.8"
    monkeypatch.setattr(driver, "_driver", None)
    monkeypatch.setattr(driver, "_reason", "no NVIDIA driver was found")
    assert flamec.version.cuda is None
