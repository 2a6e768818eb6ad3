"""Published, pulled and loaded again, a model annotates bit for bit as before."""

import numpy as np
import pytest

import hdeepinsight as hdi


@pytest.fixture
def expected(shared_model, query):
    return shared_model.annotate(query).node_probabilities


def assert_same(model, query, expected):
    np.testing.assert_array_equal(model.annotate(query).node_probabilities, expected)


def test_hub(shared_model, card, fake_hub, writer, query, expected):
    published = hdi.hub.publish(shared_model, "atlas/blood", card=card)
    assert_same(hdi.hub.pull("atlas/blood"), query, expected)
    assert_same(hdi.hub.pull("atlas/blood", revision=published.revision), query, expected)
    shared = hdi.hub.download("atlas/blood", published.digest)
    assert (shared.revision, shared.digest) == (published.revision, published.digest)
    assert len(fake_hub.repositories["atlas/blood"].commits) == 2, "one commit, after the first"
    assert fake_hub.asked("PUT", "/lfs/"), "large files go through LFS"


def test_bucket(shared_model, card, bucket, query, expected):
    published = hdi.hub.publish(shared_model, f"s3://{bucket}/atlas/blood", card=card)
    assert published.revision == published.digest
    assert_same(hdi.hub.pull(f"s3://{bucket}/atlas/blood"), query, expected)
    assert_same(hdi.hub.pull(published.address, published.revision), query, expected)


@pytest.mark.parametrize("write", [str, lambda path: path, lambda path: path.as_uri()])
def test_folder(shared_model, card, home, query, expected, write):
    folder = write(home / "models" / "blood")
    published = hdi.hub.publish(shared_model, folder, card=card)
    assert_same(hdi.hub.pull(folder), query, expected)
    assert_same(hdi.hub.pull(published.address, published.digest), query, expected)


def test_the_same_model_has_the_same_digest_wherever_it_is(
    shared_model, card, fake_hub, writer, bucket, home
):
    places = ["atlas/blood", f"s3://{bucket}/blood", home / "blood"]
    digests = {hdi.hub.publish(shared_model, place, card=card).digest for place in places}
    assert len(digests) == 1
