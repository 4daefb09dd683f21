"""The past of a checkpoint, and how much of a dataset occurs in it; rows are written by hand."""

import contextlib

import numpy as np
import pytest
from sqlalchemy import event

from service.db.connection import reading, writing
from service.db.tables import checkpoints as stored
from service.db.tables import lineages
from service.jobs import handlers, queue
from service.operations import checkpoints
from tests.service.conftest import open_services
from tests.service.test_handlers import (
    evaluate,
    ingest,
    keep,
    mlp_weights,
    npz,
    options_of,
    put_mlp,
)

# Chains of trainings


@pytest.fixture
def services(tmp_path):
    services = open_services(tmp_path)
    yield services
    services.close()


def digest_of(name):
    """A checkpoint's digest that ends with its name."""
    return name.encode().hex().rjust(64, "0")


def made(services, name, *, dataset, initial=None, judge="judge", at=1.0):
    """Write down that a training made this checkpoint; one that is named twice is the same."""
    payload = {
        "dataset": f"{dataset}@1",
        "dataset_digest": digest_of(dataset),
        "validation_dataset": f"{judge}@1",
        "validation_digest": digest_of(judge),
        "initial_checkpoint": initial and digest_of(initial),
    }
    with writing(services.database) as db:
        job = queue.submit(
            db,
            kind="training",
            request={},
            payload=payload,
            device="cpu",
            created_by="test",
            labels={},
            timeout_s=None,
            now=at,
        )
        if checkpoints.lineage(db, digest_of(name))["trained_on"] == []:
            row = {"size_bytes": 1, "manifest": {}, "details": {}, "labels": {}, "created_at": at}
            db.execute(stored.insert().values(digest=digest_of(name), created_by="test", **row))
        db.execute(lineages.insert().values(digest=digest_of(name), job_id=job.id, epoch=1))


def past(services, name):
    """Its datasets, those that chose, and whether it is complete."""
    with reading(services.database) as db:
        found = checkpoints.lineage(db, digest_of(name))
    for one in (*found["trained_on"], *found["selected_on"]):
        assert one["digest"] == digest_of(one["dataset"].removesuffix("@1"))
    used, chose = (
        [one["dataset"].removesuffix("@1") for one in found[part]]
        for part in ("trained_on", "selected_on")
    )
    return used, chose, found["complete"]


def test_nothing_is_known_of_weights_from_elsewhere(services):
    assert past(services, "elsewhere") == ([], [], False)


def test_a_chain_is_followed_to_where_it_began(services):
    made(services, "first", dataset="old", judge="old-judge")
    made(services, "second", dataset="new", initial="first")
    made(services, "third", dataset="new", initial="second")
    assert past(services, "third") == (["new", "old"], ["judge", "old-judge"], True)


def test_a_chain_that_began_elsewhere_is_not_complete(services):
    made(services, "first", dataset="old", initial="elsewhere")
    made(services, "second", dataset="new", initial="first")
    assert past(services, "second") == (["new", "old"], ["judge"], False)


def test_of_several_trainings_the_first_whose_whole_past_is_known_speaks(services):
    made(services, "same", dataset="tuned", initial="elsewhere", at=1.0)
    made(services, "same", dataset="again", initial="elsewhere", at=2.0)
    assert past(services, "same") == (["tuned"], ["judge"], False)
    made(services, "same", dataset="whole", at=3.0)
    made(services, "same", dataset="later", at=4.0)
    assert past(services, "same") == (["whole"], ["judge"], True)


def test_a_circle_ends_and_says_nothing_of_where_it_began(services):
    made(services, "itself", dataset="own", initial="itself")
    assert past(services, "itself") == (["own"], ["judge"], False)
    made(services, "one", dataset="first", initial="other")
    made(services, "other", dataset="second", initial="one")
    assert past(services, "one") == (["first", "second"], ["judge"], False)


def test_a_way_out_of_a_circle_is_found(services):
    made(services, "one", dataset="first", initial="other")
    made(services, "other", dataset="second", initial="one")
    made(services, "other", dataset="start", at=2.0)
    assert past(services, "one") == (["first", "start"], ["judge"], True)


@contextlib.contextmanager
def statements(services):
    """Those that the database is sent, until the block ends."""
    sent = []

    def count(connection, cursor, statement, *rest):
        sent.append(statement)

    event.listen(services.database, "before_cursor_execute", count)
    yield sent
    event.remove(services.database, "before_cursor_execute", count)


