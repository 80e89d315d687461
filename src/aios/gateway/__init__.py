"""The gateway: the kernel's calls over HTTP, in OpenAI's shapes and in our own. Knows the kernel by its door only."""

from .app import create_app
from .server import bind, serve, url_of

__all__ = ["bind", "create_app", "serve", "url_of"]
