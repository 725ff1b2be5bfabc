"""Files of a tokenizer's tokens: the octets come back exactly, by the very tokenizer, and whatever says otherwise is refused."""

import io
import zlib
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.channel.errors import BadFrameError, DigestMismatchError, LimitError
from shared.channel.messages import FILE_VERSION, Prepared, Text, encode
from shared.channel.stored import StoredReader, StoredWriter
from shared.code.errors import CorpusError, TokenizerError
from shared.code.models import preset
from shared.code.spec import Start
from shared.service import filing, tokenizing
from shared.service.tokenizing import OctetTokenizer, read_octets
from tests.property.test_tokenizing import _metaspace
from tests.support import byte_level_tokenizer

DATA = "It was the best of times: naïve, 東京. ".encode() * 40 + b"\xff\x00 no text"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokens")
    (directory / "pieces.json").write_text(byte_level_tokenizer(DATA[:-10].decode(), 300).to_str())
    (directory / "whole.json").write_text(_metaspace().to_str())
    return {name: directory / f"{name}.json" for name in ("pieces", "whole")}


@pytest.fixture(scope="module")
def tokenizers(places):
    return {name: OctetTokenizer.of(path) for name, path in places.items()}


def compressed(tokenizer, data, assets=None, **training):
    """The file, and what is said of it."""
    ids, out = io.BytesIO(), io.BytesIO()
    octets = read_octets(tokenizer, io.BytesIO(data), ids).octets
    spec = preset("frequency", tokenizer.vocabulary).model_copy(update={"block_tokens": 256, "segment_tokens": 64})
    if training:
        spec = spec.with_training(frozen=False, **training)
    ids.seek(0)
    stored = filing.compress(ids.read, out.write, spec, "frequency", octets=octets, assets=assets)
    assert (stored.octets, stored.octets_sha256, stored.tokenizer) == (*octets, tokenizer.sha256)
    return out.getvalue(), stored


def decompressed(content, assets, **options):
    out = io.BytesIO()
    found = filing.decompress(io.BytesIO(content).read, out.write, assets=assets, **options)
    return out.getvalue(), found


@given(st.binary(max_size=300), st.text(alphabet="abcé \n", max_size=300))
@example(DATA, "ab cé b\nabc")
@settings(max_examples=60, deadline=None)
def test_every_octet_string_comes_back(places, tokenizers, octets, text):
    """Joined in one file, each by its own tokenizer; `scan` says of it what was said when it was made."""
    assets = filing.Assets(tokenizers=list(places.values()))
    try:
        whole, said = compressed(tokenizers["whole"], text.encode())
    except tokenizing.InexactTokenizerError:  # two spaces, or one at the beginning
        whole, said, text = *compressed(tokenizers["whole"], b"abc"), "abc"
    pieces, also_said = compressed(tokenizers["pieces"], octets)
    assert decompressed(pieces + whole, assets) == (octets + text.encode(), [also_said, said])
    assert filing.scan(io.BytesIO(pieces + whole).read) == [also_said, said]


@pytest.mark.parametrize("name", ["pieces", "whole"])
def test_what_text_says_must_be_so(places, tokenizers, name):
    data = DATA if name == "pieces" else b"abc abc a" * 200
    content, _ = compressed(tokenizers[name], data)
    reader = StoredReader()
    reader.feed(content)
    hello, text, *rest = reader.messages()
    assert isinstance(text, Text)

    def told(*first):
        whole = StoredWriter().begin(hello) + b"".join(encode(message, FILE_VERSION) for message in (*first, *rest))
        return decompressed(whole + zlib.crc32(whole).to_bytes(4, "little"), filing.Assets(tokenizers=list(places.values())))

    assert told(text)[0] == data
    for wrong in (replace(text, size=len(data) - 1), replace(text, size=len(data) + 1), replace(text, sha256=bytes(32))):
        with pytest.raises(DigestMismatchError):
            told(wrong)
    with pytest.raises(BadFrameError, match="comes before TEXT"):
        told()
    with pytest.raises(BadFrameError, match="TEXT is no part of a dataset"):
        told(text, text)
    with pytest.raises(BadFrameError, match="PREPARED comes before TEXT"):
        told(Prepared(digest=bytes(32)), text)


def test_the_very_tokenizer_is_needed(places, tokenizers):
    content, _ = compressed(tokenizers["pieces"], DATA)
    for assets, said in (
        (None, r"its file is not given \(--tokenizer\)$"),
        (filing.Assets(tokenizers=[places["whole"]]), f"whole.json has the SHA-256 {tokenizers['whole'].sha256}"),
    ):
        with pytest.raises(TokenizerError, match=said) as caught:
            decompressed(content, assets)
        assert caught.value.sha256 == tokenizers["pieces"].sha256


def test_no_more_is_written_than_is_allowed(places, tokenizers):
    content, _ = compressed(tokenizers["pieces"], DATA)
    assets = filing.Assets(tokenizers=[places["pieces"]])
    assert decompressed(content, assets, max_bytes=len(DATA))[0] == DATA
    with pytest.raises(LimitError) as caught:
        decompressed(content * 2, assets, max_bytes=2 * len(DATA) - 1)
    assert (caught.value.what, caught.value.value, caught.value.limit) == ("bytes to be written", len(DATA), len(DATA) - 1)


def test_a_corpus_is_octets_too(places, tokenizers, tmp_path):
    (tmp_path / "corpus").write_bytes(DATA * 2)
    (tmp_path / "other").write_bytes(DATA)
    tokenizer = tokenizers["pieces"]
    held = filing.corpus_identity(tmp_path / "corpus", tokenizer.vocabulary, tokenizer)
    assets = filing.Assets([tmp_path / "other", tmp_path / "corpus"], [places["pieces"]])
    content, said = compressed(tokenizer, DATA, assets, start=Start(corpus=held.sha256, steps=3))
    assert said.z_bits < compressed(tokenizer, DATA)[1].z_bits
    assert decompressed(content, assets) == (DATA, [said])
    with pytest.raises(CorpusError, match="other has the SHA-256"):
        decompressed(content, filing.Assets([tmp_path / "other"], [places["pieces"]]))