def test_every_checkpoint_of_the_past_is_asked_for_once(services):
    """Else trainings that were done twice double the work with each generation."""
    before = "elsewhere"
    for generation in range(10):
        for at in (1.0, 2.0):
            made(services, f"g{generation}", dataset=f"d{generation}", initial=before, at=at)
        before = f"g{generation}"
    with statements(services) as sent:
        used, _, complete = past(services, "g9")
    assert (used, complete) == ([f"d{generation}" for generation in reversed(range(10))], False)
    assert sum("lineages" in statement for statement in sent) == 11


def test_a_past_that_is_longer_than_can_be_followed_is_not_complete(services, monkeypatch):
    monkeypatch.setattr(checkpoints, "MOST_FOLLOWED", 3)
    made(services, "g0", dataset="d0")
    for generation in range(1, 4):
        made(services, f"g{generation}", dataset=f"d{generation}", initial=f"g{generation - 1}")
    assert past(services, "g2") == (["d2", "d1", "d0"], ["judge"], True)
    assert past(services, "g3") == (["d3", "d2", "d1"], ["judge"], False)


# Comparison


@pytest.fixture
def context(tmp_path):
    return handlers.open_context(options_of(tmp_path), "cpu")


TASKS = {  # outputs, positive class, threshold
    "multiclass": (3, None, None),
    "binary": (2, "yes", None),
    "one output": (1, "yes", 0.3),
    "multilabel": (3, None, 0.4),
}


