"""What an actor's death is counted against, without a cluster."""

import pytest
from ray_tasks import Squares

from tl_crossenc.executors.crew import Crew, Given, Place
from tl_crossenc.executors.handout import DEATHS, Handout

pytest.importorskip("ray")


def given(numbers, left):
    task = Squares(tuple(numbers), "", "")
    return Given(task, {key for number, key in zip(numbers, task.keys, strict=True) if number in left})


class Mourners(Crew):
    """A crew whose place had been given some tasks when its actor died."""

    def __init__(self, *work):
        self.places, self._work = [], list(work)

    def lose(self, place, why):
        return list(self._work)


def test_a_death_is_of_the_first_task_that_is_not_whole_and_the_order_stays():
    whole, running, next_one = given([2, 3], []), given([5, 7], [7]), given([11], [11])
    handout, place = Handout(Mourners(whole, running, next_one), None), Place(None)
    for deaths in range(1, DEATHS):
        handout._lost(place, RuntimeError("gone"))
        assert (whole.deaths, running.deaths, next_one.deaths) == (0, deaths, 0)
        assert list(handout._waiting) == [running, next_one]
        handout._waiting.clear()
    handout._lost(place, RuntimeError("gone"))
    assert list(handout._waiting) == [next_one]
    (failure,) = handout._failures
    assert failure.task.numbers == (7,)
    assert str(failure.cause) == f"{DEATHS} actors died of it, the last so: gone"
