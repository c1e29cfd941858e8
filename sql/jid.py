"""XMPP addresses (JIDs) in the normalized form in which servers compare them: two spellings of one address are equal.

By RFC 6122, like the servers in use: nodeprep for the local part; nameprep, and Unicode instead of punycode, for the
domain.
"""

from __future__ import annotations

import re
from encodings.idna import ToASCII, ToUnicode, dots, nameprep

LONGEST_PART_BYTES = 1023
FORBIDDEN_IN_LOCAL_PART = re.compile("[\0-\x20\x7f\"&'/:<>@]")  # by nodeprep, beyond nameprep
HOST_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")


class BadJid(ValueError):
    """Not a valid JID."""


def bare_jid(text: str) -> str:
    """The bare JID, local@domain without a resource, normalized. Raises BadJid."""
    local, _, rest = text.partition("@")
    try:
        local = nameprep(local)
    except UnicodeError as error:
        raise BadJid(str(error)) from None
    if not local or len(local.encode()) > LONGEST_PART_BYTES or FORBIDDEN_IN_LOCAL_PART.search(local):
        raise BadJid("invalid JID local part")
    return f"{local}@{domain(rest)}"


def domain(text: str) -> str:
    """The domain, normalized. Raises BadJid."""
    try:
        labels = [nameprep(label) for label in dots.split(text.removesuffix("."))]
        labels = [ToUnicode(label) if label.startswith("xn--") else label for label in labels]
        is_valid = all(HOST_LABEL.fullmatch(ToASCII(label).decode()) for label in labels)
    except UnicodeError as error:
        raise BadJid(str(error)) from None
    if not is_valid or len(text.encode()) > LONGEST_PART_BYTES:
        raise BadJid("invalid JID domain")
    return ".".join(labels)
