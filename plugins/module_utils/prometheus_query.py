# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Asks a Prometheus for the number that a user judges by."""

from __future__ import annotations

import json
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import SSLValidationError, open_url
from ansible_collections.llm_d.multi_engine.plugins.module_utils.prometheus import QueryError, queried


def ask(url: str, query: str, seconds: int = 10) -> float:
    """Return the number that ``query`` gives now.

    :param url: of Prometheus, or of what speaks its API, as this machine reaches it; without ``/api/v1``. A name and
        a password in it are sent, and never shown.
    :raises QueryError: says why there is none.
    """
    place = _shown(url)
    # A user's own URL may hold no scheme at all, which is no connection error.
    if urlsplit(url).scheme not in ("http", "https"):
        raise QueryError(f"{place} is not an address such as http://prometheus.example:9090")
    try:
        answer = open_url(
            f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': query})}",
            headers={"Accept": "application/json"},
            timeout=seconds,
            http_agent="llm_d.multi_engine",
            force_basic_auth="@" in urlsplit(url).netloc,
        ).read()
    except HTTPError as error:
        # Its own words about a query are in the answer.
        answer = error.read()
        if error.code not in (400, 422, 503):
            raise QueryError(f"{place} answers {error.code}") from error
    except (URLError, UrlsConnectionError, SSLValidationError, OSError) as error:
        raise QueryError(f"{place} does not answer: {getattr(error, 'reason', None) or error}") from error
    try:
        return queried(json.loads(answer))
    except ValueError as error:
        raise QueryError(f"{place} does not answer as Prometheus does") from error


def _shown(url: str) -> str:
    """Return ``url`` without what may be a credential."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
