"""The statements of a person's list of credentials.

They read the rows of one person by two indexes, of the owner and of the sharer, and sort those: a quota keeps them few
(decision record 0049). Rows beyond the page give their place alone; no ciphertext is read of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)

from app.domain.credential_lists import ListFilter, ListPlace, Need, Tab
from app.domain.credentials import SOON, OwnerKind, Status
from app.infrastructure.database.schema import LIVE, REMOVED, SHARED, api_credentials

_ROW: Final = api_credentials.c


def _rank(need: Need) -> ColumnElement[int]:
    return literal_column(str(int(need)), Integer)


# As `need` has it (domain/credential_lists.py).
_NEED: Final = case(
    (REMOVED, _rank(Need.NOTHING)),
    (_ROW.status == Status.UNREADABLE, _rank(Need.UNREADABLE)),
    (_ROW.status == Status.REFUSED, _rank(Need.REFUSED)),
    (_ROW.expires_at <= bindparam("now"), _rank(Need.EXPIRED)),
    (_ROW.expires_at <= bindparam("soon"), _rank(Need.EXPIRING)),
    else_=_rank(Need.NOTHING),
)
_ORDER: Final = (_NEED, _ROW.label_key, _ROW.id)
_NEEDY: Final = _rank(Need.NOTHING) > _NEED

_OWNED: Final = and_(_ROW.owner_kind == OwnerKind.USER, _ROW.owner_id == bindparam("user"))
_SHARED: Final = and_(SHARED, _ROW.created_by == bindparam("user"))
_RESTORABLE: Final = _ROW.deleted_at > bindparam("restorable_since")
_TABS: Final[Mapping[Tab, tuple[ColumnElement[bool], ...]]] = {
    Tab.ALL: (or_(_OWNED, _SHARED), LIVE),
    Tab.ATTENTION: (or_(_OWNED, _SHARED), LIVE, _NEEDY),
    Tab.SHARED: (_SHARED, LIVE),
    Tab.REMOVED: (or_(_OWNED, _SHARED), _RESTORABLE),
}


def _having(words: int) -> list[ColumnElement[bool]]:
    """Every word stands in the label or in the provider."""
    patterns: list[BindParameter[str]] = [bindparam(f"word_{number}") for number in range(words)]
    return [or_(_ROW.label_key.like(each, escape="\\"), _ROW.provider.like(each, escape="\\")) for each in patterns]


@cache
def page_statement(
    columns: Select[*tuple[Any, ...]], tab: Tab, words: int, *, begun: bool, backwards: bool
) -> Select[*tuple[Any, ...]]:
    """The page of a tab after a place, or ``backwards`` the one before it, in the order of the list either way."""
    listed = select(_ROW.id).where(*_TABS[tab], *_having(words)).correlate(None)
    if begun:
        place = tuple_(bindparam("place_need"), bindparam("place_label"), bindparam("place_id"))
        listed = listed.where(tuple_(*_ORDER) < place if backwards else tuple_(*_ORDER) > place)
    listed = listed.order_by(*(each.desc() for each in _ORDER) if backwards else _ORDER)
    return columns.where(_ROW.id.in_(listed.limit(bindparam("most", type_=Integer())))).order_by(*_ORDER)


@cache
def counts_statement(words: int) -> Select[*tuple[Any, ...]]:
    """The numbers of the tabs, in their order."""
    return select(
        func.count().filter(LIVE),
        func.count().filter(LIVE, _NEEDY),
        func.count().filter(LIVE, SHARED),
        func.count().filter(_RESTORABLE),
    ).where(or_(_OWNED, _SHARED), *_having(words))


def parameters(wanted: ListFilter, place: ListPlace | None = None) -> Mapping[str, object]:
    """The values that the statements take."""
    values = {
        "user": wanted.user_id,
        "now": wanted.now,
        "soon": wanted.now + SOON,
        "restorable_since": wanted.restorable_since,
        **{f"word_{number}": f"%{_literal(word)}%" for number, word in enumerate(wanted.words)},
    }
    if place is None:
        return values
    return values | {"place_need": int(place.need), "place_label": place.label_key, "place_id": place.id}


def _literal(word: str) -> str:
    """The word, in which LIKE finds no wildcard."""
    return "".join(f"\\{each}" if each in "\\%_" else each for each in word)
