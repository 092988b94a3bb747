"""Every key of the configuration, its type, default and one sentence.

The classes here are the reference: `etc/clinfra.toml` is checked against them and
`--help` is made of them.  Reading files, merging and checking is `settings.py`;
nothing here does I/O.  Rule modules of the proxy bring config classes of their own,
made the same way (see `key`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NewType

import attrs
from attrs import frozen

Seconds = NewType("Seconds", float)
"""A duration; in files a number of seconds or text: "500ms", "30s", "2h", "7d"."""

Bytes = NewType("Bytes", int)
"""A size; in files a number of bytes or text such as "16KiB", "1GiB", "2MB"."""

Pattern = NewType("Pattern", str)
"""A regular expression (Python's `re`), compiled when the configuration is read."""

Endpoint = NewType("Endpoint", str)
"""A Twisted server endpoint string, e.g. "tcp:8080:interface=127.0.0.1"."""


def key(
    default: Any,
    doc: str,
    *,
    choices: tuple[str, ...] = (),
    least: float = 0,
    most: float | None = None,
    secret: bool = False,
) -> Any:
    """Return an attrs field for one configuration key.

    Args:
        default: what holds when the key is absent; lists are given as tuples.
        doc: the one sentence of `etc/clinfra.toml`.
        choices: the only texts allowed; none means any.
        least: smallest number allowed.
        most: largest number allowed, if any.
        secret: never shown.
    """
    metadata = {"doc": doc, "choices": choices, "least": least, "most": most}
    return attrs.field(default=default, metadata=metadata, repr=not secret)


def table(factory: type[Any], doc: str) -> Any:
    """Return an attrs field for a sub-table whose class has defaults for every key."""
    return attrs.field(factory=factory, metadata={"doc": doc})


@frozen
class Limits:
    """What one listener accepts; a slow or hostile client costs no more than this."""

    head_bytes: Bytes = key(
        Bytes(16384), "Longest request line plus header fields.", least=1024
    )
    header_count: int = key(100, "Most header fields in a request.", least=1)
    body_bytes: Bytes = key(Bytes(5 << 30), "Largest request body.")
    buffer_bytes: Bytes = key(
        Bytes(262144),
        "Bytes kept in memory for a slow reader or writer, each way.",
        least=1024,
    )
    pipeline_depth: int = key(16, "Most requests waiting on one connection.", least=1)
    connections: int = key(10000, "Most client connections at a time.", least=1)
    head_timeout: Seconds = key(Seconds(20), "From first byte to end of the head.")
    body_timeout: Seconds = key(Seconds(60), "Longest silence inside a request body.")
    idle_timeout: Seconds = key(Seconds(75), "Longest wait for the next request.")
    write_timeout: Seconds = key(
        Seconds(60), "Longest time a client may take no bytes of its answer."
    )


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
        "How long deletes are remembered for those that cannot be compared with:"
        " original replicas; and how long changes are kept for replicas that are away.",
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
    workers: int = key(0, "Worker processes; 0 means one per core.")
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
        "1600x1600_q-85",
        "Recipe of what is kept beside a larger original, to make others of quickly.",
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
class CacheConfig:
    """The proxy's cache: a hot tier in this process over memcached."""

    memcached: tuple[str, ...] = key(
        (), 'Servers as "host:port"; none means the hot tier only.'
    )
    memcached_timeout: Seconds = key(
        Seconds(0.25), "An answer later than this is a miss."
    )
    memcached_retry: Seconds = key(Seconds(5), "A dead server is asked again after.")
    hot_bytes: Bytes = key(Bytes(128 << 20), "Memory of the hot tier.")
    hot_object_bytes: Bytes = key(Bytes(1 << 20), "Largest answer in the hot tier.")
    object_bytes: Bytes = key(Bytes(16 << 20), "Largest answer cached at all.")
    grace: Seconds = key(
        Seconds(3600), "How long past freshness an answer is kept for validation."
    )


@frozen
class PoolConfig:
    """A pool of origins."""

    members: tuple[str, ...] = key(
        (), 'Origins as "host:port" or "host:port=weight"; "unix:/path" also.'
    )
    connect_timeout: Seconds = key(Seconds(3), "Time to connect.")
    response_timeout: Seconds = key(Seconds(60), "Longest silence before the head.")
    read_timeout: Seconds = key(Seconds(60), "Longest silence inside the body.")
    attempts: int = key(3, "Tries of one request, the first included.", least=1)
    idle_connections: int = key(64, "Connections kept open for reuse, per member.")
    idle_timeout: Seconds = key(Seconds(4), "How long they are kept.")
    max_connections: int = key(1024, "Most connections per member.", least=1)


@frozen
class RouteConfig:
    """Which requests go to which pool; the first match wins."""

    pool: str = key("", "Name of the pool.")
    match: Pattern = key(Pattern(""), "Regular expression searched in host/path.")
    prefix: str = key("", "Path prefix to match; checked before `match`.")
    strip_prefix: bool = key(False, "Remove `prefix` from the path.")


@frozen
class ModuleConfig:
    """One rule module in the pipeline; further keys are the module's own."""

    use: str = key(
        "", "A built-in's name, a dotted path, a plug-in's name or FILE.py:Class."
    )
    options: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class ProxyConfig:
    """The caching reverse proxy."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("tcp:8080:interface=127.0.0.1"),), "Where the proxy listens."
    )
    default_host: str = key("localhost", "Host of requests that name none.")
    default_port: int = key(
        80, "Port left out of host/path when rules match.", least=1, most=65535
    )
    trusted_proxies: tuple[str, ...] = key(
        (), "Networks whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    rules_dir: str = key("", "Directory of drop-in rule modules (*.py).")
    modules: tuple[ModuleConfig, ...] = key(
        tuple(
            ModuleConfig(use=name)
            for name in (
                "Logger",
                "Welcome",
                "Redirector",
                "HeaderStamper",
                "DirectCache",
                "BlobForwarder",
                "Forwarder",
                "Exceptions",
            )
        ),
        "The rule modules, in order.",
    )
    pools: Mapping[str, PoolConfig] = key(
        attrs.Factory(dict), 'Pools by name; "blob" and "image" are there by default.'
    )
    routes: tuple[RouteConfig, ...] = key(
        (
            RouteConfig(pool="blob", prefix="/blob/", strip_prefix=True),
            RouteConfig(pool="image", prefix="/image/", strip_prefix=True),
        ),
        "Routes, in order.",
    )
    default_pool: str = key("", "Pool of requests that no route matches.")
    cache: CacheConfig = table(CacheConfig, "The cache.")
    limits: Limits = table(Limits, "What the proxy listener accepts.")


@frozen
class AdminConfig:
    """Health, status and purge."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("tcp:8090:interface=127.0.0.1"),), "Where the admin pages listen."
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
    admin: AdminConfig | None = table(AdminConfig, "Health, status and purge.")
    logging: LoggingConfig = table(LoggingConfig, "Access log and events.")
