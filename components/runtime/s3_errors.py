"""What an error of an S3 store means: worth another attempt, or one sentence that says what to do."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from components.runtime.errors import StageFailure

MISSING = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
EXISTS = frozenset({"PreconditionFailed", "412"})
AFTER_END = frozenset({"InvalidRange", "416"})
TRANSIENT = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ConditionalRequestConflict", "OperationAborted"})
REMEDIES = {
    "NoSuchBucket": "create the bucket or correct the address",
    "403": "grant the credentials this action",
    "AccessDenied": "grant the credentials this action",
    "NotImplemented": "use a store that has this operation",
}
AUTH_REMEDIES = {
    "InvalidAccessKeyId": "the store doesn't know this access key",
    "SignatureDoesNotMatch": "the secret key doesn't belong to the access key",
}


class Conflict(StageFailure):
    """The object is not the one that the call was meant for."""


class AfterEnd(ValueError):
    """The range begins where the object has ended."""


def code(error: Exception) -> str:
    """Returns the store's own code, or the class of an error that came before an answer."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else type(error).__name__


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed a little later: a busy or failing server, a broken or silent connection."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return code(error) in TRANSIENT or status == 429 or (status >= 500 and status != 501)
    broken = (ConnectionError, HTTPClientError, HTTPError, IncompleteReadError, ResponseParserError)
    return isinstance(error, broken)


def explain(error: Exception, operation: str, uri: str) -> Exception:
    """Returns what to raise for an error that no further attempt mends."""
    from botocore.exceptions import ClientError

    name = code(error)
    if name in MISSING:
        return FileNotFoundError(uri)
    if name in AFTER_END:
        return AfterEnd(uri)
    if name in EXISTS:
        return Conflict(
            f"shard changed: {uri} was replaced while it was read; run the stage again when its writer is done."
        )
    if name in EXPIRED:
        return StageFailure(f"auth: {operation} of {uri}: the credentials have expired ({name}); renew them.")
    if name in AUTH_REMEDIES:
        return StageFailure(f"auth: {operation} of {uri} was refused ({name}): {AUTH_REMEDIES[name]}.")
    if name == "RequestTimeTooSkewed":
        return StageFailure(
            f"{operation} of {uri} was refused ({name}): this machine's clock is {_skew(error)} the store's; "
            "set it, best by NTP."
        )
    if isinstance(error, ClientError):
        remedy = REMEDIES.get(name, "look at the store's own log")
        return StageFailure(f"{operation} of {uri} was refused ({name}): {remedy}.")
    if "Credentials" in name or "Token" in name:
        return StageFailure(f"auth: {operation} of {uri}: {error}; give credentials by environment, file or role.")
    return StageFailure(
        f"{operation} of {uri} failed ({error}): check the endpoint (AWS_ENDPOINT_URL), the region and the credentials."
    )


def _skew(error: Any) -> str:
    """Returns how this machine's clock stands to the one of the store, from its answer's date."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        ahead = datetime.now(UTC) - parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError, TypeError):
        return "too far from"
    return f"{abs(ahead.total_seconds()):.0f} s {'ahead of' if ahead.total_seconds() > 0 else 'behind'}"
