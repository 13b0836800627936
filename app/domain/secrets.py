"""Types that hold a secret and show nothing.

``reveal()`` is the only way to the value, so every place that handles a secret can be found by that word. Equality is
timing-safe; repr, str, format, pickle, copy and dataclass ``asdict`` give nothing away.
"""

from __future__ import annotations

import hmac
from typing import Generic, NoReturn, TypeVar

_T = TypeVar("_T", str, bytes)


class _Secret(Generic[_T]):
    __slots__ = ("__value",)

    def __init__(self, value: _T) -> None:
        self.__value: _T = value

    def reveal(self) -> _T:
        """The secret itself. Keep it in a local variable, as short as possible."""
        return self.__value

    def __len__(self) -> int:
        return len(self.__value)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return hmac.compare_digest(_as_bytes(self.__value), _as_bytes(other.reveal()))

    def __hash__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} is not hashable: a hash would be a trace of the secret")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} hidden>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be pickled")

    def __copy__(self) -> _Secret[_T]:
        return self

    def __deepcopy__(self, memo: object) -> _Secret[_T]:
        return self


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


class SecretText(_Secret[str]):
    """A secret that people type or providers issue: a password, an API key, a token."""

    __slots__ = ()


class SecretBytes(_Secret[bytes]):
    """Key material."""

    __slots__ = ()
