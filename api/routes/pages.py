"""The pages of the website."""

from datetime import UTC, datetime, time, timedelta
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api import access, media
from api.dependencies import Base, Caller, Place
from api.problems import catalog as problems
from api.problems.fields import field_errors
from api.routes.embed import discovery, identifier
from api.routes.walks import submit
from api.schemas import requests, views
from api.web import form, label, templates
from momalisa import description
from momalisa.db.models import Walk
from momalisa.db.session import transaction
from momalisa.domain.spec import MAX_STOPS, SHORT_FORMS
from momalisa.errors import (
    InvalidFieldError,
    LimitExceededError,
    StoreUnavailableError,
    UnauthorizedError,
    WalkExpiredError,
    WalkNotFoundError,
)
from momalisa.queue import catalog, estimate
from momalisa.settings import settings
from momalisa.walks import lineage, queries

router = APIRouter(include_in_schema=False)

SECURITY_TXT_LIFETIME = timedelta(days=180)
"""Time until `security.txt` expires."""

MAX_LENGTH = 100
"""Characters of a walk id."""


def _make_page(
    values: dict[str, Any],
    *,
    errors: dict[str, str] | None = None,
    source: UUID | None = None,
    remixed: views.WalkSummary | None = None,
    settings_: dict[str, Any] | None = None,
    **more: Any,
) -> HTMLResponse:
    choices = _choices()
    names = [choice["name"] for choice in choices]
    if values.get("model") not in names:  # the walk to start from was made with a model that is not here any more
        settings_ = None
        gone = {"model", "size", *(requests.MODEL_CHOOSES if values.get("model") else ())}
        values = {name: value for name, value in values.items() if name not in gone or (errors and name != "model")}
    return templates.page(
        "make.html",
        **{"status": HTTPStatus.OK, **more},
        values={"prompts": ["", ""], "size": "", "model": names[0], **values},
        errors=errors or {},
        source=source or values.get("from_walk"),
        remixed=remixed,
        unfolded=any(name not in {"", "frames"} and not name.startswith("prompts") for name in errors or {}),
        fields=templates.fields(),
        models=choices,
        pairs=templates.pairs(),
        settings=settings_,
    )


def _choices() -> list[dict[str, Any]]:
    """Return the models that the form offers, the default first."""
    try:
        with transaction() as session:
            found = catalog.offered(session).models
            return [templates.choice(model, estimate.pace(session, model.name)) for model in found]
    except StoreUnavailableError:
        return [templates.choice(description.of_settings(), None)]  # the form works without an estimate


@router.get("/")
def home(
    caller: Caller,
    base: Base,
    place: Place,
    source: Annotated[str | None, Query(alias="from", max_length=MAX_LENGTH)] = None,
    to: Annotated[str, Query(max_length=requests.MAX_PROMPT)] = "",
    at: Annotated[int | None, Query(ge=0, lt=MAX_STOPS)] = None,
) -> HTMLResponse:
    """Show the form for a new walk, filled in with the prompts and settings of another walk if `from` names one.

    With `at`, it walks on from that stop of the other walk: from the same picture, to what the visitor names.
    """
    if source is None:
        return _make_page({"prompts": ["", to]} if to else {}, base=base, place=place)
    walk = _walk(source, caller)
    settings_ = {name: value for name, value in walk.spec.model_dump(mode="json").items() if value is not None}
    values = {
        **settings_,
        "model": walk.model,
        "size": f"{walk.spec.width}x{walk.spec.height}",
        "public": walk.public,
    }
    if at is not None and at < len(walk.spec.prompts):
        values |= {"prompts": [walk.spec.prompts[at], ""], "seed": walk.spec.noise(at / walk.spec.legs).start}
    [remixed] = views.summaries([walk], base, viewer=caller.owner)
    settings_["model"] = walk.model
    return _make_page(values, source=walk.id, remixed=remixed, settings_=settings_, base=base, place=place)


async def _sent(request: Request) -> dict[str, list[str]]:
    await media.require(request, media.FORM)
    return form.read(await request.body())


