"""Red-DiscordBot's shared API tokens, in the JSON of its core: `core/settings.json` of an instance's data path.

Red keeps them under the identifier "0" of its core, in a group of two levels, service and token name
(redbot/core/bot.py, `SHARED_API_TOKENS`); releases before 3.2 kept them in the global settings as `api_tokens`.
"""

from __future__ import annotations

from typing import Final

from app.domain.imports import ImportStopped, Source, shown
from app.services.imports.texts import Object, json_of, text_of
from app.services.imports.users_json import add_key

SETTINGS_FILES: Final = ("core/settings.json", "settings.json")
"""Where the file is, from the instance's data path, or from its directory `core`."""
_CORE: Final = "0"


def red_settings(content: bytes, file: str) -> Source:
    """The shared API tokens. Raises ImportStopped where the file is not that of Red's core."""
    document = json_of(text_of(content, file), file)
    core = document.get(_CORE) if isinstance(document, Object) else None
    if not isinstance(core, Object):
        raise ImportStopped(f"{file} is not the settings file of Red's core")
    source = Source("red")
    old = core.get("GLOBAL")
    groups = {
        f"{_CORE}.SHARED_API_TOKENS": core.get("SHARED_API_TOKENS"),
        f"{_CORE}.GLOBAL.api_tokens": old.get("api_tokens") if isinstance(old, Object) else None,
    }
    for place, services in groups.items():
        if not isinstance(services, Object):
            continue
        for service, tokens in services.items():
            where = f"{file}: {place}.{shown(service)}"
            if isinstance(tokens, Object):
                for name, value in tokens.items():
                    add_key(source, None, name, value, f"{where}.{shown(name)}", provider=service)
            else:
                add_key(source, None, service, tokens, where)
    return source
