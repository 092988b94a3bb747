"""Welcome: a small page on "/" that says what runs here and how to try it.

Shown only where no route and no default pool lead elsewhere.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape

from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule, Surroundings

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto;
       padding: 0 1rem; color: #222; background: #fff; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
pre { background: #f4f4f4; padding: .8rem 1rem; overflow-x: auto; }
table { border-collapse: collapse; } td { padding: .1rem 1.5rem .1rem 0; }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818; } pre { background: #262626; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>clinfra</title>
<style>{style}</style>
</head>
<body>
<h1>clinfra is running</h1>
<p>Blob storage, image resizing and a caching reverse proxy in one process.
This is the proxy; it sends on:</p>
<table>{routes}</table>
<h2>Try it</h2>
<p>Upload a photograph; it comes back in three sizes:</p>
<pre>curl --data-binary @photo.jpg '{url}/image/photo.jpg?response=info'</pre>
<p>Fetch a size twice; the second time it comes from the cache
(see <code>Age</code> and <code>Cache-Status</code>). NAME is what the upload
answered:</p>
<pre>curl -si {url}/blob/NAME_600x450.jpg -o /dev/null -D -</pre>
<p>Or store anything:</p>
<pre>curl -T notes.txt {url}/blob/notes.txt
curl {url}/blob/NAME</pre>
</body>
</html>
"""

_STYLE_HASH = b64encode(sha256(_STYLE.encode("utf-8")).digest())


class Welcome(RuleModule):
    """Answers "/" when nobody else does."""

    head_only = True
    by_heads = True

    def attach(self, surroundings: Surroundings) -> None:
        """Learn the routes."""
        rows = []
        for route in surroundings.config.routes:
            what = route.prefix or route.match
            rows.append(
                f"<tr><td><code>{escape(what)}</code></td>"
                f"<td>to {escape(route.pool)}</td></tr>"
            )
        self._rows = "".join(rows)

    def forward(self, request: Request) -> Reply | None:
        """Show the page."""
        if request.pool or request.members or request.path != "/":
            return None
        if request.method not in (b"GET", b"HEAD"):
            return None
        authority = (request.head.host or b"localhost").decode("latin-1")
        page = _PAGE.format(
            style=_STYLE,
            routes=self._rows,
            url=escape(f"{request.scheme}://{authority}"),
        )
        return Reply(
            200,
            (
                (b"Content-Type", b"text/html; charset=utf-8"),
                (b"Cache-Control", b"no-store"),
                (
                    b"Content-Security-Policy",
                    b"default-src 'none'; base-uri 'none'; form-action 'none';"
                    b" frame-ancestors 'none'; style-src 'sha256-%b'" % _STYLE_HASH,
                ),
                (b"X-Content-Type-Options", b"nosniff"),
                (b"Referrer-Policy", b"no-referrer"),
            ),
            page.encode("utf-8"),
            served_by="Welcome",
        )
