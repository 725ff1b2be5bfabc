"""Stored transmissions: however they are read, and whatever is changed in them."""

import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.channel.errors import BadFrameError, ChannelError, LimitError, StartMismatchError, TruncatedError
from shared.channel.messages import Prepared
from shared.channel.stored import StoredReader, StoredWriter
from shared.code.errors import CodelengthError, CorpusError, SpecError
from shared.code.models import preset
from shared.code.spec import CodeSpec, Start
from shared.service import coding, filing
from shared.service.limits import Limits, training_tokens
from tests.support import SMALL_NETWORKS, STATISTICAL, small, small_model

TEXT = b"to be or not to be, that is the question: " * 12
SPEC = CodeSpec.from_fields({"model": {"kind": "frequency"}, "block_tokens": 200, "segment_tokens": 50})


def stored(data, spec=SPEC) -> bytes:
    out = io.BytesIO()
    filing.compress(io.BytesIO(data).read, out.write, spec, "frequency")
    return out.getvalue()


def back(content) -> bytes:
    out = io.BytesIO()
    filing.decompress(io.BytesIO(content).read, out.write)
    return out.getvalue()


GOOD = stored(TEXT)


def read(parts):
    reader, out = StoredReader(), []
    for part in parts:
        reader.feed(part)
        out += [(message, reader.position) for message in reader.messages()]
    reader.end()
    return out


def test_the_same_byte_by_byte():
    content = GOOD + stored(b"") + GOOD
    whole = read([content])
    single = read([content[i : i + 1] for i in range(len(content))])
    assert [one for one, _ in whole] == [one for one, _ in single]
    ends = [position for message, position in single if type(message).__name__ == "End"]
    assert ends == [len(GOOD), len(GOOD) + len(stored(b"")), len(content)]


def test_every_flipped_bit_is_refused():
    """Nothing in a file is unprotected: no single bit may change and still give a file that is read."""
    for place in range(len(GOOD)):
        for bit in range(8):
            changed = bytearray(GOOD)
            changed[place] ^= 1 << bit
            out = io.BytesIO()
            try:
                filing.decompress(io.BytesIO(changed).read, out.write)
            except CodelengthError:
                assert TEXT.startswith(out.getvalue()), (place, bit)
            else:
                pytest.fail(f"bit {bit} of byte {place} of {len(GOOD)} is not protected")


def test_every_truncation_is_told():
    for size in range(1, len(GOOD)):
        with pytest.raises(TruncatedError):
            back(GOOD[:size])
        with pytest.raises(TruncatedError):
            filing.scan(io.BytesIO(GOOD[:size]).read)


def goes_in_and_comes_out(data, spec):
    content = stored(data, spec)
    assert back(content) == data
    (one,) = filing.scan(io.BytesIO(content).read)
    assert (one.bytes, one.file_bytes) == (len(data), len(content))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(STATISTICAL),
    data=st.binary(max_size=600),
    block=st.integers(1, 300),
    segment=st.integers(1, 100),
)
def test_what_goes_in_comes_out(name, data, block, segment):
    spec = CodeSpec.from_fields({"model": small_model(name), "block_tokens": block, "segment_tokens": segment})
    goes_in_and_comes_out(data, spec)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(list(SMALL_NETWORKS)),
    data=st.binary(max_size=200),
    block=st.integers(1, 300),
    segment=st.integers(1, 20),
    streams=st.integers(1, 20),
)
def test_what_goes_into_a_network_comes_out(name, data, block, segment, streams):
    goes_in_and_comes_out(data, small(name, block_tokens=block, segment_tokens=segment, streams=streams))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.binary(max_size=200), cut=st.integers(0, len(GOOD)))
def test_nonsense_is_refused_by_name(data, cut):
    content = GOOD[:cut] + data
    if content == GOOD:
        return
    with pytest.raises(CodelengthError):
        back(content)


def test_a_reader_that_failed_says_so_again():
    reader = StoredReader()
    reader.feed(b"nonsense")
    with pytest.raises(ChannelError):
        list(reader.messages())
    with pytest.raises(ChannelError):
        reader.end()


def test_long_data_keeps_its_blocks_together():
    """A block of hardly any bits is checked at the next flush; the file holds whole DATA of 64 KiB."""
    data = bytes(300_000)
    content = stored(data, preset("frequency"))
    assert back(content) == data
    kinds = [type(message).__name__ for message, _ in read([content])]
    assert kinds.count("Data") == 1


