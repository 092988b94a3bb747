"""What `image.blob_url` may say."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import stores
from clinfra.image.store_urls import DirectoryUrl, S3Url, parse_store_url
from clinfra.image.stores import check_url


class StoreUrlTests(SynchronousTestCase):
    """URLs, and what is wrong with them."""

    def test_blob_service(self) -> None:
        """An http URL is for the blob service's client."""
        for text in ("http://10.0.0.5:8081", "http://[::1]:8081/below/"):
            self.assertIsNone(parse_store_url(text))
            self.assertEqual([], check_url(text))
        self.assertEqual([], check_url(""))

    def test_directory(self) -> None:
        """A directory is absolute; its URL is percent-decoded."""
        for text in (
            "file:///srv/a%20b",
            "file://localhost/srv/a%20b",
            "file:/srv/a%20b",
        ):
            self.assertEqual(DirectoryUrl("/srv/a b"), parse_store_url(text))

    def test_amazon(self) -> None:
        """Without an endpoint it is Amazon's, in the region of URL or environment."""
        url = parse_store_url("s3://pictures/a/b/")

        assert isinstance(url, S3Url)
        self.assertEqual(("pictures", "a/b/", ""), (url.bucket, url.prefix, url.region))
        self.assertEqual("s3.us-east-1.amazonaws.com", url.at("").authority)
        self.assertEqual("s3.eu-west-1.amazonaws.com", url.at("eu-west-1").authority)
        said = parse_store_url("s3://pictures?region=sa-east-1")
        assert isinstance(said, S3Url)
        self.assertEqual("sa-east-1", said.at("eu-west-1").region)

    def test_endpoint(self) -> None:
        """Another endpoint, with TLS and without; usual ports are not said."""
        for endpoint, authority, port, tls in (
            ("http://127.0.0.1:9000", "127.0.0.1:9000", 9000, False),
            ("https://s3.example.net/", "s3.example.net", 443, True),
            ("http://s3.example.net", "s3.example.net", 80, False),
            ("https://[::1]:9000", "[::1]:9000", 9000, True),
        ):
            url = parse_store_url(f"s3://pictures?endpoint={endpoint}")
            assert isinstance(url, S3Url)
            self.assertEqual((port, tls), (url.port, url.tls))
            self.assertEqual(authority, url.at("").authority)

    def test_wrong(self) -> None:
        """Whatever else is said in one line, with the key, and without secrets."""
        for text in (
            *("ftp://x/", "nonsense", "https://x", "/srv", "http://", "http://x:99999"),
            *("file://srv/a", "file:a", "file:///a?b", "file:///a#b", "file:///a%00"),
            *("s3://", "s3://b", "s3://Big/", "s3://b..?", "s3://key:secret@bucket/"),
            *("s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket?ttl=1"),
            *("s3://bucket?region=a&region=b", "s3://bucket?region=A/B"),
            *("s3://bucket?endpoint=ftp://x", "s3://bucket?endpoint=https://x/path"),
            *("s3://bucket?endpoint=https://a:b@x", "s3://bucket?endpoint="),
            *("http://[", "file:///a b", "file:///a\n"),
        ):
            problems = check_url(text)
            self.assertEqual(1, len(problems), text)
            self.assertTrue(problems[0].startswith("image.blob_url: "), text)
            self.assertNotIn("\n", problems[0])
            self.assertNotIn("secret", problems[0])

    def test_extra(self) -> None:
        """Without its library S3 is refused, with how to get it; others are not."""
        self.patch(stores, "find_spec", lambda name: None)

        (problem,) = check_url("s3://bucket")
        self.assertIn("pip install 'clinfra[s3]'", problem)
        self.assertEqual([], check_url("file:///srv"))
