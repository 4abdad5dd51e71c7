"""Names, arguments and help of the commands; the other modules of this package run them.

Each start of Airflow's command line imports this module, so it imports nothing heavy.
"""

from __future__ import annotations

import argparse
import functools
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.cli.cli_config import CLICommand

EXIT_CODES: Final = """\
exit codes:
  0  done, and all is well
  1  the answer is no: a node in trouble, no table that readers find, a finding of doctor, a delete that is
     not complete
  2  the command, the connection, the key, the file or the query is wrong: a node refused it, or answered 500
  3  the nodes could not be asked; the command may succeed later
  130  interrupted by Ctrl-C
"""

_INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


class Argument:
    """An argument, as ``add_argument`` of argparse and Airflow's Arg both take it."""

    def __init__(self, *flags: str, **options: Any) -> None:
        self.flags = flags
        self.options = options


def _bytes(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of bytes, 1 or more")
    return int(text)


class Command(NamedTuple):
    """One command; the function of the same name in `commands` runs it."""

    name: str
    help: str
    description: str
    examples: tuple[str, ...]
    own_arguments: tuple[Argument, ...]

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Its own arguments, and those of every command; ``query`` has a choice of formats of its own."""
        return (*self.own_arguments, *_CLUSTER, *(() if self.name == "query" else (_OUTPUT,)))

    def epilog(self, program: str) -> str:
        """The examples and the exit codes."""
        lines = [f"  {program} {self.name} {example}".rstrip() for example in self.examples]
        return "\n".join(["examples:", *lines, "", EXIT_CODES])


_CLUSTER: Final = (
    Argument(
        "--nodes",
        nargs="+",
        metavar="URL",
        help="the nodes, spelled as readers spell them, in place of a connection; needs no Airflow. Write "
        "KEY and FILE before it, or -- after its last URL",
    ),
    Argument("--conn-id", default="qcache_default", help="the Airflow connection: qcache_default by default"),
    Argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="with --nodes, a field of the connection, such as read_timeout=5 or ca_file=/path; repeatable",
    ),
    Argument(
        "--login",
        help="with --nodes, the user of basic auth; its password is read from QCACHE_PASSWORD, or asked for",
    ),
)
_OUTPUT: Final = Argument(
    "--output",
    choices=("table", "json"),
    default="table",
    help="table for people (the default), json for scripts",
)
_KEY: Final = Argument("key", metavar="KEY", help="the key of the table")

COMMANDS: Final = (
    Command(
        "nodes",
        "Show each node with its health and latency",
        "Ask every node for its status, and show those in trouble first.",
        ("", "--nodes http://host1:9401 http://host2:9401", "--statistics --output json"),
        (
            Argument(
                "--statistics",
                action="store_true",
                help="show tables, bytes and hit rate too; READING THEM RESETS THEM FOR EVERY READER",
            ),
        ),
    ),
    Command(
        "where",
        "Show which nodes have a table, and whether readers find it",
        "Ask every node for a key, in the order in which readers ask them: the home node first, then the "
        "fallback nodes. On Airflow 3 it also shows the last tasks that stored the table, from Airflow's "
        "database.",
        ("orders", "orders --nodes http://host1:9401 http://host2:9401 --output json"),
        (_KEY,),
    ),
    Command(
        "query",
        "Query a table",
        "Query a table as a reader does. Without a query, its first 20 rows are shown.",
        (
            "orders",
            """orders '{"where": [">", "orders", 9]}' --format csv""",
            """orders '{"where": ["==", "country", "\\"JP\\""]}'""",
        ),
        (
            _KEY,
            Argument(
                "query",
                nargs="?",
                metavar="JSON",
                help="the query, in QCache's language; a text value has quotes within its quotes",
            ),
            Argument("--format", choices=("table", "csv", "json"), default="table", help="table by default"),
        ),
    ),
    Command(
        "get",
        "Write a whole table to a file",
        "Write a whole table to a file, as JSON where its name ends in .json, else as CSV. The file is "
        "replaced in one move, once the whole table has arrived.",
        ("orders -o orders.csv", "orders -o orders.json"),
        (
            _KEY,
            Argument("-o", "--to", required=True, metavar="FILE", help="the file to write"),
        ),
    ),
    Command(
        "put",
        "Store a file as a table",
        "Store a file of CSV, or of a JSON list of objects, under a key, and delete older copies of the "
        "table from the other nodes. The file is checked before a node drops the table that it has.",
        ("orders orders.csv", "orders orders.csv --types 'zip=string;country=enum'"),
        (
            _KEY,
            Argument("file", metavar="FILE", help="the file to store"),
            Argument("--types", metavar="TYPES", help="types of columns, as in zip=string;country=enum"),
        ),
    ),
    Command(
        "delete",
        "Delete tables",
        "Delete tables, after a question. Without --all-nodes only the first living node of a key's order is "
        "asked, and a copy on another node stays.",
        ("orders --all-nodes", "orders orders_2025 --all-nodes --yes"),
        (
            Argument("keys", nargs="+", metavar="KEY", help="the keys of the tables"),
            Argument("--all-nodes", action="store_true", help="ask every node, those in trouble too"),
            Argument("-y", "--yes", action="store_true", help="do not ask"),
        ),
    ),
    Command(
        "ring",
        "Show each node's share of the keys, and what a change would move",
        "Show each node's share of all keys. With --add or --remove, show which share of the keys would get "
        "another home; with keys, show their homes now and then. No node is asked.",
        ("", "--remove http://host3:9401", "orders sales --add http://host4:9401"),
        (
            Argument("keys", nargs="*", metavar="KEY", help="keys to show the homes of"),
            Argument("--add", action="append", default=[], metavar="URL", help="a node to add; repeatable"),
            Argument(
                "--remove", action="append", default=[], metavar="URL", help="a node to remove; repeatable"
            ),
        ),
    ),
    Command(
        "doctor",
        "Check a connection as an expert would",
        "Check the connection, the environment and the answers of the nodes for mistakes: spelling, two "
        "names of one node, timeouts, TLS, proxies, credentials, clocks. Each finding says what to do.",
        ("", "--conn-id qcache_orders --table-bytes 200000000", "--nodes http://host1:9401 --output json"),
        (
            Argument(
                "--table-bytes",
                type=_bytes,
                metavar="N",
                help="the size of the largest table that is stored, to check timeouts against",
            ),
            Argument(
                "--statistics",
                action="store_true",
                help="check timeouts against the nodes' statistics too; READING RESETS THEM FOR EVERY READER",
            ),
        ),
    ),
)


def _run(name: str, arguments: argparse.Namespace) -> int:
    try:
        from airflow_provider_qcache.cli.commands import run  # noqa: PLC0415  # it loads requests

        return run(name, arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The parser of ``python -m airflow_provider_qcache``."""
    program = "python -m airflow_provider_qcache"
    whole = argparse.ArgumentParser(
        prog=program, description="Look at and change what is in a QCache cluster.", allow_abbrev=False
    )
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        of_command = commands.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog(program),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for argument in command.arguments:
            of_command.add_argument(*argument.flags, **argument.options)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of ``python -m airflow_provider_qcache``, and return its exit code."""
    parsed = parser().parse_args(arguments)
    return _run(parsed.command, parsed)


def get_qcache_cli_commands() -> list[CLICommand]:
    """The group ``airflow qcache``, for Airflow 3: provider_info names this function."""
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand  # noqa: PLC0415

    actions = [
        ActionCommand(
            name=command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog("airflow qcache"),
            func=functools.partial(_run_and_exit, command.name),
            args=[Arg(flags=argument.flags, **argument.options) for argument in command.arguments],
        )
        for command in COMMANDS
    ]
    return [GroupCommand("qcache", "Look at and change what is in a QCache cluster", actions)]


def _run_and_exit(name: str, arguments: argparse.Namespace) -> None:
    if code := _run(name, arguments):
        raise SystemExit(code)
