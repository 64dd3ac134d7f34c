"""Where credentials are found, and how they are kept."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from shipway.errors import Invalid, NotFound, Unavailable
from shipway.remotes.registry import Credentials, find_credentials, helpers, remove_credentials, store_credentials

HOST = "registry.example:5000"


def entry(user: str, password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose every place for credentials is empty."""
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_RUNTIME_DIR": str(tmp_path / "run"),
        "DOCKER_CONFIG": str(tmp_path / "docker"),
        "REGISTRY_AUTH_FILE": str(tmp_path / "named.json"),
    }


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a credential helper called `test` that can be written; it is on the PATH."""
    program = tmp_path / "bin" / "docker-credential-test"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


def user_of(found: Credentials | None) -> str | None:
    return found.username if found else None


def test_without_any_file_there_are_none(environ: dict[str, str]) -> None:
    assert find_credentials(HOST, "a/b", environ) is None
    assert find_credentials(HOST, "a/b", {"HOME": environ["HOME"]}) is None


def test_files_are_asked_in_order(tmp_path: Path, environ: dict[str, str]) -> None:
    places = [
        tmp_path / "home/.docker/config.json",
        tmp_path / "docker/config.json",
        tmp_path / "home/.config/containers/auth.json",
        tmp_path / "run/containers/auth.json",
        tmp_path / "named.json",
    ]
    for number, place in enumerate(places):
        write(place, auths={HOST: entry(f"user-{number}")})
        found = find_credentials(HOST, "a/b", environ)
        assert found == Credentials(f"user-{number}", "secret", source=str(place))


def test_a_file_without_the_host_leaves_it_to_the_next(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "named.json", auths={"other.example": entry("other"), HOST: {}})
    write(tmp_path / "docker/config.json", auths={HOST: entry("alice")})
    assert user_of(find_credentials(HOST, "a/b", environ)) == "alice"


def test_the_most_particular_entry_counts(tmp_path: Path, environ: dict[str, str]) -> None:
    auths = {HOST: entry("host"), f"{HOST}/a": entry("namespace"), f"{HOST}/a/b": entry("repository")}
    write(tmp_path / "named.json", auths=auths)
    found = [user_of(find_credentials(HOST, name, environ)) for name in ("a/b", "a/bb", "a/b/c", "ab", "")]
    assert found == ["repository", "namespace", "repository", "host", "host"]


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"https://{HOST}/v1/", f"http://{HOST}/v2/"])
def test_keys_are_read_as_docker_writes_them(tmp_path: Path, environ: dict[str, str], key: str) -> None:
    write(tmp_path / "named.json", auths={key: entry("alice")})
    assert user_of(find_credentials(HOST, "a/b", environ)) == "alice"
    assert find_credentials("registry.example", "a/b", environ) is None


def test_docker_hub_has_several_names(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "named.json", auths={"https://index.docker.io/v1/": entry("alice")})
    assert user_of(find_credentials("docker.io", "library/alpine", environ)) == "alice"


def test_a_password_may_hold_colons(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "named.json", auths={HOST: entry("alice", "a:b:c")})
    found = find_credentials(HOST, "", environ)
    assert found is not None
    assert (found.username, found.password) == ("alice", "a:b:c")


def test_an_identity_token_is_found(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "named.json", auths={HOST: {**entry("alice", ""), "identitytoken": "tok"}})
    found = find_credentials(HOST, "", environ)
    assert found is not None
    assert found.identity_token == "tok"


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"auths": []}', '{"auths": {"registry.example:5000": {"auth": "c2VjcmV0"}}}']
)
def test_a_file_that_is_not_well_formed_is_named_and_not_quoted(environ: dict[str, str], text: str) -> None:
    Path(environ["REGISTRY_AUTH_FILE"]).write_text(text)
    with pytest.raises(Invalid, match=r"named\.json") as caught:
        find_credentials(HOST, "", environ)
    assert "c2VjcmV0" not in repr(caught.value)
    assert caught.value.__cause__ is None


def test_a_helper_is_asked_for_its_host(tmp_path: Path, environ: dict[str, str], helper: Path) -> None:
    helper.write_text(
        f'#!/bin/sh\nread server\n[ "$1 $server" = "get {HOST}" ] || exit 9\n'
        'echo \'{"ServerURL":"x","Username":"alice","Secret":"s"}\'\n'
    )
    write(tmp_path / "named.json", credHelpers={HOST: "test"}, auths={HOST: entry("bob")})
    assert find_credentials(HOST, "a", environ) == Credentials("alice", "s", source="docker-credential-test")


def test_the_store_of_all_hosts_is_asked_last(tmp_path: Path, environ: dict[str, str], helper: Path) -> None:
    helper.write_text('#!/bin/sh\necho \'{"Username":"<token>","Secret":"tok"}\'\n')
    write(tmp_path / "named.json", credsStore="test", auths={HOST: {}, "b.example": entry("bob")})
    found = find_credentials(HOST, "a", environ)
    assert found == Credentials("", identity_token="tok", source="docker-credential-test")
    assert user_of(find_credentials("b.example", "a", environ)) == "bob"


def test_a_helper_that_knows_nothing_leaves_it_to_the_next_file(
    tmp_path: Path, environ: dict[str, str], helper: Path
) -> None:
    helper.write_text("#!/bin/sh\necho credentials not found in native keychain\nexit 1\n")
    write(tmp_path / "named.json", credsStore="test")
    write(tmp_path / "docker/config.json", auths={HOST: entry("alice")})
    assert user_of(find_credentials(HOST, "a", environ)) == "alice"


@pytest.mark.parametrize("script", ["echo top-secret; exit 3", "echo top-secret", "exec /nonexistent"])
def test_a_helper_that_fails_is_named_and_not_quoted(
    tmp_path: Path, environ: dict[str, str], helper: Path, script: str
) -> None:
    helper.write_text(f"#!/bin/sh\n{script}\n")
    write(tmp_path / "named.json", credsStore="test")
    with pytest.raises(Unavailable, match="docker-credential-test") as caught:
        find_credentials(HOST, "a", environ)
    assert "top-secret" not in repr(caught.value)


def test_a_helper_that_says_nothing_is_not_waited_for(
    tmp_path: Path, environ: dict[str, str], helper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helpers, "_TIMEOUT", 0.1)
    helper.write_text("#!/bin/sh\nexec sleep 60\n")
    write(tmp_path / "named.json", credsStore="test")
    with pytest.raises(Unavailable, match=r"docker-credential-test: did not get credentials in 0.1 seconds"):
        find_credentials(HOST, "a", environ)


def test_a_helper_that_is_not_installed_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    write(tmp_path / "named.json", credsStore="not-there")
    with pytest.raises(Unavailable, match=r"docker-credential-not-there.*not installed"):
        find_credentials(HOST, "a", environ)


@pytest.mark.parametrize("name", ["../../bin/sh", "a/b", "-x", "a b"])
def test_a_helper_cannot_be_a_path(tmp_path: Path, environ: dict[str, str], name: str) -> None:
    write(tmp_path / "named.json", credHelpers={HOST: name})
    with pytest.raises(Invalid, match="helper"):
        find_credentials(HOST, "a", environ)


def test_what_is_stored_is_found(tmp_path: Path, environ: dict[str, str]) -> None:
    path = store_credentials(HOST, "alice", "pass:word", environ["REGISTRY_AUTH_FILE"])
    assert path == str(tmp_path / "named.json")
    found = find_credentials(HOST, "", environ)
    assert found is not None
    assert (found.username, found.password) == ("alice", "pass:word")


def test_storing_keeps_the_rest_of_the_file(tmp_path: Path) -> None:
    rest = {"credHelpers": {"c.example": "x"}, "unknown": [1]}
    path = write(tmp_path / "auth.json", auths={"other.example": entry("bob")}, **rest)
    store_credentials(HOST, "alice", "one", path)
    store_credentials(HOST, "alice", "two", path)
    assert json.loads(path.read_text()) == {
        "auths": {"other.example": entry("bob"), HOST: entry("alice", "two")},
        **rest,
    }


def test_only_its_owner_may_read_what_is_stored(tmp_path: Path) -> None:
    path = write(tmp_path / "new" / "auth.json", auths={})
    path.chmod(0o644)
    store_credentials(HOST, "alice", "secret", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    deep = store_credentials(HOST, "alice", "secret", tmp_path / "deep" / "auth.json")
    assert stat.S_IMODE(Path(deep).parent.stat().st_mode) == 0o700
    assert os.listdir(Path(deep).parent) == ["auth.json"]


def test_what_cannot_be_stored_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text("{ broken")
    with pytest.raises(Invalid, match=r"auth\.json"):
        store_credentials(HOST, "alice", "secret", path)
    assert path.read_text() == "{ broken"
    with pytest.raises(Invalid):
        store_credentials(HOST, "", "secret", tmp_path / "other.json")
    with pytest.raises(Invalid):
        store_credentials(HOST, "a:b", "secret", tmp_path / "other.json")
    with pytest.raises(Invalid, match="auth"):
        store_credentials(HOST, "alice", "secret", path / "below-a-file" / "auth.json")
    assert os.listdir(tmp_path) == ["auth.json"]


KEEPER = """#!{python}
import json, pathlib, sys
kept = pathlib.Path({kept!r})
entries = json.loads(kept.read_text()) if kept.exists() else {{}}
given = sys.stdin.read()
if sys.argv[1] == "store":
    entry = json.loads(given)
    entries[entry["ServerURL"]] = entry
