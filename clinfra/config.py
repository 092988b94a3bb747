"""Every key of the configuration, its type, default and one sentence.

The classes here are the reference: `etc/clinfra.toml` is checked against them and
`--help` is made of them.  Reading files, merging and checking is `settings.py`;
nothing here does I/O.  Rule modules of the proxy bring config classes of their own,
made the same way (see `key`).
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from attrs import frozen

from clinfra.keys import (
    Bytes,
    Endpoint,
    Limits,
    Pattern,
    Processes,
    Seconds,
    key,
    table,
)
from clinfra.proxy_config import (
    CacheConfig,
    CheckConfig,
    ModuleConfig,
    PoolConfig,
    ProxyConfig,
    RouteConfig,
    SpoolConfig,
)

__all__ = [
    "AdminConfig",
    "BlobConfig",
    "Bytes",
    "CacheConfig",
    "CheckConfig",
    "Config",
    "Endpoint",
    "ImageConfig",
    "Limits",
    "LoggingConfig",
    "ModuleConfig",
    "Pattern",
    "PoolConfig",
    "Processes",
    "ProxyConfig",
    "RouteConfig",
    "Seconds",
    "SpoolConfig",
    "key",
    "table",
]


@frozen
class BlobConfig:
    """The blob store: one replica of one bucket."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("tcp:8081:interface=127.0.0.1"),), "Where the blob store listens."
    )
    cluster_file: str = key(
        "", "The original's cluster JSON; empty means a cluster of this replica alone."
    )
    replica: str = key(
        "",
        "Name of this replica in the cluster file; empty means a router: it keeps"
        " nothing itself.",
    )
    index: str = key("sqlite", 'Index module; "sqlite".', choices=("sqlite",))
    store: str = key(
        "volume",
        'How bytes are kept: "volume", or "files", one for each as the original did.',
        choices=("volume", "files"),
    )
    path: str = key(
        "",
        "Directory of the files, possibly an original replica's to be taken over; empty"
        " means one in data_dir.",
    )
    original_index: str = key(
        "", 'SQLite file of that original replica; empty means "_index" in path.'
    )
    ttl: Seconds | None = key(
        None, "Time to live of blobs put without one; absent means for ever."
    )
    serve_deleted: bool = key(
        False, "Serve deleted blobs until purged, as the original did."
    )
    max_age: Seconds = key(
        Seconds(3600),
        "Longest time caches are told to keep a blob: it can be replaced or deleted.",
    )
    max_clock_skew: Seconds = key(
        Seconds(300), "Stamps further in the future than this are refused."
    )
    max_blob_bytes: Bytes = key(Bytes(5 << 30), "Largest blob.")
    min_free_bytes: Bytes = key(
        Bytes(64 << 20), "Free space below which PUT answers 507; deletes still work."
    )
    volume_bytes: Bytes = key(
        Bytes(1 << 30), "Size at which a volume is sealed.", least=1 << 20
    )
    cache_bytes: Bytes = key(
        Bytes(64 << 20), "Memory for the index rows and small blobs read most."
    )
    read_workers: Processes = key(
        Processes(0),
        'Processes that answer GET and HEAD beside the main one, a number or "auto".',
        most=1024,
    )
    purge_interval: Seconds = key(Seconds(60), "Time between purges.")
    expiration_delay: Seconds = key(
        Seconds(86400), "How long an expired blob can still be undeleted."
    )
    compare_interval: Seconds = key(
        Seconds(300),
        "Between two comparisons with every other replica, about.",
        least=1,
        most=86400,
    )
    tombstone_time: Seconds = key(
        Seconds(10 * 86400),
        "How long deletes are remembered, at least, for those that cannot be compared"
        " with: original replicas; and how long changes are kept for replicas that are"
        " away.",
        least=60,
    )
    rejoin: str = key(
        "prove",
        "What a replica does that was away for longer than deletes are remembered:"
        ' "prove" asks others what was deleted before it serves its blobs, "trust"'
        " does not.",
        choices=("prove", "trust"),
    )
    parked_retry: Seconds = key(
        Seconds(3600),
        "Until a change that another replica refused is sent to it again.",
        least=1,
    )
    longest_pause: Seconds = key(
        Seconds(30),
        "Longest pause before changes are sent again to a replica that fails.",
        least=1,
        most=3600,
    )
    scrub_interval: Seconds = key(
        Seconds(30 * 86400),
        "From the end of reading all blobs for damage to doing so again; 0 is never.",
    )
    scrub_rate: Bytes = key(
        Bytes(8 << 20), "Bytes a second that are read for it.", least=1
    )
    compat_admin_get: bool = key(
        False, "Let any machine set off purges and syncs by GET, as the original did."
    )
    console: bool = key(
        True, "Show the cluster to browsers at /_console, as the original did."
    )
    limits: Limits = table(Limits, "What the blob listener accepts.")


