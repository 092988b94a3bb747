"""What replicas of our own kind ask each other besides the original's protocol.

============================== =====================================================
request                        answer
============================== =====================================================
GET /_tree                     256 digests of 16 bytes: the branches (see `trees`)
GET /_tree?branch=N            the same of the leaves of a branch
GET /_tree?self=1              {"incarnation", "fenced", "alive"}: see `rejoin`
GET /_tree?first=N&last=M      {"rows": [[name, modified, sha256, size, content type,
                               modified_deleted, deleted], …], "next": leaf or null}
============================== =====================================================

With ``place=C:B`` it is about the names that also live in bucket B of cluster C.  503
says that the trees are not complete yet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import define

from clinfra.blob import parameters
from clinfra.blob.commit import Committer
from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.rejoin import Fence
from clinfra.blob.replica import Replica
from clinfra.blob.topology import Topology
from clinfra.blob.trees import BRANCHES, LEAVES, Place, Tree, leaf_of, pack
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, Overloaded
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Fields

TREE = "_tree"

MAX_ROWS = 2000
"""Rows in one answer, about: leaves are told whole."""


_JSON: Fields = ((b"Content-Type", b"application/json"),)


@define(eq=False)
class Between:
    """Answers other replicas."""

    _topology: Topology
    _replica: Replica
    _committer: Committer
    _workers: Workers
    _fence: Fence

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a request for `TREE`."""
        given = parameters.split(exchange.head.query)
        if "self" in given:
            return Response(200, _JSON, self._fence.told())
        place = self._place(given.get("place"))
        tree = self._tree(place)
        if "first" in given:
            first = _number("first", given["first"], LEAVES)
            last = _number("last", given.get("last"), LEAVES)
            rows, following = await self.rows(first, last, place)
            told = {"rows": [_told(row) for row in rows], "next": following}
            body = json.dumps(told, separators=(",", ":")).encode()
            return Response(200, _JSON, body)
        if "branch" in given:
            digests = tree.leaves(_number("branch", given["branch"], BRANCHES))
        else:
            digests = tree.branches()
        fields = ((b"Content-Type", b"application/octet-stream"),)
        return Response(200, fields, pack(digests))

    def _tree(self, place: Place) -> Tree:
        forest = self._committer.forest
        tree = forest.trees.get(place) if forest is not None else None
        if forest is None or tree is None:
            raise InvalidRequest("There is no such tree")
        if not forest.complete:
            raise Overloaded("The trees are not complete yet", 10)
        return tree

    def _place(self, text: str | None) -> Place:
        if text is None:
            return None
        cluster, _, bucket = text.partition(":")
        return parameters.integer("place", cluster), parameters.integer("place", bucket)

    async def rows(
        self, first: int, last: int, place: Place
    ) -> tuple[list[Row], int | None]:
        """Return the rows of some leaves, and the first leaf that found no room."""
        found: Sequence[Row] = await self._workers.run(
            self._replica.index.leaves, first, last, (first, ""), MAX_ROWS + 1
        )
        following: int | None = None
        if len(found) > MAX_ROWS:
            following = leaf_of(found[-1].name)
            if following == first:
                found = await self._workers.run(self._whole_leaf, first, found)
                following = first + 1 if first < last else None
            else:
                found = [row for row in found if leaf_of(row.name) < following]
        return [row for row in found if self._lives_in(row.name, place)], following

    def _whole_leaf(self, leaf: int, begun: Sequence[Row]) -> Sequence[Row]:
        """Return all rows of a leaf that fills an answer alone.  A reader thread."""
        rows, more = list(begun), begun
        while len(more) > MAX_ROWS:
            after = leaf, rows[-1].name
            more = self._replica.index.leaves(leaf, leaf, after, MAX_ROWS + 1)
            rows += more
        return rows

    def _lives_in(self, name: str, place: Place) -> bool:
        if place is None:
            return True
        try:
            buckets = self._topology.place(name, encoded=True).buckets
        except InvalidRequest:
            return False
        return buckets.get(place[0]) == place[1]


def _number(key: str, value: str | None, limit: int) -> int:
    number = parameters.integer(key, value)
    if not 0 <= number < limit:
        raise InvalidRequest(f"Invalid int value for {key}: {value}")
    return number


def _told(row: Row) -> list[Any]:
    data = row.data
    return [
        row.name,
        *(
            (None, None, None, None)
            if data is None
            else (data.modified, data.sha256.hex(), data.size, data.content_type)
        ),
        row.expiry.modified_deleted,
        row.expiry.deleted,
    ]


def states_in(raw: bytes) -> tuple[dict[str, State], int | None]:
    """Return the rows of an answer, and its next leaf.  Raises ValueError."""
    try:
        told = json.loads(raw)
        states: dict[str, State] = {}
        for name, modified, sha256, size, kind, modified_deleted, deleted in told[
            "rows"
        ]:
            data = None
            if modified is not None:
                data = Data(
                    int(modified), bytes.fromhex(sha256), int(size), 0, str(kind)
                )
            expiry = Expiry(int(modified_deleted), int(deleted))
            states[str(name)] = State(data, expiry)
        following = told["next"]
        return states, None if following is None else int(following)
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"no rows: {error!r}") from error
