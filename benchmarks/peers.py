"""How clinfra and every peer are configured and started.

Peers run as they come, with what a careful administrator would add: keep-alive to the
origin, open files kept and no access log for nginx.  clinfra runs on its
defaults, access log included.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

from benchmarks import load
from benchmarks.servers import Server, Stage, free_port

BODIES = {
    "1k": Random(1).randbytes(1024),
    "20k": Random(20).randbytes(20480),
}
"""What the origin serves, by name, under /hot/ (cacheable) and /pass/ (not)."""

_NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/{name}.pid;
error_log stderr;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    open_file_cache max=20000;
    keepalive_requests 100000000;
    default_type application/octet-stream;
    client_body_temp_path {directory}/{name}-body;
    proxy_temp_path {directory}/{name}-proxy;
    fastcgi_temp_path {directory}/{name}-fastcgi;
    uwsgi_temp_path {directory}/{name}-uwsgi;
    scgi_temp_path {directory}/{name}-scgi;
    {http}
}}
"""

_ORIGIN = """\
server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {root};
    location /hot/ {{ add_header Cache-Control "public, max-age=3600"; }}
    location /pass/ {{ add_header Cache-Control "no-store"; }}
    location = /counted {{ stub_status; }}
}}
"""

_FRONT = """\
proxy_cache_path {directory}/{name}-cache keys_zone=hot:10m;
upstream origin {{
    server 127.0.0.1:{origin};
    keepalive 64;
    keepalive_requests 100000000;
}}
server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location /hot/ {{ proxy_pass http://origin; proxy_cache hot; }}
    location /pass/ {{ proxy_pass http://origin; }}
}}
"""

_VARNISH = """\
vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{origin}"; }}
sub vcl_recv {{
    if (req.url ~ "^/pass/") {{ return (pass); }}
}}
"""

_VARNISH_RULE = """\
    if (req.http.host + req.url ~ "{search}") {{
        return (synth(752, "{target}"));
    }}
"""

_NGINX_MEMCACHED = """\
upstream store {{
    server 127.0.0.1:{memcached};
    keepalive 64;
}}
server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ set $memcached_key $request_uri; memcached_pass store; }}
}}
"""

_CLINFRA_PROXY = """\
[logging]
file = "{directory}/clinfra-proxy-access.log"
[proxy]
listen = ["tcp:{port}:interface=127.0.0.1"]
default_pool = "origin"
[proxy.pools.origin]
members = ["127.0.0.1:{origin}"]
"""

_CLINFRA_BLOB = """\
[logging]
file = "{directory}/clinfra-blob-access.log"
[blob]
listen = ["tcp:{port}:interface=127.0.0.1"]
"""


def origin(stage: Stage) -> Server:
    """Start the origin of all proxies: nginx serving files, on the load's core."""
    root = stage.directory / "www"
    for folder in ("hot", "pass"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name, body in BODIES.items():
            (root / folder / name).write_bytes(body)
    port = free_port()
    http = _ORIGIN.format(port=port, root=root)
    return _nginx(stage, "origin", http, port, on_load_core=True)


def answered_by(origin: Server) -> int:
    """Return how many requests the origin has answered, this question included."""
    numbers = load.ask(origin, "GET", "/counted").body.split()
    # "... server accepts handled requests 5 5 17 Reading: ..."
    return int(numbers[numbers.index(b"requests") + 3])


def nginx_static(stage: Stage, root: Path) -> Server:
    """Start nginx serving the files below `root`."""
    port = free_port()
    http = f"server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}"
    return _nginx(stage, "nginx static", http, port)


def nginx_front(stage: Stage, origin_port: int) -> Server:
    """Start nginx as a caching proxy: /hot/ is cached, /pass/ is not."""
    port = free_port()
    http = _FRONT.format(
        directory=stage.directory, name="nginx-front", origin=origin_port, port=port
    )
    return _nginx(stage, "nginx front", http, port)


def varnish(stage: Stage, origin_port: int) -> Server:
    """Start Varnish, which caches /hot/ and passes /pass/."""
    port = free_port()
    vcl = stage.directory / "varnish.vcl"
    vcl.write_text(_VARNISH.format(origin=origin_port))
    # Its shared-memory log is written with every request and wants a tmpfs.
    home = Path("/dev/shm") / f"clinfra-bench-varnish-{os.getpid()}-{port}"
    argv = ["varnishd", "-F", "-j", "none", "-n", str(home), "-f", str(vcl)]
    argv += ["-a", f"127.0.0.1:{port}", "-s", "malloc,256m"]
    stage.remove_at_end(home)
    return stage.start("Varnish", argv, port)


def varnish_ruled(stage: Stage, origin_port: int, rules: int) -> Server:
    """Start Varnish with so many rules, and varnishncsa that writes its access log."""
    port = free_port()
    tests = "".join(
        _VARNISH_RULE.format(search=search, target=target)
        for search, target in _rules(rules)
    )
    vcl = stage.directory / "varnish-ruled.vcl"
    vcl.write_text(
        _VARNISH.format(origin=origin_port) + f"sub vcl_recv {{\n{tests}}}\n"
    )
    home = Path("/dev/shm") / f"clinfra-bench-varnish-{os.getpid()}-{port}"
    stage.remove_at_end(home)
    log = stage.directory / "varnish-access.log"
    daemon = f"varnishd -F -j none -n {home} -f {vcl} -a 127.0.0.1:{port}"
    script = f"{daemon} -s malloc,256m & exec varnishncsa -t 20 -n {home} -a -w {log}"
    return stage.start("Varnish ruled", ["sh", "-c", script], port)


def memcached(stage: Stage, name: str) -> Server:
    """Start a memcached on the load's core."""
    port = free_port()
    argv = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "1"]
    argv += ["-m", "256", "-c", "4096", "-u", "root"]
    return stage.start(f"memcached {name}", argv, port, on_load_core=True)


