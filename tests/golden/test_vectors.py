"""The presets' golden vectors: changing one is a breaking change."""

from shared.service import vectors


def test_presets_are_bit_for_bit_what_they_were():
    assert vectors.compute() == vectors.golden()[0]
