"""Whether the API is alive, and whether it can do its work."""

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import text

from api import problems
from momalisa.database import transaction
from momalisa.errors import StoreUnavailableError

router = APIRouter(tags=["Health"])


class Health(BaseModel):
    """All is well."""

    status: str = Field("ok", examples=["ok"])


@router.get("/healthz", summary="Is the process alive?")
def healthz() -> Health:
    """Answer as long as the process does."""
    return Health()


@router.get(
    "/readyz",
    summary="Can walks be taken?",
    responses=problems.responses(StoreUnavailableError),
)
def readyz() -> Health:
    """Answer 200 while the database can be reached; the broker is not needed to take a walk."""
    with transaction() as session:
        session.execute(text("SELECT 1"))
    return Health()
