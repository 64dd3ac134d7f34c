"""One configuration: a file, variables over it, arguments over both; errors name the key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shipway import Cache, Config, Invalid, Limits, LimitSettings, NotFound, PrunePolicy, RegistrySettings, Unavailable
from shipway.config import load
from shipway.local.keeping import PruneOptions


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of the configuration that a new user would have; it is not there yet."""
    home = tmp_path / "home"
    for name, value in (("HOME", home), ("XDG_CONFIG_HOME", home / "config"), ("XDG_DATA_HOME", home / "data")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("SHIPWAY_CONFIG")
    path = home / "config/shipway/config.toml"
    path.parent.mkdir(parents=True)
    return path


def test_without_a_file_all_is_as_by_default(file: Path) -> None:
    in_force = load()
    assert in_force.config == Config(root=file.parents[2] / "data/shipway", driver="auto", remotes=())
    assert (in_force.file, in_force.origins) == (None, {})


def test_directories_are_those_of_the_user_where_xdg_names_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = file.parents[2]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert load().config.root == home / ".local/share/shipway"
    (home / ".config/shipway").mkdir(parents=True)
    (home / ".config/shipway/config.toml").write_text("driver = 'native'")
    assert load().config.driver == "native"


def test_arguments_count_before_variables_and_variables_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("root = '/file'\ndriver = 'native'\nremotes = ['oci://file']")
    assert load().config == Config(root=Path("/file"), driver="native", remotes=("oci://file",))
    monkeypatch.setenv("SHIPWAY_ROOT", "/variable")
    monkeypatch.setenv("SHIPWAY_DRIVER", "overlay")
    monkeypatch.setenv("SHIPWAY_REMOTES", "oci://one oci://two/x")
    both = load()
    assert both.config == Config(root=Path("/variable"), driver="overlay", remotes=("oci://one", "oci://two/x"))
    three = load(root=Path("/argument"), remotes=(), driver=None)
    assert three.config == Config(root=Path("/argument"), driver="overlay", remotes=())
    assert three.origins == {"root": "argument", "driver": "$SHIPWAY_DRIVER", "remotes": "argument"}
    monkeypatch.setenv("SHIPWAY_DRIVER", "")
    assert load().origins["driver"] == str(file)


def test_a_file_that_is_named_is_read_and_must_be_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("driver = 'overlay'")
    other = file.with_name("other.toml")
    with pytest.raises(NotFound, match=r"other\.toml"):
        load(other)
    other.write_text("driver = 'native'")
    assert load(other).config.driver == "native"
    monkeypatch.setenv("SHIPWAY_CONFIG", str(other))
    assert load().config.driver == "native"
    monkeypatch.setenv("SHIPWAY_CONFIG", "/dev/null")
    assert load().config.driver == "auto"
    with pytest.raises(Unavailable, match="cannot be read"):
        load(file.parent)


def test_paths_start_at_the_file_or_at_home(file: Path) -> None:
    file.write_text("root = '../store'\n[registry.'h:1']\nca = '~/ca.pem'\nclient-cert = '/cert.pem'")
    config = load().config
    assert config.root == file.parent / "../store"
    assert config.registry["h:1"].ca == file.parents[2] / "ca.pem"
    assert config.registry["h:1"].client_cert == Path("/cert.pem")


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("roots = 'x'", "roots", "no such key"),
        ("root = 1", "root", "path"),
        ("root = ''", "root", "path"),
        ("driver = 'btrfs'", "driver", "use auto, overlay or native"),
        ("driver = true", "driver", "Expected `str`, got `bool`"),
        ("remotes = 'oci://h'", "remotes", "Expected `array`"),
        ("remotes = ['oci://h', 2]", "remotes[1]", "Expected `str`"),
        ("remotes = ['oci://h', 'h']", "remotes[1]", "not a reference"),
        ("platform = 'x'", "platform", "not a platform"),
        ("[prune]\nall = true", "prune", "Expected `array`, got `table`"),
        ("prune = [1]", "prune[0]", "Expected `table`"),
        ("[[prune]]\nall = true", "prune[0]", "limits nothing"),
        ("[[prune]]\nmax-used-space = '1GB'\n[[prune]]\nmax-used = '1GB'", "prune[1].max-used", "no such key"),
        ("[[prune]]\nmax-used-space = 'ten'", "prune[0].max-used-space", "not a size"),
        ("[[prune]]\nmax-used-space = 10", "prune[0].max-used-space", "Expected `str"),
        ("[[prune]]\nkeep-duration = '2 fortnights'", "prune[0].keep-duration", "not a duration"),
        ("[[prune]]\nfilters = ['mutable', 'a b']", "prune[0].filters[1]", "not a filter"),
        ("registry = 1", "registry", "Expected `table`"),
        ("[registry]\nmirrors = []", 'registry."mirrors"', "Expected `table`"),
        ("[registry.'a b']", 'registry."a b"', "not a host"),
        ("[registry.'h/x']", 'registry."h/x"', "not a host"),
        ("[registry.h]\nmirror = 'm'", 'registry."h".mirror', "no such key"),
        ("[registry.h]\ninsecure = 'yes'", 'registry."h".insecure', "Expected `bool`"),
        ("[registry.h]\nmirrors = ['m:1', 'm/x:tag']", 'registry."h".mirrors[1]', "has a tag"),
        ("[registry.h]\nmirrors = ['user:secret@m']", 'registry."h".mirrors[0]', "no user or password"),
        ("[registry.h]\nclient-key = 'k'", 'registry."h".client-key', "client-cert"),
    ],
)
def test_an_error_names_the_file_and_the_key(file: Path, text: str, key: str, what: str) -> None:
    file.write_text(text)
    with pytest.raises(Invalid) as caught:
        load()
    assert str(caught.value).startswith(f"{file}: {key}: ")
    assert what in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_is_not_toml_is_said_with_its_line(file: Path) -> None:
    file.write_text("driver = 'native'\nremotes = [")
    with pytest.raises(Invalid, match="not TOML"):
        load()
    file.write_bytes(b"driver = '\xff'")
    with pytest.raises(Invalid, match="not TOML"):
        load()


