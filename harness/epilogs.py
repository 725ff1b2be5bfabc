"""What stands below each command's --help: examples to type, and what to do next. tests/cli shows some of them as printed."""

from typing import Final

EPILOGS: Final = {
    "transmit": (
        ("codelength transmit book.txt", "codelength transmit book.txt --code mixing --save back.txt"),
        "Next: `compare` tries every code; `report ID` draws a transmission of running services.",
    ),
    "compare": (
        ("codelength compare book.txt", "codelength compare book.txt --codes ngram,mixing"),
        "Next: `curve` shows how training on a corpus first changes S_k.",
    ),
    "compress": (
        ("codelength compress book.txt", "codelength compress -c < book.txt > book.clz1"),
        "Next: `decompress` gives the file back; `test` only verifies it; `list` says what it holds.",
    ),
    "decompress": (
        ("codelength decompress book.txt.clz1", "codelength decompress -c book.txt.clz1 | less"),
        "Next: where it is refused for its needs, --max-memory 2G or --max-training 1G; where a plugin is named, --plugin FILE.",
    ),
    "test": (
        ("codelength test *.clz1",),
        "Next: what fails here cannot be decompressed; `doctor` tells whether the machine is at fault.",
    ),
    "explain": (("codelength explain abracadabra --code frequency",), "Next: `transmit` sends such bits through a real socket."),
    "serve": (
        ("codelength serve bob", "codelength serve alice", "codelength serve console"),
        "Next: open http://127.0.0.1:8000; commands use these services with --alice and --bob.",
    ),
    "doctor": (
        ("codelength doctor",),
        "Next: where it is not exact, do not transmit from here; send the output of --json with a report.",
    ),
}


def epilog(name: str) -> str | None:
    """The text below a command's help; click wraps it, save the paragraph that begins with a backspace."""
    if name not in EPILOGS:
        return None
    examples, after = EPILOGS[name]
    lines = "\n".join(f"  {line}" for line in examples)
    return f"\b\nExamples:\n{lines}\n\n{after}"
