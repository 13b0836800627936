"""One process of Keyhall: verified keys first, then the requested components, until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import logging
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.bootstrap import log_to_stderr
from app.bootstrap.keys import open_keys, open_keys_when_created
from app.bootstrap.services import open_services
from app.bootstrap.sources import import_at_start
from app.domain.errors import AddressInUse, BotLoginFailed, ConfigInvalid, StorageError
from app.domain.keys import Environment
from app.infrastructure.clock import SystemClock
from app.infrastructure.invocation import runnable
from app.infrastructure.memory import share_one_arena
from app.infrastructure.tracing import open_tracing
from app.services.keys.loaded import record_loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from app.bootstrap.database import StartupRetry
    from app.bootstrap.keys import OpenKeys
    from app.domain.secrets import SecretText
    from app.services import Services
    from app.services.outside_secrets import OutsideSource
    from app.settings import Settings

log = logging.getLogger(__name__)

SHUTDOWN_WITHIN_SECONDS = 9.0
"""Supervisors kill after ten. Work that waits for a database or a disk then is left as a crash would leave it."""

IMPORT_BEFORE_SERVING_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The components of this process; ``sync`` sends the commands to Discord even where they did not change."""

    web: bool = False
    bot: bool = False
    worker: bool = False
    sync: bool = False

    @property
    def kind(self) -> str:
        """How the process is named among the others."""
        on = [name for name in ("web", "bot", "worker") if getattr(self, name)]
        return "run" if len(on) > 1 else on[0]


def run_process(settings: Settings, components: Components) -> None:
    """Run until SIGTERM or SIGINT. Raises StartupError when the start cannot go on."""
    share_one_arena()
    hide = log_to_stderr(settings, settings.log_level)
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(_until_signalled(_serve(settings, components, hide)))


def _fast_loop() -> Any:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; a signal cancels it, and all that it opened closes in reverse."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled.set)
    working = asyncio.create_task(work, name="keyhall")
    waiting = asyncio.create_task(signalled.wait(), name="signals")
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        log.info("shutting down")
        ends = loop.time() + SHUTDOWN_WITHIN_SECONDS
        working.cancel()
        await asyncio.wait({working}, timeout=SHUTDOWN_WITHIN_SECONDS)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=max(0.0, ends - loop.time()))
        if left:
            log.error("the shutdown took longer than %.1f seconds and was cut short", SHUTDOWN_WITHIN_SECONDS)
            logging.shutdown()
            os._exit(0)  # the end of the loop would wait for the tasks that did not end
    if not working.cancelled():
        await working


async def _serve(settings: Settings, components: Components, hide: Callable[[SecretText], None]) -> None:
    _require_what_sides_need(settings, components)
    async with AsyncExitStack() as stack:
        # Bound before anything is changed, so that a taken address halts first; it listens only once the keys are
        # verified.
        listener = stack.enter_context(bind(settings.web_host, settings.web_port)) if components.web else None
        name = f"{socket.gethostname()}/{os.getpid()}"
        tracer = await stack.enter_async_context(
            open_tracing(settings.traces_endpoint, kind=components.kind, process=name)
        )
        creates = components.web or components.bot
        opening = open_keys(settings, may_create=True) if creates else open_keys_when_created(settings)
        opened = await stack.enter_async_context(opening)
        if opened.created:
            say(f"NEW INSTALL {opened.keys.install_id} at {settings.database_url.name}")
        outside = _outside(settings, opened, hide)
        services = await stack.enter_async_context(
            open_services(settings, opened, kind=components.kind, outside=outside, tracer=tracer)
        )
        if settings.legacy_users_json is not None:
            importing = asyncio.create_task(import_at_start(services, settings.legacy_users_json), name="import")
            stack.push_async_callback(_cancelled, importing)
            # Mostly done before anybody is served; an import that takes longer goes on beside.
            await asyncio.wait({importing}, timeout=IMPORT_BEFORE_SERVING_SECONDS)
        if listener is not None:
            await _start_web(stack, services, settings, listener, opened.retry)
        tasks = []
        loaded = _Loaded(opened, components)
        await loaded.note_at_start()
        if components.bot:
            tasks.append(asyncio.create_task(_run_bot(services, settings, components, loaded), name="bot"))
        if components.worker:
            from app.worker.loop import run_worker  # noqa: PLC0415

            tasks.append(asyncio.create_task(run_worker(services), name="worker"))
        if outside is not None:
            tasks.append(asyncio.create_task(services.outside_secrets.keep_up(), name="secrets"))
        for task in tasks:
            stack.push_async_callback(_cancelled, task)
        # Objects of the start stay until the end: no garbage collection has to scan them during a request.
        gc.freeze()
        if not tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()


def _outside(settings: Settings, opened: OpenKeys, hide: Callable[[SecretText], None]) -> OutsideSource | None:
    if settings.stored_secret is None:
        return None
    from app.bootstrap.secrets import outside_source  # noqa: PLC0415 - for starts that use it alone

    return outside_source(settings, opened, hide)


