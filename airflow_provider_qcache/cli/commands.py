"""Run the commands. Each function has the name of its command, and returns its exit code."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_qcache.cli import doctor as checks
from airflow_provider_qcache.cli.shares import change_of_shares, moved_share, ring_change
from airflow_provider_qcache.client import (
    Absence,
    DeleteResult,
    InvalidTable,
    QClient,
    QClientException,
)
from airflow_provider_qcache.client.ring import check_key
from airflow_provider_qcache.client.tables.sniffing import BEGINNING, Text, text_in
from airflow_provider_qcache.connection import InvalidConnection, parse_connection, settings_for
from airflow_provider_qcache.files.reading import GZIP, ZSTD
from airflow_provider_qcache.files.tables import MAGIC
from airflow_provider_qcache.hooks.node_check import LONGEST, check_nodes
from airflow_provider_qcache.operators._arguments import counted
from airflow_provider_qcache.protocol import CSV, JSON

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_provider_qcache.client import Place
    from airflow_provider_qcache.connection import ConnectionSettings

OK: Final = 0
NO: Final = 1
WRONG: Final = 2
UNREACHABLE: Final = 3

_HAS_TABLE: Final = {None: "yes", Absence.UNKNOWN: "unknown"}
_LOG: Final = logging.getLogger("airflow_provider_qcache")
_FIRST_ROWS: Final = 20
_EXPECTED_QUERY: Final = 'expected a JSON object, such as \'{"where": [">", "orders", 5]}\''
_OTHER_FORMATS: Final = (*MAGIC, GZIP, *ZSTD, b"PK\x03\x04")
_REFUSALS: Final = ("AuthenticationFailed", "CertificateRejected")
"""What the error of a Place begins with if repeating the command does not help."""
_RESETS: Final = (
    "READING STATISTICS RESETS THEM FOR EVERY READER: the counts are those since the last reading, "
    "and the next reading, whoever makes it, begins at zero."
)


class _WrongUse(Exception):
    """The arguments of a command are wrong."""


def run(name: str, arguments: argparse.Namespace) -> int:
    """Run the command of a name, and return its exit code; an error is printed to stderr."""
    if sys.stdout is None:
        _print_note("error: cannot write the result: stdout is closed")
        return WRONG
    try:
        with _logged_to_stderr():
            code: int = globals()[name](arguments)
            sys.stdout.flush()
    except BrokenPipeError:  # as `| head` closes it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except EOFError:
        why = "there was no answer to the question: set QCACHE_PASSWORD, or pass --yes"
    except UnicodeEncodeError as error:
        why = f"cannot print the result as {error.encoding}: set PYTHONIOENCODING=utf-8"
    except OSError as error:
        unnamed = error.errno is not None and error.filename is None
        why = f"cannot write the result: {error.strerror}" if unnamed else str(error)
    except (_WrongUse, InvalidConnection) as error:
        why = str(error)
    except QClientException as error:
        _print_note(f"error: {error}")
        return UNREACHABLE if error.transient else WRONG
    else:
        return code
    _print_note(f"error: {why}")
    return WRONG


@contextlib.contextmanager
def _logged_to_stderr() -> Iterator[None]:
    """Write this package's log to stderr: Airflow's handlers may write to stdout."""
    to_stderr = logging.StreamHandler(sys.stderr)
    propagate, _LOG.propagate = _LOG.propagate, False
    _LOG.addHandler(to_stderr)
    try:
        yield
    finally:
        _LOG.removeHandler(to_stderr)
        _LOG.propagate = propagate


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out the client's warnings about nodes, for a command that prints each node's error itself."""
    level = _LOG.level
    _LOG.setLevel(logging.ERROR)
    try:
        yield
    finally:
        _LOG.setLevel(level)


