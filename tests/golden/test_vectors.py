"""The presets' golden vectors: changing one is a breaking change."""

import json

from shared.service import vectors


def test_presets_are_bit_for_bit_what_they_were():
    assert vectors.compute() == json.loads(vectors.PATH.read_text(encoding="ascii"))
