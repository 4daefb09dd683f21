import random
import re
import uuid

import pytest

from service.jobs.lifecycle import MOVES, State, ended, priority, uuid7


def test_the_states_are_those_of_the_contract():
    assert {str(state) for state in State} == {
        "queued",
        "running",
        "succeeded",
        "failed",
        "cancelled",
    }


def test_what_ended_only_goes_back_to_the_queue_and_what_succeeded_stays():
    assert set(MOVES) == set(State)
    assert {state for state in State if ended(state)} == {"succeeded", "failed", "cancelled"}
    assert MOVES[State.FAILED] == MOVES[State.CANCELLED] == {State.QUEUED}
    assert MOVES[State.SUCCEEDED] == frozenset()


def test_a_job_is_claimed_before_it_can_succeed_or_fail():
    assert MOVES[State.QUEUED] == {State.RUNNING, State.CANCELLED}


def test_every_state_can_be_reached_from_queued():
    reached, front = set(), {State.QUEUED}
    while front:
        reached |= front
        front = {after for state in front for after in MOVES[state]} - reached
    assert reached == set(State)


def test_evaluations_go_before_ingestions_before_trainings():
    assert priority("evaluation") < priority("ingestion") < priority("training")


def test_an_unknown_kind_of_job_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'evaluatoin'; known: evaluation, ingestion, training"):
        priority("evaluatoin")


@pytest.mark.parametrize("seed", range(5))
def test_ids_are_uuids_of_version_7_that_carry_their_milliseconds(seed):
    now = random.Random(seed).uniform(0, 2**33)
    parsed = uuid.UUID(uuid7(now))
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert parsed.int >> 80 == int(now * 1000)


def test_the_text_of_an_id_is_the_usual_one():
    text = uuid7(1795344785.935938)
    assert text == str(uuid.UUID(text))
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", text
    )


def test_later_ids_sort_after_earlier_ones_within_a_millisecond():
    times = [1795344785.0 + microseconds / 1e6 for microseconds in range(0, 3000, 2)]
    ids = [uuid7(now) for now in times]
    assert ids == sorted(ids)


def test_ids_of_one_moment_differ():
    assert len({uuid7(1795344785.0) for _ in range(1000)}) == 1000
