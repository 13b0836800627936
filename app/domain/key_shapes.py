"""The shapes of the keys that providers issue: the one table by which a key is recognised wherever it turns up.

Labels are refused and log lines are redacted by it, a provider is recognised by it, and so is a key that somebody
posted. The shapes are the providers' documented ones, as the public lists of secret scanners collect them (GitHub's
supported secret scanning patterns; gitleaks' default rules). A key without a prefix of its own is found by
``looks_random``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, slots=True)
class KeyShape:
    """The form of one kind of key.

    ``pattern`` matches a whole key; every match holds one of ``marks``, so that a text without them need not be
    searched. ``provider`` is the id under which such a key is stored, "" where several providers share the shape or
    the key is no provider's.
    """

    provider: str
    marks: tuple[str, ...]
    pattern: str

    @property
    def within_text(self) -> str:
        """The pattern for a search in a longer text, with `re.ASCII`: a key does not begin inside a word."""
        return rf"(?<![A-Za-z0-9])(?:{self.pattern})"


@cache
def compiled(pattern: str, flags: int) -> re.Pattern[str]:
    """A pattern of a table, compiled when it is first needed: no start and no command waits for the whole table."""
    return re.compile(pattern, flags)


_TAIL: Final = r"[\w-]{16,}"

SHAPES: Final[tuple[KeyShape, ...]] = (
    # -- models ------------------------------------------------------------------------------------------------------
    KeyShape("anthropic", ("sk-ant-",), rf"sk-ant-{_TAIL}"),
    KeyShape("openrouter", ("sk-or-",), rf"sk-or-{_TAIL}"),
    KeyShape(
        "openai", ("sk-proj-", "sk-svcacct-", "sk-admin-", "sk-none-"), rf"sk-(?:proj|svcacct|admin|None)-{_TAIL}"
    ),
    KeyShape("openai", ("t3blbkfj",), r"sk-[A-Za-z0-9]{16,}T3BlbkFJ[A-Za-z0-9]{16,}"),
    # OpenAI before projects, DeepSeek, LiteLLM and many more. Words alone may be a label: "sk-team-production".
    KeyShape("", ("sk-", "pk-"), r"[sp]k-(?:(?=[\w-]*[0-9])[\w-]{16,}|[A-Za-z]{16,})"),
    KeyShape("groq", ("gsk_",), r"gsk_\w{16,}"),
    KeyShape("gemini", ("aiza",), r"AIza[\w-]{30,}"),
    KeyShape("xai", ("xai-",), r"xai-[\w-]{16,}"),
    KeyShape("perplexity", ("pplx-",), r"pplx-\w{16,}"),
    KeyShape("huggingface", ("hf_", "api_org_"), r"(?:hf|api_org)_[A-Za-z0-9]{16,}"),
    KeyShape("replicate", ("r8_",), r"r8_\w{30,}"),
    KeyShape("nvidia", ("nvapi-",), r"nvapi-[\w-]{30,}"),
    KeyShape("cerebras", ("csk-",), r"csk-[a-z0-9]{30,}"),
    KeyShape("fireworks", ("fw_",), r"fw_[A-Za-z0-9]{20,}"),
    KeyShape("together", ("tgp_v1_",), r"tgp_v1_[\w-]{30,}"),
    KeyShape("elevenlabs", ("sk_",), r"sk_[0-9a-f]{40,}"),
    KeyShape("langsmith", ("lsv2_",), r"lsv2_(?:pt|sk)_\w{30,}"),
    KeyShape("langfuse", ("k-lf-",), r"[sp]k-lf-[\w-]{30,}"),
    KeyShape("pinecone", ("pcsk_",), r"pcsk_\w{30,}"),
    KeyShape("tavily", ("tvly-",), r"tvly-[\w-]{16,}"),
    KeyShape("voyage", ("pa-",), r"pa-[A-Za-z0-9_-]{40,}"),
    KeyShape("e2b", ("e2b_",), r"e2b_[0-9a-f]{30,}"),
    # -- code and packages -------------------------------------------------------------------------------------------
    KeyShape("github", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_\w{16,}"),
    KeyShape("github", ("github_pat_",), r"github_pat_\w{16,}"),
    KeyShape("gitlab", ("gl",), r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat|ffct|wt)-[\w.-]{16,}"),
    KeyShape("bitbucket", ("atbb",), r"ATBB[A-Za-z0-9]{24,}"),
    KeyShape("atlassian", ("atatt3", "atctt3"), r"AT[AC]TT3[\w=-]{40,}"),
    KeyShape("npm", ("npm_",), r"npm_[A-Za-z0-9]{30,}"),
    KeyShape("pypi", ("pypi-",), r"pypi-[\w-]{50,}"),
    KeyShape("rubygems", ("rubygems_",), r"rubygems_[0-9a-f]{40,}"),
    KeyShape("docker", ("dckr_",), r"dckr_(?:pat|oat)_[\w-]{20,}"),
    KeyShape("nuget", ("oy2",), r"oy2[a-z0-9]{43}"),
    KeyShape("circleci", ("ccipat_",), r"CCIPAT_\w{30,}"),
    KeyShape("postman", ("pmak-",), r"PMAK-[0-9a-f]{20,}-[0-9a-f]{30,}"),
    KeyShape("sonarqube", ("squ_", "sqp_", "sqa_"), r"sq[upa]_[0-9a-f]{40}"),
    # -- messages ----------------------------------------------------------------------------------------------------
    # A bot's token: the id in base64, a time, an HMAC.
    KeyShape("discord", (".",), r"(?<![\w-])[\w-]{22,30}\.[\w-]{6,7}\.[\w-]{27,}"),
    KeyShape("discord", ("webhooks/",), r"webhooks/\d{17,20}/[\w-]{40,}"),
    KeyShape("slack", ("xox", "xapp"), r"(?:xox[a-z]|xapp)(?:\.[a-z]+)?-[\w.-]{8,}"),
    KeyShape("slack", ("hooks.slack.com",), r"hooks\.slack\.com/(?:services|workflows)/\w{8,}/[\w/]{16,}"),
    KeyShape("telegram", (":aa",), r"(?<!\d)\d{8,10}:AA[\w-]{32,}"),
    KeyShape("sendgrid", ("sg.",), r"SG\.[\w-]{16,}\.[\w-]{16,}"),
    KeyShape("mailgun", ("key-",), r"key-[0-9a-f]{32}"),
    KeyShape("mailchimp", ("-us",), r"[0-9a-f]{32}-us\d{1,2}"),
    KeyShape("brevo", ("xkeysib-",), r"xkeysib-[\w-]{40,}"),
    KeyShape("resend", ("re_",), r"re_[A-Za-z0-9]{6,}_[A-Za-z0-9]{16,}"),
    KeyShape("twilio", ("sk",), r"SK[0-9a-f]{32}"),
    # -- clouds ------------------------------------------------------------------------------------------------------
    KeyShape("aws", ("akia", "asia"), r"(?:AKIA|ASIA)[0-9A-Z]{16}"),
    KeyShape("google", ("ya29.",), r"ya29\.[\w-]{20,}"),
    KeyShape("google", ("gocspx-",), r"GOCSPX-[\w-]{20,}"),
    KeyShape("azure", ("accountkey=", "sharedaccesskey="), r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{32,}=*"),
    KeyShape("digitalocean", ("_v1_",), r"do[opr]_v1_[0-9a-f]{40,}"),
    KeyShape("heroku", ("hrku-",), r"HRKU-[\w-]{30,}"),
    KeyShape("fly", ("fm1", "fm2", "fo1"), r"f(?:m1[ar]|m2|o1)_[\w+/=-]{30,}"),
    KeyShape("netlify", ("nfp_",), r"nfp_\w{30,}"),
    KeyShape("supabase", ("sbp_", "sb_secret_"), r"(?:sbp_[0-9a-f]{40}|sb_secret_[\w-]{20,})"),
    KeyShape("planetscale", ("pscale_",), r"pscale_(?:tkn|pw|oauth)_[\w.-]{30,}"),
    KeyShape("alibaba", ("ltai",), r"LTAI[A-Za-z0-9]{16,}"),
    KeyShape("tencent", ("akid",), r"AKID[A-Za-z0-9]{30,}"),
    KeyShape("scaleway", ("scw",), r"SCW[A-Z0-9]{17}"),
    KeyShape("doppler", ("dp.",), r"dp\.(?:pt|st|ct|sa|scim|audit)\.[\w.-]{30,}"),
    KeyShape("vault", ("hvs.", "hvb.", "hvr."), r"hv[sbr]\.[\w-]{20,}"),
    KeyShape("terraform", (".atlasv1.",), r"[A-Za-z0-9]{14}\.atlasv1\.[\w-]{40,}"),
    KeyShape("pulumi", ("pul-",), r"pul-[0-9a-f]{40}"),
    KeyShape("tailscale", ("tskey-",), r"tskey-[a-z]+-[\w-]{16,}"),
    KeyShape("databricks", ("dapi",), r"dapi[0-9a-f]{32}"),
    # -- money and shops ---------------------------------------------------------------------------------------------
    KeyShape("stripe", ("_live_", "_test_"), r"[spr]k_(?:live|test)_\w{10,}"),
    KeyShape("stripe", ("whsec_",), r"whsec_[A-Za-z0-9+/=]{24,}"),
    KeyShape("square", ("sq0",), r"sq0[a-z]{3}-[\w-]{22,}"),
    KeyShape("square", ("eaaa",), r"EAAA[\w-]{56,}"),
    KeyShape("shopify", ("shp",), r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{30,}"),
    KeyShape("plaid", ("access-",), r"access-(?:sandbox|development|production)-[0-9a-f-]{36}"),
    KeyShape("flutterwave", ("flwseck",), r"FLWSECK[\w-]{20,}"),
    KeyShape("shippo", ("shippo_",), r"shippo_(?:live|test)_[0-9a-f]{40}"),
    # -- watching and planning ---------------------------------------------------------------------------------------
    KeyShape("grafana", ("glc_", "glsa_"), r"gl(?:c|sa)_[\w+/=]{30,}"),
    KeyShape("sentry", ("sntry",), r"sntry[su]_[\w+/=-]{40,}"),
    KeyShape("newrelic", ("nr",), r"NR(?:AK|II|JS|RA)-[\w]{19,}"),
    KeyShape("dynatrace", ("dt0",), r"dt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64}"),
    KeyShape("linear", ("lin_",), r"lin_(?:api|oauth)_[A-Za-z0-9]{30,}"),
    KeyShape("notion", ("ntn_", "secret_"), r"(?:ntn|secret)_[A-Za-z0-9]{40,}"),
    KeyShape("figma", ("figd_",), r"figd_[\w-]{30,}"),
    KeyShape("airtable", ("pat",), r"pat[A-Za-z0-9]{14}\.[0-9a-f]{60,}"),
    KeyShape("typeform", ("tfp_",), r"tfp_[\w.-]{40,}"),
    KeyShape("contentful", ("cfpat-",), r"CFPAT-[\w-]{40,}"),
    KeyShape(
        "launchdarkly", ("sdk-", "api-"), r"(?:sdk|api)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    ),
    KeyShape("mapbox", ("sk.eyj",), r"sk\.eyJ[\w-]{20,}\.[\w-]{16,}"),
    KeyShape("buildkite", ("bkua_",), r"bkua_[0-9a-f]{40}"),
    KeyShape("readme", ("rdme_",), r"rdme_[a-z0-9]{60,}"),
    KeyShape("1password", ("ops_eyj",), r"ops_eyJ[\w=-]{40,}"),
    # -- no provider's -----------------------------------------------------------------------------------------------
    KeyShape("", ("eyj",), r"eyJ[\w-]{4,}\.[\w-]+\.[\w-]*"),  # a JSON Web Token
    KeyShape("", ("gaaaa",), r"gAAAA[\w-]{40,}={0,2}"),  # a Fernet token
    KeyShape("", ("kh",), r"kh[cdlrs]?_[\w-]{16,}"),  # Keyhall's own
    KeyShape("", ("age-secret-key-",), r"AGE-SECRET-KEY-1[0-9A-Z]{20,}"),
)

_PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")
_PASSWORD_IN_ADDRESS: Final = re.compile(r"://[^\s/:@]*:[^\s/@]+@")


def find_key(text: str) -> str | None:
    """The first key of a known shape in a text."""
    return next((found[0] for _, pattern in _possible(text) if (found := pattern.search(text))), None)


def provider_of(secret: str) -> str | None:
    """The id of the provider that issues keys of the shape of this whole secret; None where none is known."""
    return next(
        (each.provider for each, pattern in _possible(secret) if each.provider and pattern.fullmatch(secret)), None
    )


def _possible(text: str) -> Iterator[tuple[KeyShape, re.Pattern[str]]]:
    lowered = text.lower()
    for shape in SHAPES:
        if any(mark in lowered for mark in shape.marks):
            yield shape, compiled(shape.within_text, re.ASCII)


def looks_like_key(text: str) -> bool:
    """Whether a key is in a text: one of a known shape, a run that looks random, or a password in an address."""
    known = find_key(text) or _PRIVATE_KEY.search(text) or _PASSWORD_IN_ADDRESS.search(text)
    return bool(known) or looks_random(text)


# ---------------------------------------------------------------------------------------------------------------------
# Keys without a prefix
# ---------------------------------------------------------------------------------------------------------------------

_CANDIDATE: Final = re.compile(r"[A-Za-z0-9+/=_-]{20,}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_RUN: Final = re.compile(r"[A-Za-z0-9]{12,}", re.ASCII)
_PIECE: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[A-Z]|[0-9]+", re.ASCII)
_BOUNDARY: Final = re.compile(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}", re.ASCII)


def looks_random(text: str) -> bool:
    """Whether a run of 20 or more characters changes between lower case, capitals and digits as only chance does.

    Names, dates, versions, addresses and identifiers change rarely: ``Production``, ``20241022`` and each word of a
    camel-cased one are one piece, and such pieces have more than three characters on average. Those of random base62
    have less than two. In one case of letters (base36, base32) digits and letters take turns instead, every second or
    third character. Letters of one case alone are never judged random, nor is a UUID, which is a name.
    """
    return any(_is_random(run) for found in _CANDIDATE.findall(_UUID.sub("", text)) for run in _RUN.findall(found))


def _is_random(run: str) -> bool:
    if _HEX.fullmatch(run) and not run.isdigit():
        return True
    average = len(run) / len(_PIECE.findall(run))
    if len(run) < 20:  # part of a longer one, between two of base64url's marks
        return average < 2.2
    return average < 3 or len(_BOUNDARY.findall(run)) >= 5