def drawn(case, *, count, seed):
    """Examples and targets of a task."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, 5)).astype(np.float32)
    if case == "multilabel":
        return x, (x[:, :3] > 0).astype(np.uint8)
    return x, x[:, : 3 if case == "multiclass" else 2].argmax(axis=1)


def joined(*parts):
    return tuple(np.concatenate(one) for one in zip(*parts, strict=True))


def put(context, case, x, y):
    """Keep a dataset; returns its digest."""
    spec = {"multiclass": {}, "multilabel": {"task": "multilabel"}}.get(
        case, {"task": "binary", "positive_class": "yes"}
    )
    classes = ["ant", "bee", "cat"] if TASKS[case][0] == 3 else ["no", "yes"]
    return ingest(context, keep(context.store, npz(x=x, y=y)), classes=classes, **spec)["digest"]


def lineage_of(*trained_on, selected_on=(), complete=True):
    """As a payload names it."""
    return {
        "trained_on": [{"dataset": name, "digest": one} for name, one in trained_on],
        "selected_on": [{"dataset": name, "digest": one} for name, one in selected_on],
        "complete": complete,
    }


def judged(context, case, dataset, lineage, **changes):
    outputs, positive, threshold = TASKS[case]
    weights = mlp_weights(5, 16, outputs, seed=3)
    payload = {
        "checkpoint": put_mlp(context.store, weights, features=5, outputs=outputs),
        "dataset": "judged@1",
        "dataset_digest": dataset,
        "task": "binary" if case == "one output" else case,
        "positive_class": positive,
        "transforms": [],
        "transforms_from": "request",
        "batch_size": 32,
        "threshold": threshold,
        "device": "auto",
        "assumed": [],
    }
    if lineage is not None:
        payload["lineage"] = lineage
    return evaluate(context, payload, **changes)


@pytest.mark.parametrize("case", TASKS)
def test_the_metrics_without_what_was_trained_on_are_those_of_the_rest_alone(context, case):
    old, new = drawn(case, count=30, seed=1), drawn(case, count=25, seed=2)
    order = np.random.default_rng(0).permutation(55)
    mixed = put(context, case, *(one[order] for one in joined(old, new)))
    lineage = lineage_of(("old@1", put(context, case, *old)))
    result = judged(context, case, mixed, lineage)
    rest = [one[order][order >= 30] for one in joined(old, new)]
    alone = judged(context, case, put(context, case, *rest), lineage)
    assert result["leakage"] == {
        "status": "found",
        "examples": 30,
        "metrics_without": pytest.approx(alone["metrics"], rel=1e-6),
        "trained_on": ["old@1"],
        "selected_on": [],
    }
    assert result["leakage"]["metrics_without"] != result["metrics"]
    assert alone["leakage"]["status"] == "none"
    assert alone["leakage"]["examples"] == 0
    assert alone["leakage"]["metrics_without"] is None


@pytest.fixture
def parts(context):
    """Digests of three datasets: one, another, and both together."""
    one, other = drawn("multiclass", count=12, seed=1), drawn("multiclass", count=20, seed=2)
    return [put(context, "multiclass", *each) for each in (one, other, joined(one, other))]


def leakage(context, dataset, lineage, **changes):
    return judged(context, "multiclass", dataset, lineage, **changes)["leakage"]


def test_examples_are_known_again_whatever_their_labels(context, parts):
    x, y = drawn("multiclass", count=12, seed=1)
    relabelled = put(context, "multiclass", x, (y + 1) % 3)
    found = leakage(context, relabelled, lineage_of(("one@1", parts[0])))
    assert (found["status"], found["examples"]) == ("found", 12)


def test_an_example_that_was_trained_on_counts_as_often_as_it_is_judged(context, parts):
    repeated = joined(*[drawn("multiclass", count=12, seed=1)] * 2)
    digest = put(context, "multiclass", *repeated)
    assert leakage(context, digest, lineage_of(("one@1", parts[0])))["examples"] == 24


def test_what_several_datasets_share_counts_once(context, parts):
    one, other, both = parts
    lineage = lineage_of(("one@1", one), ("both@1", both), ("other@1", other))
    found = leakage(context, both, lineage)
    assert (found["status"], found["examples"]) == ("found", 32)
    assert found["metrics_without"] is None  # nothing is left
    assert found["trained_on"] == ["one@1", "both@1", "other@1"]


def test_a_past_that_is_not_complete_shows_what_is_found_and_never_that_nothing_is(context, parts):
    one, other, both = parts
    lineage = lineage_of(("one@1", one), complete=False)
    found = leakage(context, both, lineage)
    assert (found["status"], found["examples"]) == ("found", 12)
    unknown = leakage(context, other, lineage)
    assert (unknown["status"], unknown["examples"]) == ("unknown", None)


def test_a_job_that_says_nothing_of_the_past_has_an_unknown_one(context, parts):
    found = leakage(context, parts[0], None)
    assert (found["status"], found["examples"], found["trained_on"]) == ("unknown", None, [])


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_training_dataset_that_cannot_be_read_hides_nothing_that_others_show(context, parts, how):
    one, other, both = parts
    path = context.store.path(other)
    path.chmod(0o600)
    path.unlink() if how == "gone" else path.write_bytes(b"damaged")
    lineage = lineage_of(("one@1", one), ("other@1", other))
    result = judged(context, "multiclass", both, lineage)
    assert (result["leakage"]["status"], result["leakage"]["examples"]) == ("found", 12)
    assert sum("other@1" in warning for warning in result["warnings"]) == 1
    elsewhere = put(context, "multiclass", *drawn("multiclass", count=9, seed=4))
    unknown = leakage(context, elsewhere, lineage)
    assert (unknown["status"], unknown["examples"]) == ("unknown", None)


@pytest.mark.parametrize(("seen", "left", "said"), [(9, 40, 0), (40, 9, 0), (10, 10, 1)])
def test_of_a_sealed_dataset_no_difference_of_metrics_shows_fewer_than_ten(
    context, seen, left, said
):
    old, new = (drawn("multiclass", count=count, seed=count) for count in (seen, left + 100))
    new = tuple(one[100:] for one in new)
    lineage = lineage_of(("old@1", put(context, "multiclass", *old)))
    mixed = put(context, "multiclass", *joined(old, new))
    sealed = leakage(context, mixed, lineage, sealed=True)
    assert (sealed["status"], sealed["examples"]) == ("found", seen)
    assert (sealed["metrics_without"] is not None) == bool(said)
    assert leakage(context, mixed, lineage)["metrics_without"] is not None


def test_a_dataset_that_chose_the_epoch_is_known_again_under_another_name(context, parts):
    one, other, _ = parts
    lineage = lineage_of(("other@1", other), selected_on=[("chosen-by@1", one)])
    chosen = judged(context, "multiclass", one, lineage)
    assert chosen["leakage"]["selected_on"] == ["chosen-by@1"]
    assert any("was chosen by chosen-by@1" in warning for warning in chosen["warnings"])
    new = judged(context, "multiclass", other, lineage)
    assert not any("was chosen" in warning for warning in new["warnings"])


def test_the_past_is_no_part_of_the_key_and_of_no_verification(context, parts):
    one, _, both = parts
    first = judged(context, "multiclass", both, lineage_of(("one@1", one)))
    named = {name: first[name] for name in ("evidence", "metrics", "predictions")}
    again = judged(context, "multiclass", both, None, verifies={"evaluation": "first", **named})
    assert again["leakage"] != first["leakage"]
    assert again["evidence"] == first["evidence"]
    verification = again["verification"]
    assert (verification["outcome"], verification["changed"]) == ("identical", [])
    assert verification["metrics_equal"]