@frozen
class ImageConfig:
    """The image service."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("tcp:8082:interface=127.0.0.1"),), "Where the image service listens."
    )
    blob_url: str = key(
        "",
        "Where results go: http://HOST:PORT of a blob service, file:///DIRECTORY or"
        " s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION; empty means the blob"
        " store in this process.",
    )
    sizes: tuple[str, ...] = key(
        ("50x50c", "300x300", "600x450"), "Sizes made when a request names none."
    )
    quality: int = key(70, "JPEG quality when a request names none.", least=1, most=100)
    ttl: Seconds = key(Seconds(7776000), "Time to live of results (90 days).")
    response: str = key(
        "checksum",
        "Answer when a request names none: none, checksum or info.",
        choices=("none", "checksum", "info"),
    )
    formats: tuple[str, ...] = key(
        ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIC", "TIFF", "BMP"),
        "Formats accepted; HEIC only where pillow-heif is installed.",
    )
    max_bytes: Bytes = key(Bytes(32 << 20), "Largest upload.")
    max_width: int = key(7000, "Widest image accepted, in pixels.", least=1)
    max_height: int = key(7000, "Highest image accepted, in pixels.", least=1)
    max_pixels: int = key(50_000_000, "Most pixels accepted.", least=1)
    max_scans: int = key(64, "Most scans of a progressive JPEG.", least=1)
    max_memory: Bytes = key(
        Bytes(250_000_000),
        "Most memory that decoding one image may take, as far as that can be told.",
        least=64 << 20,
    )
    max_frames: int = key(
        200, "Most frames of an animation that is kept; else its first.", least=1
    )
    max_film_pixels: int = key(
        100_000_000, "Most pixels of all its frames together.", least=1
    )
    max_sizes: int = key(16, "Most sizes in one request.", least=1)
    max_size_pixels: int = key(16_000_000, "Most pixels of one result.", least=1)
    front_workers: Processes = key(
        Processes(0),
        'Processes that take requests, a number or "auto"; 0: the main process does.',
        most=1024,
    )
    workers: int = key(
        0, "Processes that make pictures, in all; 0 means one per core.", most=1024
    )
    worker_bytes: Bytes = key(
        Bytes(1 << 30), "Memory one worker may use.", least=64 << 20
    )
    worker_timeout: Seconds = key(Seconds(10), "Time one image may take.", least=0.1)
    worker_jobs: int = key(1000, "Images after which a worker is replaced.", least=1)
    queue: int = key(
        64,
        "Work waiting for a worker before 503, in photographs of 12 megapixels.",
        least=1,
    )
    publish_exif: bool = key(
        True, "Keep EXIF in the info as the original did; GPS and serials never."
    )
    save_bad_path: str = key("", "Directory for uploads that could not be read.")
    save_bad_bytes: Bytes = key(Bytes(256 << 20), "Most bytes kept there.")
    keep: bool = key(
        True,
        "Keep originals, so that more can be made of them on demand, when a request"
        " does not say.",
    )
    mezzanine: str = key(
        "1600x1600_q-85,900x900_q-92",
        "Recipes of what is kept beside a larger original, largest first, with commas"
        " between: others are made quickly of the smallest that is large enough.",
    )
    recipes: tuple[str, ...] | None = key(
        None,
        "Recipes that anybody may ask for, in any format; absent means those in sizes.",
    )
    presets: Mapping[str, str] = key(
        attrs.Factory(dict),
        'Recipes by names that anybody may ask for: { card = "600x450c_webp" }.',
    )
    auto_formats: tuple[str, ...] = key(
        ("avif", "webp"), 'What "auto" may become for those who accept it, best first.'
    )
    signing_keys: tuple[str, ...] = key(
        (),
        "Secrets for signed addresses: the first signs, all verify.",
        secret=True,
    )
    signing_keys_file: str = key(
        "", "File with such secrets, one in each line; they come before signing_keys."
    )
    rendition_ttl: Seconds = key(
        Seconds(30 * 86400),
        "Time to live of what was made on demand; never longer than the original's.",
        least=1,
    )
    max_age: Seconds = key(
        Seconds(7 * 86400), "Longest time caches are told to keep a picture."
    )
    fetch_hosts: tuple[str, ...] = key(
        (),
        'Hosts that /fetch/ may get pictures of: "host", "host:port" or'
        ' "*.example.com"; none switches it off.',
    )
    fetch_timeout: Seconds = key(
        Seconds(10), "Time one fetch may take in all.", least=0.1
    )
    fetch_ttl: Seconds = key(
        Seconds(86400), "How long what was fetched counts as fresh.", least=1
    )
    gallery: str = key(
        "local",
        "Who gets the page at /, and through it any recipe: local, which is browsers"
        " on this machine (also behind a proxy that does not tell of itself), open or"
        " off.",
        choices=("local", "open", "off"),
    )
    limits: Limits = table(Limits, "What the image listener accepts.")


@frozen
class AdminConfig:
    """Console, health, status and purge."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("tcp:8090:interface=127.0.0.1"),), "Where the admin pages listen."
    )
    metrics: bool = key(True, "Count every request, for Prometheus at /metrics.")
    actions: bool = key(
        True, "Purges, maintenance and what else changes something can be asked for."
    )
    hosts: tuple[str, ...] = key(
        (),
        "Names by which browsers and programs reach the admin pages, besides addresses,"
        " localhost and the name of this machine.",
    )
    token: str = key(
        "",
        "Secret of operators, 16 characters at least: to be sent as a bearer token, or"
        " as the password of any user, for everything but /health.",
        secret=True,
    )
    token_file: str = key("", "File with that secret, instead of token.")
    allow_remote: bool = key(
        False,
        "Listen beyond this machine without a token; else that is refused at start.",
    )
    limits: Limits = table(Limits, "What the admin listener accepts.")


