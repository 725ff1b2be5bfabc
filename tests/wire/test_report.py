"""Reports: from ids, from files, from their own lines; the same figures everywhere."""

import csv
import io
import json
import re
import struct

import pytest
from typer.testing import CliRunner

from harness.cli import app

run = CliRunner()
TEXT = (
    b"For a report, which no other test sends: " + (b"It was the best of times, it was the worst of times. " * 3000)[:100_000]
)  # the same data under another name keeps its first name


@pytest.fixture
def urls(cluster):
    return ["--alice", cluster.alice, "--bob", cluster.bob]


def test_one_report_in_every_form_and_again_from_its_lines(urls, client, tmp_path):
    results = [client.transmit(client.post_octets(TEXT, "times <1>")["id"], code) for code in ("ngram", "frequency")]
    ids = [one["transmission"] for one in results]
    outputs = {suffix: tmp_path / f"r.{suffix}" for suffix in ("html", "svg", "png", "csv", "jsonl")}
    given = [part for path in outputs.values() for part in ("-o", str(path))]
    done = run.invoke(app, ["report", *ids, *given, "--tensorboard", str(tmp_path / "events"), *urls])
    assert done.exit_code == 0, done.output
    html = outputs["html"].read_text(encoding="utf-8")
    for one in results:
        assert f"{one['bits_per_byte']:.4f}" in html
        assert f"{one['sk_bits']:,.0f}" in html
        assert f'id="{one["transmission"]}"' in html
    assert "times &lt;1&gt;" in html
    assert "gzip -9" in html
    assert not re.search(r"(?:src|href)=.(?!#)|url[(]|<script", html)  # it loads nothing
    assert outputs["png"].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "xz -9e" in outputs["svg"].read_text(encoding="utf-8")
    table = list(csv.DictReader(io.StringIO(outputs["csv"].read_text(encoding="utf-8"))))
    assert [float(row["nll_bits"]) for row in table] == [one["nll_bits"] for one in results]
    lines = [json.loads(line) for line in outputs["jsonl"].read_text(encoding="utf-8").splitlines()]
    assert [line["curve"]["bits"][-1] for line in lines] == pytest.approx([one["nll_bits"] for one in results], abs=1e-3)
    again = run.invoke(
        app, ["report", str(outputs["jsonl"]), "-o", str(tmp_path / "again.html"), "-o", str(tmp_path / "again.png")]
    )
    assert again.exit_code == 0, again.output
    made = re.compile(r"Made on .*")
    assert made.sub("", (tmp_path / "again.html").read_text(encoding="utf-8")) == made.sub("", html)
    assert (tmp_path / "again.png").read_bytes() == outputs["png"].read_bytes()
    assert last_value(next((tmp_path / "events").glob("ngram-*/*"))) == pytest.approx(results[0]["nll_bits"], rel=1e-6)


def test_a_report_has_the_step_curve_and_a_sample(urls, client, tmp_path):
    (tmp_path / "corpus").write_bytes(TEXT[::-1])
    corpus, dataset = client.post_corpus(tmp_path / "corpus")["id"], client.post_octets(TEXT, "times")["id"]
    points = [
        client.transmit(dataset, "frequency", training={"regime": "frozen", "steps": k, **({"corpus": corpus} if k else {})})
        for k in (0, 2)
    ]
    ids = [one["transmission"] for one in points]
    outputs = {suffix: tmp_path / f"c.{suffix}" for suffix in ("html", "svg", "jsonl")}
    given = [part for path in outputs.values() for part in ("-o", str(path))]
    done = run.invoke(app, ["report", *ids, *given, "--sample", "40", *urls])
    assert done.exit_code == 0, done.output
    html, svg = outputs["html"].read_text(encoding="utf-8"), outputs["svg"].read_text(encoding="utf-8")
    for one in points:
        assert f"{one['sk_bits'] / 8:,.0f} at k = {one['steps']}" in html
        assert f"{one['sk_bits'] / 8:,.0f} at k = {one['steps']}" in svg
        assert f"frozen at k = {one['steps']}" in html
    samples = [json.loads(line)["sample"] for line in outputs["jsonl"].read_text(encoding="utf-8").splitlines()]
    for drawn in samples:
        assert len(drawn["tokens"]) == 40
        assert f"{drawn['nll_bits']:,.1f}</dd>" in html


def last_value(path) -> float:
    """The last scalar of a file of TensorBoard's: records of length, checksum, event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, values = path.read_bytes(), []
    while data:
        (size,) = struct.unpack_from("<Q", data)
        values += [one.simple_value for one in Event.FromString(data[12 : 12 + size]).summary.value]
        data = data[16 + size :]
    return values[-1]


def test_a_file_is_transmitted_first(urls, tmp_path):
    (tmp_path / "f").write_bytes(TEXT[:5000])
    command = ["report", str(tmp_path / "f"), "--codes", "uniform", "-o", str(tmp_path / "r.html"), *urls]
    assert run.invoke(app, command).exit_code == 0
    again = run.invoke(app, command)
    assert (again.exit_code, "use -f to overwrite" in again.output) == (1, True)
    assert run.invoke(app, [*command, "-f"]).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "neither a file nor a transmission"),
        (["f" * 32], "no transmission"),
        (["x.jsonl"], "x.jsonl: no such file"),
        (["f" * 32, "-o", "r.pdf"], "r.pdf: a report ends in .html"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence(urls, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run.invoke(app, ["report", *arguments, *urls])
    assert done.exit_code == 2
    assert said in done.output
    (tmp_path / "y.jsonl").write_text('{"transmission": 1}\n')
    assert "y.jsonl, line 1" in run.invoke(app, ["report", "y.jsonl"]).output
    assert not (tmp_path / "codelength-report.html").exists()
