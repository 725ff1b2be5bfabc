"""What a grid comes to, the table that survives being cut off, and pairs that fail and are lost; no services here."""

import csv
import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from harness.cluster import StartError
from harness.sweep.grid import Grid, GridError, trials
from harness.sweep.pairs import Order, PairLostError, TrialError, Where
from harness.sweep.running import row_of, sweep
from harness.sweep.table import COLUMNS, Table, TableError
from shared.service.tokenizing import OctetTokenizer, read_octets
from tests.support import byte_level_tokenizer

WHERE = Where(node_alice="a", node_bob="b", runtime_alice='{"numpy":"1","x":1}', runtime_bob='{"numpy":"2","x":1}')


@pytest.fixture
def data(tmp_path):
    (tmp_path / "d.txt").write_bytes(b"to be or not to be")
    (tmp_path / "c.txt").write_bytes(b"that is the question")
    np.save(tmp_path / "ids.npy", np.arange(300, dtype=np.uint16))
    return tmp_path


def made(data, text, name="grid.toml"):
    (data / name).write_text(text)
    return trials(Grid.read(data / name), data, data / "held")


def test_every_combination_once(data):
    found = made(
        data,
        'datasets = ["d.txt"]\nsizes = [5, 100, 200]\ncodes = ["ngram", "recurrent", "other"]\nseeds = [1, 7]\n'
        'steps = ["online", 0, 3]\ncorpus = "c.txt"\n[specs.other]\nmodel = {kind = "frequency"}\n',
    )
    assert len(found) == 2 * (1 + 2 + 1) * 3  # sizes beyond the end are one; only the network has seeds
    assert {trial.seed for trial in found if trial.code != "recurrent"} == {None}
    assert {trial.spec.model.seed for trial in found if trial.code == "recurrent"} == {1, 7}
    assert {trial.dataset.path.read_bytes() for trial in found} == {b"to be", b"to be or not to be"}
    assert all(trial.dataset.sha256 == hashlib.sha256(trial.dataset.path.read_bytes()).hexdigest() for trial in found)
    assert {(trial.k, trial.spec.frozen, trial.corpus is not None) for trial in found} == {
        (None, False, False),
        (0, True, False),
        (3, True, True),
    }
    requests = {trial.title: trial.request for trial in found}
    assert requests["d.txt[:5] ngram k = 3"][0] == "ngram"
    assert requests["d.txt[:5] ngram k = 3"][1] == {"regime": "frozen", "steps": 3, "corpus": found[-1].corpus.sha256}
    assert requests["d.txt[:5] recurrent seed 7 online"][0]["model"]["seed"] == 7
    assert requests["d.txt[:5] other online"][0]["model"]["kind"] == "frequency"


def test_the_key_is_of_all_that_determines_a_trial(data, monkeypatch):
    grid = 'datasets = ["d.txt"]\ncodes = ["ngram"]\nsteps = [1]\ncorpus = "c.txt"'
    (one,) = made(data, grid)
    assert made(data, grid)[0].key == one.key
    others = [
        made(data, grid.replace("ngram", "frequency"))[0].key,
        made(data, grid.replace("[1]", "[2]"))[0].key,
        made(data, grid.replace('"c.txt"', '"d.txt"'))[0].key,
        made(data, grid.replace('["d.txt"]', '["c.txt"]'))[0].key,
    ]
    monkeypatch.setattr("harness.sweep.grid.sources_digest", lambda: "another f")
    assert len({one.key, made(data, grid)[0].key, *others}) == 6


def test_token_ids(data):
    (trial,) = made(
        data, 'sizes = [260]\ncodes = ["uniform"]\n[[datasets]]\npath = "ids.npy"\nform = "npy"\nvocabulary_size = 300'
    )
    assert (trial.dataset.form, trial.dataset.tokens, trial.spec.vocabulary_size) == ("npy", 260, 300)
    assert np.array_equal(np.load(trial.dataset.path), np.arange(260))


TOKENIZED = 'datasets = ["d.txt", {path = "d.txt", tokenizer = "t.json"}]\nsizes = [5, 99]\ncodes = ["ngram"]\n'


