"""How to reach a bucket: from its reference and the environment to obstore's store.

Credentials never stand in a reference. They are found the way each service's own tools find them in the
environment (`AWS_ACCESS_KEY_ID`, `AWS_WEB_IDENTITY_TOKEN_FILE`, container and instance credentials;
`GOOGLE_APPLICATION_CREDENTIALS`; `AZURE_STORAGE_ACCOUNT_KEY`, …), each time a bucket is opened; those
that run out are renewed by obstore in between.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from shipway.references import BucketReference

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, ObjectStore, RetryConfig, S3Config

ATTEMPTS = 5
"""Times that a request is tried, if the reference does not say."""
PARALLEL = 4
"""Parts of one blob that are sent at a time, if the reference does not say."""
_LONGEST_WAIT = timedelta(seconds=10)
_LONGEST_RETRY = timedelta(minutes=2)
#: One answer may take as long as a blob takes; what is noticed is when nothing comes.
_WHOLE_ANSWER = timedelta(days=1)
_STALLED = timedelta(seconds=60)
_CONNECT = timedelta(seconds=10)

#: Where the environment names an endpoint, in the order in which it counts.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}


def open_store(reference: BucketReference) -> ObjectStore:
    """Return the store for a bucket; nothing is sent. Raises what obstore raises for settings that make no sense."""
    if reference.scheme == "file":
        return LocalStore()
    client, retry = _client(reference), _retry(reference)
    endpoint = _endpoint(reference)
    match reference.scheme:
        case "s3":
            path_style = reference.option("use_path_style", "true") == "true"
            s3: S3Config = {"virtual_hosted_style_request": not path_style}
            if endpoint:
                s3["endpoint"] = endpoint if path_style else _with_bucket(endpoint, reference.bucket)
            if region := reference.option("region"):
                s3["region"] = region
            return S3Store(reference.bucket, config=s3, client_options=client, retry_config=retry)
        case "gs":
            return GCSStore(reference.bucket, client_options=client, retry_config=retry)
        case _:
            azure: AzureConfig = {"endpoint": endpoint} if endpoint else {}
            if account := reference.option("account_name"):
                azure["account_name"] = account
            return AzureStore(reference.bucket, config=azure, client_options=client, retry_config=retry)


def parallel_uploads(reference: BucketReference) -> int:
    """Return how many parts of one blob are sent at a time."""
    return int(reference.option("upload_parallelism") or PARALLEL)


def _client(reference: BucketReference) -> ClientConfig:
    # Plain HTTP is spoken where somebody wrote http://, and nowhere else.
    plain = _endpoint(reference).startswith("http://") or os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
    return {
        "allow_http": plain or reference.scheme == "gs",
        "timeout": _WHOLE_ANSWER,
        "read_timeout": _STALLED,
        "connect_timeout": _CONNECT,
        "user_agent": "shipway",
    }


def _retry(reference: BucketReference) -> RetryConfig:
    attempts = int(reference.option("retry_max_attempts") or ATTEMPTS)
    return {"max_retries": attempts - 1, "retry_timeout": _LONGEST_RETRY, "backoff": {"max_backoff": _LONGEST_WAIT}}


def _endpoint(reference: BucketReference) -> str:
    if stated := reference.option("endpoint_url"):
        return stated
    return next(filter(None, (os.environ.get(name) for name in _ENDPOINTS.get(reference.scheme, ()))), "")


def _with_bucket(endpoint: str, bucket: str) -> str:
    """Return an endpoint whose host begins with the bucket, which is what obstore expects then."""
    parts = urlsplit(endpoint)
    return parts._replace(netloc=f"{bucket}.{parts.netloc}").geturl()
