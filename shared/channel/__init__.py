"""How code bits travel: messages, their order, the credit window and the ledger. Bytes in, bytes out; no sockets, no clocks."""