def settings_of(arguments: argparse.Namespace) -> ConnectionSettings:
    """The cluster that a command line names: its nodes, else its Airflow connection."""
    fields = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise _WrongUse(f"--set {text}: expected FIELD=VALUE, such as read_timeout=5")
        fields[name] = value
    if arguments.nodes:
        password = None if arguments.login is None else _password_of(arguments.login)
        return settings_for(arguments.nodes, login=arguments.login, password=password, **fields)
    if fields or arguments.login is not None:
        raise _WrongUse("--set and --login go with --nodes only; a connection has fields of its own")
    try:
        # Not the hook, whose look-up in a process that is no task leaves out Airflow's database.
        from airflow.models.connection import Connection  # noqa: PLC0415

        from airflow_provider_qcache.compat import AirflowNotFoundException  # noqa: PLC0415
    except ImportError as error:
        raise _WrongUse(
            "Airflow is not installed here, so there are no connections: pass the nodes as --nodes URL URL"
        ) from error
    try:
        return parse_connection(Connection.get_connection_from_secrets(arguments.conn_id))
    except AirflowNotFoundException as error:
        why = str(error)
        if (variable := f"AIRFLOW_CONN_{arguments.conn_id.upper()}") in os.environ:
            why += f". The environment variable {variable} is set, but is neither valid JSON nor a URI: "
            why += "correct it"
        raise _WrongUse(
            f"{why}. Pass another connection as --conn-id ID, or the nodes as --nodes URL URL"
        ) from error


