"""What looks at both sides from outside: the wire between them, the command line, demonstrations, benchmarks."""
