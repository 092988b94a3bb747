"""Every metric there is, and where in the reports it is found.  Pure.

`EVERY` is of each product, its name in the label `product`; the others are of one.
Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clinfra.metrics.figures import Figure, Kind, counter

EVERY = (
    counter("clinfra_requests", "Requests answered.", "tally requests *status"),
    counter("clinfra_response_bytes", "Body bytes sent.", "tally body_bytes"),
    Figure(
        "clinfra_request_seconds",
        "From the head of a request to the end of its answer.",
        "tally took *cache",
        Kind.HISTOGRAM,
    ),
    Figure("clinfra_connections", "Open connections.", "listener connections"),
    Figure(
        "clinfra_connections_max",
        "Connections there may be.",
        "listener most_connections",
    ),
    counter(
        "clinfra_refused",
        "Heads and connections that never became a request.",
        "listener refused *status",
    ),
    counter(
        "clinfra_connections_evicted",
        "Idle connections that made room for others.",
        "listener evicted",
    ),
    Figure(
        "clinfra_not_ready",
        "Reasons why it cannot serve now.",
        "not_ready",
        value=len,
    ),
    Figure("clinfra_workers_wanted", "Workers there should be.", "crew wanted"),
    Figure("clinfra_workers_ready", "Workers that accept requests.", "crew ready"),
    Figure(
        "clinfra_workers_finishing",
        "Replaced workers that finish what they have.",
        "crew finishing",
    ),
    counter(
        "clinfra_worker_falls",
        "Workers that ended without being asked to.",
        "crew falls",
    ),
)
"""Of products, and of the admin pages."""

PROCESS = (
    Figure("clinfra_process_open_fds", "Open descriptors.", "process open_fds"),
    Figure("clinfra_process_max_fds", "Descriptors allowed.", "process max_fds"),
    Figure(
        "clinfra_process_resident_memory_bytes",
        "Memory in use.",
        "process resident_bytes",
    ),
    counter(
        "clinfra_process_cpu_seconds",
        "Processor time, kernel included.",
        "process cpu_microseconds",
        value=lambda found: found / 1e6,
    ),
    Figure(
        "clinfra_reactor_delay_seconds",
        "How late the event loop came to a call that was due.",
        "process reactor_delay",
        Kind.HISTOGRAM,
    ),
    counter(
        "clinfra_log_lines_lost",
        "Log lines dropped: the disk or the reader did not keep up.",
        "process lost_lines",
    ),
)
"""Of processes: `process` is "main", or the product that workers run, all together."""


def _is(*states: str) -> Any:
    return lambda found: float(found in states)


_CACHE = "modules DirectCache"
_POOL = "modules Forwarder pools *pool"
_MEMBER = f"{_POOL} members *member"

PROXY = (
    Figure("clinfra_proxy_active_requests", "Requests under way.", "active"),
    counter(
        "clinfra_proxy_cache_hits",
        "Answers from the cache, by the tier that had them.",
        f"{_CACHE} tiers *tier",
    ),
    counter(
        "clinfra_proxy_cache_outcomes",
        "Requests that the cache had no answer for, by why.",
        f"{_CACHE} outcomes *outcome",
    ),
    Figure("clinfra_proxy_cache_entries", "Answers in memory.", f"{_CACHE} entries"),
    Figure("clinfra_proxy_cache_bytes", "Memory they take.", f"{_CACHE} bytes"),
    Figure(
        "clinfra_proxy_cache_max_bytes", "Memory they may take.", f"{_CACHE} max_bytes"
    ),
    counter(
        "clinfra_proxy_cache_evicted",
        "Answers that made room for others.",
        f"{_CACHE} evicted",
    ),
    Figure("clinfra_proxy_fetching", "Fetches others wait for.", f"{_CACHE} fetching"),
    Figure(
        "clinfra_proxy_memcached_up",
        "Whether a memcached server is connected.",
        f"{_CACHE} memcached *server",
        value=float,
    ),
    Figure(
        "clinfra_proxy_pool_askable", "Members that may be asked.", f"{_POOL} askable"
    ),
    Figure(
        "clinfra_proxy_pool_panic",
        "Whether members are asked that are down, since too few are up.",
        f"{_POOL} panic",
        value=float,
    ),
    Figure(
        "clinfra_proxy_pool_maintenance",
        "Whether an operator took the pool out.",
        f"{_POOL} maintenance",
        value=float,
    ),
    counter(
        "clinfra_proxy_retries_refused",
        "Tries not made, since too many requests failed.",
        f"{_POOL} retries_refused",
    ),
    Figure(
        "clinfra_proxy_origin_confidence",
        "Trust in an origin, from 0 to 1.",
        f"{_MEMBER} confidence",
    ),
    Figure(
        "clinfra_proxy_origin_up",
        "Whether an origin is asked.",
        f"{_MEMBER} state",
        value=_is("up", "warming"),
    ),
    Figure(
        "clinfra_proxy_origin_circuit_open",
        "Whether an origin is left alone for a while, since it failed.",
        f"{_MEMBER} state",
        value=_is("open"),
    ),
    Figure(
        "clinfra_proxy_origin_in_flight", "Requests it is at.", f"{_MEMBER} under_way"
    ),
    counter("clinfra_proxy_origin_requests", "Requests to it.", f"{_MEMBER} requests"),
    counter(
        "clinfra_proxy_origin_failures",
        "Those that failed.",
        f"{_MEMBER} failed_requests",
    ),
    counter(
        "clinfra_proxy_retries",
        "Requests sent to another origin, or once more.",
        "modules Forwarder retries",
    ),
    Figure(
        "clinfra_proxy_tunnels",
        "Open WebSockets and the like.",
        "modules Forwarder tunnels open",
    ),
    Figure("clinfra_proxy_spool_bytes", "Bodies that wait on disk.", "spool bytes"),
    Figure(
        "clinfra_proxy_spool_max_bytes",
        "How much may wait there.",
        "spool max_bytes",
    ),
)

_KIND = "kinds *kind"

IMAGE = (
    Figure("clinfra_image_queue_length", "Pictures waiting.", f"{_KIND} waiting"),
    Figure(
        "clinfra_image_backlog_photographs",
        "Work waiting or under way, in photographs of 12 megapixels.",
        f"{_KIND} backlog_photographs",
    ),
    Figure("clinfra_image_renderers", "Processes that make pictures.", "workers"),
    Figure("clinfra_image_renderers_busy", "Those at work.", "busy"),
    counter("clinfra_image_rendered", "Pictures made.", f"{_KIND} rendered"),
    counter("clinfra_image_bad", "Pictures that could not be read.", f"{_KIND} bad"),
    counter(
        "clinfra_image_refused",
        "Requests turned away, since too much waited.",
        f"{_KIND} refused",
    ),
    Figure(
        "clinfra_image_wait_seconds",
        "From being asked for to being begun.",
        f"{_KIND} waited",
        Kind.SUMMARY,
    ),
    Figure(
        "clinfra_image_render_seconds",
        "From being begun to the result, by format.",
        f"{_KIND} worked *format",
        Kind.SUMMARY,
    ),
    *(
        counter(
            "clinfra_image_renderer_deaths",
            "Processes that make pictures and ended, by why.",
            reason,
            labels={"reason": reason},
        )
        for reason in ("died", "timed_out", "recycled")
    ),
)

_DESTINATION = "replication *destination"
_COMPARED = "repair destinations *destination"


def _live_ratio(store: Mapping[str, Any]) -> float | None:
    live, total = store.get("live_bytes"), store.get("volume_bytes")
    return live / total if live is not None and total else None


BLOB = (
    Figure(
        "clinfra_blob_replication_lag_seconds",
        "Age of the oldest change that a destination lacks.",
        f"{_DESTINATION} lag_seconds",
    ),
    Figure(
        "clinfra_blob_replication_waiting",
        "Changes that a destination lacks, about.",
        f"{_DESTINATION} waiting",
    ),
    Figure(
        "clinfra_blob_replication_parked",
        "Changes that a destination refused.",
        f"{_DESTINATION} parked",
    ),
    Figure(
        "clinfra_blob_replication_resting",
        "Whether a destination is left alone for a while, since it failed.",
        f"{_DESTINATION} resting",
        value=float,
    ),
    counter(
        "clinfra_blob_replication_sent",
        "Changes that a destination took.",
        f"{_DESTINATION} sent",
    ),
    Figure(
        "clinfra_blob_under_replicated",
        "Changes that some replica of this bucket lacks, about.",
        "replication",
        value=lambda found: sum(
            each.get("waiting", 0) + each.get("parked", 0)
            for key, each in found.items()
            if key.startswith("peer:")
        ),
    ),
    Figure(
        "clinfra_blob_tree_compared_seconds",
        "Since the last comparison that left nothing unequal.",
        f"{_COMPARED} compared_seconds",
    ),
    Figure(
        "clinfra_blob_tree_divergence",
        "Changes that a destination lacked when it was last compared with.",
        f"{_COMPARED} lacked",
    ),
    counter("clinfra_blob_repaired", "Changes found by comparing.", "repair repaired"),
    Figure(
        "clinfra_blob_scrub_age_seconds",
        "Since all blobs were last read whole.",
        "scrub ended_seconds",
    ),
    counter("clinfra_blob_scrubbed", "Blobs read for damage.", "scrub checked"),
    counter(
        "clinfra_blob_scrubbed_bytes",
        "Bytes read for damage.",
        "scrub checked_bytes",
    ),
    Figure("clinfra_blob_damaged", "Blobs with damaged bytes.", "scrub damaged"),
    Figure("clinfra_blob_quarantined", "Blobs in quarantine.", "scrub quarantined"),
    counter("clinfra_blob_healed", "Damaged blobs made good.", "scrub healed"),
    Figure(
        "clinfra_blob_handoff_waiting",
        "Changes kept for replicas that are away.",
        "handoff waiting",
    ),
    Figure(
        "clinfra_blob_handoff_oldest_seconds",
        "Age of the oldest of them.",
        "handoff oldest_seconds",
    ),
    Figure("clinfra_blob_volumes", "Volumes.", "store_disk volumes"),
    Figure("clinfra_blob_volume_bytes", "What they take.", "store_disk volume_bytes"),
    Figure(
        "clinfra_blob_volume_live_ratio",
        "The share of it that is needed.",
        "store_disk",
        value=_live_ratio,
    ),
    Figure("clinfra_blob_disk_bytes", "Size of the disk.", "store_disk total_space"),
    Figure(
        "clinfra_blob_disk_free_bytes", "Free space of it.", "store_disk free_space"
    ),
    Figure("clinfra_blob_disk_free_inodes", "Free inodes.", "store_disk free_inodes"),
    Figure("clinfra_blob_index_bytes", "Size of the index.", "index_sqlite size"),
    Figure(
        "clinfra_blob_commits_waiting",
        "Changes waiting to be made durable.",
        "index_sqlite queue_size",
    ),
    counter("clinfra_blob_hot_hits", "Reads answered from memory.", "hot hits"),
    counter("clinfra_blob_hot_misses", "Reads that were not.", "hot misses"),
    Figure("clinfra_blob_hot_bytes", "Memory taken for that.", "hot bytes"),
    counter("clinfra_blob_purged", "Expired blobs that were removed.", "purged"),
    Figure(
        "clinfra_blob_clock_ahead_seconds",
        "How far this clock is ahead of another replica's.",
        "clock ahead_seconds *peer",
    ),
    Figure(
        "clinfra_blob_fenced",
        "Whether it waits to hear what was deleted while it was away.",
        "rejoin fenced",
        value=float,
    ),
    Figure(
        "clinfra_blob_filling",
        "Whether it is being filled from another replica.",
        "refill filling",
        value=float,
    ),
    counter(
        "clinfra_blob_operations",
        "Requests by what they asked for.",
        "events *operation total",
    ),
)

OF_PRODUCT: Mapping[str, tuple[Figure, ...]] = {
    "blob": BLOB,
    "image": IMAGE,
    "proxy": PROXY,
}

ALL = (*EVERY, *PROCESS, *BLOB, *IMAGE, *PROXY)
