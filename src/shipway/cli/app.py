"""The program: global options, the commands, and how it fails."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from shipway import __version__
from shipway.cli import (
    cachemounts,
    combining,
    configuration,
    demonstration,
    documents,
    explain,
    files,
    indexes,
    keys,
    login,
    mounts,
    moving,
    records,
    serving,
    space,
    verify,
)
from shipway.cli.session import Session
from shipway.cli.text import visible
from shipway.errors import Invalid, NoSpace, ShipwayError

INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143


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
app.command(records.commit)
app.command(records.ls)
app.command(records.show)
app.command(files.files)
app.command(files.cat)
app.command(files.extract)
app.command(files.checksum)
app.command(mounts.mount)
app.command(mounts.umount)
app.command(moving.push)
app.command(moving.convert)
app.command(moving.pull)
app.command(explain.explain)
app.command(combining.merge)
app.command(combining.diff)
app.command(keys.app)
app.command(indexes.app)
app.command(cachemounts.app)
app.command(space.du)
app.command(space.prune)
app.command(verify.verify)
app.command(configuration.config)
app.command(login.login)
app.command(login.logout)
app.command(serving.serve)
app.command(demonstration.demo)


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
    logging.getLogger("stamina").addHandler(logging.NullHandler())  # retries that come to nothing end in an error
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
