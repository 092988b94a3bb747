"""The proxy as a twisted.web resource that can be mounted anywhere."""

from __future__ import annotations

from clinfra.proxy.pipeline import Pipeline
from clinfra.web.exchange import IExchange
from clinfra.web.resource import Resource


class ProxyResource(Resource):
    """Hands every request below it to the pipeline.

    In our own Site the pipeline is the lane as well, which costs less; in a stock Site,
    or below another resource, this does the same.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self._pipeline = pipeline

    def handle(self, exchange: IExchange) -> None:
        """Answer an exchange."""
        self._pipeline.lane(exchange)
