"""Seconds per task of one of Python's own pools: python_pools.py futures1 | futures1000 | pool1 | pool1000"""

import concurrent.futures
import multiprocessing
import sys
import time


def same(value):
    return value


def run(which, count):
    chunk = 1000 if which.endswith("1000") else 1
    if which.startswith("futures"):
        with concurrent.futures.ProcessPoolExecutor(2) as pool:
            list(pool.map(same, range(100)))
            begun = time.perf_counter()
            total = sum(pool.map(same, range(count), chunksize=chunk))
            return time.perf_counter() - begun, total
    with multiprocessing.Pool(2) as pool:
        list(pool.imap_unordered(same, range(100)))
        begun = time.perf_counter()
        total = sum(pool.imap_unordered(same, range(count), chunksize=chunk))
        return time.perf_counter() - begun, total


if __name__ == "__main__":
    tasks = 500_000 if sys.argv[1].endswith("1000") else 20_000
    seconds, total = run(sys.argv[1], tasks)
    assert total == tasks * (tasks - 1) // 2
    print(seconds / tasks)
