"""The one error with which the table engine answers a user's mistake."""


class RequestError(Exception):
    """A request that cannot be served as it stands.

    Attributes:
        status: the HTTP status that QCache 0.9.3 answers in this situation, 500 for many mistakes.
        message: what the mistake was, in plain words; sent in the body.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def malformed(message: str, subject: object) -> RequestError:
    """The error for a malformed query, naming the part of it that is wrong.

    QCache prints that part into its answer. Where it is a text outside ASCII printing fails there, and the
    answer is 500 instead of 400.
    """
    status = 500 if isinstance(subject, str) and not subject.isascii() else 400
    return RequestError(status, f"{message}: {subject!r}")
