"""/metrics of real processes."""

from __future__ import annotations

import os
import signal
import urllib.error
import urllib.request

from prometheus_client.samples import Sample

from tests.support import ClinfraProcess, wait_until
from tests.wire.crews import workers
from tests.wire.photographs import write_photograph
from tests.wire.scraping import Scrape


def ask(clinfra: ClinfraProcess, path: str, product: str = "proxy") -> int:
    """Return the status of a GET."""
    try:
        with urllib.request.urlopen(clinfra.url(product, path), timeout=60) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_a_day_in_short() -> None:
    """What was asked of each product is counted, and how the parts are is told."""
    with ClinfraProcess() as clinfra:
        photograph = clinfra.directory / "photo.jpg"
        write_photograph(photograph, size=(800, 600))
        request = urllib.request.Request(
            clinfra.url("proxy", "/image/photo"),
            data=photograph.read_bytes(),
            method="POST",
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        for _ in range(3):
            assert ask(clinfra, "/") == 200
        assert ask(clinfra, "/nothing", "blob") == 400
        scrape = Scrape(clinfra)

        assert scrape.total("clinfra_ready") == 1
        count = scrape.total
        assert count("clinfra_requests_total", product="proxy", status="2xx") == 4
        assert count("clinfra_requests_total", product="image", status="2xx") == 1
        assert count("clinfra_requests_total", product="blob", status="4xx") == 1
        assert count("clinfra_image_render_seconds_count", format="jpeg") == 1
        assert count("clinfra_image_renderers") >= 1
        assert count("clinfra_proxy_origin_up", pool="image") == 1
        assert count("clinfra_process_open_fds", process="main") > 10
        assert count("clinfra_blob_disk_free_bytes") > 0
        assert _told_twice(scrape.samples) == []


def _told_twice(samples: list[Sample]) -> list[str]:
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    twice = []
    for sample in samples:
        key = sample.name, frozenset(sample.labels.items())
        twice += [sample.name] * (key in seen)
        seen.add(key)
    return twice


def test_workers_are_added_up() -> None:
    """Every request is counted, whichever worker answered it, and none twice.

    Counts never fall: not when workers are replaced, nor when they are killed.
    """
    tables = {"stop_timeout": 2, "proxy": {"workers": 2}, "admin": {}}
    with ClinfraProcess(tables) as clinfra:
        answered = 0

        def counted() -> float:
            scrape = Scrape(clinfra)
            return scrape.total("clinfra_requests_total", product="proxy")

        def all_are_counted() -> bool:
            now = counted()
            seen.append(now)
            return now == answered

        seen: list[float] = []
        for turn in range(3):
            for _ in range(20):
                assert ask(clinfra, "/") == 200
                answered += 1
            if turn < 2:
                wait_until(all_are_counted, f"{answered} are counted")
            if turn == 0:
                os.kill(workers(clinfra)[0], signal.SIGKILL)
                wait_until(
                    lambda: Scrape(clinfra).total("clinfra_worker_falls_total") == 1,
                    "a worker has fallen",
                )
                wait_until(
                    lambda: Scrape(clinfra).total("clinfra_workers_ready") == 2,
                    "there is another",
                )
            elif turn == 1:
                clinfra.running.signal(signal.SIGUSR2)
                clinfra.running.wait_for("new workers serve")
            else:
                # What they say at their end is enough.
                clinfra.running.signal(signal.SIGUSR2)
                wait_until(all_are_counted, f"{answered} are counted in the end")

        assert seen == sorted(seen)
        scrape = Scrape(clinfra)
        assert scrape.total("clinfra_process_open_fds", process="proxy") > 10
        buckets = scrape.total("clinfra_request_seconds_count", product="proxy")
        assert buckets == answered
        assert _told_twice(scrape.samples) == []


def test_switched_off() -> None:
    """Nobody counts where nobody wants to."""
    with ClinfraProcess({"proxy": {}, "admin": {"metrics": False}}) as clinfra:
        assert ask(clinfra, "/metrics", "admin") == 404
        assert ask(clinfra, "/health/ready", "admin") == 200
