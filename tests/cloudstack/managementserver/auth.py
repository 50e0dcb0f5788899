"""Who asks: written after the server's own rules, and not after the client under test."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import quote_plus

from .cloud import Account, Cloud
from .errors import unauthenticated


def authenticate(cloud: Cloud, params: Mapping[str, str], wrapper: str) -> Account:
    """The account whose key signed this, or the one refusal there is."""
    account = next((each for each in cloud.accounts if each.api_key == params.get("apiKey")), None)
    if account is None:
        raise unauthenticated(wrapper)
    if params.get("signatureVersion") == "3":
        _check_expiry(cloud, params.get("expires"), wrapper)
    elif cloud.settings.enforce_post:
        raise unauthenticated(wrapper)
    if not hmac.compare_digest(signature(params, account.secret_key), params.get("signature", "")):
        raise unauthenticated(wrapper)
    return account


def signature(params: Mapping[str, str], secret: str) -> str:
    unsigned = []
    for name in sorted(params):
        if name != "signature":
            # Java's URLEncoder leaves "*" and encodes "~"; its plus becomes %20.
            value = quote_plus(params[name], safe="*").replace("~", "%7E").replace("+", "%20")
            unsigned.append(f"{name}={value}")
    request = "&".join(unsigned).lower()
    return base64.b64encode(hmac.new(secret.encode(), request.encode(), hashlib.sha1).digest()).decode()


def _check_expiry(cloud: Cloud, expires: str | None, wrapper: str) -> None:
    try:
        at = datetime.strptime(expires or "", "%Y-%m-%dT%H:%M:%S%z")
    except ValueError:
        raise unauthenticated(wrapper) from None
    now = cloud.clock()
    if at < now or (cloud.settings.enforce_post and at > now + timedelta(minutes=15)):
        raise unauthenticated(wrapper)
