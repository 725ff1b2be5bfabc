"""How z travels: a sans-I/O protocol, its messages, and the ledger of bits and bytes."""
