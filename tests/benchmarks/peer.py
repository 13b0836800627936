"""The peer: what is often written where Keyhall is not used, FastAPI with fastapi-users.

It follows the full example in the documentation of fastapi-users for SQLAlchemy: users in a database, access tokens as
JWT in the Authorization header, and the library's own router for `GET /me`. Uvicorn serves it as its
documentation recommends for speed, by uvloop and httptools, in one process without an access log. What Keyhall has
beyond this example, sessions among it, is not imitated: the peer has less to do.

It runs in an environment of its own (requirements/peer.txt) and imports nothing of Keyhall.
"""

from __future__ import annotations

import secrets
import socket
import sys
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated

import uvicorn
import uvloop
from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

SECRET = secrets.token_urlsafe(32)
LIFETIME_SECONDS = 3600


class Base(DeclarativeBase):
    """Of every table."""


class User(SQLAlchemyBaseUserTableUUID, Base):
    """The library's columns, no more."""


class UserRead(schemas.BaseUser[uuid.UUID]):
    """What an answer shows of a user."""


class UserUpdate(schemas.BaseUserUpdate):
    """What users may change of themselves."""


class UserCreate(schemas.BaseUserCreate):
    """What a new user is made of."""


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    """The library's."""

    reset_password_token_secret = SECRET
    verification_token_secret = SECRET


engine = create_async_engine(f"sqlite+aiosqlite:///{sys.argv[1]}")
new_session = async_sessionmaker(engine, expire_on_commit=False)


async def get_async_session() -> AsyncGenerator[AsyncSession, None]:
    """A session for a request."""
    async with new_session() as session:
        yield session


async def get_user_db(
    session: Annotated[AsyncSession, Depends(get_async_session)],
) -> AsyncGenerator[SQLAlchemyUserDatabase[User, uuid.UUID], None]:
    """The users, by that session."""
    yield SQLAlchemyUserDatabase(session, User)


async def get_user_manager(
    user_db: Annotated[SQLAlchemyUserDatabase[User, uuid.UUID], Depends(get_user_db)],
) -> AsyncGenerator[UserManager, None]:
    """Whoever manages them."""
    yield UserManager(user_db)


def get_jwt_strategy() -> JWTStrategy[User, uuid.UUID]:
    """How tokens are made and verified."""
    return JWTStrategy(secret=SECRET, lifetime_seconds=LIFETIME_SECONDS)


backend = AuthenticationBackend(
    name="jwt", transport=BearerTransport(tokenUrl="auth/jwt/login"), get_strategy=get_jwt_strategy
)
users = FastAPIUsers[User, uuid.UUID](get_user_manager, [backend])
app = FastAPI()
app.include_router(users.get_auth_router(backend), prefix="/auth/jwt", tags=["auth"])
app.include_router(users.get_users_router(UserRead, UserUpdate), tags=["users"])


async def prepared() -> str:
    """Make the database and a user; an access token of theirs."""
    async with engine.begin() as connection:
        await connection.execute(text("PRAGMA journal_mode=WAL"))  # as Keyhall has it
        await connection.run_sync(Base.metadata.create_all)
    async with new_session() as session:
        manager = UserManager(SQLAlchemyUserDatabase(session, User))
        user = await manager.create(UserCreate(email="owner@example.com", password=secrets.token_urlsafe(16)))
    return await get_jwt_strategy().write_token(user)


async def serve() -> None:
    """Serve on a free port, which is printed and then a token, until the process is ended."""
    token = await prepared()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, access_log=False, log_level="warning", http="httptools")
        print(listening.getsockname()[1], flush=True)  # noqa: T201 - whoever started us reads it
        print(token, flush=True)  # noqa: T201 - as above
        await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    uvloop.run(serve())
