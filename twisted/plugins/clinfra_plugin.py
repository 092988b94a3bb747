"""What twistd sees of clinfra: names only, so that no command imports it unasked."""

from twisted.application.reactors import Reactor
from twisted.application.service import ServiceMaker

clinfra = ServiceMaker(
    "clinfra",
    "clinfra.tap",
    "Blob store, image service and caching reverse proxy.",
    "clinfra",
)

lean = Reactor(
    "clinfra",
    "clinfra.web.reactor",
    "epoll with a lean poll loop, for busy clinfra servers.",
)
