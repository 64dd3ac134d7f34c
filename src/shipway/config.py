"""Configuration: one TOML file, `SHIPWAY_*` variables over it, arguments over both.

The file is `$SHIPWAY_CONFIG`, else `shipway/config.toml` in `$XDG_CONFIG_HOME` or `~/.config`. Every key is described
in docs/reference/configuration.md. A key that is not known is an error; errors name the file or variable, and the key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shipway.errors import Invalid, NotFound, Unavailable
from shipway.local.filters import parse_filters
from shipway.local.keeping import PruneOptions
from shipway.oci import Platform
from shipway.quantities import Size, duration, size
from shipway.references import Reference, RegistryReference
from shipway.settings import LimitSettings, RegistrySettings, Table, inside

DRIVERS = ("auto", "overlay", "native")
VARIABLES = {key: f"SHIPWAY_{key.upper()}" for key in ("root", "driver", "remotes", "platform")}
"""Which variable overrides which key."""

_SIZES = ("reserved_space", "max_used_space", "min_free_space")
_PLACE = re.compile(r"(.*?)(?: - at `(?:key in )?\$\.?(.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_Value = TypeVar("_Value")


class PrunePolicy(Table, frozen=True, kw_only=True):
    """What a prune that nobody asks for may remove, and how much is to stay: a `[[prune]]` table.

    The keys are the options of `shipway prune`, with sizes as `10GB` or `20%` and durations as `48h`. `Invalid` for
    values that are none, and for a policy that limits nothing and so would remove all that is unused.
    """

    filters: tuple[str, ...] = ()
    all: bool = False
    """Records of the types `internal` and `frontend` too."""
    keep_duration: str | None = None
    reserved_space: str | None = None
    max_used_space: str | None = None
    min_free_space: str | None = None

    def __post_init__(self) -> None:
        """Check that every value can be read."""
        for index, one in enumerate(self.filters):
            with inside(f"filters[{index}]", ": "):
                parse_filters([one])
        sizes = [self._size(name) for name in _SIZES]
        if not self.filters and self._duration() is None and sizes == [None] * len(_SIZES):
            raise Invalid("limits nothing", todo="give filters, keep-duration or one of the sizes")

    def options(self, root: Path) -> PruneOptions:
        """Return what it means for a store at `root`; a percentage is of the disk that it is on."""
        sizes = {name: found.on(root) for name in _SIZES if (found := self._size(name)) is not None}
        return PruneOptions(
            filters=self.filters,
            everything=self.all,
            keep_duration=self._duration(),
            reserved_space=sizes.get("reserved_space"),
            max_used_space=sizes.get("max_used_space"),
            min_free_space=sizes.get("min_free_space"),
        )

    def _duration(self) -> float | None:
        return duration(self.keep_duration, where="keep-duration") if self.keep_duration is not None else None

    def _size(self, name: str) -> Size | None:
        text: str | None = getattr(self, name)
        return size(text, where=name.replace("_", "-")) if text is not None else None


def _default_root() -> Path:
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "shipway"


class Config(Table, frozen=True, kw_only=True):
    """All that can be set about a store and how it is used. `Invalid` for values that make no sense."""

    root: Path = msgspec.field(default_factory=_default_root)
    """The store's directory; by default `shipway` in `$XDG_DATA_HOME` or `~/.local/share`."""
    driver: str = "auto"
    """How a new store keeps trees: `overlay`, `native`, or `auto`, which takes what works here."""
    remotes: tuple[str, ...] = ()
    """References of repositories where keys are looked up that are not here, in order."""
    platform: str | None = None
    """Which image of a multi-platform one is meant, as `os/architecture[/variant]`; by default this machine's."""
    prune: tuple[PrunePolicy, ...] = ()
    """What is pruned without being asked, one after the other."""
    limits: LimitSettings = LimitSettings()
    """What a layer that comes from outside may claim."""
    registry: Mapping[str, RegistrySettings] = {}
    """By `host[:port]`, as references have it."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.driver not in DRIVERS:
            raise Invalid(
                f"no snapshot driver is called {self.driver!r}", where="driver", todo="use auto, overlay or native"
            )
        for index, one in enumerate(self.remotes):
            with inside(f"remotes[{index}]", ": "):
                Reference.parse(one)
        if self.platform is not None:
            with inside("platform", ": "):
                Platform.parse(self.platform)
        for host in self.registry:
            with inside(f'registry."{host}"', ": "):
                if "/" in host:
                    raise Invalid("not a host", todo="write host[:port]")
                RegistryReference.parse(f"oci://{host}")


@dataclass(frozen=True, slots=True)
class InForce:
    """A configuration, and where its values come from."""

    config: Config
    file: Path | None
    """The file that was read, if there is one."""
    origins: Mapping[str, str]
    """The file, variable or argument that set a top-level key; a default is not in it."""

    def listed(self) -> Iterator[tuple[str, object, str]]:
        """Yield (key, value, origin) of everything that has a value."""
        for key, value in msgspec.to_builtins(self.config, enc_hook=str).items():
            for full, one in _leaves(key, value):
                yield full, one, self.origins.get(key, "default")


def load(
    source: Config | str | Path | None = None,
    *,
    root: str | Path | None = None,
    driver: str | None = None,
    remotes: Iterable[str] | None = None,
    platform: str | None = None,
) -> InForce:
    """Return what is in force: the arguments that are not None over the variables over the file.

    `source` is the file, if it is not the usual one; or a whole configuration, and no file or variable is read.

    Raises:
        Invalid: a key that is not known or a value that makes no sense, named with where it stands.
        NotFound: a file that was named, by `source` or `$SHIPWAY_CONFIG`, is not there.
        Unavailable: the file cannot be read.
    """
    arguments = {
        "root": Path(root) if root is not None else None,
        "driver": driver,
        "remotes": tuple(remotes) if remotes is not None else None,
        "platform": platform,
    }
    given = {key: value for key, value in arguments.items() if value is not None}
    file, config, origins = (None, source, {}) if isinstance(source, Config) else _found(source)
    return InForce(msgspec.structs.replace(config, **given), file, origins | dict.fromkeys(given, "argument"))


def _found(named: str | Path | None) -> tuple[Path | None, Config, dict[str, str]]:
    """Return the file that was read, what it and the variables say, and who said what."""
    path, raw = _read(named)
    with inside(str(path), ": "):
        config = _decoded(raw, path.absolute().parent)
    origins = {key.replace("-", "_"): str(path) for key in raw}
    for key, name in VARIABLES.items():
        if text := os.environ.get(name):
            with inside(name, ": "):
                value = _decoded({key: text.split() if key == "remotes" else text}, Path())
            config = msgspec.structs.replace(config, **{key: getattr(value, key)})
            origins[key] = f"${name}"
    return path if raw else None, config, origins


def _read(named: str | Path | None) -> tuple[Path, dict[str, Any]]:
    """Return the path of the file and what it says; nothing if there is none and nobody named one."""
    named = named or os.environ.get("SHIPWAY_CONFIG")
    home = os.environ.get("XDG_CONFIG_HOME")
    path = Path(named) if named else (Path(home) if home else Path.home() / ".config") / "shipway" / "config.toml"
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        if not named:
            return path, {}
        raise NotFound("no such configuration file", where=str(path)) from error
    except OSError as error:
        raise Unavailable(f"the configuration cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:  # of TOML, or of UTF-8
        raise Invalid(f"not TOML: {error}", where=str(path)) from error


def _decoded(raw: Mapping[str, Any], base: Path) -> Config:
    """Return what a whole file says; relative paths start at `base`."""
    values = dict(raw)
    # Tables of tables are read one by one, so that an error can say which of them it is in.
    if isinstance(policies := raw.get("prune"), list):
        values["prune"] = [_converted(one, PrunePolicy, base, f"prune[{n}]") for n, one in enumerate(policies)]
    if isinstance(hosts := raw.get("registry"), dict):
        values["registry"] = {
            host: _converted(one, RegistrySettings, base, f'registry."{host}"') for host, one in hosts.items()
        }
    if "limits" in raw:
        values["limits"] = _converted(raw["limits"], LimitSettings, base, "limits")
    return _converted(values, Config, base, "")


def _converted(raw: object, kind: type[_Value], base: Path, where: str) -> _Value:
    with inside(where):
        try:
            return msgspec.convert(raw, kind, dec_hook=partial(_path, base))
        except msgspec.ValidationError as error:
            raise _named(str(error)) from error


def _named(said: str) -> Invalid:
    """Return the error that says what msgspec said, with the key first."""
    found = _PLACE.fullmatch(said)
    assert found is not None
    what, place = found[1], found[2] or ""
    if unknown := _UNKNOWN.fullmatch(what):
        return Invalid("there is no such key", where=".".join(filter(None, (place, unknown[1]))))
    return Invalid(what.replace("`object`", "`table`"), where=place)


def _path(base: Path, kind: type, value: object) -> Path:
    if kind is not Path:
        raise NotImplementedError(kind)  # msgspec's way to hear that a type is none of ours
    if not isinstance(value, str) or not value:
        raise ValueError("Expected a path")
    return base / Path(value).expanduser()


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the keys and values below a key, as the file would have them."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(f'{key}."{name}"' if key == "registry" else f"{key}.{name}", one)
    elif isinstance(value, list | tuple) and any(isinstance(one, dict) for one in value):
        for index, one in enumerate(value):
            yield from _leaves(f"{key}[{index}]", one)
    elif value is not None:
        yield key, value
