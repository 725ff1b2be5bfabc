"""Models kept after training: taken when sound, the latest before k, and not more of them than is allowed."""

import numpy as np
import pytest

from shared.code.errors import CorpusError
from shared.code.spec import CodeSpec, Start
from shared.code.vocabulary import dataset_digest
from shared.service import starts
from shared.service.starts import Origin, TrainedModels, starting

CORPUS = np.random.default_rng(0).integers(0, 256, 700, dtype=np.uint8).tobytes()


@pytest.fixture
def origin(tmp_path):
    (tmp_path / "corpus").write_bytes(CORPUS)
    return Origin(corpus=str(tmp_path / "corpus"), snapshots=str(tmp_path / "kept"), max_bytes=1 << 20)


def spec_of(steps, *, frozen=True, kind="frequency"):
    digest = dataset_digest(CodeSpec.from_fields({"model": {"kind": kind}}).vocabulary)
    digest.update(CORPUS)
    fields = {"model": {"kind": kind}, "block_tokens": 300, "segment_tokens": 100}
    return CodeSpec.from_fields(fields).with_training(frozen=frozen, start=Start(corpus=digest.hexdigest(), steps=steps))


def made(steps, origin, **which):
    """The predictor, and the steps that were taken for it."""
    *before, (predictor, done) = starting(spec_of(steps, **which), origin)
    assert done
    return predictor, len(before) + 1


def test_goes_on_from_the_latest_before_k_in_either_regime(origin, tmp_path):
    fresh = Origin(corpus=origin.corpus, snapshots=str(tmp_path / "other"), max_bytes=0)
    whole, taken = made(20, fresh)
    assert taken == 20
    assert not list((tmp_path / "other").glob("*"))
    for steps, frozen, expected in ((5, False, 5), (12, True, 7), (5, True, 1), (20, True, 8), (20, False, 1), (3, True, 3)):
        predictor, taken = made(steps, origin, frozen=frozen)
        assert (taken, predictor.steps, predictor.frozen) == (expected, steps, frozen)
    assert made(20, origin)[0].state_bytes() == whole.state_bytes()


def test_other_codes_have_others(origin, monkeypatch):
    made(4, origin)
    assert made(4, origin, kind="ngram")[1] == 4
    monkeypatch.setattr(starts, "sources_digest", lambda: "another f")
    assert made(4, origin)[1] == 4


def test_the_least_lately_used_make_room(origin, tmp_path):
    ample = Origin(corpus=origin.corpus, snapshots=str(tmp_path / "ample"), max_bytes=1 << 20)
    for steps in (1, 2, 3):
        made(steps, ample)
    all_bytes = sum(path.stat().st_size for path in (tmp_path / "ample").glob("*"))
    room = Origin(corpus=origin.corpus, snapshots=origin.snapshots, max_bytes=all_bytes - 1)
    made(2, room)
    made(1, room)
    assert made(3, room)[1] == 1  # from 2, which is used again
    assert sorted(path.name.rpartition("-")[2] for path in (tmp_path / "kept").glob("*")) == ["2.state", "3.state"]


def test_a_directory_that_cannot_be_written_does_no_harm(origin, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    broken = Origin(corpus=origin.corpus, snapshots=str(tmp_path / "file"), max_bytes=1 << 20)
    assert made(4, broken)[0].state_bytes() == made(4, origin)[0].state_bytes()


def test_a_corpus_that_is_gone_or_another(origin, tmp_path):
    (tmp_path / "corpus").write_bytes(CORPUS + b"x")
    with pytest.raises(CorpusError, match="give it again"):
        made(1, origin)
    (tmp_path / "corpus").unlink()
    with pytest.raises(CorpusError, match="deleted"):
        made(1, origin)


def test_a_foreign_state_under_the_right_name(origin, tmp_path):
    """Right in every byte, but not of as many steps as its name says."""
    made(4, origin)
    (path,) = (tmp_path / "kept").glob("*")
    path.rename(path.with_name(path.name.replace("-4.", "-6.")))
    assert TrainedModels(tmp_path / "kept", 1 << 20).latest(spec_of(6)) is None
    assert not list((tmp_path / "kept").glob("*"))