def test_octets_by_a_tokenizer(data):
    """Beside themselves; their beginnings are the octets of so many tokens, and a corpus goes by the dataset's tokenizer."""
    content = b"to be or not to be, that is the question\xff" * 3
    (data / "d.txt").write_bytes(content)
    (data / "t.json").write_text(byte_level_tokenizer(content[:-1].decode("latin-1"), 270).to_str())
    found = made(data, TOKENIZED + 'steps = ["online", 1]\ncorpus = "c.txt"')
    assert len({one.key for one in found}) == len(found) == 8
    plain, tokens = found[:4], found[4:]
    assert {one.spec.tokenizer for one in plain} == {None}
    (tokenizer,) = {one.spec.tokenizer for one in tokens}
    assert tokenizer == hashlib.sha256((data / "t.json").read_bytes()).hexdigest()
    assert {one.dataset.tokenizer.read_bytes() for one in tokens} == {(data / "t.json").read_bytes()}
    assert [one.title for one in tokens[::2]] == ["d.txt@t.json[:5] ngram online", "d.txt@t.json[:99] ngram online"]
    loaded = OctetTokenizer.of(data / "t.json")
    for one in tokens:
        octets, target = one.dataset.path.read_bytes(), io.BytesIO()
        read = read_octets(loaded, io.BytesIO(octets), target).read
        assert content.startswith(octets)
        assert (one.dataset.tokens, one.dataset.sha256, one.dataset.form) == (read.tokens, read.sha256, "octets")
    assert [one.dataset.tokens for one in tokens[::2]] == [5, read_octets(loaded, io.BytesIO(content), io.BytesIO()).read.tokens]
    assert tokens[1].corpus.tokenizer == tokens[1].dataset.tokenizer
    assert tokens[1].corpus.sha256 != plain[1].corpus.sha256
    (data / "ids.json").write_text('{"vocabulary_size": 9, "tokens": [1, 2]}')
    (data / "plain.toml").write_text('datasets = ["d.txt", {path = "ids.json", form = "json"}]\ncodes = ["ngram"]')
    both = trials(Grid.read(data / "plain.toml").by(data / "t.json"), data, data / "held")
    assert [one.spec.tokenizer for one in both] == [tokenizer, None]


def test_an_order_names_each_file_once_and_moves_with_them(data, tmp_path):
    (data / "t.json").write_text(byte_level_tokenizer("to be", 260).to_str())
    found = made(data, 'datasets = [{path = "d.txt", tokenizer = "t.json"}]\ncodes = ["ngram"]\nsteps = [1]\ncorpus = "c.txt"')
    order = Order.of(found[0])
    assert [path.read_bytes() for path in order.files] == [(data / name).read_bytes() for name in ("d.txt", "t.json", "c.txt")]
    moved = order.at(tmp_path / "there")
    assert [path.parent for path in moved.files] == [tmp_path / "there"] * 3
    assert [path.name for path in moved.files] == [path.name for path in order.files]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('datasets = [{path = "d.txt", tokenizer = "t.json"}]\ncodes = ["ngram"]', "t.json: no such file"),
        ('datasets = [{path = "d.txt", tokenizer = "c.txt"}]\ncodes = ["ngram"]', "the package tokenizers cannot use it"),
        ('datasets = [{path = "d.txt", tokenizer = "c.txt", form = "npy"}]\ncodes = ["ngram"]', "a tokenizer is for octets"),
        ("datasets = [", "is no TOML"),
        ("codes = ['ngram']", "datasets: Field required"),
        ("datasets = ['d.txt']\ncodes = []", "codes: List should have at least 1"),
        ("datasets = ['d.txt']\ncodes = ['ngram']\nspeed = 1", "speed: Extra inputs are not permitted"),
        ("datasets = ['d.txt']\ncodes = ['ngram']\nseeds = [-1]", "seeds.0: Input should be greater than"),
        ("datasets = ['d.txt']\ncodes = ['ngram']\nsteps = ['offline']", "steps.0"),
        ("datasets = ['d.txt']\ncodes = ['zip']", "code zip: "),
        ("datasets = ['d.txt']\ncodes = ['x.json']", "code x.json: no such file"),
        ("datasets = ['d.txt']\ncodes = ['ngram']\nsteps = [1]", "steps above 0 need a corpus"),
        ("datasets = ['none']\ncodes = ['ngram']", "none: no such file"),
        ("datasets = [{path = 'ids.npy', form = 'npy'}]\ncodes = ['ngram']", "does not say its vocabulary_size"),
        (
            "datasets = [{path = 'ids.npy', form = 'npy', vocabulary_size = 300}]\ncodes = ['ngram']\nsteps = [1]\ncorpus = 'c.txt'",
            "c.txt and ids.npy have different vocabularies, m = 256 and 300",
        ),
        (
            "datasets = ['d.txt']\ncodes = ['s']\n[specs.s]\nmodel = {kind = 'ngram'}\nvocabulary = {kind = 'ids', size = 9}",
            "code s is for m = 9, a dataset has m = 256",
        ),
    ],
)
def test_grids_that_make_no_sweep(data, text, said):
    with pytest.raises(GridError, match="(?s)" + said.replace("[", r"\[")):
        made(data, text)


def some_row(key="1" * 64, **fields):
    return {**dict.fromkeys(COLUMNS), "trial": key, "dataset": "d", "tokens": 1, "code": "c", "state": "verified", **fields}


