"""The program: global options, the commands, and how it fails."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from shipway import __version__
from shipway.cli import documents
from shipway.cli.session import Session
from shipway.cli.text import visible
from shipway.errors import Invalid, NoSpace, ShipwayError

INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143

COMMANDS = {
    "records:commit": "Make a ref of a directory as it is now, and print its id.",
    "records:ls": "List the refs of the store, oldest first.",
    "records:show": "Show all that is known about a ref.",
    "files:files": "List the files of a ref, with all that is below a directory.",
    "files:cat": "Write the content of a file to standard output.",
    "files:extract": "Copy files out of a ref, as `cp -a` does; of a remote one, only what is needed moves.",
    "files:checksum": "Print a digest of names, contents, modes and owners at a path, for cache keys: not of times.",
    "mounts:mount": "Mount a ref at a directory until `umount`; without arguments, list what is mounted.",
    "mounts:umount": "Unmount what `mount` mounted, and print the ref's id.",
    "moving:push": "Copy a ref, as an OCI image, to a registry, bucket or worker; only what is lacking there moves.",
    "moving:convert": "Copy a ref, here or elsewhere, to a registry or worker with its layers in another form.",
    "moving:pull": "Copy an image into the store, and print the id of its ref.",
    "explain:explain": "Tell why a key hits or misses, and of a ref that was pulled which bytes came from where.",
    "combining:merge": "Lay the trees of refs over each other, later ones over earlier, and print the new ref's id.",
    "combining:diff": "Make a ref of what UPPER changes in LOWER, deletions too, and print its id.",
    "space:du": "Show what the store's refs take on disk.",
    "space:prune": "Remove refs that nobody holds: those given, or all that are unused.",
    "verify:verify": "Read every byte of the store against its digest; exit code 5 if something is wrong and stays so.",
    "configuration:config": "Show the configuration that is in force, and where each value comes from.",
    "login:login": "Check a password with a registry and remember it, where podman and skopeo look too.",
    "login:logout": "Forget the password that `login` remembered for a registry.",
    "serving:serve": "Serve the store over HTTP as an OCI registry, until interrupted.",
    "demonstration:demo": "Show the whole of it on real files: two workers, one connection, everything compared.",
}
"""The commands, and what each does: they are imported when they are called, so `--help` cannot ask them."""
GROUPS = {
    "key": ("keys:app", "Give refs cache keys, and look them up."),
    "index": ("indexes:app", "Indexes of layers that have no table of contents, beside their image."),
    "cachemount": ("cachemounts:app", "Cache mounts: named trees that go on from one use to the next."),
}

app = App(
    name="shipway",
    help="Build caches as refs: commit, mount, move and take files out of file-system trees.",
    help_format="plaintext",
    version=__version__,
    default_parameter=Parameter(negative=(), show_default=False),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.meta.group_parameters = Group("Global options")
app.meta.suppress_keyboard_interrupt = False
for place, summary in COMMANDS.items():
    app.command(f"shipway.cli.{place}", help=summary, group_parameters=Group.create_default_parameters())
for group, (place, summary) in GROUPS.items():
    app.command(f"shipway.cli.{place}", name=group, help=summary)


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Path | None = None,
    root: Path | None = None,
    driver: str | None = None,
    remote: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=False)] = None,
    platform: str | None = None,
    json: bool = False,
) -> Any:
    """Run one command.

    Args:
        tokens: The command and its arguments.
        config: The configuration file; ~/.config/shipway/config.toml by default.
        root: The store's directory; ~/.local/share/shipway by default.
        driver: How trees are kept: overlay, native, or auto.
        remote: Where to look keys up that are not here; may be repeated.
        platform: Which image of a multi-platform one is meant: os/architecture[/variant]; this machine's by default.
        json: Print one JSON document instead of text.
    """
    command, bound, ignored = app.parse_args(tokens, print_error=False, exit_on_error=False)
    filled = {"session": Session(config, root, driver, remote, platform, json)} if "session" in ignored else {}
    return command(*bound.args, **bound.kwargs, **filled)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program with `argv` (by default the process's own) and return its exit code.

    The codes are listed in docs/reference/cli.md.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app.meta(arguments, print_error=False, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return fail(_usage(error), as_json=as_json)
    except ShipwayError as error:
        return fail(error, as_json=as_json)
    except KeyboardInterrupt:
        sys.stderr.write("shipway: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_stdout()
        return BROKEN_PIPE
    except OSError as error:
        _give_up_stdout()
        kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else ShipwayError
        return fail(kind(error.strerror or str(error), where=str(error.filename or "")), as_json=as_json)
    return 0


def fail(error: ShipwayError, *, as_json: bool) -> int:
    """Print an error on standard error, as one line or as JSON, and return the exit code it stands for."""
    if as_json:
        from json import dumps  # noqa: PLC0415  only a failing run pays for it

        sys.stderr.write(dumps(documents.error(error)) + "\n")
    else:
        sys.stderr.write(f"shipway: {visible(str(error))}\n")
    return error.exit_code


def _usage(error: CycloptsError) -> Invalid:
    said = " ".join(str(error).split()).partition(" Available commands:")[0].rstrip(".")  # `--help` has them all
    command = " ".join(["shipway", *(error.command_chain or ())])
    return Invalid(said, todo=f"see `{command} --help`")


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # An exception, so that `with` and `finally` clean up as they do on Ctrl-C.
    raise SystemExit(TERMINATED)


def _give_up_stdout() -> None:
    # The interpreter flushes stdout once more when it exits; that must not fail again.
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), sys.stdout.fileno())
