# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Pure functions that take secrets out of objects and texts before somebody else reads them.

Three ways lead to a secret, and each is enough:

- its name: what stands behind ``HF_TOKEN``, ``--api-key`` or ``password:``,
- its shape: tokens, keys and headers that look like nothing else,
- its value: what is known to be secret, or was found by its name once, goes wherever it appears.

Where a name or a text may be either, a setting such as ``max-tokens`` stays: a bundle without
settings helps nobody.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any
from urllib.parse import quote

from ansible_collections.llm_d.multi_engine.plugins.module_utils import documents
from ansible_collections.llm_d.multi_engine.plugins.module_utils.manifests import MASK

try:
    from yaml import YAMLError
except ImportError:  # the modules say so in their own words
    YAMLError = ValueError

#: Shorter values are parts of ordinary words; they are only hidden behind their names.
SHORTEST = 8
#: Longer texts are not read as YAML or JSON.
LONGEST_DOCUMENT = 1 << 20

# Names

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: A name that holds one of these, whatever the letters around it.
_STEMS = (
    "passw", "passphrase", "secret", "credential", "apikey", "privatekey", "accesskey", "signingkey", "authkey",
    "dockerconfigjson", "dockercfg",
)  # fmt: skip
#: What makes a key a secret one.
_KEYS = (
    "access", "account", "admin", "api", "auth", "ca", "client", "deploy", "encryption", "hmac", "host", "license",
    "master", "private", "rsa", "server", "service", "session", "shared", "signing", "ssh", "storage", "subscription",
    "tls",
)  # fmt: skip
#: What may follow a key or token that is still the thing itself.
_CONTENT = ("b64", "base", "content", "data", "id", "json", "pem", "string", "txt", "value")
_TOKEN_WORDS = ("token", "accesstoken", "apitoken", "authtoken", "bearertoken", "hftoken", "idtoken", "refreshtoken")
#: Tokens of a language model, and settings about tokens.
_HARMLESS_TOKENS = (
    "a", "added", "audio", "bos", "cached", "cls", "completion", "decode", "draft", "each", "end", "eos", "every",
    "extra", "first", "full", "generated", "image", "input", "inter", "invalid", "last", "mask", "max", "min", "new",
    "next", "no", "num", "of", "output", "pad", "padding", "per", "prefill", "prompt", "queued", "reasoning",
    "running", "sep", "special", "start", "stop", "swa", "text", "think", "thinking", "total", "unexpected", "unk",
    "unknown", "used", "video", "vision",
)  # fmt: skip
#: Tokens in the plural that are secrets all the same.
_SECRET_TOKENS = ("access", "api", "auth", "bearer", "hf", "refresh", "secret", "session")
#: A name that ends so is about a secret, and does not hold it.
_ABOUT = (
    "age", "algorithm", "audience", "class", "count", "dir", "directory", "disabled", "enabled", "expiration",
    "expiry", "file", "files", "format", "kind", "len", "length", "mode", "mount", "name", "names", "namespace",
    "path", "paths", "policy", "provider", "ref", "refs", "required", "rotation", "seconds", "size", "store", "ttl",
    "type", "version",
)  # fmt: skip
_HEADERS = ("authorization", "proxy_authorization", "cookie", "set_cookie")
#: Settings of AWS' tools that say where, not who.
_AWS_PLACES = ("region", "url", "endpoints", "bundle", "mode", "attempts", "profile", "s")


