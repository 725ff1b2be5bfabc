"""Arithmetic whose results cannot depend on the machine: DESIGN's law of exactness, explained in docs/exactness.md.

`constants` holds the numbers, `fused` the compiled kernels for CPUs, `reference` the same in torch operations for every device,
`products` the matrix products and their backends, `guard` and `trace` watch torch operations.
"""
