"""One request to an admin API."""

import json
import urllib.error
import urllib.request


def ask(url, method, body=None, token=None, timeout=10):
    """(status, text). A body is sent as JSON; no token: no authorization."""
    request = urllib.request.Request(url, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
