"""The receiver: transmissions in, reconstructions and bit counts out."""