def nginx_memcached(stage: Stage, memcached_port: int) -> Server:
    """Start nginx that answers with what memcached has under the request's target."""
    port = free_port()
    http = _NGINX_MEMCACHED.format(memcached=memcached_port, port=port)
    return _nginx(stage, "nginx memcached", http, port)


def plain_site(stage: Stage, origin_port: int) -> Server:
    """Start stock twisted.web: Resource at /hot/, ReverseProxyResource at /pass/."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.plain_site", str(port), str(origin_port)]
    return stage.start("twisted.web", argv, port)


def file_store(
    stage: Stage, root: Path, threads: int, *, on_load_core: bool = False
) -> Server:
    """Start the store that keeps one synced file per blob, so many at a time."""
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.file_store"]
    argv += [str(port), str(root), str(threads)]
    name = f"file store {threads}{' second' if on_load_core else ''}"
    return stage.start(name, argv, port, on_load_core=on_load_core)


def clinfra_proxy(stage: Stage, origin_port: int) -> Server:
    """Start clinfra's proxy alone in front of the origin."""
    port = free_port()
    text = _CLINFRA_PROXY.format(
        directory=stage.directory, port=port, origin=origin_port
    )
    return _clinfra(stage, "clinfra proxy", text, port)


def clinfra_ruled(
    stage: Stage, origin_port: int, rules: int, *, workers: int = 0
) -> Server:
    """Start clinfra's proxy with so many redirects, none of which is wanted here.

    Args:
        workers: on both cores; none means one process on the server's.
    """
    port = free_port()
    text = _CLINFRA_PROXY.format(
        directory=stage.directory, port=port, origin=origin_port
    )
    redirects = [[search, ".*", target] for search, target in _rules(rules)]
    text = text.replace("[proxy]\n", f"[proxy]\nworkers = {workers}\n")
    text += f"""
[[proxy.modules]]
use = "Logger"
[[proxy.modules]]
use = "Redirector"
redirects = {json.dumps(redirects)}
[[proxy.modules]]
use = "DirectCache"
[[proxy.modules]]
use = "Forwarder"
"""
    name = f"clinfra {rules} rules {workers} workers"
    return _clinfra(stage, name, text, port, on_both_cores=workers > 0)


def clinfra_observed(stage: Stage, origin_port: int, *, observed: bool) -> Server:
    """Start clinfra's proxy with its access log and metrics, or with neither."""
    port = free_port()
    text = _CLINFRA_PROXY.format(
        directory=stage.directory, port=port, origin=origin_port
    )
    if observed:
        text += f'[admin]\nlisten = ["tcp:{free_port()}:interface=127.0.0.1"]\n'
    else:
        text = text.replace("[logging]\n", "[logging]\naccess = false\n")
    name = "observed" if observed else "unobserved"
    return _clinfra(stage, f"clinfra {name}", text, port)


def clinfra_with_series(stage: Stage, members: int) -> Server:
    """Start clinfra with a pool of so many members; the server is its admin pages."""
    port = free_port()
    addresses = [
        f"192.0.2.{1 + number % 250}:{1 + number}" for number in range(members)
    ]
    text = f"""\
[proxy]
listen = ["tcp:{free_port()}:interface=127.0.0.1"]
default_pool = "origin"
[proxy.pools.origin]
members = {json.dumps(addresses)}
[admin]
listen = ["tcp:{port}:interface=127.0.0.1"]
"""
    return _clinfra(stage, "clinfra series", text, port)


def clinfra_over_memcached(
    stage: Stage, origin_port: int, memcached_port: int
) -> Server:
    """Start clinfra's proxy with memcached, and no memory of its own."""
    port = free_port()
    text = _CLINFRA_PROXY.format(
        directory=stage.directory, port=port, origin=origin_port
    )
    text += f"""
[proxy.cache]
memcached = ["127.0.0.1:{memcached_port}"]
hot_bytes = 0
"""
    return _clinfra(stage, "clinfra memcached", text, port)


