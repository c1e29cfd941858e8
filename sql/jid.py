"""XMPP addresses in the one form in which servers compare them, so that two spellings are one person.

By RFC 6122, as the servers in use do: nodeprep for the name, nameprep and letters instead of punycode for the domain.
"""

from __future__ import annotations

import re
from encodings.idna import ToASCII, ToUnicode, dots, nameprep

LONGEST_PART_BYTES = 1023
NOT_IN_A_NAME = re.compile("[\0-\x20\x7f\"&'/:<>@]")  # what nodeprep forbids and nameprep does not
HOST_LABEL = re.compile("[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")


class BadJid(ValueError):
    """No such address can be."""


def bare_jid(text: str) -> str:
    """Somebody's address, name@domain without a resource, as servers compare it. Raises BadJid."""
    name, _, rest = text.partition("@")
    try:
        name = nameprep(name)
    except UnicodeError as error:
        raise BadJid(str(error)) from None
    if not name or len(name.encode()) > LONGEST_PART_BYTES or NOT_IN_A_NAME.search(name):
        raise BadJid("a name that cannot be")
    return f"{name}@{domain(rest)}"


def domain(text: str) -> str:
    """A domain as servers compare it. Raises BadJid."""
    try:
        labels = [nameprep(label) for label in dots.split(text.removesuffix("."))]
        labels = [ToUnicode(label) if label.startswith("xn--") else label for label in labels]
        fits = all(HOST_LABEL.fullmatch(ToASCII(label).decode()) for label in labels)
    except UnicodeError as error:
        raise BadJid(str(error)) from None
    if not fits or len(text.encode()) > LONGEST_PART_BYTES:
        raise BadJid("a domain that cannot be")
    return ".".join(labels)