elif given not in entries:
    print("credentials not found in native keychain")
    sys.exit(1)
elif sys.argv[1] == "get":
    print(json.dumps(entries[given]))
else:
    del entries[given]
kept.write_text(json.dumps(entries))
"""


@pytest.fixture
def keeper(tmp_path: Path, helper: Path) -> Path:
    """Return the file in which a credential helper called `test` keeps what it is told."""
    kept = tmp_path / "kept.json"
    helper.write_text(KEEPER.format(python=sys.executable, kept=str(kept)))
    return kept


@pytest.mark.parametrize("named", [{"credsStore": "test"}, {"credHelpers": {HOST: "test"}, "credsStore": "other"}])
def test_a_helper_that_the_file_names_keeps_what_is_stored(
    tmp_path: Path, environ: dict[str, str], keeper: Path, named: dict[str, Any]
) -> None:
    path = write(tmp_path / "named.json", **named)
    assert store_credentials(HOST, "alice", "pass:word", path) == "docker-credential-test"
    assert json.loads(keeper.read_text())[HOST] == {"ServerURL": HOST, "Username": "alice", "Secret": "pass:word"}
    assert json.loads(path.read_text()) == named
    assert find_credentials(HOST, "a", environ) == Credentials("alice", "pass:word", source="docker-credential-test")
    assert remove_credentials(HOST, path) == "docker-credential-test"
    assert json.loads(keeper.read_text()) == {}
    assert find_credentials(HOST, "a", {**environ, "PATH": ""}) is None
    with pytest.raises(NotFound):
        remove_credentials(HOST, path)


def test_docker_hub_is_kept_under_its_own_name(tmp_path: Path, environ: dict[str, str], keeper: Path) -> None:
    path = write(tmp_path / "named.json", credsStore="test")
    store_credentials("docker.io", "alice", "secret", path)
    assert list(json.loads(keeper.read_text())) == ["https://index.docker.io/v1/"]
    assert user_of(find_credentials("docker.io", "library/alpine", environ)) == "alice"


@pytest.mark.parametrize("action", ["store", "erase"])
def test_a_helper_that_does_not_keep_is_named_and_not_quoted(tmp_path: Path, helper: Path, action: str) -> None:
    helper.write_text(f'#!/bin/sh\n[ $1 = {action} ] && cat && exit 2\necho \'{{"Username":"a","Secret":"s"}}\'\n')
    path = write(tmp_path / "auth.json", credsStore="test")
    calls = {
        "store": lambda: store_credentials(HOST, "alice", "top-secret", path),
        "erase": lambda: remove_credentials(HOST, path),
    }
    with pytest.raises(Unavailable, match=r"docker-credential-test.*exit code 2") as caught:
        calls[action]()
    assert "top-secret" not in repr(caught.value)


def test_what_is_removed_is_not_found_and_the_rest_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "auth.json", auths={"b.example": entry("bob"), HOST: entry("alice")}, unknown=[1])
    assert remove_credentials(HOST, path) == str(path)
    assert json.loads(path.read_text()) == {"auths": {"b.example": entry("bob")}, "unknown": [1]}
    with pytest.raises(NotFound, match=r"auth\.json: holds no credentials"):
        remove_credentials(HOST, path)


def test_removing_what_docker_wrote_removes_all_its_names(tmp_path: Path) -> None:
    path = write(tmp_path / "auth.json", auths={"https://index.docker.io/v1/": entry("a"), "docker.io": entry("b")})
    remove_credentials("docker.io", path)
    assert json.loads(path.read_text()) == {"auths": {}}


def test_removing_says_where_there_still_are_credentials(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write(tmp_path / "docker/config.json", auths={HOST: entry("alice")})
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotFound, match=str(other)):
        remove_credentials(HOST)
