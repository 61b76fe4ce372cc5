"""The HTTP door: the protocol's routes over HTTP/1.1 by our own listener, and over HTTP/2 by hypercorn."""

from .connection.asgi import AsgiApplication
from .connection.listener import Listener
from .request.request import HttpRequest
from .server import HttpServer, serve_http
from .settings import HttpSettings

__all__ = ["AsgiApplication", "HttpRequest", "HttpServer", "HttpSettings", "Listener", "serve_http"]
