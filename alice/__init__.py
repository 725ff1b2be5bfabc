"""The sender: datasets in, transmissions out."""
