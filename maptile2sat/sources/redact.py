"""Names of sources that are safe to show: no keys, user names or passwords."""

from __future__ import annotations

import hashlib
import html
import logging
import re

HIDDEN = "***"
"""What stands in the place of a value that may be secret."""

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_FILE_NAME = re.compile(r"\.(tiff?|png|jpe?g|webp|gif|jp2|vrt|json|pmtiles|mbtiles)$", re.I)
_ASSIGNED = re.compile(r"((?:^|[;,&])[^=;,&{}/]+=)[^;,&{}/]+")
_LONG = re.compile(r"[A-Za-z0-9._~%+=-]{32,}")
_MIXED = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_~%+=-]{16,}")
_ADDRESS = re.compile(r"([a-z][a-z0-9+]*://)?(?:[^\s/'\"<>()]*)/[^\s'\"<>()]*")
_USER_INFO = re.compile(r"(?![^/:@]*:\d*/)[^/:@?]*:[^?]*@|[^/?@]*@")  # secrets may hold slashes
_PASSING = re.compile(r"key|token|sig|secret|pass|auth|sess|expire|polic|cred|x-(amz|goog)-", re.I)
_SIGNED = frozenset(
    ("se", "st", "sp", "sv", "sr", "spr", "sip", "skoid", "sktid", "skt", "ske", "sks")
)
"""Names of query parameters that say who asks and until when: those of Azure's signatures."""

_CHATTY = (
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.util.retry",
    "urllib3.poolmanager",
    "urllib3.response",
    "urllib3.util.ssl_",
    "urllib3",
    "requests",
    "cachecontrol",
    "cachecontrol.controller",
    "rasterio._env",
    "rasterio._err",
    "rasterio._base",
    "rasterio._io",
    "rasterio.session",
    "rasterio",
)


def safe_url(url: str) -> str:
    """Return `url`, or a URL template, without user info, query values and key-like parts."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if scheme == "file":
        return rest
    netloc, slash, rest = rest.partition("/")
    host = netloc.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}://{host}{_safe_path(slash + rest)}"


def address_mark(address: str) -> str | None:
    """Return a short mark of what an address stands for; None if it is a path of this machine.

    Two maps of one server often differ only in what `safe_url` hides. User info and the parameters
    of keys and signatures do not count, as they change while the map stays. It is too short for
    anything hidden to be found by it.
    """
    scheme, separator, rest = address.strip().partition("://")
    if not separator or scheme.lower() == "file":
        return None
    rest, _, query = rest.partition("#")[0].partition("?")
    rest = rest.removeprefix(_user_info(rest))
    kept = [item for item in query.split("&") if not _says_who(item.partition("=")[0])]
    text = "\n".join([scheme.lower(), rest, *kept])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _says_who(parameter: str) -> bool:
    return parameter.lower() in _SIGNED or _PASSING.search(parameter) is not None


def safe_place(address: str) -> str:
    """Return the address of an object store without user info and query values.

    Unlike a map's, its path holds no keys but names, which are to be shown as they are. Addresses
    may be chained with `::`.
    """
    return "::".join(_safe_link(link) for link in address.split("::"))


def safe_reason(text: str, address: str) -> str:
    """Return what a package of others says of the address of an object store, without secrets."""
    for link in address.split("::"):
        user = _user_info(link.partition("://")[2])
        for secret in filter(None, (user, user.removesuffix("@"), user[:-1].partition(":")[2])):
            text = text.replace(secret, HIDDEN)
    return safe_text(" ".join(text.split()))


def _safe_link(link: str) -> str:
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link
    rest, mark, query = rest.removeprefix(_user_info(rest)).partition("?")
    shown = "&".join(_safe_parameter(item) for item in query.split("&"))
    return f"{scheme}://{rest}{mark}{shown}"


def _user_info(rest: str) -> str:
    """Return what stands before the host in an address without its scheme, with the `@`."""
    found = _USER_INFO.match(rest)
    return found[0] if found else ""


def safe_text(text: str) -> str:
    """Return a log message with all addresses and paths in it made safe."""
    return _ADDRESS.sub(
        lambda match: safe_url(match[0]) if match[1] else _safe_path(match[0]), text
    )


class SafeLog(logging.Filter):
    """Makes the addresses in what other packages log safe."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the message; let every record pass."""
        record.msg, record.args = safe_text(record.getMessage()), None
        record.exc_info = record.exc_text = None  # their texts hold addresses too
        return True


def keep_logs_safe() -> None:
    """Make the packages that handle addresses log them without secrets."""
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if not any(isinstance(known, SafeLog) for known in logger.filters):
            logger.addFilter(SafeLog())


def _safe_path(path: str) -> str:
    """Return the part of an address after the host, made safe."""
    path, mark, query = path.partition("#")[0].partition("?")
    path = "/".join(_safe_segment(segment) for segment in path.split("/"))
    query = "&".join(_safe_parameter(item) for item in query.split("&"))
    return path + mark + query


def _safe_segment(segment: str) -> str:
    """Hide a part of a path that looks like a key."""
    segment = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", segment)
    bare = _PLACEHOLDER.sub("", segment)
    if _FILE_NAME.search(segment):
        return segment
    return HIDDEN if _LONG.fullmatch(bare) or _MIXED.fullmatch(bare) else segment


def _safe_parameter(item: str) -> str:
    """Hide the value of a query parameter, unless it is only a placeholder."""
    name, equals, value = item.partition("=")
    if not equals:
        return HIDDEN if item else ""
    return item if _PLACEHOLDER.fullmatch(value) else f"{name}={HIDDEN}"


def plain_text(markup: str) -> str:
    """Return the text of an attribution, which is often HTML, in one line.

    What cannot be printed is left out: files could not hold halves of UTF-16 pairs, and terminals
    would obey control characters.
    """
    line = " ".join(html.unescape(re.sub(r"<[^<>]*>", "", markup)).split())
    return " ".join("".join(filter(str.isprintable, line)).split())
