"""What a build holds: one copy of the vectors, and no copy of them in a float32 index."""

import faiss
import numpy as np
import pytest

from alike.extract.progress import silent
from alike.index import build as building
from alike.index.build import build_index
from alike.index.engine import new_index, open_engine
from alike.index.files import read_index
from alike.index.kinds import INDEX_KINDS
from alike.index.places import folder_of
from alike.index.specs import Wish
from alike.index.trial import add_rows

from .conftest import clustered


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["flat", "ivf_pq", "ivf_sq8"])
def test_float32_vectors_are_looked_at_and_written_as_if_they_were_added(kind, tmp_path):
    vectors, _ = clustered(1500, dimension=32)
    rows = np.arange(1500) * 3
    spec = INDEX_KINDS[kind].spec(1500, 32)
    index = new_index(spec.factory, 32, "l2")
    index.train(vectors)
    faiss.write_index(index, str(tmp_path / "empty"))
    add_rows(index, vectors[:1400], rows[:1400], spec, silent)
    add_rows(index, vectors, rows, spec, silent, after=1400)
    plain = faiss.read_index(str(tmp_path / "empty"))
    plain.add_with_ids(vectors, rows)
    for name, one in {"ours": index, "plain": plain}.items():
        faiss.write_index(one, str(tmp_path / name))
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "plain").read_bytes()
    held = open_engine(index, spec).vectors
    if kind != "ivf_sq8":
        assert np.shares_memory(held, vectors)


def test_vectors_beyond_the_memory_lie_in_a_file_that_goes(make_store, monkeypatch):
    vectors, labels = clustered(2000, dimension=32, classes=10)
    store = make_store(vectors=vectors, labels=labels)
    features = store.features()
    folder = folder_of(store, features.key, "gap_cosine")
    seen, real = [], building.choose

    def choose(trial, **options):
        seen.append((type(trial.vectors.base), list(folder.glob("*.vectors"))))
        if len(seen) == 1:
            raise KeyboardInterrupt
        return real(trial, **options)

    monkeypatch.setattr(building, "choose", choose)
    wish = Wish(0.5, memory=2000 * 32 * 2)
    folder.mkdir(parents=True)
    (folder / "of-a-killed-build.vectors").write_bytes(b"x")
    with pytest.raises(KeyboardInterrupt):
        build_index(features, wish=wish)
    report = build_index(features, wish=wish)
    assert [len(files) for _, files in seen] == [1, 1]
    assert not list(folder.glob("*.vectors"))
    assert report.card.size <= wish.memory
    # Two indexes are not held at once, and the one that is kept is the one that was measured.
    card, index = read_index(folder)
    assert index.ntotal == card.n_rows == 2000
    rows = np.sort(faiss.vector_to_array(index.id_map))
    assert np.array_equal(rows, np.arange(2000))