@pytest.mark.parametrize("kind", ["uniform", "frequency", "ngram"])
@pytest.mark.parametrize("m", [1, 2, 256])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_what_is_written_can_be_read_however_short_its_blocks_are(monkeypatch, kind, m, length):
    """A decoder keeps a bounded number of blocks waiting for their code; an encoder must not ask more of it."""
    monkeypatch.setattr(coding, "MAX_WAITING_BLOCKS", 100)
    spec = CodeSpec.from_fields({"model": {"kind": kind}, "vocabulary": {"kind": "ids", "size": m}, "block_tokens": length})
    for blocks in (20, 400, 3000 // length):
        try:
            content = stored(bytes(length * blocks), spec)
        except SpecError:
            assert blocks > 30
        else:
            assert back(content) == bytes(length * blocks)
    with pytest.raises(SpecError, match="raise block_tokens"):
        stored(bytes(400), CodeSpec.from_fields({"model": {"kind": "ngram"}, "block_tokens": 1}))


@pytest.fixture
def corpora(tmp_path):
    (tmp_path / "other").write_bytes(TEXT)
    (tmp_path / "corpus").write_bytes(TEXT[::-1])
    (tmp_path / "kept").mkdir()
    return filing.Assets([tmp_path / "other", tmp_path / "corpus"], keep=tmp_path / "kept")


def begun(tmp_path, *, frozen, m=256):
    vocabulary = {"kind": "bytes"} if m == 256 else {"kind": "ids", "size": m}
    spec = CodeSpec.from_fields({"model": {"kind": "ngram", "table_bits": 10}, "vocabulary": vocabulary, "segment_tokens": 50})
    corpus = filing.corpus_identity(tmp_path / "corpus", spec.vocabulary).sha256
    return spec.with_training(frozen=frozen, start=Start(corpus=corpus, steps=30))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("m", [256, 200])
def test_a_code_that_starts_from_a_corpus(corpora, tmp_path, frozen, m):
    """Read with the corpus, whether its model was kept or not; refused without it, or with another."""
    spec, out = begun(tmp_path, frozen=frozen, m=m), io.BytesIO()
    said = filing.compress(io.BytesIO(TEXT).read, out.write, spec, "ngram", assets=corpora)
    assert (said.regime, said.corpus, said.steps) == ("frozen" if frozen else "online", spec.start.corpus, 30)
    assert filing.scan(io.BytesIO(out.getvalue()).read) == [said]
    for held in (corpora, filing.Assets([tmp_path / "corpus"])):
        found = io.BytesIO()
        assert filing.decompress(io.BytesIO(out.getvalue()).read, found.write, assets=held) == [said]
        assert found.getvalue() == TEXT
    for held, told in ((None, "not given"), (filing.Assets([tmp_path / "other"]), "other has the SHA-256")):
        with pytest.raises(CorpusError, match=f"{spec.start.corpus}.*{told}"):
            filing.decompress(io.BytesIO(out.getvalue()).read, len, assets=held)


def test_a_code_that_would_train_for_years_is_refused_before_it_begins(corpora, tmp_path):
    """A small file may ask for 2^40 steps. Allowed is what is reckoned, and not one token less; passes of replay count."""
    spec, out = begun(tmp_path, frozen=True), io.BytesIO()
    filing.compress(io.BytesIO(TEXT).read, out.write, spec, "ngram", assets=corpora)
    filing.decompress(io.BytesIO(out.getvalue()).read, len, assets=corpora, limits=Limits(training_tokens=30 * 50))
    hello, *messages = [message for message, _ in read([out.getvalue()])]
    endless = spec.with_training(frozen=True, start=spec.start.model_copy(update={"steps": 1 << 40}))
    for asked, least, most in ((spec, 30 * 50, 30 * 50 - 1), (endless, 50 << 40, 1 << 26)):
        writer = StoredWriter()
        content = writer.begin(replace(hello, spec=asked.canonical_bytes())) + b"".join(map(writer.write, messages))
        with pytest.raises(LimitError, match=f"{least} is more than the limit of {most}"):
            filing.decompress(io.BytesIO(content).read, len, assets=corpora, limits=Limits(training_tokens=most))
    fields = {"model": {"kind": "recurrent"}, "training": {"kind": "online", "replay": {"passes": 3}}}
    assert training_tokens(CodeSpec.from_fields(fields)) == 0
    started = CodeSpec.from_fields(fields).with_training(frozen=True, start=spec.start)
    assert training_tokens(started) == 30 * started.segment_tokens * started.streams * 4


def test_a_stored_model_that_differs_is_found_before_the_first_token(corpora, tmp_path):
    """A file in which PREPARED has another digest, or is missing."""
    out = io.BytesIO()
    filing.compress(io.BytesIO(TEXT).read, out.write, begun(tmp_path, frozen=False), "ngram", assets=corpora)
    hello, *messages = [message for message, _ in read([out.getvalue()])]
    assert isinstance(messages[0], Prepared)
    for start, error in (([Prepared(digest=bytes(32))], StartMismatchError), ([], BadFrameError)):
        writer, written = StoredWriter(), []
        content = writer.begin(hello) + b"".join(map(writer.write, [*start, *messages[1:]]))
        with pytest.raises(error):
            filing.decompress(io.BytesIO(content).read, written.append, assets=corpora)
        assert not written