def _password_of(login: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return os.environ.get("QCACHE_PASSWORD") or getpass.getpass(f"Password of {login}: ")
    except getpass.GetPassWarning as error:
        raise _WrongUse(
            f"--login {login}: there is no terminal to ask for the password: set QCACHE_PASSWORD"
        ) from error


def _client(settings: ConnectionSettings) -> QClient:
    # Someone waits: with no node left that is an error at once.
    try:
        return QClient(**settings.client_arguments({"wait_for_nodes": False}))
    except ValueError as error:  # a certificate file that cannot be read, two names of one node
        raise _WrongUse(str(error)) from error


# The results of commands: tables for people, JSON for scripts, and colours on a terminal only.


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(rows: Sequence[Mapping[str, Any]], *, bad: Iterable[int] = ()) -> None:
    """Print rows under the names of their columns, those that are ``bad`` in red; None shows as nothing.

    On a terminal rich lays the table out, where it is installed. Else each column is as wide as its longest
    value, and no line is cut. Nothing is printed without rows.
    """
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = ([row.get(name) for name in columns] for row in rows)
    texts = [["" if value is None else str(value) for value in row] for row in values]
    if sys.stdout.isatty():
        try:
            from rich.console import Console  # noqa: PLC0415
            from rich.table import Table  # noqa: PLC0415
            from rich.text import Text  # noqa: PLC0415
        except ImportError:
            pass
        else:
            table = Table()
            for column in columns:
                table.add_column(Text(column), overflow="fold")
            red = set(bad)
            for number, row in enumerate(texts):
                table.add_row(*map(Text, row), style="red" if number in red else None)
            Console().print(table)
            return
    lines = [columns, *texts]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _print_note(text: str) -> None:
    """Print to stderr what is not a result."""
    if sys.stderr is not None:  # print would write to stdout
        print(text, file=sys.stderr)


# Looking.


def nodes(arguments: argparse.Namespace) -> int:
    """Show each node, those in trouble first."""
    settings = settings_of(arguments)
    found = sorted(
        check_nodes(settings.client_arguments(), longest=LONGEST), key=lambda check: check.trouble is None
    )
    read: dict[str, Any] = {}
    if arguments.statistics:
        _print_note(_RESETS)
        with _client(settings) as client:
            read = client.node_statistics()
    rows = []
    for check in found:
        row: dict[str, Any] = {
            "node": check.node,
            "ok": check.trouble is None,
            "seconds": round(check.seconds, 6),
            "trouble": check.trouble,
            "same_as": check.same_as,
        }
        if arguments.statistics:
            row |= _statistics(read.get(check.node))
        rows.append(row)
    if arguments.output == "json":
        _print_json(rows)
    else:
        _print_nodes(rows, with_statistics=arguments.statistics)
    return OK if all(row["ok"] for row in rows) else NO


def _statistics(read: Any) -> dict[str, Any]:
    known = isinstance(read, dict)
    read = read if known else {}
    hits, misses = read.get("hit_count", 0), read.get("miss_count", 0)
    found = {
        "tables": read.get("dataset_count"),
        "bytes": read.get("cache_size"),
        "hits": hits,
        "misses": misses,
        "hit_rate": hits / (hits + misses) if hits + misses else None,
        "evicted": read.get("size_evict_count", 0),
        "expired": read.get("age_evict_count", 0),
        "since_seconds": read.get("statistics_duration"),
    }
    return found if known else dict.fromkeys(found)


def _print_nodes(rows: list[dict[str, Any]], *, with_statistics: bool) -> None:
    lines = []
    for row in rows:
        line = {"node": row["node"], "ms": f"{1000 * row['seconds']:.1f}"}
        if with_statistics:
            size, rate, since = row["bytes"], row["hit_rate"], row["since_seconds"]
            line |= {
                "tables": row["tables"],
                "bytes": None if size is None else f"{size:,.0f}",
                "hit rate": None if rate is None else f"{100 * rate:.1f} %",
                "evicted": row["evicted"],
                "expired": row["expired"],
                "since": None if since is None else f"{since:.0f} s",
            }
        line["health"] = "ok" if row["ok"] else row["trouble"]
        if row["same_as"]:
            line["health"] += f"; at the same address as {row['same_as']}"
        lines.append(line)
    _print_table(lines, bad=[i for i, row in enumerate(rows) if not row["ok"]])


def where(arguments: argparse.Namespace) -> int:
    """Show which nodes have a table, and whether readers find it."""
    settings = settings_of(arguments)
    with _without_warnings(), _client(settings) as client:
        places = client.locate(arguments.key)
    stored = None
    if not arguments.nodes:
        from airflow_provider_qcache.cli.stores import last_stores  # noqa: PLC0415  # it imports Airflow

        stored = last_stores(arguments.key, arguments.conn_id)
    # The node that readers ask: the first in their order that answers.
    asked = next((place for place in places if place.absence in (None, Absence.MISSING)), None)
    has_table = any(place.absence is None for place in places)
    if arguments.output == "json":
        home = places[0].node
        listed = [place.as_dict() for place in places]
        _print_json({"key": arguments.key, "home": home, "places": listed, "stored_by": stored})
    else:
        _print_table(
            [
                {
                    "order": "home" if place.position == 1 else place.position,
                    "node": place.node,
                    "table": _HAS_TABLE.get(place.absence, "no"),
                    "rows": None if place.rows is None else f"{place.rows:,}",
                    "why": place.error,
                }
                for place in places
            ],
            bad=[i for i, place in enumerate(places) if place.absence in (Absence.GONE, Absence.UNKNOWN)],
        )
        if asked is not None and places[0].absence is not None and has_table:
            print(f"\n{_what_readers_find(asked)}")
        if stored:
            print("\nLast stored by")
            _print_table(stored)
    if asked is not None and asked.absence is None:
        return OK
    unknown = any(place.absence is Absence.UNKNOWN for place in places)
    if any((place.error or "").startswith(_REFUSALS) for place in places):
        _print_note("error: a node cannot be asked: correct the credentials or the certificates")
        return WRONG
    if asked is None:  # every node may refuse because the ports are wrong
        _print_note("error: no node answers, so nothing is known about the table: check the nodes' addresses")
    return UNREACHABLE if asked is None or unknown else NO


def _what_readers_find(asked: Place) -> str:
    """What readers find of a table that its home node does not have, and what to do."""
    if asked.absence is None:
        return (
            f"The home node does not answer: readers find the table on {asked.node} meanwhile. Store it "
            "again when the home node is back: if it was restarted, it has lost the table; if it only did "
            "not respond, it may have an older one."
        )
    return (
        f"Readers do not find the table: they ask {asked.node}, which does not have it. The table was stored "
        "while that node was down, or by a writer that lists or spells the nodes differently. Store it again "
        "with the node list of the readers; doctor checks the spelling."
    )


def query(arguments: argparse.Namespace) -> int:
    """Print a query's rows."""
    try:
        q = {"limit": _FIRST_ROWS} if arguments.query is None else json.loads(arguments.query)
    except ValueError as error:
        raise _WrongUse(f"the query is not JSON: {error}; {_EXPECTED_QUERY}") from error
    if not isinstance(q, dict):
        raise _WrongUse(f"the query is {arguments.query}; {_EXPECTED_QUERY}")
    accept = CSV if arguments.format == "csv" else JSON
    with _client(settings_of(arguments)) as client:
        result = client.get(arguments.key, q, accept)
    if result is None:
        _print_note(f"no table under {arguments.key!r}")
        return NO
    if arguments.format == "table":
        rows = json.loads(result.content)
        _print_table([{name: _cell(value) for name, value in row.items()} for row in rows])
        _print_note(f"{len(rows):,} of {counted(result.unsliced_result_len, 'row')}")
    else:
        print(result.content.decode().removesuffix("\n"))
    return OK


def _cell(value: Any) -> str | None:
    return value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False)


