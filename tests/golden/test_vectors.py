"""The presets' golden vectors: changing one is a breaking change."""

import pytest

from shared.service import vectors


def test_presets_are_bit_for_bit_what_they_were():
    assert vectors.compute() == vectors.golden()[0]


@pytest.mark.long
def test_heavy_presets_too():
    light, everything = vectors.golden()[0], vectors.golden(heavy=True)[0]
    heavy = everything.keys() - light.keys()
    assert heavy
    assert vectors.compute(heavy) == {name: everything[name] for name in heavy}