def test_an_error_in_a_variable_names_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("")
    monkeypatch.setenv("SHIPWAY_REMOTES", "oci://h nonsense")
    with pytest.raises(Invalid, match=r"^SHIPWAY_REMOTES: remotes\[1\]: 'nonsense'"):
        load()


def test_a_configuration_made_in_python_is_checked_and_frozen() -> None:
    with pytest.raises(Invalid, match="limits nothing"):
        PrunePolicy()
    with pytest.raises(Invalid, match=r"mirrors\[0\]"):
        RegistrySettings(mirrors=("m/x:tag",))
    with pytest.raises(Invalid, match="driver"):
        Config(driver="zfs")
    with pytest.raises(AttributeError):
        Config().driver = "native"  # type: ignore[misc]


def test_a_policy_means_the_options_of_a_prune(tmp_path: Path) -> None:
    policy = PrunePolicy(filters=("mutable",), keep_duration="1h30m", max_used_space="2KiB", reserved_space="100%")
    options = policy.options(tmp_path)
    assert options.reserved_space is not None
    assert options.reserved_space > 1 << 20
    expected = PruneOptions(
        filters=("mutable",),
        everything=False,
        keep_duration=5400.0,
        max_used_space=2048,
        reserved_space=options.reserved_space,
    )
    assert options == expected


def test_a_cache_is_opened_by_the_configuration(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("root = '../../../mine'\ndriver = 'native'\nremotes = ['oci://h/x']")
    with Cache.open() as cache:
        assert cache.root.resolve() == tmp_path / "mine"
        assert (cache.driver.name, cache.config.remotes) == ("native", ("oci://h/x",))
    with Cache.open(tmp_path / "other", config=Config(driver="native")) as cache:
        assert (cache.root, cache.config.remotes) == (tmp_path / "other", ())
    monkeypatch.setenv("SHIPWAY_ROOT", str(tmp_path / "third"))
    with Cache.open(config=str(file)) as cache:
        assert cache.root == tmp_path / "third"


def test_the_reference_describes_every_key_and_its_example_is_valid(file: Path) -> None:
    text = (Path(__file__).parent.parent / "docs/reference/configuration.md").read_text(encoding="utf-8")
    example = text.split("```toml\n")[1].split("```")[0]
    file.write_text(example)
    assert set(tomllib.loads(example)) == {"root", "remotes", "prune", "limits", "registry"}
    assert len(load().config.prune) == 2
    keys = {
        name
        for kind in (Config, PrunePolicy, LimitSettings, RegistrySettings)
        for name in kind.__struct_encode_fields__
    }
    assert {key for key in keys - {"prune", "limits", "registry"} if f"| `{key}` |" not in text} == set()


def test_limits_are_read_and_an_argument_counts_before_them(file: Path, tmp_path: Path) -> None:
    file.write_text('[limits]\nsize = "2GiB"\nratio = 7\n')
    assert load().config.limits.value == Limits(size=2 << 30, ratio=7)
    with Cache.open(tmp_path / "root") as cache:
        assert cache.store.limits == Limits(size=2 << 30, ratio=7)
    with Cache.open(tmp_path / "root", limits=Limits(entries=3)) as cache:
        assert cache.store.limits == Limits(entries=3)


@pytest.mark.parametrize(
    ("text", "said"), [('size = "20%"', "size"), ('size = "0"', "size"), ("ratio = 0", "ratio"), ("most = 1", "most")]
)
def test_limits_that_make_no_sense_are_named(file: Path, text: str, said: str) -> None:
    file.write_text(f"[limits]\n{text}\n")
    with pytest.raises(Invalid, match=rf"limits\.{said}"):
        load()
