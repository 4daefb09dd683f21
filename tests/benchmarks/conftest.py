"""Figures are printed as they are taken, each beside its limit, and fail where they pass it."""

import pytest

from tests.e2e.conftest import commands as commands


@pytest.fixture
def figure(capsys):
    """Print one measured value against its limit; the ratio is what fails."""

    def show(name, value, limit, unit, *, at_least=False):
        ratio = value / limit
        with capsys.disabled():
            bound = "at least" if at_least else "at most"
            print(f"\n  {name}: {value:.4g} {unit} ({bound} {limit:g} {unit}; ratio {ratio:.2f})")
        assert ratio >= 1 if at_least else ratio <= 1

    return show
