"""Refusals as they travel."""

from __future__ import annotations


class ApiError(Exception):
    """`status` is also the error code; `cs` the code of the exception's class, None where the real one sends none."""

    def __init__(self, status: int, text: str, cs: int | None = 9999, *, wrapper: str | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.cs, self.wrapper = status, text, cs, wrapper


INVALID, DENIED = 4350, 4365  # InvalidParameterValueException, PermissionDeniedException


def invalid(text: str) -> ApiError:
    return ApiError(431, text, INVALID)


def denied(text: str) -> ApiError:
    return ApiError(531, text, DENIED)


def unknown(command: str, name: str, value: str) -> ApiError:
    return ApiError(
        431,
        f"Unable to execute API command {command.lower()} due to invalid value. Invalid parameter {name} value={value} due to "
        "incorrect long value format, or entity does not exist or due to incorrect parameter annotation for the field in api "
        "cmd class.",
    )


def unauthenticated(wrapper: str | None = None) -> ApiError:
    """One sentence for a wrong signature, an expired request, an unknown key and an unknown command."""
    return ApiError(401, "unable to verify user credentials and/or request signature", None, wrapper=wrapper)