def _request(body: dict[str, Any], viewer: str | None) -> requests.WalkRequest:
    """Return the request of a form, validated.

    The form always sends frames and a seed. For a remix they are left out where they are those of its source, which
    may have lists instead, for its legs and stops, that the form does not show.
    """
    asked = requests.WalkRequest.model_validate(body)
    if asked.from_walk is None:
        return asked
    try:
        with transaction() as session:
            source = queries.get(session, asked.from_walk, viewer=viewer)
    except (WalkNotFoundError, WalkExpiredError):
        return asked  # its submission is refused
    short = {name for names in SHORT_FORMS.values() for name in names}
    same = {name for name in short if getattr(asked, name) == getattr(source.spec, name)}
    return requests.WalkRequest.model_validate({name: value for name, value in body.items() if name not in same})


@router.post("/walks")
def make(
    request: Request,
    response: Response,
    afterwards: BackgroundTasks,
    base: Base,
    caller: Caller,
    sent: Annotated[dict[str, list[str]], Depends(_sent)],
) -> Response:
    """Create the walk of a submitted form, and redirect to it; or show the form again with its errors."""
    body = form.walk_request(sent)
    values = {**{name: last for name, (*_, last) in sent.items()}, "prompts": body["prompts"][:MAX_STOPS]}
    values["public"] = body.get("public", False)
    try:
        walk_request = _request(body, caller.owner)
        owner = access.submitter(caller)
        walk, _ = submit(walk_request, request, response, afterwards, base, owner)
    except (ValidationError, RequestValidationError) as error:
        sent_to_model = isinstance(error, RequestValidationError)  # which names the body first
        items = ({**item, "loc": item["loc"][sent_to_model:]} for item in error.errors())
        found = {item.field: item.message for item in field_errors(items)}
        return _make_page(values, errors=found, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    except InvalidFieldError as error:
        return _make_page(values, errors={error.field: error.message}, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    except LimitExceededError as error:
        found = {"": f"{error} Try again in {error.retry_after} seconds; your words stay here."}
        return _make_page(values, errors=found, status=problems.of(error).status)
    except UnauthorizedError as error:
        return _make_page(values, errors={"": str(error)}, status=problems.of(error).status)
    redirect = RedirectResponse(walk.urls.web, status_code=HTTPStatus.SEE_OTHER)
    for cookie in response.headers.getlist("set-cookie"):
        redirect.headers.append("set-cookie", cookie)
    return redirect


@router.get("/walks")
def walks() -> RedirectResponse:
    """Redirect visitors who shorten the address of a walk, or reload the page of a refused form."""
    return RedirectResponse("/gallery", status_code=HTTPStatus.PERMANENT_REDIRECT)


def _walk(walk_id: str, caller: access.Caller) -> Walk:
    with transaction() as session:
        return queries.get(session, identifier(walk_id), viewer=caller.owner)


@router.get("/walks/{walk_id}")
def walk(walk_id: str, base: Base, caller: Caller) -> HTMLResponse:
    """Show a walk, with previews for chats and search engines; the browser then follows its progress."""
    found = _walk(walk_id, caller)
    with transaction() as session:
        ahead = estimate.estimate(session, found)
        ancestry = lineage.of(session, found, viewer=caller.owner)
    seen = views.view(found, ahead, base, viewer=caller.owner)
    links = discovery(seen.urls.web, base) if seen.public and found.hidden_at is None else {}
    return templates.page(
        "walk.html",
        walk=seen,
        view=seen.model_dump(mode="json"),
        lineage=ancestry,
        facts=label.facts(seen),
        kilobytes=label.kilobytes,
        discovery=links,
        hidden=found.hidden_at is not None,
    )


@router.get("/about")
def about(base: Base, place: Place) -> HTMLResponse:
    """Explain what a latent walk is."""
    return templates.page("about.html", base=base, place=place, long_walk=templates.long_walk())


@router.get("/.well-known/security.txt")
def security_txt(base: Base) -> PlainTextResponse:
    """Return the security contact (RFC 9116), if SECURITY_CONTACT is set."""
    if settings().security_contact is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    today = datetime.combine(datetime.now(UTC), time(), UTC)
    fields = {
        "Contact": settings().security_contact,
        "Expires": f"{today + SECURITY_TXT_LIFETIME:%Y-%m-%dT%H:%M:%SZ}",
        "Preferred-Languages": "en",
    }
    if base:
        fields["Canonical"] = f"{base}/.well-known/security.txt"
    return PlainTextResponse("".join(f"{name}: {value}\n" for name, value in fields.items()))


@router.get("/favicon.ico")
def favicon() -> RedirectResponse:
    """Redirect browsers that request the icon at its default path."""
    return RedirectResponse("/static/favicon.svg", status_code=308)