def is_secret_name(name: str) -> bool:
    """Whether what ``name`` stands for is a secret, as far as a name can tell."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words:
        return False
    last, joined = words[-1], "_".join(words)
    if joined in _HEADERS:
        return True
    if words[0] == "aws" and len(words) > 1:
        return last not in _AWS_PLACES and last not in _ABOUT
    # The second is a variable of this collection, and names a Secret.
    if last in _ABOUT or joined.endswith("hf_token_secret"):
        return False
    if any(stem in joined.replace("_", "") for stem in _STEMS):
        return True
    return _is_secret_key(words) or _is_secret_token(words) or _is_password(name, words)


def _is_secret_key(words: list[str]) -> bool:
    for place, word in enumerate(words):
        if word in ("key", "keys") and place and words[place - 1] in _KEYS:
            return all(follower in _CONTENT for follower in words[place + 1 :])
    return False


def _is_secret_token(words: list[str]) -> bool:
    for place, word in enumerate(words):
        before = words[place - 1] if place else ""
        rest = all(follower in _CONTENT for follower in words[place + 1 :])
        if word in _TOKEN_WORDS and rest and before not in _HARMLESS_TOKENS:
            # token_id is a number of a vocabulary.
            return "id" not in words[place + 1 :]
        if word == "tokens" and rest and before in _SECRET_TOKENS:
            return True
    return False


def _is_password(name: str, words: list[str]) -> bool:
    """Whether an abbreviation is one of a password: PWD alone is a directory, and forward_pass takes time."""
    if len(words) < 2 or words[0] == "old":
        return False
    return words[-1] == "pwd" or (words[-1] == "pass" and (name.isupper() or words[-2] in ("become", "db", "sudo")))


# Values

_NOTHING = re.compile(r"""(?:none|null|nil|<nil>|true|false|undefined|\*+|"*|'*|\[\]|\{\}|\(\))""", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\([\w.-]+\)|\$\{[\w.-]+\}|\$[A-Z_][A-Z0-9_]*")
_NUMBER = re.compile(r"[-+]?[\d.,_]{1,12}(?:e[-+]?\d+)?[a-z%/]{0,3}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


def is_harmless(name: str, value: str) -> bool:
    """Whether ``value`` is none, a reference to another variable, or a count of tokens."""
    value = value.strip()
    if value.startswith(MASK[:-1]) or _NOTHING.fullmatch(value) or _REFERENCE.fullmatch(value):
        return True
    words = [word.lower() for word in _WORD.findall(name)]
    if not (words and words[-1] in ("token", "tokens")):
        return False
    return bool(_NUMBER.fullmatch(value))


def is_opaque(value: str) -> bool:
    """Whether ``value`` is so unlike a word or a name that it can be looked for everywhere."""
    if _UUID.fullmatch(value):
        return True
    if len(value) < 12 or re.search(r"\s", value) or not re.search(r"\d", value):
        return False
    mixed = re.search(r"[a-z]", value) and re.search(r"[A-Z]", value)
    return bool(mixed or (re.search(r"[A-Za-z]", value) and not re.search(r"[-./:]", value)))


def secret_values(secret: dict) -> set[str]:
    """Return what is to be hidden of a Secret's data; certificates and namespaces are public."""
    values: set[str] = set()
    for field in ("data", "stringData"):
        for key, content in (secret.get(field) or {}).items():
            text = _decoded(content) if field == "data" else str(content)
            if text and not _is_public(secret.get("type", ""), key, text):
                values |= {text, *_parts(text)}
    return values


def _decoded(content: str) -> str:
    try:
        return base64.b64decode(content, validate=True).decode(errors="replace")
    except (binascii.Error, ValueError):
        return str(content)


def _is_public(kind: str, key: str, text: str) -> bool:
    if kind == "kubernetes.io/service-account-token":
        return key != "token"
    return "-----BEGIN CERTIFICATE" in text and "PRIVATE KEY" not in text


def _parts(text: str) -> set[str]:
    """Return the secrets inside of a file: they may be elsewhere without it."""
    found = {part for part in re.split(r"[\s\"'=,;]+", text) if is_opaque(part)} if "\n" in text else set()
    parsed = _parsed(text)
    return found | {leaf for leaf in _leaves(parsed) if is_opaque(leaf)} if parsed else found


def _leaves(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set().union(*map(_leaves, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(_leaves, value)) if value else set()
    return {value} if isinstance(value, str) else set()


def _parsed(text: str) -> list | None:
    """Return the YAML or JSON documents of ``text``, where it is a file of them."""
    alias = re.search(r"(?:^|[\s\[{,])\*\w", text)  # may stand for any number of copies
    if len(text) > LONGEST_DOCUMENT or alias or not ("\n" in text or text.lstrip()[:1] in "{["):
        return None
    try:
        parsed = documents.load(text)
    except (YAMLError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    return parsed if any(isinstance(document, (dict, list)) for document in parsed) else None


def forms(value: str) -> set[str]:
    """Return ``value`` as it may be written: as it is, escaped, and inside of base64."""
    found = {value, value.strip(), json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found |= {repr(value)[1:-1], quote(value), quote(value, safe=""), json.dumps(json.dumps(value)[1:-1])[1:-1]}
    data = value.encode()
    found.add(base64.b64encode(data).decode())
    # Behind a user's name and a colon, say, its letters begin at another place of base64's groups of three.
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        # The letters at both ends are made of its neighbours' bits too.
        first = (8 * before + 5) // 6
        last = (8 * (before + len(data))) // 6
        found |= {encoded[first:last], encoded[first:last].replace("+", "-").replace("/", "_")}
    return {form for form in found if len(form) >= SHORTEST}


# Shapes

_QUOTE = r"\\*[\"']"
_OPEN = r"(?:[ \t\[\\\"']|\((?!hidden)|b(?=[\"']))*"
_HIDDEN = r"\(hidden[^()\n]*\)"
_PEM = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_PEM_END = re.compile(r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_PEM_LINE = re.compile(r"(?:\d{4}-\S+Z )?[ \t|]*[A-Za-z0-9+/=]{1,76}[ \t\r]*")
_PEM_BASE64 = re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/_=-]{30,}")
#: What can stand before a token: the start of a word, a byte of a URL, or an escaped end of a line.
_START = r"(?:(?<![A-Za-z0-9_-])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt]))"
_TOKENS = re.compile(
    _START + r"(?:"
    r"eyJ[\w-]{10,}(?:\.[\w-]*)+"  # JSON web tokens
    r"|hf_(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{16,}"
    r"|api_org_[A-Za-z0-9]{16,}"
    r"|sk-(?=[\w-]*[0-9A-Z])[\w-]{16,}"
    r"|(?:gh[opsu]|github_pat|glpat|dckr_pat|npm|xox[abeoprs]|nvapi|hvs|hvb|tvly|pplx|gsk)[_.-](?=[\w-]*[0-9A-Z])[\w-]{16,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[\w-]{30,}"
    r"|ya29\.[\w-]{16,}"
    r")"
)
_URL = re.compile(r"(?<![A-Za-z0-9])([A-Za-z][A-Za-z0-9+.-]{1,20}://)([^\s/?#\"'<>]{1,512})@(?!sha(?:256|512):)")
_QUERY = re.compile(r"([?&](?:sig|signature|x-amz-signature|policy)=)[^&\s\"'<>]+", re.IGNORECASE)
_AUTHORIZATION = re.compile(
    r"((?:proxy-)?authorization(?:[ \t]*[:=]+|" + _QUOTE + r"[ \t]*[:=,])" + _OPEN + r""
    r"(?:(?:bearer|basic|token|negotiate|apikey)[ \t]+)?)"
    r"((?:digest|aws4-hmac-sha256)[ \t][^\n]*|" + _HIDDEN + r"|[^\s\"',;}\])\\]+)",
    re.IGNORECASE,
)
_COOKIE = re.compile(r"((?<![\w-])(?:set-)?cookie" + _QUOTE + r"?[ \t]*[:=]" + _OPEN + r")([^\n\"'\\]+)", re.IGNORECASE)
_SCHEME = re.compile(r"(\b(?:bearer|basic)[ \t]+)(?=\S*[0-9=]|\S+?(?-i:[A-Z]))([\w.~+/=-]{8,})", re.IGNORECASE)

# Names and values in texts

_SOME = r"(?:tok|sec|pass|pwd|cred|key|docker|aws|auth|cookie)"
_NAME_START = r"(?:(?<![\w.%-])|(?<=%[0-9A-Fa-f]{2}))"
_NAME = r"[\w.-]{0,64}?" + _SOME + r"[\w.-]{0,64}"
_QUOTED = r"(?P<quote>[bruBRU]?\\*[\"'])(?P<inner>[^\n]*?)(?<!\\)(?P=quote)"
_CALL = r"[A-Za-z_][\w.]*\([^()\n]*\)"
_LIST = r"\[[^\[\]\n]*\]"
_BARE = r"(?:[^\s,;&)}\]\"']|[\"'](?![\s,;&)}\]:]|\Z))+"
_VALUE = (
    r"(?P<value>"
    + _HIDDEN
    + r"|"
    + _QUOTED
    + r"|\$\([\w.-]+\)|\$\{[\w.-]+\}|"
    + _CALL
    + r"|"
    + _LIST
    + r"|"
    + _BARE
    + r")"
)
_PAIR = re.compile(
    r"(?P<head>"
    + _NAME_START
    + r"(?P<name>"
    + _NAME
    + r")(?:"
    + _QUOTE
    + r")?\]?[ \t]*(?:=>|[:=]{1,2}|%3[AaDd])[ \t]*)"
    + _VALUE,
    re.IGNORECASE,
)
#: Kubernetes says: volume "token" : secret not found
_PROSE = re.compile(_QUOTE + r"[ \t]+:[ \t]*$")
#: A line that is nothing but a name and its value, which may hold anything.
_LINE = re.compile(
    r"^(?P<head>(?:\d{4}-\d\d-\d\dT\S+Z )?[ \t]*(?:- )?(?:export |set |ENV )?(?P<name>" + _NAME + r")[ \t]*[:=][ \t]*)"
    r"(?P<value>[^\s\"'\[{|>&!][^\n]*)$",
    re.IGNORECASE | re.MULTILINE,
)
_BLOCK = re.compile(
    r"^(?P<head>(?P<indent>[ \t]*)(?:- )?(?P<name>" + _NAME + r"):[ \t]*[|>][-+\d]*[ \t]*\n)"
    r"(?P<value>(?:(?P=indent)[ \t]+[^\n]*(?:\n|\Z)|[ \t]*\n)+)",
    re.IGNORECASE | re.MULTILINE,
)
#: --api-key X, also as two items of a list.
_FLAG = re.compile(
    r"(?P<head>(?<![\w./-])(?P<name>--?" + _NAME + r")"
    r"(?:[ \t]+|" + _QUOTE + r"[ \t]*,?\s*(?:-[ \t]+)?(?=[\"'\\])|[ \t]*\n[ \t]*-[ \t]+))(?!-)" + _VALUE,
    re.IGNORECASE,
)
#: - name: HF_TOKEN
#:   value: X
_ENTRY = re.compile(
    r"(?P<head>\bname(?:"
    + _QUOTE
    + r")?[ \t]*[:=][ \t]*(?:"
    + _QUOTE
    + r")?(?P<name>"
    + _NAME
    + r")(?:"
    + _QUOTE
    + r")?"
    r"[ \t]*[,;]?\s*(?:" + _QUOTE + r")?value(?:" + _QUOTE + r")?[ \t]*[:=][ \t]*)" + _VALUE,
    re.IGNORECASE,
)


class Redactor:
    """Hides what is secret, and remembers it, to hide it in what comes later too.

    :param values: what is known to be secret.
    :param public: names that are no secrets although a Secret may hold them, such as namespaces.
    """

    def __init__(self, values=(), public=()) -> None:
        self._public = set(public)
        self._forms: list[str] = []
        self._known: set[str] = set()
        self.know(values)

    def know(self, values) -> None:
        """Hide ``values`` from now on wherever they appear."""
        new = {
            value for value in map(str, values) if len(value.strip()) >= SHORTEST and value.strip() not in self._public
        }
        if new <= self._known:
            return
        self._known |= new
        every = set(self._forms).union(*map(forms, new))
        # Longer ones first, for one may be part of another.
        self._forms = sorted(every, key=lambda form: (-len(form), form))

    def leaks(self, text: str) -> bool:
        """Whether a known value is in ``text``, as it is or broken over lines."""
        joined = " ".join(text.split())
        return any(form in text or form in joined for form in self._forms)

    def scrub(self, text: str) -> str:
        """Return ``text`` without known values."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def text(self, text: str) -> str:
        """Return a text without secrets: of a log, an event, a file, or one value of an object."""
        text = _without_private_keys(self.scrub(text))
        text = _TOKENS.sub(self._learn_all, text)
        text = _URL.sub(rf"\1{MASK}@", text)
        text = _QUERY.sub(rf"\1{MASK}", text)
        text = _AUTHORIZATION.sub(self._learn_second, text)
        text = _COOKIE.sub(self._learn_second, text)
        text = _SCHEME.sub(self._learn_second, text)
        for pattern in (_BLOCK, _ENTRY, _FLAG, _LINE, _PAIR):
            text = pattern.sub(self._named, text)
        # What was just learned may stand in front of where it was.
        return self.scrub(text)

    def value(self, value: Any) -> Any:
        """Return plain data without secrets."""
        if isinstance(value, dict):
            return self._dict(value)
        if isinstance(value, list):
            return self._list(value)
        if isinstance(value, str):
            return self._str(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and str(value) in self._known:
            return MASK
        return value

    def object(self, item: dict) -> dict:
        """Return a Kubernetes object without secrets and bookkeeping; of a Secret its keys and their sizes."""
        item = {key: value for key, value in item.items() if item.get("kind") != "Secret" or key not in _SECRET_FIELDS}
        metadata = dict(item.get("metadata") or {})
        if "managedFields" in metadata:
            metadata["managedFields"] = [_manager(entry) for entry in metadata["managedFields"] or []]
        annotations = metadata.get("annotations") or {}
        applied = {key: MASK for key in annotations if key.endswith("last-applied-configuration")}
        if applied:
            metadata["annotations"] = {**annotations, **applied}
        return self.value({**item, "metadata": metadata})

    def secret(self, item: dict) -> dict:
        """Return a Secret with the sizes of its values in their place."""
        shown = self.object({**item, "kind": "Secret"})
        shown["data"] = {
            key: f"{MASK[:-1]}, {len(_bytes(content))} bytes)" for key, content in (item.get("data") or {}).items()
        }
        return shown

    def _dict(self, mapping: dict) -> dict:
        named = mapping.get("name")
        # An entry of an environment or a header.
        entry = isinstance(named, str) and is_secret_name(named)
        return {
            (self.text(key) if isinstance(key, str) else key): self._of(
                named if entry and key == "value" else key, value
            )
            for key, value in mapping.items()
        }

    def _of(self, name: Any, value: Any) -> Any:
        """Return the value of ``name``."""
        if not isinstance(name, str) or not is_secret_name(name):
            return self.value(value)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return value if is_harmless(name, str(value)) else self._hide(str(value))
        if isinstance(value, list):
            return [self._of(name, item) if not isinstance(item, dict) else self.value(item) for item in value]
        if isinstance(value, dict):
            inner = {key: self._of(name, value[key]) for key in _INNER if isinstance(value.get(key), str)}
            return {**self.value(value), **inner}
        return value

    def _list(self, items: list) -> list:
        """Return a list's items; one may be a flag whose values follow it."""
        result, flag = [], ""
        for item in items:
            if not isinstance(item, str):
                flag = ""
                result.append(self.value(item))
            elif item.startswith("-"):
                flag = item if "=" not in item and is_secret_name(item) else ""
                result.append(self._str(item))
            else:
                result.append(self._of(flag, item) if flag else self._str(item))
        return result

    def _str(self, text: str) -> str:
        parsed = _parsed(text)
        if parsed:
            hidden = self.value(parsed)
            if hidden != parsed:
                text = _written(hidden, text)
        return self.text(text)

    def _hide(self, value: str) -> str:
        self._learn(value)
        return MASK

    def _learn(self, value: str) -> None:
        if is_opaque(value):
            self.know([value])

    def _learn_all(self, match: re.Match) -> str:
        return self._hide(match[0])

    def _learn_second(self, match: re.Match) -> str:
        if match[2].startswith(MASK[:-1]):
            return match[0]
        return match[1] + self._hide(match[2])

    def _named(self, match: re.Match) -> str:
        """Return a pair of name and value without the value."""
        name, value = match["name"], match["value"]
        if not is_secret_name(name):
            return match[0]
        if not match.groupdict().get("quote") and _PROSE.search(match["head"]):
            return match[0]
        mark = match.groupdict().get("quote")
        inner = match["inner"] if mark else value
        first = re.split(r"[\s,]", inner.strip(), maxsplit=1)[0]
        if is_harmless(name, inner) or (match.re is _LINE and is_harmless(name, first)) or _placeholder(name, inner):
            return match[0]
        if mark:
            return f"{match['head']}{mark}{self._hide(inner)}{mark.lstrip('bruBRU')}"
        if match.re is _BLOCK:
            return f"{match['head']}{match['indent']}  {MASK}\n"
        for part in re.findall(r"[^\s\"'\[\](),]+", value):
            self._learn(part)
        return match["head"] + self._hide(value)


_SECRET_FIELDS = ("data", "stringData")
#: Keys under a secret's name that hold it.
_INNER = ("value", "data", "string", "inline", "plaintext")


def _bytes(content: Any) -> bytes:
    try:
        return base64.b64decode(str(content), validate=True)
    except (binascii.Error, ValueError):
        return str(content).encode()


def _manager(entry: dict) -> dict:
    """Return who changed an object and when, without the list of fields, which holds values."""
    return {key: entry[key] for key in ("manager", "operation", "subresource", "time") if key in entry}


def _placeholder(name: str, value: str) -> bool:
    """Whether a text explains a flag: ``--api-key API_KEY``."""
    return value.isupper() and value.strip("[]").replace("_", "-").lower() == name.strip("-").replace("_", "-").lower()


def _written(parsed: list, before: str) -> str:
    """Return documents the way that they were written."""
    if before.lstrip()[:1] in "{[" and len(parsed) == 1:
        return json.dumps(parsed[0], indent=2 if "\n" in before.strip() else None, default=str)
    return documents.dump(parsed, explicit_start=len(parsed) > 1)


def _without_private_keys(text: str) -> str:
    """Return ``text`` without private keys; of one that is cut off at an end, without what is left."""
    if "PRIVATE KEY" in text:
        text = _PEM.sub(MASK, text)
        while True:
            end = _PEM_END.search(text)
            if not end:
                break
            start = text.rfind("\n", 0, end.start()) + 1
            while start:
                line = text.rfind("\n", 0, start - 1) + 1
                if not _PEM_LINE.fullmatch(text[line : start - 1]):
                    break
                start = line
            text = text[:start] + MASK + text[end.end() :]
    return _PEM_BASE64.sub(_without_encoded_key, text)


def _without_encoded_key(match: re.Match) -> str:
    start = base64.b64decode(match[0][:96])
    return match[0] if re.match(rb"-----BEGIN (?:TRUSTED )?(?:CERTIFICATE|PUBLIC KEY)", start) else MASK
