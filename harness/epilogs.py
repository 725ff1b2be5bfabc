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
    "bench": (
        (
            "codelength bench --data corpus/ --codes ngram,mixing --peers 'xz -9e'",
            "codelength bench --data corpus/ --out results",
        ),
        "Next: run it again after an interruption; what OUT has is not measured again, unless --again.",
    ),
    "list": (
        ("codelength list book.txt.clz1", "codelength list --json *.clz1"),
        "Next: `test` decodes and verifies what `list` only reads.",
    ),
    "codes": (
        ("codelength codes", "codelength codes --json"),
        "Next: name one with --code; `codes --json` prints specifications, to be changed and given as a file.",
    ),
    "demo": (
        ("codelength demo", "codelength demo --codes ngram,mixing --stay"),
        "Next: `transmit FILE` sends a file of your own; --stay leaves the console up, at http://127.0.0.1:8000.",
    ),
    "curve": (
        (
            "codelength curve book.txt --corpus other.txt --steps 0,1,3,10",
            "codelength curve book.txt --corpus other.txt --steps 0,10 --online \\",
            "    --code ngram,mixing --png curve.png --continue points.json",
        ),
        "Next: `transmit --corpus FILE --steps K --regime frozen` makes one such point; the console draws them as they come in.",
    ),
    "sample": (
        ("codelength sample book.txt", "codelength sample book.txt --code mixing --tokens 500 --seed 1"),
        "Next: the console has a button for it beside every verified transmission.",
    ),
    "report": (
        (
            "codelength report 3f2a0c2d9c8e4b0fae2b7c4d5e6f7081 --sample 300",
            "codelength report book.txt --codes ngram,mixing -o r.html -o r.jsonl",
            "codelength report r.jsonl -o r.png",
        ),
        "Next: from its .jsonl a report can be made again later, elsewhere, in any form.",
    ),
    "sweep": (
        ("codelength sweep grid.toml --local", "codelength sweep grid.toml --address auto --plot sweep.png"),
        "Next: run it again after an interruption, or with more in GRID; docs/scale.md shows a grid.",
    ),
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