@frozen
class LoggingConfig:
    """Access log and events."""

    format: str = key("text", "text or json.", choices=("text", "json"))
    level: str = key(
        "info",
        "debug, info, warn, error or critical.",
        choices=("debug", "info", "warn", "error", "critical"),
    )
    access: bool = key(True, "One line per request.")
    file: str = key("", "File to append to; empty means standard output.")
    syslog: str = key(
        "",
        'Where syslog listens, instead of a file: "/dev/log", or "udp:HOST:PORT".',
    )
    syslog_facility: str = key(
        "daemon",
        "Facility of what is sent there.",
        choices=("user", "daemon", *(f"local{number}" for number in range(8))),
    )
    trace: bool = key(
        False,
        "Give requests ids (W3C traceparent, X-Request-Id) that go along to whoever is"
        " asked because of them, and show them in the access log; JSON always does.",
    )
    trace_from: tuple[str, ...] = key(
        (
            *("127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
            "fc00::/7",
        ),
        "Networks of clients whose ids are taken; others get new ones.",
    )


@frozen
class Config:
    """The whole configuration; a product that is None is not started."""

    data_dir: str = key("clinfra-data", "Where everything that must last is kept.")
    stop_timeout: Seconds = key(
        Seconds(10), "How long requests in flight may take to finish at stop."
    )
    blob: BlobConfig | None = table(BlobConfig, "The blob store.")
    image: ImageConfig | None = table(ImageConfig, "The image service.")
    proxy: ProxyConfig | None = table(ProxyConfig, "The caching reverse proxy.")
    admin: AdminConfig | None = table(AdminConfig, "Console, health, status and purge.")
    logging: LoggingConfig = table(LoggingConfig, "Access log and events.")
