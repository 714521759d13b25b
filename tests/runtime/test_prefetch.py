"""Reading ahead and computing several at once: order, errors, closing, worker processes."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch.utils.data import Dataset

from mri_ambient.errors import collected, warn
from mri_ambient.runtime.prefetch import BatchReader, in_order, prefetch


def test_items_keep_their_order():
    assert list(prefetch(range(1, 6))) == [1, 2, 3, 4, 5]
    assert list(prefetch([])) == []


def test_the_next_item_is_read_while_the_first_is_in_use():
    begun = threading.Event()

    def items():
        yield "first"
        begun.set()
        yield "second"

    ahead = prefetch(items())
    assert next(ahead) == "first"
    assert begun.wait(timeout=10)
    assert list(ahead) == ["second"]


def test_an_error_is_raised_in_place_of_its_item():
    def items():
        yield 1
        yield 2
        raise OSError("third")

    found = []
    with pytest.raises(OSError, match="third"):
        for item in prefetch(items()):
            found.append(item)
    assert found == [1, 2]


def test_closing_reads_no_further():
    read = []

    def items():
        for i in range(1, 100):
            read.append(i)
            yield i

    ahead = prefetch(items())
    next(ahead)
    ahead.close()
    assert len(read) <= 2


def test_warnings_of_reading_are_collected_where_it_was_begun():
    def items():
        for n in (1, 2):
            warn(("W-SPIKE", "W-CENTRE")[n - 1], "reading")
            yield n

    with collected() as given:
        assert list(prefetch(prefetch(items()))) == [1, 2]
    assert [warning.code for warning in given] == ["W-SPIKE", "W-CENTRE"]


class Squares(Dataset):
    """Batch n is n squared; batch 7 cannot be read."""

    def __getitem__(self, n):
        if n == 7:
            raise OSError("batch 7")
        return n * n


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_start_at_a_number_and_stop_with_the_block(workers, server):
    with BatchReader(Squares(), 3, workers=workers, pinned=False) as reader:
        assert [next(reader) for _ in range(3)] == [9, 16, 25]
        assert reader.waited > 0


def test_an_unreadable_batch_is_an_error_of_its_turn():
    with BatchReader(Squares(), 5, workers=0, pinned=False) as reader:
        assert [next(reader), next(reader)] == [25, 36]
        with pytest.raises(OSError, match="batch 7"):
            next(reader)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


class TestInOrder:
    @pytest.mark.parametrize("n_at_once", [1, 3])
    def test_results_keep_the_order_of_their_items(self, n_at_once):
        def slower_if_earlier(n):
            time.sleep(0.02 / n)
            return n * n

        assert list(in_order(slower_if_earlier, range(1, 6), n_at_once)) == [1, 4, 9, 16, 25]

    def test_two_are_computed_at_once_each_with_a_thread(self, two_threads):
        both = threading.Barrier(2, timeout=30)  # passed by nobody who comes alone

        def meet(_):
            both.wait()
            return torch.get_num_threads()

        assert list(in_order(meet, range(4), 2)) == [1, 1, 1, 1]
        assert torch.get_num_threads() == 2

    def test_an_error_is_raised_in_its_turn(self):
        def inverse(n):
            return 1 / n

        results = in_order(inverse, [1, 2, 0, 4], 2)
        assert [next(results), next(results)] == [1, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(results)

    def test_closing_stops_what_runs_and_begins_nothing_more(self):
        begun, stopped = [], threading.Event()

        def until_stopped(n):
            begun.append(n)
            return n == 0 or stopped.wait(timeout=30)

        results = in_order(until_stopped, range(9), 2, stopped.set)
        assert next(results) is True
        results.close()
        assert stopped.is_set() and len(begun) <= 3