def get(arguments: argparse.Namespace) -> int:
    """Write a table to a file."""
    target = Path(arguments.to)
    cannot = f"cannot write {arguments.to!r}"
    if target.exists() and not target.is_file():
        raise _WrongUse(
            f"{cannot}: it is no regular file. To print a table, use query KEY '{{}}' --format csv"
        )
    if not target.parent.is_dir():
        raise _WrongUse(f"{cannot}: there is no directory {str(target.parent)!r}")
    accept = JSON if target.suffix.lower() == ".json" else CSV  # as the link is named
    target = target.resolve()  # a link stays, and its file is replaced
    with _client(settings_of(arguments)) as client:
        result = client.get(arguments.key, {}, accept)
    if result is None:
        _print_note(f"no table under {arguments.key!r}; {target} is as it was")
        return NO
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        beside.write_bytes(result.content)
        beside.replace(target)
    except OSError as error:
        raise _WrongUse(f"{cannot}: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)
    done = {
        "key": arguments.key,
        "file": str(target),
        "node": result.node,
        "rows": result.unsliced_result_len,
        "bytes": len(result.content),
    }
    if arguments.output == "json":
        _print_json(done)
    else:
        size = f"{counted(done['rows'], 'row')}, {counted(done['bytes'], 'byte')}"
        print(f"{size} from {result.node} in {target}")
    return OK


# Changing.


def put(arguments: argparse.Namespace) -> int:
    """Store a file."""
    path = Path(arguments.file)
    if not path.is_file():
        why = "it is not a file" if path.exists() else "there is no such file"
        raise _WrongUse(f"cannot store {arguments.file!r}: {why}")
    with path.open("rb") as file:
        beginning = file.read(BEGINNING)
    if beginning.startswith(_OTHER_FORMATS):
        raise _WrongUse(
            f"cannot store {arguments.file!r}: it is Parquet, Arrow or compressed, and put takes CSV and "
            "JSON. QCachePostOperator(source_path=…) takes such files"
        )
    is_json = path.suffix.lower() == ".json" or text_in(beginning) is Text.OBJECTS
    content_type = JSON if is_json else CSV
    headers = {"X-QCache-types": arguments.types} if arguments.types else None
    with _client(settings_of(arguments)) as client:
        try:
            result = client.post(arguments.key, path, content_type, headers, evict_stale=True)
        except InvalidTable as error:
            raise _WrongUse(f"{arguments.file}: {error}") from error
    if arguments.output == "json":
        _print_json(result.as_dict())
    else:
        rows = "" if result.rows is None else f"{counted(result.rows, 'row')}, "
        print(f"table {arguments.key!r} is stored on {result.node}: {rows}{counted(result.bytes, 'byte')}")
        if result.failed_over:
            print(f"its home node {result.home_node} was down")
    if result.may_hold_old:
        _print_note(f"an older table may still be on {', '.join(result.may_hold_old)}")
    return OK


def delete(arguments: argparse.Namespace) -> int:
    """Delete tables, after a question."""
    settings = settings_of(arguments)
    keys = list(dict.fromkeys(arguments.keys))
    for key in keys:
        check_key(key)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise _WrongUse("delete asks before it deletes, and this is no terminal: pass --yes")
        asked = "all nodes" if arguments.all_nodes else "their first living node"
        _print_note("\n  ".join([f"To delete, on {asked} of {len(settings.nodes)}:", *keys]))
        answer = input(f"Delete {counted(len(keys), 'table')}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            _print_note("nothing was deleted")
            return NO
    with _client(settings) as client:
        report = client.delete_many(keys, all_nodes=arguments.all_nodes, raise_on_failure=False)
    results = [report.succeeded.get(key) or report.failed[key] for key in keys]
    complete = [getattr(result, "complete", False) for result in results]
    if arguments.output == "json":
        errors = [str(result) if isinstance(result, Exception) else None for result in results]
        _print_json([
            {"key": key, "complete": done, "outcomes": _outcomes(result), "error": error}
            for key, done, result, error in zip(keys, complete, results, errors, strict=True)
        ])  # fmt: skip
    else:
        rows = [
            {"key": key, "node": node, "outcome": outcome}
            for key, result in zip(keys, results, strict=True)
            for node, outcome in _outcomes(result).items()
        ]
        _print_table(rows, bad=[i for i, row in enumerate(rows) if row["outcome"] != "confirmed"])
        for result in results:
            if isinstance(result, Exception):
                _print_note(f"error: {result}")
            elif isinstance(result, DeleteResult) and result.unreachable:
                _print_note(
                    f"table {result.key!r} may still be on {', '.join(result.unreachable)}: "
                    "repeat the command when the node answers"
                )
    failed = [result for result in results if isinstance(result, QClientException)]
    if any(not error.transient for error in failed):
        return WRONG
    if len(failed) == len(results):
        return UNREACHABLE
    return OK if all(complete) else NO


def _outcomes(result: Any) -> dict[str, str]:
    result = getattr(result, "result", result)  # an error may have the result
    return {node: str(outcome) for node, outcome in getattr(result, "outcomes", {}).items()}


# The ring.


def ring(arguments: argparse.Namespace) -> int:
    """Show each node's share, and which keys a change would move."""
    settings = settings_of(arguments)
    for key in arguments.keys:
        check_key(key)
    try:
        before, after = ring_change(settings.nodes, arguments.add, arguments.remove)
    except ValueError as error:
        raise _WrongUse(f"--{error}") from error
    changes = bool(arguments.add or arguments.remove)
    shares = change_of_shares(before, after)
    homes = [(key, before.node_for_key(key), after.node_for_key(key)) for key in arguments.keys]

    def row(now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
        return {**now, **then} if changes else now

    if arguments.output == "json":
        _print_json({
            "nodes": [
                row({"node": each["node"], "share": each["share"]}, {"share_after": each["share_after"]})
                for each in shares
            ],
            **row({}, {"moved_share": moved_share(before, after)}),
            "keys": [
                row({"key": key, "home": home}, {"home_after": then, "moves": home != then})
                for key, home, then in homes
            ],
        })  # fmt: skip
        return OK
    _print_table([
        row(
            {"node": each["node"], "share of keys": _percent(each["share"])},
            {"after the change": _percent(each["share_after"])},
        )
        for each in shares
    ])  # fmt: skip
    if changes:
        moved = _percent(moved_share(before, after))
        print(f"\n{moved} of all keys get another home; store their tables again.")
    if homes:
        print()
        _print_table([
            row({"key": key, "home": home}, {"after the change": then if home != then else "stays"})
            for key, home, then in homes
        ])  # fmt: skip
    return OK


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.2f} %"


def doctor(arguments: argparse.Namespace) -> int:
    """Show what is wrong with a connection, and what to do."""
    try:
        settings = settings_of(arguments)
    except InvalidConnection as error:
        found = [
            checks.Finding("error", "connection", str(error), "Correct the connection as the error says.")
        ]
    else:
        if arguments.statistics:
            _print_note(_RESETS)
        found = checks.examine(
            settings, table_bytes=arguments.table_bytes, read_statistics=arguments.statistics
        )
    if arguments.output == "json":
        _print_json([finding._asdict() for finding in found])
    elif not found:
        print("Nothing is wrong.")
    else:
        for finding in found:
            print(f"{finding.level}: {finding.subject}: {finding.what}\n    {finding.advice}")
    return NO if found else OK