def test_table_survives_a_kill_at_every_byte(tmp_path):
    with Table(tmp_path) as table:
        table.add(some_row())
        table.add(some_row("2" * 64, error="é"))
    whole = (tmp_path / "trials.jsonl").read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(first, len(whole)):
        (tmp_path / "trials.jsonl").write_bytes(whole[:size])
        with Table(tmp_path) as table:
            assert [row["trial"] for row in table.rows()] == ["1" * 64]
            assert table.dropped == (size != first)
        assert (tmp_path / "trials.jsonl").stat().st_size == first


def test_table_as_csv_and_parquet(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    rows = [some_row(k=3, compression_rate=0.1, spec="{}"), some_row("2" * 64, code="b", state="failed", error='no, "really"\n')]
    with Table(tmp_path) as table:
        for row in (some_row(state="failed"), *rows):
            table.add(row)  # the later row of a trial counts
        assert [path.name for path in table.write()] == ["trials.jsonl", "trials.csv", "trials.parquet"]
        assert table.rows() == rows[::-1]
    assert pq.read_table(tmp_path / "trials.parquet").to_pylist() == rows[::-1]
    with (tmp_path / "trials.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [one["error"] for one in found] == ['no, "really"\n', ""]
    assert float(found[1]["compression_rate"]) == 0.1


def test_tables_that_cannot_be_used(tmp_path):
    with Table(tmp_path), pytest.raises(TableError, match="another sweep"), Table(tmp_path):
        pass
    for line in ("{}", "nonsense", '{"trial": 1}', '{"trial": "x", "speed": 1}', "[]"):
        (tmp_path / "trials.jsonl").write_text(json.dumps(some_row()) + "\n" + line + "\n")
        with pytest.raises(TableError, match="line 2 is no row"), Table(tmp_path):
            pass


class Fake:
    """A pair that fails as its script says: `lost` or `failed` by the trial's k, the number of times that stands there."""

    where = WHERE

    def __init__(self, script, opened):
        self.script = script
        self.closed = 0
        self.ended = []  # how each try on this pair ended
        opened.append(self)

    def run(self, trial, progress):
        progress(1)
        kind, times = self.script.get(trial.k, ("", 0))
        if times:
            self.script[trial.k] = kind, times - 1
            self.ended.append(kind)
            raise {"lost": PairLostError, "failed": TrialError}[kind](f"trial {trial.k}")
        self.ended.append("verified")
        return {"state": "verified", "z_bits": 9, "compression_rate": 0.5, "seconds": {"total": 1.0}}

    def close(self):
        self.closed += 1


def swept(data, tmp_path, script, pairs=2):
    found = made(data, 'datasets = ["d.txt"]\ncodes = ["ngram"]\nsteps = [0, 1, 2, 3, 4, 5]\ncorpus = "c.txt"')
    opened = []
    with Table(tmp_path / "out") as table:
        sweep(found, lambda: Fake(script, opened), pairs, table)
        return {row["k"]: row for row in table.rows()}, opened


def test_failures_are_kept_and_lost_pairs_replaced(data, tmp_path, capsys):
    rows, opened = swept(data, tmp_path, {1: ("failed", 1), 2: ("lost", 1), 3: ("lost", 2)})
    assert {k for k, row in rows.items() if row["state"] == "verified"} == {0, 2, 4, 5}
    assert rows[1]["error"] == "trial 1"
    assert rows[3]["error"] == "the services were lost 2 times: trial 3"
    assert rows[0]["z_bytes"] == 2
    assert rows[0]["runtimes_differ"] == "numpy: 1 at Alice's, 2 at Bob's"
    assert sum(pair.ended.count("lost") for pair in opened) == 3
    assert all("lost" not in pair.ended[:-1] for pair in opened)  # what was lost is not used again
    assert {pair.closed for pair in opened} == {1}
    assert "6 of 6" in capsys.readouterr().err


def test_a_pair_that_does_not_start_ends_the_sweep(data, tmp_path):
    found = made(data, 'datasets = ["d.txt"]\ncodes = ["ngram"]')

    def broken():
        raise StartError("no room")

    with Table(tmp_path / "out") as table, pytest.raises(StartError, match="no room"):
        sweep(found, broken, 2, table)


def test_a_row_tells_how_to_make_it_again(data):
    (trial,) = made(data, 'datasets = ["d.txt"]\ncodes = ["recurrent"]\nseeds = [5]')
    row = row_of(trial, WHERE, {}, "why")
    assert row.keys() <= COLUMNS.keys()
    again = replace(trial, spec=type(trial.spec).parse(row["spec"].encode()))
    assert again == trial
    assert (row["state"], row["error"], row["seed"], row["spec_digest"]) == ("failed", "why", 5, trial.spec.digest())