def clinfra_crowded(
    stage: Stage,
    origin_port: int,
    *,
    connections: int = 10_000,
    memcached: int | None = None,
    name: str = "only",
) -> Server:
    """Start clinfra's proxy for many clients at a time."""
    port = free_port()
    text = _CLINFRA_PROXY.format(
        directory=stage.directory, port=port, origin=origin_port
    )
    if memcached is not None:
        text += f'[proxy.cache]\nmemcached = ["127.0.0.1:{memcached}"]\n'
    # The same page on either port.
    text = text.replace("[proxy]\n", f"[proxy]\ndefault_port = {port}\n")
    text += f"[proxy.limits]\nconnections = {connections}\n"
    return _clinfra(stage, f"clinfra crowded {name}", text, port)


def _rules(count: int) -> Iterator[tuple[str, str]]:
    """Yield what to search in host and path, and where that would redirect to."""
    for number in range(count):
        kind = number % 3
        search = (
            f"^shop{number}[.]example[.]com/"
            if kind == 0
            else f"/old-{number}/(a|b)"
            if kind == 1
            else f"/item-{number}-[0-9]+[.]html$"
        )
        yield search, f"http://www.example.com/{number}"


def clinfra_blob(stage: Stage, *, read_workers: int = 0) -> Server:
    """Start clinfra's blob store alone, on a fresh data directory.

    Args:
        read_workers: on both cores; none means one process on the server's.
    """
    port = free_port()
    text = _CLINFRA_BLOB.format(directory=stage.directory, port=port)
    text += f"read_workers = {read_workers}\n"
    name = f"clinfra blob {read_workers} readers" if read_workers else "clinfra blob"
    return _clinfra(stage, name, text, port, on_both_cores=read_workers > 0)


def clinfra_replica(
    stage: Stage,
    name: str,
    ports: Mapping[str, int],
    data: Path,
    *,
    on_load_core: bool = False,
) -> Server:
    """Start one replica of a bucket on a data directory, which is left as it is.

    Args:
        ports: of all replicas of the bucket, by name.
    """
    cluster = stage.directory / "cluster.json"
    bucket = {"replicas": sorted(ports), "write_weight": 1}
    replicas = {
        peer: {"ip": "127.0.0.1", "port": port, "read_weight": 1}
        for peer, port in ports.items()
    }
    client = {"clusters": [[bucket]], "replicas": replicas}
    cluster.write_text(json.dumps({"clblob": {"client": client}}))
    text = _CLINFRA_BLOB.format(directory=stage.directory, port=ports[name])
    text += f'cluster_file = "{cluster}"\nreplica = "{name}"\n'
    argv = _clinfra_argv(stage, f"replica-{name}", text, data)
    title = f"replica {name}"
    return stage.start(title, argv, ports[name], on_load_core=on_load_core)


def clinfra_purging(stage: Stage, data: Path) -> Server:
    """Start a replica that is alone, and purges what has expired when it is asked."""
    port = free_port()
    text = _CLINFRA_BLOB.format(directory=stage.directory, port=port)
    text += "expiration_delay = 0\npurge_interval = 86400\n"
    argv = _clinfra_argv(stage, "purging", text, data)
    return stage.start("purging", argv, port)


def _nginx(
    stage: Stage, name: str, http: str, port: int, *, on_load_core: bool = False
) -> Server:
    file_name = name.replace(" ", "-")
    text = _NGINX.format(
        directory=stage.directory,
        name=file_name,
        user="user root;" if os.geteuid() == 0 else "",
        http=http,
    )
    configuration = stage.directory / f"{file_name}.conf"
    configuration.write_text(text)
    argv = ["nginx", "-c", str(configuration), "-p", str(stage.directory)]
    argv += ["-e", "stderr"]
    return stage.start(name, argv, port, on_load_core=on_load_core)


def _clinfra(
    stage: Stage, name: str, text: str, port: int, *, on_both_cores: bool = False
) -> Server:
    file_name = name.replace(" ", "-")
    data = stage.directory / f"{file_name}-data"
    stage.remove_now(data)
    argv = _clinfra_argv(stage, file_name, text, data)
    return stage.start(name, argv, port, on_both_cores=on_both_cores)


def _clinfra_argv(stage: Stage, file_name: str, text: str, data: Path) -> list[str]:
    configuration = stage.directory / f"{file_name}.toml"
    configuration.write_text(text)
    twistd = Path(sys.executable).with_name("twistd")
    argv = [str(twistd), "-n", "--pidfile=", "--reactor=clinfra", "clinfra"]
    return [*argv, "--config", str(configuration), "--data-dir", str(data)]
