"""Names of sources that are safe to show: no keys, user names or passwords."""

from __future__ import annotations

import html
import re
from urllib.parse import urlsplit

HIDDEN = "***"
"""What stands in the place of a value that may be secret."""

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_FILE_NAME = re.compile(r"\.(tiff?|png|jpe?g|webp|gif|jp2|vrt|json|pmtiles|mbtiles)$", re.I)
_ASSIGNED = re.compile(r"((?:^|[;,&])[^=;,&{}/]+=)[^;,&{}/]+")
_LONG = re.compile(r"[A-Za-z0-9._~%+=-]{32,}")
_MIXED = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[A-Za-z0-9_~%+=-]{16,}")


def safe_url(url: str) -> str:
    """Return `url`, or a URL template, without user info, query values and key-like parts."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if scheme == "file":
        return rest
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    path = "/".join(_safe_segment(segment) for segment in parts.path.split("/"))
    query = "&".join(_safe_parameter(item) for item in parts.query.split("&"))
    return f"{scheme}://{host}{path}" + (f"?{query}" if query else "")


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
    """Return the text of an attribution, which is often HTML, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^<>]*>", "", markup)).split())
