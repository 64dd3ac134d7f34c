"""References: where an image is, as one line of text.

Each kind of place has a value of its own; `Reference.parse` reads them all. What they have in
common is a tag or a digest within the place, and that they can be written back.

    oci://host[:port]/repository[:tag][@digest]     a registry, or a worker's own server
    s3://bucket[/prefix][?options][#name[@digest]]  a bucket; also gs:// and az://
    file:///directory[#name[@digest]]               a directory laid out as a bucket
    oci-layout:///directory[:tag][@digest]          an OCI image layout
    oci-archive:///file.tar[:tag][@digest]          the same in a tar
    docker-archive:///file.tar[:tag][@digest]       what `docker save` writes

Paths and prefixes may hold anything, percent-encoded where it would mean something else.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

from shipway.errors import Invalid
from shipway.oci import DEFAULT_REPOSITORY, DEFAULT_TAG, check_digest, is_repository, is_tag

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BUCKET = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,220}[A-Za-z0-9])?")
_USER = re.compile(r"[^/@]*@|.*@.*/", re.DOTALL)
"""A user, or a password with anything in it: an @ before the host's end, or before any slash."""
_PREFIX_DIGEST = "@sha256:"

FORMS = (
    "oci://host[:port]/repository[:tag][@digest], s3://bucket/prefix#name (also gs, az), file:///directory#name, "
    "oci-layout:///directory[:tag], oci-archive:///file[:tag] or docker-archive:///file[:tag]"
)
#: What the query of a bucket's reference may say; the names are BuildKit's where it has the option.
BUCKET_OPTIONS = {
    "s3": ("region", "endpoint_url", "use_path_style", "blobs_prefix", "manifests_prefix"),
    "gs": ("blobs_prefix", "manifests_prefix"),
    "az": ("account_name", "endpoint_url", "blobs_prefix", "manifests_prefix"),
    "file": ("blobs_prefix", "manifests_prefix"),
}
_TUNING = ("retry_max_attempts", "upload_parallelism")
_COUNT = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A place, and a tag or digest in it; `str` gives the text that reads as the same value."""

    FORM: ClassVar[str] = FORMS

    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference; `Invalid` names the part that is wrong, and never a password.

        `Reference.parse` reads all forms, that of a form only its own. Without a repository it is `shipway`.
        """
        reference = _parse(text)
        if not isinstance(reference, cls):
            raise Invalid("a reference of another kind is needed here", where=repr(text), todo=f"write {cls.FORM}")
        return reference

    @property
    def target(self) -> str:
        """The digest if there is one, else the tag, else `latest`: what a manifest is asked for by."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def place(self) -> str:
        """The text without tag and digest."""
        return str(self.at())

    def at(self, *, tag: str | None = None, digest: str | None = None) -> Self:
        """Return the same place at another tag or digest."""
        return replace(self, tag=tag, digest=digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True, slots=True)
class RegistryReference(Reference):
    """A repository of a registry: `oci://host[:port]/repository[:tag][@digest]`.

    Loopback hosts, and the `oci+http://` scheme, mean plain HTTP.
    """

    FORM: ClassVar[str] = "oci://host[:port]/repository[:tag]"

    host: str
    repository: str = DEFAULT_REPOSITORY
    insecure: bool = False

    def __str__(self) -> str:
        scheme = "oci+http" if self.insecure and not is_loopback(self.host) else "oci"
        return f"{scheme}://{self.host}/{self.repository}{self._suffix()}"


@dataclass(frozen=True, slots=True)
class BucketReference(Reference):
    """A bucket, or a prefix in one: `s3://bucket[/prefix][?options][#name[@digest]]`.

    For `file` the bucket is the directory's absolute path, and there is no prefix. `options` are (name, value)
    pairs in order; see `BUCKET_OPTIONS`.
    """

    scheme: str
    bucket: str
    prefix: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str, default: str = "") -> str:
        """Return the value of an option."""
        return dict(self.options).get(name, default)

    def __str__(self) -> str:
        bucket = _quote(self.bucket) if self.scheme == "file" else self.bucket
        prefix = f"/{_quote(self.prefix)}" if self.prefix else ""
        query = f"?{urlencode(self.options, quote_via=quote, safe='/:')}" if self.options else ""
        digest = f"@{self.digest}" if self.digest else ""
        name = f"#{self.tag or ''}{digest}" if self.tag or self.digest else ""
        return f"{self.scheme}://{bucket}{prefix}{query}{name}"


@dataclass(frozen=True, slots=True)
class FileReference(Reference):
    """A directory or file of this machine by its absolute path: `oci-layout`, `oci-archive`, `docker-archive`."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{_quote(self.path)}{self._suffix()}"


def _parse(text: str) -> Reference:
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("oci", "oci+http"):
        return _registry(scheme, rest, text)
    if separator and scheme in BUCKET_OPTIONS:
        return _bucket(scheme, rest, text)
    if separator and scheme in ("oci-layout", "oci-archive", "docker-archive"):
        rest, tag, digest = _split_suffix(rest, text)
        return FileReference(scheme, _path(rest, text), tag=tag, digest=digest)
    # What stands after either sign, or before an @, may be a secret.
    hidden = f"{_shortened(scheme)}://…" if separator else "…"
    where = hidden if "?" in text or _USER.match(rest or text) else repr(_shortened(text))
    raise Invalid("not a reference", where=where, todo=f"write {FORMS}")


