"""The operations of signing in with a browser: of devices, and by OpenID providers."""

from __future__ import annotations

from pulsar_relay import sign_in_answers as answers
from pulsar_relay import sign_in_schemas as schemas
from pulsar_relay.operation import STORE, Operation, Reply

TAG = "sign in"
_HTML = "text/html"
_LIMITED = ("rate_limited", *STORE)
_PAGE = {
    200: Reply("The page.", media_type=_HTML),
    404: Reply("A page that says that no device waits with this code.", media_type=_HTML),
    503: Reply("A page that says that the relay cannot tell now.", media_type=_HTML),
}


def sign_in_operations() -> tuple[Operation, ...]:
    return (*_device(), *_pages(), *_providers())


def _device() -> tuple[Operation, ...]:
    refused = Reply("An error of OAuth.", answers.DeviceErrorAnswer)
    return (
        Operation(
            "/auth/device/code",
            ("POST",),
            TAG,
            "Ask for codes (device)",
            "For a program without a browser: it shows the user code, and asks with the device code until "
            "somebody has let it in.",
            {200: Reply("The codes.", answers.DeviceCodeAnswer), 400: refused},
            form=schemas.DeviceCodeForm,
            errors=("invalid_request", "overloaded", *_LIMITED),
        ),
        Operation(
            "/auth/device/token",
            ("POST",),
            TAG,
            "Ask whether one is let in (device)",
            "Not more often than the interval. Tokens are given once.",
            {200: Reply("It is let in.", answers.DeviceTokenAnswer), 400: refused},
            form=schemas.DeviceTokenForm,
            errors=("invalid_request", *STORE),
        ),
        Operation(
            "/auth/device/deny",
            ("POST",),
            TAG,
            "Refuse a device",
            "Whoever has its user code can be rid of it.",
            {200: Reply("It is refused.", answers.DeniedAnswer)},
            form=schemas.UserCodeForm,
            errors=("invalid_request", "user_code_unknown", "cross_site", *_LIMITED),
        ),
    )


def _pages() -> tuple[Operation, ...]:
    about = "For people with a browser: a code, who they are, and whether the device is theirs."
    page = Operation(
        "/auth/device",
        ("GET",),
        TAG,
        "Let a device in",
        about,
        _PAGE,
        query=schemas.UserCodeQuery,
        errors=_LIMITED,
    )
    sign_in = Operation(
        "/auth/device/sign-in",
        ("POST",),
        TAG,
        "Sign in to let a device in",
        "The form of the page, with a password. Only with the cookie of the page.",
        {**_PAGE, 401: Reply("The page, which says what was wrong.", media_type=_HTML)},
        form=schemas.DeviceSignInForm,
        errors=("invalid_request", "cross_site", "user_inactive", "login_backoff", *_LIMITED),
    )
    decide = Operation(
        "/auth/device/decision",
        ("POST",),
        TAG,
        "Decide about a device",
        "The form of the page that asks whether it is to be let in. Only in the browser that signed in.",
        {200: _PAGE[200], 503: _PAGE[503]},
        form=schemas.DecisionForm,
        errors=(
            *("invalid_request", "cross_site", "sign_in_expired", "device_gone"),
            *("user_inactive", "user_unknown", *_LIMITED),
        ),
    )
    return (page, sign_in, decide)


def _providers() -> tuple[Operation, ...]:
    return (
        Operation(
            "/auth/oidc/providers",
            ("GET",),
            TAG,
            "List the OpenID providers",
            "None, if there are none.",
            {200: Reply("The providers.", answers.ProviderEntry, is_list=True)},
        ),
        Operation(
            "/auth/oidc/{provider}/login",
            ("GET",),
            TAG,
            "Sign in at a provider",
            "For browsers. With a device's user code, the way back leads to the question about it.",
            {302: Reply("The way to the provider.")},
            query=schemas.ProviderLoginQuery,
            errors=("oidc_disabled", "provider_not_found", "provider_unavailable", *_LIMITED),
        ),
        Operation(
            "/auth/oidc/{provider}/callback",
            ("GET",),
            TAG,
            "Come back from a provider",
            "Only in the browser that went, and once. Where a device is to be let in, the answer is a page. "
            "For who accepts `text/html`, errors are pages, too.",
            {200: Reply("Who came back has signed in.", answers.ProviderTokenAnswer)},
            query=schemas.ProviderCallbackQuery,
            errors=(
                *("oidc_disabled", "provider_not_found", "provider_unavailable", "provider_refused"),
                *(
                    "sign_in_expired",
                    "sign_in_invalid",
                    "device_gone",
                    "user_inactive",
                    "name_is_local",
                    *STORE,
                ),
            ),
        ),
    )