def _require_what_sides_need(settings: Settings, components: Components) -> None:
    """Halt on what will fail later before anything was changed. Raises ConfigInvalid."""
    if components.bot and not components.web and settings.discord_bot_token is None:
        raise ConfigInvalid("DISCORD_BOT_TOKEN is not set", remedy="set DISCORD_BOT_TOKEN or DISCORD_BOT_TOKEN_FILE")
    web = settings.web_extensions if components.web else ()
    bot = settings.bot_extensions if components.bot and settings.discord_bot_token is not None else ()
    for setting, modules in (("WEB_EXTENSIONS", web), ("BOT_EXTENSIONS", bot)):
        for module in modules:
            try:
                importlib.import_module(module)
            except Exception as error:
                raise ConfigInvalid(
                    f"{setting}: {module} cannot be imported ({type(error).__name__})",
                    remedy=f"correct {module}, or take it out of {setting}",
                ) from error


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _start_web(
    stack: AsyncExitStack, services: Services, settings: Settings, listener: socket.socket, retry: StartupRetry
) -> None:
    from app.web import WebOptions  # noqa: PLC0415
    from app.web.server import build_app, serving  # noqa: PLC0415

    options = WebOptions(
        public_url=settings.public_url,
        trusted_proxies=settings.trusted_proxies,
        production=settings.app_env is Environment.PRODUCTION,
        extensions=settings.web_extensions,
        discord_client_id=settings.discord_client_id,
    )
    app = build_app(services, options)
    try:
        await stack.enter_async_context(serving(app, listener))
    except OSError as error:
        raise _cannot_listen(settings.web_host, settings.web_port, error) from error
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = settings.public_url or f"http://{shown}:{port}"
    say(f"serving {address} (listening on {shown}:{port})")
    if options.production and not address.startswith("https://"):
        say("production demands https: set PUBLIC_URL to the https address; until then only the probes are answered")
    if not await retry.run(services.identity.owner_ever_existed):
        # Not through the logger: a token in a log outlives its use.
        token = services.keys.setup_token().reveal()
        say(f"setup token={token}")
        # Behind the "#", which browsers send to nobody.
        say(f"open {address}/setup#{token} to make the first owner")


class _Loaded:
    """Notes once in the audit trail that this process has loaded the keys: when nothing can halt its start any more."""

    def __init__(self, opened: OpenKeys, components: Components) -> None:
        self._opened = opened
        self._components = components
        self._noted = False
        self._noting: asyncio.Task[None] | None = None

    async def note_at_start(self) -> None:
        """Note it now, unless Discord may still refuse the login of a bot that is alone, which halts its start."""
        if self._components.web or self._components.worker:
            await self._note()

    def note_after_login(self) -> None:
        """Note it soon, where it is not noted yet."""
        if not self._noted:
            self._noting = asyncio.create_task(self._note(), name="keys loaded")

    async def _note(self) -> None:
        self._noted = True
        try:
            await record_loaded(self._opened.storage, self._opened.keys, SystemClock(), kind=self._components.kind)
        except StorageError as error:
            log.warning("could not note in the audit trail that the keys were loaded: %s", error)


async def _run_bot(services: Services, settings: Settings, components: Components, loaded: _Loaded) -> None:
    if settings.discord_bot_token is None:
        say("DISCORD_BOT_TOKEN is not set: the web runs alone, without the bot")
        await _forget_bot(services)
        await asyncio.Event().wait()
        return
    from app.bot import BotOptions  # noqa: PLC0415
    from app.bot.supervisor import run_bot  # noqa: PLC0415

    options = BotOptions(
        token=settings.discord_bot_token,
        client_id=settings.discord_client_id,
        api_base=settings.discord_api_base,
        gateway_url=settings.discord_gateway_url,
        message_content=settings.discord_message_content,
        shard_ids=settings.shard_ids,
        shard_count=settings.shard_count,
        extensions=settings.bot_extensions,
        public_url=settings.public_url,
        guild_allowlist=settings.guild_allowlist,
    )

    def ready(address: str) -> None:
        say(f"invite the bot: {address}")
        loaded.note_after_login()  # a login that Discord refuses leaves every table as it was

    try:
        await run_bot(services, options, sync=components.sync, ready=ready)
    except BotLoginFailed as error:
        if not components.web:
            raise
        # The web stays up and says so: people can still reach what they stored.
        say(f"the bot stopped: {error.happened} — {error.remedy}")
        log.error("the bot stopped: %s", error.happened)  # noqa: TRY400 - the cause is said, a traceback adds nothing
        await asyncio.Event().wait()


async def _forget_bot(services: Services) -> None:
    """Let the web no longer show why an earlier bot stopped."""
    try:
        await services.bot_state.switched_off()
    except StorageError as error:
        log.warning("could not note for the web that there is no bot: %s", error)


def say(text: str) -> None:
    """Print a line for the operator, on standard error."""
    print(runnable(f"keyhall: {text}"), file=sys.stderr, flush=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet. Raises AddressInUse, ConfigInvalid."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _cannot_listen(host: str, port: int, error: OSError) -> AddressInUse | ConfigInvalid:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"{host} port {port} is taken by another process", remedy="end that process, or set another WEB_PORT"
        )
    return ConfigInvalid(
        f"cannot listen on WEB_HOST {host}, WEB_PORT {port} ({error.strerror})", remedy="correct WEB_HOST or WEB_PORT"
    )