def without_digest(text: str) -> str:
    """Return a reference's text without the digest at its end."""
    return text[: text.rindex(_PREFIX_DIGEST)].removesuffix("#") if _PREFIX_DIGEST in text else text


def _registry(scheme: str, rest: str, text: str) -> RegistryReference:
    if _USER.match(rest):
        raise Invalid(
            "a reference holds no user or password", where=f"{scheme}://…", todo="use `shipway login` or the auth file"
        )
    if "?" in rest or "#" in rest:
        raise Invalid("a registry's reference has no options", where=f"{scheme}://…", todo=f"write {FORMS}")
    rest, tag, digest = _split_suffix(rest, text) if "/" in rest else (rest, None, None)
    host, _, repository = rest.partition("/")
    repository = repository or DEFAULT_REPOSITORY
    if not _HOST.fullmatch(host):
        raise Invalid(f"not a host: {host!r}", where=repr(text))
    if not is_repository(repository):
        raise Invalid(
            f"not a repository name: {repository!r}",
            where=repr(text),
            todo="use lower-case letters, digits and ._-/",
        )
    insecure = scheme == "oci+http" or is_loopback(host)
    return RegistryReference(host, repository, insecure, tag=tag, digest=digest)


def _bucket(scheme: str, rest: str, text: str) -> BucketReference:
    rest, hash_sign, name = rest.partition("#")
    rest, _, query = rest.partition("?")
    if "@" in rest.split("/", 1)[0]:
        raise Invalid("a reference holds no credentials", where=f"{scheme}://…", todo="set them in the environment")
    options = _options(scheme, query)
    tag, at, digest = name.partition("@")
    if hash_sign and not (tag or at):
        raise Invalid("no name after #", where=repr(text))
    _check(tag or None, digest if at else None, text)
    if scheme == "file":
        path = _printable(_path(rest, text), text)
        return BucketReference(scheme, path, "", options, tag=tag or None, digest=digest or None)
    bucket, _, prefix = rest.partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise Invalid(f"not a bucket: {bucket!r}", where=repr(text))
    prefix = _printable(_decoded(prefix, text).strip("/"), text)
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise Invalid(f"not a prefix: {prefix!r}", where=repr(text), todo="leave out empty parts, `.` and `..`")
    return BucketReference(scheme, bucket, prefix, options, tag=tag or None, digest=digest or None)


def _options(scheme: str, query: str) -> tuple[tuple[str, str], ...]:
    known = (*BUCKET_OPTIONS[scheme], *_TUNING)
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        # The value of what is unknown is not repeated: it may be a secret.
        if name not in known:
            raise Invalid(
                f"no option of {scheme}://: {_shortened(name)!r}",
                where=f"{scheme}://…",
                todo=f"there are {', '.join(known)}; credentials come from the environment",
            )
        if name in options:
            raise Invalid(f"the option {name} stands there twice", where=f"{scheme}://…")
        if not value or not value.isprintable():
            raise Invalid(f"the option {name} has no value", where=f"{scheme}://…")
        if name in _TUNING and not (_COUNT.fullmatch(value) and int(value)):
            raise Invalid(f"the option {name} is no number from 1 to 999", where=f"{scheme}://…")
        if name == "use_path_style" and value not in ("true", "false"):
            raise Invalid(f"the option {name} is neither true nor false", where=f"{scheme}://…")
        if name == "endpoint_url" and "@" in value:
            raise Invalid("a reference holds no credentials", where=f"{scheme}://…", todo="set them in the environment")
        options[name] = value
    return tuple(options.items())


def _split_suffix(rest: str, text: str) -> tuple[str, str | None, str | None]:
    """Return what stands before the tag and digest, and these."""
    rest, at, digest = rest.partition("@")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    _check(tag if colon else None, digest if at else None, text)
    return head + slash + last, tag or None, digest or None


def _check(tag: str | None, digest: str | None, text: str) -> None:
    if tag is not None and not is_tag(tag):
        raise Invalid(f"not a tag: {tag!r}", where=repr(text))
    if digest is not None:
        check_digest(digest, where=repr(text))


def _path(rest: str, text: str) -> str:
    path = _decoded(rest, text).removesuffix("/")
    if not path.startswith("/"):
        raise Invalid(f"not an absolute path: {path!r}", where=repr(text), todo="three slashes follow the colon")
    parts = path.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts):
        raise Invalid(f"not a plain path: {path!r}", where=repr(text), todo="leave out empty parts, `.` and `..`")
    return path


def _decoded(text: str, where: str) -> str:
    decoded = unquote(text, errors="surrogateescape")
    if "\0" in decoded:
        raise Invalid("holds a zero byte", where=repr(where))
    return decoded


def _printable(name: str, text: str) -> str:
    if not name.isprintable():
        raise Invalid("a bucket's keys hold printable characters only", where=repr(text))
    return name


def _quote(path: str) -> str:
    return quote(path, safe="/+,=!~", errors="surrogateescape")


def _shortened(text: str, most: int = 200) -> str:
    return text if len(text) <= most else text[:most] + "…"


@lru_cache(256)  # a server asks for every request
def is_loopback(host: str) -> bool:
    """Whether `host[:port]` names this machine's loopback interface."""
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
