"""Octets by a tokenizer and back: exactly, or refused at the first octet that would not come back."""

import hashlib
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from shared.code.errors import TokenizerError
from shared.code.vocabulary import to_tokens
from shared.service import tokenizing
from shared.service.errors import InexactTokenizerError, TooLargeError
from shared.service.tokenizing import OctetTokenizer, read_octets, write_octets
from tests.support import byte_level_tokenizer

TEXT = "The octopus's garden, 8 arms; naïve café 東京 🐙🐙\r\n\tand  more \n\n<|endoftext|>"


def loaded(path, inner):
    data = inner if isinstance(inner, bytes) else inner.to_str().encode()
    path.write_bytes(data)
    return OctetTokenizer(path, hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    inner = byte_level_tokenizer(TEXT * 20, 400)
    inner.add_special_tokens(["<|endoftext|>"])
    inner.add_tokens(["two words", "naïve"])
    return loaded(tmp_path_factory.mktemp("exact") / "tokenizer.json", inner)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ids")


def round_trip(tokenizer, data, directory):
    """What `write_octets` gives of what `read_octets` made."""
    ids, out = directory / "ids", io.BytesIO()
    with ids.open("wb") as file:
        made = read_octets(tokenizer, io.BytesIO(data), file)
    assert made.octets == (len(data), hashlib.sha256(data).hexdigest())
    assert (made.read.size, made.read.vocabulary) == (ids.stat().st_size, tokenizer.vocabulary)
    assert len(to_tokens(ids.read_bytes(), tokenizer.vocabulary)) == made.read.tokens
    assert write_octets(tokenizer, ids, tokenizer.vocabulary, out, len(data)) == made.octets
    return out.getvalue()


@given(
    st.one_of(st.text().map(str.encode), st.binary(), st.tuples(st.text(), st.binary()).map(lambda two: two[0].encode() + two[1]))
)
@example(TEXT.encode())
@example(TEXT.encode()[:-30] + "東".encode()[:2])
@example(b"two words two  words \xed\xb2\x80 \xf5\xff")
@settings(max_examples=200, deadline=None)
def test_every_octet_string_comes_back(exact, place, data):
    """Also in pieces of a few octets, which cut characters and words."""
    assert round_trip(exact, data, place) == data
    before = tokenizing._PIECE_BYTES, tokenizing._CUT_BYTES, tokenizing._PART_TOKENS
    try:
        tokenizing._PIECE_BYTES, tokenizing._CUT_BYTES, tokenizing._PART_TOKENS = 5, 2, 3
        assert round_trip(exact, data, place) == data
    finally:
        tokenizing._PIECE_BYTES, tokenizing._CUT_BYTES, tokenizing._PART_TOKENS = before


def test_pieces_end_before_spaces_or_between_characters(exact, monkeypatch):
    monkeypatch.setattr(tokenizing, "_PIECE_BYTES", 8)
    monkeypatch.setattr(tokenizing, "_CUT_BYTES", 4)
    assert list(exact.pieces(io.BytesIO(b"abcdef ghijklmnopqr"))) == [b"abcdef", b" ghijklmno", b"pqr"]
    pieces = list(exact.pieces(io.BytesIO("é東京🐙".encode() * 9)))
    assert b"".join(pieces) == "é東京🐙".encode() * 9
    assert all(piece.decode() for piece in pieces)


def _lowercase():
    inner = byte_level_tokenizer(TEXT, 300)
    inner.normalizer = normalizers.Lowercase()
    return inner


def _prefix_space():
    inner = byte_level_tokenizer(TEXT, 300)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return inner


def _partial_alphabet():
    inner = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return inner


def _words():
    inner = Tokenizer(models.WordLevel({"to": 0, "be": 1, "?": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return inner


def _metaspace():
    """Like those of SentencePiece: exact on most text, but only as a whole."""
    vocabulary = {letter: index for index, letter in enumerate("▁abcé\n")}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.add_special_tokens(["</s>"])
    return inner


@pytest.mark.parametrize(
    ("make", "data", "position", "told"),
    [
        (_lowercase, b"ab CD", 3, "is 0x43, and 0x63 comes back"),
        (_prefix_space, b"ab", 0, "is 0x61, and 0x20 comes back"),
        (_partial_alphabet, b"abxab", 2, "is 0x78, and 0x61 comes back"),
        (_partial_alphabet, b"abx", 2, "is 0x78, and nothing comes back"),
        (_partial_alphabet, b"ab\xc3\xa9\xff", 4, "is not UTF-8, and no token stands for it alone"),
        (_words, b"to be  to", 6, "is 0x20, and 0x74 comes back"),
        (_words, b"to be or", 6, "is 0x6f, and 0x3f comes back"),
        (_metaspace, "abé\xa0".encode()[:-1] + b"\xff", 4, "is not UTF-8, and no token stands for it alone"),
        (_metaspace, b"ab " * 3 + b"d", 9, "is 0x64, and nothing comes back"),
    ],
)
def test_what_does_not_come_back_is_refused_by_its_first_octet(tmp_path, make, data, position, told):
    with pytest.raises(InexactTokenizerError) as caught:
        read_octets(loaded(tmp_path / "tokenizer.json", make()), io.BytesIO(data), io.BytesIO())
    assert (caught.value.position, caught.value.reason) == (position, told)


def test_one_that_is_not_byte_level_gets_all_at_once(tmp_path, monkeypatch):
    tokenizer = loaded(tmp_path / "tokenizer.json", _metaspace())
    assert not tokenizer.byte_level
    monkeypatch.setattr(tokenizing, "_PIECE_BYTES", 4)
    monkeypatch.setattr(tokenizing, "_PART_TOKENS", 1)
    data = "ab cé b\nabc  a </s>".encode()
    assert round_trip(tokenizer, data, tmp_path) == data
    monkeypatch.setattr(tokenizing, "MAX_WHOLE_BYTES", len(data) - 1)
    with pytest.raises(TooLargeError, match="must be coded whole"):
        read_octets(tokenizer, io.BytesIO(data), io.BytesIO())


def test_position_in_a_later_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizing, "_PIECE_BYTES", 4)
    with pytest.raises(InexactTokenizerError) as caught:
        read_octets(loaded(tmp_path / "tokenizer.json", _lowercase()), io.BytesIO(b"ab cd ef gH"), io.BytesIO())
    assert caught.value.position == 10


def test_special_tokens_padding_and_truncation_add_nothing(tmp_path):
    inner = byte_level_tokenizer(TEXT, 300)
    inner.add_special_tokens([AddedToken("<s>", special=True)])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    inner.enable_truncation(3)
    inner.enable_padding(length=50)
    tokenizer = loaded(tmp_path / "tokenizer.json", inner)
    assert round_trip(tokenizer, b"abc <s> abcabc", tmp_path) == b"abc <s> abcabc"


def test_bob_writes_no_more_than_was_announced(exact, tmp_path):
    with (tmp_path / "ids").open("wb") as file:
        read_octets(exact, io.BytesIO(b"too much of it"), file)
    with pytest.raises(TooLargeError, match="the limit of 13"):
        write_octets(exact, tmp_path / "ids", exact.vocabulary, io.BytesIO(), 13)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff\x00", b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {}, "unk_token": "x"}}']
)
def test_what_is_no_tokenizer(tmp_path, data):
    with pytest.raises(TokenizerError):
        loaded(tmp_path / "tokenizer.json", data)


def test_a_file_that_is_not_the_one_named(exact, tmp_path):
    with pytest.raises(TokenizerError, match="has been deleted"):
        OctetTokenizer(tmp_path / "none", "0" * 64)
    (tmp_path / "other").write_bytes(b"{}")
    with pytest.raises(TokenizerError, match="damaged"):
        OctetTokenizer(tmp_path / "other", "0" * 64)


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(TokenizerError, match=r"pip install 'codelength\[tokens\]'"):
        OctetTokenizer(tmp_path / "x", "0" * 64)
