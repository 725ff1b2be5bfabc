"""|f| is measured once for every f, and not taken from what is damaged."""

from shared.service import records
from shared.service.records import coded_sources


def test_coded_sources_are_kept_and_what_is_damaged_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    found = coded_sources()
    kept = tmp_path / "sources.json"
    whole = kept.read_bytes()
    for damage in (whole[:-9], b"", b"[1]", b'{"a": ["*", 1]}', b"\xff", b'{"a": 1}'):
        kept.write_bytes(damage)
        assert coded_sources() == found
        assert kept.read_bytes() == whole
    monkeypatch.setattr(records, "_compressed_sources", dict)
    assert coded_sources() == found
    assert [path.name for path in tmp_path.iterdir()] == ["sources.json"]
